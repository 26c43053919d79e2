"""Turns a Keras model into a pure function for JAX code: jit, grad, vmap, checkpoint, shard_map and optax work with it.

Variables are flat dicts of arrays by variable path ("encoder_layer1_0_conv1/kernel"), the same in every process. `nested` turns
them into Flax's nested dicts.
"""

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from kseg.utils.errors import KsegError

Tree = dict[str, Any]
_SEED = "seed_generator_state"
"""Name of the variable of a keras.random.SeedGenerator. Its path has a number that differs between processes."""


def functionalize(model: keras.Model) -> tuple[Callable[..., tuple[Any, Tree]], Tree, Tree]:
    """Returns (apply, params, state) of a built model: `logits, state = apply(params, state, images, training=False, rng=None)`.

    params: the trainable variables. state: the others, such as batch norm's moving mean and variance, and frozen variables.
    Both are copies, so they can be donated.

    apply is pure: it neither reads nor changes the model's values, and works under all transformations of JAX.
    images: [B, H, W, 3] RGB in 0..255, uint8 or float. logits: float32 [B, H, W, num_classes], or a dict of them for a model with
    more heads. The returned state is updated if training, else unchanged.
    training: a Python bool, static under jit. True uses the batch's statistics in batch norm and turns dropout on.
    rng: a JAX key, for training only. All random layers draw from it, each from its own fold, so the same key gives the same
    logits. Keras's own seed variables are not part of the state.

    Raises KsegError on another backend than JAX, for a model that is not built, and for two variables with the same path. apply
    raises KsegError if params or state have missing, unknown or misshapen variables, and if random layers train without rng.
    """
    if keras.backend.backend() != "jax":
        raise KsegError(f"functionalize needs Keras on JAX, not on {keras.backend.backend()}; set KERAS_BACKEND=jax")
    import jax
    import jax.numpy as jnp

    trainable, others, seeds = _variables(model)

    def apply(params: Tree, state: Tree, images: Any, training: bool = False, rng: Any = None) -> tuple[Any, Tree]:
        _check("params", params, trainable)
        _check("state", state, others)
        if training and seeds and rng is None:
            raise KsegError("the model has random layers (dropout): pass rng=jax.random.key(...) with training=True")
        values = {id(trainable[path]): params[path] for path in trainable}
        values |= {id(others[path]): state[path] for path in others}
        for number, seed in enumerate(seeds):
            values[id(seed)] = (
                jax.random.bits(jax.random.fold_in(rng, number), (2,), "uint32") if training else jnp.zeros(2, "uint32")
            )
        logits, changed = model.stateless_call(
            [values[id(variable)] for variable in model.trainable_variables],
            [values[id(variable)] for variable in model.non_trainable_variables],
            images,
            training=training,
        )
        changed = {id(variable): value for variable, value in zip(model.non_trainable_variables, changed, strict=True)}
        return logits, {path: changed[id(variable)] for path, variable in others.items()}

    return apply, _copies(trainable), _copies(others)


def assign(model: keras.Model, params: Mapping[str, Any], state: Mapping[str, Any] | None = None) -> None:
    """Copies params, and state if given, into the model that functionalize took, or one of the same architecture.

    The values may be anything that numpy can read. Raises KsegError, before anything is written, for missing, unknown or
    misshapen variables.
    """
    trainable, others, _ = _variables(model)
    _check("params", params, trainable)
    if state is not None:
        _check("state", state, others)
    for variables, values in ((trainable, params), (others, state or {})):
        for path, value in values.items():
            variables[path].assign(np.array(value))  # to the model's device, even if the value is sharded


def nested(tree: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Turns {"encoder_layer1_0_conv1/kernel": ...} into {"encoder_layer1_0_conv1": {"kernel": ...}}, the form of Flax's trees.

    A layer's name is its torch module path with "_" for ".". A convolution's kernel is [kh, kw, in, out], as in Flax. Batch norm
    has gamma and beta where Flax has scale and bias.
    """
    result: dict[str, Any] = {}
    for path, value in tree.items():
        *parents, name = path.split("/")
        node = result
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    return result


def flat(tree: Mapping[str, Any]) -> Tree:
    """Inverts nested: turns {"a": {"b": value}} into {"a/b": value}, at any depth."""
    result: Tree = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            result |= {f"{name}/{path}": leaf for path, leaf in flat(value).items()}
        else:
            result[name] = value
    return result


def _variables(model: keras.Model) -> tuple[Tree, Tree, list[Any]]:
    """Returns the trainable variables and the others, by path, and the seed variables of random layers."""
    if not model.built:
        raise KsegError(f"model {model.name} is not built; call it on a batch first, or build it from keras.Input")
    seeds = [variable for variable in model.non_trainable_variables if variable.name == _SEED]
    paths = [variable.path for variable in model.variables if variable.name != _SEED]
    if len(set(paths)) < len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise KsegError(f"model {model.name} has two variables {twice}; give their layers different names")
    trainable = {variable.path: variable for variable in model.trainable_variables}
    others = {variable.path: variable for variable in model.non_trainable_variables if variable.name != _SEED}
    return trainable, others, seeds


def _copies(variables: Mapping[str, Any]) -> Tree:
    return {path: keras.ops.copy(variable.value) for path, variable in variables.items()}


def _check(what: str, values: Mapping[str, Any], variables: Mapping[str, Any]) -> None:
    if missing := [path for path in variables if path not in values]:
        raise KsegError(f"{what} lack {_some(missing)}, which the model has")
    if unknown := [path for path in values if path not in variables]:
        raise KsegError(f"{what} have {_some(unknown)}, which the model does not have")
    for path, variable in variables.items():
        if (shape := np.shape(values[path])) != tuple(variable.shape):
            raise KsegError(f"{what}: {path} has shape {shape}, the model's is {tuple(variable.shape)}")


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
