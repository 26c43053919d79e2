"""Layers of attention in shifted windows, as in Swin (Liu et al. 2021, arXiv:2103.14030). For maps of any size."""

import keras
import numpy as np
from keras import ops

from kseg.models.initializers import FewCompilations
from kseg.models.layers import register
from kseg.models.ops.attention import attention

MASKED = -100.0
"""Added to the scores of two places that the roll brings into one window and that are not neighbours in the image."""


class _Windows(keras.layers.Layer):
    """Base of layers that know the side of a window and the shift.

    roll_first: timm rolls a map before it pads it to whole windows; transformers pads first.
    """

    def __init__(self, window, shift=0, roll_first=False, **kwargs):
        super().__init__(**kwargs)
        self.window, self.shift, self.roll_first = window, shift, roll_first

    def get_config(self):
        return {**super().get_config(), "window": self.window, "shift": self.shift, "roll_first": self.roll_first}


@register
class ToWindows(_Windows):
    """Rolls x [B, H, W, C] up and left by the shift, and pads it with zeros to whole windows, at the bottom and on the right."""

    def call(self, x):
        if self.roll_first:
            return self._padded(self._rolled(x))
        return self._rolled(self._padded(x))

    def _rolled(self, x):
        return ops.roll(x, (-self.shift, -self.shift), axis=(1, 2)) if self.shift else x

    def _padded(self, x):
        size = ops.shape(x)[1:3]
        # A size that is known only at run time gets more than it needs, and the rest cut off.
        missing = [-side % self.window if isinstance(side, int) else self.window - 1 for side in size]
        if any(missing):
            x = ops.pad(x, ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)))
        height, width = (self._whole(side) for side in size)
        return x[:, :height, :width]

    def _whole(self, side):
        return None if side is None else (side + self.window - 1) // self.window * self.window

    def compute_output_shape(self, input_shape):
        batch, *size, channels = input_shape
        return (batch, *map(self._whole, size), channels)


@register
class FromWindows(_Windows):
    """The inverse of ToWindows. Called on [x, reference]: x [B, H', W', C], and a map [B, H, W, ...] of the size before."""

    def call(self, inputs):
        x, reference = inputs
        size = ops.shape(reference)[1:3]
        if self.roll_first:
            return self._rolled(self._cropped(x, size))
        return self._cropped(self._rolled(x), size)

    def _rolled(self, x):
        return ops.roll(x, (self.shift, self.shift), axis=(1, 2)) if self.shift else x

    def _cropped(self, x, size):
        return x[:, : size[0], : size[1]]

    def compute_output_shape(self, input_shape):
        x, reference = input_shape
        return (x[0], *reference[1:3], x[3])


@register
class WindowAttention(keras.layers.Layer):
    """Attention among the places of each window, with a learnt bias for each distance and head.

    Called on qkv [B, H, W, 3C]: the channels of queries, then keys, then values; H and W are multiples of the window's side.
    shift: that of the ToWindows before it; places from opposite sides of the image do not see each other. Output [B, H, W, C].
    """

    torch_names = ("relative_position_bias_table",)

    def __init__(self, num_heads, window, shift=0, **kwargs):
        super().__init__(**kwargs)
        self.num_heads, self.window, self.shift = num_heads, window, shift

    def build(self, input_shape):
        self.table = self.add_weight(
            shape=((2 * self.window - 1) ** 2, self.num_heads),
            initializer=FewCompilations(keras.initializers.TruncatedNormal(stddev=0.02)),
            autocast=False,
            name="relative_position_bias_table",
        )

    def call(self, qkv):
        batch, height, width, channels = ops.shape(qkv)
        rows, columns, area = height // self.window, width // self.window, self.window**2
        depth = channels // 3 // self.num_heads
        x = ops.reshape(qkv, (batch, rows, self.window, columns, self.window, channels))
        x = ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (batch * rows * columns, area, 3, self.num_heads, depth))
        bias = ops.take(self.table, relative_positions(self.window), axis=0)
        bias = ops.expand_dims(ops.transpose(bias, (2, 0, 1)), 0)
        if self.shift:
            bias = bias + ops.expand_dims(self._mask(height, width), 1)
        x = attention(x[:, :, 0], x[:, :, 1], x[:, :, 2], bias)
        x = ops.reshape(x, (batch, rows, columns, self.window, self.window, channels // 3))
        return ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (batch, height, width, channels // 3))

    def _mask(self, height, width):
        """Returns [windows, window**2, window**2]: MASKED where two places come from different regions of the image, else 0."""
        rows, columns = self._regions(height), self._regions(width)
        regions = 3 * ops.reshape(rows, (-1, 1, self.window, 1)) + ops.reshape(columns, (1, -1, 1, self.window))
        regions = ops.reshape(regions, (-1, self.window**2))
        same = ops.equal(ops.expand_dims(regions, 1), ops.expand_dims(regions, 2))
        return ops.where(same, 0.0, MASKED)

    def _regions(self, side):
        """Numbers the places of a side: those before the last window, those of it, and those that the roll has brought there."""
        places = ops.arange(side, dtype="int32")
        return ops.cast(places >= side - self.window, "int32") + ops.cast(places >= side - self.shift, "int32")

    def compute_output_shape(self, input_shape):
        return (*input_shape[:3], input_shape[3] // 3)

    def get_config(self):
        return {**super().get_config(), "num_heads": self.num_heads, "window": self.window, "shift": self.shift}


def relative_positions(window: int) -> np.ndarray:
    """Returns [window**2, window**2]: the row of the bias table for a query and a key by their places in the window."""
    y, x = (places.ravel() for places in np.mgrid[:window, :window])
    return ((y[:, None] - y + window - 1) * (2 * window - 1) + x[:, None] - x + window - 1).astype("int32")


@register
class SpaceToDepth(keras.layers.Layer):
    """Stacks the channels of each 2x2 pixels of x [B, H, W, C], column by column. An odd side gets zeros behind it.

    Output [B, ceil(H / 2), ceil(W / 2), 4C].
    """

    def call(self, x):
        size = ops.shape(x)[1:3]
        halves = [(side + 1) // 2 for side in size]
        x = ops.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
        corners = [x[:, row::2, column::2][:, : halves[0], : halves[1]] for column in (0, 1) for row in (0, 1)]
        return ops.concatenate(corners, axis=-1)

    def compute_output_shape(self, input_shape):
        batch, *size, channels = input_shape
        return (batch, *(side and (side + 1) // 2 for side in size), 4 * channels)
