"""Opens trained models, alone or with a split of data, for evaluate and predict."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras

from kseg.config import DataConfig, TrainConfig, TrainedConfig
from kseg.data import Dataset
from kseg.data.check import open_split
from kseg.data.loading.worker_pool import WorkerPool
from kseg.inference.label_maps import best_tile
from kseg.inference.picture_predictor import PicturePredictor
from kseg.inference.predictor import Predictor
from kseg.inference.sliding_window import Windows
from kseg.inference.source import Source, find_source
from kseg.inference.tta import mean_probabilities
from kseg.runtime.distribution import check_batch
from kseg.runtime.run_dir import RunDir
from kseg.utils.errors import KsegError


@dataclass(frozen=True)
class TrainedModel:
    """A trained model, or an ensemble, without data.

    flags: the options. config: of the training run; without a run, the defaults. data: the run's data, with the options'
    overrides. size: of the network's input. sources, models: one, or all of an ensemble.
    """

    flags: TrainedConfig
    config: TrainConfig
    data: DataConfig
    size: tuple[int, int]
    sources: tuple[Source, ...]
    models: tuple[keras.Model, ...]

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names that the source records, else "class 0", "class 1" and so on."""
        count = self.models[0].output.shape[-1]
        return self.sources[0].class_names or tuple(f"class {number}" for number in range(count))

    @property
    def batch_size(self) -> int:
        return self.flags.batch_size or self.config.batch_size

    def check_classes(self, dataset: Dataset, what: str) -> None:
        """Raises KsegError if the data set has other classes than a model. what: names the data in messages."""
        for source, model in zip(self.sources, self.models, strict=True):
            _check_classes(source, model, dataset.class_names, what)

    def predictor(self, dataset: Dataset, pool: WorkerPool | None = None, *, confidence: bool = False) -> Predictor:
        """Returns a Predictor of a data set, with the options' window, test-time augmentation and ensemble."""
        flags = self.flags
        averaged = len(self.models) > 1 or bool(flags.tta) or flags.window is not None
        return Predictor(
            mean_probabilities(self.models, self.size, flags.tta) if averaged else self.models[0],
            dataset,
            image_size=self.size,
            batch_size=self.batch_size,
            pool=pool,
            probabilities=averaged,
            windows=Windows(flags.window, flags.overlap) if flags.window else None,
            confidence=confidence,
        )

    def picture_predictor(self, size: tuple[int, int] | None = None) -> PicturePredictor:
        """Returns a PicturePredictor with the options' window, test-time augmentation and ensemble.

        size: (height, width) of all pictures, if it is known: then it computes no pixel in vain. Raises KsegError if models of an
        ensemble have different classes.
        """
        for source, model in zip(self.sources[1:], self.models[1:], strict=True):
            _check_classes(source, model, self.class_names, self.sources[0].shown)
        return PicturePredictor(
            self.models,
            self.class_names,
            self.size,
            window=self.flags.window,
            overlap=self.flags.overlap,
            tta=self.flags.tta,
            batch_size=self.batch_size,
            threads=self.flags.workers,
            max_pixels=self.data.max_pixels,
            **({} if size is None else {"tile": best_tile(*size)}),
        )


@dataclass(frozen=True)
class Trained:
    """A trained model and a split of data.

    run, config: of training; without a run, None and the defaults. shown: the model's file or folder. model: the first
    of an ensemble. how: the options that change predictions, by flag, for reports.
    """

    run: RunDir | None
    config: TrainConfig
    split: str
    dataset: Dataset
    model: keras.Model
    shown: str
    predictor: Predictor
    how: dict[str, Any]


def open_model(config: TrainedConfig, flag: str = "--model") -> TrainedModel:
    """Loads the models that the options name. flag: what named config.model, for messages. Raises KsegError."""
    assert config.model is not None  # TrainedConfig requires it
    first = find_source(config.model, flag, exported=True)
    sources = (first, *(find_source(name, "--ensemble") for name in config.ensemble))
    config = _with_window_of(config, sources)
    trained = first.config or TrainConfig(data=config.data.apply(DataConfig()))
    check_batch(config.distribution, config.batch_size or trained.batch_size)
    models = tuple(source.load() for source in sources)
    size = config.window or _input_size(config, sources, models)
    for source, model in zip(sources, models, strict=True):
        _check_size(source, model, size, config)
    return TrainedModel(config, trained, config.data.apply(trained.data), size, sources, models)


