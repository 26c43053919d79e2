"""The loss functions as Keras losses for model.compile, serializable, under the names of --loss.

Each class is generated from its function: one line per loss.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from kseg.data.dataset import IGNORE_INDEX
from kseg.losses.boundaries import boundary
from kseg.losses.pixelwise import cross_entropy, cross_entropy_terms, focal, ohem
from kseg.losses.reduction import ClassWeights
from kseg.losses.regions import dice, jaccard, lovasz, tversky
from kseg.utils.errors import KsegError
from kseg.utils.registry import Registry

LOSSES = Registry("loss")

Range = tuple[str, Callable[[float], bool]]
"""The allowed values of a parameter: in words for the error message, and as a test."""
NOT_NEGATIVE: Range = ("0 or more", lambda value: 0 <= value < float("inf"))
POSITIVE: Range = ("more than 0", lambda value: 0 < value < float("inf"))
BELOW_1: Range = ("in [0, 1)", lambda value: 0 <= value < 1)
SHARE: Range = ("in (0, 1]", lambda value: 0 < value <= 1)
PROBABILITY: Range = ("a probability, in [0, 1]", lambda value: 0 <= value <= 1)
ODD: Range = ("odd, at least 3", lambda value: value >= 3 and value % 2 == 1)


class SegmentationLoss(keras.losses.Loss):
    """A Keras loss of (labels [B, H, W], logits [B, H, W, C]), computed by a function of kseg.losses.

    A subclass names the function: `class FocalLoss(SegmentationLoss, function=focal, gamma=NOT_NEGATIVE)`. Its arguments are
    ignore_index (the label of pixels that do not count), class_weights (C numbers, 0 or more; None for equal weights), and by
    keyword the function's other parameters and name. It is registered with Keras as "kseg>CLASS", and in LOSSES as short_name,
    by default the function's name. The other class keywords are the allowed ranges of parameters.

    Raises KsegError for a parameter out of its range, TypeError for an unknown one.
    """

    _function: Callable[..., Any]
    _parameters: dict[str, inspect.Parameter]
    _ranges: dict[str, Range]

    def __init_subclass__(cls, function: Callable[..., Any] | None = None, short_name: str | None = None, **ranges: Range):
        super().__init_subclass__()
        if function is None:  # a subclass of a loss computes the same function
            return
        own = dict(inspect.signature(function).parameters)
        del own["logits"], own["label"]
        shared = [own.pop(key).replace(kind=inspect.Parameter.POSITIONAL_OR_KEYWORD) for key in ("ignore_index", "class_weights")]
        self = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        name = inspect.Parameter("name", inspect.Parameter.KEYWORD_ONLY, default=function.__name__, annotation=str)

        def __init__(self, *args, **kwargs):
            SegmentationLoss.__init__(self, *args, **kwargs)

        # help(), editors and build_loss read the parameters from the signature.
        __init__.__signature__ = inspect.Signature([self, *shared, *own.values(), name])  # type: ignore[attr-defined]
        cls.__init__ = __init__  # type: ignore[method-assign]
        cls.__doc__ = f"kseg.losses.{function.__name__} as a Keras loss.\n\n    {function.__doc__}"
        cls._function, cls._parameters, cls._ranges = staticmethod(function), own, ranges
        keras.saving.register_keras_serializable("kseg")(cls)
        LOSSES.add(short_name or function.__name__, cls)

    def __init__(
        self,
        ignore_index: int = IGNORE_INDEX,
        class_weights: ClassWeights = None,
        *,
        name: str | None = None,
        **parameters: float,
    ):
        if unknown := [key for key in parameters if key not in self._parameters]:
            raise TypeError(f"{type(self).__name__} has no parameter {unknown[0]!r}; it has {', '.join(self._parameters)}")
        super().__init__(name=name or self._function.__name__)
        self.ignore_index = ignore_index
        self.class_weights = None if class_weights is None else [float(weight) for weight in class_weights]
        self.parameters = {key: parameters.get(key, value.default) for key, value in self._parameters.items()}
        for key, (allowed, is_allowed) in self._ranges.items():
            if not is_allowed(self.parameters[key]):
                raise KsegError(f"{key}={self.parameters[key]} must be {allowed}")

    def call(self, y_true, y_pred):
        loss = self._function(y_pred, y_true, **self.parameters, ignore_index=self.ignore_index, class_weights=self.class_weights)
        return ops.reshape(loss, (1,))  # Keras divides a loss by the number of replicas unless it is a scalar

    def get_config(self):
        return {"name": self.name, "ignore_index": self.ignore_index, "class_weights": self.class_weights, **self.parameters}


class CrossEntropy(SegmentationLoss, function=cross_entropy, short_name="ce", label_smoothing=BELOW_1):
    def terms(self, y_true, y_pred):
        """Returns (terms, weights), float32 [B, H, W]; the loss is their weighted mean. ChunkedLoss sums them chunk by chunk."""
        return cross_entropy_terms(y_pred, y_true, self.parameters["label_smoothing"], self.ignore_index, self.class_weights)


class FocalLoss(SegmentationLoss, function=focal, gamma=NOT_NEGATIVE): ...


class OhemCrossEntropy(SegmentationLoss, function=ohem, keep=SHARE, threshold=PROBABILITY, label_smoothing=BELOW_1): ...


class DiceLoss(SegmentationLoss, function=dice, smooth=NOT_NEGATIVE): ...


class JaccardLoss(SegmentationLoss, function=jaccard, smooth=NOT_NEGATIVE): ...


class TverskyLoss(
    SegmentationLoss, function=tversky, alpha=NOT_NEGATIVE, beta=NOT_NEGATIVE, gamma=POSITIVE, smooth=NOT_NEGATIVE
): ...


class LovaszLoss(SegmentationLoss, function=lovasz): ...


class BoundaryLoss(SegmentationLoss, function=boundary, width=ODD, tolerance=ODD): ...


@keras.saving.register_keras_serializable("kseg")
class WeightedSum(keras.losses.Loss):
    """The sum of Keras losses, each multiplied by its weight. Raises KsegError unless there is one weight for each loss."""

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
