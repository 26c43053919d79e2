"""Augmentation: presets, transforms by text, and the augmenter that applies them."""
