"""SE-ResNeXt in the layout of its first release, called legacy_seresnext* by timm and se_resnext* by smp.

Hu et al. 2018 (arXiv:1709.01507) on ResNeXt (Xie et al. 2017, arXiv:1611.05431). timm's `seresnext*` are different networks.
"""

from functools import partial
from typing import Any

import keras

from kseg.models.backbones.registry import HubWeights, register_backbone
from kseg.models.blocks import batch_norm, bn_relu, conv, squeeze_excite
from kseg.models.layers import MaxPooling2D

BLOCKS = {"legacy_seresnext50_32x4d": (3, 4, 6, 3), "legacy_seresnext101_32x4d": (3, 4, 23, 3)}
"""Blocks in each of the four stages."""
ALIASES = {"se_resnext50_32x4d": "legacy_seresnext50_32x4d", "se_resnext101_32x4d": "legacy_seresnext101_32x4d"}
"""smp's names of timm's networks."""
GROUPS, REDUCTION = 32, 16
REVISIONS = {
    "se_resnext50_32x4d": {"imagenet": "73246406d879a2b0e3fdfe6fddd56347d38f38ae"},
    "se_resnext101_32x4d": {"imagenet": "18808a4276f46421d358a9de554e0b93c2795df4"},
}
"""Commits of smp-hub/<name>.<tag>, as segmentation_models.pytorch 0.6.0 names them."""


def build(name: str, *, output_stride: int, input_shape: tuple[int | None, int | None, int]) -> keras.Model:
    """Builds the backbone `name`; see kseg.models.build.build_backbone. Features c1 to c5.

    Sizes are rounded up, except by the stem's max pool: c2 is [B, floor(ceil(H/2) / 2), ...].
    output_stride 16 or 8: the last one or two stages keep their resolution and are dilated from their first block on, as in smp.
    """
    images = keras.Input(input_shape, name="images")
    x = bn_relu(conv(images, 64, 7, stride=2, name="encoder_layer0_conv1"), "encoder_layer0_bn1", "encoder_layer0_relu1")
    levels = {"c1": x}
    # torch's ceil_mode: the last window may reach one pixel beyond the image. After a ReLU, zeros there change no maximum.
    x = keras.layers.ZeroPadding2D(((0, 1), (0, 1)), name="encoder_layer0_pool_pad")(x)
    x = MaxPooling2D(3, 2, name="encoder_layer0_pool")(x)
    for stage, blocks in enumerate(BLOCKS[name]):
        dilation = max(1, 2 ** (stage + 2) // output_stride)
        stride = 1 if stage == 0 or dilation > 1 else 2
        for number in range(blocks):
            block = f"encoder_layer{stage + 1}_{number}"
            x = _block(x, 64 * 2**stage, stride=stride if number == 0 else 1, dilation=dilation, name=block)
        levels[f"c{stage + 2}"] = x
    return keras.Model(images, levels, name="backbone")


def _block(x: Any, planes: int, *, stride: int, dilation: int, name: str) -> Any:
    """ResNeXt's bottleneck, 2 * planes wide, with squeeze-and-excitation before the shortcut is added."""
    y = bn_relu(conv(x, 2 * planes, 1, name=f"{name}_conv1"), f"{name}_bn1", f"{name}_relu1")
    y = conv(y, 2 * planes, 3, stride=stride, dilation=dilation, groups=GROUPS, name=f"{name}_conv2")
    y = bn_relu(y, f"{name}_bn2", f"{name}_relu2")
    y = batch_norm(conv(y, 4 * planes, 1, name=f"{name}_conv3"), f"{name}_bn3")
    y = squeeze_excite(y, 4 * planes // REDUCTION, activation="relu", reduce="fc1", expand="fc2", name=f"{name}_se_module")
    if stride > 1 or x.shape[-1] != 4 * planes:
        x = batch_norm(conv(x, 4 * planes, 1, stride=stride, name=f"{name}_downsample_0"), f"{name}_downsample_1")
    return keras.layers.ReLU(name=f"{name}_relu")(keras.layers.Add(name=f"{name}_add")([y, x]))


for _name, _network in {**{name: name for name in BLOCKS}, **ALIASES}.items():
    _hub = _network.replace("legacy_seresnext", "se_resnext")
    register_backbone(
        _name,
        partial(build, _network),
        output_strides=(8, 16, 32),
        weights={tag: HubWeights(f"smp-hub/{_hub}.{tag}", revision) for tag, revision in REVISIONS[_hub].items()},
        first_layer="layer0.conv1",
        unused_keys=("last_linear",),
    )
