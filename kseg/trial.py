"""Short runs that show whether a long one would work: --overfit_batches and --dry_run."""

from typing import Any

import keras
import numpy as np
import psutil

from kseg.config import TrainConfig
from kseg.data import Dataset
from kseg.data.order import epoch_order
from kseg.data.subset import Subset
from kseg.distribution import device_count
from kseg.memory import step_memory
from kseg.summary import abbreviate


def overfit_sets(dataset: Dataset, batches: int, batch_size: int, seed: int) -> tuple[Dataset, Dataset]:
    """Returns (training set, validation set), both of the images of the first `batches` batches that the run would see.

    The training set repeats them to the length of `dataset`: epochs, and with them the rate's schedule, stay what they are.
    A data set smaller than a batch is returned as it is.
    """
    order = epoch_order(len(dataset), batch_size, seed=seed, epoch=0)
    if not len(order):
        return dataset, dataset
    chosen = order[: batches * batch_size]
    return Subset(dataset, np.resize(chosen, len(order)).tolist()), Subset(dataset, chosen.tolist())


def first_batch(dataset: Dataset, batch_size: int) -> Dataset:
    """Returns the first `batch_size` samples, or all if there are fewer."""
    return Subset(dataset, range(min(batch_size, len(dataset))))


def describe_memory(model: keras.Model, config: TrainConfig) -> str:
    """Returns what a model that has trained a step needs, in two lines: on the device, and in the processes on this machine.

    Activations are what XLA says the compiled step needs besides its arguments; other backends than JAX do not say. Of many
    devices each needs as much, for its part of the batch.
    """
    batch, many = config.batch_size // device_count(), " on each device" if device_count() > 1 else ""
    optimizer: Any = model.optimizer
    parts = {
        "parameters": _bytes(model.weights),
        "gradients": _bytes(model.trainable_variables),
        "optimizer": _bytes(optimizer.variables),
    }
    if (temporary := _compiled_temporary(model, batch, config.image_size)) is not None:
        parts["activations"] = max(temporary - parts["gradients"], 0)
    known = "" if temporary is not None else ", without activations, which only JAX tells"
    each = ", ".join(f"{name} {abbreviate(value)}B" for name, value in parts.items())
    process = psutil.Process()
    workers = [child for child in process.children(recursive=True) if "kseg.data.worker" in child.cmdline()]
    ours, theirs = process.memory_info().rss, sum(worker.memory_info().rss for worker in workers)
    return (
        f"memory  {each}: {abbreviate(sum(parts.values()))}B with batch {batch}{many}{known}\n"
        f"host    this process {abbreviate(ours)}B, {len(workers)} loading processes {abbreviate(theirs)}B"
    )


def _compiled_temporary(model, batch_size, image_size):
    """Bytes that the training step takes beside its arguments and results; None where nobody says."""
    if keras.backend.backend() != "jax":
        return None
    shape = (batch_size, *image_size)
    return step_memory(model, np.zeros((*shape, model.input_shape[-1]), "uint8"), np.zeros(shape, "uint8"))


def _bytes(variables):
    return sum(int(np.prod(v.shape)) * (2 if v.dtype == "bfloat16" else np.dtype(v.dtype).itemsize) for v in variables)
