"""What kseg adds to Keras's callbacks."""

import csv
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kseg.runtime import hosts
from kseg.runtime.memory import return_freed_memory
from kseg.runtime.run_dir import RunDir
from kseg.runtime.signals import Interrupted, StopRequest
from kseg.training.checkpoints import RunState, restore_metrics, save_checkpoint
from kseg.utils.errors import KsegError, suggest
from kseg.utils.files import atomic_path
from kseg.utils.progress import progress_bar

AGREE_STEPS = 10
"""Steps after which the processes of a run ask each other whether to stop."""


class TrainState(keras.callbacks.Callback):
    """Where a run stands: `epoch`, whole epochs done, and `step`, steps of the one under way. Put it first.

    steps: steps an epoch. epoch, step: where fit begins. If that is within an epoch, fit has to be given the data from there on:
    the first epoch then ends when its remaining steps are done.
    """

    def __init__(self, *, steps: int, epoch: int = 0, step: int = 0):
        super().__init__()
        self.steps, self.epoch, self.step = steps, epoch, step
        self.first_step = step  # steps of the epoch under way that were done before fit began

    def on_train_batch_end(self, batch, logs=None):
        self.step = self.first_step + batch + 1
        if self.first_step and self.step == self.steps:
            self.model.stop_training = True  # ends the epoch here; validation follows as usual

    def on_epoch_end(self, epoch, logs=None):
        if self.first_step:
            self.first_step = 0
            self.model.stop_training = False
        self.epoch, self.step = epoch + 1, 0


class ReleaseFreedMemory(keras.callbacks.Callback):
    """Gives the system what compiling leaves of memory: the step's after the first batch, validation's after its epoch."""

    def __init__(self):
        super().__init__()
        self._compiled = False

    def on_train_batch_end(self, batch, logs=None):
        if not self._compiled:
            self._compiled = True
            return_freed_memory()

    def on_epoch_end(self, epoch, logs=None):
        return_freed_memory()


class Progress(keras.callbacks.Callback):
    """A bar an epoch (step, loss, running mIoU, images/s, time left) and a line that stays; adds learning_rate to the logs, and
    a line of seconds and images/s to the file `timing`, if that is given.

    Put it before the callbacks that shall see what it adds (CSVLogger). The loss and the metric stay on the device: they are read
    when the bar is drawn, a few times a second at most. quiet: without the bar. `speed` is the last epoch's seconds and
    images_per_second, which are no part of the logs: a resumed run's are to be the same.
    """

    def __init__(self, position: TrainState, *, batch_size: int, epochs: int, timing: Path | None = None, quiet: bool = False):
        super().__init__()
        self.position, self.batch_size, self.epochs, self.timing, self.quiet = position, batch_size, epochs, timing, quiet
        self.speed: dict[str, float] = {}
        self._bar: Any = None

    def on_epoch_begin(self, epoch, logs=None):
        self._start = self._drawn = time.monotonic()
        self._first_step = self.position.step
        images = self.position.steps * self.batch_size
        self._bar = progress_bar(images, f"epoch {epoch + 1}/{self.epochs}", disable=self.quiet)
        self._bar.update(self._first_step * self.batch_size)

    def on_train_batch_end(self, batch, logs=None):
        if not self.quiet and time.monotonic() - self._drawn >= self._bar.mininterval:
            values = [f"step {self.position.step}/{self.position.steps}"]
            values += [f"{name} {float(value):.4f}" for name, value in (logs or {}).items() if name in ("loss", "mean_iou")]
            self._bar.set_postfix_str(", ".join(values), refresh=False)
            self._drawn = time.monotonic()
        self._bar.update(self.batch_size)

    def close(self) -> None:
        """Takes the bar away, also if fit was left within an epoch."""
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
        rate = (self.position.steps - self._first_step) * self.batch_size / seconds
        self.speed = {"seconds": seconds, "images_per_second": rate}
        print(f"epoch {epoch + 1}/{self.epochs}: {scores}, {seconds:.0f} s, {rate:.1f} images/s", flush=True)
        if self.timing is not None:
            new = not self.timing.exists()
            with self.timing.open("a", newline="", encoding="utf-8") as file:
                rows = [["epoch", "seconds", "images_per_second"]] if new else []
                csv.writer(file).writerows([*rows, [epoch, f"{seconds:.2f}", f"{rate:.2f}"]])


