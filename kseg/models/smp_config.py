"""The config.json of segmentation_models.pytorch's folders, and the description of the same model of kseg."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kseg.models.backbones.registry import BACKBONES, find_backbone, name_in
from kseg.models.channels import channel_statistics
from kseg.models.foreign import folder_config
from kseg.models.layers import NORMALIZATIONS
from kseg.models.model_info import ModelInfo
from kseg.models.options import check_options, known_options
from kseg.models.registry import MODELS
from kseg.utils.errors import KsegError

_UNET = {
    "encoder_depth": "depth", "decoder_channels": "decoder_channels", "decoder_use_norm": "norm", "decoder_use_batchnorm": "norm",
    "decoder_attention_type": "attention", "decoder_interpolation": "interpolation",
}  # fmt: skip
_DEEPLAB = {"encoder_output_stride": "output_stride", "decoder_atrous_rates": "dilation_rates", "decoder_aspp_dropout": "dropout"}
ARCHITECTURES: dict[str, tuple[str, dict[str, str], dict[str, Any]]] = {
    "Unet": ("unet", _UNET, {}),
    "UnetPlusPlus": ("unetplusplus", _UNET, {}),
    "MAnet": (
        "manet",
        {**{k: v for k, v in _UNET.items() if v != "attention"}, "decoder_pab_channels": "pab_channels"},
        {},
    ),
    "Linknet": ("linknet", {"decoder_use_norm": "norm", "decoder_use_batchnorm": "norm"}, {"encoder_depth": 5}),
    "FPN": (
        "fpn",
        {
            "decoder_pyramid_channels": "pyramid_channels",
            "decoder_segmentation_channels": "segmentation_channels",
            "decoder_merge_policy": "merge",
            "decoder_dropout": "dropout",
            "decoder_interpolation": "interpolation",
        },
        {"encoder_depth": 5, "upsampling": 4},
    ),
    "PSPNet": (
        "pspnet",
        {
            "encoder_depth": "depth",
            "psp_out_channels": "psp_channels",
            "decoder_use_norm": "norm",
            "psp_use_batchnorm": "norm",
            "psp_dropout": "dropout",
        },
        {},
    ),
    "PAN": (
        "pan",
        {"encoder_output_stride": "output_stride", "decoder_channels": "decoder_channels"},
        {"encoder_depth": 5, "decoder_interpolation": "bilinear", "upsampling": 4},
    ),
    "UPerNet": (
        "upernet",
        {"decoder_channels": "decoder_channels", "decoder_use_norm": "norm"},
        {"encoder_depth": 5, "upsampling": 4},
    ),
    "Segformer": (
        "segformer",
        {"decoder_segmentation_channels": "decoder_channels"},
        {"encoder_depth": 5, "upsampling": 4},
    ),
    "DeepLabV3": (
        "deeplabv3",
        _DEEPLAB,
        {"encoder_depth": 5, "decoder_channels": 256, "decoder_aspp_separable": False, "upsampling": None},
    ),
    "DeepLabV3Plus": (
        "deeplabv3plus",
        _DEEPLAB,
        {"encoder_depth": 5, "decoder_channels": 256, "decoder_aspp_separable": True, "upsampling": 4},
    ),
}
"""By smp's class: kseg's model; smp's arguments that are options of it; and those that must have the value given here."""
_NORMS = {True: "batch", "batchnorm": "batch", False: "none", "identity": "none"}
_READ = {"_model_class", "encoder_name", "encoder_weights", "in_channels", "classes"}
_CHECKED = {"pspnet": {"upsampling"}}
_LEFT_OUT = {"activation", "aux_params"}
"""The activation, as kseg's models return logits, and the classification head."""
BINARY = ("background", "foreground")
PLACEHOLDER_SIZE = (256, 256)
"""smp does not record the image size."""


def is_smp_config(content: Any) -> bool:
    """Returns True for the content of a config.json that smp wrote."""
    return isinstance(content, Mapping) and "encoder_name" in content and "_model_class" in content


def is_smp_folder(folder: Path) -> bool:
    """Returns True for a folder that smp's save_pretrained, or kseg.convert --to=smp, wrote."""
    return is_smp_config(folder_config(folder))


