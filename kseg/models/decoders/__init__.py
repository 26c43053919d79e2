"""Decoders, one file each; every file of this folder registers what it defines."""

from kseg.utils.registry import import_modules

import_modules(__name__)
