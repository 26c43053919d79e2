"""The class of backbones: a functional model that can be frozen or rematerialised while a model trains."""

import math
from dataclasses import dataclass
from typing import Any

import keras

from kseg.models.layers import register
from kseg.models.torch_layout import tensor_shapes
from kseg.utils.errors import KsegError


@register
class Backbone(keras.Model):
    """A functional model from images to features by level, with two settings for training.

    Set them before the train step is traced. Files do not keep them.

    frozen: the layers run in inference mode while the model around them trains.
    remat: the backward pass recomputes activations from a few kept ones (Chen et al. 2016, arXiv:1604.06174). Gradients and
    batch norm's statistics stay the same to rounding. Raises KsegError on another backend than JAX.
    """

    frozen = False
    registered_name: str | None = None
    """Its name in the registry. None for one that build_backbone did not build, or that an earlier version saved."""
    unread: dict[str, dict[str, list[int]]] = {}
    """Layers of the family that this one lacks, as the decoder reads no level so deep: the shapes of their torch tensors."""
    _plan: "_Plan | None" = None

    def up_to(self, deepest: str) -> "Backbone":
        """Returns a backbone of the same layers that ends at a level, such as "c3"."""
        kept = {level: x for level, x in self.output.items() if level <= deepest}
        if len(kept) == len(self.output):
            return self
        shorter = Backbone(self.inputs[0], kept, name=self.name)
        shorter.registered_name = self.registered_name
        own = {layer.name for layer in shorter.layers}
        shorter.unread = {
            layer.name: {name: [*shape] for name, shape in tensor_shapes(layer).items()}
            for layer in self.layers
            if layer.weights and layer.name.startswith("encoder_") and layer.name not in own  # keras-cv's have no torch layout
        }
        return shorter

    def get_config(self):
        own = {"unread": self.unread, "registered_name": self.registered_name}
        return {**super().get_config(), **{name: value for name, value in own.items() if value}}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        own = {name: config.pop(name) for name in ("unread", "registered_name") if name in config}
        backbone = super().from_config(config, custom_objects)
        for name, value in own.items():
            setattr(backbone, name, value)
        return backbone

    @property
    def remat(self) -> bool:
        return self._plan is not None

    @remat.setter
    def remat(self, value: bool) -> None:
        # Keras's RematScope does not help: it wraps single layers, which saves nothing, and batch norm's assignments fail in it.
        if value and keras.backend.backend() != "jax":
            raise KsegError(f"--remat needs the JAX backend, and this is {keras.backend.backend()}; leave it out")
        self._plan = _Plan(_segments(self)) if value else None

    def call(self, inputs, training=None, mask=None):
        training = bool(training) and not self.frozen
        if self._plan is None or not training:
            return super().call(inputs, training=training, mask=mask)
        values = {id(self.inputs[0]): inputs}
        for segment in self._plan.segments:
            outputs = _run_rematerialised(segment, values[id(segment.source)])
            values |= zip(map(id, segment.targets), outputs, strict=True)
        return {level: values[id(tensor)] for level, tensor in self.output.items()}


@dataclass(frozen=True)
class _Segment:
    """A part of a backbone's graph between two tensors through which all data flows.

    source: its input. targets: its outputs, features among them. Both are symbolic tensors of the graph. model: computes targets
    from source with the backbone's layers.
    """

    source: Any
    targets: list[Any]
    model: Any


@dataclass(frozen=True)
class _Plan:
    """Hides the segments from Keras, which would track their models and save their variables a second time."""

    segments: list[_Segment]


def _segments(backbone: Backbone) -> list[_Segment]:
    """Cuts a graph of n operations into about sqrt(n) segments, where a single tensor is alive, as between residual blocks."""
    features = {id(tensor): tensor for tensor in backbone.output.values()}
    operations = _ordered(backbone, features)
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


def _ordered(backbone: Backbone, features: dict[int, Any]) -> list[Any]:
    """Returns the operations in the order of the graph, those that only make a feature directly behind their input.

    Keras has such operations at the end, as nothing waits for them: their inputs would be kept until then.
    """
    operations = [operation for operation in backbone.operations if not isinstance(operation, keras.layers.InputLayer)]
    used = {id(x) for operation in operations for x in keras.tree.flatten(operation.input)}
    for operation in [operation for operation in operations if id(operation.output) in features.keys() - used]:
        inputs = {id(x) for x in keras.tree.flatten(operation.input)}
        operations.remove(operation)
        behind = [i for i, other in enumerate(operations, start=1) if id(other.output) in inputs]
        operations.insert(max(behind, default=0), operation)
    return operations


def _run_rematerialised(segment: _Segment, inputs: Any) -> list[Any]:
    """Returns the values of the segment's targets. Only the inputs are kept for the backward pass."""
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
