"""Describes a run before it starts, and the memory that it needs."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import psutil

from kseg.config import TrainConfig
from kseg.runtime.distribution import device_count
from kseg.runtime.environment import describe_devices
from kseg.runtime.memory import step_memory
from kseg.training.flops import count_flops, leaf_layers
from kseg.training.initial_weights import describe_weights


def describe_run(config: TrainConfig, model: keras.Model, data: str, steps: int, num_classes: int, where: Path | str) -> str:
    """Returns the lines at the head of a run: devices, model, its initial weights, data, steps.

    data: how much there is. steps: of an epoch. where: the run directory.
    """
    height, width = config.image_size
    parameters, trainable = model.count_params(), sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    flops = count_flops(model, config.image_size)
    precision = "/".join(sorted({layer.compute_dtype for layer in leaf_layers(model) if hasattr(layer, "kernel")}))
    selection = config.selection
    stopping = f", ends after {selection.early_stopping} epochs without a better one" if selection.early_stopping else ""
    synthetic = ["        drawn by kseg: a demonstration that needs no download, not a benchmark"]
    lines = [
        f"backend {describe_devices()}, {precision}",
        f"model   {config.model} on {config.backbone}, {abbreviate(parameters)} parameters ({abbreviate(trainable)} trainable)",
        f"weights {describe_weights(config)}",
        f"input   {height}x{width}, {abbreviate(flops)}FLOPs an image (forward)",
        f"data    {data}, {num_classes} classes",
        *(synthetic if config.data.dataset == "synthetic" else []),
        f"run     {config.epochs} epochs of {steps} steps, batch {config.batch_size}, into {where}",
        *_scale_lines(config),
        f"best    the epoch by {selection.monitor}{stopping}",
    ]
    return "\n".join(lines)


def _scale_lines(config: TrainConfig) -> list[str]:
    """Returns what validation sees, unless images are resized as in training."""
    if not (at_end := config.scale.evaluation()):
        return []
    after_epochs = config.scale.validation(config.image_size)
    return [f"scale   val_mean_iou by {after_epochs} side by side at the images' own size; the best epoch is scored {at_end}"]


def describe_memory(model: keras.Model, config: TrainConfig) -> str:
    """Returns two lines about the memory of a model that has trained a step: on the device, and in this machine's processes.

    Activations are XLA's figure for the compiled step without its arguments; other backends have none. Of many devices each
    needs this much, for its part of the batch.
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
    missing = "" if temporary is not None else ", without activations, which only JAX reports"
    each = ", ".join(f"{name} {abbreviate(value)}B" for name, value in parts.items())
    process = psutil.Process()
    workers = [child for child in process.children(recursive=True) if "kseg.data.loading.worker_process" in child.cmdline()]
    own, loading = process.memory_info().rss, sum(worker.memory_info().rss for worker in workers)
    return (
        f"memory  {each}: {abbreviate(sum(parts.values()))}B with batch {batch}{many}{missing}\n"
        f"host    this process {abbreviate(own)}B, {len(workers)} loading processes {abbreviate(loading)}B"
    )


def abbreviate(number: float) -> str:
    """Returns 1234567 as "1.23 M"."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:g} "


def _compiled_temporary(model, batch_size, image_size):
    """Returns the bytes that the training step needs besides its arguments and results; None on backends other than JAX."""
    if keras.backend.backend() != "jax":
        return None
    shape = (batch_size, *image_size)
    return step_memory(model, np.zeros((*shape, model.input_shape[-1]), "uint8"), np.zeros(shape, "uint8"))


def _bytes(variables):
    return sum(int(np.prod(v.shape)) * (2 if v.dtype == "bfloat16" else np.dtype(v.dtype).itemsize) for v in variables)
