"""Checkpoints: all that a run is at one step, in one .keras file.

Keras's own file holds the model, its weights and the optimizer's state. What Keras leaves out, and an exact resume needs, is
added to the same zip file: the random seeds of layers such as dropout and the metrics of the epoch under way (arrays,
safetensors), and the position in the data, metrics.csv and the callbacks' state (JSON). So a checkpoint appears whole or not at
all, opens anywhere as a model, and zip's checksums tell a damaged one.
"""

import json
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import keras
import safetensors.numpy

from kseg.runtime.distribution import local_only
from kseg.utils.errors import KsegError
from kseg.utils.files import atomic_path

_STATE, _ARRAYS = "kseg_state.json", "kseg_state.safetensors"
_MAX_STATE = 1 << 26
"""Bytes of either member that are read: metrics.csv of a million epochs and confusion matrices of 1000 classes fit."""


@dataclass(frozen=True)
class RunState:
    """Where a run stands.

    epoch: whole epochs done; step: steps of the next one done. metrics_csv: the file's text. callbacks: what each callback's
    get_state returned, by its class's name.
    """

    epoch: int
    step: int
    metrics_csv: str = ""
    callbacks: dict[str, dict[str, Any]] = field(default_factory=dict)


def save_checkpoint(path: Path, model: keras.Model, state: RunState) -> None:
    """Writes a compiled model and the run's state, whole or not at all. Raises OSError, for example if the disk is full."""
    arrays = {f"seed/{i}": variable for i, variable in enumerate(_seeds(model))}
    if state.step:
        arrays |= {f"metric/{i}": variable for i, variable in enumerate(model.metrics_variables)}
    arrays = {name: keras.ops.convert_to_numpy(variable).copy() for name, variable in arrays.items()}
    with local_only(), atomic_path(path) as temporary:
        model.save(temporary)
        with zipfile.ZipFile(temporary, "a") as archive:
            archive.writestr(_STATE, json.dumps(asdict(state)))
            archive.writestr(_ARRAYS, safetensors.numpy.save(arrays))


def read_state(path: Path) -> RunState:
    """Reads a checkpoint's state, and all of the file's checksums. Raises KsegError if the file is damaged or no checkpoint."""
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
    """Gives a model compiled as the checkpoint's was its weights, optimizer state and random seeds."""
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    try:
        model.load_weights(path)
        _assign(_seeds(model), path, "seed")
    except (OSError, KeyError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise KsegError(f"{path}: the checkpoint does not fit the model of the run's config.json ({reason})") from None


def restore_metrics(path: Path, model: keras.Model) -> None:
    """Gives a model's metrics the counts of the epoch that was under way, which the state's step must say. To be called within
    fit, which makes the metrics and resets them at the start of an epoch.
    """
    _assign(model.metrics_variables, path, "metric")


def newest_checkpoint(paths: Sequence[Path]) -> tuple[Path, RunState] | None:
    """Returns the first of the paths that is not damaged, with its state; warns of each that is. None if there is none at all.

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


def _seeds(model: keras.Model) -> list[Any]:
    """The state of the layers' random generators, which neither model.weights nor a .keras file hold."""
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
