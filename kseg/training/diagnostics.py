"""What notices that a run makes no sense: labels that teach nothing, a loss that is no number or does not move.

What can be known before a run is an error or a warning then; the rest is said by callbacks while it trains, on stderr.
"""

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
from kseg.training.callbacks import TrainState
from kseg.utils.errors import KsegError
from kseg.utils.files import write_text


class WarnOnUnlabelledBatches(keras.callbacks.Callback):
    """Says after an epoch how many of its batches taught nothing, and takes the metric UnlabelledBatches out of the logs. Put it
    before what writes them.
    """

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
    """Stops a run whose loss is no finite number, before a checkpoint is written over a good one. Put it before Checkpoint.

    The losses of the last `every` steps are kept where they are, on the device, and read together, so that no step waits
    for its own. A running mean that is not finite stays so until the epoch ends: none is missed.

    Args:
        position: tells the step.
        file: where to write, as JSON, the step, its images and those of the step before.
        names: (epoch, step), both from 0 -> the names of its images.
        every: steps between two looks.
    """

    def __init__(self, position: TrainState, file: Path, names: Callable[[int, int], list[str]], every: int = 10):
        super().__init__()
        self.position, self.file, self.names, self.every = position, file, names, every
        self._losses: deque[tuple[int, Any]] = deque()

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch
        self._losses.clear()

    def on_train_batch_end(self, batch, logs=None):
        self._losses.append((self.position.step - 1, (logs or {}).get("loss", 0.0)))
        if len(self._losses) >= self.every:
            self._look()

    def on_test_begin(self, logs=None):
        self._look()  # validating a broken model would only take time

    def on_epoch_end(self, epoch, logs=None):
        self._look()

    def _look(self):
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
    """Says once, after the first `epochs`, if the training loss is where it was: no epoch's differs from the first's by 1 %.

    A run that starts with a good model may have little to gain: above a mIoU of 0.9 on its training images nothing is said.
    """

    STATE_KEY = "WarnOfStillLoss"  # its name in checkpoints of earlier versions

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
        """What a resumed run needs, as JSON values."""
        return {"losses": self._losses}

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes what get_state gave."""
        self._losses = list(state["losses"])


def _number(value: Any) -> float:
    return float(ops.convert_to_numpy(value))
