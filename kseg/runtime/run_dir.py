"""The run directory. evaluate, predict and export need nothing else.

runs/<name>/  config.json environment.json transforms.json initial_weights.json metrics.csv timing.csv skipped.txt
              checkpoints/{best,step-*}.keras model.keras evaluation.json matrices.npz
              report.html figures/ tensorboard/ nonfinite.json
"""

import datetime
import importlib.metadata
import json
import os
import shutil
from pathlib import Path

from kseg.config import TrainConfig
from kseg.runtime.environment import environment
from kseg.runtime.folder_lock import FolderLock
from kseg.runtime.metrics_csv import read_metrics
from kseg.utils.errors import KsegError
from kseg.utils.files import write_text


class RunDir:
    """The paths of a run directory, and the methods that write and read its small files."""

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.config = self.path / "config.json"
        self.environment = self.path / "environment.json"
        self.transforms = self.path / "transforms.json"
        self.initial_weights = self.path / "initial_weights.json"
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
        self._lock = FolderLock(self.path)

    def checkpoint(self, step: int) -> Path:
        """Returns the path of the checkpoint after `step` steps of the whole run."""
        return self.best.with_name(f"step-{step:08d}.keras")

    def checkpoints(self) -> list[Path]:
        """Returns the existing checkpoints, newest first."""
        return sorted(self.best.parent.glob("step-*.keras"), reverse=True)

    def check_free(self) -> None:
        """Raises KsegError unless the folder can be created, or is empty and writable. Writes nothing."""
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
        """Creates and locks the folder, and writes config.json, environment.json and, if samples were skipped, skipped.txt."""
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
        """Prepares the locked folder of a stopped run for more training.

        Removes half-written files, restores metrics.csv as it was at the checkpoint, and notes the resumption in
        environment.json.
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
        """Reserves the folder for this process until unlock, or until the process ends. Raises KsegError if a run uses it."""
        if not self._lock.acquire():
            raise KsegError(f"--run_dir={self.path}: a run is going on there; wait for it, or name another folder")

    def unlock(self) -> None:
        """Ends the reservation."""
        self._lock.release()

    def read_config(self) -> TrainConfig:
        """Returns the run's config. Raises KsegError if this is no run directory, or if a newer kseg wrote it."""
        if not self.path.is_dir():
            raise KsegError(f"--run_dir={self.path}: no such folder")
        try:
            return TrainConfig.from_json(self.config.read_text(encoding="utf-8"))
        except OSError:
            raise KsegError(f"--run_dir={self.path}: not a run directory of kseg (it has no config.json)") from None
        except UnicodeDecodeError:
            raise KsegError(f"{self.config}: not a kseg configuration: not UTF-8 text") from None
        except KsegError as error:
            raise KsegError(f"{self.config}: {error}{self._written_by()}") from None

    def _written_by(self) -> str:
        """Returns a note for error messages if another version of kseg wrote the run, else ""."""
        own = importlib.metadata.version("kseg")
        try:
            theirs = json.loads(self.environment.read_text(encoding="utf-8"))["versions"]["kseg"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return ""
        return "" if theirs == own else f" (the run is of kseg {str(theirs)[:40]!r}, this is {own})"

    def read_class_names(self) -> tuple[str, ...] | None:
        """Returns the class names from evaluation.json, or None if the run did not get that far."""
        try:
            names = json.loads(self.evaluation.read_text(encoding="utf-8"))["class_names"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else None

    def read_metrics(self) -> list[dict[str, float]]:
        """Returns the epochs of metrics.csv; see kseg.runtime.metrics_csv.read_metrics."""
        return read_metrics(self.metrics)

    def newest_model(self) -> Path:
        """Returns model.keras, or else the best or the newest checkpoint. Raises KsegError if there is none."""
        for path in (self.model, self.best, *self.checkpoints()):
            if path.exists():
                return path
        raise KsegError(f"--run_dir={self.path}: the run was stopped before its first checkpoint; train again")


def default_run_dir(config: TrainConfig) -> Path:
    """Returns runs/<date>-<time>-<model>-<backbone>; without <backbone> if the config names none."""
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    backbone = [config.backbone.split("/")[-1]] if config.backbone else []
    return Path("runs", "-".join([now, config.model, *backbone]))
