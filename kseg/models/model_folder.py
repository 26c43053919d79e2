"""Reads and writes model folders: build_model's arguments (config.json) and the weights (model.safetensors).

Reading takes nothing else from a folder and runs no code from it.
"""

import dataclasses
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np

from kseg.config import TrainConfig
from kseg.config.fields import REPOSITORY
from kseg.models.auxiliary_head import inference_model
from kseg.models.credits import NO_CREDITS, Credits, print_licence
from kseg.models.folder_files import FolderFiles, member
from kseg.models.foreign import CONFIG, MAX_CONFIG, folder_config
from kseg.models.layers import Normalize
from kseg.models.model_info import FORMAT, ModelInfo, Numbers, described, parse_content, read_info
from kseg.models.options import read_options
from kseg.models.readme import read_credits
from kseg.models.smp_config import is_smp_config, is_smp_folder, smp_info
from kseg.models.smp_weights import max_smp_size, read_smp_weights
from kseg.models.transformers_config import is_transformers_config, is_transformers_folder, transformers_info
from kseg.models.transformers_processor import read_processor
from kseg.models.transformers_weights import read_transformers_weights
from kseg.utils.errors import KsegError, root_cause
from kseg.utils.files import atomic_folder

WEIGHTS, CARD = "model.safetensors", "README.md"
_MAX_HEADER = 2**21  # bytes of a safetensors file beside its weights


@dataclass(frozen=True)
class SharedModel:
    """A model loaded from a folder, images [B, H, W, C] in 0..255 to logits [B, H, W, classes], with its description."""

    model: keras.Model
    info: ModelInfo

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.info.class_names


@dataclass(frozen=True)
class ModelFolder:
    """A model folder, or a Hub repository with one. Only its description is read until load.

    files: the folder's. library: that wrote it. unrecorded: members of `info` that the folder does not record: their values there
    mean nothing.
    """

    files: FolderFiles
    info: ModelInfo
    library: Literal["kseg", "smp", "transformers"] = "kseg"
    unrecorded: frozenset[str] = frozenset()

    @property
    def credits(self) -> Credits:
        """The base model of those that start from this one."""
        if self.files.repository is not None:
            return Credits(self.files.repository, self.info.credits.licence)
        return self.info.credits

    def load(self) -> SharedModel:
        """Builds the model and loads its weights; downloads those of a repository. Raises KsegError if they do not fit."""
        model = _build_described(self.info, self.files.shown(CONFIG))
        if self.library == "kseg":
            _read_weights(model, self.files.get(WEIGHTS, _max_file_size(model)))
        elif self.library == "smp":
            read_smp_weights(model, self.files.get(WEIGHTS, max_smp_size(model)))
        else:
            read_transformers_weights(model, self.files)
        if self.files.repository is not None and self.credits.restricted:
            print_licence(self.files.repository, str(self.credits.licence))
        return SharedModel(model, self.info)


def find_model_folder(source: str | os.PathLike, revision: str | None = None) -> ModelFolder:
    """Finds a model folder or a Hub repository (owner/name or hf://owner/name[@revision]), and reads its description.

    revision: a branch, tag or commit of the repository. Raises KsegError if there is no such folder or repository, or if
    none of kseg, segmentation_models.pytorch and transformers wrote it.
    """
    folder, name = Path(source), os.fspath(source)
    if folder.is_dir():
        if revision is not None:
            raise KsegError(f"{name}: is a folder, which has no revisions; leave revision out")
        files = FolderFiles(name, folder)
        return _described_folder(files, member(folder, CONFIG))
    repository, at, tag = name.removeprefix("hf://").partition("@")
    if not re.fullmatch(REPOSITORY, repository) or (at and not (re.fullmatch(r"[\w./-]+", tag) and name.startswith("hf://"))):
        raise KsegError(f"{name}: no such folder, and not the name of a repository (hf://owner/name or hf://owner/name@revision)")
    if tag and revision is not None:
        raise KsegError(f"{name}: names a revision; leave revision={revision!r} out")
    config = FolderFiles(name, folder, repository, tag or revision).get(CONFIG, MAX_CONFIG)
    # The cache's folder is named by the commit; the weights must be of the same commit.
    commit = config.parent.name if re.fullmatch("[0-9a-f]{40}", config.parent.name) else tag or revision
    return _described_folder(FolderFiles(name, config.parent, repository, commit), config)


