"""Says what a file or folder is that is no model of kseg, and what to do with it."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kseg.data.image_io import IMAGE_SUFFIXES
from kseg.models.pretrained import TORCH_FILES

CONFIG, MAX_CONFIG = "config.json", 2**20
"""The file that describes a folder, of whichever library, and the most bytes of it that are read."""
TRANSFORMERS = ("SegformerForSemanticSegmentation", "UperNetForSemanticSegmentation")
"""Classes of Hugging Face transformers that kseg reads."""
_EXPORTS = (".onnx", ".tflite", ".pb", ".stablehlo", ".mlir", ".pt2")


def folder_config(folder: Path) -> Any:
    """Returns the content of a folder's config.json; None if there is none, or none that can be read."""
    try:
        with (folder / CONFIG).open("rb") as file:
            return json.loads(file.read(MAX_CONFIG))
    except (OSError, ValueError, RecursionError):
        return None


def foreign_folder(folder: Path) -> str | None:
    """Returns what a folder is, by its files; None if there is no sign of another library."""
    if (content := folder_config(folder)) is not None:
        return foreign_config(content)
    if (folder / "saved_model.pb").exists():
        return "is a SavedModel, which only runs; name the run directory or the .keras file that it was exported from"
    if any((folder / name).is_dir() for name in ("images", "annotations", "labels", "JPEGImages", "leftImg8bit")):
        return "is a folder of data; name a model"
    return None


def foreign_config(content: Any) -> str | None:
    """Returns what a folder is by its config.json; None if there is no sign of another library."""
    if not isinstance(content, Mapping):
        return None
    if "pretrained_cfg" in content or "architecture" in content:
        return f"is a backbone of timm ({_text(content.get('architecture'))}); pass it as backbone_weights"
    if "model_type" in content or "architectures" in content or "transformers_version" in content:
        if (kind := transformers_class(content)) in TRANSFORMERS:
            return None
        return (
            f"is a model of transformers ({_text(kind or content.get('model_type'))}), which kseg does not read; "
            f"it reads {' and '.join(TRANSFORMERS)}"
        )
    if "keras_hub" in f"{content.get('registered_name')} {content.get('module')}":
        return f"is a model of keras-hub ({_text(content.get('class_name'))}), which kseg does not read; open it with keras_hub"
    return None


def transformers_class(content: Any) -> str | None:
    """Returns the class of transformers that a config.json names; None if it names none."""
    kind = content.get("architectures") if isinstance(content, Mapping) else None
    kind = kind[0] if isinstance(kind, list) and kind else kind
    return kind if isinstance(kind, str) else None


def _text(value: Any) -> str:
    """Returns a value of a config.json, which may say anything, for a message."""
    return re.sub(r"[^\w.+/ -]", "?", str(value))[:60]


def foreign_file(path: Path) -> str | None:
    """Returns what a file is, by its suffix; None for one that may be a model."""
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return "is an image; name a model, and predict the image with it"
    if suffix in TORCH_FILES:
        if suffix == ".safetensors" and (path.parent / "config.json").exists():
            return f"is part of a model folder; name the folder {path.parent}"
        return (
            f"is a PyTorch checkpoint; convert it: python -m kseg.convert --checkpoint={path} --model=NAME --backbone=NAME "
            "--num_classes=N --output=model.keras"
        )
    if suffix == ".h5":
        return "has weights without a model; save the whole model as a .keras file"
    if suffix in _EXPORTS:
        return "is an exported model, which only runs; name the run directory or the .keras file that it was exported from"
    return None
