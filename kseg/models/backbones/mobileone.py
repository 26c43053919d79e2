"""MobileOne (Vasu et al. 2023, arXiv:2206.04040) in smp's layout, in two forms that compute the same.

`mobileone_s0` is the form that is trained: sums of parallel branches, each with batch norm. `mobileone_s0_fused` is for
prediction: it has one convolution for each sum. kseg.reparameterize_model makes the second of the first.
The weights are under Apple's own licence, which timm calls `mobileone-license`: read it before you use them.
"""

import re
from collections.abc import Container, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import numpy as np

from kseg.models.backbones.registry import register_backbone, smp_weights
from kseg.models.blocks import batch_norm, conv, depthwise_conv, squeeze_excite
from kseg.models.layers import StoredReLU
from kseg.utils.errors import KsegError


@dataclass(frozen=True)
class Variant:
    """Settings of a member of the family.

    widths: of the four stages, in multiples of CHANNELS. branches: equal convolutions whose results are added.
    excite: squeeze-and-excitation in the last blocks.
    """

    widths: tuple[float, float, float, float]
    branches: int = 1
    excite: bool = False


VARIANTS = {
    "mobileone_s0": Variant((0.75, 1.0, 1.0, 2.0), branches=4),
    "mobileone_s1": Variant((1.5, 1.5, 2.0, 2.5)),
    "mobileone_s2": Variant((1.5, 2.0, 2.5, 4.0)),
    "mobileone_s3": Variant((2.0, 2.5, 3.0, 4.0)),
    "mobileone_s4": Variant((3.0, 3.5, 3.5, 4.0), excite=True),
}
CHANNELS, BLOCKS, EXCITED = (64, 128, 256, 512), (2, 8, 10, 1), (0, 0, 5, 1)
"""Of each stage: channels at width 1, blocks, and how many of the last have squeeze-and-excitation in `mobileone_s4`."""
REDUCTION = 16
REVISIONS = {
    "mobileone_s0": "f52815cf0ad29278a9860c9cd5fabf19f904bedf",
    "mobileone_s1": "5707a98852b762cd8e0c43b5c8c729cd28496677",
    "mobileone_s2": "ddc3db8fa40d271902c7a8c95cee6691f617d551",
    "mobileone_s3": "da89b84a91b7400c366c358bfbf8dd0b2fa4dde2",
    "mobileone_s4": "16197c55d599076b6aae67a83d3b3f70c31b097c",
}
"""Commits of smp-hub/<name>.imagenet, as segmentation_models.pytorch 0.6.0 names them."""
LICENCE = "Apple's own licence, that of github.com/apple/ml-mobileone"


EPSILON = 1e-5
"""Of batch norm."""


