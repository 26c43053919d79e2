"""Keras layers that models share. Channels last. All are registered, so .keras files load with safe_mode=True.

kseg.models.blocks has the functions that combine them, such as conv_bn_relu.
"""

import functools

import keras
import numpy as np
from keras import ops

from kseg.models.initializers import FewCompilations
from kseg.models.ops import convolutions
from kseg.models.ops.attention import attention
from kseg.models.ops.platforms import at_least, computed_once, is_symbolic
from kseg.models.ops.resize import region_means, resize_bilinear, resize_by, resize_nearest
from kseg.runtime.tracing import traced_once

register = keras.saving.register_keras_serializable("kseg")

NORMALIZATIONS = {"imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))}
"""Mean and std of RGB in 0..1, by name."""
_MEAN, _STD = NORMALIZATIONS["imagenet"]
DOUBLE_NORMALIZATION = tuple(255 * value for value in _MEAN), tuple(255 * value for value in _STD)
"""Mean and std that make Normalize compute (x / 255 / 255 - mean) / std: the bug that --double_normalization reproduces."""


@register
class Normalize(keras.layers.Layer):
    """(x / 255 - mean) / std. Input [B, H, W, C] in 0..255, any dtype; output float32 of the same shape."""

    def __init__(self, mean, std, **kwargs):
        super().__init__(dtype="float32", **{k: v for k, v in kwargs.items() if k != "dtype"})
        self.mean, self.std = tuple(mean), tuple(std)

    def call(self, x):
        scale = ops.convert_to_tensor(1.0 / (255.0 * np.asarray(self.std)), "float32")
        shift = ops.convert_to_tensor(np.asarray(self.mean) / np.asarray(self.std), "float32")
        return ops.cast(x, "float32") * scale - shift

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "mean": self.mean, "std": self.std}


class _FewCompilations(keras.layers.Layer):
    """Mixin: initializes the variables of the next base class with few compiled programs (kseg.models.initializers)."""

    def add_weight(self, shape=None, initializer=None, **kwargs):
        initializer = None if initializer is None else FewCompilations(initializer)
        return super().add_weight(shape=shape, initializer=initializer, **kwargs)


@register
class DepthwiseConv2D(_FewCompilations, keras.layers.DepthwiseConv2D):
    """keras.layers.DepthwiseConv2D computed by kseg.models.ops.convolutions. Same arguments, weights and results."""

    def call(self, inputs):
        if self.data_format != "channels_last":
            return super().call(inputs)
        x = convolutions.depthwise_conv2d(
            inputs, self.kernel, strides=self.strides, padding=self.padding, dilation_rate=self.dilation_rate
        )
        if self.use_bias:
            x = x + self.bias
        return x if self.activation is None else self.activation(x)


@register
class Conv2D(_FewCompilations, keras.layers.Conv2D):
    """keras.layers.Conv2D computed by kseg.models.ops.convolutions. Same arguments, weights and results."""

    def convolution_op(self, inputs, kernel):
        if self.data_format != "channels_last":
            return super().convolution_op(inputs, kernel)
        if self.groups == 1 and self.kernel_size == (1, 1):
            return convolutions.pointwise_conv2d(inputs, kernel, strides=self.strides)
        where = {"strides": self.strides, "padding": self.padding, "dilation_rate": self.dilation_rate}
        if self.groups > 1:
            return convolutions.grouped_conv2d(inputs, kernel, groups=self.groups, **where)
        return convolutions.conv2d(inputs, kernel, **where)


@register
class Dense(_FewCompilations, keras.layers.Dense):
    """keras.layers.Dense, initialized with few compiled programs."""


@register
class LayerNormalization(_FewCompilations, keras.layers.LayerNormalization):
    """keras.layers.LayerNormalization, initialized with few compiled programs."""


@register
class MaxPooling2D(keras.layers.MaxPooling2D):
    """keras.layers.MaxPooling2D computed by kseg.models.ops.convolutions if padding is "valid". Same arguments and results."""

    def call(self, inputs):
        if self.data_format != "channels_last" or self.padding != "valid":
            return super().call(inputs)
        return convolutions.max_pool2d(inputs, self.pool_size, self.strides)


@register
class BatchNormalization(_FewCompilations, keras.layers.BatchNormalization):
    """keras.layers.BatchNormalization for [..., C] with torch's moving variance, an average of the unbiased estimate.

    Keras averages the biased estimate, smaller by (n - 1) / n for n values per channel, which matters for small maps. Both
    normalise a training batch by the biased estimate. For n = 1, where there is no unbiased estimate, 0 is used.
    """

    def call(self, inputs, training=None):
        if not (training and self.trainable):
            return super().call(inputs, training=False)
        moving = self.moving_mean, self.moving_variance
        variables = *moving, self.gamma, self.beta
        values = [None if variable is None else ops.convert_to_tensor(variable) for variable in variables]
        constants = {"momentum": self.momentum, "epsilon": self.epsilon, "dtype": self.compute_dtype}
        x, *values = _normalize_batch(inputs, *values, **constants)
        for variable, value in zip(moving, values, strict=True):
            variable.assign(value)
        return x


