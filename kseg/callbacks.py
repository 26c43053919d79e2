"""What kseg adds to Keras's callbacks."""

import os
import shutil
import time
from pathlib import Path

import keras
import numpy as np

from kseg.errors import KsegError, nearest
from kseg.progress import progress_bar
from kseg.run import atomic_path, save_model


class Progress(keras.callbacks.Callback):
    """A bar an epoch (step, loss, running mIoU, images/s, time left) and a line that stays; adds learning_rate,
    seconds and images_per_second to the logs.

    Put it first, so that the callbacks after it (CSVLogger) see what it adds. The loss and the metric stay on the device:
    they are read when the bar is drawn, a few times a second at most.
    """

    def __init__(self, *, batch_size: int, steps: int, epochs: int):
        super().__init__()
        self.batch_size, self.steps, self.epochs = batch_size, steps, epochs

    def on_epoch_begin(self, epoch, logs=None):
        self._start = self._drawn = time.monotonic()
        self._bar = progress_bar(self.steps * self.batch_size, f"epoch {epoch + 1}/{self.epochs}")

    def on_train_batch_end(self, batch, logs=None):
        if time.monotonic() - self._drawn >= self._bar.mininterval:
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
            logs["images_per_second"] = rate = self.steps * self.batch_size / seconds
            scores = ", ".join(
                f"{name} {logs[name]:.4f}" for name in ("loss", "mean_iou", "val_loss", "val_mean_iou") if name in logs
            )
            print(
                f"epoch {epoch + 1}/{self.epochs}: {scores}, {seconds:.0f} s, {rate:.1f} images/s",
                flush=True,
            )


class Checkpoint(keras.callbacks.Callback):
    """Keeps the last and the best model, each replaced in one step: a run killed at any moment leaves both whole.

    last, best: paths of .keras files. monitor: the column of the logs that says what is best. mode: "max" or "min". The first
    `last` is written before the first step.
    """

    def __init__(self, last: Path, best: Path, monitor: str = "val_mean_iou", mode: str = "max"):
        super().__init__()
        self.last, self.best, self.monitor, self.mode = last, best, monitor, mode
        self.best_value = -np.inf
        self.best_epoch = 0

    def on_train_begin(self, logs=None):
        save_model(self.model, self.last)

    def on_epoch_end(self, epoch, logs=None):
        save_model(self.model, self.last)
        if self.monitor not in (logs := logs or {}):
            raise KsegError(f"--monitor={self.monitor}: is no column of metrics.csv{nearest(self.monitor, logs)}")
        value = float(logs[self.monitor]) * (1 if self.mode == "max" else -1)
        value = value if np.isfinite(value) else -np.inf
        if value > self.best_value or not self.best_epoch:
            self.best_value, self.best_epoch = value, epoch + 1
            with atomic_path(self.best) as temporary:
                try:
                    os.link(self.last, temporary)  # `last` is replaced, never rewritten, so both names may share one file
                except OSError:  # a file system without hard links
                    shutil.copyfile(self.last, temporary)
