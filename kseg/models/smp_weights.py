"""The weights in segmentation_models.pytorch's folders. A head of one class, with a sigmoid, has two classes here."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kseg.models.backbone import Backbone
from kseg.models.pytorch.export import export_torch_weights
from kseg.models.pytorch.load import load_torch_weights, read_state_dict
from kseg.utils.errors import KsegError

HEAD = "segmentation_head.0."
_MORE = 2**25  # bytes of a file beside its model: the header, a classification head, parts of encoders that are not used


def max_smp_size(model: keras.Model) -> int:
    """Returns an upper bound of the size of smp's file of the model, in bytes."""
    shapes = [tuple(weight.shape) for weight in model.weights]
    for backbone in (layer for layer in model.layers if isinstance(layer, Backbone)):
        shapes += [tuple(shape) for tensors in backbone.unread.values() for shape in tensors.values()]
    return 4 * sum(map(math.prod, shapes)) + _MORE


def read_smp_weights(model: keras.Model, path: Path) -> None:
    """Loads smp's model.safetensors. Raises KsegError, without changing the model, if it does not fit."""
    if (size := path.stat().st_size) > (limit := max_smp_size(model)):
        raise KsegError(f"{path}: has {size} bytes; the model that config.json describes has at most {limit}")
    try:
        load_torch_weights(model, two_classes(read_state_dict(path), model.output.shape[-1]))
    except KsegError as error:
        shown = str(error)
        raise KsegError(shown if shown.startswith(str(path)) else f"{path}: {shown}") from None


def two_classes(state: Mapping[str, Any], classes: int, head: str = HEAD) -> dict[str, Any]:
    """Returns the state_dict with a head of one class x as one of two, whose logits are (0, x): the same probabilities."""
    found = dict(state)
    if classes == 2 and len(found.get(f"{head}weight", ())) == 1:
        for name in ("weight", "bias"):
            value = np.asarray(found[head + name])
            found[head + name] = np.concatenate([np.zeros_like(value), value])
    return found


def smp_state(model: keras.Model) -> tuple[dict[str, np.ndarray], bool]:
    """Returns smp's state_dict of a model, and True if its head became one of one class: if the logits of class 0 are 0."""
    state = export_torch_weights(model)
    head = {name: state[HEAD + name] for name in ("weight", "bias")}
    binary = len(head["bias"]) == 2 and not any(value[0].any() for value in head.values())
    if binary:
        state |= {HEAD + name: value[1:] for name, value in head.items()}
    return state, binary
