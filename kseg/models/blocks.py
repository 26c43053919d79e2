"""Blocks that decoders and backbones share: functions from a tensor to a tensor, made of the layers in kseg.models.layers.

A layer's name is its torch module path with "_" for ".": `decoder_aspp_0_convs_0_0` is decoder.aspp.0.convs.0.0. So reading a
torch checkpoint needs no table of names. A module name with a "_" of its own stands in kseg.models.pytorch.export.COMPOUND.

`conv` and `depthwise_conv` pad as torch does and start from Kaiming's initialization, as backbones do. `conv_bn_relu` and what
follows pad "same" and start from PyTorch's default initialization, as smp's and torchvision's decoders do.
"""

from collections.abc import Sequence
from typing import Any

import keras

from kseg.models.layers import BatchNormalization, Conv2D, Dense, DepthwiseConv2D, LayerNormalization, Resize, ResizeNearest
from kseg.utils.errors import KsegError


def sequential_name(name: str, *path: object) -> str:
    """Returns the layer name of a torch module path: sequential_name("decoder", "aspp", 0) is "decoder_aspp_0"."""
    return "_".join(str(part) for part in (name, *path))


def torch_uniform(fan_in: int) -> Any:
    """Returns PyTorch's default initializer of a convolution: uniform in +-1 / sqrt(fan_in)."""
    bound = fan_in**-0.5
    return keras.initializers.RandomUniform(-bound, bound)


def conv(
    x: Any,
    filters: int,
    size: int,
    *,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    use_bias: bool = False,
    same: bool = False,
    padding: tuple[int, int] | None = None,
    initializer: Any = None,
    name: str,
) -> Any:
    """torch's Conv2d(padding=dilation * (size // 2)).

    x: [B, h, w, C]. same: pad as TensorFlow's "SAME" does instead. padding: or with these numbers of pixels before and after.
    initializer: of the kernel; None for Kaiming's by fan-out.
    Returns [B, ceil(h / stride), ceil(w / stride), filters]; another size if padding says so.
    """
    x, mode = _padded(x, size, stride, dilation, same, padding, name)
    return Conv2D(
        filters, size, strides=stride, dilation_rate=dilation, groups=groups, padding=mode, use_bias=use_bias, name=name,
        kernel_initializer=initializer or keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal"),
    )(x)  # fmt: skip


def depthwise_conv(
    x: Any,
    size: int,
    *,
    stride: int = 1,
    dilation: int = 1,
    use_bias: bool = False,
    same: bool = False,
    padding: tuple[int, int] | None = None,
    fan: str = "fan_out",
    initializer: Any = None,
    name: str,
) -> Any:
    """`conv` with one filter per channel.

    fan: "fan_out" gives the initial weights the variance 2 / size**2, as TensorFlow's models do. "fan_in" divides it by the
    number of channels; torch calls this the fan-out of a depthwise convolution. initializer: of the kernel, used instead.
    """
    x, mode = _padded(x, size, stride, dilation, same, padding, name)
    return DepthwiseConv2D(
        size, strides=stride, dilation_rate=dilation, padding=mode, use_bias=use_bias, name=name,
        depthwise_initializer=initializer or keras.initializers.VarianceScaling(2.0, fan, "untruncated_normal"),
    )(x)  # fmt: skip


def patch_conv(x: Any, filters: int, size: int, *, initializer: Any = None, name: str) -> Any:
    """Convolution with bias of the patches of `size` x `size` pixels of x [B, h, w, C], without overlap and padding.

    initializer: of the kernel; None for Kaiming's by fan-out. Returns [B, h // size, w // size, filters].
    """
    initializer = initializer or keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")
    return Conv2D(filters, size, strides=size, padding="valid", kernel_initializer=initializer, name=name)(x)


def normal() -> Any:
    """Returns the initializer of transformers and ConvNeXt: a normal distribution with a standard deviation of 0.02."""
    return keras.initializers.RandomNormal(stddev=0.02)


def dense(x: Any, units: int, name: str) -> Any:
    """torch's Linear of the channels of x [..., C], with bias, initialized by `normal`. Returns [..., units]."""
    return Dense(units, kernel_initializer=normal(), name=name)(x)


def layer_norm(x: Any, name: str, *, epsilon: float = 1e-6) -> Any:
    """Layer norm over the channels of x [..., C]."""
    return LayerNormalization(epsilon=epsilon, name=name)(x)


def output_norms(levels: dict[str, Any], *, epsilon: float) -> dict[str, Any]:
    """Layer norms on the features of each level, c2 to c5, with which backbones of transformers end."""
    return {
        level: layer_norm(x, f"encoder_hidden_states_norms_stage{number}", epsilon=epsilon)
        for number, (level, x) in enumerate(levels.items(), start=1)
    }


