"""The table of networks under test: each architecture and backbone, its PyTorch baseline, and what is compared where."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import keras
import tiny_transformers  # noqa: F401  (registers test_swin)
from baselines import baseline_name

from kseg.models.backbones import registry
from kseg.models.backbones.registry import list_backbones
from kseg.models.build import build_backbone, build_model
from kseg.models.registry import list_models

# Without those that tests register.
ARCHITECTURES, BACKBONES = (
    [name for name in names if not name.startswith("test_")] for names in (list_models(), list_backbones())
)
CLASSES = 5
SIZES = ((64, 96), (129, 97), (256, 256))
"""Sizes that benchmarks/parity.py compares; the tests compare the first two."""
EVEN_SIZES = SIZES[::2]

TOLERANCES = {"forward": 1e-4, "loss": 1e-3, "gradient": 1e-3, "statistics": 1e-3}
"""Largest relative errors. Forward: of logits and features, against the baseline and between backends."""


@dataclass(frozen=True)
class Case:
    """A network of kseg's and its PyTorch baseline.

    model: the architecture; None for a backbone alone. backbone: None for the architecture's own.
    library: of the baseline: smp, torchvision, timm, transformers, or paper (written from the paper: paper_models.py); None for
    no baseline.
    options: further arguments of build_model or build_backbone.
    backends: on which the baseline is compared. On torch nothing is compiled, so all of them run there.
    step: on JAX and torch one training step is compared, too. Never SegNet's: its gradient goes to the larger of two values that
    may differ by rounding alone.
    file: gradients must reach every variable, and the saved file must give the same logits on every backend.
    """

    model: str | None
    backbone: str | None
    library: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    backends: tuple[str, ...] = ("torch",)
    step: bool = False
    file: bool = False

    @property
    def name(self) -> str:
        """For example "fpn resnet18 / smp FPN": unique in CASES."""
        own = self.library == "torchvision" or not self.backbone
        name = " ".join(filter(None, [self.model, None if own and self.model else self.backbone]))
        if "output_stride" in self.options:
            name += f", stride {self.options['output_stride']}"
        named = [
            f"{key} {value}"
            for key, value in self.options.items()
            if key in ("attention", "depth", "norm", "merge", "interpolation")
        ]
        name = ", ".join([name, *named])
        if self.options.get("auxiliary"):
            name += " with auxiliary head"
        if self.library == "smp" and self.model:
            return f"{name} / smp {baseline_name('smp', self.model)}"
        return f"{name} / {self.library}" if self.library else name

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Of SIZES those that the baseline itself takes."""
        if self.library == "smp" and self.model == "pan":  # it needs 8 x 8 pixels at its smallest level
            return SIZES[2:]
        even = self.library == "smp" and self.model not in (None, "unet")
        multiples = self.library != "transformers" and _multiples_only(self.backbone)
        return EVEN_SIZES if even or multiples else SIZES

    @property
    def test_sizes(self) -> tuple[tuple[int, int], ...]:
        """Sizes that the tests compare, the first also in training. smp refuses odd ones; baselines.at_any_size takes some."""
        if self.library == "smp" and self.model == "pan":
            return ((128, 160), (129, 161))
        doubling = self.library == "smp" and self.model in ("linknet", "manet", "unetplusplus")  # whatever the skip's size
        return SIZES[:1] if doubling or _multiples_only(self.backbone) else SIZES[:2]

    def build(self, **more: Any) -> keras.Model:
        """Builds kseg's network, with random weights. more: further options."""
        if self.model is None:
            return build_backbone(self.backbone, **self.options, **more)
        return build_model(self.model, num_classes=CLASSES, backbone=self.backbone, **self.options, **more)


def _multiples_only(backbone: str | None) -> bool:
    """True for HRNet, which upsamples by fixed factors in timm (sides are multiples of 32), and for Swin (of 4 there)."""
    return (backbone or "").startswith(("hrnet_", "swin_"))


ALL = ("torch", "jax", "tensorflow")
JAX = ("torch", "jax")
SMALL_FC = {"fc_filters": 32}