def smp_info(content: Mapping[str, Any]) -> ModelInfo:
    """Returns the description of the same model of kseg. A model of one class becomes one of two, with logits (0, x).

    Class names are "class 0", ... unless there is one class. Raises KsegError for what kseg does not have.
    """
    kind, encoder = str(content["_model_class"])[:40], str(content["encoder_name"])[:60]
    if kind not in ARCHITECTURES:
        raise KsegError(f"is a model of segmentation_models_pytorch of the class {kind!r}, which kseg does not have")
    model, names, fixed = ARCHITECTURES[kind]
    classes, channels = content.get("classes", 1), content.get("in_channels", 3)
    if not all(isinstance(n, int) and not isinstance(n, bool) and 1 <= n <= 255 for n in (classes, channels)):
        raise KsegError(f"classes {str(classes)[:20]!r} or in_channels {str(channels)[:20]!r}: expected 1 to 255")
    defaults = known_options(model)
    options: dict[str, Any] = {}
    for name, value in content.items():
        if name in _READ | _LEFT_OUT | _CHECKED.get(model, set()) or name.startswith("_"):
            continue
        if name in names:
            options[names[name]] = _norm(name, value) if names[name] == "norm" else value
        elif name not in fixed or value != fixed[name]:
            raise KsegError(f"has smp's option {name[:40]}={str(value)[:40]}, which kseg's {model} lacks")
    stride = options.pop("output_stride", None) or MODELS[model].info["output_stride"]
    options = check_options(model, options)
    if model == "pspnet" and content.get("upsampling", 8) != 2 ** options.get("depth", defaults["depth"]):
        raise KsegError("has smp's upsampling that does not reach the image's size, which kseg lacks")
    if not isinstance(stride, int):
        raise KsegError(f"encoder_output_stride {str(stride)[:20]!r}: expected a whole number")
    backbone = _backbone(encoder, stride)
    return ModelInfo(
        model=model,
        class_names=BINARY if classes == 1 else tuple(f"class {number}" for number in range(classes)),
        image_size=PLACEHOLDER_SIZE,
        backbone=backbone,
        output_stride=stride,
        normalization=_normalization(backbone, content.get("encoder_weights"), channels),
        input_shape=(None, None, channels),
        options={name: value for name, value in options.items() if value != defaults[name]},
    )


def _backbone(encoder: str, output_stride: int) -> str:
    """Returns kseg's name of smp's encoder. Those of timm may have the tag of their weights at the end."""
    name = encoder.partition(".")[0] if encoder.startswith("tu-") else encoder
    try:
        backbone = find_backbone(name, output_stride)
    except KsegError as error:
        raise KsegError(f"has smp's encoder {encoder!r}: {error}") from None
    if backbone not in BACKBONES or name_in("smp", backbone) is None:
        raise KsegError(f"has smp's encoder {encoder!r}, which kseg does not have; python -m kseg.train --backbone=x lists all")
    return backbone


def _norm(name: str, value: Any) -> str:
    kind = value.get("type") if isinstance(value, Mapping) and set(value) == {"type"} else value
    if not isinstance(kind, bool | str) or kind not in _NORMS:
        raise KsegError(f"has smp's option {name}={str(value)[:40]}, which kseg lacks; it has batch norm, or none")
    return _NORMS[kind]


def _normalization(backbone: str, weights: Any, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns the mean and std of the encoder's weights, as smp's get_preprocessing_fn, else ImageNet's."""
    known = BACKBONES[backbone].info["weights"].get(str(weights).replace("-", "_"))
    mean, std = NORMALIZATIONS["imagenet"] if known is None else (known.mean, known.std)
    mean, std = channel_statistics(mean, std, channels)
    return tuple(map(float, mean)), tuple(map(float, std))


def smp_class(model: str) -> str:
    """Returns smp's class of a model. Raises KsegError for a model that smp does not have."""
    for kind, (name, _, _) in ARCHITECTURES.items():
        if name == model:
            return kind
    raise KsegError(f"{model}: segmentation_models_pytorch has no such model")


def smp_config(info: ModelInfo, *, binary: bool) -> dict[str, Any]:
    """Returns the config.json of smp for a model. binary: of one class. Raises KsegError for a model that smp does not have."""
    kind = smp_class(info.model)
    names = ARCHITECTURES[kind][1]
    options: dict[str, Any] = {**info.options, "output_stride": info.output_stride}
    written = {}
    for theirs, ours in names.items():
        if ours in options and theirs not in ("decoder_use_batchnorm", "psp_use_batchnorm"):
            value = options[ours]
            written[theirs] = {"batch": "batchnorm", "none": False}[value] if ours == "norm" else value
    if info.model == "pspnet":
        written["upsampling"] = 2 ** options.get("depth", 3)
    return {
        "_model_class": kind,
        "encoder_name": smp_encoder(str(info.backbone)),
        "encoder_weights": None,
        "in_channels": info.input_shape[-1],
        "classes": 1 if binary else len(info.class_names),
        **written,
    }


def smp_encoder(backbone: str) -> str:
    """Returns smp's name of a backbone. Raises KsegError for one that smp does not have."""
    name = name_in("smp", backbone)
    if name is None:
        raise KsegError(f"{backbone}: segmentation_models_pytorch has no such encoder, so it cannot open this; use --to=torch")
    return name