def build(name: str, *, output_stride: int, input_shape: tuple[int | None, int | None, int], fused: bool = False) -> keras.Model:
    """Builds the member `name` of the family; see kseg.models.build.build_backbone. Features c1 to c5; sizes are rounded up.

    output_stride 16 or 8: the last one or two stages keep their resolution and are dilated from their first block on, as in smp.
    fused: with one convolution for each sum of branches.
    """
    variant = VARIANTS[name]
    images = keras.Input(input_shape, name="images")
    stem = min(CHANNELS[0], int(CHANNELS[0] * variant.widths[0]))
    x = _block(images, stem, 3, stride=2, fused=fused, name="encoder_stage0")
    levels = {"c1": x}
    for stage, blocks in enumerate(BLOCKS):
        dilation = max(1, 2 ** (stage + 2) // output_stride)
        channels = int(CHANNELS[stage] * variant.widths[stage])
        for number in range(blocks):
            excite = variant.excite and number >= blocks - EXCITED[stage]
            block = partial(_block, branches=variant.branches, excite=excite, fused=fused)
            name = f"encoder_stage{stage + 1}"
            stride = 2 if number == 0 and dilation == 1 else 1
            x = block(x, None, 3, stride=stride, dilation=dilation, skip=number > 0, name=f"{name}_{2 * number}")
            x = block(x, channels, 1, skip=x.shape[-1] == channels, name=f"{name}_{2 * number + 1}")
        levels[f"c{stage + 2}"] = x
    return keras.Model(images, levels, name="backbone")


def _block(
    x: Any,
    filters: int | None,
    size: int,
    *,
    stride: int = 1,
    dilation: int = 1,
    branches: int = 1,
    skip: bool = False,
    excite: bool = False,
    fused: bool,
    name: str,
) -> Any:
    """The sum of equal convolutions, one with a 1x1 kernel, and x, each with batch norm; then ReLU.

    filters: None for depthwise convolutions. skip: with x in the sum. fused: one convolution with bias instead of the sum.
    """

    def convolve(kernel: int, path: str, use_bias: bool = False) -> Any:
        where: dict[str, Any] = {"stride": stride, "dilation": dilation, "use_bias": use_bias, "name": path}
        return depthwise_conv(x, kernel, fan="fan_in", **where) if filters is None else conv(x, filters, kernel, **where)

    def branch(kernel: int, path: str) -> Any:
        return batch_norm(convolve(kernel, f"{path}_conv"), f"{path}_bn", epsilon=EPSILON)

    if fused:
        y = convolve(size, f"{name}_reparam_conv", use_bias=True)
    else:
        terms = [branch(1, f"{name}_rbr_scale")] if size > 1 else []
        if skip:
            terms.append(batch_norm(x, f"{name}_rbr_skip", epsilon=EPSILON))
        terms += [branch(size, f"{name}_rbr_conv_{number}") for number in range(branches)]
        y = keras.layers.Add(name=f"{name}_add")(terms) if len(terms) > 1 else terms[0]
    if excite:
        y = squeeze_excite(y, y.shape[-1] // REDUCTION, activation="relu", reduce="reduce", expand="expand", name=f"{name}_se")
    return (keras.layers.ReLU if fused else StoredReLU)(name=f"{name}_activation")(y)


def fused_form(backbone: keras.Model) -> keras.Model | None:
    """Returns the fused form of a backbone in the trained form, with random weights; None for any other backbone."""
    layers = {layer.name: layer for layer in backbone.layers}
    stages = [number for number in range(1, 5) if f"encoder_stage{number}_1_rbr_conv_0_conv" in layers]
    if not stages:
        return None
    widths = [layers[f"encoder_stage{number}_1_rbr_conv_0_conv"].filters for number in stages]
    name = next(name for name, variant in VARIANTS.items() if _widths(variant)[: len(widths)] == widths)
    dilations = {number: layers[f"encoder_stage{number}_0_rbr_conv_0_conv"].dilation_rate[0] for number in stages}
    stride = min((2 ** (number + 1) // dilation for number, dilation in dilations.items() if dilation > 1), default=32)
    return build(name, output_stride=stride, input_shape=backbone.input_shape[1:], fused=True)


def _widths(variant: Variant) -> list[int]:
    return [int(channels * width) for channels, width in zip(CHANNELS, variant.widths, strict=True)]


def fuse(state: Mapping[str, np.ndarray], layers: Container[str]) -> dict[str, np.ndarray]:
    """Returns a checkpoint for a backbone in the fused form, whichever form the checkpoint has.

    state: arrays by key. layers: the names of the backbone's layers; for one in the trained form, nothing is changed.
    Raises KsegError for a fused checkpoint of a backbone in the trained form, and for branches that do not fit together.
    """
    if "encoder_stage0_reparam_conv" not in layers:
        if any(key.endswith("stage0.reparam_conv.weight") for key in state):
            raise KsegError("the checkpoint has MobileOne in its fused form (reparam_conv): add _fused to the backbone's name")
        return dict(state)
    found: dict[str, np.ndarray] = {}
    blocks: dict[str, dict[str, np.ndarray]] = {}
    for key, value in state.items():
        if match := re.fullmatch(r"(.*\bstage\d(?:\.\d+)?)\.(rbr_.+)", key):
            blocks.setdefault(match[1], {})[match[2]] = value
        else:
            found[key] = value
    for path, block in blocks.items():
        try:
            found[f"{path}.reparam_conv.weight"], found[f"{path}.reparam_conv.bias"] = _fused(block)
        except (KeyError, ValueError, IndexError) as error:
            raise KsegError(f"{path}: its branches do not fit together ({error})") from None
    return found


def _fused(block: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Returns kernel and bias, in torch's layout, of the convolution that equals a block's branches.

    block: the branches' tensors, such as "rbr_conv.0.bn.weight".
    """
    filters, inputs, size, _ = block["rbr_conv.0.conv.weight"].shape
    kernel, bias = np.zeros((filters, inputs, size, size)), np.zeros(filters)
    for norm in sorted(key.removesuffix(".running_var") for key in block if key.endswith(".running_var")):
        scale = block[f"{norm}.weight"] / np.sqrt(block[f"{norm}.running_var"].astype("float64") + EPSILON)
        bias += block[f"{norm}.bias"] - block[f"{norm}.running_mean"] * scale
        if norm == "rbr_skip":  # as a convolution: 1 at the centre, from each channel to itself
            kernel[np.arange(filters), np.arange(filters) % inputs, size // 2, size // 2] += scale
        else:
            branch = block[f"{norm.removesuffix('bn')}conv.weight"]
            border = (size - branch.shape[2]) // 2
            kernel += np.pad(branch * scale[:, None, None, None], [(0, 0), (0, 0), (border, border), (border, border)])
    return kernel.astype("float32"), bias.astype("float32")


for _name, _revision in REVISIONS.items():
    for _fused_form in (False, True):
        register_backbone(
            f"{_name}_fused" if _fused_form else _name,
            partial(build, _name, fused=_fused_form),
            output_strides=(8, 16, 32),
            weights=smp_weights(_name, {"imagenet": _revision}, LICENCE),
            first_layer="stage0.reparam_conv" if _fused_form else "stage0.rbr_conv.0.conv",
            unused_keys=("linear",),
            names={} if _fused_form else {"smp": _name},
            adapt_state=fuse,
        )
