"""The model behind kseg.demo: any picture to a label map of its size, and what the page says of the model."""

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np

from kseg.config import DemoConfig
from kseg.models.auxiliary_head import inference_model
from kseg.models.saving import load_model
from kseg.reports.examples import example_image
from kseg.runtime.run_dir import RunDir
from kseg.sharing.hub import load_folder
from kseg.utils.errors import KsegError

LONGEST = 1600
"""Pixels of the longer side that a picture is shown, and labelled, at; larger ones are made smaller."""


@dataclass(frozen=True)
class DemoModel:
    """model: images [B, H, W, 3] to logits. image_size: what it is given. example: a picture to try, uint8 [H, W, 3], if any."""

    model: keras.Model
    class_names: tuple[str, ...]
    image_size: tuple[int, int]
    title: str
    example: np.ndarray | None = None
    _one_at_a_time: Any = field(default_factory=threading.Lock, repr=False, compare=False)

    def predict(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns (the picture as it is shown, uint8 [h, w, 3], its label map, uint8 [h, w]), at most LONGEST pixels a side.

        image: uint8 [H, W, 3]. As everywhere in kseg, the network sees it resized to image_size, and its logits are resized
        to the picture (bilinear, half-pixel centres).
        """
        height, width = self.image_size
        small = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        with self._one_at_a_time:
            logits = np.asarray(self.model.predict_on_batch(small[None]), "float32")[0]
        scale = min(1.0, LONGEST / max(image.shape[:2]))
        size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))  # width, height
        shown = image if scale == 1 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        best = np.full(size[::-1], -np.inf, "float32")
        label = np.zeros(size[::-1], "uint8")
        for index in range(logits.shape[-1]):  # one class at a time: all of them at the picture's size may be gigabytes
            score = cv2.resize(logits[..., index], size, interpolation=cv2.INTER_LINEAR)
            label[score > best] = index
            np.maximum(best, score, out=best)
        return shown, label


def open_demo_model(config: DemoConfig) -> DemoModel:
    """Opens what the flags name and predicts once, so that it is compiled. Raises KsegError for whatever the user can mend."""
    names: tuple[str, ...] | None
    if config.folder is not None:
        shared = load_folder(config.folder)
        model, names, trained_size = shared.model, shared.class_names, shared.info.image_size
        shown, figures = config.folder, Path(config.folder, "figures")
    elif config.run_dir is not None:
        run = RunDir(config.run_dir)
        trained_size = run.read_config().image_size
        model, names = inference_model(load_model(run.newest_model())), run.read_class_names()
        shown, figures = config.run_dir, run.figures
    else:
        assert config.model_file is not None  # DemoConfig requires one
        model, names, trained_size = inference_model(load_model(config.model_file)), None, None
        shown, figures = config.model_file, None
    shapes: list[Any] = [getattr(value, "shape", ()) for value in (model.input, model.output)]
    if any(len(shape) != 4 for shape in shapes) or shapes[0][-1] != 3 or not 1 <= shapes[1][-1] <= 255:
        raise KsegError(f"{shown}: is no model of RGB images [B, H, W, 3] to logits [B, H, W, C] of at most 255 classes")
    fixed = tuple(shapes[0][1:3])
    size = config.image_size or trained_size or (fixed if None not in fixed else None)
    if size is None:
        raise KsegError(f"--image_size is missing: {shown} does not say at which size it was trained")
    if any(side not in (None, own) for side, own in zip(fixed, size, strict=True)):
        raise KsegError(f"--image_size={size[0]}x{size[1]}: {shown} takes images of {fixed[0]}x{fixed[1]} alone")
    if names is None or len(names) != shapes[1][-1]:
        names = tuple(f"class {index}" for index in range(shapes[1][-1]))
    title = f"{model.name} ({Path(shown).name or shown})"
    demo = DemoModel(model, names, size, title, None if figures is None else _example(figures))
    demo.predict(np.zeros((64, 64, 3), "uint8"))
    return demo


def _example(figures: Path) -> np.ndarray | None:
    """The image of an example of the report, if the folder has one."""
    from kseg.data.dataset import BadSample
    from kseg.data.image_io import read_image

    for name in ("median_1", "best_1", "worst_1"):
        try:
            return example_image(read_image(figures / f"{name}.png", name, max_pixels=2**24))
        except BadSample:
            continue
    return None
