"""Sliding windows: predicts a large image at its own size, window by window, and blends them."""

from typing import Any

import keras
import numpy as np
from keras import ops


class SlidingWindows(keras.layers.Layer):
    """Maps (images [1, H, W, 3], size int32 [1, 2]) to class scores, float32 [1, H, W, C], of one image.

    The image is the top left part of that `size`; the rest is padding. Windows are spaced evenly from its first pixel to its
    last, as few as overlap by the given share; a side shorter than the window has one. A pixel's scores are the sum of its
    windows' probabilities, weighted by a sin^2 that falls to the window's edges: proportional to their weighted mean, and 0
    beyond all windows. The number of windows is computed on the device, so that another size compiles nothing.

    Args:
        model: images [B, *window, 3] to probabilities [B, *window, C].
        window: (height, width).
        overlap: share of a window's side, 0 <= overlap < 1.
        batch_size: windows per call of the model.
    """

    def __init__(self, model: keras.Model, window: tuple[int, int], overlap: float, batch_size: int):
        super().__init__(dtype="float32")
        self.model, self.window, self.batch_size = model, window, batch_size
        self.strides = [max(1, round(side * (1 - overlap))) for side in window]
        rows, columns = (np.sin(np.pi * (np.arange(side) + 0.5) / side) ** 2 for side in window)
        self.weight = (rows[:, None] * columns)[None, :, :, None].astype("float32")

    def call(self, inputs):
        images, size = inputs
        image, size = ops.cast(images[0], "float32"), ops.cast(size[0], "int32")
        # Distance of the last window from the first, and number of windows, down and across.
        spare = [ops.maximum(size[axis] - self.window[axis], 0) for axis in (0, 1)]
        number = [(spare[axis] + self.strides[axis] - 1) // self.strides[axis] + 1 for axis in (0, 1)]
        count = number[0] * number[1]
        classes = self.model.output.shape[-1]
        weight = ops.convert_to_tensor(self.weight)

        def step(done, canvas):
            index = done + ops.arange(self.batch_size, dtype="int32")
            wanted = ops.cast(index < count, "float32")
            index = ops.minimum(index, count - 1)
            place = (index // number[1], index % number[1])
            starts = [place[axis] * spare[axis] // ops.maximum(number[axis] - 1, 1) for axis in (0, 1)]
            corners = [(starts[0][i], starts[1][i], 0) for i in range(self.batch_size)]
            windows = ops.stack([ops.slice(image, corner, (*self.window, image.shape[-1])) for corner in corners])
            scores = self.model(windows, training=False) * weight * ops.reshape(wanted, (-1, 1, 1, 1))
            for i, corner in enumerate(corners):
                before = ops.slice(canvas, corner, (*self.window, classes))
                canvas = ops.slice_update(canvas, corner, before + scores[i])
            return done + self.batch_size, canvas

        start = ops.zeros((), "int32"), ops.zeros((*image.shape[:2], classes), "float32")
        return ops.while_loop(lambda done, canvas: done < count, step, start)[1][None]

    def compute_output_spec(self, inputs: Any) -> keras.KerasTensor:
        return keras.KerasTensor((1, *inputs[0].shape[1:3], self.model.output.shape[-1]), "float32")