class MetricsLog(keras.callbacks.CSVLogger):
    """Keras's CSVLogger, which can be closed also if fit does not end well."""

    def close(self) -> None:
        if self.csv_file is not None:
            self.csv_file.close()


class Checkpoint(keras.callbacks.Callback):
    """Saves the run: before its first step, after every epoch, every `every` steps (0: not within an epoch), and before it leaves
    fit (with Interrupted) because of a signal. Keeps the last `keep` checkpoints, and the best epoch's. Put it last.

    A run killed at any moment leaves them whole (kseg.training.checkpoints). callbacks: those before it; what their get_state() returns
    (JSON values) is saved, and given back to set_state() when a run is resumed.
    monitor: what is best. mode: "max" or "min". resumed: the checkpoint to go on from, and its state.
    In a run of several processes each has one; process 0's writes, and all leave fit at the same step.
    """

    def __init__(
        self,
        run: RunDir,
        position: TrainState,
        request: StopRequest,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        *,
        monitor: str = "val_mean_iou",
        mode: str = "max",
        every: int = 0,
        keep: int = 2,
        resumed: tuple[Path, RunState] | None = None,
    ):
        super().__init__()
        self.run, self.position, self.request = run, position, request
        self.monitor, self.sign, self.every, self.keep, self.resumed = monitor, 1 if mode == "max" else -1, every, keep, resumed
        self.best_value: float | None = None
        self.best_epoch = 0
        self._stateful: dict[str, Any] = {
            getattr(callback, "STATE_KEY", type(callback).__name__): callback
            for callback in [*callbacks, self]
            if hasattr(callback, "get_state")
        }

    def get_state(self) -> dict[str, Any]:
        return {"best_value": self.best_value, "best_epoch": self.best_epoch}

    def set_state(self, state: dict[str, Any]) -> None:
        self.best_value, self.best_epoch = state["best_value"], state["best_epoch"]

    def on_train_begin(self, logs=None):
        if self.resumed is None:
            self._save()
            return
        path, state = self.resumed
        for name, callback in self._stateful.items():
            if name in state.callbacks:
                callback.set_state(state.callbacks[name])
        if self.best_epoch == state.epoch > 0 and state.step == 0:
            self._keep_best(path)  # the run may have been killed just before it did this

    def on_epoch_begin(self, epoch, logs=None):
        if self.resumed is not None:
            path, state = self.resumed
            if state.step:
                restore_metrics(path, self.model)
            self.resumed = None

    def on_train_batch_end(self, batch, logs=None):
        step = self.position.step
        if step == self.position.steps:  # the epoch is saved when it has been validated
            return
        if self._signalled(step):
            self._save()
            raise Interrupted
        if self.every and step % self.every == 0 and np.isfinite(float((logs or {}).get("loss", 0.0))):
            self._save()

    def on_epoch_end(self, epoch, logs=None):
        if self.monitor not in (logs := logs or {}):
            raise KsegError(f"--monitor={self.monitor}: is no column of metrics.csv{suggest(self.monitor, logs)}")
        value = float(logs[self.monitor])
        improved = self.best_value is None or self.sign * value > self.sign * self.best_value
        if improved and np.isfinite(value):
            self.best_value, self.best_epoch = value, epoch + 1
        path = self._save()
        if self.best_epoch == epoch + 1:
            self._keep_best(path)
        if self._signalled() and epoch + 1 < self.params["epochs"]:
            raise Interrupted

    def _signalled(self, step: int = 0) -> bool:
        """Whether a signal came to any process. Several ask each other, which waits for the devices, every AGREE_STEPS steps."""
        if hosts.process_count() > 1 and step % AGREE_STEPS:
            return False
        signals = hosts.gather(np.int32(self.request.signal or 0))
        if signals.any():
            self.request.signal = int(signals.max())  # the exit code of all
        return bool(signals.any())

    def _save(self) -> Path:
        position, run = self.position, self.run
        path = run.checkpoint(position.epoch * position.steps + position.step)
        if not hosts.is_main_process():
            return path
        states = {name: callback.get_state() for name, callback in self._stateful.items()}
        metrics = run.metrics.read_bytes().decode() if run.metrics.exists() else ""
        try:
            save_checkpoint(path, self.model, RunState(position.epoch, position.step, metrics, states))
        except OSError as error:
            kept = run.checkpoints()
            known = f"the last good one is {kept[0]}; make room and pass --resume" if kept else "nothing was lost yet"
            raise KsegError(f"{path}: cannot be written ({error.strerror or error}); {known}") from error
        for old in run.checkpoints()[self.keep :]:
            old.unlink()
        return path

    def _keep_best(self, path: Path) -> None:
        if not hosts.is_main_process():
            return
        with atomic_path(self.run.best) as temporary:
            try:
                os.link(path, temporary)  # a checkpoint is never rewritten in place, so both names may share one file
            except OSError:  # a file system without hard links
                shutil.copyfile(path, temporary)


