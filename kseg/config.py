"""What a run is told: frozen dataclasses, validated, JSON both ways. Knows neither absl nor Keras.

Every field carries its help text and group, from which kseg.flags makes the command line.
"""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from kseg.errors import KsegError


def _field(default: Any, help: str, group: str, choices: tuple[str, ...] | None = None) -> Any:
    return dataclasses.field(default=default, metadata={"help": help, "group": group, "choices": choices})


def parse_size(value: Any) -> tuple[int, int]:
    """Returns (height, width) from "256", "192x256", 256 or (192, 256). Both must be at least 32."""
    try:
        parts = value.lower().split("x") if isinstance(value, str) else value if isinstance(value, (tuple, list)) else [value]
        sides = [int(part) for part in parts]
        height, width = sides * 2 if len(sides) == 1 else sides
    except ValueError:
        raise KsegError(f"--image_size={value}: expected a size such as 256 or 192x256 (height x width)") from None
    if min(height, width) < 32:
        raise KsegError(f"--image_size={value}: height and width must be at least 32")
    return height, width


@dataclass(frozen=True)
class DataConfig:
    """Where images and label maps come from."""

    dataset: str = _field("synthetic", "Data source: coco, or synthetic (an offline demonstration, not a benchmark).", "data")
    data_dir: str | None = _field(None, "Folder of the data set (coco), or where to keep the synthetic one.", "data")
    annotations: str = _field("annotations/{split}.json", "COCO file of a split, below data_dir.", "data")
    images: str = _field(
        "images/{split}", "Image folder of a split, below data_dir; file_name in the COCO file starts there.", "data"
    )
    background: bool = _field(
        True, "Pixels that no annotation covers are class 0, 'background'; --nobackground ignores them.", "data"
    )
    ignore_categories: tuple[str, ...] = _field(
        (), "Categories (names or ids) whose pixels neither train nor count, separated by commas.", "data"
    )
    on_bad_sample: str = _field(
        "error", "What to do about an unusable sample: stop, or leave it out and list it.", "data", ("error", "skip")
    )

    def __post_init__(self):
        _check_choices(self)
        if self.dataset != "synthetic" and self.data_dir is None:
            raise KsegError(f"--dataset={self.dataset} needs --data_dir, the folder that holds the data")


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a training run."""

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    train_split: str = _field("train", "Split that trains.", "data")
    val_split: str = _field("val", "Split that validates, after every epoch and at the end.", "data")
    image_size: tuple[int, int] = _field((128, 128), "Size of the network's input: 256, or 192x256 (height x width).", "input")
    augment: str = _field("none", "Preset of training augmentations: none, light, aug.", "input")
    model: str = _field("deeplabv3plus", "Model; an unknown name lists what there is.", "model")
    backbone: str | None = _field(None, "Backbone, e.g. keras_cv/resnet50; default: the model's own.", "model")
    backbone_weights: str = _field("none", "Initial weights of the backbone: none, or imagenet (downloaded).", "model")
    output_stride: int | None = _field(None, "Stride of the deepest features: 8, 16 or 32; default: the model's own.", "model")
    batch_size: int = _field(8, "Images a step.", "training")
    epochs: int = _field(12, "Passes over the training split.", "training")
    learning_rate: float = _field(1e-3, "Peak learning rate.", "training")
    schedule: str = _field(
        "poly", "Learning rate over the run: poly falls to 0 with power 0.9.", "training", ("poly", "cosine", "constant")
    )
    warmup_epochs: float = _field(0.0, "Epochs over which the learning rate first rises from 0.", "training")
    weight_decay: float = _field(1e-4, "Decoupled weight decay (AdamW).", "training")
    class_weights: str = _field(
        "none",
        "Weights of the classes in the loss: none, median_frequency or inverse (over the training split), or a JSON file, "
        "FILE or FILE#KEY, such as kseg.inspect_data writes.",
        "training",
    )
    seed: int = _field(21, "One seed makes a run repeatable.", "training")
    run_dir: str | None = _field(None, "Folder of the run, new or empty; default: runs/<time>-<model>-<backbone>.", "output")
    report: bool = _field(True, "Write report.html and its figures.", "output")

    def __post_init__(self):
        object.__setattr__(self, "image_size", parse_size(self.image_size))
        _check_choices(self)
        for name, least in (("batch_size", 1), ("epochs", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise KsegError(f"--{name}={getattr(self, name)}: must be at least {least}")
        for name in ("learning_rate", "weight_decay", "warmup_epochs"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise KsegError(f"--{name}={value}: must be a finite number, 0 or more")
        if self.learning_rate == 0:
            raise KsegError("--learning_rate=0: must be more than 0")

    def to_json(self) -> str:
        """Returns the config as indented JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "TrainConfig":
        """Reads what to_json wrote. Raises KsegError if it is not that."""
        try:
            values = json.loads(text)
            data = DataConfig(**_tuples(DataConfig, values.pop("data")))
            return cls(data=data, **_tuples(cls, values))
        except (json.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
            raise KsegError(f"not a kseg configuration: {error}") from None


@dataclass(frozen=True)
class TrainedConfig:
    """A trained run and the data to use it on; None stands for what the run was trained with."""

    run_dir: str | None = _field(None, "Run directory of kseg.train.", "run")
    split: str | None = _field(None, "Split to use; default: the run's validation split.", "run")
    batch_size: int | None = _field(None, "Images a step; default: the run's.", "run")
    dataset: str | None = _field(None, "Data source, if not the run's.", "data")
    data_dir: str | None = _field(None, "Folder of the data set, if not the run's.", "data")
    annotations: str | None = _field(None, "COCO file pattern, if not the run's.", "data")
    images: str | None = _field(None, "Image folder pattern, if not the run's.", "data")
    background: bool | None = _field(None, "Whether uncovered pixels are class 0, if not as in the run.", "data")
    ignore_categories: tuple[str, ...] | None = _field(None, "Categories that do not count, if not the run's.", "data")
    on_bad_sample: str | None = _field(None, "What to do about an unusable sample: error or skip.", "data")

    def __post_init__(self):
        if self.run_dir is None:
            raise KsegError("--run_dir is missing: name the run directory of a training run")
        if self.batch_size is not None and self.batch_size < 1:
            raise KsegError(f"--batch_size={self.batch_size}: must be at least 1")


@dataclass(frozen=True)
class EvaluateConfig(TrainedConfig):
    """What to evaluate."""

    output: str | None = _field(None, "Also write the scores to this JSON file.", "output")


@dataclass(frozen=True)
class PredictConfig(TrainedConfig):
    """What to predict, and what to write."""

    submission: str | None = _field(None, "Write the leaderboard's CSV to this file: 256x256 class ids an image.", "output")
    labels_dir: str | None = _field(None, "Write label maps here: palette PNGs at each picture's own size.", "output")
    overlays_dir: str | None = _field(None, "Write pictures with the classes' colours over them here: JPEG.", "output")

    def __post_init__(self):
        super().__post_init__()
        if not (self.submission or self.labels_dir or self.overlays_dir):
            raise KsegError("nothing to write: pass --submission=FILE, --labels_dir=DIR or --overlays_dir=DIR")


@dataclass(frozen=True)
class InspectConfig:
    """What to look at before training."""

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    splits: tuple[str, ...] = _field(("train", "val"), "Splits to look at; the first is the one that trains.", "data")
    image_size: tuple[int, int] = _field((128, 128), "Size of the network's input, for the augmented pictures.", "input")
    augment: str = _field("none", "Preset of training augmentations to show.", "input")
    samples: int = _field(8, "Pictures on the page, before and after augmentation.", "output")
    seed: int = _field(21, "Chooses the pictures and their augmentation.", "output")
    output_dir: str = _field("inspection", "Folder for inspection.html and inspection.json.", "output")

    def __post_init__(self):
        object.__setattr__(self, "image_size", parse_size(self.image_size))
        if not self.splits or len(set(self.splits)) < len(self.splits):
            raise KsegError(f"--splits={','.join(self.splits)}: name one split or more, each once")
        for name in ("samples", "seed"):
            if getattr(self, name) < 0:
                raise KsegError(f"--{name}={getattr(self, name)}: must be at least 0")


def _tuples(cls, values):
    """JSON has lists where the dataclass has tuples."""
    names = {field.name for field in dataclasses.fields(cls)}
    unknown = sorted(set(values) - names)
    if unknown:
        raise KsegError(f"not a kseg configuration: unknown field {unknown[0]!r}")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def _check_choices(config):
    for field in dataclasses.fields(config):
        choices = field.metadata.get("choices")
        if choices and getattr(config, field.name) not in choices:
            raise KsegError(f"--{field.name}={getattr(config, field.name)}: must be one of {', '.join(choices)}")
