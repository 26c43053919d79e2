"""The callbacks of a run, in order, and the small ones among them.

To add a callback, put it into the list of build_callbacks. If it has get_state and set_state, checkpoints keep its state.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kseg.config import TrainConfig, better
from kseg.data.loading.samples import batch_names
from kseg.runtime import hosts
from kseg.runtime.memory import return_freed_memory
from kseg.runtime.run_dir import RunDir
from kseg.runtime.signals import StopRequest
from kseg.training.checkpoints import Checkpoint, RunState
from kseg.training.diagnostics import StopOnNonFinite, WarnOnPlateau, WarnOnUnlabelledBatches
from kseg.training.loggers import logger_callbacks
from kseg.training.optimizer_config import optimization_callbacks
from kseg.training.progress import Progress, TimeEstimate, TrainState
from kseg.training.run_data import RunData


@dataclass(frozen=True)
class RunCallbacks:
    """All callbacks of a run `in_order`, for fit. Two have names: the training loop reads their results."""

    in_order: list[Any]
    train_state: TrainState
    checkpoint: Checkpoint

    @contextlib.contextmanager
    def closed_at_exit(self) -> Iterator[None]:
        """Closes progress bar and files at the end of the block: Keras calls on_train_end only if fit ends without an error."""
        with contextlib.ExitStack() as stack:
            for callback in self.in_order:
                if hasattr(callback, "close"):
                    stack.callback(callback.close)
            yield


def build_callbacks(
    config: TrainConfig,
    run: RunDir,
    data: RunData,
    request: StopRequest,
    *,
    steps: int,
    resume_from: tuple[Path, RunState] | None,
    own: Sequence[Any] = (),
    names: Callable[[int, int], list[str]] | None = None,
    within_epochs: bool = True,
) -> RunCallbacks:
    """Returns the callbacks of a run in the order in which Keras calls them. Each comment says why a callback has its place.

    steps: of an epoch. resume_from: the checkpoint to continue from, and its state. own: the user's.
    names: says what a step's images are, by epoch and step; by default their names. within_epochs: see Checkpoint.
    """
    main = hosts.is_main_process()
    selection = config.selection
    mode = better(selection.monitor, selection.monitor_mode)
    start = resume_from[1] if resume_from else RunState(epoch=0, step=0)
    state = TrainState(steps=steps, epoch=start.epoch, step=start.step)
    progress = Progress(
        state,
        batch_size=config.batch_size,
        epochs=config.epochs,
        timing=run.timing if main else None,
        only_class=data.only_class,
        windows=config.scale.val_window,
        quiet=not main,
    )
    callbacks: list[Any] = [
        state,  # first: the others read its epoch and step
        progress,  # adds learning_rate to the logs: before all that read them
        ReleaseFreedMemory(),  # any place
        *optimization_callbacks(config.optimization),  # puts averaged weights into the model: before all that use the model
        TimeEstimate(steps_per_epoch=steps, epochs=config.epochs),  # any place
        StopOnNonFinite(  # before a loss that is not finite is written or saved
            state, run.nonfinite, names or functools.partial(batch_names, data.train, config.batch_size, config.seed)
        ),
        WarnOnUnlabelledBatches(steps),  # removes its metric from the logs: before they are written
        WarnOnPlateau(),  # any place
        *own,  # may change the logs: before they are written
    ]
    if main:
        callbacks.append(MetricsLog(run.metrics))  # before the checkpoint, which contains metrics.csv
        callbacks += logger_callbacks(config, run, data.val, progress)  # after all that change the logs
    if selection.early_stopping:
        callbacks.append(EarlyStopping(selection.monitor, mode, selection.early_stopping))  # before the checkpoint, as stateful
    checkpoint = Checkpoint(  # last: it saves what the others did
        run,
        state,
        request,
        callbacks,
        monitor=selection.monitor,
        mode=mode,
        every=config.tracking.checkpoint_steps,
        keep=config.tracking.keep_checkpoints,
        within_epochs=within_epochs,
        resume_from=resume_from,
    )
    return RunCallbacks([*callbacks, checkpoint], state, checkpoint)


class ReleaseFreedMemory(keras.callbacks.Callback):
    """Returns the memory of finished compilations to the system: after the first step, and after each epoch's validation."""

    def __init__(self):
        super().__init__()
        self._compiled = False

    def on_train_batch_end(self, batch, logs=None):
        if not self._compiled:
            self._compiled = True
            return_freed_memory()

    def on_epoch_end(self, epoch, logs=None):
        return_freed_memory()


class MetricsLog(keras.callbacks.CSVLogger):
    """Appends the logs of every epoch to metrics.csv. Unlike Keras's CSVLogger it has close, for a fit that fails."""

    def __init__(self, path: Path):
        super().__init__(path, append=True)

    def close(self) -> None:
        if self.csv_file is not None:
            self.csv_file.close()


class EarlyStopping(keras.callbacks.EarlyStopping):
    """Keras's EarlyStopping with a message and with a state that checkpoints keep.

    monitor: column of the logs. mode: "max" or "min". patience: the run ends after so many epochs in a row without a better
    value.
    """

    def __init__(self, monitor: str, mode: str, patience: int):
        super().__init__(monitor=monitor, mode=mode, patience=patience)
        self._resumed: dict[str, Any] = {}

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)  # resets the state
        self.__dict__.update(self._resumed)

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        if self.stopped_epoch:
            print(f"no better {self.monitor} since epoch {self.best_epoch + 1}: the run ends here", flush=True)

    def get_monitor_value(self, logs):
        """Replaces a value that is not finite by the worst possible one. Keras would never find a better value than NaN."""
        value = super().get_monitor_value(logs)
        worst = -np.inf if self.mode == "max" else np.inf
        return value if value is None or np.isfinite(value) else worst

    def get_state(self) -> dict[str, Any]:
        """Returns what a resumed run needs, as JSON values."""
        return {"wait": self.wait, "best": None if self.best is None else float(self.best), "best_epoch": self.best_epoch}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores the result of get_state, before training begins or after."""
        self._resumed = state
        self.__dict__.update(state)


def is_finished(state: RunState, config: TrainConfig) -> bool:
    """Returns True if a run with this state has no epoch left, or early stopping ended it."""
    patience = config.selection.early_stopping
    stopped = patience is not None and state.callbacks.get("EarlyStopping", {}).get("wait", 0) >= patience
    return state.epoch >= config.epochs or stopped
