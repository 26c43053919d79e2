"""Writes the synthetic data set to a cache folder once, as a COCO data set, and opens it like any other."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kseg.config import DataConfig
from kseg.data.registry import register_dataset
from kseg.data.sources.coco import CocoDataset
from kseg.data.sources.synthetic.objects import KINDS
from kseg.data.sources.synthetic.scene import draw_scene
from kseg.utils.errors import KsegError
from kseg.utils.files import cache_folder
from kseg.utils.progress import progress_bar

VERSION = 1
"""Part of the folder's name. Raise it with every change of the drawn files."""

_PROGRESS_AFTER = 2.0  # seconds
_OBJECTS = (4, 9)  # fewest and most in an image


def load_synthetic(split: str, cache_dir: str | os.PathLike[str] | None = None, **options: Any) -> CocoDataset:
    """Opens "train" or "val" of the synthetic data set, and draws it first if needed. It has 12 classes; 0 is "background".

    options: CocoDataset's background, ignore_categories and max_pixels.

    Raises:
        KsegError: for another split, or if the cache cannot be written.
    """
    if split not in ("train", "val"):
        raise KsegError(f"the synthetic data set has no split {split!r}; choose train or val.")
    return CocoDataset(synthetic_coco(cache_dir), split, **options)


def synthetic_coco(
    cache_dir: str | os.PathLike[str] | None = None, *, train: int = 240, val: int = 60, size: int = 256, seed: int = 0
) -> Path:
    """Draws the synthetic data set unless the cache has it, and returns its folder.

    The files' bytes depend on the arguments alone. The folder appears complete or not at all, even if several processes draw it
    at once.

    Args:
        cache_dir: parent of the folder; by default $KSEG_CACHE, else ~/.cache/kseg.
        train, val: number of images in each split, at least 1.
        size: height and width in pixels, at least 64.
        seed: seed of the scenes.

    Returns:
        A folder with images/{train,val}/*.jpg and annotations/{train,val}.json.

    Raises:
        KsegError: if an argument is out of range or the folder cannot be written.
    """
    if min(train, val) < 1 or size < 64 or seed < 0:
        raise KsegError(f"train={train}, val={val}, size={size}, seed={seed}: pass train, val >= 1, size >= 64 and seed >= 0.")
    root = Path(cache_dir).expanduser() if cache_dir else cache_folder()
    folder = root / f"synthetic-v{VERSION}-{train}-{val}-{size}px-seed{seed}"
    if folder.is_dir():
        return folder
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=root, ignore_cleanup_errors=True) as work:
            drawn = Path(work) / "drawn"
            _draw(drawn, {"train": train, "val": val}, size, seed)
            try:
                drawn.rename(folder)
            except OSError:
                if not folder.is_dir():  # else another process was first, with the same bytes
                    raise
    except OSError as error:
        raise KsegError(
            f"cannot write the synthetic data set {folder} ({error.strerror}); set KSEG_CACHE to a folder."
        ) from error
    return folder


def _draw(folder: Path, counts: dict[str, int], size: int, seed: int) -> None:
    (folder / "annotations").mkdir(parents=True)
    total = sum(counts.values())
    with progress_bar(total, "drawing the synthetic data set", delay=_PROGRESS_AFTER) as bar:
        for number, (split, count) in enumerate(counts.items()):
            (folder / "images" / split).mkdir(parents=True)
            images: list[dict[str, Any]] = []
            annotations: list[dict[str, Any]] = []
            for place, kinds in enumerate(_plan(np.random.default_rng([seed, number]), count)):
                scene = draw_scene(np.random.default_rng([seed, number, place]), size, kinds)
                name = f"{place + 1:06d}.jpg"
                Image.fromarray(scene.image).save(folder / "images" / split / name, quality=90)
                images.append({"id": place + 1, "file_name": name, "width": size, "height": size})
                for entry in scene.annotations:
                    annotations.append({"id": len(annotations) + 1, "image_id": place + 1, **entry})
                bar.update()
            content = {
                "info": {
                    "description": "Synthetic scenes drawn by kseg for tests and demonstrations. No photographs, no benchmark.",
                    "version": str(VERSION),
                    "parameters": {**counts, "size": size, "seed": seed},
                },
                "licenses": [],
                "categories": [{"id": 1 + i, "name": kind.name, "supercategory": "litter"} for i, kind in enumerate(KINDS)],
                "images": images,
                "annotations": annotations,
            }
            (folder / "annotations" / f"{split}.json").write_text(json.dumps(content, separators=(",", ":")) + "\n")


def _plan(generator: np.random.Generator, count: int) -> list[list[int]]:
    """Returns the kinds of each image's objects, dealt from shuffled decks of all kinds, so that none is rare."""
    plan: list[list[int]] = []
    deck: list[int] = []
    for _ in range(count):
        objects = int(generator.integers(_OBJECTS[0], _OBJECTS[1] + 1))
        while len(deck) < objects:
            deck += generator.permutation(len(KINDS)).tolist()
        plan.append(deck[:objects])
        deck = deck[objects:]
    return plan


@register_dataset("synthetic")
def open_synthetic(config: DataConfig, split: str) -> CocoDataset:
    """Opens the synthetic data set, kept in config.data_dir or the cache."""
    return load_synthetic(
        split,
        config.data_dir,
        background=config.background,
        ignore_categories=config.ignore_categories,
        max_pixels=config.max_pixels,
    )