def _smp_models() -> list[Case]:
    """smp's decoders on the backbones of the reference experiments, and on one more of each family."""
    backbones = {
        "resnet18": True, "resnet34": False, "resnet50": False, "resnet101": False, "resnext50_32x4d": False,
        "se_resnext50_32x4d": False, "timm-efficientnet-b0": False, "timm-efficientnet-b4": False, "mobilenet_v2": False,
    }  # fmt: skip
    # Strided, depthwise, grouped and dilated convolutions: their gradients on JAX are partly kseg's own.
    backends = {
        ("unet", "resnet18"): JAX,
        ("fpn", "mobilenet_v2"): JAX,
        ("deeplabv3", "resnet18"): JAX,
        ("deeplabv3plus", "resnext50_32x4d"): ALL,
    }
    strides: dict[str, dict] = {"unet": {}, "fpn": {}, "deeplabv3": {"output_stride": 8}, "deeplabv3plus": {"output_stride": 16}}
    files = {("fpn", "timm-efficientnet-b0"), ("deeplabv3", "resnet18")}
    cases = []
    for model, options in strides.items():
        for backbone, step in {**backbones, **({"vgg16_bn": False} if model in ("unet", "fpn") else {})}.items():
            step = step or (model == "unet" and backbone not in ("resnet101", "timm-efficientnet-b4"))
            where = backends.get((model, backbone), ("torch",))
            cases.append(Case(model, backbone, "smp", options, where, step or len(where) > 1, (model, backbone) in files))
    cases.append(Case("deeplabv3", "resnet18", "smp", {"output_stride": 16}))
    cases.append(Case("deeplabv3plus", "resnet50", "smp", {"output_stride": 8}))
    cases.append(Case("deeplabv3plus", "timm-tf_efficientnet_lite0", "smp", {"output_stride": 16}, step=True))
    return cases


DECODERS = ("unetplusplus", "manet", "linknet", "pspnet", "pan", "upernet", "segformer")


def _smp_decoders() -> list[Case]:
    """smp's other decoders, and options."""
    jax = ("manet", "linknet", "pan", "pspnet")  # with layers of their own
    return [
        *(Case(name, "resnet18", "smp", backends=JAX if name in jax else ("torch",), step=True) for name in DECODERS),
        Case("segformer", "mit_b0", "smp", backends=ALL, step=True, file=True),
        Case("upernet", "convnext_atto", "smp", backends=JAX, step=True),
        Case("upernet", "convnextv2_atto", "smp", file=True),
        Case("unet", "resnet18", "smp", {"attention": "scse"}, step=True),
        Case("unet", "resnet18", "smp", {"depth": 4, "decoder_channels": (64, 32, 16, 8)}),
        Case("unet", "resnet18", "smp", {"interpolation": "bilinear"}),
        Case("unet", "resnet18", "smp", {"norm": "none"}, step=True),
        Case("unetplusplus", "resnet18", "smp", {"attention": "scse", "depth": 3, "decoder_channels": (64, 32, 16)}),
        Case("manet", "resnet18", "smp", {"norm": "none"}),
        # Backbones without c1.
        Case("unet", "mit_b0", "smp", {"attention": "scse"}, step=True),
        Case("unetplusplus", "convnext_atto", "smp"),
        Case("manet", "mit_b0", "smp"),
        Case("linknet", "convnext_atto", "smp"),
        Case("linknet", "resnet18", "smp", {"norm": "none"}),
        Case("pspnet", "resnet18", "smp", {"norm": "none", "depth": 4}),
        Case("upernet", "resnet18", "smp", {"norm": "none"}),
        Case("fpn", "resnet18", "smp", {"merge": "cat"}, step=True),
        Case("fpn", "resnet18", "smp", {"interpolation": "bilinear"}),
    ]


def _torchvision_models() -> list[Case]:
    return [
        Case(
            f"{head}_{backbone}",
            None,
            "torchvision",
            {"auxiliary": True} if auxiliary else {},
            step=backbone == "resnet50",
            file=(head, backbone, auxiliary) in (("fcn", "resnet50", True), ("deeplabv3", "resnet50", False)),
        )
        for head in ("fcn", "deeplabv3")
        for backbone in ("resnet50", "resnet101")
        for auxiliary in (False, True)
    ]


