"""The folder that kseg.export writes: the model, and kseg.json, which says what it is."""

import contextlib
import importlib.metadata
import importlib.util
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras

import kseg
from kseg.config import ExportConfig
from kseg.data.dataset import IGNORE_INDEX
from kseg.data.palette import palette
from kseg.models.saving import load_model
from kseg.runtime.run_dir import RunDir
from kseg.sharing.export.serving import Input, quantize, serving_model
from kseg.sharing.export.tensorflow_process import run_with_tensorflow
from kseg.utils.errors import KsegError
from kseg.utils.files import atomic_folder

ABOUT = "kseg.json"
FILES = {"stablehlo": "model.stablehlo", "onnx": "model.onnx", "saved_model": "saved_model.pb"}
"""The model's file in the folder, by format. A SavedModel is the folder itself."""


def export_run(config: ExportConfig) -> str:
    """Writes the folder config.output, whole or not at all; returns a line for each thing that is good to know.

    Raises KsegError for whatever the user can mend.
    """
    assert config.run_dir is not None and config.format is not None and config.output is not None  # ExportConfig requires them
    output = Path(config.output)
    _check_output(output, config.overwrite)
    _check_packages(config.format)
    run = RunDir(config.run_dir)
    height, width = config.image_size or run.read_config().image_size
    path = run.newest_model()
    model = serving_model(load_model(path), config.dtype)
    spec = Input(height, width, model.input.shape[-1], config.argmax)
    if any(known not in (None, asked) for known, asked in zip(model.input.shape[1:3], (height, width), strict=True)):
        raise KsegError(f"--image_size={height}x{width}: the model of {path} takes {model.input.shape[1]}x{model.input.shape[2]}")
    if config.argmax and model.output.shape[-1] > 256:
        raise KsegError(f"--argmax writes labels as uint8, and {path} has {model.output.shape[-1]} classes; leave --argmax out")
    quantized = quantize(model, config.quantize) if config.quantize != "none" else 0
    names = run.read_class_names()
    try:
        with atomic_folder(output, replace=config.overwrite) as folder:
            if config.format == "stablehlo":
                from kseg.sharing.export.stablehlo import write_stablehlo

                write_stablehlo(model, spec, config.platforms, folder / FILES["stablehlo"])
            else:
                run_with_tensorflow({"model": str(path), "format": config.format, "folder": str(folder), **asdict(spec)})
            about = describe(model, spec, config, names)
            (folder / ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise KsegError(f"--output={output}: {error.strerror or error}") from None
    size = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    kind = "labels uint8" if config.argmax else "logits float32"
    dense = f"dense   {quantized} layers as {config.quantize}\n" if quantized else ""
    file = output / FILES[config.format]
    return f"read    {path}\n{dense}wrote   {file}, {size / 2**20:.1f} MB, {height}x{width} images to {kind}"


def describe(model: keras.Model, spec: Input, config: ExportConfig, names: tuple[str, ...] | None) -> dict[str, Any]:
    """Returns what kseg.json holds.

    config: of the export. names: of the classes; None where the run was stopped before it wrote them down.
    """
    assert config.format is not None
    classes = model.output.shape[-1]
    shape = ["batch", spec.height, spec.width]
    logits = {"name": "logits", "shape": [*shape, classes], "dtype": "float32"}
    packages = {"stablehlo": ("jax",), "saved_model": ("tensorflow", "tensorflow-cpu"), "onnx": ("onnx", "tf2onnx")}
    about: dict[str, Any] = {
        "format": config.format,
        "file": FILES[config.format],
        "input": {
            "name": "images",
            "shape": [*shape, spec.channels],
            "dtype": "uint8",
            "convention": "RGB in 0..255, channels last; the model normalises"
            if spec.channels == 3
            else f"{spec.channels} channels in 0..255, channels last; the model normalises",
        },
        "output": {"name": "labels", "shape": shape, "dtype": "uint8"} if spec.argmax else logits,
        "computes_in": config.dtype,
        "quantized": None if config.quantize == "none" else config.quantize,
        "num_classes": classes,
        "class_names": names and list(names),
        "ignore_index": IGNORE_INDEX,
        "palette": palette(min(classes, IGNORE_INDEX)).tolist(),
        "versions": {"kseg": kseg.__version__, "keras": keras.__version__} | _versions(packages[config.format]),
    }
    if config.format == "stablehlo":
        about["platforms"] = list(config.platforms)
    return about


def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    versions = {}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # of TensorFlow's two packages, one is there
            versions[name] = importlib.metadata.version(name)
    return versions


def _check_output(output: Path, overwrite: bool) -> None:
    """Raises KsegError for a folder that is there; --overwrite replaces earlier exports, and nothing else."""
    if not output.exists():
        return
    if not overwrite:
        raise KsegError(f"--output={output} exists; name another folder, or pass --overwrite")
    if not (output / ABOUT).is_file():
        raise KsegError(f"--output={output} is no earlier export (it has no {ABOUT}), so it is not replaced; name another folder")


def _check_packages(format: str) -> None:
    if format == "onnx" and not all(importlib.util.find_spec(name) for name in ("onnx", "tf2onnx")):
        raise KsegError("--format=onnx needs onnx and tf2onnx; install them: pip install 'kseg[export]'")
    if format == "stablehlo" and keras.backend.backend() != "jax":
        raise KsegError("--format=stablehlo needs Keras on JAX; unset KERAS_BACKEND")
