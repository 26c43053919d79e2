"""A worker of the comparison of backends: a network on the backend that KERAS_BACKEND names.

Reads "predict", "train" (one step) or "gradients" from each line.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from benchmarks.process import answer
from kseg.config import TrainConfig
from kseg.losses import CrossEntropy
from kseg.models.build import build_model
from kseg.models.layers import DOUBLE_NORMALIZATION
from kseg.runtime.environment import describe_devices
from kseg.training.optimizers import TorchAdam


def main(settings: dict[str, Any]) -> None:
    network = _Network(Path(settings["folder"]))
    answer({"devices": describe_devices(), "parameters": network.model.count_params()})
    for line in sys.stdin:
        answer(getattr(network, line.strip())())
    os._exit(0)  # TensorFlow's and torch's threads have nothing left to do


class _Network:
    """A network with the folder's weights and batches.

    folder: holds config.json and batches.npz, images uint8 [N, B, h, w, 3] and labels uint8 [N, B, h, w]. The first worker writes
    initial.weights.h5, the others read it.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        config = TrainConfig.from_json((folder / "config.json").read_text())
        content = np.load(folder / "batches.npz")
        self.images, self.labels = content["images"], content["labels"]
        keras.utils.set_random_seed(config.seed)
        self.model = build_model(
            config.model,
            num_classes=int(content["num_classes"]),
            backbone=config.backbone,
            backbone_weights=None if config.backbone_weights in ("none", "auto") else config.backbone_weights,
            output_stride=config.output_stride,
            normalization=DOUBLE_NORMALIZATION if config.double_normalization else "auto",
        )
        without_dropout(self.model)
        weights = folder / "initial.weights.h5"
        if weights.exists():
            self.model.load_weights(weights)
        else:
            self.model.save_weights(weights)
        rate, decay = config.optimization.learning_rate, config.optimization.weight_decay
        self.model.compile(optimizer=TorchAdam(rate, l2=decay), loss=CrossEntropy())
        self._step = 0

    def predict(self) -> dict[str, Any]:
        """Predicts the first batch; the first call writes the logits."""
        logits, facts = _timed(lambda: np.asarray(self.model.predict_on_batch(self.images[0])))
        self._write("logits", [logits])
        return facts

    def train(self) -> dict[str, Any]:
        """Takes a step on the next batch."""
        number = self._step % len(self.images)
        self._step += 1
        loss, facts = _timed(lambda: float(self.model.train_on_batch(self.images[number], self.labels[number])))
        self.model.reset_metrics()  # else the losses returned are running means
        return {**facts, "loss": loss}

    def gradients(self) -> dict[str, Any]:
        """Writes the gradients of the first step, weight decay included: Adam's momentum is then (1 - b1) times the gradient."""
        assert self._step == 1
        optimizer = self.model.optimizer
        momentums = [keras.ops.convert_to_numpy(value) for value in optimizer.slots["momentum"]]
        self._write("gradients", [value / (1 - optimizer.beta_1) for value in momentums])
        return {}

    def _write(self, name: str, arrays: list[np.ndarray]) -> None:
        path = self.folder / f"{name}-{keras.backend.backend()}.npz"
        if not path.exists():
            np.savez(path, *arrays)


def without_dropout(model: keras.Model) -> None:
    """Turns dropout and stochastic depth off, because backends draw different random numbers."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):  # the backbone
            without_dropout(layer)
        elif isinstance(layer, (keras.layers.Dropout, keras.layers.SpatialDropout2D)):
            layer.rate = 0.0


def _timed(call: Callable[[], Any]) -> tuple[Any, dict[str, Any]]:
    """Returns the call's value, and its seconds with the peak MB of the process so far."""
    start = time.perf_counter()
    value = call()
    seconds = time.perf_counter() - start
    memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return value, {"seconds": seconds, "memory_mb": memory_mb}


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