def _library(backbone: str) -> str:
    """The library with a backbone of this layout."""
    if registry.name_in("torchvision", backbone):
        return "torchvision"
    return "timm" if registry.name_in("timm", backbone) and registry.name_in("smp", backbone) != backbone else "smp"


def network(backbone: str) -> Any:
    """Identifies the network that a backbone's name builds. Names of the same network share it."""
    build = registry.BACKBONES[backbone].build
    return (build.func, build.args, *build.keywords.items()) if isinstance(build, partial) else build


LARGE_BACKBONES = (
    "vgg13", "vgg13_bn", "vgg19", "vgg19_bn", "resnet152", "resnext101_32x8d", "densenet161", "densenet169", "densenet201",
    *(f"{form}b{size}" for form in ("timm-efficientnet-", "tf_efficientnet_") for size in (2, 3, 5, 6, 7)),
    *(f"{form}efficientnet_lite{size}" for form in ("tf_", "timm-tf_") for size in (2, 3, 4)),
    "se_resnext101_32x4d", "legacy_seresnext101_32x4d", "convnextv2_tiny",
    *(f"regnetx_{size}" for size in ("006", "008", "016", "032", "040", "064", "080", "120", "160", "320")),
    *(f"regnety_{size}" for size in ("006", "008", "016", "032", "040", "064", "080", "120", "160", "320")),
    "legacy_seresnet101", "legacy_seresnet152", "legacy_senet154", "se_resnet101", "se_resnet152",
    "resnet34d", "resnet50d", "resnet101d", "resnet152d", "resnet200d",
    "resnext101_32x4d", "resnext101_32x16d", "resnext101_32x32d", "resnext101_32x48d",
    "mobileone_s2", "mobileone_s3", *(f"mobileone_s{size}_fused" for size in (1, 2, 3, 4)),
    *(f"mit_b{size}" for size in (2, 3, 4, 5)), *(f"swin_{size}" for size in ("tiny", "small", "base", "large")),
    *(f"efficientnet-b{size}" for size in (2, 3, 4, 5, 6, 7)),
    *(f"tf_efficientnetv2_{size}" for size in ("b2", "b3", "s", "m", "l")),
    *(f"{version}_{size}" for version in ("convnext", "convnextv2") for size in ("pico", "nano", "small", "base", "large")),
    *(f"hrnet_w{size}" for size in ("18_small_v2", "18", "30", "32", "40", "44", "48", "64")),
)  # fmt: skip
"""Backbones that benchmarks/parity.py compares and the tests do not build: only their sizes differ from others'."""


def _backbones() -> list[Case]:
    every = [name for name in BACKBONES if not name.startswith("keras_cv/")]
    # Of a network with several names, one for each library.
    distinct = {(network(name), _library(name)): name for name in reversed(every)}
    names = sorted(set(distinct.values()) - set(LARGE_BACKBONES))
    stepped = (
        "resnet18", "vgg11", "vgg11_bn", "torchvision_resnet50", "legacy_seresnext50_32x4d",
        "densenet121", "regnetx_002", "regnety_002", "se_resnet50", "resnet18d", "resnet26d", "xception",
        "mobileone_s1", "mit_b0", "convnext_atto", "convnext_tiny", "convnextv2_atto",
        "efficientnet-b0", "tf_efficientnetv2_b0", "mobilenetv3_large_100", "mobilenetv3_small_100",
        "hrnet_w18_small",
    )  # fmt: skip
    stride = {name: {"output_stride": 8} if name.startswith("torchvision_") else {} for name in names}
    dilated = {
        "mobilenet_v2": (8, 16), "tf_efficientnet_b0": (8,), "timm-efficientnet-b0": (16,), "se_resnext50_32x4d": (16,),
        "tf_efficientnet_lite0": (16,), "timm-tf_efficientnet_lite0": (8,),
        "regnety_002": (8, 16), "resnet18d": (8, 16), "resnet26d": (8,), "se_resnet50": (16,),
        "mobileone_s0": (8, 16), "convnext_atto": (8, 16), "convnextv2_atto": (8,),
        "efficientnet-b0": (8, 16), "tf_efficientnetv2_b0": (8, 16), "mobilenetv3_large_100": (8, 16),
        "tf_mobilenetv3_small_100": (8,),
    }  # fmt: skip
    return [
        *(Case(None, name, _library(name), stride[name], step=name in stepped) for name in names),
        *(Case(None, name, _library(name), {"output_stride": s}) for name, strides in dilated.items() for s in strides),
        *(Case(None, name, "timm") for name in ("resnet18", "resnet50", "resnext50_32x4d")),
    ]


