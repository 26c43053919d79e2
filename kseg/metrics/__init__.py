"""Metrics: confusion matrix, mIoU, boundary IoU and calibration."""
