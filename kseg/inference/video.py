"""Reads and writes videos frame by frame, with OpenCV."""

import contextlib
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from kseg.config import VIDEO_CODECS
from kseg.inference.pictures import Picture
from kseg.utils.errors import KsegError

# KsegError replaces FFmpeg's own messages. A playlist must not make FFmpeg fetch anything.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "protocol_whitelist;file")

_DEFAULT_FPS = 25.0  # of a video that does not record it


class Video:
    """A video file, to be read once from beginning to end.

    Attributes:
        size: (height, width) of the frames.
        fps: frames per second.
        expected: number of frames that the file claims, or None.

    Raises KsegError if OpenCV cannot read the file, or frames have more than max_pixels pixels (None:
    PIL.Image.MAX_IMAGE_PIXELS). flag: stands before the path in messages.
    """

    def __init__(self, path: Path, max_pixels: int | None = None, flag: str = "--video="):
        self._shown = f"{flag}{path}"
        if not path.is_file():
            raise KsegError(f"{self._shown}: {'is no file' if path.exists() else 'no such file'}")
        with _quiet():
            self._capture = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG)
        if not self._capture.isOpened():
            raise KsegError(f"{self._shown}: is not a video that OpenCV's FFmpeg reads, or it is damaged")
        get = self._capture.get
        self.size = int(get(cv2.CAP_PROP_FRAME_HEIGHT)), int(get(cv2.CAP_PROP_FRAME_WIDTH))
        rate, count = get(cv2.CAP_PROP_FPS), get(cv2.CAP_PROP_FRAME_COUNT)
        self.fps = rate if math.isfinite(rate) and 0 < rate <= 1000 else _DEFAULT_FPS
        self.expected = int(count) if math.isfinite(count) and 0 < count < 1e9 else None
        limit = max_pixels or Image.MAX_IMAGE_PIXELS
        if min(self.size) < 1 or (limit is not None and self.size[0] * self.size[1] > limit):
            size = f"{self.size[0]}x{self.size[1]}"
            raise KsegError(f"{self._shown}: its frames of {size} have more pixels than --max_pixels; raise it")

    def frames(self, every: int = 1) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (number from 0, RGB uint8 [H, W, 3]) of every Nth frame. Raises KsegError if their size changes."""
        number = 0
        while self._capture.grab():
            if number % every == 0:
                read, frame = self._capture.retrieve()
                if not read:
                    return
                if frame.shape[:2] != self.size:
                    raise KsegError(f"{self._shown}: frame {number} has another size than the first")
                yield number, cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            number += 1

    def pictures(self, every: int = 1) -> Iterator[Picture]:
        """Yields every Nth frame for a PicturePredictor, named frame_000000 and so on, and closes the video at its end."""
        try:
            for number, frame in self.frames(every):
                yield Picture(frame, f"frame_{number:06d}")
        finally:
            self.close()

    def close(self) -> None:
        self._capture.release()


@contextlib.contextmanager
def video_file(path: Path, size: tuple[int, int], fps: float) -> Iterator[Callable[[np.ndarray], None]]:
    """Yields a function that appends a frame, RGB uint8 [H, W, 3] of `size`. The suffix selects the codec (VIDEO_CODECS).

    The codecs need even sides: of odd ones the last row or column is doubled. `path` is written in place: pass the temporary
    name of kseg.utils.files.atomic_path. Raises KsegError if the file cannot be written, or ends up with fewer frames than were
    added, as on a full disk: OpenCV does not report it.
    """
    height, width = size
    code = cv2.VideoWriter.fourcc(*VIDEO_CODECS[path.suffix.lower()])
    even = (width + width % 2, height + height % 2)
    count = 0
    with _quiet():
        writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, fps, even)
    if not writer.isOpened():
        raise KsegError(
            f"--write=overlays: this OpenCV cannot write a {path.suffix} video of {height}x{width}; choose another --video_format"
        )

    def add(frame: np.ndarray) -> None:
        nonlocal count
        bgr = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
        writer.write(cv2.copyMakeBorder(bgr, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE))
        count += 1

    try:
        yield add
    finally:
        writer.release()
    with _quiet():
        capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    written = capture.get(cv2.CAP_PROP_FRAME_COUNT) if capture.isOpened() else 0
    capture.release()
    if written < count:
        raise KsegError(f"--write=overlays: only {max(0, int(written))} of {count} frames were written; is the disk full?")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences OpenCV on stderr."""
    logging: Any = cv2.utils.logging
    level = logging.getLogLevel()
    logging.setLogLevel(0)
    try:
        yield
    finally:
        logging.setLogLevel(level)
