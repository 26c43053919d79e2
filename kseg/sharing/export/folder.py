"""Writes the folder of kseg.export: the model, and kseg.json, which describes it."""

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
from kseg.inference.exported import ABOUT, COMPILE_WITH, FILES
from kseg.inference.source import Source, find_source
from kseg.sharing.export.openvino import write_openvino
from kseg.sharing.export.serving import SMALLEST, Input, quantize, serving_model
from kseg.sharing.export.tensorflow_process import run_with_tensorflow
from kseg.sharing.input_size import check_any_size, input_size
from kseg.utils.errors import KsegError
from kseg.utils.files import atomic_folder

EXTRAS = {"onnx": ("export", ("onnx", "tf2onnx")), "openvino": ("openvino", ("onnx", "tf2onnx", "openvino"))}
"""By format: the extra of kseg that installs what writes it, and the packages."""


def export(config: ExportConfig) -> str:
    """Writes the folder config.output atomically and returns a summary, one line for each step.

    Raises KsegError for what the user can fix.
    """
    assert config.model is not None and config.format is not None and config.output is not None  # ExportConfig requires them
    output = Path(config.output)
    _check_output(output, config.overwrite)
    _check_packages(config.format)
    source = find_source(config.model)
    model = serving_model(source.load(channels=None), config.dtype)
    height: int | None = None
    width: int | None = None
    if isinstance(config.image_size, str):  # any
        check_any_size(source, model)
    else:
        height, width = input_size(source, model, config.image_size)
    batch = 1 if config.format == "litert" else None  # its converter writes wrong sizes for some models of any batch
    spec = Input(height, width, model.input.shape[-1], config.result, batch)
    if config.result == "labels" and model.output.shape[-1] > 256:
        raise KsegError(f"--result=labels: label maps are uint8, but {source.shown} has {model.output.shape[-1]} classes")
    quantized = quantize(model, config.quantize) if config.quantize != "none" else 0
    try:
        with atomic_folder(output, replace=config.overwrite) as folder:
            if config.format == "stablehlo":
                from kseg.sharing.export.stablehlo import write_stablehlo

                write_stablehlo(model, spec, config.platforms, folder / FILES["stablehlo"])
            else:
                by_tensorflow = "onnx" if config.format == "openvino" else config.format
                run_with_tensorflow({"model": model_name(source), "format": by_tensorflow, "folder": str(folder), **asdict(spec)})
            if config.format == "openvino":
                write_openvino(folder / FILES["onnx"], folder / FILES["openvino"])
            about = describe(model, spec, config, source)
            (folder / ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise KsegError(f"--output={output}: {error.strerror or error}") from None
    total = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    about_result = f"{config.result} {about['output']['dtype']}"
    of_images = "images of any size" if height is None else f"{height}x{width} images"
    dense = f"dense   {quantized} layers as {config.quantize}\n" if quantized else ""
    file = output / FILES[config.format]
    return f"read    {source.shown}\n{dense}wrote   {file}, {total / 2**20:.1f} MB, {of_images} to {about_result}"


def model_name(source: Source) -> str:
    """Returns a name by which another process finds the same model, although a repository may change meanwhile."""
    if source.folder is not None and (files := source.folder.files).repository is not None:
        return f"hf://{files.repository}@{files.revision}"
    return str(source.path)


def describe(model: keras.Model, spec: Input, config: ExportConfig, source: Source) -> dict[str, Any]:
    """Returns the content of kseg.json. source: of the model."""
    assert config.format is not None
    classes = model.output.shape[-1]
    shape, labels = spec.shape, spec.result == "labels"
    tensorflow, onnx = ("tensorflow", "tensorflow-cpu"), ("onnx", "tf2onnx")
    packages = {"stablehlo": ("jax",), "saved_model": tensorflow, "litert": tensorflow, "onnx": onnx}
    packages["openvino"] = ("openvino", *onnx)
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
            "free": [side for side in shape if isinstance(side, str)],
            **({"window": source.window} if source.window and not config.image_size else {}),
        },
        "output": {
            "name": spec.result,
            "shape": shape if labels else [*shape, classes],
            "dtype": "uint8" if labels else "float32",
        },
        "computes_in": config.dtype,
        "quantized": None if config.quantize == "none" else config.quantize,
        "num_classes": classes,
        "class_names": source.class_names and list(source.class_names),
        "trained_at": source.image_size and list(source.image_size),
        "ignore_index": IGNORE_INDEX,
        "palette": palette(min(classes, IGNORE_INDEX)).tolist(),
        "versions": {"kseg": kseg.__version__, "keras": keras.__version__} | _versions(packages[config.format]),
    }
    if spec.height is None:
        about["input"]["smallest"] = SMALLEST
    if config.format == "stablehlo":
        about["platforms"] = list(config.platforms)
    if config.format == "openvino":
        about["compile_with"] = COMPILE_WITH
    return about


def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    versions = {}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # only one of TensorFlow's two packages is installed
            versions[name] = importlib.metadata.version(name)
    return versions


def _check_output(output: Path, overwrite: bool) -> None:
    """Raises KsegError if the folder exists, unless --overwrite is given and it is an earlier export."""
    if not output.exists():
        return
    if not overwrite:
        raise KsegError(f"--output={output} exists; name another folder, or pass --overwrite")
    if not (output / ABOUT).is_file():
        raise KsegError(f"--output={output} is not an earlier export (it has no {ABOUT}); name another folder")


def _check_packages(format: str) -> None:
    extra, packages = EXTRAS.get(format, ("", ()))
    if not all(importlib.util.find_spec(name) for name in packages):
        *others, last = packages
        raise KsegError(f"--format={format} needs {', '.join(others)} and {last}; install them: pip install 'kseg[{extra}]'")
    if format == "stablehlo" and keras.backend.backend() != "jax":
        raise KsegError("--format=stablehlo needs Keras on JAX; unset KERAS_BACKEND")
