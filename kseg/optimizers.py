"""The optimizer and its schedule: Keras's own, and Adam as torch computes it."""

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


@keras.saving.register_keras_serializable("kseg")
class TorchAdam(keras.optimizers.Adam):
    """Adam (Kingma and Ba 2015, arXiv:1412.6980) as torch.optim.Adam computes it, with its weight_decay: L2 in the gradient.

    g' = g + l2 * w; m and v follow g' and g'^2; w -= rate * (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + epsilon). Keras's Adam
    adds epsilon before v is corrected, and its weight_decay is decoupled from the gradient.
    l2: torch's weight_decay, on every variable, biases and batch norm's included, as there.
    """

    def __init__(self, learning_rate=1e-3, l2=0.0, epsilon=1e-8, name="torch_adam", **kwargs):
        super().__init__(learning_rate=learning_rate, epsilon=epsilon, name=name, **kwargs)
        self.l2 = l2

    def update_step(self, gradient, variable, learning_rate):
        ops = keras.ops
        step = ops.cast(self.iterations + 1, variable.dtype)
        rate = ops.cast(learning_rate, variable.dtype)
        gradient = ops.cast(gradient, variable.dtype) + self.l2 * variable
        momentum = self._momentums[self._get_variable_index(variable)]
        velocity = self._velocities[self._get_variable_index(variable)]
        self.assign_add(momentum, (gradient - momentum) * (1 - self.beta_1))
        self.assign_add(velocity, (ops.square(gradient) - velocity) * (1 - self.beta_2))
        denominator = ops.sqrt(velocity / (1 - ops.power(self.beta_2, step))) + self.epsilon
        self.assign_sub(variable, rate * (momentum / (1 - ops.power(self.beta_1, step))) / denominator)

    def get_config(self):
        return {**super().get_config(), "l2": self.l2}


def build_optimizer(name: str = "adamw", *, learning_rate: Any, weight_decay: float) -> keras.optimizers.Optimizer:
    """name: "adamw" (Loshchilov and Hutter 2019, arXiv:1711.05101), where biases and batch norm's scales and offsets do not
    decay, or "adam": TorchAdam, whose weight_decay is L2 on everything, as in PyTorch.
    """
    if name == "adam":
        return TorchAdam(learning_rate, l2=weight_decay)
    optimizer = keras.optimizers.AdamW(learning_rate=learning_rate, weight_decay=weight_decay)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def warmup_steps(epochs: float, steps_per_epoch: int) -> int:
    """Returns the number of steps that a number of epochs, not necessarily whole, takes."""
    return math.ceil(epochs * steps_per_epoch)
