"""Writes the model card, README.md of a model folder: metadata for the Hub, scores, figures and the training command."""

import math
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from kseg.config import PYTHON, HubConfig, TrainConfig, flag_lines, flatten
from kseg.metrics.scores import Scores, scores
from kseg.models.model_info import ModelInfo
from kseg.reports.html import template
from kseg.runtime.run_dir import RunDir
from kseg.utils.errors import KsegError
from kseg.utils.files import read_json

_FIGURES = {
    "median_1": "The validation image of median mIoU: image, label, prediction and errors",
    "worst_1": "The validation image of lowest mIoU: image, label, prediction and errors",
    "iou": "IoU by class, in the colours of the label maps",
}
LIBRARIES = {"smp": "segmentation_models.pytorch", "transformers": "Hugging Face transformers"}
_MAX_FIGURE = 2**23  # bytes
_LOCAL_FLAGS = ("run_dir", "resume", "dry_run", "workers", "compilation_cache", "wandb", "mlflow", "tensorboard", "coordinator",
        "num_processes", "process_id", "cache")  # flags that do not affect the model  # fmt: skip
_MODEL_FLAGS = ("backbone", "backbone_weights", "output_stride", "model_options", "init", "double_normalization")
_SHOWN_VERSIONS = ("kseg", "keras", "jax", "tensorflow", "tensorflow-cpu", "torch", "numpy", "albumentations")


def card_files(run: RunDir, config: TrainConfig, info: ModelInfo, options: HubConfig) -> dict[str, bytes]:
    """Returns README.md and the figures that it shows: content by name in the folder.

    options: license, data_name, pictures and push are read. Raises KsegError if evaluation.json is missing or does not match
    `info`.
    """
    evaluation = _read_evaluation(run, info)
    total = scores(np.array(evaluation["confusion_matrix"]))
    environment = read_json(run.environment)
    files = _figures(run) if options.pictures else {}
    data_name = options.data_name or _data_name(config)
    share = total.pixels / max(total.pixels.sum(), 1)
    columns = (info.class_names, total.iou, total.dice, total.precision, total.recall, share, np.isnan(total.iou))
    keys = ("name", "iou", "dice", "precision", "recall", "share", "absent")
    from_python = config.data.dataset == PYTHON
    command = training_call(config) if from_python else training_command(config)
    versions = environment.get("versions")
    versions = {"kseg": "(unknown version)"} | (versions if isinstance(versions, dict) else {})
    title = f"{info.model} on {info.backbone}"
    card = template("model_card.md.jinja", Path(__file__).parent).render(
        md=markdown,
        metadata=_metadata(title, total, evaluation, data_name, options.license, config, info),
        title=title,
        info=info,
        config=config,
        total=total,
        interval=_interval(evaluation),
        images=evaluation["images"],
        split=str(evaluation["split"]),
        classes=[dict(zip(keys, values, strict=True)) for values in zip(*columns, strict=True)],
        figures=[(name, _FIGURES[Path(name).stem]) for name in files],
        source=f"hf://{options.push}" if options.push else "FOLDER",
        data_name=data_name,
        kind=config.data.dataset,
        demonstration=config.data.dataset == "synthetic",
        skipped=len(run.skipped.read_bytes().splitlines()) if run.skipped.exists() else 0,
        license=options.license,
        command=command,
        language="python" if from_python else "bash",
        fence="`" * max(3, 1 + max(map(len, re.findall("`+", command)), default=0)),
        versions={name: str(version) for name, version in versions.items() if name in _SHOWN_VERSIONS},
        commit=environment.get("commit"),
    )
    return {"README.md": card.encode("utf-8", "replace"), **files}


def published_card(info: ModelInfo, library: str, options: HubConfig) -> bytes:
    """Returns README.md of a folder whose weights another library published. options: license and push are read."""
    title = f"{info.model} on {info.backbone}"
    card = template("published_card.md.jinja", Path(__file__).parent).render(
        md=markdown,
        metadata=_to_yaml(info, options.license),
        title=title,
        info=info,
        library=LIBRARIES[library],
        source=f"hf://{options.push}" if options.push else "FOLDER",
        license=options.license,
    )
    return card.encode("utf-8", "replace")


def markdown(text: object) -> Markup:
    """Escapes Markdown and HTML, and replaces characters that cannot be printed by spaces."""
    line = "".join(c if c.isprintable() else " " for c in str(text).encode("utf-8", "replace").decode())
    return Markup(re.sub(r"([\\`*_{}\[\]!|~$:])", r"\\\1", str(escape(line))))


