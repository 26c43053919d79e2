"""Predicts pictures of any size: files, PIL images, arrays, frames of a video, data sets."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np

from kseg.data.augmentation.augmenter import Augmenter
from kseg.inference.label_maps import TILE, LabelMap, LabelMapper, Outputs, ResizedLabelMapper
from kseg.inference.pictures import Picture, is_single, read_pictures
from kseg.inference.prediction import Prediction
from kseg.inference.sliding_window import WindowedLabelMapper, Windows
from kseg.inference.tta import mean_probabilities
from kseg.runtime.distribution import device_count
from kseg.utils.errors import KsegError
from kseg.utils.system import usable_cores

MAX_PROGRAMS = 16
"""Programs that a PicturePredictor compiles at most for pictures of up to 16384 pixels a side, for one choice of confidence and
probabilities: 4 without windows (the network and a tile, each for one picture and for a batch), 15 with windows (the network,
and two for each width of a band). If memory runs out, smaller batches need further ones."""


class PicturePredictor:
    """Predicts pictures at their own size. What kseg.predict, kseg.demo and Segmenter.predict use.

    Pictures are resized to image_size for the network, and its logits back to each picture's size (bilinear, half-pixel centres);
    with `window`, pictures are predicted at their own size, window by window. Neither depends on how pictures are batched, and a
    picture of another size compiles nothing (MAX_PROGRAMS).

    Args:
        models: a model of images [B, H, W, 3] to logits [B, H, W, C], or several: then the mean of their probabilities counts.
        class_names: of the C classes.
        image_size: (height, width) of the network's input. With `window` it is not used.
        window: (height, width) of sliding windows.
        overlap: share of a window's side that it has in common with the next, at least.
        tta: test-time augmentation, see kseg.inference.tta.views.
        batch_size: pictures, or windows, per step.
        threads: that read files; None: one per core.
        max_pixels: larger picture files are refused before decoding; None: PIL.Image.MAX_IMAGE_PIXELS.
        tile: (height, width) of the tiles that label maps are made of. Changes the speed only.

    Raises:
        KsegError: if the names are not those of C distinct classes, or for turns (tta) of a size that is not square.
    """

    def __init__(
        self,
        models: keras.Model | Sequence[keras.Model],
        class_names: Sequence[str],
        image_size: tuple[int, int],
        *,
        window: tuple[int, int] | None = None,
        overlap: float = 0.25,
        tta: Sequence[str] = (),
        batch_size: int = 8,
        threads: int | None = None,
        max_pixels: int | None = None,
        tile: tuple[int, int] = (TILE, TILE),
    ):
        models = [models] if isinstance(models, keras.Model) else list(models)
        self.class_names, self.image_size, self.batch_size = tuple(class_names), image_size, batch_size
        self._threads, self._max_pixels, self.window = threads or usable_cores(), max_pixels, window
        _check_names(self.class_names, models)
        averaged = len(models) > 1 or bool(tta) or window is not None
        network = mean_probabilities(models, window or image_size, tta) if averaged else models[0]
        self._resize = None if window else Augmenter("none", image_size)
        self._label_maps: LabelMapper = (
            WindowedLabelMapper(network, batch_size, Windows(window, overlap))
            if window
            else ResizedLabelMapper(network, batch_size, probabilities=averaged, tile=tile)
        )

    def predict(
        self, pictures: Any, *, confidence: bool = False, probabilities: bool = False, longest: int | None = None
    ) -> Iterator[Prediction]:
        """Yields the prediction of each picture, in order. Pictures are read, and predicted, as the predictions are taken.

        Args:
            pictures: one picture, or a list or generator of them: a path, a PIL image, or an array uint8 [H, W, 3], RGB; grey
                ones may be [H, W]. Or a kseg Dataset, whose labels are not read. A file's EXIF orientation is applied, and
                transparency dropped.
            confidence: also keep the probability of each pixel's class.
            probabilities: also keep the probabilities of all classes: 2 bytes a pixel and class.
            longest: pictures with a longer side are downscaled to it, for a label map to look at.

        Raises:
            KsegError: for what is no picture; when it is reached.
        """
        outputs = Outputs(confidence=confidence, probabilities=probabilities)
        size = 1 if self.window else self.batch_size
        read = read_pictures(pictures, 2 * self.batch_size, self._max_pixels, self._threads)
        step = None
        while batch := list(itertools.islice(read, size)):
            if step is None:  # the first batch: few pictures do not wait for the rest of a batch to be computed
                step = device_count() if len(batch) == 1 or 4 * len(batch) <= size else size
            prepared = [self._prepare(picture, longest) for picture in batch]
            images = [network_image for network_image, _ in prepared]
            shown = [picture for _, picture in prepared]
            found = self._label_maps(images, [picture.shape[:2] for picture in shown], outputs, batch_size=step)
            for picture, image, label_map in zip(batch, shown, found, strict=True):
                yield self._prediction(picture, image, label_map)

    def predict_one(self, picture: Any, **options: Any) -> Prediction:
        """Returns the prediction of one picture; see predict."""
        if not is_single(picture):
            raise KsegError("predict_one takes one picture; pass several to predict")
        return next(iter(self.predict(picture, **options)))

    def predict_video(
        self, path: str | Path, *, every: int = 1, confidence: bool = False, probabilities: bool = False
    ) -> Iterator[Prediction]:
        """Yields the prediction of every Nth frame of a video, with one batch of frames in memory.

        A prediction's name is frame_000000 and so on, by the frame's number. Raises KsegError, at once, if it is no video.
        """
        from kseg.inference.video import Video

        if every < 1:
            raise KsegError(f"every={every}: must be at least 1")
        video = Video(Path(path), self._max_pixels, "")
        return self.predict(video.pictures(every), confidence=confidence, probabilities=probabilities)

    def _prepare(self, picture: Picture, longest: int | None) -> tuple[np.ndarray, np.ndarray]:
        """Returns the network's image, and the picture at the size of its label map."""
        image = shown = picture.image
        if longest is not None and (scale := longest / max(image.shape[:2])) < 1:
            height, width = (max(1, round(side * scale)) for side in image.shape[:2])
            shown = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        if self._resize is None:
            return shown, shown
        return self._resize(image, image[..., 0])[0], shown

    def _prediction(self, picture: Picture, image: np.ndarray, found: LabelMap) -> Prediction:
        return Prediction(
            labels=found.labels,
            class_names=self.class_names,
            image=image,
            name=picture.name,
            confidence=found.confidence,
            probability_map=found.probabilities,
        )


def _check_names(class_names: tuple[str, ...], models: Iterable[keras.Model]) -> None:
    repeated = next((name for name in class_names if class_names.count(name) > 1), None)
    if repeated is not None:
        raise KsegError(f"class_names has {repeated!r} twice; names must differ")
    for model in models:
        if model.output.shape[-1] != len(class_names):
            raise KsegError(f"the model has {model.output.shape[-1]} classes, but class_names has {len(class_names)}")
