"""Callbacks that know and show how far a run is."""

import csv
import time
from pathlib import Path
from typing import Any

import keras

from kseg.utils.progress import progress_bar


class TrainState(keras.callbacks.Callback):
    """Counts `epoch`, the completed epochs, and `step`, the completed steps of the current epoch.

    Args:
        steps: the steps of an epoch.
        epoch, step: where fit begins. If step > 0, fit must get the data from there on; the first epoch then ends after its
            remaining steps.
    """

    def __init__(self, *, steps: int, epoch: int = 0, step: int = 0):
        super().__init__()
        self.steps, self.epoch, self.step = steps, epoch, step
        self.first_step = step  # steps of the current epoch that were completed before fit began

    def on_train_batch_end(self, batch, logs=None):
        self.step = self.first_step + batch + 1
        if self.first_step and self.step == self.steps:
            self.model.stop_training = True  # ends the epoch here; validation follows as usual

    def on_epoch_end(self, epoch, logs=None):
        if self.first_step:
            self.first_step = 0
            self.model.stop_training = False
        self.epoch, self.step = epoch + 1, 0


class Progress(keras.callbacks.Callback):
    """Shows a bar for each epoch (step, loss, running mIoU, images/s, time left), then prints a line about it.

    It adds learning_rate to the logs. Seconds and images/s go to the file `timing` and to `speed`, not to the logs: the logs of
    a resumed run must be equal. Loss and metric stay on the device; they are read when the bar is drawn.

    Args:
        timing: a CSV file to append to, or None.
        only_class: the only class in the validation labels; then each line says that val_mean_iou is no mean.
        windows: the size of validation's windows; then each line says it.
        quiet: shows no bar.
    """

    def __init__(
        self,
        state: TrainState,
        *,
        batch_size: int,
        epochs: int,
        timing: Path | None = None,
        only_class: str | None = None,
        windows: tuple[int, int] | None = None,
        quiet: bool = False,
    ):
        super().__init__()
        self.state, self.batch_size, self.epochs, self.timing, self.quiet = state, batch_size, epochs, timing, quiet
        self.only_class, self.windows = only_class, windows
        self.speed: dict[str, float] = {}
        """Seconds and images_per_second of the last epoch."""
        self._bar: Any = None

    def on_epoch_begin(self, epoch, logs=None):
        self._start = self._drawn = time.monotonic()
        self._first_step = self.state.step
        images = self.state.steps * self.batch_size
        self._bar = progress_bar(images, f"epoch {epoch + 1}/{self.epochs}", disable=self.quiet)
        self._bar.update(self._first_step * self.batch_size)

    def on_train_batch_end(self, batch, logs=None):
        if not self.quiet and time.monotonic() - self._drawn >= self._bar.mininterval:
            values = [f"step {self.state.step}/{self.state.steps}"]
            values += [f"{name} {float(value):.4f}" for name, value in (logs or {}).items() if name in ("loss", "mean_iou")]
            self._bar.set_postfix_str(", ".join(values), refresh=False)
            self._drawn = time.monotonic()
        self._bar.update(self.batch_size)

    def close(self) -> None:
        """Removes the bar, also when an exception ends fit."""
        if self._bar is not None:
            self._bar.close()

    def on_epoch_end(self, epoch, logs=None):
        self.close()
        seconds = time.monotonic() - self._start
        if logs is None:
            return
        logs["learning_rate"] = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        scores = ", ".join(
            f"{name} {logs[name]:.4f}" for name in ("loss", "mean_iou", "val_loss", "val_mean_iou") if name in logs
        )
        if self.only_class is not None and "val_mean_iou" in logs:
            scores += f" (labels of {self.only_class!r} alone)"
        if self.windows is not None and "val_mean_iou" in logs:
            scores += f" (windows of {self.windows[0]}x{self.windows[1]})"
        rate = (self.state.steps - self._first_step) * self.batch_size / seconds
        self.speed = {"seconds": seconds, "images_per_second": rate}
        print(f"epoch {epoch + 1}/{self.epochs}: {scores}, {seconds:.0f} s, {rate:.1f} images/s", flush=True)
        if self.timing is not None:
            new = not self.timing.exists()
            with self.timing.open("a", newline="", encoding="utf-8") as file:
                rows = [["epoch", "seconds", "images_per_second"]] if new else []
                csv.writer(file).writerows([*rows, [epoch, f"{seconds:.2f}", f"{rate:.2f}"]])


class TimeEstimate(keras.callbacks.Callback):
    """Prints once how long the rest of the training will take, without validation.

    It times `steps` steps after the first, which compiles, and waits for the device twice.
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
            float(keras.ops.convert_to_numpy((logs or {})["loss"]))  # waits for the step
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
