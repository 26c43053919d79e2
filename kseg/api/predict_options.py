"""The keywords that Segmenter.predict, predict_video and evaluate have in common."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

import keras

from kseg.config import TrainedConfig
from kseg.inference.picture_predictor import PicturePredictor
from kseg.utils.errors import KsegError, suggest

if TYPE_CHECKING:
    from kseg.api.segmenter import Segmenter

Size = int | str | tuple[int, int]
"""A size as 256, "192x256" or (192, 256): height before width."""


class PredictOptions(TypedDict, total=False):
    """How pictures are predicted.

    image_size: of the network's input; by default that of training. window: predict pictures at their own size, by overlapping
    windows of this size; the default, with the val_window of training, if it had one. overlap: share of a window's side that it
    has in common with the next, at least; 0.25. tta: test-time augmentation: the mean over hflip, vflip, flips (both), turns
    (quarter turns; square inputs), scales (0.75, 1, 1.25), and all their combinations. ensemble: further Segmenters; the mean of
    all models' probabilities counts. batch_size: pictures, or windows, per step; by default that of training. max_pixels: larger
    picture files are refused.
    """

    image_size: Size | None
    window: Size | None
    overlap: float
    tta: str | Sequence[str]
    ensemble: "Sequence[Segmenter]"
    batch_size: int | None
    max_pixels: int | None


def read_options(
    options: Mapping[str, Any], size: tuple[int, int] | None, batch_size: int, window: tuple[int, int] | None = None
) -> TrainedConfig:
    """Returns the options, checked as the commands' flags are, without the ensemble.

    size, batch_size: of training. window: that it was validated on, instead of the size. image_size has a value unless there is a
    window. Raises KsegError.
    """
    if unknown := sorted(set(options) - set(PredictOptions.__annotations__)):
        raise KsegError(f"there is no keyword {unknown[0]!r}{suggest(unknown[0], PredictOptions.__annotations__)}")
    values = {name: value for name, value in options.items() if name not in ("ensemble", "max_pixels")}
    tta = values.pop("tta", ())
    flags = TrainedConfig(
        model="Segmenter",
        tta=(tta,) if isinstance(tta, str) else tuple(tta),
        **{"batch_size": batch_size, **{name: value for name, value in values.items() if value is not None}},
    )
    if flags.window or flags.image_size:
        return flags
    if window is not None:
        return TrainedConfig(**{**vars(flags), "window": window})
    if size is None:
        raise KsegError(
            "image_size: the model was not trained here and does not record its size; pass image_size=256, for example"
        )
    return TrainedConfig(**{**vars(flags), "image_size": size})


class Predictors:
    """The PicturePredictors of a Segmenter, whose programs are compiled: as many as MOST sets of options need."""

    MOST = 4

    def __init__(self) -> None:
        self._kept: dict[Any, PicturePredictor] = {}

    def find(
        self, models: Sequence[keras.Model], class_names: Sequence[str], flags: TrainedConfig, max_pixels: int | None
    ) -> PicturePredictor:
        """Returns a PicturePredictor: the same one again for the same options. flags: of read_options."""
        key = (flags, max_pixels, *map(id, models))
        if key not in self._kept:
            while len(self._kept) >= self.MOST:
                del self._kept[next(iter(self._kept))]
            size = flags.window or flags.image_size
            assert size is not None and flags.batch_size is not None  # of read_options
            self._kept[key] = PicturePredictor(
                models,
                class_names,
                size,
                window=flags.window,
                overlap=flags.overlap,
                tta=flags.tta,
                batch_size=flags.batch_size,
                max_pixels=max_pixels,
            )
        return self._kept[key]

    def clear(self) -> None:
        """Forgets all, when the models change."""
        self._kept.clear()