def gelu(x: Any, name: str) -> Any:
    """The exact GELU, as torch's by default."""
    return keras.layers.Activation("gelu", name=name)(x)


def _padded(
    x: Any, size: int, stride: int, dilation: int, same: bool, padding: tuple[int, int] | None, name: str
) -> tuple[Any, str]:
    """Pads x where Keras has no such padding. Returns x and the padding that the convolution has to do itself."""
    if padding is None and (stride == 1 or size == 1 or same):
        return x, "same"
    pixels = dilation * (size // 2) if padding is None else (padding, padding)
    return keras.layers.ZeroPadding2D(pixels, name=f"{name}_pad")(x), "valid"


def batch_norm(x: Any, name: str, *, epsilon: float = 1e-5, momentum: float = 0.9) -> Any:
    """Batch norm with torch's constants (Keras's own defaults are epsilon 1e-3 and momentum 0.99)."""
    return BatchNormalization(epsilon=epsilon, momentum=momentum, name=name)(x)


def bn_relu(x: Any, batch_norm_name: str, name: str) -> Any:
    """Batch norm, then ReLU (layer `name`)."""
    return keras.layers.ReLU(name=name)(batch_norm(x, batch_norm_name))


def channel_gate(
    x: Any,
    squeezed: int,
    *,
    activation: str,
    gate: str = "sigmoid",
    reduce: str,
    expand: str,
    initializer: Any = None,
    name: str,
) -> Any:
    """Returns a gate [B, 1, 1, C] for the channels of x [B, h, w, C], computed from their means.

    squeezed: channels between the two 1x1 convolutions, whose names are `name`_`reduce` and `name`_`expand`.
    activation, gate: Keras activations, after the first and after the second. initializer: of the kernels; None for Kaiming's by
    fan-out.
    """
    y = keras.layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_pool")(x)
    y = conv(y, squeezed, 1, use_bias=True, initializer=initializer, name=f"{name}_{reduce}")
    y = keras.layers.Activation(activation, name=f"{name}_act")(y)
    y = conv(y, x.shape[-1], 1, use_bias=True, initializer=initializer, name=f"{name}_{expand}")
    return keras.layers.Activation(gate, name=f"{name}_gate")(y)


def block_rates(last: float, blocks: int) -> list[float]:
    """Returns the rate of drop_path for each block: from 0 in the first, in equal steps to `last` in the last one."""
    return [last * number / max(blocks - 1, 1) for number in range(blocks)]


def drop_path(x: Any, rate: float, name: str) -> Any:
    """Stochastic depth (Huang et al. 2016, arXiv:1603.09382): in training, drops x [B, h, w, C] of whole samples. 0: nothing."""
    return x if rate == 0 else keras.layers.Dropout(rate, noise_shape=(None, 1, 1, 1), name=name)(x)


def squeeze_excite(x: Any, squeezed: int, *, activation: str, gate: str = "sigmoid", reduce: str, expand: str, name: str) -> Any:
    """Squeeze-and-excitation (Hu et al. 2018, arXiv:1709.01507): scales the channels of x [B, h, w, C]. See channel_gate."""
    scale = channel_gate(x, squeezed, activation=activation, gate=gate, reduce=reduce, expand=expand, name=name)
    return keras.layers.Multiply(name=f"{name}_scale")([x, scale])


def scse(x: Any, name: str) -> Any:
    """Squeeze and excitation in channel and space (Roy et al. 2018, arXiv:1808.08127), laid out as smp's.

    x: [B, h, w, C]. Raises KsegError for fewer than 16 channels.
    """
    if x.shape[-1] < 16:
        raise KsegError(f"attention='scse' needs 16 channels or more in each block, not {x.shape[-1]}")
    settings = {"activation": "relu", "reduce": "1", "expand": "3", "initializer": "he_uniform"}
    channel = channel_gate(x, x.shape[-1] // 16, name=f"{name}_cSE", **settings)
    space = Conv2D(1, 1, kernel_initializer="he_uniform", name=f"{name}_sSE_0")(x)
    space = keras.layers.Activation("sigmoid", name=f"{name}_sSE_1")(space)
    scaled = [keras.layers.Multiply(name=f"{name}_scale_{i}")([x, gate]) for i, gate in enumerate((channel, space))]
    return keras.layers.Add(name=f"{name}_add")(scaled)


def conv_norm_relu(x: Any, filters: int, kernel_size: int = 3, *, norm: str = "batch", name: str) -> Any:
    """smp's Conv2dReLU: convolution, norm, ReLU, from He's uniform initialization. x: [B, h, w, C].

    norm: "batch", or "none" for a bias instead. Returns [B, h, w, filters]. Raises KsegError for another norm.
    """
    if norm not in ("batch", "none"):
        raise KsegError(f"norm={norm!r}: must be 'batch' or 'none'")
    if norm == "batch":
        return conv_bn_relu(x, filters, kernel_size, kernel_initializer="he_uniform", name=name)
    x = Conv2D(filters, kernel_size, padding="same", kernel_initializer="he_uniform", name=sequential_name(name, 0))(x)
    return keras.layers.ReLU(name=sequential_name(name, 2))(x)


def resize_layer(interpolation: str, name: str, divisor: int = 1) -> Any:
    """Returns the layer that resizes to the size of a reference, divided by `divisor`.

    interpolation: "nearest" or "bilinear"; KsegError for others.
    """
    if interpolation not in ("nearest", "bilinear"):
        raise KsegError(f"interpolation={interpolation!r}: must be 'nearest' or 'bilinear'")
    return ResizeNearest(divisor, name=name) if interpolation == "nearest" else Resize(False, divisor, name=name)


def unet_block(
    x: Any,
    filters: int,
    reference: Any,
    *,
    skips: Sequence[Any] | None,
    divisor: int = 1,
    attention: str | None = None,
    interpolation: str = "nearest",
    norm: str = "batch",
    name: str,
) -> Any:
    """Upsamples x to the size of `reference`, joins it with the skips, and convolves it twice. x: [B, h, w, C].

    skips: None in the block after the last skip; empty where the backbone lacks the level. divisor: of the reference's size.
    attention: None, or "scse" around the convolutions, the first one only with skips. interpolation: "nearest" or "bilinear".
    Returns [B, H, W, filters]. Raises KsegError for other options.
    """
    if attention not in (None, "scse"):
        raise KsegError(f"attention={attention!r}: must be None or 'scse'")
    x = resize_layer(interpolation, f"{name}_up", divisor)([x, reference])
    if skips:
        x = keras.layers.Concatenate(name=f"{name}_concat")([x, *skips])
    if skips is not None and attention:
        x = scse(x, f"{name}_attention1_attention")
    x = conv_norm_relu(x, filters, norm=norm, name=f"{name}_conv1")
    x = conv_norm_relu(x, filters, norm=norm, name=f"{name}_conv2")
    return scse(x, f"{name}_attention2_attention") if attention else x


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

    kernel_initializer: None for PyTorch's default. first: the convolution's index in its torch Sequential; batch norm and ReLU
    follow.
    """
    if kernel_initializer is None:
        kernel_initializer = torch_uniform(kernel_size**2 * x.shape[-1])
    x = Conv2D(
        filters, kernel_size, padding="same", dilation_rate=dilation_rate, use_bias=False,
        kernel_initializer=kernel_initializer, name=sequential_name(name, first),
    )(x)  # fmt: skip
    return bn_relu(x, sequential_name(name, first + 1), sequential_name(name, first + 2))


def separable_conv_bn_relu(x: Any, filters: int, *, dilation_rate: int = 1, name: str, first: int = 0) -> Any:
    """smp's Sequential(SeparableConv2d 3x3 without bias, BatchNorm2d, ReLU), with nothing between its two convolutions.

    first: the convolution's index in its torch Sequential; batch norm and ReLU follow.
    """
    separable = sequential_name(name, first)
    x = DepthwiseConv2D(
        3, padding="same", dilation_rate=dilation_rate, use_bias=False,
        depthwise_initializer=torch_uniform(9), name=sequential_name(separable, 0),
    )(x)  # fmt: skip
    pointwise = sequential_name(separable, 1)
    x = Conv2D(filters, 1, use_bias=False, kernel_initializer=torch_uniform(x.shape[-1]), name=pointwise)(x)
    return bn_relu(x, sequential_name(name, first + 1), sequential_name(name, first + 2))


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
    dilated = separable_conv_bn_relu if separable else conv_bn_relu
    branches = [conv_bn_relu(x, filters, 1, name=sequential_name(convs, 0))]
    for i, rate in enumerate(dilation_rates, start=1):
        branches.append(dilated(x, filters, dilation_rate=rate, name=sequential_name(convs, i)))
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
    """torchvision's last layer: a 1x1 convolution with bias to [B, h, w, num_classes] logits, with PyTorch's initialization."""
    initializer = torch_uniform(x.shape[-1])
    return Conv2D(num_classes, 1, kernel_initializer=initializer, bias_initializer=initializer, name=name)(x)


def fcn_head(x: Any, num_classes: int, *, dropout: float = 0.1, name: str) -> Any:
    """torchvision's FCNHead: a 3x3 convolution to a quarter of the channels, dropout, logits [B, h, w, num_classes]."""
    x = conv_bn_relu(x, x.shape[-1] // 4, name=name)
    x = keras.layers.Dropout(dropout, name=sequential_name(name, 3))(x)
    return torch_head(x, num_classes, name=sequential_name(name, 4))
