"""The optimizer and its schedule, Keras's own."""

import math
from typing import Any

import keras


def build_schedule(name: str, learning_rate: float, *, steps: int, warmup_steps: int = 0) -> Any:
    """Learning rate as a function of the step.

    name: "poly" falls from learning_rate to 0 at `steps` with power 0.9 (DeepLab's), "cosine" likewise along half a cosine,
    "constant".
    warmup_steps: the first steps, over which the rate rises linearly from 0.
    """
    decay_steps = max(steps - warmup_steps, 1)
    if name == "poly":
        after = keras.optimizers.schedules.PolynomialDecay(learning_rate, decay_steps, end_learning_rate=0.0, power=0.9)
    elif name == "cosine":
        after = keras.optimizers.schedules.CosineDecay(learning_rate, decay_steps)
    else:
        after = None
    if warmup_steps:
        return WarmUp(after, learning_rate, warmup_steps)
    return learning_rate if after is None else after


@keras.saving.register_keras_serializable("kseg")
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """Rises linearly from 0 to `learning_rate` over `steps`, then follows `after` (a schedule that starts at 0, or None:
    constant).
    """

    def __init__(self, after, learning_rate, steps):
        self.after, self.learning_rate, self.steps = after, learning_rate, steps

    def __call__(self, step):
        step = keras.ops.cast(step, "float32")
        rising = self.learning_rate * step / self.steps
        later = self.learning_rate if self.after is None else self.after(keras.ops.maximum(step - self.steps, 0.0))
        return keras.ops.where(step < self.steps, rising, later)

    def get_config(self):
        after = None if self.after is None else keras.saving.serialize_keras_object(self.after)
        return {"after": after, "learning_rate": self.learning_rate, "steps": self.steps}

    @classmethod
    def from_config(cls, config):
        after = config["after"]
        return cls(**{**config, "after": after and keras.saving.deserialize_keras_object(after)})


def build_optimizer(*, learning_rate: Any, weight_decay: float) -> keras.optimizers.Optimizer:
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101); biases and batch norm's scales and offsets do not decay."""
    optimizer = keras.optimizers.AdamW(learning_rate=learning_rate, weight_decay=weight_decay)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def warmup_steps(epochs: float, steps_per_epoch: int) -> int:
    """Returns the number of steps that a number of epochs, not necessarily whole, takes."""
    return math.ceil(epochs * steps_per_epoch)
