"""Trained models for programs without kseg: StableHLO, SavedModel, ONNX."""
