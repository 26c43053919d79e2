"""MA-Net."""

from typing import Any

import keras
from keras import ops

from kseg.models.blocks import channel_gate, conv_norm_relu, head, resize_layer, unet_block
from kseg.models.decoders.unet import LEVELS, check_channels, needed_levels
from kseg.models.layers import Conv2D, register
from kseg.models.registry import register_model


@register_model(backbone="resnet34", output_stride=32, levels=needed_levels)
def manet(
    features: dict[str, Any],
    *,
    num_classes: int,
    depth: int = 5,
    decoder_channels: tuple[int, ...] = (256, 128, 64, 32, 16),
    pab_channels: int = 64,
    interpolation: str = "nearest",
    norm: str = "batch",
) -> Any:
    """MA-Net (Fan et al. 2020, doi:10.1109/ACCESS.2020.3025372) on a backbone, laid out as smp's MAnet.

    Position-wise attention on the smallest level; then blocks that weigh channels by what both the decoder and the skip hold.

    features: c1 [B, H/2, W/2, C1] to c<depth>, and images [B, H, W, 3] for its size. The attention takes memory in the square of
    the number of pixels of c<depth>.
    depth: levels that are read, 3 to 5. decoder_channels: of the blocks, one a level. pab_channels: of the attention's queries.
    interpolation: "nearest" or "bilinear", of each block's upsampling. norm: "batch", or "none" for biases instead.
    Returns logits [B, H, W, num_classes].
    """
    check_channels("manet", depth, decoder_channels)
    x = _position_attention(features[f"c{depth}"], pab_channels, "decoder_center")
    for i, (filters, level) in enumerate(zip(decoder_channels, (*LEVELS[: depth - 1][::-1], "images"), strict=True)):
        name = f"decoder_blocks_{i}"
        if level in features and level != "images":
            x = _fusion_block(x, filters, features[level], interpolation, norm, name)
        else:
            x = unet_block(
                x,
                filters,
                features["images"],
                divisor=1 if level == "images" else 2,
                skips=None,
                interpolation=interpolation,
                norm=norm,
                name=name,
            )
    return head(x, num_classes, kernel_size=3)


def _conv(x: Any, filters: int, size: int, name: str) -> Any:
    return Conv2D(filters, size, padding="same", kernel_initializer="he_uniform", name=name)(x)


def _position_attention(x: Any, channels: int, name: str) -> Any:
    """smp's position-wise attention block. x: [B, h, w, C]. Returns the same shape."""
    top, center = (_conv(x, channels, 1, f"{name}_{part}_conv") for part in ("top", "center"))
    bottom = _conv(x, x.shape[-1], 3, f"{name}_bottom_conv")
    attended = PositionAttention(name=f"{name}_attend")([top, center, bottom])
    return _conv(keras.layers.Add(name=f"{name}_add")([x, attended]), x.shape[-1], 3, f"{name}_out_conv")


def _fusion_block(x: Any, filters: int, skip: Any, interpolation: str, norm: str, name: str) -> Any:
    """smp's multi-scale fusion attention block. x: [B, h, w, C]; skip: [B, H, W, S]. Returns [B, H, W, filters]."""
    channels = skip.shape[-1]
    x = conv_norm_relu(x, x.shape[-1], norm=norm, name=f"{name}_hl_conv_0")
    x = conv_norm_relu(x, channels, 1, norm=norm, name=f"{name}_hl_conv_1")
    x = resize_layer(interpolation, f"{name}_up")([x, skip])
    gates = [
        channel_gate(
            y, max(1, channels // 16), activation="relu", reduce="1", expand="3", initializer="he_uniform", name=f"{name}_{part}"
        )
        for y, part in ((x, "SE_hl"), (skip, "SE_ll"))
    ]
    x = keras.layers.Multiply(name=f"{name}_scale")([x, keras.layers.Add(name=f"{name}_gates")(gates)])
    x = keras.layers.Concatenate(name=f"{name}_concat")([x, skip])
    x = conv_norm_relu(x, filters, norm=norm, name=f"{name}_conv1")
    return conv_norm_relu(x, filters, norm=norm, name=f"{name}_conv2")


@register
class PositionAttention(keras.layers.Layer):
    """The attention of smp's MAnet, called on [top, center, bottom]: [B, h, w, K], [B, h, w, K], [B, h, w, C].

    It differs from the paper's, and checkpoints need it so. The softmax runs over all pairs of pixels at once, not over each
    row; and the product [B, h * w, C] is read as [B, C, h, w], as it lies in memory. Returns [B, h, w, C].
    """

    def call(self, inputs):
        top, center, bottom = inputs
        batch, height, width, channels = ops.shape(bottom)
        pixels = height * width
        rows = [ops.reshape(x, (batch, pixels, x.shape[-1])) for x in (top, center, bottom)]
        scores = ops.reshape(ops.matmul(rows[1], ops.swapaxes(rows[0], 1, 2)), (batch, pixels * pixels))
        scores = ops.cast(scores, "float32")
        scores = ops.exp(scores - ops.max(scores, axis=-1, keepdims=True))  # softmax; Keras's warns of a single pixel
        weights = ops.reshape(scores / ops.sum(scores, axis=-1, keepdims=True), (batch, pixels, pixels))
        product = ops.matmul(ops.cast(weights, bottom.dtype), rows[2])
        return ops.transpose(ops.reshape(product, (batch, channels, height, width)), (0, 2, 3, 1))

    def compute_output_shape(self, input_shape):
        return input_shape[2]
