"""Opens the folders that kseg.export writes, to predict and score with the exported model itself."""

import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kseg.runtime.openvino_import import import_openvino
from kseg.utils.errors import KsegError
from kseg.utils.system import usable_cores

ABOUT, MAX_ABOUT = "kseg.json", 2**20
"""The file that describes an export, and the most bytes of it that are read."""
FILES = {
    "stablehlo": "model.stablehlo",
    "onnx": "model.onnx",
    "saved_model": "saved_model.pb",
    "openvino": "model.xml",
    "litert": "model.tflite",
}
"""The model's file in the folder, by format. TensorFlow loads a SavedModel by the folder's name."""
COMPILE_WITH = {"INFERENCE_PRECISION_HINT": "f32"}
"""OpenVINO's properties for logits like those of the other formats. Without them it rounds to bfloat16 on CPUs that have it."""
ONLY_RUNS = "is an exported model, which only runs; name the run directory or the .keras file that it was exported from"
_RUNTIMES = {"onnx": "onnxruntime", "openvino": "openvino", "litert": "ai-edge-litert"}
"""The package that runs a format."""

Runtime = Callable[[np.ndarray], np.ndarray]
"""From images uint8 [B, H, W, C] to what the exported model returns."""


@dataclass(frozen=True)
class ExportedFolder:
    """An exported model, by its kseg.json. size: (height, width) of its images, each None if it is free.

    trained_at: (height, width), None if it is not recorded.
    """

    path: Path
    format: str
    result: str
    size: tuple[int | None, int | None]
    channels: int
    classes: int
    class_names: tuple[str, ...] | None
    trained_at: tuple[int, int] | None

    def load(self) -> keras.Model:
        """Returns a model of images [B, H, W, C] to logits, whose attribute `run` computes them: uint8 to float32, in numpy.

        It cannot be trained, saved or be part of another model. Raises KsegError if the file is damaged, its package is missing,
        or it returns labels, which cannot be resized.
        """
        if self.result == "labels":
            raise KsegError(f"{self.path}: was exported with --result=labels, and this needs logits; export it without")
        if self.format not in _RUNTIMES:
            raise KsegError(f"{self.path}: is {self.format}; kseg runs exports as {', '.join(_RUNTIMES)}")
        package = _RUNTIMES[self.format]
        if importlib.util.find_spec(package.replace("-", "_")) is None:
            raise KsegError(f"{self.path}: is {self.format}, which {package} runs; install it: pip install {package}")
        file = self.path / FILES[self.format]
        if not file.is_file():
            raise KsegError(f"{self.path}: has no {file.name}")
        try:
            run = _open(self.format, file)
        except Exception as error:  # each package has its own
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise KsegError(f"{file}: {package} cannot open it: {reason}") from error
        images = keras.Input((*self.size, self.channels), dtype="float32", name="images")
        model = keras.Model(images, _OtherRuntime(self.classes)(images), name="exported")
        model.run = run if self.result == "logits" else lambda images: np.log(np.maximum(run(images), 1e-30))
        return model


@keras.saving.register_keras_serializable("kseg")
class _OtherRuntime(keras.layers.Layer):
    """Has the shapes of a network that Keras does not compute: images [B, H, W, C] to logits [B, H, W, classes]."""

    def __init__(self, classes: int):
        super().__init__(dtype="float32", name="runtime")
        self.classes = classes

    def call(self, images: Any) -> Any:
        raise KsegError(f"it {ONLY_RUNS}")

    def compute_output_spec(self, images: Any) -> Any:
        return keras.KerasTensor((*images.shape[:3], self.classes), "float32")

    def get_config(self) -> dict[str, Any]:
        raise KsegError(f"it {ONLY_RUNS}")


def is_exported(path: Path) -> bool:
    """Returns True for a folder that kseg.export wrote."""
    return (path / ABOUT).is_file()


def check_not_exported(model: keras.Model | None, what: str) -> None:
    """Raises KsegError if a model is an exported one. what: cannot be done with it, for the message."""
    if hasattr(model, "run"):
        raise KsegError(f"{what}: the model {ONLY_RUNS}")


def read_exported(path: Path) -> ExportedFolder:
    """Reads kseg.json of an exported folder. Raises KsegError if it is damaged, or describes no export."""
    try:
        with (path / ABOUT).open("rb") as file:
            about = json.loads(file.read(MAX_ABOUT))
        shape, result, classes = about["input"]["shape"], about["output"]["name"], about["num_classes"]
        names, trained_at = about["class_names"], about.get("trained_at")
        _, height, width, channels = shape
        size = (None if isinstance(height, str) else height, None if isinstance(width, str) else width)
        numbers = [channels, classes, *(side for side in size if side is not None), *(trained_at or ())]
        good = (
            about["format"] in FILES
            and result in ("logits", "probabilities", "labels")
            and all(type(number) is int and 0 < number < 2**16 for number in numbers)
            and (names is None or (len(names) == classes and all(isinstance(name, str) for name in names)))
            and (trained_at is None or len(trained_at) == 2)
        )
    except OSError as error:
        raise KsegError(f"{path / ABOUT}: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        good = False
    if not good:
        raise KsegError(f"{path / ABOUT}: is damaged, or of a later kseg; export the model again")
    names = None if names is None else tuple(names)
    trained_at = None if trained_at is None else tuple(trained_at)
    return ExportedFolder(path, about["format"], result, size, channels, classes, names, trained_at)


def _open(format: str, file: Path) -> Runtime:
    if format == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        return lambda images: session.run(None, {"images": images})[0]
    if format == "openvino":
        model = import_openvino().Core().compile_model(str(file), "CPU", COMPILE_WITH)
        return lambda images: model(images)[0]
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(file), num_threads=usable_cores())
    signature = interpreter.get_signature_runner("serving_default")
    return lambda images: np.concatenate([next(iter(signature(images=image[None]).values())) for image in images])
