"""Translates the names of tensors between Hugging Face transformers' saved files and kseg's layers, in both directions.

For SegformerForSemanticSegmentation, for UperNetForSemanticSegmentation on ConvNeXt and Swin, and for image classifiers with
these backbones. The names are those of model.safetensors as save_pretrained writes it in transformers 4 and 5. In transformers 5
state_dict() gives others, which are read, too. On kseg's side stand the names of smp and timm, as those of kseg's layers.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from kseg.utils.errors import KsegError

FIRST = ("segformer.", "backbone.embeddings.", "backbone.swin.", "swin.embeddings.", "convnext.embeddings.")
"""Beginnings of names by which checkpoints of transformers are known."""
UPERNET_CONV = ((".0", ".conv"), (".1", ".batch_norm"))
"""The members of a convolution with batch norm in UPerNet: smp's name, transformers' name."""


def _table() -> Iterator[tuple[str, ...]]:
    """Rules: kseg's name of a module or tensor, and those in transformers whose tensors it holds one after the other.

    <i> and <j> are numbers, counted from another one in <i+1> or <3-i>. Of {a|b}, both are read and the first is written.
    """
    ours, theirs = "encoder.patch_embed<i+1>", "segformer.{encoder.patch_embeddings.<i>|stages.<i>.patch_embeddings}"
    yield f"{ours}.proj", f"{theirs}.proj"
    yield f"{ours}.norm", f"{theirs}.layer_norm"
    yield "encoder.norm<i+1>", "segformer.{encoder.layer_norm.<i>|stages.<i>.layer_norm}"
    ours, theirs = "encoder.block<i+1>.<j>", "segformer.{encoder.block.<i>|stages.<i>.blocks}.<j>"
    yield f"{ours}.norm1", theirs + ".{layer_norm_1|layernorm_before}"
    yield f"{ours}.norm2", theirs + ".{layer_norm_2|layernorm_after}"
    yield f"{ours}.attn.q", theirs + ".attention.{self.query|q_proj}"
    yield f"{ours}.attn.kv", theirs + ".attention.{self.key|k_proj}", theirs + ".attention.{self.value|v_proj}"
    yield f"{ours}.attn.sr", theirs + ".attention.{self.sr|sequence_reduction.sequence_reduction}"
    yield f"{ours}.attn.norm", theirs + ".attention.{self.layer_norm|sequence_reduction.layer_norm}"
    yield f"{ours}.attn.proj", theirs + ".attention.{output.dense|o_proj}"
    yield f"{ours}.mlp.fc1", theirs + ".mlp.{dense1|fc1}"
    yield f"{ours}.mlp.dwconv.dwconv", theirs + ".mlp.dwconv.dwconv"
    yield f"{ours}.mlp.fc2", theirs + ".mlp.{dense2|fc2}"

    yield "encoder.stem.0", "{backbone|convnext}.embeddings.patch_embeddings"
    yield "encoder.stem.1", "{backbone|convnext}.embeddings.layernorm"
    ours, theirs = "encoder.stages.<i>", "{backbone|convnext}.encoder.stages.<i>"
    yield f"{ours}.downsample.<j>", f"{theirs}.downsampling_layer.<j>"
    for name, other in (("conv_dw", "dwconv"), ("norm", "layernorm"), ("mlp.fc1", "pwconv1"), ("mlp.fc2", "pwconv2")):
        yield f"{ours}.blocks.<j>.{name}", f"{theirs}.layers.<j>.{other}"
    yield f"{ours}.blocks.<j>.gamma", f"{theirs}.layers.<j>.layer_scale_parameter"
    yield "encoder.head.norm", "convnext.layernorm"
    yield "encoder.hidden_states_norms.stage<i>", "backbone.hidden_states_norms.stage<i>"

    swin = "{backbone|backbone.swin|swin}"
    yield "encoder.patch_embed.proj", f"{swin}.embeddings.patch_embeddings.projection"
    yield "encoder.patch_embed.norm", f"{swin}.embeddings.norm"
    ours, theirs = "encoder.layers.<i>", f"{swin}.encoder.layers.<i>"
    for name in ("norm", "reduction"):  # it belongs to the stage before in transformers
        yield f"encoder.layers.<i+1>.downsample.{name}", f"{theirs}.downsample.{name}"
    ours, theirs = f"{ours}.blocks.<j>", f"{theirs}.blocks.<j>"
    yield f"{ours}.norm1", f"{theirs}.layernorm_before"
    yield f"{ours}.norm2", f"{theirs}.layernorm_after"
    parts = ("{self.query|q_proj}", "{self.key|k_proj}", "{self.value|v_proj}")
    yield f"{ours}.attn.qkv", *(f"{theirs}.attention.{part}" for part in parts)
    table = "relative_position_bias_table"
    yield f"{ours}.attn.{table}", f"{theirs}.attention.{{self|relative_position_bias}}.{table}"
    yield f"{ours}.attn.proj", theirs + ".attention.{output.dense|o_proj}"
    yield f"{ours}.mlp.fc1", theirs + ".{intermediate.dense|mlp.fc1}"
    yield f"{ours}.mlp.fc2", theirs + ".{output.dense|mlp.fc2}"
    yield "encoder.norm", "{backbone.swin|swin}.layernorm"

    yield "decoder.mlp_stage.<3-i>.linear", "decode_head.{linear_c|linear_projections}.<i>.proj"
    yield "decoder.fuse_stage.0", "decode_head.linear_fuse"
    yield "decoder.fuse_stage.1", "decode_head.batch_norm"
    yield "segmentation_head.0", "decode_head.classifier"
    for ours, theirs in UPERNET_CONV:
        yield f"decoder.psp.blocks.<i>.1{ours}", f"decode_head.psp_modules.<i>.1{theirs}"
        yield f"decoder.psp.out_conv{ours}", f"decode_head.bottleneck{theirs}"
        yield f"decoder.fpn_lateral_blocks.<2-i>.conv_norm_relu{ours}", f"decode_head.lateral_convs.<i>{theirs}"
        yield f"decoder.fpn_conv_blocks.<2-i>{ours}", f"decode_head.fpn_convs.<i>{theirs}"
        yield f"decoder.fusion_block{ours}", f"decode_head.fpn_bottleneck{theirs}"


_COUNTS = {"i": (1, 0), "j": (1, 0), "i+1": (1, 1), "3-i": (-1, 3), "2-i": (-1, 2)}
"""Numbers in templates: the factor and the offset that make them of i or j."""


class _Template:
    """A name with numbers."""

    def __init__(self, text: str):
        self.canonical = re.sub(r"\{(.*?)\|.*?\}", r"\1", text)
        self.counts = re.findall("<(.+?)>", text)
        pattern = re.sub(r"\{(.*?)\}", r"(?:\1)", text.replace(".", r"\."))
        self.pattern = re.compile(re.sub("<.+?>", r"(\\d{1,4})", pattern))

    def numbers(self, name: str) -> dict[str, int] | None:
        """Returns i and j in a name; None for a name of another form."""
        match = self.pattern.fullmatch(name)
        if match is None:
            return None
        found = {}
        for count, digits in zip(self.counts, match.groups(), strict=True):
            if digits is not None:
                factor, offset = _COUNTS[count]
                found[_letter(count)] = (int(digits) - offset) * factor
        return found if all(number >= 0 for number in found.values()) else None

    def name(self, numbers: Mapping[str, int]) -> str:
        """Returns the name with these numbers."""

        def text(match: re.Match[str]) -> str:
            factor, offset = _COUNTS[match[1]]
            return str(factor * numbers[_letter(match[1])] + offset)

        return re.sub("<(.+?)>", text, self.canonical)


def _letter(count: str) -> str:
    return "i" if "i" in count else "j"


_RULES = tuple((_Template(ours), tuple(map(_Template, theirs))) for ours, *theirs in _table())


def has_transformers_form(layers: Mapping[str, Any]) -> bool:
    """Returns True for the layers, by name, of a network that has the form of transformers and not smp's."""
    norm = layers.get("encoder_norm1")  # SegFormer's encoder
    return "encoder_hidden_states_norms_stage1" in layers or (norm is not None and norm.epsilon > 5e-6)


