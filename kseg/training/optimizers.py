"""Keras's optimizers with two features of PyTorch's parameter groups: which variables decay, and how fast the backbone learns.

To add an optimizer, define a class like those at the end of this file, and name it in build_optimizer and in the flag
--optimizer (kseg/config/train.py).
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from kseg.models.initializers import FewCompilations
from kseg.runtime.tracing import is_traced, traced_once

_Mixin: Any = object  # of type Any, so that type checkers accept calls of methods of the Keras optimizer


class ParamGroups(_Mixin):
    """Adds parameter groups to a Keras optimizer. It stands before the Keras optimizer among the bases of a class.

    Before the step is traced, set backbone_frozen to leave the backbone as it is; its gradients are then not computed.

    Args:
        l2: PyTorch's weight_decay: l2 * w is added to the gradient, after clipping. Keras's weight_decay is decoupled:
            w -= rate * decay * w.
        decay_on: the variables that either kind of decay affects: "all", or "weights", which leaves out variables of one
            dimension (biases, and scales and offsets of norms), as in timm.
        backbone: indices of the backbone's variables among the trainable variables of the model.
        backbone_multiplier: multiplies the learning rate of the backbone, for decoupled decay too: one number, or one for each
            of its variables.
        freezes_backbone: True if backbone_frozen will be set. The optimizer then remembers when it unfreezes the backbone, so
            that Adam corrects its young averages as in a first update. Without this, updates are up to six times too large.
        use_ema: keeps an average of each variable: it starts at the first update's result, then a += (1 - ema_momentum) * (w -
            a) with every update. swap_averages exchanges weights and averages. Keras's own average differs: it counts steps
            that only accumulate gradients, and rounding changes it even if w = a.
    """

    backbone_frozen = False
    averages_in_model = False
    """True while swap_averages has put the averages into the model."""
    _backbone_start: Any = None  # while the backbone is updated: the number of its first update

    def __init__(
        self,
        *args,
        l2=0.0,
        decay_on="all",
        backbone=(),
        backbone_multiplier=1.0,
        freezes_backbone=False,
        use_ema=False,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.l2, self.decay_on = l2, decay_on
        self.backbone, self.backbone_multiplier = tuple(backbone), backbone_multiplier
        each = (
            [backbone_multiplier] * len(self.backbone) if isinstance(backbone_multiplier, (int, float)) else backbone_multiplier
        )
        self._multipliers = dict(zip(self.backbone, each, strict=True))
        self.freezes_backbone = freezes_backbone
        self.averages_weights = use_ema  # Keras's use_ema stays off
        self.slots: dict[str, list[Any]] = {}
        """Variables of the optimizer such as "momentum" by name, one for each of the model's."""

    def build(self, variables):
        if self.built:
            return
        if self.averages_weights:
            self.add_optimizer_variables(variables, "average")
        super().build(variables)
        if self.freezes_backbone:
            self._unfreeze_step = self.add_variable((), dtype="int", name="unfreeze_step")

    def add_variable_from_reference(self, reference_variable, name=None, initializer="zeros"):
        variable = super().add_variable_from_reference(reference_variable, name, FewCompilations(initializer))
        self.slots.setdefault(name, []).append(variable)
        return variable

    @property
    def iterations(self):
        """The number of updates so far; while the backbone is updated, the number of its own."""
        return super().iterations if self._backbone_start is None else super().iterations - self._backbone_start

    @property
    def model_variables(self):
        """The variables to train."""
        return self._trainable_variables  # Private in Keras. A list of our own would be saved as variables of the optimizer.

    @property
    def _steps(self):
        return self._iterations  # Private in Keras. Its public `iterations` counts updates, not steps.

    def _index(self, variable):
        return self._get_variable_index(variable)  # Private in Keras, but how its documentation finds a variable's slots.

    def _in_backbone(self, variable):
        return self._index(variable) in self.backbone

    def _rate(self, learning_rate, variable):
        multiplier = self._multipliers.get(self._index(variable), 1)
        return learning_rate if multiplier == 1 else learning_rate * multiplier

    def _decays(self, variable):
        return self.decay_on == "all" or len(variable.shape) > 1

    def apply(self, grads, trainable_variables=None):
        if self.backbone_frozen:
            if not self.built:
                self.build(trainable_variables)
            variables = self.model_variables if trainable_variables is None else trainable_variables
            pairs = [pair for pair in zip(grads, variables, strict=True) if not self._in_backbone(pair[1])]
            super().apply([gradient for gradient, _ in pairs], [variable for _, variable in pairs])
            self._unfreeze_step.assign(self._steps)
        else:
            super().apply(grads, trainable_variables)
        if self.averages_weights:
            self._update_averages()

    def _apply_weight_decay(self, variables):
        """Private in Keras: its decoupled decay. Overridden because Keras has one learning rate for all variables."""
        if not self.weight_decay:
            return
        for variable in variables:
            if self._decays(variable):
                rate = self._rate(self.learning_rate, variable)
                rate, decay = ops.cast(rate, variable.dtype), ops.cast(self.weight_decay, variable.dtype)
                variable.assign(variable - variable * decay * rate)

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        """Private in Keras: its only method that gets the clipped gradients of all variables. Updates group by group."""
        if self.l2:
            grads = [
                ops.cast(gradient, variable.dtype) + self.l2 * variable if self._decays(variable) else gradient
                for gradient, variable in zip(grads, trainable_variables, strict=True)
            ]
        pairs = list(zip(grads, trainable_variables, strict=True))
        if not self.freezes_backbone:
            self._update(pairs, learning_rate)
            return
        self._update([pair for pair in pairs if not self._in_backbone(pair[1])], learning_rate)
        self._backbone_start = ops.floor_divide(self._unfreeze_step, self.gradient_accumulation_steps or 1)
        self._update([pair for pair in pairs if self._in_backbone(pair[1])], learning_rate)
        self._backbone_start = None

    def _update(self, pairs, learning_rate):
        """Updates the variables of pairs (gradient, variable). JAX traces Keras's update once for each shape and dtype."""
        if not pairs:
            return
        if not is_traced(pairs[0][0]):
            groups: dict[float, list] = {}
            for pair in pairs:
                groups.setdefault(self._multipliers.get(self._index(pair[1]), 1), []).append(pair)
            for group in groups.values():
                super()._backend_update_step(*zip(*group, strict=True), self._rate(learning_rate, group[0][1]))
            return
        learning_rate = ops.convert_to_tensor(learning_rate)
        updates = {}
        for gradient, variable in pairs:
            own = [variable, *(slots[self._index(variable)] for slots in self.slots.values())]
            kind = variable.shape, variable.dtype, gradient.dtype
            if kind not in updates:
                updates[kind] = self._traced_update(own)
            rate = self._rate(learning_rate, variable)
            values = updates[kind](gradient, [v.value for v in own], self._steps.value, rate)
            for v, value in zip(own, values, strict=True):
                v.assign(value)

    def _traced_update(self, own):
        """Returns f(gradient, values, steps, learning_rate) for variables like own[0]. own: a variable and its slots."""

        def update(gradient, values, steps, learning_rate):
            mapping = [*zip(own, values, strict=True), (self._steps, steps)]
            with keras.StatelessScope(mapping) as scope:
                self.update_step(gradient, own[0], learning_rate)
            return [scope.get_current_value(v) for v in own]

        return traced_once(update)

    def _update_averages(self):
        every = self.gradient_accumulation_steps or 1
        share = ops.where(self._steps <= every, 1.0, 1.0 - self.ema_momentum)
        share = ops.where(ops.equal(self._steps % every, 0), share, 0.0)  # other steps only accumulate
        for variable, average in zip(self.model_variables, self.slots["average"], strict=True):
            average.assign(average + ops.cast(share, variable.dtype) * (variable - average))

    def swap_averages(self) -> None:
        """Exchanges the model's weights and their averages, without rounding. Call it outside the step."""
        for variable, average in zip(self.model_variables, self.slots["average"], strict=True):
            value = ops.copy(variable.value)
            variable.assign(average)
            average.assign(value)
        self.averages_in_model = not self.averages_in_model

    def finalize_variable_values(self, var_list):
        """Puts the averages into the model at the end of Keras's fit, unless they are there already.

        They are copied: JAX donates the buffers of a step, and cannot donate one for two variables.
        """
        if self.averages_weights and not self.averages_in_model:
            for variable, average in zip(self.model_variables, self.slots["average"], strict=True):
                variable.assign(ops.copy(average.value))

    def get_config(self):
        return {
            **super().get_config(),
            "l2": self.l2,
            "decay_on": self.decay_on,
            "backbone": list(self.backbone),
            "backbone_multiplier": self.backbone_multiplier,
            "freezes_backbone": self.freezes_backbone,
            "use_ema": self.averages_weights,
        }


