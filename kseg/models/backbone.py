"""What a backbone does beyond its graph while a model trains: stay as it is, or save memory."""

import math
from dataclasses import dataclass
from typing import Any

import keras

from kseg.models.layers import register
from kseg.utils.errors import KsegError


@register
class Backbone(keras.Model):
    """A functional model from images to features by level, with two settings for a run (files do not hold them). Set them before
    the step is traced.

    frozen: its layers act as in inference although the model around them trains.
    remat: the backward pass computes activations anew from those at a few places, which alone are kept (Chen et al. 2016,
    arXiv:1604.06174). Gradients and batch norm's statistics stay the same to rounding. JAX only: elsewhere KsegError.
    """

    frozen = False
    _plan: "_Plan | None" = None

    @property
    def remat(self) -> bool:
        return self._plan is not None

    @remat.setter
    def remat(self, value: bool) -> None:
        # Keras's RematScope does not serve: it wraps single layers, which saves nothing, and batch norm's assignments fail in it.
        if value and keras.backend.backend() != "jax":
            raise KsegError(f"--remat needs the JAX backend, and this is {keras.backend.backend()}; leave it out")
        self._plan = _Plan(_segments(self)) if value else None

    def call(self, inputs, training=None, mask=None):
        training = bool(training) and not self.frozen
        if self._plan is None or not training:
            return super().call(inputs, training=training, mask=mask)
        values = {id(self.inputs[0]): inputs}
        for segment in self._plan.segments:
            outputs = _recomputed(segment, values[id(segment.source)])
            values |= zip(map(id, segment.targets), outputs, strict=True)
        return {level: values[id(tensor)] for level, tensor in self.output.items()}


@dataclass(frozen=True)
class _Segment:
    """A part of a backbone's graph through whose ends everything goes, but for the features that it makes.

    source, targets: symbolic tensors of the graph. model: from the one to the others; it shares the backbone's layers.
    """

    source: Any
    targets: list[Any]
    model: Any


@dataclass(frozen=True)
class _Plan:
    """Holds the segments where Keras does not look for layers: it would save their variables once more."""

    segments: list[_Segment]


def _segments(backbone: Backbone) -> list[_Segment]:
    """Cuts the graph where one tensor alone is alive, as between residual blocks, into about the square root of its length."""
    features = {id(tensor): tensor for tensor in backbone.output.values()}
    operations = [operation for operation in backbone.operations if not isinstance(operation, keras.layers.InputLayer)]
    last_use = {id(x): i for i, operation in enumerate(operations) for x in keras.tree.flatten(operation.input)}
    length = math.isqrt(len(operations))
    segments: list[_Segment] = []
    source, made, since = backbone.inputs[0], [], 0
    alive: set[int] = set()
    for i, operation in enumerate(operations):
        output = operation.output
        alive = {key for key in alive if last_use[key] > i}
        if last_use.get(id(output), i) > i:
            alive.add(id(output))
        if id(output) in features:
            made.append(output)
        source_is_dead = last_use[id(source)] <= i
        end = i == len(operations) - 1
        if end or (source_is_dead and alive == {id(output)} and i - since >= length):
            targets = made if end or id(output) in features else [*made, output]
            segments.append(_Segment(source, targets, keras.Model(source, targets)))
            source, made, since = output, [], i
    return segments


def _recomputed(segment: _Segment, inputs: Any) -> list[Any]:
    """Returns the values of the segment's targets; only the inputs are kept for the backward pass."""
    import jax

    trainable, state = segment.model.trainable_variables, segment.model.non_trainable_variables

    def run(trainable_values, state_values, x):
        mapping = [*zip(trainable, trainable_values, strict=True), *zip(state, state_values, strict=True)]
        with keras.StatelessScope(mapping) as scope:
            outputs = segment.model.call(x, training=True)
        return keras.tree.flatten(outputs), [scope.get_current_value(variable) for variable in state]

    outputs, values = jax.checkpoint(run)([v.value for v in trainable], [v.value for v in state], inputs)
    for variable, value in zip(state, values, strict=True):
        variable.assign(value)
    return outputs
