"""Callbacks that notice a useless run: labels that teach nothing, a loss that is not finite or does not move."""

import json
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from kseg.runtime import hosts
from kseg.runtime.hosts import warn
from kseg.training.progress import TrainState
from kseg.utils.errors import KsegError
from kseg.utils.files import write_text


class WarnOnUnlabelledBatches(keras.callbacks.Callback):
    """Warns about batches without a labelled pixel after each epoch. It removes the metric UnlabelledBatches from the logs."""

    def __init__(self, steps: int):
        super().__init__()
        self.steps = steps

    def on_epoch_end(self, epoch, logs=None):
        logs = {} if logs is None else logs
        logs.pop("val_unlabelled_batches", None)
        if count := int(logs.pop("unlabelled_batches", 0)):
            warn(
                f"epoch {epoch + 1}: {count} of {self.steps} batches had not one labelled pixel and taught nothing; a larger "
                "--batch_size, or an --augment that crops less, avoids that"
            )


class StopOnNonFinite(keras.callbacks.Callback):
    """Ends the run with an error if the loss is not finite.

    The losses stay on the device and are read every `every` steps together, so that no step waits for its loss. The loss in
    Keras's logs is a running mean: once it is not finite, it stays so until the epoch ends, and none is missed.

    Args:
        file: the JSON file to write: the step, its images, and the images of the step before.
        names: a function of (epoch, step), both from 0, that returns the names of the step's images.
        every: steps between two checks.
    """

    def __init__(self, state: TrainState, file: Path, names: Callable[[int, int], list[str]], every: int = 10):
        super().__init__()
        self.state, self.file, self.names, self.every = state, file, names, every
        self._losses: deque[tuple[int, Any]] = deque()

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch
        self._losses.clear()

    def on_train_batch_end(self, batch, logs=None):
        self._losses.append((self.state.step - 1, (logs or {}).get("loss", 0.0)))
        if len(self._losses) >= self.every:
            self._check()

    def on_test_begin(self, logs=None):
        self._check()  # validating a broken model would only waste time

    def on_epoch_end(self, epoch, logs=None):
        self._check()

    def _check(self):
        if self._losses and not np.isfinite(_number(self._losses[-1][1])):
            self._stop(*next((step, loss) for step, value in self._losses if not np.isfinite(loss := _number(value))))
        self._losses.clear()

    def _stop(self, step, loss):
        epoch = self._epoch
        content = {
            "epoch": epoch + 1,
            "step": step + 1,
            "loss": str(loss),
            "images": self.names(epoch, step),
            "images_of_the_step_before": self.names(epoch, step - 1) if step else [],
        }
        if hosts.is_main_process():
            write_text(self.file, json.dumps(content, indent=1) + "\n")
        raise KsegError(
            f"the loss is {loss} at step {step + 1} of epoch {epoch + 1}: the run diverged; try a lower --learning_rate, or look "
            f"at the step's images, which {self.file} names"
        )


class WarnOnPlateau(keras.callbacks.Callback):
    """Warns once, after `epochs` epochs, if the training loss never differed from the first epoch's by 1 %.

    Above a mIoU of 0.9 on the training images it is silent: a run that starts with a good model may have little to gain.
    """

    STATE_KEY = "WarnOfStillLoss"  # its former class name, which checkpoints use

    def __init__(self, epochs: int = 3, change: float = 0.01):
        super().__init__()
        self.epochs, self.change = epochs, change
        self._losses: list[float] = []

    def on_epoch_end(self, epoch, logs=None):
        if len(self._losses) >= self.epochs:
            return
        logs = logs or {}
        self._losses.append(float(logs["loss"]))
        first = self._losses[0]
        still = all(abs(loss - first) < self.change * abs(first) for loss in self._losses)
        if len(self._losses) == self.epochs and still and logs.get("mean_iou", 0.0) < 0.9:
            warn(
                f"the loss has not moved in {self.epochs} epochs ({first:.4f} to {self._losses[-1]:.4f}): nothing is learnt. "
                "Try a higher --learning_rate (python -m kseg.find_lr suggests one), --overfit_batches=1 to see whether the "
                "model can learn at all, and python -m kseg.inspect_data to see whether the labels fit the images"
            )

    def get_state(self) -> dict[str, Any]:
        """Returns what a resumed run needs, as JSON values."""
        return {"losses": self._losses}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores the result of get_state."""
        self._losses = list(state["losses"])


def _number(value: Any) -> float:
    return float(ops.convert_to_numpy(value))
