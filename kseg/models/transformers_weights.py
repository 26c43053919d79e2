"""The weights in folders of Hugging Face transformers. A head of one class, with a sigmoid, has two classes here."""

import math

import keras

from kseg.models.folder_files import FolderFiles
from kseg.models.pytorch.load import load_torch_weights
from kseg.models.sharded_weights import read_weights
from kseg.models.smp_weights import two_classes
from kseg.utils.errors import KsegError

HEAD = "decode_head.classifier."
_MORE = 2**26  # bytes of a folder beside the weights of its model: the headers, an auxiliary head, buffers


def read_transformers_weights(model: keras.Model, files: FolderFiles) -> None:
    """Loads the weights of a folder. Raises KsegError, without changing the model, if they do not fit."""
    limit = 4 * sum(math.prod(weight.shape) for weight in model.weights) + _MORE
    state, shown = read_weights(files, limit)
    try:
        load_torch_weights(model, two_classes(state, model.output.shape[-1], HEAD))
    except KsegError as error:
        raise KsegError(f"{shown}: {error}") from None
