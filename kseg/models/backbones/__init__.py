"""Backbones, one file per family. Every file of this folder is imported and registers its backbones.

A backbone maps normalised images [B, H, W, C] to a dict of features by level. Level `cN` has stride 2**N, or `output_stride` if
that is smaller: `c2` [B, ceil(H/4), ceil(W/4), C], ..., `c5`. Some families round sizes down instead. Some have no `c1`.
"""

from kseg.utils.registry import import_modules

import_modules(__name__)