def is_transformers(keys: Iterable[str]) -> bool:
    """Returns True for the tensor names of a checkpoint of transformers that this module translates."""
    return any(key.startswith(FIRST) for key in keys)


def to_kseg(state: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns a checkpoint of transformers, arrays by key, with kseg's keys. Other keys stay as they are.

    Raises KsegError if a part of a tensor is missing: kseg has the weights of keys and values in one.
    """
    found: dict[str, np.ndarray] = {}
    parts: dict[str, dict[int, np.ndarray]] = {}
    for key, array in state.items():
        ours, position, count = _in_kseg(key)
        if ours in found or position in parts.get(ours, {}):
            raise KsegError(f"the checkpoint has {key} under two names")
        if count == 1:
            found[ours] = array
        else:
            parts.setdefault(ours, {})[position] = array
    for ours, arrays in parts.items():
        others = _in_transformers(ours)
        missing = [other for position, other in enumerate(others) if position not in arrays]
        if missing:
            raise KsegError(f"the checkpoint has no {missing[0]}")
        if len({array.shape for array in arrays.values()}) > 1:
            raise KsegError(f"the checkpoint's {' and '.join(others)} differ in shape")
        found[ours] = np.concatenate([arrays[position] for position in range(len(others))])
    return found


def to_transformers(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns a whole model's weights, arrays by kseg's keys, with those of a saved file of transformers.

    Raises KsegError for a key without a counterpart.
    """
    found: dict[str, np.ndarray] = {}
    for key, array in state.items():
        others = _in_transformers(key)
        if not others:
            raise KsegError(f"{key} has no counterpart in transformers")
        found |= zip(others, map(_contiguous, np.split(array, len(others)) if len(others) > 1 else [array]), strict=True)
    return found


def _in_kseg(key: str) -> tuple[str, int, int]:
    """Returns (kseg's key, the position of the tensor in it, the number of tensors that it holds)."""
    for path, rest in _paths(key):
        for ours, theirs in _RULES:
            for position, template in enumerate(theirs):
                numbers = template.numbers(path)
                if numbers is not None:
                    return ours.name(numbers) + rest, position, len(theirs)
    return key, 0, 1


def _in_transformers(key: str) -> list[str]:
    """Returns the keys of the tensors that kseg's tensor holds; none for a key that has no counterpart."""
    for path, rest in _paths(key):
        for ours, theirs in _RULES:
            numbers = ours.numbers(path)
            if numbers is not None:
                return [template.name(numbers) + rest for template in theirs]
    return []


def _paths(key: str) -> tuple[tuple[str, str], tuple[str, str]]:
    """Returns a key's module and tensor, and the key as a whole: rules for tensors that belong to no module of torch name it."""
    path, _, tensor = key.rpartition(".")
    return (path, f".{tensor}"), (key, "")


def _contiguous(array: np.ndarray) -> np.ndarray:
    """Returns the array in C's order. np.ascontiguousarray would make a single number an array of one."""
    return np.asarray(array, order="C")