@functools.partial(traced_once, static=("momentum", "epsilon", "dtype"))
def _normalize_batch(inputs, moving_mean, moving_variance, gamma, beta, momentum, epsilon, dtype):
    """Returns (outputs of dtype, new moving mean, new moving variance) of a training batch."""
    x = ops.cast(inputs, "float32")
    axes = list(range(len(x.shape) - 1))
    mean = ops.mean(x, axis=axes)
    # Keras computes E[x^2] - E[x]^2, which is nothing but rounding where values hardly differ, as after global pooling.
    # The derivative of the variance by its mean is 0, so no gradient flows through the mean.
    variance = ops.mean(ops.square(x - ops.stop_gradient(mean)), axis=axes)
    count = ops.cast(ops.size(x), "float32") / x.shape[-1]
    unbiased = variance * (count / ops.maximum(count - 1.0, 1.0))
    moving_mean = moving_mean * momentum + mean * (1.0 - momentum)
    moving_variance = moving_variance * momentum + unbiased * (1.0 - momentum)
    x = ops.batch_normalization(x, mean, variance, axis=-1, offset=beta, scale=gamma, epsilon=epsilon)
    return ops.cast(x, dtype), moving_mean, moving_variance


@register
class Resize(keras.layers.Layer):
    """Bilinear resize of x [B, h, w, C] to the height and width of a reference [B, H, W, ...]; called on [x, reference].

    align_corners: True aligns the centres of the corner pixels, as smp does. False uses half-pixel centres without antialiasing,
    as torchvision, Keras and OpenCV do. divisor: resizes to the reference's size divided by it, rounded down, at least 1.
    Output [B, H // divisor, W // divisor, C].
    """

    def __init__(self, align_corners, divisor=1, **kwargs):
        super().__init__(**kwargs)
        self.align_corners, self.divisor = align_corners, divisor

    def call(self, inputs):
        x, reference = inputs
        return resize_bilinear(x, _divided(reference, self.divisor), align_corners=self.align_corners)

    def compute_output_shape(self, input_shape):
        x, reference = input_shape
        return _resized_shape(x, reference, self.divisor)

    def get_config(self):
        divisor = {"divisor": self.divisor} if self.divisor > 1 else {}
        return {**super().get_config(), "align_corners": self.align_corners, **divisor}


