"""Metrics: confusion matrix, scores such as mIoU and their confidence intervals, boundary IoU, calibration."""
