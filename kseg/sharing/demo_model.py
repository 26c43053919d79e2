"""Opens the model of kseg.demo, and predicts label maps for images of any size."""

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np

from kseg.config import DemoConfig
from kseg.data.dataset import BadSample
from kseg.data.image_io import read_image
from kseg.inference.source import Source, find_source
from kseg.reports.examples import example_image
from kseg.sharing.input_size import input_size
from kseg.utils.errors import KsegError

LONGEST = 1600
"""Largest side, in pixels, of the images and label maps on the page. Larger images are downscaled."""


@dataclass(frozen=True)
class DemoModel:
    """A model and what its page shows.

    model: images [B, H, W, 3] to logits [B, H, W, num_classes]. image_size: (height, width) of its input. example: an image to
    try, uint8 [H, W, 3], or None.
    """

    model: keras.Model
    class_names: tuple[str, ...]
    image_size: tuple[int, int]
    title: str
    example: np.ndarray | None = None
    _lock: Any = field(default_factory=threading.Lock, repr=False, compare=False)

    def predict(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the image, uint8 [h, w, 3], and its label map, uint8 [h, w], downscaled to at most LONGEST pixels a side.

        image: uint8 [H, W, 3]. It is resized to image_size for the network, and the logits are resized back (bilinear, half-pixel
        centres), as everywhere in kseg.
        """
        height, width = self.image_size
        small = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        with self._lock:
            logits = np.asarray(self.model.predict_on_batch(small[None]), "float32")[0]
        scale = min(1.0, LONGEST / max(image.shape[:2]))
        size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))  # width, height
        shown = image if scale == 1 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        best = np.full(size[::-1], -np.inf, "float32")
        label = np.zeros(size[::-1], "uint8")
        for index in range(logits.shape[-1]):  # one class at a time: all at once may take gigabytes
            score = cv2.resize(logits[..., index], size, interpolation=cv2.INTER_LINEAR)
            label[score > best] = index
            np.maximum(best, score, out=best)
        return shown, label


def open_demo_model(config: DemoConfig) -> DemoModel:
    """Opens the model that --model names, and predicts once to compile it. Raises KsegError for what the user can fix."""
    assert config.model is not None  # DemoConfig requires it
    source = find_source(config.model)
    model = source.load()
    classes = model.output.shape[-1]
    if classes is None or not 1 <= classes <= 255:
        raise KsegError(f"{source.shown}: has {classes} classes; the demo shows 1 to 255")
    names = source.class_names
    if names is None or len(names) != classes:
        names = tuple(f"class {index}" for index in range(classes))
    title = f"{model.name} ({Path(source.name).name or source.name})"
    demo = DemoModel(model, names, input_size(source, model, config.image_size), title, _example(source))
    demo.predict(np.zeros((64, 64, 3), "uint8"))
    return demo


def _example(source: Source) -> np.ndarray | None:
    """Returns the image of an example figure of the report, if the run or folder has one."""
    if source.kind == "file":
        return None
    figures = source.run.figures if source.run is not None else source.path / "figures"
    for name in ("median_1", "best_1", "worst_1"):
        try:
            return example_image(read_image(figures / f"{name}.png", name, max_pixels=2**24))
        except BadSample:
            continue
    return None