def training_command(config: TrainConfig) -> str:
    """Returns the command that trains with these settings: flags that differ from their defaults, paths by their last part."""
    defaults = set(flag_lines(TrainConfig()))
    words = ["python", "-m", "kseg.train"]
    for line in flag_lines(config):
        name, _, value = line.removeprefix("--").partition("=")
        if line not in defaults and name not in _LOCAL_FLAGS and name.removeprefix("no") not in _LOCAL_FLAGS:
            if Path(value).is_absolute() or value.startswith("~") or name == "data_dir":
                line = f"--{name}={Path(value).name or 'DIR'}"
            words.append("".join(c if c.isprintable() else "?" for c in line))
    return shlex.join(words)


def training_call(config: TrainConfig) -> str:
    """Returns the Python that trains with these settings on data given from Python: those that differ from their defaults."""
    values, defaults = flatten(config), flatten(TrainConfig())
    left_out = {*_LOCAL_FLAGS, "dataset", "model", "initial_model"}
    model, fit = [repr(config.model), "class_names=[...]"], ["train", "val"]
    for name, value in values.items():
        if value != defaults[name] and name not in left_out:
            (model if name in _MODEL_FLAGS else fit).append(f"{name}={value!r}")
    return "".join(c if c.isprintable() else "?" for c in f"kseg.Segmenter({', '.join(model)}).fit({', '.join(fit)})")


def _metadata(
    title: str,
    total: Scores,
    evaluation: Mapping[str, Any],
    data_name: str,
    license: str | None,
    config: TrainConfig,
    info: ModelInfo,
) -> str:
    """Returns the YAML at the top of the card, which the Hub reads."""
    from huggingface_hub import EvalResult

    metrics = {"mean_iou": ("mIoU", total.mean_iou), "accuracy": ("Pixel accuracy", total.pixel_accuracy)}
    results = [
        EvalResult(
            task_type="image-segmentation",
            dataset_type=re.sub(r"[^\w.-]+", "-", data_name).strip("-") or config.data.dataset,
            dataset_name=data_name,
            dataset_split=str(evaluation["split"]),
            metric_type=kind,
            metric_name=name,
            metric_value=float(value),
        )
        for kind, (name, value) in metrics.items()
        if math.isfinite(value)
    ]
    return _to_yaml(info, license, metrics=["mean_iou"], model_name=title if results else None, eval_results=results or None)


def _to_yaml(info: ModelInfo, license: str | None, **further: Any) -> str:
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        license=license,
        base_model=info.credits.base_model,
        library_name="kseg",  # for "keras", the Hub would show code that loads a model.keras
        pipeline_tag="image-segmentation",
        tags=["keras", "kseg", "semantic-segmentation"],
        **further,
    )
    return data.to_yaml() + "\n"


def _read_evaluation(run: RunDir, info: ModelInfo) -> dict[str, Any]:
    evaluation = read_json(run.evaluation)
    try:
        counts = np.array(evaluation["confusion_matrix"], dtype="int64")
        fits = counts.shape == (len(info.class_names),) * 2 and isinstance(evaluation["images"], int) and evaluation["split"]
    except (KeyError, ValueError, TypeError, OverflowError):
        fits = False
    if not fits:
        raise KsegError(f"{run.evaluation}: is missing or does not match the model; evaluate the run with kseg.train --resume")
    return evaluation


def _interval(evaluation: Mapping[str, Any]) -> dict[str, float] | None:
    interval = evaluation.get("mean_iou_interval")
    if not isinstance(interval, dict) or not all(isinstance(interval.get(key), float) for key in ("low", "high", "level")):
        return None
    return interval


def _figures(run: RunDir) -> dict[str, bytes]:
    """Returns those figures of the report that the card shows and the run has."""
    paths = {f"figures/{name}.png": run.figures / f"{name}.png" for name in _FIGURES}
    return {name: path.read_bytes() for name, path in paths.items() if path.is_file() and path.stat().st_size <= _MAX_FIGURE}


def _data_name(config: TrainConfig) -> str:
    data = config.data
    if data.dataset == "synthetic":
        return "kseg synthetic"
    if data.dataset == PYTHON:
        return "given from Python"
    if data.dataset == "tfds":
        return str(data.tfds_name)
    return Path(str(data.data_dir)).absolute().name or data.dataset
