"""Exports: StableHLO, SavedModel and ONNX."""
