"""The run directory: all that evaluate, predict and export need.

runs/<name>/  config.json environment.json transforms.json metrics.csv timing.csv skipped.txt
              checkpoints/{best,step-*}.keras model.keras evaluation.json matrices.npz
              report.html figures/ tensorboard/ nonfinite.json
"""

import contextlib
import csv
import datetime
import fcntl
import importlib.metadata
import json
import math
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

import kseg
from kseg.config import TrainConfig
from kseg.runtime.distribution import describe_devices
from kseg.utils.errors import KsegError
from kseg.utils.files import write_text

PACKAGES = (
    "kseg", "keras", "jax", "jaxlib", "torch", "tensorflow", "tensorflow-cpu", "keras-cv", "albumentations",
    "opencv-python-headless", "pycocotools", "pillow", "numpy",
)  # fmt: skip


class RunDir:
    """Paths of a run directory and what is written there."""

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.config = self.path / "config.json"
        self.environment = self.path / "environment.json"
        self.transforms = self.path / "transforms.json"
        self.metrics = self.path / "metrics.csv"
        self.timing = self.path / "timing.csv"
        self.skipped = self.path / "skipped.txt"
        self.evaluation = self.path / "evaluation.json"
        self.matrices = self.path / "matrices.npz"
        self.report = self.path / "report.html"
        self.figures = self.path / "figures"
        self.tensorboard = self.path / "tensorboard"
        self.nonfinite = self.path / "nonfinite.json"
        self.model = self.path / "model.keras"
        self.best = self.path / "checkpoints" / "best.keras"
        self._lock: int | None = None

    def checkpoint(self, step: int) -> Path:
        """Path of the checkpoint after a number of steps of the whole run."""
        return self.best.with_name(f"step-{step:08d}.keras")

    def checkpoints(self) -> list[Path]:
        """The checkpoints that there are, newest first."""
        return sorted(self.best.parent.glob("step-*.keras"), reverse=True)

    def check_free(self) -> None:
        """Raises KsegError unless the folder can be made here, or is empty. Writes nothing."""
        try:
            if self.path.is_dir():
                if any(self.path.iterdir()):
                    what = "holds another run" if self.config.exists() else "is not empty"
                    raise KsegError(f"--run_dir={self.path}: {what}; name a new folder, or remove this one")
                parent = self.path
            else:
                parent = next(folder for folder in self.path.absolute().parents if folder.exists())
            writable = not self.path.is_file() and parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)
        except OSError as error:
            raise KsegError(f"--run_dir={self.path}: {error.strerror}") from None
        if not writable:
            raise KsegError(f"--run_dir={self.path}: cannot be written; name a folder that you may write to")

    def create(self, config: TrainConfig, skipped: list[str]) -> None:
        """Makes the folder with config.json, environment.json and, if samples were left out, skipped.txt; locks it."""
        self.check_free()
        try:
            self.best.parent.mkdir(parents=True)
            self.lock()
            write_text(self.config, config.to_json())
            write_text(self.environment, json.dumps(environment(), indent=2) + "\n")
            if skipped:
                write_text(self.skipped, "".join(line + "\n" for line in skipped))
        except OSError as error:
            raise KsegError(f"--run_dir={self.path}: {error.strerror or error}") from None

    def reopen(self, config: TrainConfig, metrics_csv: str) -> None:
        """Makes the locked folder of a run ready to go on: what a killed process left half-written goes, metrics.csv is as it was
        at the checkpoint, and environment.json tells of the resumption.
        """
        try:
            self.best.parent.mkdir(exist_ok=True)
            for leftover in self.path.rglob(".tmp-*"):
                shutil.rmtree(leftover)
            write_text(self.config, config.to_json())
            write_text(self.metrics, metrics_csv)
            try:
                content = json.loads(self.environment.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                content = environment()
            now = environment()
            content.setdefault("resumed", []).append({name: now[name] for name in ("started", "command", "devices", "commit")})
            write_text(self.environment, json.dumps(content, indent=2) + "\n")
        except OSError as error:
            raise KsegError(f"--run_dir={self.path}: {error.strerror or error}") from None

    def lock(self) -> None:
        """Takes the folder for this process until it ends, however it ends. Raises KsegError if another run has it."""
        descriptor = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise KsegError(f"--run_dir={self.path}: a run is going on there; wait for it, or name another folder") from None
        except OSError:  # a file system without locks
            os.close(descriptor)
            return
        self._lock = descriptor

    def unlock(self) -> None:
        """Gives the folder free."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def read_config(self) -> TrainConfig:
        """Raises KsegError if this is not a run directory, or one of a kseg that knew more."""
        if not self.path.is_dir():
            raise KsegError(f"--run_dir={self.path}: no such folder")
        try:
            return TrainConfig.from_json(self.config.read_text(encoding="utf-8"))
        except OSError:
            raise KsegError(f"--run_dir={self.path}: not a run directory of kseg (it has no config.json)") from None
        except UnicodeDecodeError:
            raise KsegError(f"{self.config}: not a kseg configuration: is no text in UTF-8") from None
        except KsegError as error:
            raise KsegError(f"{self.config}: {error}{self._written_by()}") from None

    def _written_by(self) -> str:
        """For messages: the kseg that made the run, if it is another one than this."""
        own = importlib.metadata.version("kseg")
        try:
            theirs = json.loads(self.environment.read_text(encoding="utf-8"))["versions"]["kseg"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return ""
        return "" if theirs == own else f" (the run is of kseg {str(theirs)[:40]!r}, this is {own})"

    def read_class_names(self) -> tuple[str, ...] | None:
        """The classes the run was trained on, from evaluation.json; None if the run did not get that far."""
        try:
            names = json.loads(self.evaluation.read_text(encoding="utf-8"))["class_names"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else None

    def read_metrics(self) -> list[dict[str, float]]:
        """The epochs of metrics.csv, "epoch" counted from 1; nan where a value is missing or no finite number."""
        if not self.metrics.exists():
            return []
        with self.metrics.open(newline="", encoding="utf-8", errors="replace") as file:
            rows = [{name: _number(value) for name, value in row.items() if name} for row in csv.DictReader(file)]
        return [{**row, "epoch": int(row["epoch"]) + 1} for row in rows if 0 <= row.get("epoch", math.nan) < 2**31]

    def newest_model(self) -> Path:
        """Returns model.keras, or, in a run that was stopped, the best or the newest checkpoint."""
        for path in (self.model, self.best, *self.checkpoints()):
            if path.exists():
                return path
        raise KsegError(f"--run_dir={self.path}: the run was stopped before its first checkpoint; train again")


def best_epoch(metrics: Sequence[Mapping[str, float]], monitor: str, mode: str) -> int:
    """Returns the epoch whose model a run keeps: the first of the best finite value; 0 if there is none.

    metrics: RunDir.read_metrics(). mode: "max" or "min".
    """
    sign = 1 if mode == "max" else -1
    known = [row for row in metrics if math.isfinite(row.get(monitor, math.nan))]
    return int(max(known, key=lambda row: sign * row[monitor])["epoch"]) if known else 0


def _number(text: str | None) -> float:
    try:
        value = float(text or "")
    except (TypeError, ValueError):  # a row that was cut off, or the logger's NA
        return math.nan
    return value if math.isfinite(value) else math.nan


def default_run_dir(config: TrainConfig) -> Path:
    """Returns runs/<date-time>-<model>-<backbone>, or without backbone where it is the model's own."""
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    backbone = [config.backbone.split("/")[-1]] if config.backbone else []
    return Path("runs", "-".join([now, config.model, *backbone]))


def environment() -> dict[str, Any]:
    """Returns what the run ran on: command, time, versions, backend and devices, source commit."""
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "command": sys.argv,
        "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "backend": keras.backend.backend(),
        "devices": describe_devices(),
        "commit": _commit(),
        "versions": versions,
    }


def _commit():
    """The commit of kseg's source tree, "+" if changed; None where it is not a git checkout."""
    root = Path(kseg.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None

    def git(*arguments):
        return subprocess.run(
            ["git", "-C", root, *arguments], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None
