"""Keras's optimizers with what torch's parameter groups are for: which variables decay, and how fast the backbone learns."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from kseg.models.initializers import FewCompilations
from kseg.runtime.tracing import is_traced, traced_once

_Mixin: Any = object  # a class of Any, so that a type checker takes what ParamGroups finds in the class after it


class ParamGroups(_Mixin):
    """What kseg's optimizers add to the Keras optimizer that stands after this class among their bases.

    l2: added to the gradient as l2 * w, after clipping: PyTorch's weight_decay. Keras's own is decoupled: w -= rate * decay * w.
    decay_on: what either kind of decay is for: "all", or "weights", which leaves out biases and the scales and offsets of
    norms (every variable of one dimension, as timm has it).
    backbone: which of the trainable variables, counted in the model's order, are the backbone's. backbone_multiplier: their
    learning rate, decoupled decay included, is the optimizer's times this.
    freezes_backbone: whether backbone_frozen will be set; then the number of the backbone's first update is remembered, so that
    Adam's correction of its young averages is right for them (without it, their first updates are up to six times too big).

    Set backbone_frozen while it is not to be updated, before the step is traced; its gradients are then not even computed.
    averages_in_model says that swap_averages has put the averaged weights (use_ema) into the model.
    """

    backbone_frozen = False
    averages_in_model = False
    _start: Any = None  # in the update of the backbone: the update that counts as its first

    def __init__(self, *args, l2=0.0, decay_on="all", backbone=(), backbone_multiplier=1.0, freezes_backbone=False, **kwargs):
        super().__init__(*args, **kwargs)
        self._slots = {}
        self.l2, self.decay_on = l2, decay_on
        self.backbone, self.backbone_multiplier = tuple(backbone), backbone_multiplier
        self.freezes_backbone = freezes_backbone

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._backbone_keys = {self._var_key(variables[i]) for i in self.backbone}
        if self.freezes_backbone:
            self._thawed_at = self.add_variable((), dtype="int", name="unfreeze_step")

    def add_variable_from_reference(self, reference_variable, name=None, initializer="zeros"):
        variable = super().add_variable_from_reference(reference_variable, name, FewCompilations(initializer))
        self._slots.setdefault(self._var_key(reference_variable), []).append(variable)
        return variable

    @property
    def iterations(self):
        """Updates so far; while the backbone is updated, its own."""
        return super().iterations if self._start is None else super().iterations - self._start

    def apply(self, grads, trainable_variables=None):
        if not self.backbone_frozen:
            super().apply(grads, trainable_variables)
            return
        if not self.built:
            self.build(trainable_variables)
        variables = self._trainable_variables if trainable_variables is None else trainable_variables
        pairs = [(gradient, variable) for gradient, variable in zip(grads, variables, strict=True) if not self._slow(variable)]
        super().apply([gradient for gradient, _ in pairs], [variable for _, variable in pairs])
        self._thawed_at.assign(self._iterations)

    def _slow(self, variable):
        return self._var_key(variable) in self._backbone_keys

    def _decays(self, variable):
        return self.decay_on == "all" or len(variable.shape) > 1

    def _apply_weight_decay(self, variables):
        if not self.weight_decay:
            return
        for variable in variables:
            if self._decays(variable):
                rate = self.learning_rate * self.backbone_multiplier if self._slow(variable) else self.learning_rate
                rate, decay = ops.cast(rate, variable.dtype), ops.cast(self.weight_decay, variable.dtype)
                variable.assign(variable - variable * decay * rate)

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        if self.l2:
            grads = [
                ops.cast(gradient, variable.dtype) + self.l2 * variable if self._decays(variable) else gradient
                for gradient, variable in zip(grads, trainable_variables, strict=True)
            ]
        pairs = list(zip(grads, trainable_variables, strict=True))
        slow = [pair for pair in pairs if self._slow(pair[1])]
        if not slow or (self.backbone_multiplier == 1 and not self.freezes_backbone):
            self._update(pairs, learning_rate)
            return
        quick = [pair for pair in pairs if not self._slow(pair[1])]
        if quick:
            self._update(quick, learning_rate)
        if self.freezes_backbone:
            self._start = ops.floor_divide(self._thawed_at, self.gradient_accumulation_steps or 1)
        self._update(slow, learning_rate * self.backbone_multiplier)
        self._start = None

    def _update(self, pairs, learning_rate):
        """Keras's update of the variables of pairs (gradient, variable); in a JAX program traced once for all that are alike."""
        if not is_traced(pairs[0][0]):
            super()._backend_update_step(*zip(*pairs, strict=True), learning_rate)
            return
        learning_rate = ops.convert_to_tensor(learning_rate)
        updates = {}
        for gradient, variable in pairs:
            own = [variable, *self._slots.get(self._var_key(variable), [])]
            alike = variable.shape, variable.dtype, gradient.dtype
            if alike not in updates:
                updates[alike] = self._update_of(own)
            values = updates[alike](gradient, [v.value for v in own], self._iterations.value, learning_rate)
            for v, value in zip(own, values, strict=True):
                v.assign(value)

    def _update_of(self, own):
        """Returns f(gradient, values, iterations, learning_rate), for all variables like own[0]; own: it and its slots."""

        def update(gradient, values, iterations, learning_rate):
            mapping = [*zip(own, values, strict=True), (self._iterations, iterations)]
            with keras.StatelessScope(mapping) as scope:
                self.update_step(gradient, own[0], learning_rate)
            return [scope.get_current_value(v) for v in own]

        return traced_once(update)

    def _update_model_variables_moving_average(self, trainable_variables):
        """Keras would average in every step, also in those that only accumulate; and a m + w (1 - m) is not w where both are."""
        every, step = self.gradient_accumulation_steps or 1, self._iterations + 1
        share = ops.where(step <= every, 1.0, 1.0 - self.ema_momentum)  # the first update's weights are the first average
        share = ops.where(ops.equal(step % every, 0), share, 0.0)
        for variable, average in zip(trainable_variables, self._model_variables_moving_average, strict=True):
            average.assign(average + ops.cast(share, variable.dtype) * (variable - average))

    def swap_averages(self) -> None:
        """Exchanges the model's weights and their averages, exactly, on every backend. Call it outside the step."""
        for variable, average in zip(self._trainable_variables, self._model_variables_moving_average, strict=True):
            value = ops.copy(variable.value)
            variable.assign(average)
            average.assign(value)
        self.averages_in_model = not self.averages_in_model

    def finalize_variable_values(self, var_list):
        """Keras's fit ends with this: it puts the averages into the model, where they may be already. Keras's own would leave a
        weight and its average one buffer, of which a later step on JAX could not dispose twice.
        """
        if self.use_ema and not self.averages_in_model:
            for variable, average in zip(self._trainable_variables, self._model_variables_moving_average, strict=True):
                variable.assign(ops.copy(average.value))

    def get_config(self):
        return {
            **super().get_config(),
            "l2": self.l2,
            "decay_on": self.decay_on,
            "backbone": list(self.backbone),
            "backbone_multiplier": self.backbone_multiplier,
            "freezes_backbone": self.freezes_backbone,
        }