def _transformers() -> list[Case]:
    """The published models of Hugging Face transformers, in their sizes."""
    channels = {f"mit_b{size}": 256 if size < 2 else 768 for size in range(6)}
    sizes = ("tiny", "small", "base", "large")
    return [
        *(
            Case("segformer", name, "transformers", {"form": "transformers", "decoder_channels": number, "dropout": 0.0})
            for name, number in channels.items()
        ),
        *(
            Case("upernet", f"{family}_{size}", "transformers", {"form": "transformers"})
            for family in ("convnext", "swin")
            for size in sizes
        ),
    ]


CASES = [
    *_smp_models(),
    *_smp_decoders(),
    *_torchvision_models(),
    Case("fcn32s", "vgg11", "paper", SMALL_FC, file=True),
    Case("fcn16s", "vgg13_bn", "paper", SMALL_FC, JAX, file=True),
    Case("fcn8s", "vgg16_bn", "paper", SMALL_FC, step=True),
    Case("segnet", "vgg11_bn", "paper", backends=JAX, file=True),
    Case("segnet", "vgg16_bn", "paper"),
    *_backbones(),
    # No baseline: a member of each further family of backbones, with the decoders in turn, dilated where it can be.
    Case("deeplabv3", "mobilenet_v2", options={"output_stride": 8}, file=True),
    Case("deeplabv3", "tf_efficientnet_b0", options={"output_stride": 8}, file=True),
    Case("deeplabv3plus", None, file=True),  # on keras_cv/resnet18
    Case("deeplabv3plus", "legacy_seresnext50_32x4d", file=True),
    Case("fcn_resnet101", "torchvision_resnet50", file=True),
    Case("deeplabv3_resnet101", "torchvision_resnet50", options={"auxiliary": True}, file=True),
    Case("fcn32s", "keras_cv/resnet18_v2", options=SMALL_FC, file=True),
    Case("fcn16s", "keras_cv/resnet18", options=SMALL_FC, file=True),
    Case("fcn8s", "keras_cv/densenet121", options=SMALL_FC, file=True),
    Case("fcn16s", "keras_cv/mit_b0", options=SMALL_FC, file=True),
    Case("fcn32s", "keras_cv/csp_darknet_tiny", options=SMALL_FC, file=True),
    Case("fcn16s", "keras_cv/mobilenet_v3_small", options=SMALL_FC, file=True),
    Case("fpn", "keras_cv/efficientnetv1_b0", file=True),
    Case("fpn", "keras_cv/efficientnetv2_b0", file=True),
    Case("unet", "keras_cv/vgg16", options={"decoder_channels": (32, 16, 16, 8, 8)}, file=True),
    Case("linknet", "densenet121", file=True),
    Case("pan", "regnety_002", file=True),
    Case("manet", "xception", file=True),
    Case("pspnet", "mobileone_s0", file=True),
    Case("unet", "efficientnet-b0", "smp", file=True),
    Case("deeplabv3plus", "tf_efficientnetv2_b0", file=True),
    Case("unetplusplus", "mobilenetv3_small_100", file=True),
    Case("upernet", "test_swin", options={"form": "transformers", "decoder_channels": 32}, file=True),
    Case("fpn", "hrnet_w18_small", file=True),
]
PAIRS = [case for case in CASES if case.library]
LARGE = [
    *(Case(None, name, _library(name)) for name in LARGE_BACKBONES),
    Case(None, "senet154", "smp", {"output_stride": 8}, step=True),
    *(Case(name, backbone, "smp") for name in DECODERS for backbone in ("mobilenet_v2", "resnext50_32x4d")),
    *_transformers(),
]
FILES = [case for case in CASES if case.file]
