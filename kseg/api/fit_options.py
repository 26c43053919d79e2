"""The keywords of Segmenter.fit: the flags of kseg.train, by their names."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict, get_args, get_origin, get_type_hints

import numpy as np

from kseg.config import TrainConfig, leaves
from kseg.utils.errors import KsegError, suggest


class FitOptions(TypedDict, total=False):
    """Each key is a flag of kseg.train; `python -m kseg.train --help` describes them. What is left out has the flag's default.

    image_size, val_window: 256, "192x256" or (192, 256), height before width. schedule_milestones: numbers of epochs.
    """

    val_fraction: float
    split_seed: int
    split_group: str | None
    on_bad_sample: Literal["error", "skip"]
    cache: Literal["none", "memory", "disk"]
    image_size: int | str | tuple[int, int]
    augment: str
    val_window: int | str | tuple[int, int] | None
    epochs: int
    batch_size: int
    seed: int
    label_smoothing: float
    class_weights: str
    auxiliary_weight: float
    classification_weight: float
    loss_chunks: int
    learning_rate: float
    schedule: Literal["poly", "cosine", "step", "one_cycle", "constant"]
    schedule_milestones: Sequence[float]
    schedule_gamma: float
    warmup_epochs: float
    weight_decay: float
    weight_decay_on: Literal["auto", "all", "weights"]
    momentum: float
    backbone_lr_multiplier: float
    layer_decay: float
    clip_norm: float
    accumulate_steps: int
    ema: float
    freeze_backbone_epochs: int
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"]
    remat: bool
    monitor: str
    monitor_mode: Literal["auto", "max", "min"]
    early_stopping: int | None
    dry_run: bool
    overfit_batches: int | None
    report: bool
    keep_checkpoints: int
    checkpoint_steps: int
    tensorboard: bool
    wandb: str | None
    mlflow: str | None
    workers: int | None
    distribution: Literal["none", "data_parallel"]
    compilation_cache: str


ELSEWHERE = {
    "model": "is a parameter of Segmenter",
    "backbone": "is a parameter of Segmenter",
    "backbone_weights": "is a parameter of Segmenter",
    "output_stride": "is a parameter of Segmenter",
    "model_options": "is a parameter of Segmenter",
    "init": "is a parameter of Segmenter",
    "double_normalization": "only repeats published runs; use kseg.train",
    "train_split": "names a split; pass the data set itself",
    "val_split": "names a split; pass the data set itself",
    "coordinator": "starts one of several processes; use kseg.train",
    "num_processes": "starts one of several processes; use kseg.train",
    "process_id": "starts one of several processes; use kseg.train",
    "heartbeat_timeout": "starts one of several processes; use kseg.train",
    "run_dir": "is a parameter of fit",
    "resume": "is a parameter of fit",
    "loss": "is a parameter of fit",
    "optimizer": "is a parameter of fit",
}
"""Flags of kseg.train, beside those that describe a data set, that are no keywords of fit, and why."""


def flag_values(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of flags that keywords stand for. Raises KsegError for an unknown keyword or a value of another type."""
    hints = get_type_hints(FitOptions)
    flags = {item.name for item, _ in leaves(TrainConfig)}
    for name in options:
        if name in ELSEWHERE:
            raise KsegError(f"{name}: {ELSEWHERE[name]}")
        if name not in hints:
            if name in flags:
                raise KsegError(f"{name}: describes a data set; pass it to FolderDataset, CocoDataset or TfdsDataset")
            raise KsegError(f"fit has no keyword {name!r}{suggest(name, hints)}")
    return {name: _value(name, value, hints[name]) for name, value in options.items()}


def _value(name: str, value: Any, hint: Any) -> Any:
    if name in ("image_size", "val_window"):
        return value  # TrainConfig reads all its forms
    if name == "schedule_milestones":
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise KsegError(f"{name}={value!r}: expected numbers of epochs, such as [30, 60]")
        return tuple(f"{epoch:g}" if isinstance(epoch, (int, float)) else str(epoch) for epoch in value)
    if isinstance(value, np.generic):
        value = value.item()
    kinds = [part for part in get_args(hint) or (hint,) if part is not type(None)] if get_origin(hint) is not Literal else [str]
    if value is None and type(None) in get_args(hint):
        return None
    (kind,) = kinds
    if kind is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise KsegError(f"{name}={value!r}: expected {_WORDS[kind]}")
    return value


_WORDS = {str: "a string", int: "a whole number", float: "a number", bool: "True or False"}
