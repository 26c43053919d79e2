"""The README.md of a model folder: what the Hub reads of it, scores, pictures, and the command that made it."""

import json
import math
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from kseg.config import HubConfig, TrainConfig, flag_lines
from kseg.metrics.confusion_matrix import Scores, scores
from kseg.models.model_info import ModelInfo
from kseg.reports.html import template
from kseg.runtime.run_dir import RunDir
from kseg.utils.errors import KsegError

_PICTURES = {
    "median_1": "The validation image of median mIoU: image, label, prediction and errors",
    "worst_1": "The validation image of lowest mIoU: image, label, prediction and errors",
    "iou": "IoU by class. The bars have the colours that the classes have in the pictures",
}
_MAX_PICTURE = 2**23  # bytes
_OWN = ("run_dir", "resume", "dry_run", "workers", "compilation_cache", "wandb", "mlflow", "tensorboard", "coordinator",
        "num_processes", "process_id", "cache")  # flags that decide nothing of the model  # fmt: skip
_SHOWN_VERSIONS = ("keras", "jax", "tensorflow", "tensorflow-cpu", "torch", "numpy", "albumentations")


def card_files(run: RunDir, config: TrainConfig, info: ModelInfo, options: HubConfig) -> dict[str, bytes]:
    """README.md, and the pictures that it shows, by their names in the folder.

    options: license, data_name, pictures and push are used. Raises KsegError if the run has no evaluation.json, or another's.
    """
    evaluation = _read_evaluation(run, info)
    total = scores(np.array(evaluation["confusion_matrix"]))
    environment = _read_object(run.environment)
    files = _pictures(run) if options.pictures else {}
    data_name = options.data_name or _data_name(config)
    share = total.pixels / max(total.pixels.sum(), 1)
    columns = (info.class_names, total.iou, total.dice, total.precision, total.recall, share, np.isnan(total.iou))
    keys = ("name", "iou", "dice", "precision", "recall", "share", "absent")
    command = training_command(config)
    versions = {"kseg": str(_versions(environment).pop("kseg", "of an unknown version"))}
    versions |= {name: str(value) for name, value in _versions(environment).items() if name in _SHOWN_VERSIONS}
    title = f"{info.model} on {info.backbone}"
    card = template("model_card.md.jinja", Path(__file__).parent).render(
        md=markdown,
        metadata=_metadata(title, total, evaluation, data_name, options.license, config),
        title=title,
        info=info,
        config=config,
        total=total,
        interval=_interval(evaluation),
        images=evaluation["images"],
        split=str(evaluation["split"]),
        classes=[dict(zip(keys, values, strict=True)) for values in zip(*columns, strict=True)],
        pictures=[(name, _PICTURES[Path(name).stem]) for name in files],
        repository=options.push or "FOLDER",
        data_name=data_name,
        kind=config.data.dataset,
        demonstration=config.data.dataset == "synthetic",
        skipped=len(run.skipped.read_bytes().splitlines()) if run.skipped.exists() else 0,
        license=options.license,
        command=command,
        fence="`" * max(3, 1 + max(map(len, re.findall("`+", command)), default=0)),
        versions=versions,
        commit=environment.get("commit"),
    )
    return {"README.md": card.encode("utf-8", "replace"), **files}


def markdown(text: object) -> Markup:
    """Text as it is, whatever Markdown or HTML would make of it, on one line."""
    line = "".join(c if c.isprintable() else " " for c in str(text).encode("utf-8", "replace").decode())
    return Markup(re.sub(r"([\\`*_{}\[\]!|~$:])", r"\\\1", str(escape(line))))


def training_command(config: TrainConfig) -> str:
    """The command that trains so, of the flags that differ from their defaults; of paths, the last part alone is told."""
    defaults = set(flag_lines(TrainConfig()))
    words = ["python", "-m", "kseg.train"]
    for line in flag_lines(config):
        name, _, value = line.removeprefix("--").partition("=")
        if line not in defaults and name not in _OWN and name.removeprefix("no") not in _OWN:
            if Path(value).is_absolute() or value.startswith("~") or name == "data_dir":
                line = f"--{name}={Path(value).name or 'DIR'}"
            words.append("".join(c if c.isprintable() else "?" for c in line))
    return shlex.join(words)


def _metadata(
    title: str, total: Scores, evaluation: Mapping[str, Any], data_name: str, license: str | None, config: TrainConfig
) -> str:
    """The YAML that stands before the card, as the Hub wants it."""
    from huggingface_hub import EvalResult, ModelCardData

    known = {"mean_iou": ("mIoU", total.mean_iou), "accuracy": ("Pixel accuracy", total.pixel_accuracy)}
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
        for kind, (name, value) in known.items()
        if math.isfinite(value)
    ]
    data = ModelCardData(
        license=license,
        library_name="kseg",  # The Hub would show how to load a file of Keras's, model.keras, for "keras".
        pipeline_tag="image-segmentation",
        tags=["keras", "kseg", "semantic-segmentation"],
        metrics=["mean_iou"],
        model_name=title if results else None,
        eval_results=results or None,
    )
    return data.to_yaml() + "\n"


def _read_evaluation(run: RunDir, info: ModelInfo) -> dict[str, Any]:
    evaluation = _read_object(run.evaluation)
    try:
        counts = np.array(evaluation["confusion_matrix"], dtype="int64")
        fits = counts.shape == (len(info.class_names),) * 2 and isinstance(evaluation["images"], int) and evaluation["split"]
    except (KeyError, ValueError, TypeError, OverflowError):
        fits = False
    if not fits:
        raise KsegError(f"{run.evaluation}: is missing or not the scores of this run; score it by going on with it: --resume")
    return evaluation


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _versions(environment: Mapping[str, Any]) -> dict[str, Any]:
    return dict(environment["versions"]) if isinstance(environment.get("versions"), dict) else {}


def _interval(evaluation: Mapping[str, Any]) -> dict[str, float] | None:
    interval = evaluation.get("mean_iou_interval")
    if not isinstance(interval, dict) or not all(isinstance(interval.get(key), float) for key in ("low", "high", "level")):
        return None
    return interval


def _pictures(run: RunDir) -> dict[str, bytes]:
    """The report's figures that the card shows, as far as the run has them."""
    found = {}
    for name in _PICTURES:
        path = run.figures / f"{name}.png"
        if path.is_file() and path.stat().st_size <= _MAX_PICTURE:
            found[f"figures/{name}.png"] = path.read_bytes()
    return found


def _data_name(config: TrainConfig) -> str:
    data = config.data
    if data.dataset == "synthetic":
        return "kseg's drawn litter"
    if data.dataset == "tfds":
        return str(data.tfds_name)
    return Path(str(data.data_dir)).absolute().name or data.dataset
