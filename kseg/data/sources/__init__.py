"""Data sources, one file each. Every file of this folder registers what it defines.

To add one, write a file here with

- a class with the attributes and methods of kseg.data.dataset.Dataset,
- a function `open_NAME(config: DataConfig, split: str)` that builds it, decorated with `@register_dataset("NAME")`.

`--dataset=NAME` then finds it. Flags of its own are fields of kseg.config.DataConfig; kseg.config.data_sources.READ_BY names the
sources that read them.
image_files.py is for prediction: images without labels.
"""

from kseg.utils.registry import import_modules

import_modules(__name__)
