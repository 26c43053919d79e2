"""Exports models as StableHLO, SavedModel and ONNX."""
