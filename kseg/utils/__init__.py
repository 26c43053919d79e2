"""Small helpers that know nothing of segmentation."""
