"""What a run is, said before it starts: model, data, steps, device, cost."""

import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import psutil

from kseg.config import TrainConfig
from kseg.runtime.distribution import device_count
from kseg.runtime.environment import describe_devices
from kseg.runtime.memory import step_memory


def count_flops(model: keras.Model, image_size: tuple[int, int]) -> int:
    """Returns the floating-point operations of one image's forward pass: two for each multiplication and addition of its
    convolutions, dense layers and attention products; what is done once a pixel (normalisation, activations, resizing) is left
    out, as is usual.

    Nothing is computed or compiled: Keras traces the model's shapes, on any backend.
    """
    channels = model.input_shape[-1]
    products = 0

    def counted(layer, call):
        def count(*arguments, **options):
            nonlocal products
            result = call(*arguments, **options)
            products += _products(layer, arguments[0], result)
            return result

        return count

    class Probe(keras.layers.Layer):
        def call(self, images):
            return model(images)

    layers = [layer for layer in _leaves(model) if hasattr(layer, "kernel") or hasattr(layer, "num_heads")]
    try:
        for layer in layers:
            object.__setattr__(layer, "call", counted(layer, layer.call))  # past Keras, which would track what it is given
        Probe().compute_output_spec(keras.KerasTensor((1, *image_size, channels), "float32"))
    finally:
        for layer in layers:
            if "call" in vars(layer):
                object.__delattr__(layer, "call")
    return 2 * products


def _leaves(layer):
    inner = layer.layers if isinstance(layer, keras.Model) else []
    return [leaf for part in inner for leaf in _leaves(part)] if inner else [layer]


def _products(layer, inputs, output):
    """Multiplications in a layer, for its input's and its output's shapes."""
    if not hasattr(layer, "kernel"):  # attention over the places of maps [B, H, W, C]: scores, then their weighted values
        query, key = inputs[0].shape, inputs[1].shape
        return 2 * int(np.prod(query)) * int(np.prod(key[1:3]))
    kernel = int(np.prod(layer.kernel.shape))
    if isinstance(layer, keras.layers.Conv2DTranspose):  # every input pixel meets the whole kernel
        return kernel * int(np.prod(inputs.shape[:-1]))
    return kernel * int(np.prod(output.shape[:-1]))


def describe_run(config: TrainConfig, model: keras.Model, images: tuple[int, int], num_classes: int, where: Path | str) -> str:
    """Returns the lines that stand at the head of a run. images: numbers of training and of validation images. where: the run's
    folder.
    """
    height, width = config.image_size
    steps = images[0] // config.batch_size
    parameters, trainable = model.count_params(), sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    flops = count_flops(model, config.image_size)
    precision = "/".join(sorted({layer.compute_dtype for layer in _leaves(model) if hasattr(layer, "kernel")}))
    selection = config.selection
    stopping = f", ends after {selection.early_stopping} epochs without a better one" if selection.early_stopping else ""
    drawn = ["        drawn by kseg: a demonstration that needs no download, not a benchmark"]
    lines = [
        f"backend {describe_devices()}, {precision}",
        f"model   {config.model} on {config.backbone}, {abbreviate(parameters)} parameters ({abbreviate(trainable)} trainable)",
        f"input   {height}x{width}, {abbreviate(flops)}FLOPs an image (forward)",
        f"data    {images[0]} training and {images[1]} validation images, {num_classes} classes",
        *(drawn if config.data.dataset == "synthetic" else []),
        f"run     {config.epochs} epochs of {steps} steps, batch {config.batch_size}, into {where}",
        f"best    the epoch by {selection.monitor}{stopping}",
    ]
    return "\n".join(lines)


def abbreviate(number: float) -> str:
    """1234567 as "1.23 M"."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:g} "


class TimeEstimate(keras.callbacks.Callback):
    """Says once, when the first `steps` steps after the first one (which compiles) have run, how long the whole run will take.

    It waits for the device twice; validation is not in the estimate, which says so.
    """

    def __init__(self, *, steps_per_epoch: int, epochs: int, steps: int = 10):
        super().__init__()
        self.steps_per_epoch, self.epochs, self.steps = steps_per_epoch, epochs, steps
        self._left = steps + 1
        self._seconds = 0.0

    def on_epoch_begin(self, epoch, logs=None):
        self._start: float | None = None if self._left > self.steps else time.monotonic()
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self._left < 0:
            return
        self._left -= 1
        if self._left == self.steps or self._left == 0 or batch == self.steps_per_epoch - 1:
            float(keras.ops.convert_to_numpy((logs or {})["loss"]))  # wait for the step
            if self._start is not None:
                self._seconds += time.monotonic() - self._start
            self._start = time.monotonic()
        if self._left == 0:
            self._left = -1
            step = self._seconds / self.steps
            left = (self.epochs - self._epoch) * self.steps_per_epoch - batch - 1
            print(f"time    about {duration(step * left)} of training left ({step:.3g} s a step), and validation", flush=True)


def duration(seconds: float) -> str:
    """Returns "25 s", "12 min", "3 h 20 min" or "2 days 4 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} days {hours % 24} h"


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
    workers = [child for child in process.children(recursive=True) if "kseg.data.loading.worker_process" in child.cmdline()]
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