@keras.saving.register_keras_serializable("kseg")
class AdamW(ParamGroups, keras.optimizers.AdamW):
    """keras.optimizers.AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) with ParamGroups' arguments."""


@keras.saving.register_keras_serializable("kseg")
class SGD(ParamGroups, keras.optimizers.SGD):
    """keras.optimizers.SGD with ParamGroups' arguments. The learning rate is inside its momentum: v = momentum * v - rate * g;
    w += v. torch.optim.SGD has it outside, which is the same as long as the rate does not change.
    """


@keras.saving.register_keras_serializable("kseg")
class Lion(ParamGroups, keras.optimizers.Lion):
    """keras.optimizers.Lion (Chen et al. 2023, arXiv:2302.06675) with ParamGroups' arguments."""


@keras.saving.register_keras_serializable("kseg")
class TorchAdam(ParamGroups, keras.optimizers.Adam):
    """Adam (Kingma and Ba 2015, arXiv:1412.6980) as torch.optim.Adam computes it, with ParamGroups' arguments.

    m and v follow g and g^2; w -= rate * (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + epsilon). Keras's Adam adds epsilon before v
    is corrected.
    """

    def __init__(self, learning_rate=1e-3, l2=0.0, epsilon=1e-8, name="torch_adam", **kwargs):
        super().__init__(learning_rate=learning_rate, l2=l2, epsilon=epsilon, name=name, **kwargs)

    def update_step(self, gradient, variable, learning_rate):
        step = ops.cast(self.iterations + 1, variable.dtype)
        rate = ops.cast(learning_rate, variable.dtype)
        gradient = ops.cast(gradient, variable.dtype)
        momentum = self._momentums[self._get_variable_index(variable)]
        velocity = self._velocities[self._get_variable_index(variable)]
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
    backbone_multiplier: float = 1.0,
    freezes_backbone: bool = False,
) -> keras.optimizers.Optimizer:
    """Returns an optimizer with what it decays, clips, averages and accumulates.

    name: "adamw" and "lion", whose weight_decay is decoupled, or "adam" (TorchAdam) and "sgd", whose weight_decay is L2 in the
    gradient, as in PyTorch. momentum: sgd's.
    weight_decay_on: "all"; "weights", that is without biases, scales and offsets; "auto": weights where the decay is decoupled,
    else all, as in PyTorch.
    clip_norm: largest norm of all gradients together; 0: any. ema: momentum of the averaged weights; 0: none.
    accumulate_steps: steps whose gradients are averaged to one update.
    backbone, backbone_multiplier, freezes_backbone: see ParamGroups.
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
