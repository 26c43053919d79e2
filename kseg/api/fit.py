"""Starts the training that Segmenter.fit is asked for: on data sets, or on batches."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from kseg.api.data import check_classes, check_dataset
from kseg.config import PYTHON, TrainConfig, build
from kseg.inference.batches import is_batches, read_batches
from kseg.runtime.compilation_cache import enable_compilation_cache
from kseg.training.batched_data import train_on_batches
from kseg.training.extras import FitExtras
from kseg.training.loop import TrainResult, train
from kseg.training.run_data import GivenData
from kseg.utils.errors import KsegError


def start_training(
    train_data: Any,
    val_data: Any,
    class_names: Sequence[str],
    flags: Mapping[str, Any],
    *,
    initial: keras.Model | None,
    origin: str,
    extras: FitExtras,
) -> TrainResult:
    """Trains as kseg.train does.

    train_data, val_data: data sets, or both batches; val_data may be None with the flag val_fraction. flags: those given.
    initial: a model to go on from; origin: where that is from. Raises KsegError for what the user can fix.
    """
    notes = {"dataset": PYTHON, "initial_model": None if initial is None else f"{PYTHON}:{origin}"}
    if is_batches(train_data) or is_batches(val_data):
        for name, data in (("train", train_data), ("val", val_data)):
            if not is_batches(data):
                raise KsegError(f"{name}: pass batches for both train and val, or data sets for both")
        for name in ("image_size", "batch_size"):
            if name in flags:
                raise KsegError(f"{name}={flags[name]}: batches have their own size; leave it out")
        train_batches, val_batches = (read_batches(d, class_names, n) for d, n in ((train_data, "train"), (val_data, "val")))
        flags = {**flags, "image_size": train_batches.image_size, "batch_size": train_batches.batch_size}
        config = build(TrainConfig, {**flags, **notes})
        enable_compilation_cache(config.devices.compilation_cache)
        return train_on_batches(config, flags, train_batches, val_batches, initial=initial, extras=extras)

    for name, data in (("train", train_data), ("val", val_data)):
        if data is not None or name == "train":
            check_dataset(data, name)
            check_classes(data, class_names, name)
    config = build(TrainConfig, {**flags, **notes})
    if (val_data is None) == (not config.data.val_fraction):
        what = "no validation data" if val_data is None else "validation data and val_fraction"
        raise KsegError(f"val: {what}; pass a data set, or val_fraction=0.2 to take a part of train")
    enable_compilation_cache(config.devices.compilation_cache)
    return train(config, flags, data=GivenData(train_data, val_data), initial=initial, extras=extras)
