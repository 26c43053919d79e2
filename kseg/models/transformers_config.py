"""The config.json of Hugging Face transformers' SegFormer and UPerNet, and the description of the same model of kseg.

Nothing else of config.json is read: `auto_map`, which names code of the folder, is not.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kseg.models.backbones import convnext, mix_transformer, swin
from kseg.models.foreign import TRANSFORMERS, folder_config, transformers_class
from kseg.models.model_info import ModelInfo
from kseg.models.options import known_options
from kseg.models.registry import MODELS
from kseg.models.smp_config import PLACEHOLDER_SIZE
from kseg.utils.errors import KsegError

_SEGFORMER = {
    "num_encoder_blocks": 4, "patch_sizes": [7, 3, 3, 3], "strides": [4, 2, 2, 2], "hidden_act": "gelu", "hidden_dropout_prob": 0,
    "sr_ratios": list(mix_transformer.REDUCTIONS), "num_attention_heads": list(mix_transformer.HEADS),
    "mlp_ratios": [mix_transformer.EXPANSION] * 4, "attention_probs_dropout_prob": 0, "reshape_last_stage": True,
}  # fmt: skip
_UPERNET = {"pool_scales": [1, 2, 3, 6], "use_timm_backbone": False, "backbone": None}
_BACKBONES: dict[str, dict[str, Any]] = {
    "convnext": {"patch_size": 4, "num_stages": 4, "hidden_act": "gelu"},
    "swin": {
        "patch_size": 4, "mlp_ratio": 4, "qkv_bias": True, "use_absolute_embeddings": False, "hidden_act": "gelu",
        "layer_norm_eps": 1e-5, "hidden_dropout_prob": 0, "attention_probs_dropout_prob": 0,
    },
}  # fmt: skip
"""Members that must have these values, where they are given: kseg's layers have no others. transformers ignores the epsilons of
SegFormer and ConvNeXt."""
_STAGES = ["stage1", "stage2", "stage3", "stage4"]
_DEFAULTS: dict[str, dict[str, Any]] = {
    "segformer": {"depths": [2] * 4, "hidden_sizes": [32, 64, 160, 256]},
    "convnext": {"depths": [3, 3, 9, 3], "hidden_sizes": [96, 192, 384, 768]},
    "swin": {"depths": [2, 2, 6, 2], "embed_dim": 96, "num_heads": [3, 6, 12, 24], "window_size": 7},
}
"""transformers' values of the members that name a backbone; it may leave them out of config.json."""
_LARGEST = 255  # classes


def is_transformers_config(content: Any) -> bool:
    """Returns True for the content of a config.json of a class that kseg reads."""
    return transformers_class(content) in TRANSFORMERS


def is_transformers_folder(folder: Path) -> bool:
    """Returns True for a folder of such a class, that transformers' save_pretrained, or kseg.convert --to=transformers, wrote."""
    return is_transformers_config(folder_config(folder))


def transformers_info(content: Mapping[str, Any]) -> tuple[ModelInfo, bool]:
    """Returns the description of the same model of kseg, and True if config.json names its classes.

    The normalization and the image size are in preprocessor_config.json. Raises KsegError for what kseg does not have.
    """
    channels = content.get("num_channels", 3)
    if transformers_class(content) == TRANSFORMERS[0]:
        model, backbone, options = "segformer", *_segformer(content)
    else:
        model, backbone, options = "upernet", *_upernet(content)
        channels = content["backbone_config"].get("num_channels", 3)
    if not _is_count(channels, 64):
        raise KsegError(f"has num_channels={str(channels)[:20]}; expected 1 to 64")
    names, named = _class_names(content)
    defaults = known_options(model)
    info = ModelInfo(
        model=model,
        class_names=names,
        image_size=PLACEHOLDER_SIZE,
        backbone=backbone,
        input_shape=(None, None, channels),
        options={name: value for name, value in options.items() if value != defaults[name]},
    )
    return info, named


