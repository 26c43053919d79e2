"""Videos, frame by frame, through OpenCV."""

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
from kseg.utils.errors import KsegError

# What FFmpeg prints about files that are no video is said by KsegError; a playlist must not make it fetch anything.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "protocol_whitelist;file")

_FRAMES_A_SECOND = 25.0  # of a video that does not say


class Video:
    """A video file, read from its beginning to its end, once.

    Attributes:
        size: (height, width) of its frames.
        frames_a_second: how fast they follow each other.
        expected: how many there are; None if the file does not say. It may be wrong.

    Raises KsegError if the file is no video that OpenCV reads, or of frames of more than max_pixels pixels (None:
    PIL.Image.MAX_IMAGE_PIXELS).
    """

    def __init__(self, path: Path, max_pixels: int | None = None):
        if not path.is_file():
            raise KsegError(f"--video={path}: {'is no file' if path.exists() else 'no such file'}")
        self._shown = f"--video={path}"
        with _quiet():
            self._capture = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG)
        if not self._capture.isOpened():
            raise KsegError(f"{self._shown}: is no video that OpenCV's FFmpeg reads, or a damaged one")
        get = self._capture.get
        self.size = int(get(cv2.CAP_PROP_FRAME_HEIGHT)), int(get(cv2.CAP_PROP_FRAME_WIDTH))
        rate, count = get(cv2.CAP_PROP_FPS), get(cv2.CAP_PROP_FRAME_COUNT)
        self.frames_a_second = rate if math.isfinite(rate) and 0 < rate <= 1000 else _FRAMES_A_SECOND
        self.expected = int(count) if math.isfinite(count) and 0 < count < 1e9 else None
        limit = max_pixels or Image.MAX_IMAGE_PIXELS
        if min(self.size) < 1 or (limit is not None and self.size[0] * self.size[1] > limit):
            size = f"{self.size[0]}x{self.size[1]}"
            raise KsegError(f"{self._shown}: its frames of {size} are more than --max_pixels allows; raise it")

    def frames(self, every: int = 1) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (number from 0, uint8 [H, W, 3] RGB) of every so many frames. Raises KsegError if the size changes amid."""
        number = 0
        while self._capture.grab():
            if number % every == 0:
                read, frame = self._capture.retrieve()
                if not read:
                    return
                if frame.shape[:2] != self.size:
                    raise KsegError(f"{self._shown}: frame {number} is of another size than the first")
                yield number, cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            number += 1

    def close(self) -> None:
        self._capture.release()


@contextlib.contextmanager
def video_file(path: Path, size: tuple[int, int], frames_a_second: float) -> Iterator[Callable[[np.ndarray], None]]:
    """Yields what adds a frame, uint8 [H, W, 3] RGB of `size`, to a video; the suffix says which kind (VIDEO_CODECS).

    These codecs know even sides only: of odd ones the last row or column is shown twice. To be used within
    kseg.utils.files.atomic_path, whose temporary name is `path`. Raises KsegError if the file cannot be written, or holds fewer frames
    afterwards than were added, as on a full disk: OpenCV does not say.
    """
    height, width = size
    code = cv2.VideoWriter.fourcc(*VIDEO_CODECS[path.suffix.lower()])
    even = (width + width % 2, height + height % 2)
    count = 0
    with _quiet():
        writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, frames_a_second, even)
    if not writer.isOpened():
        raise KsegError(f"--overlay_video: this OpenCV cannot write a {path.suffix} video of {height}x{width} there")

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
        raise KsegError(f"--overlay_video: only {max(0, int(written))} of {count} frames were written; is the disk full?")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """OpenCV says nothing on stderr."""
    logging: Any = cv2.utils.logging
    level = logging.getLogLevel()
    logging.setLogLevel(0)
    try:
        yield
    finally:
        logging.setLogLevel(level)
