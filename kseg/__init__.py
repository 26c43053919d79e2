"""kseg: semantic segmentation for Keras 3 and JAX.

Importing kseg imports neither Keras nor TensorFlow; public names are loaded when they are first used (__init__.pyi lists them for
IDEs). The Keras backend is JAX, unless KERAS_BACKEND names another.
"""

import importlib
import os
import sys
from typing import Any

__version__ = "0.1.0"

if "keras" not in sys.modules:
    os.environ.setdefault("KERAS_BACKEND", "jax")

_PUBLIC = {
    "Segmenter": "kseg.api.segmenter",
    "FitResult": "kseg.api.fit_result",
    "load": "kseg.api.load",
    "split": "kseg.api.split",
    "ArrayDataset": "kseg.data.sources.arrays",
    "CocoDataset": "kseg.data.sources.coco",
    "FolderDataset": "kseg.data.sources.folder",
    "TfdsDataset": "kseg.data.sources.tfds",
    "Evaluation": "kseg.metrics.evaluation",
    "Prediction": "kseg.inference.prediction",
    "KsegError": "kseg.utils.errors",
    "build_backbone": "kseg.models",
    "build_dataset": "kseg.data",
    "build_model": "kseg.models",
    "list_backbones": "kseg.models",
    "list_models": "kseg.models",
    "ConfusionMatrix": "kseg.metrics.confusion_matrix",
    "BoundaryLoss": "kseg.losses",
    "CrossEntropy": "kseg.losses",
    "DiceLoss": "kseg.losses",
    "FocalLoss": "kseg.losses",
    "JaccardLoss": "kseg.losses",
    "LovaszLoss": "kseg.losses",
    "OhemCrossEntropy": "kseg.losses",
    "TverskyLoss": "kseg.losses",
    "WeightedSum": "kseg.losses",
    "build_loss": "kseg.losses",
    "load_model": "kseg.models.saving",
    "load_torch_weights": "kseg.models.pytorch.load",
    "export_torch_weights": "kseg.models.pytorch.export",
    "functionalize": "kseg.models.functional",
    "reparameterize_model": "kseg.models.reparameterize",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'kseg' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
