"""Writes predictions as annotations that other tools read and correct: COCO and Label Studio."""

from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from kseg.data.palette import hex_colors
from kseg.utils.errors import KsegError

if TYPE_CHECKING:
    from kseg.inference.prediction import Prediction

BACKGROUND = "background"
"""A class of this name is not annotated: it is what the other classes leave."""
LOCAL_FILES = "/data/local-files/?d="
"""Where Label Studio serves files of its local storage."""

_RUN_BITS = (3, 4, 8, 16)  # of the lengths of runs, in Label Studio's RLE


def category_ids(class_names: Sequence[str]) -> list[int | None]:
    """Returns the category of each class: its class id; None for the background."""
    return [None if name == BACKGROUND else index for index, name in enumerate(class_names)]


def coco_masks(prediction: "Prediction", categories: Sequence[int | None]) -> Iterator[dict[str, Any]]:
    """Yields category_id, segmentation (compressed RLE of all its pixels) and score for each class in a picture.

    score: the pixels' mean probability, if the prediction has a confidence. categories: by class; None skips it.
    """
    from pycocotools import mask

    for value in np.unique(prediction.labels).tolist():
        if (category := categories[value]) is not None:
            pixels = prediction.labels == value
            runs = mask.encode(np.asfortranarray(pixels, "uint8"))
            segmentation = {"size": runs["size"], "counts": runs["counts"].decode("ascii")}
            yield {"category_id": category, "segmentation": segmentation, **_score(prediction, pixels)}


def coco_annotations(
    prediction: "Prediction", image_id: int, categories: Sequence[int | None], segmentation: Literal["rle", "polygons"]
) -> Iterator[dict[str, Any]]:
    """Yields annotations of a picture without their id. See Prediction.to_coco."""
    if segmentation == "rle":
        from pycocotools import mask

        for found in coco_masks(prediction, categories):
            runs = found["segmentation"]
            encoded = {**runs, "counts": runs["counts"].encode("ascii")}
            shape = {"area": int(mask.area(encoded)), "bbox": mask.toBbox(encoded).tolist(), "iscrowd": 0}
            yield {"image_id": image_id, **found, **shape}
    elif segmentation == "polygons":
        for polygon in prediction.polygons():
            if (category := categories[polygon.class_id]) is not None:
                (left, top), (right, bottom) = polygon.outer.min(0), polygon.outer.max(0)
                yield {
                    "image_id": image_id,
                    "category_id": category,
                    "segmentation": [polygon.ring().ravel().tolist()],
                    "area": polygon.area,
                    "bbox": [left, top, right - left, bottom - top],
                    "iscrowd": 0,
                }
    else:
        raise KsegError(f'segmentation={segmentation!r}: must be "rle" or "polygons"')


def label_studio_task(prediction: "Prediction", image: str, kind: Literal["brush", "polygons"]) -> dict[str, Any]:
    """Returns a task of Label Studio with the prediction. See Prediction.to_label_studio."""
    height, width = prediction.labels.shape
    values: list[tuple[str, dict[str, Any]]] = []
    if kind == "brush":
        tag = "brushlabels"
        for value in np.unique(prediction.labels).tolist():
            values.append((prediction.class_names[value], {"format": "rle", "rle": brush_rle(prediction.labels == value)}))
    elif kind == "polygons":
        tag = "polygonlabels"
        for polygon in prediction.polygons():
            points = polygon.ring() * 100 / (width, height)
            values.append((polygon.class_name, {"points": points.tolist(), "closed": True}))
    else:
        raise KsegError(f'kind={kind!r}: must be "brush" or "polygons"')
    result = [
        {
            "id": f"kseg-{number}",
            "type": tag,
            "from_name": "label",
            "to_name": "image",
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "value": {**value, tag: [name]},
        }
        for number, (name, value) in enumerate(values)
        if name != BACKGROUND
    ]
    return {"data": {"image": image}, "predictions": [{"model_version": "kseg", "result": result}]}


def label_studio_config(class_names: Sequence[str], kind: Literal["brush", "polygons"] = "brush") -> str:
    """Returns the labelling interface (XML) of a Label Studio project that shows tasks of label_studio_task."""
    tag = {"brush": "BrushLabels", "polygons": "PolygonLabels"}[kind]
    labels = "".join(
        f'    <Label value="{escape(name)}" background="{color}"/>\n'
        for name, color in zip(class_names, hex_colors(len(class_names)), strict=True)
        if name != BACKGROUND
    )
    image = '  <Image name="image" value="$image" zoom="true"/>'
    return f'<View>\n{image}\n  <{tag} name="label" toName="image">\n{labels}  </{tag}>\n</View>\n'


def brush_rle(mask: np.ndarray) -> list[int]:
    """Returns a mask, bool [H, W], in Label Studio's RLE: bytes of thi.ng's rle-pack format of an RGBA image, 255 in the mask.

    A header: 32 bits for the number of values, 5 for the bits of a value less 1, and four times 4 for the bits of lengths less 1.
    Then runs: a 1, 2 bits that choose the bits of the length, the length less 1, and the value.
    """
    values = mask.ravel()
    ends = np.append(np.flatnonzero(values[1:] != values[:-1]), values.size - 1)
    lengths = np.diff(ends, prepend=-1) * 4  # four channels
    longest = 1 << _RUN_BITS[-1]
    pieces = -(-lengths // longest)
    value = np.repeat(values[ends] * 255, pieces)
    last = np.cumsum(pieces) - 1
    length = np.full(int(pieces.sum()), longest)
    length[last] = lengths - (pieces - 1) * longest
    choice = np.searchsorted([1 << bits for bits in _RUN_BITS], length)
    bits = np.array(_RUN_BITS)[choice]
    code = ((0b100 | choice) << bits | (length - 1)) << 8 | value
    code = np.concatenate([[values.size * 4, 7, *(size - 1 for size in _RUN_BITS)], code])
    bits = np.concatenate([[32, 5, 4, 4, 4, 4], bits + 11])
    position = np.arange(int(bits.sum())) - np.repeat(np.cumsum(bits) - bits, bits)
    return np.packbits(np.repeat(code, bits) >> (np.repeat(bits, bits) - 1 - position) & 1).tolist()


def _score(prediction: "Prediction", pixels: np.ndarray) -> dict[str, float]:
    if prediction.confidence is None:
        return {}
    return {"score": round(float(prediction.confidence[pixels].mean(dtype="float64")), 6)}
