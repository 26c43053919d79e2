"""The losses as Keras losses, for model.compile: serializable, under the names of --loss."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from kseg.data.dataset import IGNORE_INDEX
from kseg.losses.boundaries import boundary
from kseg.losses.pixels import cross_entropy, cross_entropy_terms, focal, ohem
from kseg.losses.regions import dice, jaccard, lovasz, tversky
from kseg.utils.errors import KsegError
from kseg.utils.registry import Registry

LOSSES = Registry("loss")
Weights = Sequence[float] | None


class SegmentationLoss(keras.losses.Loss):
    """A function of kseg.losses, with its parameters, as a Keras loss of (labels [B, H, W], logits [B, H, W, C]).

    ignore_index: label of the pixels that do not count. class_weights: a weight, 0 or more, of each of the C classes; None weighs
    them alike. parameters: the function's other keyword arguments, which are the subclass's, too.
    """

    def __init__(
        self, function: Callable[..., Any], parameters: dict[str, Any], ignore_index: int, class_weights: Weights, name: str
    ):
        super().__init__(name=name)
        self.ignore_index = ignore_index
        self.class_weights = None if class_weights is None else [float(weight) for weight in class_weights]
        self.parameters = parameters
        self._function = function

    def call(self, y_true, y_pred):
        loss = self._function(y_pred, y_true, **self.parameters, ignore_index=self.ignore_index, class_weights=self.class_weights)
        return ops.reshape(loss, (1,))  # Keras divides a loss by the number of replicas unless it is a scalar

    def get_config(self):
        return {"name": self.name, "ignore_index": self.ignore_index, "class_weights": self.class_weights, **self.parameters}


def _loss(name: str):
    """Registers a class with Keras under its own name, and in LOSSES under that of --loss."""

    def decorate(cls):
        LOSSES.add(name, cls)
        return keras.saving.register_keras_serializable("kseg")(cls)

    return decorate


@_loss("ce")
class CrossEntropy(SegmentationLoss):
    """kseg.losses.cross_entropy as a Keras loss."""

    def __init__(
        self,
        ignore_index: int = IGNORE_INDEX,
        class_weights: Weights = None,
        *,
        label_smoothing: float = 0.0,
        name: str = "cross_entropy",
    ):
        _check("label_smoothing", label_smoothing, 0 <= label_smoothing < 1, "in [0, 1)")
        super().__init__(cross_entropy, {"label_smoothing": label_smoothing}, ignore_index, class_weights, name)

    def terms(self, y_true, y_pred):
        """(terms, weights), float32 [B, H, W], of which the loss is the weighted mean."""
        return cross_entropy_terms(y_pred, y_true, self.parameters["label_smoothing"], self.ignore_index, self.class_weights)


@_loss("focal")
class FocalLoss(SegmentationLoss):
    """kseg.losses.focal as a Keras loss."""

    def __init__(
        self, ignore_index: int = IGNORE_INDEX, class_weights: Weights = None, *, gamma: float = 2.0, name: str = "focal"
    ):
        _check("gamma", gamma, 0 <= gamma < float("inf"), "0 or more")
        super().__init__(focal, {"gamma": gamma}, ignore_index, class_weights, name)


@_loss("ohem")
class OhemCrossEntropy(SegmentationLoss):
    """kseg.losses.ohem as a Keras loss."""

    def __init__(
        self,
        ignore_index: int = IGNORE_INDEX,
        class_weights: Weights = None,
        *,
        keep: float = 0.25,
        threshold: float = 0.0,
        label_smoothing: float = 0.0,
        name: str = "ohem",
    ):
        _check("keep", keep, 0 < keep <= 1, "in (0, 1]")
        _check("threshold", threshold, 0 <= threshold <= 1, "a probability, in [0, 1]")
        _check("label_smoothing", label_smoothing, 0 <= label_smoothing < 1, "in [0, 1)")
        parameters = {"keep": keep, "threshold": threshold, "label_smoothing": label_smoothing}
        super().__init__(ohem, parameters, ignore_index, class_weights, name)


@_loss("dice")
class DiceLoss(SegmentationLoss):
    """kseg.losses.dice as a Keras loss."""

    def __init__(
        self,
        ignore_index: int = IGNORE_INDEX,
        class_weights: Weights = None,
        *,
        smooth: float = 0.0,
        log: bool = False,
        per_image: bool = False,
        name: str = "dice",
    ):
        _check("smooth", smooth, 0 <= smooth < float("inf"), "0 or more")
        super().__init__(dice, {"smooth": smooth, "log": log, "per_image": per_image}, ignore_index, class_weights, name)


@_loss("jaccard")
class JaccardLoss(SegmentationLoss):
    """kseg.losses.jaccard as a Keras loss."""

    def __init__(
        self,
        ignore_index: int = IGNORE_INDEX,
        class_weights: Weights = None,
        *,
        smooth: float = 0.0,
        log: bool = False,
        per_image: bool = False,
        name: str = "jaccard",
    ):
        _check("smooth", smooth, 0 <= smooth < float("inf"), "0 or more")
        super().__init__(jaccard, {"smooth": smooth, "log": log, "per_image": per_image}, ignore_index, class_weights, name)


@_loss("tversky")
class TverskyLoss(SegmentationLoss):
    """kseg.losses.tversky as a Keras loss."""

    def __init__(
        self,
        ignore_index: int = IGNORE_INDEX,
        class_weights: Weights = None,
        *,
        alpha: float = 0.3,
        beta: float = 0.7,
        gamma: float = 1.0,
        smooth: float = 0.0,
        log: bool = False,
        per_image: bool = False,
        name: str = "tversky",
    ):
        parameters = {"alpha": alpha, "beta": beta, "gamma": gamma, "smooth": smooth}
        for parameter, value in parameters.items():
            _check(parameter, value, 0 <= value < float("inf"), "0 or more")
        _check("gamma", gamma, gamma > 0, "more than 0")
        super().__init__(tversky, {**parameters, "log": log, "per_image": per_image}, ignore_index, class_weights, name)


@_loss("lovasz")
class LovaszLoss(SegmentationLoss):
    """kseg.losses.lovasz as a Keras loss."""

    def __init__(
        self, ignore_index: int = IGNORE_INDEX, class_weights: Weights = None, *, per_image: bool = False, name: str = "lovasz"
    ):
        super().__init__(lovasz, {"per_image": per_image}, ignore_index, class_weights, name)


@_loss("boundary")
class BoundaryLoss(SegmentationLoss):
    """kseg.losses.boundary as a Keras loss."""

    def __init__(
        self,
        ignore_index: int = IGNORE_INDEX,
        class_weights: Weights = None,
        *,
        width: int = 3,
        tolerance: int = 5,
        per_image: bool = False,
        name: str = "boundary",
    ):
        for parameter, value in {"width": width, "tolerance": tolerance}.items():
            _check(parameter, value, value >= 3 and value % 2 == 1, "odd, at least 3")
        parameters = {"width": width, "tolerance": tolerance, "per_image": per_image}
        super().__init__(boundary, parameters, ignore_index, class_weights, name)


@keras.saving.register_keras_serializable("kseg")
class WeightedSum(keras.losses.Loss):
    """The sum of Keras losses, each times its weight."""

    def __init__(self, losses: Sequence[keras.losses.Loss], weights: Sequence[float], name: str = "weighted_sum"):
        super().__init__(name=name)
        if len(losses) != len(weights) or not losses:
            raise KsegError(f"a weighted sum of {len(losses)} losses has {len(weights)} weights; give each loss one")
        self.losses, self.weights = list(losses), [float(weight) for weight in weights]

    def call(self, y_true, y_pred):
        parts = [weight * loss.call(y_true, y_pred) for loss, weight in zip(self.losses, self.weights, strict=True)]
        return sum(parts[1:], start=parts[0])

    def get_config(self):
        losses = [keras.saving.serialize_keras_object(loss) for loss in self.losses]
        return {"name": self.name, "losses": losses, "weights": self.weights}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "losses": [keras.saving.deserialize_keras_object(loss) for loss in config["losses"]]})


def _check(parameter: str, value: float, right: bool, what: str) -> None:
    if not right:
        raise KsegError(f"{parameter}={value} must be {what}")
