"""The prediction of one picture: a label map that shows itself, and that other programs can read."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from kseg.data import palette
from kseg.inference import annotations
from kseg.inference.polygons import Polygon, trace
from kseg.utils.errors import KsegError, suggest
from kseg.utils.files import atomic_path
from kseg.utils.images import data_uri, encode, shrink

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, eq=False)
class Prediction:
    """The labels of one picture, at its own size.

    Attributes:
        labels: class indices, uint8 [H, W].
        class_names: the name of each class index.
        image: the picture, uint8 [H, W, 3] RGB.
        name: the picture's path or name; None for an array.
        confidence: probability of each pixel's class, float32 [H, W]; None unless confidence=True was passed to predict.
    """

    labels: np.ndarray
    class_names: tuple[str, ...]
    image: np.ndarray | None = field(default=None, repr=False)
    name: str | None = None
    confidence: np.ndarray | None = field(default=None, repr=False)
    probability_map: np.ndarray | None = field(default=None, repr=False)  # float16 [H, W, C]

    def __repr__(self) -> str:
        height, width = self.labels.shape
        shares = ", ".join(f"{name} {share:.1%}" for name, share in self.shares().items())
        return f"Prediction({self.name or 'array'}, {width}x{height}: {shares})"

    def probabilities(self) -> np.ndarray:
        """Returns the probability of every class, float32 [H, W, C], of float16 precision. Raises KsegError if not asked for."""
        if self.probability_map is None:
            raise KsegError("the probabilities were not kept; pass probabilities=True to predict")
        return self.probability_map.astype("float32")

    def shares(self) -> dict[str, float]:
        """Returns the share of the picture's pixels that each predicted class has, largest first."""
        counts = np.bincount(self.labels.ravel(), minlength=len(self.class_names))
        order = [int(index) for index in np.argsort(-counts, kind="stable") if counts[index]]
        return {self.class_names[index]: float(counts[index]) / self.labels.size for index in order}

    def overlay(self, alpha: float = 0.5, legend: bool = False) -> "Image":
        """Returns the picture with the classes' colours over it, as a PIL image.

        alpha: opacity of the colours, 0 to 1. legend: add the names of the predicted classes below.
        """
        from PIL import Image

        if self.image is None:
            raise KsegError("this Prediction was made without its image, which an overlay needs; pass image=")
        if not 0 <= alpha <= 1:
            raise KsegError(f"alpha={alpha}: must be between 0 and 1")
        pixels = palette.overlay(self.image, self.labels, alpha)
        if legend:
            pixels = np.concatenate([pixels, self._legend(pixels.shape[1])])
        return Image.fromarray(pixels)

    def polygons(self, of: str | int | None = None, *, min_area: float = 0, tolerance: float = 0) -> list[Polygon]:
        """Returns the regions of each class, or of one class, as polygons with holes, on the edges of pixels.

        A region's pixels are connected by their sides. Without min_area and tolerance, filling the polygons gives the labels back
        exactly (kseg.inference.polygons says how pixels and coordinates go together).

        Args:
            of: name or index of a class; None: all that were predicted.
            min_area: leave out regions of fewer pixels.
            tolerance: simplify the rings, to at most so many pixels from the edge (Douglas-Peucker); fewer corners to edit.
        """
        values = np.unique(self.labels).tolist() if of is None else [self._class_id(of)]
        names = self.class_names
        return [found for value in values for found in trace(self.labels == value, value, names[value], min_area, tolerance)]

    def to_coco(
        self,
        image_id: int = 1,
        category_ids: Sequence[int | None] | None = None,
        *,
        segmentation: Literal["rle", "polygons"] = "rle",
    ) -> list[dict[str, Any]]:
        """Returns annotations in COCO's format; with confidence they are results, too, which have a score.

        Args:
            image_id: the picture's id.
            category_ids: the category of each class; None leaves a class out. By default they are the class indices, without
                a class named "background".
            segmentation: "rle": one annotation a class, all its pixels as compressed RLE. "polygons": one a region; bridges of no
                width join holes to the outline, so pycocotools gives the same pixels.
        """
        categories = annotations.category_ids(self.class_names) if category_ids is None else category_ids
        if len(categories) != len(self.class_names):
            raise KsegError(f"category_ids has {len(categories)} entries, but there are {len(self.class_names)} classes")
        return list(annotations.coco_annotations(self, image_id, categories, segmentation))

    def to_label_studio(self, image: str | None = None, *, kind: Literal["brush", "polygons"] = "brush") -> dict[str, Any]:
        """Returns a task of Label Studio, to correct the prediction by hand: write a list of tasks to a JSON file and import it.

        kseg.inference.annotations.label_studio_config returns the project's labelling interface. A class named "background" is
        left out.

        Args:
            image: the picture's address for Label Studio; by default its name in a local storage.
            kind: "brush": all pixels of a class, exactly. "polygons": one a region, in per cent of the picture's sides.
        """
        if image is None and self.name is None:
            raise KsegError("the picture has no name; pass image=, its address for Label Studio")
        return annotations.label_studio_task(self, image or f"{annotations.LOCAL_FILES}{self.name}", kind)

    def save(self, path: str | Path) -> None:
        """Writes the labels as a PNG with class indices as values, and a palette."""
        if Path(path).suffix.lower() != ".png":
            raise KsegError(f"{path}: labels are saved as .png, which keeps every value; name such a file")
        write_label(Path(path), self.labels)

    def _class_id(self, of: str | int) -> int:
        if isinstance(of, str):
            if of not in self.class_names:
                raise KsegError(f"there is no class {of!r}{suggest(of, self.class_names)}")
            return self.class_names.index(of)
        if not 0 <= of < len(self.class_names):
            raise KsegError(f"there is no class {of}; the classes are 0 to {len(self.class_names) - 1}")
        return of

    def _legend(self, width: int) -> np.ndarray:
        from PIL import Image, ImageDraw, ImageFont

        size = max(12, min(28, width // 40))
        font = ImageFont.load_default(size)
        entries = list(self._legend_entries())
        places, x, y = [], size // 2, size // 2
        for name, _, _ in entries:
            length = round(font.getlength(name)) + 3 * size
            if x > size // 2 and x + length > width:
                x, y = size // 2, y + 2 * size
            places.append((x, y))
            x += length
        strip = Image.new("RGB", (width, y + 2 * size), "white")
        draw = ImageDraw.Draw(strip)
        for (name, color, _), (x, y) in zip(entries, places, strict=True):
            draw.rectangle((x, y, x + size, y + size), fill=color)
            draw.text((x + 1.5 * size, y + size / 2), name, fill="black", font=font, anchor="lm")
        return np.asarray(strip)

    def _legend_entries(self) -> Iterator[tuple[str, str, float]]:
        """Yields (name, CSS colour, share) of each predicted class."""
        colors = dict(zip(self.class_names, palette.hex_colors(len(self.class_names)), strict=True))
        for name, share in self.shares().items():
            yield name, colors[name], share

    def _repr_html_(self) -> str:
        """Shows the overlay and the classes' shares in a notebook."""
        rows = "".join(
            f'<tr><td style="background:{color};width:1.2em"></td><td style="text-align:left">{escape(name)}</td>'
            f"<td>{share:.1%}</td></tr>"
            for name, color, share in self._legend_entries()
        )
        picture = ""
        if self.image is not None:
            image, nearest = shrink(self.image)
            source = data_uri(encode(palette.overlay(image, self.labels[nearest]), "JPEG"), "JPEG")
            picture = f'<img alt="prediction" src="{source}" style="max-width:100%">'
        height, width = self.labels.shape
        caption = escape(f"{self.name or 'picture'}, {width}x{height}")
        return (
            '<div style="display:flex;flex-wrap:wrap;gap:1em;align-items:flex-start">'
            f"<figure style='margin:0'>{picture}<figcaption>{caption}</figcaption></figure><table>{rows}</table></div>"
        )


def write_label(path: Path, labels: np.ndarray) -> None:
    """Writes class indices [H, W] as a palette PNG."""
    from PIL import Image

    label = Image.fromarray(labels.astype("uint8"), "L")
    label.putpalette([*palette.palette(255).ravel().tolist(), *palette.IGNORED])
    with atomic_path(path) as temporary:
        label.save(temporary, optimize=True)
