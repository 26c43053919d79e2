"""SegNet, and its max unpooling."""

from typing import Any

import keras
from keras import ops

from kseg.models.blocks import conv_bn_relu, head
from kseg.models.layers import register
from kseg.models.ops.platforms import written_as
from kseg.models.registry import register_model
from kseg.utils.errors import KsegError

FILTERS = {"c4": (512, 512, 512), "c3": (512, 512, 256), "c2": (256, 256, 128), "c1": (128, 64), "c0": (64,)}
"""Filters of the convolutions after unpooling to each level: VGG16's stages, mirrored."""


# c0 and c1 are missing from levels, so that segnet itself can say which backbones have them.
@register_model(backbone="vgg16_bn", output_stride=32, levels=("c2", "c3", "c4", "c5"), align_corners=False)
def segnet(features: dict[str, Any], *, num_classes: int) -> Any:
    """SegNet (Badrinarayanan, Kendall and Cipolla 2017, arXiv:1511.00561).

    features: of a VGG (the paper's is vgg16_bn): c0 [B, H, W, 64] to c4 [B, H // 16, W // 16, 512], each stage's last ReLU, and
    c5 [B, H // 32, W // 32, 512], the last pool. Five times the map is unpooled to the positions of the encoder's 2x2 maxima,
    then convolved (3x3 without bias, BN, ReLU). The decoder mirrors VGG16 on every VGG.
    Torch modules: decoder.stage5 to decoder.stage1 are Sequentials of (Conv2d, BatchNorm2d, ReLU) triples. segmentation_head.0
    is the last 3x3 Conv2d, with bias.

    Returns logits [B, H, W, num_classes]. Raises KsegError for other families of backbones.
    """
    if [features[f"c{i}"].shape[-1] if f"c{i}" in features else 0 for i in range(6)] != [64, 128, 256, 512, 512, 512]:
        names = "vgg11, vgg13, vgg16, vgg19, each also with _bn"
        raise KsegError(f"model segnet needs a backbone that pools from a full-resolution level c0 on; use one of {names}")
    x = features["c5"]
    for level, widths in FILTERS.items():
        name = f"decoder_stage{int(level[1]) + 1}"
        x = MaxUnpool(name=f"{name}_unpool")([x, features[level]])
        for number, filters in enumerate(widths):
            x = conv_bn_relu(x, filters, name=name, first=3 * number)
    return head(x, num_classes, kernel_size=3)


@register
class MaxUnpool(keras.layers.Layer):
    """max_unpool as a layer, called on [values, reference]."""

    def call(self, inputs):
        return max_unpool(*inputs)

    def compute_output_shape(self, input_shape):
        return input_shape[1]


def max_unpool(values: Any, reference: Any) -> Any:
    """Puts each value where the 2x2 max pool (stride 2, sizes rounded down) of `reference` has its maximum, and zeros elsewhere.

    values: [B, H // 2, W // 2, C]. reference: [B, H, W, C], the pool's input. Returns [B, H, W, C] of values' dtype. The first of
    equal maxima in row-major order counts, as in torch's max_pool2d(return_indices=True); after a ReLU, zeros often tie. Only
    `values` gets a gradient.
    """
    height, width = ops.shape(reference)[1:3]
    h, w = height // 2, width // 2
    values = written_as((values.shape[0], h, w, values.shape[3]), values)
    corners = [reference[:, i : 2 * h : 2, j : 2 * w : 2] for i in (0, 1) for j in (0, 1)]
    maximum = ops.maximum(ops.maximum(corners[0], corners[1]), ops.maximum(corners[2], corners[3]))
    placed, taken = [], None
    for corner in corners:
        found = ops.equal(corner, maximum)
        first = found if taken is None else ops.logical_and(found, ops.logical_not(taken))
        taken = found if taken is None else ops.logical_or(taken, found)
        placed.append(ops.where(first, values, ops.zeros_like(values)))
    rows = [ops.stack(placed[i : i + 2], axis=3) for i in (0, 2)]
    full = ops.reshape(ops.stack(rows, axis=2), (-1, 2 * h, 2 * w, values.shape[-1]))
    return ops.pad(full, ((0, 0), (0, height - 2 * h), (0, width - 2 * w), (0, 0)))
