"""Decoders, one file per architecture. Every file of this folder is imported and registers its models."""

from kseg.utils.registry import import_modules

import_modules(__name__)
