"""What kseg adds to Keras's callbacks."""

import os
import shutil
import time
from pathlib import Path

import keras
import numpy as np

from kseg.errors import KsegError
from kseg.progress import progress_bar
from kseg.run import atomic_path, save_model


class Progress(keras.callbacks.Callback):
    """A bar an epoch (step, loss, running mIoU, images/s, time left) and a line that stays; adds seconds and learning_rate
    to the logs.

    Put it first, so that the callbacks after it (CSVLogger) see what it adds. The loss and the metric stay on the device:
    they are read when the bar is drawn, a few times a second at most. quiet: without the bar.
    """

    def __init__(self, *, batch_size: int, steps: int, epochs: int, quiet: bool = False):
        super().__init__()
        self.batch_size, self.steps, self.epochs, self.quiet = batch_size, steps, epochs, quiet

    def on_epoch_begin(self, epoch, logs=None):
        self._start = self._drawn = time.monotonic()
        self._bar = progress_bar(self.steps * self.batch_size, f"epoch {epoch + 1}/{self.epochs}", disable=self.quiet)

    def on_train_batch_end(self, batch, logs=None):
        if not self.quiet and time.monotonic() - self._drawn >= self._bar.mininterval:
            values = [f"step {batch + 1}/{self.steps}"]
            values += [f"{name} {float(value):.4f}" for name, value in (logs or {}).items() if name in ("loss", "mean_iou")]
            self._bar.set_postfix_str(", ".join(values), refresh=False)
            self._drawn = time.monotonic()
        self._bar.update(self.batch_size)

    def on_epoch_end(self, epoch, logs=None):
        self._bar.close()
        seconds = time.monotonic() - self._start
        if logs is not None:
            logs["learning_rate"] = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
            logs["seconds"] = seconds
            scores = ", ".join(
                f"{name} {logs[name]:.4f}" for name in ("loss", "mean_iou", "val_loss", "val_mean_iou") if name in logs
            )
            rate = self.steps * self.batch_size / seconds
            print(f"epoch {epoch + 1}/{self.epochs}: {scores}, {seconds:.0f} s, {rate:.1f} images/s", flush=True)


class StopOnNonFinite(keras.callbacks.Callback):
    """Stops a run whose loss is not a finite number, before a checkpoint is written over a good one. Put it before Checkpoint."""

    def on_epoch_end(self, epoch, logs=None):
        loss = (logs or {}).get("loss", 0.0)
        if not np.isfinite(loss):
            raise KsegError(f"the loss is {loss} in epoch {epoch + 1}: the run diverged; try a lower --learning_rate")


class Checkpoint(keras.callbacks.Callback):
    """Keeps the last and the best model, each replaced in one step: a run killed at any moment leaves both whole.

    last, best: paths of .keras files. monitor: what is best, higher being better. The first `last` is written before the
    first step.
    """

    def __init__(self, last: Path, best: Path, monitor: str = "val_mean_iou"):
        super().__init__()
        self.last, self.best, self.monitor = last, best, monitor
        self.best_value = -np.inf
        self.best_epoch = 0

    def on_train_begin(self, logs=None):
        save_model(self.model, self.last)

    def on_epoch_end(self, epoch, logs=None):
        save_model(self.model, self.last)
        value = float((logs or {})[self.monitor])
        if value > self.best_value:
            self.best_value, self.best_epoch = value, epoch + 1
            with atomic_path(self.best) as temporary:
                try:
                    os.link(self.last, temporary)  # `last` is replaced, never rewritten, so both names may share one file
                except OSError:  # a file system without hard links
                    shutil.copyfile(self.last, temporary)
