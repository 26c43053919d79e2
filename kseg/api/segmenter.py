"""Segmenter: a model with the names of its classes, which trains, evaluates, predicts and is saved."""

import contextlib
import dataclasses
import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Unpack, overload

import keras
import numpy as np
from PIL import Image

from kseg.api.architecture import Architecture
from kseg.api.data import check_classes, check_dataset
from kseg.api.evaluate import score, score_batches
from kseg.api.fit import start_training
from kseg.api.fit_options import FitOptions, flag_values
from kseg.api.fit_result import FitResult, end_lines, fit_result
from kseg.api.messages import keyword_messages
from kseg.api.predict_options import PredictOptions, Predictors, Size, read_options
from kseg.api.save import save_as
from kseg.config import PYTHON, TrainConfig, TrainedConfig, build
from kseg.config.fields import parse_size
from kseg.data.dataset import Dataset
from kseg.data.label_map import check_class_names
from kseg.inference.batches import is_batches
from kseg.inference.exported import check_not_exported
from kseg.inference.picture_predictor import PicturePredictor
from kseg.inference.pictures import is_single
from kseg.inference.prediction import Prediction
from kseg.inference.source import find_source
from kseg.metrics.evaluation import Evaluation
from kseg.models.build import precision
from kseg.models.credits import NO_CREDITS, Credits
from kseg.models.model_folder import describe_model
from kseg.models.model_info import ModelInfo
from kseg.models.options import options_text
from kseg.models.pretrained import weight_credits
from kseg.models.registry import MODELS
from kseg.training.extras import FitExtras
from kseg.training.initial_weights import check_weights, initial_source, open_initial, settle_weights
from kseg.training.loop import TrainResult
from kseg.training.setup import build_network
from kseg.utils.errors import KsegError

Picture = str | os.PathLike[str] | Image.Image | np.ndarray

_ARCHITECTURE = [item.name for item in dataclasses.fields(Architecture)]


