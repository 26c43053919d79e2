"""Opens and checks the data of a run."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from kseg.config import TrainConfig
from kseg.config.fields import MIN_SIDE, as_typed
from kseg.data.build import build_dataset, prepare_dataset
from kseg.data.check import check_split
from kseg.data.dataset import Dataset
from kseg.data.inspection.class_weights import find_class_weights
from kseg.data.label_values import unclear_void
from kseg.data.loading.samples import epoch_order
from kseg.data.reading import describe_readings
from kseg.data.subset import Subset
from kseg.runtime.hosts import is_main_process, warn
from kseg.utils.errors import KsegError

_NAMES = 5  # classes or images that a warning lists


@dataclass(frozen=True)
class RunData:
    """The training and the validation split.

    skipped: a line for each sample that was left out. class_weights: the weights of the classes in the loss, if any.
    only_class: the class of all labelled pixels of the validation split, if there is just one.
    """

    train: Dataset
    val: Dataset
    skipped: list[str]
    class_weights: list[float] | None
    only_class: str | None = None

    def summary(self) -> str:
        """Returns a text that differs between hosts with different data, as far as can be told without reading images."""
        return f"{self.train.class_names} {len(self.train)} {len(self.val)} {self.class_weights}"

    def first_batch(self, batch_size: int) -> "RunData":
        """Returns the same with the first `batch_size` samples of each split only."""
        return replace(self, train=_first(self.train, batch_size), val=_first(self.val, batch_size))


@dataclass(frozen=True)
class GivenData:
    """The data sets of a run, given from Python. val: None if config.data.val_fraction divides `train`."""

    train: Dataset
    val: Dataset | None = None


def open_data(config: TrainConfig, given: GivenData | None = None) -> RunData:
    """Opens both splits and checks every sample. Warns about labels that teach nothing.

    given: the data sets, instead of those that config.data names. Raises KsegError for errors that the user can fix.
    """
    splits: list[Dataset] = []
    skipped: list[str] = []
    occurring: list[list[bytes]] = []
    for split in (config.train_split, config.val_split):
        occurring.append([])
        if given is None:
            dataset = build_dataset(config.data, split)
        else:
            whole = given.val if splits and given.val is not None else given.train
            dataset = prepare_dataset(whole, config.data, split)
        dataset, bad = check_split(dataset, split, config.data.on_bad_sample, occurring=occurring[-1])
        splits.append(dataset)
        skipped += [f"{split}: {line}" for line in bad]
    train_set, val_set = splits
    check_window(config, val_set)
    if train_set.class_names != val_set.class_names:
        raise KsegError(f"the splits {config.train_split} and {config.val_split} define different categories; make them agree")
    if given is None and not config.data.val_fraction:
        check_divided(train_set, val_set, config)
    check_labels(train_set, occurring[0], config.train_split)
    only_class = check_scores(val_set, occurring[1], config.val_split)
    if is_main_process():
        names = {config.train_split: train_set, config.val_split: val_set}
        print("\n".join(describe_readings(names, skipped)), flush=True)
    if config.debug.overfit_batches:
        train_set, val_set = overfit_sets(train_set, config.debug.overfit_batches, config.batch_size, config.seed)
    return RunData(train_set, val_set, skipped, find_class_weights(config.objective.class_weights, train_set), only_class)


def check_divided(train_set: Dataset, val_set: Dataset, config: TrainConfig) -> None:
    """Raises KsegError if two splits are the same files: their score would say nothing."""
    ours, theirs = (getattr(dataset, "reading", None) for dataset in (train_set, val_set))
    if ours is not None and theirs is not None and ours.source == theirs.source and config.train_split != config.val_split:
        raise KsegError(
            f"the splits {config.train_split} and {config.val_split} are the same files ({ours.source}); put {{split}} into a "
            "flag that names them, or validate on a part of them with --val_fraction=0.2"
        )


def check_window(config: TrainConfig, val_set: Dataset) -> None:
    """Raises KsegError for a --val_window that is larger than every validation image: it would see nothing but padding there."""
    if (window := config.scale.val_window) is None:
        return
    sizes = [val_set.size(index) for index in range(len(val_set))]
    largest = tuple(max(sides) for sides in zip(*sizes, strict=True))
    if any(side > max(MIN_SIDE, most) for side, most in zip(window, largest, strict=True)):
        fits = tuple(max(MIN_SIDE, min(pair)) for pair in zip(window, largest, strict=True))
        raise KsegError(
            f"--val_window={as_typed(window)}: is larger than every image of split {config.val_split}, at most "
            f"{as_typed(largest)} (height x width); pass --val_window={as_typed(fits)} or less"
        )


def check_labels(dataset: Dataset, occurring: Sequence[bytes], split: str) -> None:
    """Warns about images of a training split without a labelled pixel, and about classes that never occur.

    occurring: the label values in each sample. Raises KsegError if the split has no labelled pixel at all, or if its label images
    hold 255 and one other value, and nothing says what 255 is.
    """
    if reason := unclear_void(dataset, occurring):
        raise KsegError(f"split {split}: {reason}")
    empty = [index for index, values in enumerate(occurring) if not {*values} - {dataset.ignore_index}]
    if len(empty) == len(occurring):
        raise KsegError(
            f"split {split}: every pixel of all {len(occurring)} images is ignored, so there is nothing to learn; check the "
            "annotations, and which classes are ignored"
        )
    if empty:
        names = _listed([dataset.name(index) for index in empty[: _NAMES + 1]], len(empty))
        warn(f"split {split}: {len(empty)} of {len(occurring)} images have not one labelled pixel and teach nothing: {names}")
    known = set().union(*occurring)
    if absent := [name for value, name in enumerate(dataset.class_names) if value not in known]:
        some = "a class that never occurs" if len(absent) == 1 else f"{len(absent)} classes that never occur"
        warn(f"split {split}: {some} in its labels and cannot be learnt: {_listed(absent, len(absent))}")


def check_scores(dataset: Dataset, occurring: Sequence[bytes], split: str) -> str | None:
    """Warns about a validation split whose labels are all of one class, and returns the class. occurring: as in check_labels."""
    known = set().union(*occurring) - {dataset.ignore_index}
    if len(known) != 1:
        return None
    name = dataset.class_names[known.pop()]
    warn(f"split {split}: every labelled pixel is of class {name!r}, so its mIoU says little")
    return name


def _listed(names: Sequence[str], count: int) -> str:
    return ", ".join(map(repr, names[:_NAMES])) + (f" and {count - _NAMES} more" if count > _NAMES else "")


def overfit_sets(dataset: Dataset, batches: int, batch_size: int, seed: int) -> tuple[Dataset, Dataset]:
    """Returns a training and a validation set for --overfit_batches: the images of the run's first `batches` batches.

    The training set repeats them to the length of `dataset`, so that epochs and the learning rate's schedule stay the same.
    A data set smaller than a batch is returned unchanged.
    """
    order = epoch_order(len(dataset), batch_size, seed=seed, epoch=0)
    if not len(order):
        return dataset, dataset
    chosen = order[: batches * batch_size]
    return Subset(dataset, np.resize(chosen, len(order)).tolist()), Subset(dataset, chosen.tolist())


def _first(dataset: Dataset, count: int) -> Dataset:
    return Subset(dataset, range(min(count, len(dataset))))
