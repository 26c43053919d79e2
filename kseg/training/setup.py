"""What a run trains and on what: the checked splits and the compiled model, from its config."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import keras
import numpy as np

from kseg.config import TrainConfig
from kseg.data.check import open_split
from kseg.data.dataset import Dataset
from kseg.data.inspection.class_weights import find_class_weights
from kseg.data.loading.samples import epoch_order
from kseg.data.subset import Subset
from kseg.losses import build_loss
from kseg.metrics.confusion_matrix import ConfusionMatrix, UnlabelledBatches
from kseg.models.auxiliary_head import deeply_supervised
from kseg.models.build import build_model, precision
from kseg.models.chunked_loss import with_chunked_loss
from kseg.models.layers import DOUBLE_NORMALIZATION
from kseg.runtime.hosts import warn
from kseg.training.optimizer_config import configure
from kseg.utils.errors import KsegError


@dataclass(frozen=True)
class RunData:
    """The splits, a line for every sample that was left out of them, and the weights of the classes in the loss."""

    train: Dataset
    val: Dataset
    skipped: list[str]
    class_weights: list[float] | None

    def summary(self) -> str:
        """What differs if two hosts do not have the same data, as far as can be told without reading them."""
        return f"{self.train.class_names} {len(self.train)} {len(self.val)} {self.class_weights}"

    def first_batch(self, batch_size: int) -> "RunData":
        """The same with one batch of either split."""
        return replace(self, train=first_batch(self.train, batch_size), val=first_batch(self.val, batch_size))


def open_data(config: TrainConfig) -> RunData:
    """Opens both splits and checks every sample; warns of labels that teach nothing.

    Raises KsegError for whatever the user can mend.
    """
    splits: list[Dataset] = []
    skipped: list[str] = []
    occurring: list[bytes] = []
    for split in (config.train_split, config.val_split):
        dataset, bad = open_split(config.data, split, occurring=None if splits else occurring)
        splits.append(dataset)
        skipped += [f"{split}: {line}" for line in bad]
    train_set, val_set = splits
    if train_set.class_names != val_set.class_names:
        raise KsegError(f"the splits {config.train_split} and {config.val_split} define different categories; make them agree")
    check_labels(train_set, occurring, config.train_split)
    if config.debug.overfit_batches:
        train_set, val_set = overfit_sets(train_set, config.debug.overfit_batches, config.batch_size, config.seed)
    return RunData(train_set, val_set, skipped, find_class_weights(config.objective.class_weights, train_set))


def compiled_model(config: TrainConfig, data: RunData, steps: int) -> keras.Model:
    """Returns the model that the config describes, with optimizer, loss and metrics, ready for fit. steps: an epoch's."""
    keras.utils.set_random_seed(config.seed)
    num_classes, ignore_index = len(data.train.class_names), data.train.ignore_index
    objective = config.objective
    with precision(config.optimization.precision):
        model = build_model(
            config.model,
            num_classes=num_classes,
            backbone=config.backbone,
            backbone_weights=None if config.backbone_weights == "none" else config.backbone_weights,
            output_stride=config.output_stride,
            normalization=DOUBLE_NORMALIZATION if config.double_normalization else "auto",
            auxiliary=objective.auxiliary_weight > 0,
        )
        if objective.auxiliary_weight:
            model = deeply_supervised(model, objective.auxiliary_weight)
        if objective.loss_chunks:
            model = with_chunked_loss(model, objective.loss_chunks)
    model.compile(
        optimizer=configure(config.optimization, model, epochs=config.epochs, steps=steps),
        loss=build_loss(
            objective.loss,
            ignore_index=ignore_index,
            class_weights=data.class_weights,
            label_smoothing=objective.label_smoothing,
        ),
        metrics=[ConfusionMatrix(num_classes, ignore_index), UnlabelledBatches(ignore_index)],
    )
    return model


_NAMES = 5  # classes or images that a warning names


def check_labels(dataset: Dataset, occurring: Sequence[bytes], split: str) -> None:
    """Looks at the label maps of a training split: warns of images without a labelled pixel, and of classes that never occur.

    occurring: the values that occur in the label map of each sample. Raises KsegError if no pixel of the split is labelled.
    """
    empty = [index for index, values in enumerate(occurring) if not {*values} - {dataset.ignore_index}]
    if len(empty) == len(occurring):
        raise KsegError(
            f"split {split}: every pixel of all {len(occurring)} images is ignored, so there is nothing to learn; check the "
            "annotations, --background, --ignore_categories or --label_map"
        )
    if empty:
        names = _listed([dataset.name(index) for index in empty[: _NAMES + 1]], len(empty))
        warn(f"split {split}: {len(empty)} of {len(occurring)} images have not one labelled pixel and teach nothing: {names}")
    known = set().union(*occurring)
    if absent := [name for value, name in enumerate(dataset.class_names) if value not in known]:
        some = "a class that never occurs" if len(absent) == 1 else f"{len(absent)} classes that never occur"
        warn(f"split {split}: {some} in its labels and cannot be learnt: {_listed(absent, len(absent))}")


def _listed(names: Sequence[str], count: int) -> str:
    return ", ".join(map(repr, names[:_NAMES])) + (f" and {count - _NAMES} more" if count > _NAMES else "")


def overfit_sets(dataset: Dataset, batches: int, batch_size: int, seed: int) -> tuple[Dataset, Dataset]:
    """Returns (training set, validation set), both of the images of the first `batches` batches that the run would see.

    The training set repeats them to the length of `dataset`: epochs, and with them the rate's schedule, stay what they are.
    A data set smaller than a batch is returned as it is.
    """
    order = epoch_order(len(dataset), batch_size, seed=seed, epoch=0)
    if not len(order):
        return dataset, dataset
    chosen = order[: batches * batch_size]
    return Subset(dataset, np.resize(chosen, len(order)).tolist()), Subset(dataset, chosen.tolist())


def first_batch(dataset: Dataset, batch_size: int) -> Dataset:
    """Returns the first `batch_size` samples, or all if there are fewer."""
    return Subset(dataset, range(min(batch_size, len(dataset))))
