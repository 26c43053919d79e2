"""Chooses the input size of a trained model."""

import keras

from kseg.inference.source import Source
from kseg.utils.errors import KsegError


def input_size(source: Source, model: keras.Model, image_size: tuple[int, int] | None) -> tuple[int, int]:
    """Returns (height, width): `image_size` if given, else the size of the run's windows or of training, else the model's own.

    Raises KsegError if none of them is known, or if the model is built for another size only.
    """
    built = tuple(model.input.shape[1:3])
    size = image_size or source.window or source.image_size or (built if None not in built else None)
    if size is None:
        raise KsegError(f"--image_size is missing: {source.shown} does not record the size of training")
    if any(side not in (None, asked) for side, asked in zip(built, size, strict=True)):
        raise KsegError(f"--image_size={size[0]}x{size[1]}: {source.shown} takes images of {_text(built)} only")
    return size


def check_any_size(source: Source, model: keras.Model) -> None:
    """Raises KsegError if the model is built for images of one size only."""
    built = tuple(model.input.shape[1:3])
    if built != (None, None):
        raise KsegError(f"--image_size=any: {source.shown} takes images of {_text(built)} only")


def _text(size: tuple[int | None, ...]) -> str:
    return "x".join("any" if side is None else str(side) for side in size)
