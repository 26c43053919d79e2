"""HRNet (Wang et al. 2020, arXiv:1908.07919) in timm's layout: branches at strides 4 to 32 that run side by side and exchange.

`hrnet_w18` is segmentation_models.pytorch's `tu-hrnet_w18`. The features are those of timm's classifier, which has 128, 256, 512
and 1024 channels whatever the width. The weights are under MIT (`ms_...`) and Apache-2.0 (`gluon_...`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras

from kseg.models.backbones.registry import HubWeights, register_backbone
from kseg.models.backbones.resnet import basic_block, bottleneck
from kseg.models.blocks import batch_norm, bn_relu, conv
from kseg.models.layers import ResizeNearest


@dataclass(frozen=True)
class Member:
    """Settings of a member of the family.

    width: channels of the branch at stride 4; each further branch has twice as many. tag: of timm's default weights.
    first: number and width of the bottlenecks before the branches.
    modules: in the stages with two, three and four branches. blocks: of each branch, in each module.
    """

    width: int
    tag: str = "ms_in1k"
    first: tuple[int, int] = (4, 64)
    modules: tuple[int, int, int] = (1, 4, 3)
    blocks: int = 4


MEMBERS = {
    "hrnet_w18_small": Member(16, "gluon_in1k", first=(1, 32), modules=(1, 1, 1), blocks=2),
    "hrnet_w18_small_v2": Member(18, "gluon_in1k", first=(2, 64), modules=(1, 3, 2), blocks=2),
    "hrnet_w18": Member(18, "ms_aug_in1k"),
    "hrnet_w30": Member(30),
    "hrnet_w32": Member(32),
    "hrnet_w40": Member(40),
    "hrnet_w44": Member(44),
    "hrnet_w48": Member(48),
    "hrnet_w64": Member(64),
}
UNUSED = (
    *(f"downsamp_modules.{stage}.{index}" for stage in range(3) for index in range(2)),
    "final_layer.0",
    "final_layer.1",
    "classifier",
)
"""Modules of timm's classifier after the features."""


def build(name: str, *, output_stride: int, input_shape: tuple[int | None, int | None, int]) -> keras.Model:
    """Builds the backbone `name`; see kseg.models.build.build_backbone. Features c1 to c5; sizes are rounded up.

    timm takes multiples of 32 only. Of other sizes, a branch is resized to the size of the one that it is added to.
    """
    member = MEMBERS[name]
    images = keras.Input(input_shape, name="images")
    x = _conv_bn_relu(images, 64, stride=2, path=("encoder_conv1", "encoder_bn1", "encoder_act1"))
    levels = {"c1": x}
    x = _conv_bn_relu(x, 64, stride=2, path=("encoder_conv2", "encoder_bn2", "encoder_act2"))
    count, width = member.first
    for number in range(count):
        x = bottleneck(x, width, name=f"encoder_layer1_{number}")
    branches = [x]
    for stage, modules in enumerate(member.modules, start=2):
        branches = _transition(branches, member.width, name=f"encoder_transition{stage - 1}")
        for number in range(modules):
            name = f"encoder_stage{stage}_{number}"
            for branch in range(stage):
                for block in range(member.blocks):
                    path = f"{name}_branches_{branch}_{block}"
                    branches[branch] = basic_block(branches[branch], branches[branch].shape[-1], name=path)
            branches = [_exchange(branches, branch, name) for branch in range(stage)]
    for branch, x in enumerate(branches):
        levels[f"c{branch + 2}"] = bottleneck(x, 32 * 2**branch, name=f"encoder_incre_modules_{branch}_0")
    return keras.Model(images, levels, name="backbone")


def _transition(branches: Sequence[Any], width: int, *, name: str) -> list[Any]:
    """Adds a branch at half the resolution of the last one, and changes the others' channels where they differ."""
    found = []
    for branch, x in enumerate(branches):
        same = x.shape[-1] == width * 2**branch
        found.append(x if same else _conv_bn_relu(x, width * 2**branch, path=_sequence(f"{name}_{branch}")))
    new = len(branches)
    return [*found, _conv_bn_relu(branches[-1], width * 2**new, stride=2, path=_sequence(f"{name}_{new}_0"))]


def _exchange(branches: Sequence[Any], target: int, name: str) -> Any:
    """The sum of all branches at the resolution and with the channels of one of them; then ReLU."""
    like, terms = branches[target], []
    for branch, x in enumerate(branches):
        path = f"{name}_fuse_layers_{target}_{branch}"
        if branch > target:
            x = batch_norm(conv(x, like.shape[-1], 1, name=f"{path}_0"), f"{path}_1")
            x = ResizeNearest(name=f"{path}_2")([x, like])
        for step in range(branch + 1, target):
            x = _conv_bn_relu(x, x.shape[-1], stride=2, path=_sequence(f"{path}_{step - branch - 1}"))
        if branch < target:
            last = f"{path}_{target - branch - 1}"
            x = batch_norm(conv(x, like.shape[-1], 3, stride=2, name=f"{last}_0"), f"{last}_1")
        terms.append(x)
    x = keras.layers.Add(name=f"{name}_fuse_{target}_add")(terms)
    return keras.layers.ReLU(name=f"{name}_fuse_{target}_act")(x)


def _sequence(name: str) -> tuple[str, str, str]:
    """Returns the names of the members of torch's Sequential(convolution, batch norm, ReLU)."""
    return f"{name}_0", f"{name}_1", f"{name}_2"


def _conv_bn_relu(x: Any, filters: int, *, stride: int = 1, path: tuple[str, str, str]) -> Any:
    """3x3 convolution, batch norm and ReLU with the names of `path`."""
    return bn_relu(conv(x, filters, 3, stride=stride, name=path[0]), *path[1:])


for _name, _member in MEMBERS.items():
    register_backbone(
        _name,
        partial(build, _name),
        output_strides=(32,),
        weights={"imagenet": HubWeights(f"timm/{_name}.{_member.tag}")},
        first_layer="transition1.0.0",
        unused_keys=UNUSED,
        names={"timm": _name},
    )
