"""Opens the model of kseg.demo."""

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kseg.config import DemoConfig
from kseg.data.dataset import BadSample
from kseg.data.image_io import read_image
from kseg.inference.picture_predictor import PicturePredictor
from kseg.inference.prediction import Prediction
from kseg.inference.source import Source, find_source
from kseg.reports.examples import example_image
from kseg.sharing.input_size import input_size
from kseg.utils.errors import KsegError

LONGEST = 1600
"""Largest side, in pixels, of the images and label maps on the page. Larger images are downscaled."""


@dataclass(frozen=True)
class DemoModel:
    """A model and what its page shows. example: an image to try, uint8 [H, W, 3], or None."""

    predictor: PicturePredictor
    title: str
    example: np.ndarray | None = None
    _lock: Any = field(default_factory=threading.Lock, repr=False, compare=False)

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.predictor.class_names

    @property
    def image_size(self) -> tuple[int, int]:
        return self.predictor.image_size

    @property
    def window(self) -> tuple[int, int] | None:
        return self.predictor.window

    def predict(self, image: np.ndarray) -> Prediction:
        """Returns the prediction of an image, uint8 [H, W, 3], downscaled to at most LONGEST pixels a side."""
        with self._lock:
            return self.predictor.predict_one(image, longest=LONGEST)


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
    predictor = PicturePredictor(
        model,
        names,
        input_size(source, model, config.image_size),
        window=source.window if config.image_size is None else None,
    )
    demo = DemoModel(predictor, f"{model.name} ({Path(source.name).name or source.name})", _example(source))
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
