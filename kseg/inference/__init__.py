"""Inference: loads trained models, predicts, evaluates and writes the results."""
