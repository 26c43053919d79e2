"""Objects that only Python can give to a run: callbacks, a loss, an optimizer, metrics."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import keras

from kseg.config import PYTHON, OptimizationConfig, TrainConfig, is_object
from kseg.models.credits import NO_CREDITS, Credits
from kseg.utils.errors import KsegError

_KEPT = ("precision", "remat", "optimizer")
"""Flags of OptimizationConfig that count beside an optimizer object."""
_TAKEN = ("loss", "mean_iou", "unlabelled_batches", "learning_rate")


@dataclass(frozen=True)
class FitExtras:
    """Objects given from Python. config.json has their classes' names (settings).

    callbacks: run after kseg's own, before metrics.csv is written and the checkpoint is saved. One with get_state and set_state
    (JSON values) is resumed. loss: a Keras loss, or a function of (label [B, H, W], logits [B, H, W, C]). optimizer: a Keras
    optimizer with its learning rate. metrics: Keras metrics of (label, logits), columns of metrics.csv. credits: the base model
    of a model given from Python.
    """

    callbacks: tuple[Any, ...] = ()
    loss: Any = None
    optimizer: Any = None
    metrics: tuple[Any, ...] = ()
    credits: Credits = NO_CREDITS

    def __post_init__(self):
        for callback in self.callbacks:
            if not isinstance(callback, keras.callbacks.Callback):
                raise KsegError(f"callbacks: {callback!r} is no keras.callbacks.Callback")
        if self.loss is not None and not callable(self.loss):
            raise KsegError(f"loss: {self.loss!r} is neither a name such as 'ce+dice', a keras.losses.Loss nor a function")
        if self.optimizer is not None and not isinstance(self.optimizer, keras.optimizers.Optimizer):
            raise KsegError(f"optimizer: {self.optimizer!r} is neither a name such as 'adamw' nor a keras.optimizers.Optimizer")
        for metric in self.metrics:
            if not isinstance(metric, keras.metrics.Metric):
                raise KsegError(f"metrics: {metric!r} is no keras.metrics.Metric")
            if metric.name in _TAKEN:
                raise KsegError(f"metrics: {metric.name} is a column of kseg's own; pass name= to {type(metric).__name__}")

    def settings(self) -> dict[str, Any]:
        """Returns what stands for the objects in a TrainConfig, by the fields' names."""
        one = {name: _note(value) for name in ("loss", "optimizer") if (value := getattr(self, name)) is not None}
        return one | {name: tuple(map(_note, values)) for name in ("metrics", "callbacks") if (values := getattr(self, name))}

    def check(self, config: TrainConfig) -> None:
        """Raises KsegError unless the config has these objects (a resumed run's), and no flag that they replace."""
        named = {"loss": config.objective.loss, "optimizer": config.optimization.optimizer, "metrics": config.python.metrics}
        for name, value in named.items():
            if (is_object(value) or name == "metrics") and self.settings().get(name, ()) != value:
                raise KsegError(
                    f"--{name}: the run's was given from Python, {value}; go on with fit({name}=..., run_dir=..., resume=True)"
                )
        if self.loss is not None:
            for name, unset in (("class_weights", "none"), ("label_smoothing", 0.0)):
                if (value := getattr(config.objective, name)) != unset:
                    raise KsegError(f"--{name}={value}: belongs to kseg's losses; the loss object has its own settings")
        if self.optimizer is not None:
            for item in dataclasses.fields(OptimizationConfig):
                value = getattr(config.optimization, item.name)
                if item.name not in _KEPT and value != item.default:
                    raise KsegError(
                        f"--{item.name}={value}: belongs to kseg's optimizers; the optimizer object has its own settings"
                    )
        if self.metrics and config.objective.loss_chunks:
            raise KsegError(f"--loss_chunks={config.objective.loss_chunks}: leaves no logits for metrics; leave one out")

    def new_optimizer(self) -> Any:
        """Returns the optimizer, or None. If it has trained a model already, returns a new one with the same settings."""
        if self.optimizer is None or not self.optimizer.built:
            return self.optimizer
        try:
            return type(self.optimizer).from_config(self.optimizer.get_config())
        except Exception as error:  # a schedule or an optimizer of the user's own, which may raise anything
            raise KsegError(f"optimizer: has trained a model before and cannot be copied ({error}); make a new one") from error


NO_EXTRAS = FitExtras()


def _note(value: Any) -> str:
    return f"{PYTHON}:{getattr(value, '__name__', type(value).__name__)}"
