"""Checkpoints: the file format, and the callback that saves them.

A checkpoint is a .keras file with additions. Keras stores the model, its weights and the optimizer's state. For an exact resume
kseg adds two files to the same zip archive: JSON with the step, metrics.csv and the state of callbacks; and safetensors with
the random seeds of layers such as dropout and the metrics of the current epoch. So a checkpoint is written whole or not at all,
opens anywhere as a model, and the checksums of zip reveal damage.
"""

import contextlib
import json
import os
import shutil
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import safetensors.numpy

from kseg.runtime import hosts
from kseg.runtime.distribution import local_only
from kseg.runtime.run_dir import RunDir
from kseg.runtime.signals import Interrupted, StopRequest
from kseg.training.progress import TrainState
from kseg.utils.errors import KsegError, suggest
from kseg.utils.files import atomic_path

_STATE, _ARRAYS = "kseg_state.json", "kseg_state.safetensors"
_MAX_STATE = 1 << 26
"""The most bytes that are read of either addition: enough for a million epochs, and for confusion matrices of 1000 classes."""
AGREE_STEPS = 10
"""After so many steps the processes of a run ask each other whether to stop."""


@dataclass(frozen=True)
class RunState:
    """The state of a run besides its arrays.

    epoch: completed epochs. step: completed steps of the next epoch. metrics_csv: the text of metrics.csv. callbacks: the
    result of each callback's get_state, by STATE_KEY or class name.
    """

    epoch: int
    step: int
    metrics_csv: str = ""
    callbacks: dict[str, dict[str, Any]] = field(default_factory=dict)


class Checkpoint(keras.callbacks.Callback):
    """Saves the run before its first step, after every epoch, every `every` steps, and when a signal stops it.

    It keeps the last `keep` checkpoints and the best epoch's. When a signal has come, it saves and raises Interrupted. In a run
    of several processes each has this callback: process 0 writes, and all stop at the same step.

    Args:
        callbacks: the run's other callbacks. What their get_state returns (JSON values) is saved; a resumed run passes it to
            their set_state.
        monitor: the column of the logs that decides which epoch is best.
        mode: "max" or "min".
        every: steps between checkpoints within an epoch; 0: none.
        within_epochs: False for data that cannot be resumed within an epoch: a signal then stops the run without a checkpoint.
        resume_from: the checkpoint to continue from, and its state.
    """

    def __init__(
        self,
        run: RunDir,
        train_state: TrainState,
        request: StopRequest,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        *,
        monitor: str = "val_mean_iou",
        mode: str = "max",
        every: int = 0,
        keep: int = 2,
        within_epochs: bool = True,
        resume_from: tuple[Path, RunState] | None = None,
    ):
        super().__init__()
        self.within_epochs = within_epochs
        self.run, self.train_state, self.request = run, train_state, request
        self.monitor, self.sign, self.every, self.keep = monitor, 1 if mode == "max" else -1, every, keep
        self.resume_from = resume_from
        self.best_value: float | None = None
        self.best_epoch = 0
        self.stateful: dict[str, Any] = {}
        for callback in [*callbacks, self]:
            if hasattr(callback, "get_state"):
                key = getattr(callback, "STATE_KEY", type(callback).__name__)
                if key in self.stateful:
                    raise KsegError(
                        f"callbacks: two keep their state as {key!r}; give the class of one another STATE_KEY = '...'"
                    )
                self.stateful[key] = callback
        if resume_from is not None and "Checkpoint" in resume_from[1].callbacks:
            # Not only on_train_begin: the loop reads best_epoch of a finished run, too, which never gets there.
            self.set_state(resume_from[1].callbacks["Checkpoint"])

    def get_state(self) -> dict[str, Any]:
        return {"best_value": self.best_value, "best_epoch": self.best_epoch}

    def set_state(self, state: dict[str, Any]) -> None:
        self.best_value, self.best_epoch = state["best_value"], state["best_epoch"]

    def on_train_begin(self, logs=None):
        if self.resume_from is None:
            self._save()
            return
        path, state = self.resume_from
        for name, callback in self.stateful.items():
            if name in state.callbacks:
                callback.set_state(state.callbacks[name])
        if self.best_epoch == state.epoch > 0 and state.step == 0:
            self._keep_best(path)  # the run may have been killed just before it did this

    def on_epoch_begin(self, epoch, logs=None):
        if self.resume_from is not None:
            path, state = self.resume_from
            if state.step:
                restore_metrics(path, self.model)
            self.resume_from = None

    def on_train_batch_end(self, batch, logs=None):
        step = self.train_state.step
        if step == self.train_state.steps:  # the epoch is saved after its validation
            return
        if self._signalled(step):
            if self.within_epochs:
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
        """Returns True if any process received a signal. Asking waits for the devices, so it is done every AGREE_STEPS steps."""
        if hosts.process_count() > 1 and step % AGREE_STEPS:
            return False
        signals = hosts.gather(np.int32(self.request.signal or 0))
        if signals.any():
            self.request.signal = int(signals.max())  # all processes exit with the same code
        return bool(signals.any())

    def _save(self) -> Path:
        state, run = self.train_state, self.run
        path = run.checkpoint(state.epoch * state.steps + state.step)
        if not hosts.is_main_process():
            return path
        states = {name: callback.get_state() for name, callback in self.stateful.items()}
        metrics = run.metrics.read_bytes().decode() if run.metrics.exists() else ""
        try:
            save_checkpoint(path, self.model, RunState(state.epoch, state.step, metrics, states))
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
                os.link(path, temporary)  # a checkpoint is never changed in place, so both names may share one file
            except OSError:  # a file system without hard links
                shutil.copyfile(path, temporary)


