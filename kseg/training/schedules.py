"""Learning rate schedules: Keras's, and those that Keras lacks.

To add a schedule, name it in build_schedule and in the flag --schedule (kseg/config/train.py).
"""

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops


def build_schedule(
    name: str,
    learning_rate: float,
    *,
    steps: int,
    warmup_steps: int = 0,
    milestones: Sequence[int] = (),
    gamma: float = 0.1,
    accumulate_steps: int = 1,
) -> Any:
    """Returns the learning rate for an optimizer: a number, or a Keras LearningRateSchedule.

    All arguments count steps; the rate changes with every update.

    Args:
        name: "poly" falls from learning_rate to 0 with power 0.9, as in DeepLab; "cosine" falls along half a cosine; "step"
            multiplies by gamma at each milestone; "one_cycle" is OneCycle; "constant".
        steps: of the run.
        warmup_steps: the rate rises linearly from 0 over the first so many steps. With one_cycle, the rise of the cycle; 0 is 30%
            of the run.
        milestones: steps of the run, warm-up included.
        accumulate_steps: steps of an update.
    """
    updates, warmup, drops = (
        math.ceil(steps / accumulate_steps),
        math.ceil(warmup_steps / accumulate_steps),
        [math.ceil(milestone / accumulate_steps) for milestone in milestones],
    )
    schedule = _by_update(name, learning_rate, updates, warmup, drops, gamma)
    if accumulate_steps > 1 and not isinstance(schedule, float):
        return ByUpdate(schedule, accumulate_steps)
    return schedule


def _by_update(name: str, learning_rate: float, updates: int, warmup: int, drops: Sequence[int], gamma: float) -> Any:
    decay_steps = max(updates - warmup, 1)
    if name == "one_cycle":
        return OneCycle(learning_rate, updates, warmup / updates if warmup else 0.3)
    if name == "poly":
        after = keras.optimizers.schedules.PolynomialDecay(learning_rate, decay_steps, end_learning_rate=0.0, power=0.9)
    elif name == "cosine":
        after = keras.optimizers.schedules.CosineDecay(learning_rate, decay_steps)
    elif name == "step":
        # Keras's boundary is the last step of the old value. A milestone within the warm-up lowers the rate after it.
        boundaries = [drop - warmup - 1 for drop in drops]
        values = [learning_rate * gamma**i for i in range(len(drops) + 1)]
        after = keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, values)
    else:
        after = None
    if warmup:
        return WarmUp(after, learning_rate, warmup)
    return learning_rate if after is None else after


@keras.saving.register_keras_serializable("kseg")
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """Rises linearly from 0 to `learning_rate` over `steps`, then follows `after`.

    after: a schedule, called with the steps since the warm-up; None: the rate stays constant.
    """

    def __init__(self, after, learning_rate, steps):
        self.after, self.learning_rate, self.steps = after, learning_rate, steps

    def __call__(self, step):
        step = ops.cast(step, "float32")
        rising = self.learning_rate * step / self.steps
        later = self.learning_rate if self.after is None else self.after(ops.maximum(step - self.steps, 0.0))
        return ops.where(step < self.steps, rising, later)

    def get_config(self):
        after = None if self.after is None else keras.saving.serialize_keras_object(self.after)
        return {"after": after, "learning_rate": self.learning_rate, "steps": self.steps}

    @classmethod
    def from_config(cls, config):
        after = config["after"]
        return cls(**{**config, "after": after and keras.saving.deserialize_keras_object(after)})


@keras.saving.register_keras_serializable("kseg")
class OneCycle(keras.optimizers.schedules.LearningRateSchedule):
    """One cycle (Smith and Topin 2018, arXiv:1708.07120), as torch.optim.lr_scheduler.OneCycleLR by default.

    The rate rises along half a cosine from learning_rate / 25 to learning_rate over the share `rising` of the `steps`, and falls
    along another to learning_rate / 250000 at the last step. Momentum does not cycle.
    """

    def __init__(self, learning_rate, steps, rising=0.3):
        self.learning_rate, self.steps, self.rising = learning_rate, steps, rising

    def __call__(self, step):
        step = ops.cast(step, "float32")
        first, last = self.learning_rate / 25, self.learning_rate / 25e4
        top, end = max(self.rising * self.steps - 1, 0.0), self.steps - 1
        rise = _half_cosine(first, self.learning_rate, step / max(top, 1e-6))
        fall = _half_cosine(self.learning_rate, last, (step - top) / max(end - top, 1e-6))
        return ops.where(step <= top, rise, fall)

    def get_config(self):
        return {"learning_rate": self.learning_rate, "steps": self.steps, "rising": self.rising}


def _half_cosine(start, end, share):
    return end + (start - end) / 2 * (1 + ops.cos(math.pi * ops.clip(share, 0.0, 1.0)))


@keras.saving.register_keras_serializable("kseg")
class ByUpdate(keras.optimizers.schedules.LearningRateSchedule):
    """Calls `schedule` with the number of updates, of `every` steps each. Keras calls schedules with the number of steps."""

    def __init__(self, schedule, every):
        self.schedule, self.every = schedule, every

    def __call__(self, step):
        return self.schedule(ops.floor_divide(ops.cast(step, "int32"), self.every))

    def get_config(self):
        return {"schedule": keras.saving.serialize_keras_object(self.schedule), "every": self.every}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config["schedule"]), config["every"])


def steps_in(epochs: float, steps_per_epoch: int) -> int:
    """Returns the number of steps in `epochs`, which may be a fraction."""
    return math.ceil(epochs * steps_per_epoch)