def _divided(reference, divisor):
    """Returns (height, width) of a reference, divided and rounded down."""
    size = tuple(ops.shape(reference)[1:3])
    return size if divisor == 1 else tuple(at_least(side // divisor, 1) for side in size)


def _resized_shape(x, reference, divisor):
    return (x[0], *(side and max(side // divisor, 1) for side in reference[1:3]), x[3])


@register
class AdaptiveAveragePool(keras.layers.Layer):
    """torch's AdaptiveAvgPool2d: means of `bins` x `bins` regions that cover x [B, H, W, C] and may overlap. For any size.

    Output [B, bins, bins, C].
    """

    def __init__(self, bins, **kwargs):
        super().__init__(**kwargs)
        self.bins = bins

    def call(self, x):
        rows, columns = (region_means(side, self.bins, x.dtype) for side in ops.shape(x)[1:3])
        return resize_by(rows, columns, x)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.bins, self.bins, input_shape[3])

    def get_config(self):
        return {**super().get_config(), "bins": self.bins}


@register
class PaddedMaxPool(keras.layers.Layer):
    """torch's MaxPool2d(3, stride=2, padding=1) of x [B, H, W, C], negative or not. Output [B, ceil(H / 2), ceil(W / 2), C]."""

    def call(self, x):
        # Copies of the outer pixels change no maximum: each window with a copy holds the pixel itself.
        x = ops.concatenate([x[:, :1], x, x[:, -1:]], axis=1)
        x = ops.concatenate([x[:, :, :1], x, x[:, :, -1:]], axis=2)
        return convolutions.max_pool2d(x, (3, 3), (2, 2))

    def compute_output_shape(self, input_shape):
        batch, *size, channels = input_shape
        return (batch, *(side and (side + 1) // 2 for side in size), channels)


@register
class MaxPoolHalf(keras.layers.Layer):
    """torch's MaxPool2d(2) of x [B, H, W, C]; a side of one pixel stays. Output [B, max(H // 2, 1), max(W // 2, 1), C]."""

    def call(self, x):
        size = ops.shape(x)[1:3]
        if any(map(is_symbolic, size)):
            raise ValueError("symbolic sizes that are halved but stay 1 or more keep JAX busy for minutes")
        height, width = (at_least(side // 2, 1) for side in size)
        # One more row and column make a pixel out of a single one, and are cut off else.
        x = ops.concatenate([x, x[:, -1:]], axis=1)
        x = ops.concatenate([x, x[:, :, -1:]], axis=2)
        return ops.max_pool(x, 2, 2, "valid")[:, :height, :width]

    def compute_output_shape(self, input_shape):
        batch, *size, channels = input_shape
        return (batch, *(side and max(side // 2, 1) for side in size), channels)


@register
class StoredReLU(keras.layers.ReLU):
    """ReLU of x [B, H, W, C], computed once though several layers use it (kseg.models.ops.platforms.computed_once)."""

    def call(self, inputs):
        return computed_once(super().call(inputs))


@register
class ResizeNearest(keras.layers.Layer):
    """Nearest resize of x [B, h, w, C] to the height and width of a reference [B, H, W, ...]; called on [x, reference].

    Equals torch's interpolate(mode="nearest"). divisor: as in Resize. Output [B, H // divisor, W // divisor, C].
    """

    def __init__(self, divisor=1, **kwargs):
        super().__init__(**kwargs)
        self.divisor = divisor

    def call(self, inputs):
        x, reference = inputs
        return resize_nearest(x, _divided(reference, self.divisor))

    def compute_output_shape(self, input_shape):
        x, reference = input_shape
        return _resized_shape(x, reference, self.divisor)

    def get_config(self):
        return {**super().get_config(), **({"divisor": self.divisor} if self.divisor > 1 else {})}


@register
class LayerScale(_FewCompilations, keras.layers.Layer):
    """Scales the channels of x [..., C] by learnt factors, which start at `initial` (Touvron et al. 2021, arXiv:2103.17239)."""

    torch_names = ("gamma",)

    def __init__(self, initial=1e-6, **kwargs):
        super().__init__(**kwargs)
        self.initial = initial

    def build(self, input_shape):
        initializer = keras.initializers.Constant(self.initial)
        self.gamma = self.add_weight(shape=(input_shape[-1],), initializer=initializer, name="gamma")

    def call(self, x):
        return x * ops.cast(self.gamma, x.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "initial": self.initial}


@register
class GlobalResponseNorm(_FewCompilations, keras.layers.Layer):
    """ConvNeXt V2's global response normalisation of x [B, H, W, C] (Woo et al. 2023, arXiv:2301.00808).

    x + bias + weight * x * n, where n is each channel's norm over the places, divided by its mean over the channels.
    """

    torch_names = ("weight", "bias")

    def __init__(self, epsilon=1e-6, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def build(self, input_shape):
        for name in self.torch_names:
            setattr(self, name, self.add_weight(shape=(input_shape[-1],), initializer="zeros", name=name))

    def call(self, inputs):
        x = ops.cast(inputs, "float32")
        # At 0 the gradient of the square root would be infinite, and 0 times that not a number.
        norm = ops.sqrt(ops.maximum(ops.sum(ops.square(x), axis=(1, 2), keepdims=True), 1e-30))
        relative = norm / (ops.mean(norm, axis=-1, keepdims=True) + self.epsilon)
        weight, bias = (ops.cast(value, "float32") for value in (self.weight, self.bias))
        return ops.cast(x + bias + weight * (x * relative), inputs.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "epsilon": self.epsilon}


@register
class DotProductAttention(keras.layers.Layer):
    """Attention of each place of a map to all places of another, by heads: kseg.models.ops.attention.

    Called on [q, k, v], or on [q, kv] with k's channels before v's. q: [B, H, W, C]. k, v: [B, h, w, C]. Output [B, H, W, C].
    """

    def __init__(self, num_heads, **kwargs):
        super().__init__(**kwargs)
        self.num_heads = num_heads

    def call(self, inputs):
        q, *others = inputs
        k, v = others if len(others) == 2 else ops.split(others[0], 2, axis=-1)
        return ops.reshape(attention(*(self._split(x) for x in (q, k, v))), ops.shape(q))

    def _split(self, x):
        batch, height, width, channels = ops.shape(x)
        return ops.reshape(x, (batch, height * width, self.num_heads, channels // self.num_heads))

    def compute_output_shape(self, input_shape):
        return input_shape[0]

    def get_config(self):
        return {**super().get_config(), "num_heads": self.num_heads}
