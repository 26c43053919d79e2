"""The registry of data sources."""

from collections.abc import Callable
from typing import Any

from kseg.utils.registry import Registry

DATASETS = Registry("dataset")
"""Filled by importing kseg.data.sources, as build_dataset does."""


def register_dataset(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers a function (config: DataConfig, split: str) -> kseg.data.Dataset under its name for `--dataset`."""
    return DATASETS.register(name)
