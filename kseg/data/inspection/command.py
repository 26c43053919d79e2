"""The training command for data that were inspected."""

import dataclasses
import shlex
from collections.abc import Collection

from kseg.config import TRAIN_PART, DataConfig, InspectConfig, TrainConfig
from kseg.config.fields import as_flag

VAL_FRACTION = 0.2
"""Validate on this share of the training split if there is no other split."""


def training_command(config: InspectConfig, opened: Collection[str]) -> str:
    """Returns the command line that trains on the data of a config. opened: names of the splits that could be read."""
    default = TrainConfig()
    flags = {
        item.name: getattr(config.data, item.name)
        for item in dataclasses.fields(DataConfig)
        if getattr(config.data, item.name) != item.default
    }
    train, *others = config.splits
    if config.data.val_fraction:
        train = train.removesuffix(TRAIN_PART)
    else:
        val = next((split for split in others if split in opened), None)
        flags |= {"val_fraction": VAL_FRACTION} if val is None else {"val_split": val} if val != default.val_split else {}
    if train != default.train_split:
        flags["train_split"] = train
    for name in ("image_size", "augment"):
        if getattr(config, name) != getattr(default, name):
            flags[name] = getattr(config, name)
    return " ".join(["python -m kseg.train", *(shlex.quote(as_flag(name, value)) for name, value in flags.items())])