class Segmenter:
    """A segmentation model and the names of its classes.

    The model is built when it is first needed, as `python -m kseg.train` builds it. kseg.load opens a trained one.

    Args:
        model: an architecture, one of kseg.list_models(), by default deeplabv3plus.
        class_names: a name for each class.
        backbone: one of kseg.list_backbones(); None is the model's own, or one with ImageNet weights as --backbone has it.
        backbone_weights: "auto" for those of ImageNet, if the backbone has them; a tag such as "imagenet";
            hf://owner/name[@revision]; a file; None trains from scratch.
        output_stride: stride of the deepest features: 8, 16 or 32; None is the model's own.
        model_options: options of the model, such as {"depth": 4, "attention": "scse"} for unet.
        init: a whole model to start from, as --init: a run directory, a .keras file, a model folder, hf://owner/name, or a
            PyTorch checkpoint. It says what `model` and `backbone` are. Classes of the same name keep their weights.

    Raises:
        KsegError: for what cannot be built.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        class_names: Sequence[str],
        backbone: str | None = None,
        backbone_weights: str | os.PathLike[str] | None = "auto",
        output_stride: int | None = None,
        model_options: Mapping[str, Any] | str | None = None,
        init: str | os.PathLike[str] | None = None,
    ):
        if not isinstance(model, str | None):
            raise KsegError(f"model: name an architecture, such as 'deeplabv3plus', instead of a {type(model).__name__}")
        self._class_names = check_class_names(class_names)
        flags = {
            "model": model,
            "backbone": backbone,
            "backbone_weights": "none" if backbone_weights is None else os.fspath(backbone_weights),
            "output_stride": output_stride,
            "model_options": (model_options if isinstance(model_options, str) else options_text(model_options or {})) or None,
            "init": None if init is None else os.fspath(init),
        }
        flags = {name: value for name, value in flags.items() if value is not None}
        with keyword_messages():
            config = settle_weights(build(TrainConfig, {**flags, "dataset": PYTHON}), flags)
            self._architecture: Architecture | None = Architecture(**{name: getattr(config, name) for name in _ARCHITECTURE})
        self._model: keras.Model | None = None
        self._origin = "a new model"
        self._built: bytes | None = None  # digest of the weights of a model that was built but not trained
        with keyword_messages():
            source = initial_source(config)
        self._image_size, self._window = (None, None) if source is None else (source.image_size, source.window)
        self._batch_size = TrainConfig.batch_size
        self._precision = "float32"
        self._credits = NO_CREDITS
        self._predictors = Predictors()

    @classmethod
    def of_model(
        cls,
        model: keras.Model,
        class_names: Sequence[str],
        *,
        origin: str,
        architecture: Architecture | None,
        image_size: tuple[int, int] | None = None,
        window: tuple[int, int] | None = None,
        batch_size: int | None = None,
        precision: str = "float32",
        credits: Credits = NO_CREDITS,
    ) -> "Segmenter":
        """Returns a Segmenter of a trained model, for kseg.load.

        origin: where the model is from, for messages. architecture: None if it is not known; then fit refuses. window: that it
        was validated on, if it was on windows. credits: its base model.
        """
        self = cls(class_names=class_names)
        self._architecture, self._model, self._origin, self._image_size = architecture, model, origin, image_size
        self._window = window
        self._batch_size, self._precision = batch_size or self._batch_size, precision
        self._credits = credits
        return self

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each class index."""
        return self._class_names

    @property
    def image_size(self) -> tuple[int, int] | None:
        """(height, width) of the network's input in training, also that of `init`; None before it."""
        return self._image_size

    @property
    def model(self) -> keras.Model:
        """The Keras model, images [B, H, W, 3] in 0..255 to logits [B, H, W, C]. Built when it is first asked for."""
        if self._model is None:
            assert self._architecture is not None  # else there is a model
            config = build(TrainConfig, {**self._architecture.flags(), "dataset": PYTHON})
            keras.utils.set_random_seed(config.seed)
            with precision(config.optimization.precision), keyword_messages():
                check_weights(config)
                initial = open_initial(config)
                self._model = build_network(config, self._class_names, initial)
            self._credits = weight_credits(str(config.backbone), config.backbone_weights) if initial is None else initial.credits
            self._built = _digest(self._model)
        return self._model

    def fit(
        self,
        train: Any,
        val: Any = None,
        *,
        run_dir: "str | os.PathLike[str] | Literal[False] | None" = None,
        resume: bool = False,
        loss: Any = None,
        optimizer: Any = None,
        metrics: Sequence[keras.metrics.Metric] = (),
        callbacks: Sequence[keras.callbacks.Callback] = (),
        **options: Unpack[FitOptions],
    ) -> FitResult:
        """Trains the model as `python -m kseg.train` does, and keeps the best epoch's.

        The same settings, data and seed give the same bytes as the command. A second fit goes on from the weights.

        Args:
            train: a data set, such as FolderDataset; or a tf.data.Dataset or keras.utils.PyDataset of (image, label) batches:
                image [B, H, W, 3] in 0..255, label [B, H, W]. Batches are scored at their own size, and resume at epochs' ends.
            val: the same, to validate on; None with val_fraction, which takes a part of `train`.
            run_dir: the run directory, new or empty; None is runs/<time>-<model>-<backbone>; False keeps no directory.
            resume: goes on with the stopped run in run_dir, on the same data, to the same bytes. Options may be left out.
            loss: as --loss, such as "ce+0.5*dice"; a Keras loss; or a function of (label [B, H, W], logits [B, H, W, C]).
            optimizer: as --optimizer, such as "adamw"; or a Keras optimizer with its own settings.
            metrics: Keras metrics of (label, logits): further columns of metrics.csv.
            callbacks: Keras callbacks. One with get_state and set_state (JSON values) is resumed, too.
            options: flags of kseg.train, see FitOptions: image_size=256, epochs=40, augment="light", ....
                By default image_size is the size that the model was trained at.

        Returns:
            A FitResult, with mean_iou, run_dir and report.

        Raises:
            KsegError: for what the user can fix. Data and options are checked before the run directory is created.
        """
        with keyword_messages(), contextlib.ExitStack() as stack:
            if self._architecture is None:
                raise KsegError(
                    f"{self._origin}: does not record its architecture, so it cannot be trained; name it: "
                    "kseg.Segmenter(MODEL, backbone=..., class_names=[...], init=FILE)"
                )
            initial = self._initial()
            credits = NO_CREDITS if initial is None else self._credits
            extras = FitExtras(tuple(callbacks), _if_object(loss), _if_object(optimizer), tuple(metrics), credits)
            flags: dict[str, Any] = {
                **(self._architecture if initial is None else self._architecture.trained()).flags(),
                **flag_values(options),
                **{name: value for name, value in (("loss", loss), ("optimizer", optimizer)) if isinstance(value, str)},
                **extras.settings(),
                "run_dir": _run_dir(run_dir, resume, stack),
                "resume": resume,
            }
            if self._image_size is not None and not resume and not is_batches(train):
                flags.setdefault("image_size", self._image_size)
            result = start_training(train, val, self._class_names, flags, initial=initial, origin=self._origin, extras=extras)
            print("\n".join(end_lines(result, kept=run_dir is not False)), flush=True)
            if not result.config.debug.dry_run:
                self._take(result, "the last fit" if run_dir is False else str(result.run.path))
            return fit_result(result, keep=run_dir is not False)

    def evaluate(
        self,
        data: Any,
        *,
        boundary: bool = False,
        calibration: bool = False,
        on_bad_sample: Literal["error", "skip"] = "error",
        workers: int | None = None,
        **options: Unpack[PredictOptions],
    ) -> Evaluation:
        """Scores a data set at the labels' own size, as `python -m kseg.evaluate` does.

        Args:
            data: a data set with the model's classes; or batches as in fit, which are scored at their own size.
            boundary: also score the outlines of classes. calibration: also score the probabilities. Both take time.
            on_bad_sample: "error" stops at the first bad sample, "skip" prints each and leaves it out.
            workers: processes that load images; 0: threads; None: one a core.
            options: see PredictOptions: window=512, tta="flips", ....

        Returns:
            An Evaluation: mean_iou, iou by class, table().

        Raises:
            KsegError: if the data have other classes, or cannot be read.
        """
        with keyword_messages():
            if is_batches(data):
                given = [*options, *(name for name, value in (("boundary", boundary), ("calibration", calibration)) if value)]
                return score_batches(self.model, data, self._class_names, given)
            check_dataset(data, "data")
            check_classes(data, self._class_names, "data")
            return score(
                self._models(options.get("ensemble", ())),
                data,
                self._options(options),
                on_bad_sample=on_bad_sample,
                workers=workers,
                boundary=boundary,
                calibration=calibration,
            )

    @overload
    def predict(  # type: ignore[overload-overlap]  # a path is an iterable of strings, too
        self, pictures: Picture, *, confidence: bool = ..., probabilities: bool = ..., **options: Unpack[PredictOptions]
    ) -> Prediction: ...

    @overload
    def predict(
        self,
        pictures: "Iterable[Picture] | Dataset",
        *,
        confidence: bool = ...,
        probabilities: bool = ...,
        **options: Unpack[PredictOptions],
    ) -> list[Prediction]: ...

    def predict(self, pictures, *, confidence=False, probabilities=False, **options):
        """Predicts one picture or several, at their own size.

        Args:
            pictures: a path, a PIL image, or an array uint8 [H, W, 3], RGB; or a list or generator of them, or a data set.
            confidence, probabilities: also keep the probability of each pixel's class, or of all classes.
            options: see PredictOptions: window=512, tta="flips", ....

        Returns:
            A Prediction for one picture, a list of them for several.

        Raises:
            KsegError: for what is no picture.
        """
        with keyword_messages():
            predictions = self._predictor(options).predict(pictures, confidence=confidence, probabilities=probabilities)
            return next(predictions) if is_single(pictures) else list(predictions)

    def predict_video(
        self,
        path: str | os.PathLike[str],
        *,
        every: int = 1,
        confidence: bool = False,
        probabilities: bool = False,
        **options: Unpack[PredictOptions],
    ) -> Iterator[Prediction]:
        """Yields a Prediction for every Nth frame of a video, with one batch of frames in memory. Arguments as in predict."""
        with keyword_messages():
            predictor = self._predictor(options)
            return predictor.predict_video(Path(path), every=every, confidence=confidence, probabilities=probabilities)

    def save(self, path: str | os.PathLike[str], *, image_size: Size | None = None, overwrite: bool = False) -> None:
        """Writes a model folder, or, if the path ends in .keras, a file. kseg.load opens both.

        Args:
            path: the folder or file.
            image_size: recorded as the size for predictions; by default that of training.
            overwrite: replace an earlier folder or file.

        Raises:
            KsegError: if it exists or cannot be written.
        """
        with keyword_messages():
            check_not_exported(self._model, "save")
            save_as(Path(path), self.model, self._info(image_size), overwrite=overwrite)

    def _initial(self) -> keras.Model | None:
        """Returns the model that a fit starts from; None if the run is to build it: it was not built, or not changed since."""
        check_not_exported(self._model, "fit")
        if self._model is None:
            return None
        if self._built is not None:
            if self._built == _digest(self._model):
                return None
            self._built, self._origin = None, "weights that were set from Python"
        return self._model

    def _take(self, result: TrainResult, origin: str) -> None:
        """Takes over the best model of a run, and how it was trained."""
        source = find_source(str(result.run.path))
        self._model, self._built, self._origin, self._credits = source.load(), None, origin, source.credits
        self._image_size, self._window, self._batch_size = source.image_size, source.window, result.config.batch_size
        self._precision = result.config.optimization.precision
        self._predictors.clear()

    def _models(self, ensemble: "Sequence[Segmenter]") -> list[keras.Model]:
        for other in ensemble:
            if not isinstance(other, Segmenter):
                raise KsegError(f"ensemble: expected Segmenters, not a {type(other).__name__}; kseg.load opens one")
            if other.class_names != self._class_names:
                raise KsegError(f"ensemble: the model from {other.origin} has other classes")
        return [self.model, *(other.model for other in ensemble)]

    def _predictor(self, options: Any) -> PicturePredictor:
        flags = self._options(options)
        models = self._models(options.get("ensemble", ()))
        return self._predictors.find(models, self._class_names, flags, options.get("max_pixels"))

    def _options(self, options: Any) -> TrainedConfig:
        return read_options(options, self._image_size, self._batch_size, self._window)

    def _info(self, image_size: Size | None) -> ModelInfo | None:
        """Returns the model's description; None if its architecture is not known."""
        if self._architecture is None:
            return None
        size = self._image_size if image_size is None else parse_size(image_size)
        if size is None:
            raise KsegError("image_size: the model was not trained; pass image_size=256, for example, the size for predictions")
        window = self._window if image_size is None else None
        flags = {**self._architecture.flags(), "image_size": size, "val_window": window, "precision": self._precision}
        config = build(TrainConfig, flags)
        return describe_model(self.model, config, self._class_names, self._credits)

    def __repr__(self) -> str:
        return f"Segmenter({self.title}, {len(self._class_names)} classes, weights from {self._origin})"

    @property
    def origin(self) -> str:
        """Where the weights are from: a path, "the last fit" or "a new model"."""
        return self._origin

    @property
    def title(self) -> str:
        """The architecture and its backbone, such as "unet on resnet50"."""
        if self._architecture is None:
            return str(self.model.name)
        return f"{self._architecture.model} on {self._architecture.backbone or MODELS[self._architecture.model].info['backbone']}"

    def _repr_html_(self) -> str:
        """Shows the Segmenter in a notebook."""
        from kseg.api.html import segmenter_html

        return segmenter_html(self)


def _digest(model: keras.Model) -> bytes:
    """Returns a digest of the model's weights, which tells whether they have changed."""
    digest = hashlib.sha256()
    for weight in model.weights:
        digest.update(np.ascontiguousarray(keras.ops.convert_to_numpy(weight)).data)
    return digest.digest()


def _if_object(value: Any) -> Any:
    """Returns a loss or optimizer that is an object; None for a flag's value."""
    return None if isinstance(value, str) else value


def _run_dir(run_dir: Any, resume: bool, stack: contextlib.ExitStack) -> str | None:
    if run_dir is False:
        if resume:
            raise KsegError("resume: needs run_dir, the directory of the run to go on with")
        return str(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kseg-"))) / "run")
    return None if run_dir is None else os.fspath(run_dir)