class EarlyStopping(keras.callbacks.EarlyStopping):
    """Keras's EarlyStopping, which says so, and whose state a checkpoint can keep.

    monitor: column of the logs. mode: "max" or "min". patience: epochs in a row without a better value, after which the run ends.
    """

    def __init__(self, monitor: str, mode: str, patience: int):
        super().__init__(monitor=monitor, mode=mode, patience=patience)
        self._resumed: dict[str, Any] = {}

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)  # which forgets everything
        self.__dict__.update(self._resumed)

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        if self.stopped_epoch:
            print(f"no better {self.monitor} since epoch {self.best_epoch + 1}: the run ends here", flush=True)

    def get_monitor_value(self, logs):
        """A value that is no finite number is worse than any other; Keras would never find a better one than NaN."""
        value = super().get_monitor_value(logs)
        worst = -np.inf if self.mode == "max" else np.inf
        return value if value is None or np.isfinite(value) else worst

    def get_state(self) -> dict[str, Any]:
        """What a resumed run needs, as JSON values."""
        return {"wait": self.wait, "best": None if self.best is None else float(self.best), "best_epoch": self.best_epoch}

    @staticmethod
    def ended(states: dict[str, dict[str, Any]], patience: int | None) -> bool:
        """Whether a run whose callbacks have these states has ended: one that is resumed only to be scored."""
        return patience is not None and states.get("EarlyStopping", {}).get("wait", 0) >= patience

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes what get_state gave, before training begins or after."""
        self._resumed = state
        self.__dict__.update(state)


def _inner(optimizer: Any) -> Any:
    """The optimizer inside a LossScaleOptimizer, or the optimizer."""
    return getattr(optimizer, "inner_optimizer", optimizer)


class AverageWeights(keras.callbacks.Callback):
    """Validates and saves the averaged weights of an optimizer with use_ema. Put it before what saves.

    They are in the model from the validation that ends an epoch until the next epoch begins, and at the end of a run; batch
    norm's statistics are the model's always. keras.callbacks.SwapEMAWeights does not serve: it forgets the weights that train at
    the end of fit, a run that goes on from a checkpoint would take one for the other, and on TensorFlow it swaps by
    adding and subtracting, which rounds.
    """

    def on_epoch_begin(self, epoch, logs=None):
        self._swap(False)

    def on_test_begin(self, logs=None):
        self._swap(True)

    def on_epoch_end(self, epoch, logs=None):
        self._swap(True)

    def _swap(self, averages: bool) -> None:
        optimizer = _inner(self.model.optimizer)
        if optimizer.averages_in_model != averages:
            optimizer.swap_averages()

    def get_state(self) -> dict[str, bool]:
        """Returns which of the two weights are in the model, for a checkpoint."""
        return {"averages_in_model": _inner(self.model.optimizer).averages_in_model}

    def set_state(self, state: dict[str, bool]) -> None:
        """Says which of the two weights a checkpoint put into the model."""
        _inner(self.model.optimizer).averages_in_model = state["averages_in_model"]


class FreezeBackbone(keras.callbacks.Callback):
    """Keeps the backbone as it is for the first `epochs`: its weights, and its layers as in inference (batch norm neither uses
    nor updates a batch's statistics, dropout is off). Then everything trains.

    The step is traced again at the thaw, so that until then no gradient of the backbone is computed: two compilations in all.
    The variables that train stay the same, for the optimizer and for checkpoints; the epoch alone decides, so that a run can go
    on from either side. The optimizer must have freezes_backbone.
    """

    def __init__(self, epochs: int):
        super().__init__()
        self.epochs = epochs

    def on_epoch_begin(self, epoch, logs=None):
        frozen = epoch < self.epochs
        backbone = self.model.get_layer("backbone")
        if backbone.frozen != frozen:
            backbone.frozen = _inner(self.model.optimizer).backbone_frozen = frozen
            self.model.make_train_function(force=True)
