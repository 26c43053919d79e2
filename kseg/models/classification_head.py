"""smp's classification head: which classes an image has, from the deepest features. It trains beside the logits."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import keras

from kseg.data.dataset import IGNORE_INDEX
from kseg.losses.presence import presence
from kseg.models.auxiliary_head import DeeplySupervised
from kseg.models.layers import Dense
from kseg.utils.errors import KsegError, suggest

NAME = "classification_head"
_POOLING = {"avg": keras.layers.GlobalAveragePooling2D, "max": keras.layers.GlobalMaxPooling2D}


@dataclass(frozen=True)
class ClassificationHead:
    """Settings of the head, with the names of smp's aux_params. Raises KsegError for values that no head can have.

    classes: 1 or more. pooling: "avg" or "max" over all places. dropout: its rate in training.
    """

    classes: int
    pooling: str = "avg"
    dropout: float = 0.2

    def __post_init__(self):
        if type(self.classes) is not int or self.classes < 1:
            raise KsegError(f"classification: classes={self.classes!r}: must be a whole number, 1 or more")
        if self.pooling not in _POOLING:
            raise KsegError(f"classification: pooling={self.pooling!r}: must be 'avg' or 'max'")
        if not isinstance(self.dropout, int | float) or not 0 <= self.dropout < 1:
            raise KsegError(f"classification: dropout={self.dropout!r}: must be 0 or more, and less than 1")

    @classmethod
    def of(cls, settings: Mapping[str, Any], num_classes: int) -> "ClassificationHead":
        """Reads smp's aux_params, where everything may be missing. num_classes: of the model. Raises KsegError."""
        settings = {"classes": num_classes, **settings}
        if settings.pop("activation", None) is not None:
            raise KsegError("classification: activation: the head returns logits; leave it out, and apply it to them")
        known = ("classes", "pooling", "dropout")
        if unknown := [name for name in settings if name not in known]:
            raise KsegError(f"classification: unknown setting {unknown[0]!r}{suggest(str(unknown[0]), known)}")
        return cls(**settings)

    def build(self, features: Any) -> Any:
        """Returns logits [B, classes], float32, of the features [B, h, w, C]."""
        x = _POOLING[self.pooling](dtype="float32", name=f"{NAME}_0")(features)
        if self.dropout:
            x = keras.layers.Dropout(self.dropout, dtype="float32", name=f"{NAME}_2")(x)
        return Dense(self.classes, dtype="float32", name=f"{NAME}_3")(x)


def aux_params(model: keras.Model) -> dict[str, Any] | None:
    """Returns smp's aux_params of a model's classification head; None if it has none."""
    layers = {layer.name: layer for layer in model.layers if layer.name.startswith(f"{NAME}_")}
    if not layers:
        return None
    pooling = next(name for name, kind in _POOLING.items() if isinstance(layers[f"{NAME}_0"], kind))
    dropout = layers[f"{NAME}_2"].rate if f"{NAME}_2" in layers else 0.0
    return asdict(ClassificationHead(layers[f"{NAME}_3"].units, pooling, dropout))


@keras.saving.register_keras_serializable("kseg")
class Classifying(DeeplySupervised):
    """A model of {"logits": ..., "classification": ...} that also learns which classes each image has.

    fit minimises loss(label, logits) + classification_weight * presence(classification, label), and logs this sum as "loss". With
    an auxiliary head, its loss is added as in DeeplySupervised. Metrics and val_loss are of the logits. Made by classifying.
    """

    SETTINGS = {
        **DeeplySupervised.SETTINGS,
        "classification_weight": "classification_weight",
        "ignore_index": "ignore_index",
    }
    classification_weight = 0.0
    ignore_index = IGNORE_INDEX

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        if training:
            of_images = presence(y_pred["classification"], y, ignore_index=self.ignore_index)
            loss = loss + self.classification_weight * of_images
        return loss


def classifying(
    model: keras.Model, classification_weight: float, *, auxiliary_weight: float = 0.0, ignore_index: int = IGNORE_INDEX
) -> Classifying:
    """Returns a model with the same layers that trains on all its heads.

    model: build_model's with classification=True; with auxiliary=True, too, if auxiliary_weight is not 0. ignore_index: the label
    of pixels that do not count.
    """
    result = Classifying(model.input, model.output, name=model.name)
    result.classification_weight, result.auxiliary_weight = classification_weight, auxiliary_weight
    result.ignore_index = ignore_index
    return result
