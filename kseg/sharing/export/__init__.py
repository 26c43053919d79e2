"""Exports models as StableHLO, SavedModel, ONNX, OpenVINO and LiteRT."""
