"""A trained model and a split of data, opened together: where evaluate and predict start."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from kseg.config import DataConfig, TrainConfig, TrainedConfig
from kseg.data import Dataset
from kseg.data.check import open_split
from kseg.data.loading.worker_pool import WorkerPool
from kseg.inference.predictor import Predictor, Windows
from kseg.inference.tta import mean_probabilities
from kseg.models.auxiliary_head import inference_model
from kseg.models.saving import load_model
from kseg.runtime.distribution import check_batch
from kseg.runtime.run_dir import RunDir
from kseg.utils.errors import KsegError


@dataclass(frozen=True)
class _Source:
    """A model file, and if it is of a run, that run and its config. flag: what named it."""

    flag: str
    path: Path
    run: RunDir | None = None
    config: TrainConfig | None = None


@dataclass(frozen=True)
class TrainedModel:
    """One trained model, or an ensemble, without data yet.

    flags: what asked for it. config: how it was trained; of a model file, the defaults. data: that config's, but for what the
    flags say. size: the network's input. sources, models: of an ensemble, all.
    """

    flags: TrainedConfig
    config: TrainConfig
    data: DataConfig
    size: tuple[int, int]
    sources: tuple[_Source, ...]
    models: tuple[keras.Model, ...]

    @property
    def class_names(self) -> tuple[str, ...]:
        """As the run has noted them, else "class 0" and so on."""
        run, count = self.sources[0].run, self.models[0].output.shape[-1]
        known = run.read_class_names() if run else None
        return known or tuple(f"class {number}" for number in range(count))

    def predictor(
        self, dataset: Dataset, what: str, pool: WorkerPool | None = None, *, confidence: bool = False, keep: bool = False
    ) -> Predictor:
        """Returns what predicts a data set as the flags say.

        what: the data, for messages. confidence, keep: as Predictor's confidence and keep_probabilities. Raises KsegError if the
        classes are others.
        """
        for source, model in zip(self.sources, self.models, strict=True):
            _check_classes(source, model, dataset, what)
        flags = self.flags
        averaged = len(self.models) > 1 or bool(flags.tta) or flags.window is not None
        return Predictor(
            mean_probabilities(self.models, self.size, flags.tta) if averaged else self.models[0],
            dataset,
            image_size=self.size,
            batch_size=flags.batch_size or self.config.batch_size,
            pool=pool,
            probabilities=averaged,
            windows=Windows(flags.window, flags.overlap) if flags.window else None,
            confidence=confidence,
            keep_probabilities=keep,
        )


@dataclass(frozen=True)
class Trained:
    """A model and what it is to be used on.

    run, config: where it was trained, and how; of a model file, None and the defaults. path: the file that the model came from.
    model: the first of an ensemble. how: how the predictor differs from the plain one, by flag, for people to read.
    """

    run: RunDir | None
    config: TrainConfig
    split: str
    dataset: Dataset
    model: keras.Model
    path: Path
    predictor: Predictor
    how: dict[str, Any]


def open_model(config: TrainedConfig) -> TrainedModel:
    """Opens what the flags say, without data. Raises KsegError for whatever the user can mend."""
    if config.model_file is not None:
        first = _Source(f"--model_file={config.model_file}", Path(config.model_file))
    else:
        assert config.run_dir is not None  # TrainedConfig requires one
        first = _run_source(config.run_dir, f"--run_dir={config.run_dir}")
    sources = (first, *(_further_source(name) for name in config.ensemble))
    trained = first.config or TrainConfig(data=_chosen_data(config, DataConfig()))
    check_batch(config.distribution, config.batch_size or trained.batch_size)
    models = tuple(_load(source) for source in sources)
    size = config.window or _input_size(config, sources, models)
    for source, model in zip(sources, models, strict=True):
        _check_size(source, model, size, config)
    return TrainedModel(config, trained, _chosen_data(config, trained.data), size, sources, models)


def open_trained(
    config: TrainedConfig, pool: WorkerPool | None, *, labelled: bool = True, confidence: bool = False, keep: bool = False
) -> Trained:
    """Opens what the flags say, every sample checked; says which samples are left out.

    pool: what loads the images (kseg.data.loading.worker_pool). labelled: refuses a split without annotations. confidence, keep: as for
    TrainedModel.predictor. Raises KsegError for whatever the user can mend.
    """
    opened = open_model(config)
    split = config.split or opened.config.val_split
    dataset, skipped = open_split(opened.data, split, labelled=labelled)
    for line in skipped:
        print(f"skipped: {line}")
    predictor = opened.predictor(dataset, f"split {split} of the data", pool, confidence=confidence, keep=keep)
    first = opened.sources[0]
    return Trained(first.run, opened.config, split, dataset, opened.models[0], first.path, predictor, _how(config))


def _chosen_data(config: TrainedConfig, data: DataConfig) -> DataConfig:
    """The data that were trained on, but for what the flags say."""
    chosen = {field.name: getattr(config, field.name, None) for field in dataclasses.fields(data)}
    return dataclasses.replace(data, **{name: value for name, value in chosen.items() if value is not None})


def _run_source(path: str, flag: str) -> _Source:
    run = RunDir(path)
    config = run.read_config()
    return _Source(flag, run.newest_model(), run, config)


def _further_source(name: str) -> _Source:
    flag = f"--ensemble={name}"
    if name.endswith(".keras") or Path(name).is_file():
        return _Source(flag, Path(name))
    try:
        return _run_source(name, flag)
    except KsegError as error:
        raise KsegError(str(error).replace("--run_dir=", "--ensemble=", 1)) from None


def _load(source: _Source) -> keras.Model:
    """The model of images to logits. Raises KsegError if the file holds another kind."""
    model = inference_model(load_model(source.path))
    shapes = [getattr(value, "shape", ()) for value in (model.input, model.output)]
    if any(len(shape) != 4 for shape in shapes) or model.input.shape[-1] != 3:
        raise KsegError(f"{source.path}: is no segmentation model, which maps images [B, H, W, 3] to logits [B, H, W, C]")
    return model


def _input_size(config: TrainedConfig, sources: Sequence[_Source], models: Sequence[keras.Model]) -> tuple[int, int]:
    """What images are resized to: the flag's size, or that which all runs were trained at, or that a model's input has."""
    if config.image_size:
        return config.image_size
    sizes: list[tuple[_Source, tuple[int, int]]] = []
    for source, model in zip(sources, models, strict=True):
        if source.config:
            sizes.append((source, source.config.image_size))
        elif None not in (shape := tuple(model.input.shape[1:3])):
            sizes.append((source, shape))
    if not sizes:
        raise KsegError(f"--image_size is missing: {sources[0].path} does not say at which size it was trained")
    (first, size), *others = sizes
    for source, other in others:
        if other != size:
            trained = f"{source.flag}: was trained at {_text(other)}, {first.path} at {_text(size)}"
            raise KsegError(f"{trained}; pass --image_size, or --window, for both")
    return size


def _check_size(source: _Source, model: keras.Model, size: tuple[int, int], config: TrainedConfig) -> None:
    """Raises KsegError for a model that takes one size only, if that is another, or it is to see several."""
    shape = tuple(model.input.shape[1:3])
    if any(side not in (None, own) for side, own in zip(shape, size, strict=True)):
        raise KsegError(f"{source.path}: takes images of {_text(shape)} alone, not of {_text(size)}")
    if shape != (None, None) and "scales" in config.tta:
        raise KsegError(f"--tta=scales: {source.path} takes images of {_text(shape)} alone; leave scales out")


def _check_classes(source: _Source, model: keras.Model, dataset: Dataset, what: str) -> None:
    """Raises KsegError unless the model's classes are the data's. what: the data."""
    names = dataset.class_names
    if model.output.shape[-1] != len(names):
        raise KsegError(f"{source.path} has {model.output.shape[-1]} classes, but {what} has {len(names)}")
    known = source.run.read_class_names() if source.run else None
    if source.run and known is not None and known != names:
        ours, theirs = next((a, b) for a, b in zip(known, names, strict=True) if a != b)
        raise KsegError(f"{what} has a class {theirs!r} where the run {source.run.path} has {ours!r}; use the run's data")


def _how(config: TrainedConfig) -> dict[str, Any]:
    how: dict[str, Any] = {}
    if config.ensemble:
        how["ensemble"] = ",".join(config.ensemble)
    if config.image_size:
        how["image_size"] = _text(config.image_size)
    if config.window:
        how |= {"window": _text(config.window), "overlap": config.overlap}
    if config.tta:
        how["tta"] = ",".join(config.tta)
    return how


def _text(size: Sequence[int | None]) -> str:
    return "x".join("any" if side is None else str(side) for side in size)
