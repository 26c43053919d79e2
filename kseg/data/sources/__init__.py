"""Data sources: COCO, folders of label images, TensorFlow Datasets, plain image files."""
