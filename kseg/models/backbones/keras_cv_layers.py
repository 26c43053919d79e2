"""Layers of keras-cv's backbones that Keras lacks, for images of any size. None has weights.

A saved model with one of them loads after this module is imported. It needs neither keras-cv nor TensorFlow.
"""

from typing import Any

import keras
from keras import ops

from kseg.models.layers import register  # this import also registers the convolutions of backbones


@register
def gelu_tanh(x: Any) -> Any:
    """GELU by its tanh approximation, as in keras-cv's MiT. keras.activations.gelu is exact by default."""
    return ops.gelu(x, approximate=True)


@register
class Focus(keras.layers.Layer):
    """The four pixels of each 2x2 cell as channels, CSPDarkNet's stem (YOLOX, arXiv:2107.08430).

    Input [B, H, W, C]. An odd height or width is padded with zeros below or to the right; keras-cv's fails there.
    Output [B, ceil(H/2), ceil(W/2), 4C]. Cells are read column by column, as in keras-cv.
    """

    def call(self, x: Any) -> Any:
        # With a row of zeros below x, rows 1, 3, 5, ... are ceil(H/2) many for even and odd H, so no static size is needed.
        below = ops.pad(x, [[0, 0], [0, 1], [0, 0], [0, 0]])[:, 1::2]
        above = x[:, ::2]
        columns = []
        for rows in (above, below):
            columns.append((rows[:, :, ::2], ops.pad(rows, [[0, 0], [0, 0], [0, 1], [0, 0]])[:, :, 1::2]))
        (top_left, top_right), (bottom_left, bottom_right) = columns
        return ops.concatenate([top_left, bottom_left, top_right, bottom_right], axis=-1)

    def compute_output_shape(self, input_shape: Any) -> Any:
        batch, height, width, channels = input_shape
        return (batch, height and -(-height // 2), width and -(-width // 2), 4 * channels)


@register
class TransposedRead(keras.layers.Layer):
    """Reads the memory of x [B, H, W, C], stored channels first, as if it were channels last. `inverse` undoes it, at any size.

    keras-cv's MiT does this around the convolution that shortens keys and values; NVlabs' original transposes instead. It mixes
    channels and positions, but the published weights were trained with it. Input and output [B, H, W, C].
    """

    def __init__(self, inverse: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        self.inverse = inverse

    def call(self, x: Any) -> Any:
        batch, height, width, channels = ops.shape(x)
        shape = (batch, channels, height * width) if self.inverse else (batch, height * width, channels)
        return ops.reshape(ops.transpose(ops.reshape(x, shape), (0, 2, 1)), (batch, height, width, channels))

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "inverse": self.inverse}