def _segformer(content: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    _check(content, _SEGFORMER, "SegFormer")
    wanted = _wanted("segformer", content)
    members = {name: {"depths": list(v.blocks), "hidden_sizes": list(v.channels)} for name, v in mix_transformer.VARIANTS.items()}
    options = {
        "form": "transformers",
        "decoder_channels": content.get("decoder_hidden_size", 256),
        "dropout": _rate(content, "classifier_dropout_prob", 0.1, 0.1),
        "drop_path": _rate(content, "drop_path_rate", 0.1, mix_transformer.DROP_PATH),
    }
    return _member(members, wanted, "SegFormer"), options


def _upernet(content: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    _check(content, _UPERNET, "UPerNet")
    inner = content.get("backbone_config")
    kind = inner.get("model_type") if isinstance(inner, Mapping) else None
    if not isinstance(inner, Mapping) or kind not in _BACKBONES:
        raise KsegError(
            f"is UPerNet on the backbone {str(kind)[:40]!r}, which kseg does not read; it reads {', '.join(_BACKBONES)}"
        )
    _check(inner, _BACKBONES[kind], kind)
    stages = inner.get("out_features") or [f"stage{number}" for number in _list(inner.get("out_indices"))]
    if stages != _STAGES:
        raise KsegError(f"has out_features={str(stages)[:60]}, which kseg lacks; it has {_STAGES}")
    if kind == "convnext":
        if not inner.get("layer_scale_init_value", 1e-6):
            raise KsegError("has layer_scale_init_value=0, which kseg's convnext lacks")
        sizes = {name: convnext.SIZES[size] for name, (version, size) in convnext.MEMBERS.items() if version == kind}
        members = {name: _convnext(size) for name, size in sizes.items() if not size.convolutions}
        own = 0.0
    else:
        members = {
            name: {"depths": list(v.blocks), "embed_dim": v.channels, "num_heads": list(v.heads), "window_size": v.window}
            for name, v in swin.VARIANTS.items()
        }
        own = 0.1
    options = {
        "form": "transformers",
        "decoder_channels": content.get("hidden_size", 512),
        "drop_path": _rate(inner, "drop_path_rate", own, own),
    }
    return _member(members, _wanted(kind, inner), kind), options


def _convnext(size: Any) -> dict[str, Any]:
    return {"depths": list(size.blocks), "hidden_sizes": [size.channels * 2**stage for stage in range(4)]}


def _check(content: Mapping[str, Any], expected: Mapping[str, Any], what: str) -> None:
    """Raises KsegError for a member that has another value than kseg's layers."""
    for name, value in expected.items():
        found = content.get(name, value)
        if found != value and not (isinstance(found, list) and found and all(item == value for item in found)):  # [4, 4] for 4
            raise KsegError(f"has {name}={str(found)[:60]}, which kseg's {what} lacks; it has {value}")


def _wanted(kind: str, content: Mapping[str, Any]) -> dict[str, Any]:
    return {name: content.get(name, value) for name, value in _DEFAULTS[kind].items()}


def _member(members: Mapping[str, Mapping[str, Any]], wanted: Mapping[str, Any], what: str) -> str:
    """Returns the backbone with these values. Raises KsegError if kseg has none."""
    for name, values in members.items():
        if values == wanted:
            return name
    shown = ", ".join(f"{name}={str(value)[:40]}" for name, value in wanted.items())
    raise KsegError(f"is a {what} of {shown}, which kseg does not have; it has {', '.join(members)}")


def _rate(content: Mapping[str, Any], name: str, default: float, own: float) -> float | None:
    """Returns a rate of dropout; None if it is kseg's own."""
    rate = content.get(name, default)
    if not isinstance(rate, (int, float)) or isinstance(rate, bool) or not 0 <= rate < 1:
        raise KsegError(f"has {name}={str(rate)[:20]}; expected 0 to 1")
    return None if rate == own else float(rate)


def _class_names(content: Mapping[str, Any]) -> tuple[tuple[str, ...], bool]:
    """Returns the names of the classes by id, and True if the folder names them. One class becomes two, with logits (0, x).

    Names that occur twice get their id, since names must differ.
    """
    labels = content.get("id2label")
    if labels is None:
        count = content.get("num_labels", 2)
        if not _is_count(count, _LARGEST):
            raise KsegError(f"has num_labels={str(count)[:20]}; expected 1 to {_LARGEST}")
        return tuple(f"class {number}" for number in range(max(count, 2))), False
    if not isinstance(labels, Mapping) or not 1 <= len(labels) <= _LARGEST:
        raise KsegError(f"has an id2label that does not name 1 to {_LARGEST} classes by id")
    if set(map(str, labels)) != set(map(str, range(len(labels)))) or not all(isinstance(name, str) for name in labels.values()):
        raise KsegError(f"has an id2label whose ids are not 0 to {len(labels) - 1}, each with a name")
    names = [str(labels[str(number)]).strip() or f"class {number}" for number in range(len(labels))]
    if all(name == f"LABEL_{number}" for number, name in enumerate(names)):
        return tuple(f"class {number}" for number in range(max(len(names), 2))), False
    if len(names) == 1:
        return ("background", names[0]) if names[0] != "background" else ("background", "foreground"), True
    return tuple(f"{name} ({number})" if names.count(name) > 1 else name for number, name in enumerate(names)), True


def _is_count(value: Any, largest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= largest


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def transformers_config(info: ModelInfo) -> dict[str, Any]:
    """Returns the config.json of transformers for a model of kseg. Raises KsegError for one that transformers does not have."""
    options = {**known_options(info.model), **info.options} if info.model in MODELS else {}
    if options.get("form") != "transformers":
        raise KsegError(
            f"{info.model} on {info.backbone}: transformers computes other numbers with its weights; only segformer and upernet "
            "with --model_options=form=transformers can be written"
        )
    names = {str(number): name for number, name in enumerate(info.class_names)}
    backbone, channels = str(info.backbone), info.input_shape[-1]
    about = {"id2label": names, "label2id": {name: int(number) for number, name in names.items()}, "dtype": "float32"}
    if info.model == "segformer":
        variant = mix_transformer.VARIANTS[backbone]
        return {
            "architectures": [TRANSFORMERS[0]],
            "model_type": "segformer",
            "num_channels": channels,
            "depths": variant.blocks,
            "hidden_sizes": variant.channels,
            **_SEGFORMER,
            "decoder_hidden_size": options["decoder_channels"],
            "classifier_dropout_prob": 0.1 if options["dropout"] is None else options["dropout"],
            "drop_path_rate": mix_transformer.DROP_PATH if options["drop_path"] is None else options["drop_path"],
            **about,
        }
    kind, own = ("swin", 0.1) if backbone in swin.VARIANTS else ("convnext", 0.0)
    inner = {"model_type": kind, "num_channels": channels, **_BACKBONES[kind], "out_features": _STAGES}
    if kind == "swin":
        member = swin.VARIANTS[backbone]
        inner |= {"depths": member.blocks, "embed_dim": member.channels, "num_heads": member.heads, "window_size": member.window}
    else:
        inner |= _convnext(convnext.SIZES[convnext.MEMBERS[backbone][1]])
    return {
        "architectures": [TRANSFORMERS[1]],
        "model_type": "upernet",
        "backbone_config": {**inner, "drop_path_rate": own if options["drop_path"] is None else options["drop_path"]},
        "hidden_size": options["decoder_channels"] or 512,
        "pool_scales": _UPERNET["pool_scales"],
        "use_auxiliary_head": False,
        **about,
    }