def open_trained(config: TrainedConfig, pool: WorkerPool | None, *, confidence: bool = False, flag: str = "--model") -> Trained:
    """Loads the models and opens the split that the options name; checks every sample and prints those that are skipped.

    pool: loads the images. confidence: as in TrainedModel.predictor. flag: as in open_model. Raises KsegError.
    """
    opened = open_model(config, flag)
    split, dataset = open_data(opened)
    predictor = opened.predictor(dataset, pool, confidence=confidence)
    first = opened.sources[0]
    return Trained(first.run, opened.config, split, dataset, opened.models[0], first.shown, predictor, _how(opened.flags))


def open_data(opened: TrainedModel, *, labelled: bool = True) -> tuple[str, Dataset]:
    """Opens the split that the options name; checks every sample and prints those that are skipped.

    labelled: raise for a split without annotations. Returns the split's name and the data set. Raises KsegError.
    """
    split = opened.flags.split or opened.config.val_split
    dataset, skipped = open_split(opened.data, split, labelled=labelled)
    for line in skipped:
        print(f"skipped: {line}")
    opened.check_classes(dataset, f"split {split} of the data")
    return split, dataset


def _with_window_of(config: TrainedConfig, sources: Sequence[Source]) -> TrainedConfig:
    """Returns the options with the window that the models were validated on, unless the options say the size of images."""
    if config.window or config.image_size:
        return config
    first, *others = sources
    for source in others:
        if source.window != first.window:
            ours, theirs = (f"by windows of {_text(w)}" if w else "on resized images" for w in (first.window, source.window))
            raise KsegError(
                f"{source.flag}={source.name}: was validated {theirs}, {first.shown} {ours}; pass --image_size or --window"
            )
    if first.window is None:
        return config
    if config.distribution != "none":
        raise KsegError(
            f"--distribution={config.distribution}: {first.shown} was validated by windows of {_text(first.window)}, which one "
            "device computes; leave the flag out, or pass --image_size to resize images"
        )
    return replace(config, window=first.window)


def _input_size(config: TrainedConfig, sources: Sequence[Source], models: Sequence[keras.Model]) -> tuple[int, int]:
    """Returns --image_size, or the size that all models were trained at, or that their inputs have."""
    if config.image_size:
        return config.image_size
    sizes: list[tuple[Source, tuple[int, int]]] = []
    for source, model in zip(sources, models, strict=True):
        if source.image_size is not None:
            sizes.append((source, source.image_size))
        elif None not in (shape := tuple(model.input.shape[1:3])):
            sizes.append((source, shape))
    if not sizes:
        raise KsegError(f"--image_size is missing: {sources[0].shown} does not record the size of training")
    (first, size), *others = sizes
    for source, other in others:
        if other != size:
            raise KsegError(
                f"{source.flag}={source.name}: was trained at {_text(other)}, {first.shown} at {_text(size)}; pass --image_size "
                "or --window"
            )
    return size


def _check_size(source: Source, model: keras.Model, size: tuple[int, int], config: TrainedConfig) -> None:
    """Raises KsegError for a model whose input has a fixed size, if that differs, or --tta=scales needs several."""
    shape = tuple(model.input.shape[1:3])
    if any(side not in (None, own) for side, own in zip(shape, size, strict=True)):
        raise KsegError(f"{source.shown}: takes only images of {_text(shape)}, not of {_text(size)}")
    if shape != (None, None) and "scales" in config.tta:
        raise KsegError(f"--tta=scales: {source.shown} takes only images of {_text(shape)}; leave scales out")


def _check_classes(source: Source, model: keras.Model, names: tuple[str, ...], what: str) -> None:
    """Raises KsegError unless the model has these classes. what: names where they are from."""
    if model.output.shape[-1] != len(names):
        raise KsegError(f"{source.shown} has {model.output.shape[-1]} classes, but {what} has {len(names)}")
    trained_names = source.class_names
    if trained_names is not None and trained_names != names:
        where = f"the run {source.run.path}" if source.run is not None else source.shown
        ours, theirs = next((a, b) for a, b in zip(trained_names, names, strict=True) if a != b)
        raise KsegError(f"{what} has a class {theirs!r} where {where} has {ours!r}; use the data it was trained on")


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