@keras.saving.register_keras_serializable("kseg")
class AdamW(ParamGroups, keras.optimizers.AdamW):
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101): keras.optimizers.AdamW with the arguments of ParamGroups."""


@keras.saving.register_keras_serializable("kseg")
class SGD(ParamGroups, keras.optimizers.SGD):
    """keras.optimizers.SGD with the arguments of ParamGroups.

    The learning rate is inside the momentum: v = momentum * v - rate * g; w += v. In torch.optim.SGD it is outside, which is
    the same while the rate is constant.
    """


@keras.saving.register_keras_serializable("kseg")
class Lion(ParamGroups, keras.optimizers.Lion):
    """Lion (Chen et al. 2023, arXiv:2302.06675): keras.optimizers.Lion with the arguments of ParamGroups."""


@keras.saving.register_keras_serializable("kseg")
class TorchAdam(ParamGroups, keras.optimizers.Adam):
    """Adam (Kingma and Ba 2015, arXiv:1412.6980) as torch.optim.Adam computes it, with the arguments of ParamGroups.

    m and v follow g and g^2; w -= rate * (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + epsilon). Keras's Adam adds epsilon before
    v is corrected.
    """

    def __init__(self, learning_rate=1e-3, l2=0.0, epsilon=1e-8, name="torch_adam", **kwargs):
        super().__init__(learning_rate=learning_rate, l2=l2, epsilon=epsilon, name=name, **kwargs)

    def update_step(self, gradient, variable, learning_rate):
        step = ops.cast(self.iterations + 1, variable.dtype)
        rate = ops.cast(learning_rate, variable.dtype)
        gradient = ops.cast(gradient, variable.dtype)
        momentum, velocity = (self.slots[name][self._index(variable)] for name in ("momentum", "velocity"))
        self.assign_add(momentum, (gradient - momentum) * (1 - self.beta_1))
        self.assign_add(velocity, (ops.square(gradient) - velocity) * (1 - self.beta_2))
        denominator = ops.sqrt(velocity / (1 - ops.power(self.beta_2, step))) + self.epsilon
        self.assign_sub(variable, rate * (momentum / (1 - ops.power(self.beta_1, step))) / denominator)


def build_optimizer(
    name: str = "adamw",
    *,
    learning_rate: Any,
    weight_decay: float,
    weight_decay_on: str = "auto",
    momentum: float = 0.9,
    clip_norm: float = 0.0,
    ema: float = 0.0,
    accumulate_steps: int = 1,
    backbone: Sequence[int] = (),
    backbone_multiplier: float | Sequence[float] = 1.0,
    freezes_backbone: bool = False,
) -> keras.optimizers.Optimizer:
    """Returns one of kseg's optimizers.

    Args:
        name: "adamw" or "lion", with decoupled weight decay; "adam" (TorchAdam) or "sgd", with PyTorch's L2 decay.
        learning_rate: a number or a Keras schedule.
        weight_decay_on: "all"; "weights": without biases, scales and offsets; "auto": "weights" for decoupled decay, else "all",
            as in PyTorch.
        momentum: for sgd.
        clip_norm: the largest norm of all gradients together; 0: no limit.
        ema: the momentum of averaged weights; 0: no averages.
        accumulate_steps: averages the gradients of so many steps for one update.
        backbone, backbone_multiplier, freezes_backbone: as in ParamGroups.
    """
    decoupled = name in ("adamw", "lion")
    if weight_decay_on == "auto":
        weight_decay_on = "weights" if decoupled else "all"
    common: dict[str, Any] = {
        "learning_rate": learning_rate,
        "decay_on": weight_decay_on,
        "global_clipnorm": clip_norm or None,
        "use_ema": ema > 0,
        "ema_momentum": ema,
        "gradient_accumulation_steps": accumulate_steps if accumulate_steps > 1 else None,
        "backbone": backbone,
        "backbone_multiplier": backbone_multiplier,
        "freezes_backbone": freezes_backbone,
        **({"weight_decay": weight_decay} if decoupled else {"l2": weight_decay}),
    }
    if name == "adamw":
        return AdamW(**common)
    if name == "lion":
        return Lion(**common)
    if name == "sgd":
        return SGD(momentum=momentum, **common)
    return TorchAdam(**common)