def _described_folder(files: FolderFiles, config: Path) -> ModelFolder:
    """Returns the folder that a config.json of kseg, smp or transformers describes."""
    found = described(config, files.shown(CONFIG), partial(_parse, files))
    if found.library == "kseg":
        return found
    info, unrecorded = dataclasses.replace(found.info, credits=read_credits(files)), found.unrecorded
    if found.library == "transformers":
        processor = read_processor(files, info.input_shape[-1])
        info = dataclasses.replace(info, normalization=processor.normalization, image_size=processor.size or info.image_size)
        unrecorded |= frozenset() if processor.size else {"image_size"}
    return dataclasses.replace(found, info=info, unrecorded=unrecorded)


def _parse(files: FolderFiles, content: Any) -> ModelFolder:
    """Returns the folder of a config.json's content. Raises KsegError for what no library that kseg reads has written."""
    if is_smp_config(content):
        return ModelFolder(files, smp_info(content), "smp", frozenset({"class_names", "image_size"}))
    if is_transformers_config(content):
        info, named = transformers_info(content)
        return ModelFolder(files, info, "transformers", frozenset() if named else frozenset({"class_names"}))
    return ModelFolder(files, parse_content(content))


def is_model_folder(folder: Path) -> bool:
    """Returns True for a model folder, False for a run directory, which has a different config.json."""
    return (folder / WEIGHTS).exists() or is_kseg_folder(folder) or is_smp_folder(folder) or is_transformers_folder(folder)


def is_kseg_folder(folder: Path) -> bool:
    """Returns True for a model folder that kseg wrote."""
    content = folder_config(folder)
    return isinstance(content, dict) and content.get("format") == FORMAT


def normalization_of(model: keras.Model) -> tuple[Numbers, Numbers] | None:
    """Returns the (mean, std) with which a model of build_model normalises, or None if it does not."""
    layers = {layer.name: layer for layer in model.layers}
    normalize, backbone = layers.get("normalize"), layers.get("backbone")
    if not isinstance(normalize, Normalize):
        return None
    if backbone is not None and any(layer.name == "unit_range" for layer in backbone.layers):
        return (0.0,) * len(normalize.mean), (1.0,) * len(normalize.std)  # keras-cv's preset undoes the normalisation
    return tuple(map(float, normalize.mean)), tuple(map(float, normalize.std))


def describe_model(
    model: keras.Model,
    config: TrainConfig,
    class_names: Sequence[str],
    credits: Credits = NO_CREDITS,
) -> ModelInfo:
    """Returns the description of a model that was trained with a config. Raises KsegError for names that no description has.

    credits: what its weights started from.
    """
    return ModelInfo(
        model=config.model,
        class_names=tuple(class_names),
        image_size=config.image_size,
        backbone=config.backbone,
        output_stride=config.output_stride,
        normalization=normalization_of(model),
        input_shape=tuple(model.input.shape[1:]),
        precision=config.optimization.precision,
        options=read_options(config.model, config.model_options),
        window=config.scale.val_window,
        credits=credits,
    )


def copy_weights(source: keras.Model, target: keras.Model) -> None:
    """Copies all weights to a model of the same architecture. Raises KsegError, without changing it, if it is of another one."""
    theirs, ours = ({weight.path: weight for weight in model.weights} for model in (source, target))
    shapes = [{path: tuple(weight.shape) for path, weight in weights.items()} for weights in (theirs, ours)]
    if differing := sorted(set(shapes[0].items()) ^ set(shapes[1].items())):
        raise KsegError(f"the weights are of another architecture than {target.name}: they differ in {differing[0][0]}")
    for path, weight in ours.items():
        weight.assign(theirs[path])


def write_model_folder(
    model: keras.Model, info: ModelInfo, folder: Path, further: Mapping[str, bytes], *, overwrite: bool = False
) -> None:
    """Checks that `info` describes the model without its auxiliary head, then writes the complete folder or nothing.

    further: more files, by their name in the folder. overwrite: replace an earlier model folder, but no other folder. Raises
    KsegError if the folder exists or cannot be written, or if `info` describes another model.
    """
    from safetensors.numpy import save

    check_free(folder, overwrite)
    model = inference_model(model)
    _check_description(model, info)
    try:
        with atomic_folder(folder, replace=overwrite) as temporary:
            arrays = {weight.path: np.ascontiguousarray(keras.ops.convert_to_numpy(weight)) for weight in model.weights}
            (temporary / WEIGHTS).write_bytes(save(arrays, metadata={"format": "keras"}))
            for name, content in {CONFIG: info.to_json().encode(), **further}.items():
                (temporary / name).parent.mkdir(exist_ok=True)
                (temporary / name).write_bytes(content)
    except OSError as error:
        raise KsegError(f"--output={folder}: {error.strerror or error}") from None


