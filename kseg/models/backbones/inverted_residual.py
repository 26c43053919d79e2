"""The inverted residual (Sandler et al. 2018, arXiv:1801.04381) of EfficientNet, EfficientNetV2 and MobileNetV3."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras

from kseg.models.blocks import batch_norm, conv, depthwise_conv, drop_path, squeeze_excite


class Names(NamedTuple):
    """A library's names of the modules in a block: convolutions, batch norms, and squeeze-and-excitation with its two."""

    expand: str
    expand_norm: str
    depthwise: str
    depthwise_norm: str
    project: str
    project_norm: str
    se: str
    reduce: str
    excite: str

    @property
    def paths(self) -> tuple[str, ...]:
        """Paths of the modules with weights."""
        return (*self[:6], f"{self.se}_{self.reduce}", f"{self.se}_{self.excite}")


TIMM_BLOCK = Names("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3", "se", "conv_reduce", "conv_expand")
SEPARABLE_BLOCK = TIMM_BLOCK._replace(expand="", expand_norm="", depthwise_norm="bn1", project="conv_pw", project_norm="bn2")
"""timm's names in a block without expansion."""
PYTORCH_BLOCK = Names("_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2", "_se", "reduce", "expand")
"""Names of the package efficientnet_pytorch."""


@dataclass(frozen=True)
class Style:
    """Properties that all blocks of a network share.

    same: convolutions pad as TensorFlow's "SAME" does. epsilon, momentum: of batch norm. se_activation, se_gate: activations in
    squeeze-and-excitation; None for the block's activation. names: of modules in a block without and with expansion.
    """

    same: bool = False
    epsilon: float = 1e-5
    momentum: float = 0.9
    se_activation: str | None = None
    se_gate: str = "sigmoid"
    names: tuple[Names, Names] = (SEPARABLE_BLOCK, TIMM_BLOCK)

    def norm(self, x: Any, name: str) -> Any:
        """Batch norm, layer `name`."""
        return batch_norm(x, name, epsilon=self.epsilon, momentum=self.momentum)

    def norm_act(self, x: Any, activation: str, name: str) -> Any:
        """Batch norm, layer `name`, then an activation."""
        return keras.layers.Activation(activation, name=f"{name}_act")(self.norm(x, name))


def inverted_residual(
    x: Any,
    channels: int,
    kernel: int,
    style: Style,
    *,
    expanded: int | None,
    squeezed: int,
    activation: str,
    stride: int = 1,
    dilation: int = 1,
    padding: tuple[int, int] | None = None,
    rate: float = 0.0,
    name: str,
) -> Any:
    """1x1 convolution to `expanded` channels (None: left out), depthwise convolution, 1x1 convolution to `channels`; plus x.

    squeezed: channels inside squeeze-and-excitation; 0: without. padding: of the depthwise convolution; see blocks.conv.
    rate: of stochastic depth. x [B, h, w, C] is added where the shape stays the same.
    """
    names = style.names[expanded is not None]
    y = x
    if expanded is not None:
        y = conv(y, expanded, 1, name=f"{name}_{names.expand}")
        y = style.norm_act(y, activation, f"{name}_{names.expand_norm}")
    y = depthwise_conv(
        y, kernel, stride=stride, dilation=dilation, same=style.same, padding=padding, name=f"{name}_{names.depthwise}"
    )
    y = style.norm_act(y, activation, f"{name}_{names.depthwise_norm}")
    if squeezed:
        y = squeeze_excite(
            y,
            squeezed,
            activation=style.se_activation or activation,
            gate=style.se_gate,
            reduce=names.reduce,
            expand=names.excite,
            name=f"{name}_{names.se}",
        )
    y = style.norm(conv(y, channels, 1, name=f"{name}_{names.project}"), f"{name}_{names.project_norm}")
    return add_shortcut(y, x, stride=stride, rate=rate, name=name)


def add_shortcut(y: Any, x: Any, *, stride: int, rate: float = 0.0, name: str) -> Any:
    """Returns y plus the block's input x, or y alone where the block has a stride or changes the channels."""
    if stride > 1 or x.shape[-1] != y.shape[-1]:
        return y
    return keras.layers.Add(name=f"{name}_add")([drop_path(y, rate, f"{name}_drop_path"), x])


def round_channels(channels: float) -> int:
    """Rounds to a multiple of 8, at least 8, without losing more than a tenth."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def stage_plan(strides: Iterable[int], output_stride: int, *, late_dilation: bool) -> list[tuple[int, int, int]]:
    """Returns (stride, dilation of the first block, dilation of the others) of each stage after a stem of stride 2.

    Where dilation replaces a stage's stride, it is that of all its blocks, as in smp, or (late_dilation) of all but the first,
    as in timm.
    """
    reached, dilation, plan = 2, 1, []
    for stride in strides:
        before = dilation
        if reached * stride > output_stride:
            dilation, stride = dilation * stride, 1
        reached *= stride
        plan.append((stride, before if late_dilation else dilation, dilation))
    return plan
