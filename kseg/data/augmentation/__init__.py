"""Augmentation with albumentations: presets.py, transforms given as text or files, and the augmenter that applies them.

To add a preset, write a function in presets.py from the input size (height, width) to a list of albumentations transforms, and
decorate it with `@PRESETS.register()`. `--augment=NAME` then finds it by the function's name. elastic.py is a faster transform.
"""

import os

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # before albumentations is imported, which would ask for newer versions
