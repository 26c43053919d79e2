"""What a run trains and on what: the checked splits and the compiled model, from its config."""

from dataclasses import dataclass, replace

import keras

from kseg.config import TrainConfig
from kseg.data import Dataset
from kseg.data.check import open_split
from kseg.data.class_weights import find_class_weights
from kseg.errors import KsegError
from kseg.losses import build_loss
from kseg.metrics import ConfusionMatrix, UnlabelledBatches
from kseg.models import build_model
from kseg.models.bands import banded
from kseg.models.layers import DOUBLE_NORMALIZATION
from kseg.models.supervision import deeply_supervised
from kseg.optimization import configure, precision
from kseg.sanity import check_labels
from kseg.trial import first_batch, overfit_sets


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
    if config.trial.overfit_batches:
        train_set, val_set = overfit_sets(train_set, config.trial.overfit_batches, config.batch_size, config.seed)
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
        if objective.loss_bands:
            model = banded(model, objective.loss_bands)
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