def save_checkpoint(path: Path, model: keras.Model, state: RunState) -> None:
    """Writes a compiled model and the run's state atomically. Raises OSError, for example if the disk is full.

    Raises KsegError if a callback's state is not made of JSON values.
    """
    try:
        text = json.dumps(asdict(state))
    except (TypeError, ValueError) as error:
        raise KsegError(f"callbacks: get_state of one returns more than JSON values ({error})") from None
    arrays = {f"seed/{i}": variable for i, variable in enumerate(_seeds(model))}
    if state.step:
        arrays |= {f"metric/{i}": variable for i, variable in enumerate(model.metrics_variables)}
    arrays = {name: keras.ops.convert_to_numpy(variable).copy() for name, variable in arrays.items()}
    with local_only(), atomic_path(path) as temporary:
        with warnings.catch_warnings():  # a loss or metric of the user's, which is not loaded: load_model reads no compile config
            warnings.filterwarnings("ignore", "The object being serialized includes a `lambda`")
            model.save(temporary)
        with zipfile.ZipFile(temporary, "a") as archive:
            archive.writestr(_STATE, text)
            archive.writestr(_ARRAYS, safetensors.numpy.save(arrays))


def read_state(path: Path) -> RunState:
    """Returns a checkpoint's state and verifies the file's checksums. Raises KsegError if it is damaged or no checkpoint."""
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                raise KsegError(f"{path}: the file is damaged")
            return RunState(**json.loads(_member(archive, _STATE)))
    except FileNotFoundError:
        raise KsegError(f"{path}: no such file") from None
    except (OSError, KeyError, TypeError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise KsegError(f"{path}: not a checkpoint of a run, or a damaged one ({error})") from None


def restore_model(path: Path, model: keras.Model) -> None:
    """Loads weights, optimizer state and random seeds into a model that was built and compiled like the checkpoint's."""
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    try:
        model.load_weights(path)
        _assign(_seeds(model), path, "seed")
    except (OSError, KeyError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise KsegError(f"{path}: the checkpoint does not fit the model of the run's config.json ({reason})") from None


def restore_metrics(path: Path, model: keras.Model) -> None:
    """Loads the metrics of the current epoch from a checkpoint with step > 0.

    Call it within fit, which creates the metrics and resets them at the start of an epoch.
    """
    _assign(model.metrics_variables, path, "metric")


def newest_checkpoint(paths: Sequence[Path]) -> tuple[Path, RunState] | None:
    """Returns the first undamaged path and its state, and warns of damaged ones. None if there are no paths.

    paths: newest first. Raises KsegError if all are damaged.
    """
    for path in paths:
        try:
            return path, read_state(path)
        except KsegError as error:
            print(f"warning: {error}; trying the checkpoint before it", flush=True)
    if paths:
        raise KsegError(f"{paths[0].parent}: no checkpoint is whole; start the run again in a new --run_dir")
    return None


@contextlib.contextmanager
def shared_checkpoint(run: RunDir) -> Iterator[tuple[Path, RunState] | None]:
    """Yields the newest checkpoint of process 0's run directory and its state, in every process; None if there is none."""
    newest = None
    with hosts.raise_together():
        if hosts.is_main_process():
            newest = newest_checkpoint(run.checkpoints())
    with hosts.shared_file(newest and newest[0]) as path:
        yield newest if newest or path is None else (path, read_state(path))


def _seeds(model: keras.Model) -> list[Any]:
    """Returns the state of the layers' random generators, which neither model.weights nor a .keras file hold."""
    weights = {id(variable) for variable in model.weights}
    return [variable for variable in model.variables if id(variable) not in weights]


def _assign(variables: Sequence[Any], path: Path, kind: str) -> None:
    with zipfile.ZipFile(path) as archive:
        arrays = safetensors.numpy.load(_member(archive, _ARRAYS))
    for i, variable in enumerate(variables):
        variable.assign(arrays[f"{kind}/{i}"])


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    if archive.getinfo(name).file_size > _MAX_STATE:
        raise ValueError(f"{name} is larger than any run's state")
    return archive.read(name)
