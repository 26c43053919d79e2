"""Reads pictures that are given as paths, PIL images or arrays, some ahead of where they are needed."""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kseg.data.dataset import BadSample, Dataset
from kseg.data.image_io import image_pixels, read_image
from kseg.data.paths import printable
from kseg.utils.errors import KsegError

EXPECTED = "a path, a PIL image, or an array uint8 [H, W, 3]"


@dataclass(frozen=True)
class Picture:
    """A picture, uint8 [H, W, 3] RGB, and its path or name, if it has one."""

    image: np.ndarray
    name: str | None = None


def is_single(pictures: Any) -> bool:
    """Returns True for one picture, False for several (a list, a generator, a data set, an array [B, H, W, 3])."""
    if isinstance(pictures, np.ndarray):
        return pictures.ndim < 4
    single = str | bytes | dict | os.PathLike | Image.Image | Picture
    return isinstance(pictures, single) or not isinstance(pictures, Iterable | Dataset)


def read_pictures(pictures: Any, ahead: int, max_pixels: int | None = None, threads: int = 1) -> Iterator[Picture]:
    """Yields the pictures in order.

    Args:
        pictures: one picture or several: paths, PIL images, arrays uint8 [H, W, 3] or grey [H, W], or a kseg Dataset.
        ahead: so many files are read before they are needed, in `threads` threads. Of pictures in memory, as a generator of
            frames yields them, none is taken before it is needed.
        max_pixels: see kseg.data.image_io.read_image.

    Raises:
        KsegError: for what is no picture.
    """
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Picture]] = deque()
        try:
            for read in _readers(pictures, max_pixels):
                if isinstance(read, Picture):
                    while waiting:
                        yield waiting.popleft().result()
                    yield read
                    continue
                waiting.append(pool.submit(_explained, read))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # the caller may have stopped early
            pool.shutdown(wait=False, cancel_futures=True)


def _explained(read: Callable[[], Any]) -> Any:
    """Returns read(); a BadSample becomes a KsegError."""
    try:
        return read()
    except BadSample as error:
        raise KsegError(str(error).replace("--max_pixels", "max_pixels").rstrip(".")) from error


def _readers(pictures: Any, max_pixels: int | None) -> Iterator[Picture | Callable[[], Picture]]:
    """Yields pictures, and functions that read them."""
    if isinstance(pictures, Dataset):
        for index in range(len(pictures)):
            yield partial(_sample_image, pictures, index)
        return
    for number, picture in enumerate([pictures] if is_single(pictures) else pictures):
        if isinstance(picture, Picture):
            yield picture
        elif isinstance(picture, str | os.PathLike):
            yield partial(_read, Path(picture), max_pixels)
        elif isinstance(picture, Image.Image):
            name = str(getattr(picture, "filename", "")) or None
            shown, notes = name or f"picture {number}", list[str]()
            pixels = _explained(partial(image_pixels, picture, shown, max_pixels, notes))
            _print_notes(shown, notes)
            yield Picture(pixels, name)
        else:
            yield Picture(_checked(picture, f"picture {number}"))


def _read(path: Path, max_pixels: int | None) -> Picture:
    shown = printable(str(path))
    if path.is_dir():
        raise KsegError(f"{shown}: is a folder; pass its files, such as Path({str(path)!r}).glob('*.jpg')")
    notes: list[str] = []
    image = read_image(path, shown, max_pixels=max_pixels, notes=notes)
    _print_notes(shown, notes)
    return Picture(image, str(path))


def _print_notes(shown: str, notes: Iterable[str]) -> None:
    for note in notes:
        print(f"warning: {shown}: {note}", file=sys.stderr, flush=True)


def _sample_image(dataset: Any, index: int) -> Picture:
    image = dataset.load_image(index) if hasattr(dataset, "load_image") else dataset.load(index).image
    return Picture(image, dataset.name(index))


def _checked(picture: Any, shown: str) -> np.ndarray:
    """Returns an array as uint8 [H, W, 3]. Raises KsegError for anything else."""
    if not isinstance(picture, np.ndarray):
        kind = type(picture).__name__
        advice = "; pass numpy.asarray of it" if hasattr(picture, "__array__") else ""
        raise KsegError(f"{shown}: is a {kind}; a picture is {EXPECTED}{advice}")
    shape = "x".join(map(str, picture.shape)) or "a single number"
    if picture.dtype != np.uint8:
        advice = "; multiply by 255 if it is in 0..1, and round" if np.issubdtype(picture.dtype, np.floating) else ""
        raise KsegError(f"{shown}: is an array of {picture.dtype} ({shape}), but uint8 in 0..255 is expected{advice}")
    if not picture.size or not (picture.ndim == 2 or (picture.ndim == 3 and picture.shape[2] in (1, 3))):
        advice = ""
        if picture.ndim == 4:
            advice = "; pass a list of pictures, or a batch alone"
        elif picture.ndim == 3 and picture.shape[0] == 3:
            advice = "; transpose it with .transpose(1, 2, 0)"
        elif picture.ndim == 3 and picture.shape[2] == 4:
            advice = "; leave the fourth channel out with [..., :3]"
        raise KsegError(f"{shown}: is an array of shape {shape}, but [H, W, 3], or grey [H, W], is expected{advice}")
    if picture.ndim == 2:
        picture = picture[:, :, None]
    return np.ascontiguousarray(np.broadcast_to(picture, (*picture.shape[:2], 3)))
