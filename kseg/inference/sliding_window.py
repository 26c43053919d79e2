"""Sliding windows: predicts a picture at its own size, window by window, and blends them.

Windows are spaced evenly from a picture's first pixel to its last, as few as overlap by the given share; a side shorter than the
window has one, and black beyond it. A pixel's scores are the sum of its windows' probabilities, weighted by a sin^2 that falls to
the window's edges: proportional to their weighted mean.

The device keeps one band of the picture, as high as a window. Rows that no further window covers leave it as labels, so a picture
of any height needs the memory of one band. A band's width is rounded up, so that few programs serve all widths.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from kseg.data.dataset import IGNORE_INDEX
from kseg.inference.label_maps import LabelMap, LabelMapper, MapInParts, Outputs, Size, label_outputs, output_specs
from kseg.metrics.confusion_matrix import confusion_matrices

NARROWEST = 256
"""Least width of a band. Widths are this times a power of two."""


@dataclass(frozen=True)
class Windows:
    """Predict images at their own size, by windows of `size` that share at least `overlap` of a side with the next."""

    size: tuple[int, int]
    overlap: float = 0.25

    def starts(self, axis: int, length: int) -> list[int]:
        """Returns the first pixel of each window along a side of `length` pixels. axis: 0 for the height, 1 for the width."""
        stride = max(1, round(self.size[axis] * (1 - self.overlap)))
        spare = max(length - self.size[axis], 0)
        count = -(-spare // stride) + 1
        return [index * spare // max(count - 1, 1) for index in range(count)]


class WindowedLabelMapper(LabelMapper):
    """Maps pictures of any size, window by window. On one device.

    network: images [B, *windows.size, 3] to probabilities. batch_size: windows per step.
    """

    what = "windows"

    def __init__(self, network: keras.Model, batch_size: int, windows: Windows):
        super().__init__(network, batch_size)
        self._windows = windows

    def __call__(
        self,
        images: Sequence[np.ndarray],
        sizes: Sequence[Size],
        outputs: Outputs,
        labels: Sequence[np.ndarray] | None = None,
        batch_size: int | None = None,
    ) -> Iterator[LabelMap]:
        for number, image in enumerate(images):
            found = None
            while found is None:
                try:
                    found = self._predict(image, outputs, None if labels is None else labels[number])
                except Exception as error:
                    self.halve(error, self.batch_size, self._windows.size, image.shape[:2], "window")
            yield found

    def _predict(self, image: np.ndarray, outputs: Outputs, label: np.ndarray | None) -> LabelMap:
        (height, width), window = image.shape[:2], self._windows.size
        shape = (1, window[0], band_width(max(width, window[1])), self.num_classes)
        padding = [(0, max(0, need - have)) for need, have in zip(window, (height, width), strict=True)]
        padded = np.pad(image, [*padding, (0, 0)])
        found = MapInParts((height, width), self.num_classes, outputs)
        band: Any = np.zeros(shape, "float32")
        top = 0

        def finish_rows(end: int) -> None:
            """Moves the rows from `top` to `end` from the band to the result."""
            nonlocal band, top
            values = [band, np.array([end - top], "int32")]
            if label is not None:
                part = label[top:end]
                values.append(np.full(shape[:3], IGNORE_INDEX, "uint8"))
                values[-1][0, : len(part), :width] = part
            *results, band = self._finish(shape, outputs)(values)
            found.add((top, 0), [ops.convert_to_numpy(result)[0] for result in results], end - top)
            top = end

        corners = [*itertools.product(*(self._windows.starts(axis, side) for axis, side in enumerate((height, width))))]
        step = self.batch_size
        for start in range(0, len(corners), step):
            part = corners[start : start + step]
            batch = np.zeros((step, *window, 3), "uint8")
            for place, (row, column) in enumerate(part):
                batch[place] = padded[row : row + window[0], column : column + window[1]]
            probabilities = self.run_network(batch)
            for row, places in itertools.groupby(range(len(part)), key=lambda place: part[place][0]):
                if row > top:
                    finish_rows(row)
                columns, wanted = np.zeros((1, step), "int32"), np.zeros((1, step), "float32")
                for place in places:
                    columns[0, place], wanted[0, place] = part[place][1], 1
                band = self._add(shape, step)([band, probabilities, columns, wanted])
        finish_rows(height)
        return found.finished()

    def _add(self, shape: tuple[int, ...], step: int) -> Callable[[Any], Any]:
        def build() -> keras.Model:
            inputs = [
                keras.Input(shape[1:], 1),
                keras.Input((*self._windows.size, shape[-1]), step),
                keras.Input((step,), 1, dtype="int32"),
                keras.Input((step,), 1),
            ]
            return keras.Model(inputs, _AddWindows(self._windows.size)(inputs))

        return self.program((shape, step), build)

    def _finish(self, shape: tuple[int, ...], outputs: Outputs) -> Callable[[Any], Any]:
        def build() -> keras.Model:
            inputs = [keras.Input(shape[1:], 1), keras.Input((), 1, dtype="int32")]
            if outputs.matrix:
                inputs.append(keras.Input(shape[1:3], 1, dtype="uint8"))
            return keras.Model(inputs, _FinishRows(outputs)(inputs))

        return self.program((shape, outputs), build)


class _AddWindows(keras.layers.Layer):
    """Adds windows to a band: (band [1, h, W, C], probabilities [B, h, w, C], columns [1, B], wanted [1, B]) to the new band.

    columns: the first column of each window. wanted: 0 leaves a window out.
    """

    def __init__(self, window: Size):
        super().__init__(dtype="float32")
        rows, columns = (np.sin(np.pi * (np.arange(side) + 0.5) / side) ** 2 for side in window)
        self.weight = (rows[:, None] * columns)[None, :, :, None].astype("float32")

    def call(self, inputs):
        band, probabilities, columns, wanted = inputs
        count, *window = probabilities.shape
        scores = probabilities * ops.convert_to_tensor(self.weight) * ops.reshape(wanted, (-1, 1, 1, 1))
        for index in range(count):  # in this order, so that sums have the same last bit with any batch size
            corner = (0, 0, columns[0, index], 0)
            before = ops.slice(band, corner, (1, *window))
            band = ops.slice_update(band, corner, before + scores[index][None])
        return band

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs[0].shape, "float32")


class _FinishRows(keras.layers.Layer):
    """Maps (band [1, h, W, C], rows [1]) to label_outputs of the band, and to the band without its first rows.

    With outputs.matrix there is a third input, the true label map [1, h, W], and the confusion matrix comes before the band.
    """

    def __init__(self, outputs: Outputs):
        super().__init__(dtype="float32")
        self.outputs = outputs

    def call(self, inputs):
        band, rows, *label = inputs
        found = label_outputs(band, self.outputs, True)
        if label:
            found = (*found, confusion_matrices(label[0], found[0], band.shape[-1]))
        longer = ops.concatenate([band, ops.zeros_like(band)], axis=1)
        return (*found, ops.slice(longer, (0, rows[0], 0, 0), band.shape))

    def compute_output_spec(self, inputs):
        band = inputs[0].shape
        specs = output_specs(band[1:3], band[-1], self.outputs)
        found = [keras.KerasTensor((1, *shape), dtype) for shape, dtype in specs]
        if self.outputs.matrix:
            found.append(keras.KerasTensor((1, band[-1], band[-1]), "int32"))
        return (*found, keras.KerasTensor(band, "float32"))


def band_width(width: int) -> int:
    """Returns the width of the band for a picture of this width."""
    return NARROWEST << max(0, (-(-width // NARROWEST) - 1).bit_length())