def check_free(folder: Path, overwrite: bool) -> None:
    """Raises KsegError if the folder exists, unless overwrite is set and it is an earlier model folder."""
    if not folder.exists():
        return
    if not overwrite:
        raise KsegError(f"--output={folder} exists; name another folder, or pass --overwrite")
    try:
        read_info(folder)
    except KsegError:
        raise KsegError(f"--output={folder} is no earlier model folder, so it is not replaced; name another folder") from None


def _check_description(model: keras.Model, info: ModelInfo) -> None:
    """Raises KsegError unless info builds a model with the same variables and, with the same weights, the same logits."""
    built = info.build()
    layout, described = ([(weight.path, tuple(weight.shape)) for weight in m.weights] for m in (model, built))
    if layout != described:
        other = next((a for a, b in zip(layout, described, strict=False) if a != b), f"{len(layout)} weights")
        raise KsegError(f"build_model({info.model!r}, backbone={info.backbone!r}) makes a different model: this one has {other}")
    built.set_weights(model.get_weights())
    height, width = (side or 64 for side in info.input_shape[:2])
    images = np.random.default_rng(0).integers(0, 256, (1, height, width, info.input_shape[2]), dtype="uint8")
    ours, theirs = (np.asarray(m.predict_on_batch(images)) for m in (model, built))
    if not np.allclose(ours, theirs, rtol=0, atol=1e-3 * max(float(ours.std()), 1e-3), equal_nan=True):
        raise KsegError(f"build_model({info.model!r}, backbone={info.backbone!r}) makes a different model: its logits differ")


def folder_files(folder: Path) -> dict[str, Path]:
    """Returns the files that belong to a model folder, by their name in it. Other files are left out."""
    names = [CONFIG, WEIGHTS, *(name for name in (CARD,) if (folder / name).exists())]
    names += [f"figures/{path.name}" for path in sorted((folder / "figures").glob("*.png"))]
    return {name: member(folder, name) for name in names}


def _build_described(info: ModelInfo, where: object) -> keras.Model:
    """Returns info.build(). `where` names the file of info in the message of a KsegError."""
    try:
        return info.build()
    except KsegError as error:
        raise KsegError(f"{where}: {error}") from None


def _max_file_size(model: keras.Model) -> int:
    """Returns an upper bound of the size of the model's weights as safetensors, in bytes."""
    return sum(4 * math.prod(weight.shape) for weight in model.weights) + _MAX_HEADER


def _read_weights(model: keras.Model, path: Path) -> None:
    """Loads the weights into the model.

    Raises KsegError, without changing the model, unless the file has exactly its weights, by name, shape and type.
    """
    from safetensors import safe_open

    if (size := path.stat().st_size) > (limit := _max_file_size(model)):
        raise KsegError(f"{path}: has {size} bytes; the model that {CONFIG} describes has at most {limit}")
    try:
        with safe_open(path, framework="numpy") as file:
            found = {key: (file.get_slice(key).get_dtype(), tuple(file.get_slice(key).get_shape())) for key in file.keys()}  # noqa: SIM118
            expected = {weight.path: ("F32", tuple(weight.shape)) for weight in model.weights}
            if differing := sorted(set(found.items()) ^ set(expected.items())):
                name = differing[0][0]
                raise KsegError(
                    f"{path}: does not fit the model that {CONFIG} describes: {name[:80]!r} is {_text(found.get(name))} "
                    f"in the file and {_text(expected.get(name))} in the model"
                )
            arrays = [file.get_tensor(weight.path) for weight in model.weights]
    except KsegError:
        raise
    except Exception as error:  # safetensors raises various types
        raise KsegError(f"{path}: not a safetensors file, or a damaged one ({root_cause(error)})") from None
    model.set_weights(arrays)


def _text(entry: tuple[str, tuple[int, ...]] | None) -> str:
    return "missing" if entry is None else f"{entry[0]} {list(entry[1])}"
