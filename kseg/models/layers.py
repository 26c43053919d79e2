"""The blocks that models share. Channels last; every layer is registered, so that .keras files load with safe_mode on.

Names: a layer's name is its torch module path with "." as "_" (`decoder_aspp_0_convs_0_0`), so that reading a torch
checkpoint needs no table. `sequential_name("decoder_aspp", 0)` joins them.
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from kseg.models.initializers import FewCompilations
from kseg.models.ops import convolutions
from kseg.runtime.tracing import traced_once

register = keras.saving.register_keras_serializable("kseg")

NORMALIZATIONS = {"imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))}
"""Mean and std of RGB in 0..1 by name."""
_MEAN, _STD = NORMALIZATIONS["imagenet"]
DOUBLE_NORMALIZATION = tuple(255 * value for value in _MEAN), tuple(255 * value for value in _STD)
"""The mean and std with which Normalize computes (x / 255 / 255 - mean) / std: the mistake of --double_normalization."""


class TrainingModel(keras.Model):
    """A functional model that computes its loss in a way of its own. SETTINGS: its attributes that a file of it keeps."""

    SETTINGS: tuple[str, ...] = ()

    def get_config(self):
        return {**super().get_config(), **{name: getattr(self, name) for name in self.SETTINGS}}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        settings = {name: config.pop(name) for name in cls.SETTINGS}
        model = super().from_config(config, custom_objects)
        for name, value in settings.items():
            setattr(model, name, value)
        return model


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


class _Initialised(keras.layers.Layer):
    """What makes the variables of the Keras layer that stands after this class among the bases by few programs."""

    def add_weight(self, shape=None, initializer=None, **kwargs):
        initializer = None if initializer is None else FewCompilations(initializer)
        return super().add_weight(shape=shape, initializer=initializer, **kwargs)


@register
class DepthwiseConv2D(_Initialised, keras.layers.DepthwiseConv2D):
    """keras.layers.DepthwiseConv2D, computed by kseg.models.ops.convolutions. Same arguments, same weights, same results."""

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
class Conv2D(_Initialised, keras.layers.Conv2D):
    """keras.layers.Conv2D, computed by kseg.models.ops.convolutions. Same arguments, same weights, same results."""

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
class MaxPooling2D(keras.layers.MaxPooling2D):
    """keras.layers.MaxPooling2D, computed by kseg.models.ops.convolutions where it pads nothing. Same arguments, same results."""

    def call(self, inputs):
        if self.data_format != "channels_last" or self.padding != "valid":
            return super().call(inputs)
        return convolutions.max_pool2d(inputs, self.pool_size, self.strides)


@register
class BatchNormalization(_Initialised, keras.layers.BatchNormalization):
    """keras.layers.BatchNormalization for [..., C] whose moving variance follows the unbiased estimate, as torch's does.

    Keras follows the biased one, which is smaller by (n - 1) / n with n the number of values a channel: noticeable where maps are
    small. What normalises a training batch is the biased one in both. n = 1 has no unbiased estimate; 0 is taken.
    """

    def call(self, inputs, training=None):
        if not (training and self.trainable):
            return super().call(inputs, training=False)
        moving = self.moving_mean, self.moving_variance
        variables = *moving, self.gamma, self.beta
        values = [None if variable is None else ops.convert_to_tensor(variable) for variable in variables]
        constants = {"momentum": self.momentum, "epsilon": self.epsilon, "dtype": self.compute_dtype}
        x, *values = _batch_norm_of_a_batch(inputs, *values, **constants)
        for variable, value in zip(moving, values, strict=True):
            variable.assign(value)
        return x


@functools.partial(traced_once, static=("momentum", "epsilon", "dtype"))
def _batch_norm_of_a_batch(inputs, moving_mean, moving_variance, gamma, beta, momentum, epsilon, dtype):
    """Returns what BatchNormalization makes of a training batch: the normalised inputs of dtype, both new moving averages."""
    x = ops.cast(inputs, "float32")
    axes = list(range(len(x.shape) - 1))
    mean = ops.mean(x, axis=axes)
    # Not E[x^2] - E[x]^2, as Keras has it: where values hardly differ, as after global pooling, it would be rounding alone.
    # The variance does not change with the mean it is taken around, so no gradient flows through that.
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

    align_corners: True puts the corner pixels' centres on each other (torch's align_corners=True, used by smp); False is
    half-pixel centres without antialiasing (torch's False, Keras, OpenCV). Output [B, H, W, C].
    """

    def __init__(self, align_corners, **kwargs):
        super().__init__(**kwargs)
        self.align_corners = align_corners

    def call(self, inputs):
        x, reference = inputs
        return resize_bilinear(x, ops.shape(reference)[1:3], align_corners=self.align_corners)

    def compute_output_shape(self, input_shape):
        x, reference = input_shape
        return (x[0], *reference[1:3], x[3])

    def get_config(self):
        return {**super().get_config(), "align_corners": self.align_corners}


@register
class ResizeNearest(keras.layers.Layer):
    """Nearest resize of x [B, h, w, C] to the height and width of a reference [B, H, W, ...]; called on [x, reference].

    Row i of the result is row floor(i * h / H) of x: torch's interpolate(mode="nearest"). Output [B, H, W, C].
    """

    def call(self, inputs):
        x, reference = inputs
        height, width = ops.shape(reference)[1:3]
        return _resize_nearest(_resize_nearest(x, 1, height), 2, width)

    def compute_output_shape(self, input_shape):
        x, reference = input_shape
        return (x[0], *reference[1:3], x[3])


def _resize_nearest(x: Any, axis: int, target: Any) -> Any:
    """ResizeNearest along one axis to `target`, an int or an int scalar of the backend."""
    source = ops.shape(x)[axis]
    if isinstance(source, int) and isinstance(target, int):
        if source == target:
            return x
        if source == (target + 1) // 2:  # then floor(i * source / target) is i // 2; its gradient is a sum, not a scatter
            return ops.repeat(x, 2, axis=axis)[(slice(None),) * axis + (slice(0, target),)]
    return ops.take(x, ops.arange(target) * source // target, axis=axis)


def resize_bilinear(x: Any, size: Any, *, align_corners: bool, padded_size: tuple[int, int] | None = None) -> Any:
    """Bilinear resize without antialiasing, as two matrix products (whose gradient is cheap on every platform).

    x: [B, h, w, C]. size: (H, W), ints or int scalars of the backend. padded_size: static (height, width) of the result
    where `size` is not static; pixels beyond `size` repeat the edge. Returns [B, H, W, C] (or padded) of x's dtype.
    """
    if padded_size is None and all(isinstance(n, int) for n in size) and tuple(size) == tuple(ops.shape(x)[1:3]):
        return x
    rows = interpolation(ops.shape(x)[1], size[0], align_corners, padded_size and padded_size[0], x.dtype)
    columns = interpolation(ops.shape(x)[2], size[1], align_corners, padded_size and padded_size[1], x.dtype)
    return resize_by(rows, columns, x)


def resize_by(rows: Any, columns: Any, x: Any) -> Any:
    """Returns [B, H, W, C] of x [B, h, w, C], by interpolation matrices rows [H, h] and columns [W, w]."""
    with _full_precision():
        x = ops.einsum("Hh,bhwc->bHwc", rows, x)
        return ops.einsum("Ww,bhwc->bhWc", columns, x)


def interpolation(source: Any, target: Any, align_corners: bool, padded: int | None, dtype: str) -> Any:
    """Returns the [padded or target, source] matrix of weights that maps a line of pixels to its resized line."""
    static = isinstance(source, int) and isinstance(target, int)
    xp: Any = np if static else ops  # numpy in float64 where sizes are known: XLA sees constants
    real = "float64" if static else "float32"
    length = padded if padded is not None else target
    index = xp.cast(xp.arange(length), real) if not static else np.arange(length, dtype=real)
    n, m = (float(source), float(target)) if static else (ops.cast(source, real), ops.cast(target, real))
    if align_corners:
        position = index * ((n - 1) / xp.maximum(m - 1, 1.0))
    else:
        position = (index + 0.5) * (n / m) - 0.5
    position = xp.clip(position, 0.0, n - 1)
    nodes = np.arange(source, dtype=real) if static else ops.cast(ops.arange(source), real)
    weights = xp.maximum(0.0, 1.0 - xp.abs(position[:, None] - nodes[None, :]))
    return ops.convert_to_tensor(weights, dtype) if static else ops.cast(weights, dtype)


def _full_precision():
    """Interpolation weights must not be rounded to TF32 or bfloat16, as accelerators do with float32 products by default."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.default_matmul_precision("highest")
    return contextlib.nullcontext()


def sequential_name(name: str, *path: object) -> str:
    """Returns the layer name of a torch module path: sequential_name("decoder", "aspp", 0) is "decoder_aspp_0"."""
    return "_".join(str(part) for part in (name, *path))


def torch_uniform(fan_in: int) -> Any:
    """PyTorch's default initialisation of a convolution: uniform within 1 / sqrt(fan_in)."""
    bound = fan_in**-0.5
    return keras.initializers.RandomUniform(-bound, bound)


def batch_norm(x: Any, name: str, *, epsilon: float = 1e-5) -> Any:
    """Batch norm with torch's constants (Keras's own defaults are epsilon 1e-3 and momentum 0.99)."""
    return BatchNormalization(epsilon=epsilon, momentum=0.9, name=name)(x)


def conv_bn_relu(
    x: Any,
    filters: int,
    kernel_size: int = 3,
    *,
    dilation_rate: int = 1,
    kernel_initializer: Any = None,
    name: str,
    first: int = 0,
) -> Any:
    """torch's Sequential(Conv2d without bias, BatchNorm2d, ReLU) with "same" padding.

    kernel_initializer: None is PyTorch's default. first: the convolution's index in its torch Sequential; batch norm and ReLU
    follow.
    """
    if kernel_initializer is None:
        kernel_initializer = torch_uniform(kernel_size**2 * x.shape[-1])
    x = Conv2D(
        filters, kernel_size, padding="same", dilation_rate=dilation_rate, use_bias=False,
        kernel_initializer=kernel_initializer, name=sequential_name(name, first),
    )(x)  # fmt: skip
    return keras.layers.ReLU(name=sequential_name(name, first + 2))(batch_norm(x, sequential_name(name, first + 1)))


def separable_conv_bn_relu(x: Any, filters: int, *, dilation_rate: int = 1, name: str, first: int = 0) -> Any:
    """smp's Sequential(SeparableConv2d 3x3 without bias, BatchNorm2d, ReLU); no normalisation between the two convolutions.

    first: the convolution's index in its torch Sequential; batch norm and ReLU follow.
    """
    conv = sequential_name(name, first)
    x = DepthwiseConv2D(
        3, padding="same", dilation_rate=dilation_rate, use_bias=False,
        depthwise_initializer=torch_uniform(9), name=sequential_name(conv, 0),
    )(x)  # fmt: skip
    x = Conv2D(filters, 1, use_bias=False, kernel_initializer=torch_uniform(x.shape[-1]), name=sequential_name(conv, 1))(x)
    return keras.layers.ReLU(name=sequential_name(name, first + 2))(batch_norm(x, sequential_name(name, first + 1)))


def aspp(
    x: Any,
    *,
    filters: int = 256,
    dilation_rates: tuple[int, ...] = (12, 24, 36),
    separable: bool,
    dropout: float = 0.5,
    name: str,
) -> Any:
    """Atrous spatial pyramid pooling (Chen et al. 2017, arXiv:1706.05587), laid out as smp's ASPP.

    x: [B, h, w, C]. Returns [B, h, w, filters].
    """
    convs = sequential_name(name, "convs")
    conv = separable_conv_bn_relu if separable else conv_bn_relu
    branches = [conv_bn_relu(x, filters, 1, name=sequential_name(convs, 0))]
    for i, rate in enumerate(dilation_rates, start=1):
        branches.append(conv(x, filters, dilation_rate=rate, name=sequential_name(convs, i)))
    pool = sequential_name(convs, len(dilation_rates) + 1)
    pooled = keras.layers.GlobalAveragePooling2D(keepdims=True, name=sequential_name(pool, 0))(x)
    pooled = conv_bn_relu(pooled, filters, 1, name=pool, first=1)
    branches.append(Resize(align_corners=False, name=sequential_name(pool, "resize"))([pooled, x]))
    fused = keras.layers.Concatenate(name=sequential_name(name, "concat"))(branches)
    fused = conv_bn_relu(fused, filters, 1, name=sequential_name(name, "project"))
    return keras.layers.Dropout(dropout, name=sequential_name(name, "project", 3))(fused)


def head(x: Any, num_classes: int, *, kernel_size: int = 1, name: str = "segmentation_head") -> Any:
    """Convolution with bias to [B, h, w, num_classes] logits: smp's SegmentationHead without its upsampling (layer `name`_0)."""
    return Conv2D(num_classes, kernel_size, padding="same", kernel_initializer="glorot_uniform", name=sequential_name(name, 0))(x)


def torch_head(x: Any, num_classes: int, *, name: str) -> Any:
    """torchvision's last layer: a 1x1 convolution with bias to [B, h, w, num_classes] logits, initialised as PyTorch does."""
    initializer = torch_uniform(x.shape[-1])
    return Conv2D(num_classes, 1, kernel_initializer=initializer, bias_initializer=initializer, name=name)(x)


def fcn_head(x: Any, num_classes: int, *, dropout: float = 0.1, name: str) -> Any:
    """torchvision's FCNHead: a 3x3 convolution to a quarter of the channels, dropout, logits [B, h, w, num_classes]."""
    x = conv_bn_relu(x, x.shape[-1] // 4, name=name)
    x = keras.layers.Dropout(dropout, name=sequential_name(name, 3))(x)
    return torch_head(x, num_classes, name=sequential_name(name, 4))


@contextlib.contextmanager
def precision(policy: str) -> Iterator[None]:
    """Layers made inside have this Keras dtype policy: float32, or mixed_bfloat16 or mixed_float16, which compute in 16 bits and
    keep variables in float32. Layers made afterwards have the policy of before.
    """
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
