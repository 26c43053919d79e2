"""Converts checkpoints between PyTorch and Keras."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kseg.config import ConvertConfig
from kseg.runtime.compilation_cache import enable_compilation_cache
from kseg.utils.errors import KsegError

if TYPE_CHECKING:
    import keras

    from kseg.models.model_info import ModelInfo


def convert(config: ConvertConfig) -> str:
    """Converts a checkpoint and returns a summary to print. Raises KsegError for a mistake that the user can fix."""
    assert config.checkpoint is not None and config.output is not None  # ConvertConfig requires them
    checkpoint, out = Path(config.checkpoint), Path(config.output)
    kinds = {"keras": (".keras",), "torch": (".safetensors", ".pth")}.get(config.to)  # of smp and transformers, any folder
    if kinds and out.suffix not in kinds:
        raise KsegError(f"--output={out}: with --to={config.to} its name must end with {' or '.join(kinds)}")
    if out.exists() and not config.overwrite:
        raise KsegError(f"--output={out} exists; name another file, or pass --overwrite")
    if not checkpoint.is_file():
        raise KsegError(f"--checkpoint={checkpoint}: no such file")
    if config.to == "keras":
        _check_foreign(checkpoint)
    enable_compilation_cache(config.compilation_cache)
    try:
        if config.to == "keras":
            return _to_keras(config, checkpoint, out)
        return _to_torch(checkpoint, out) if config.to == "torch" else _to_folder(config, checkpoint, out)
    except OSError as error:
        raise KsegError(f"--output={out}: {error.strerror or error}") from None


def _check_foreign(checkpoint: Path) -> None:
    """Raises KsegError for the weights of a model folder, which is a kseg model already."""
    from kseg.models.model_folder import is_kseg_folder

    if checkpoint.suffix == ".safetensors" and is_kseg_folder(checkpoint.parent):
        raise KsegError(
            f"--checkpoint={checkpoint}: belongs to a kseg model, the folder {checkpoint.parent}, and is no PyTorch checkpoint; "
            "kseg.train --init and the --model of other commands take the folder"
        )


def _to_keras(config: ConvertConfig, checkpoint: Path, out: Path) -> str:
    from kseg.models.build import build_model
    from kseg.models.options import read_options
    from kseg.models.pytorch.load import classification_classes, load_torch_weights, read_state_dict
    from kseg.models.saving import save_model

    assert config.model is not None and config.num_classes is not None  # ConvertConfig requires them
    state, classification = read_state_dict(checkpoint), {}
    if config.classification != "none":
        try:
            classification = {"pooling": config.classification, "classes": classification_classes(state)}
        except KsegError as error:
            raise KsegError(f"--checkpoint={checkpoint}: {error}") from None
    model = build_model(
        config.model,
        num_classes=config.num_classes,
        backbone=config.backbone,
        output_stride=config.output_stride,
        input_shape=(None, None, config.in_channels),
        classification=classification or False,
        **read_options(config.model, config.model_options),
    )
    source = None if config.source == "auto" else config.source
    loaded = load_torch_weights(model, state, source=source, reset_head=config.reset_head)
    save_model(model, out)
    lines = [f"read    {checkpoint}, {loaded.tensors} tensors, with names of {' and '.join(loaded.sources)}"]
    lines.append(f"sha256  {hashlib.sha256(checkpoint.read_bytes()).hexdigest()}")
    if loaded.left_out:
        lines.append(f"unused  {', '.join(loaded.left_out)}")
    return "\n".join([*lines, f"wrote   {out}"])


def _to_torch(checkpoint: Path, out: Path) -> str:
    from kseg.models.pytorch.export import export_torch_weights
    from kseg.models.saving import load_model

    state = export_torch_weights(load_model(checkpoint))
    write_state_dict(state, out)
    return f"wrote   {out}, {len(state)} tensors"


def _to_folder(config: ConvertConfig, checkpoint: Path, out: Path) -> str:
    """Writes a folder for from_pretrained of smp or of transformers."""
    from safetensors.numpy import save

    from kseg.models.model_info import read_file_info
    from kseg.models.saving import load_model
    from kseg.models.smp_config import is_smp_folder
    from kseg.models.transformers_config import is_transformers_folder
    from kseg.utils.files import atomic_folder

    if out.exists() and not (is_smp_folder if config.to == "smp" else is_transformers_folder)(out):
        raise KsegError(f"--output={out}: is no folder of {config.to}'s, so it is not replaced; name another folder")
    info = read_file_info(checkpoint)
    if info is None:
        raise KsegError(f"--checkpoint={checkpoint}: does not record its architecture; name a model.keras of kseg.train")
    state, files = (_for_smp if config.to == "smp" else _for_transformers)(load_model(checkpoint), info)
    with atomic_folder(out, replace=config.overwrite) as temporary:
        for name, content in files.items():
            (temporary / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        (temporary / "model.safetensors").write_bytes(save(state, metadata={"format": "pt"}))
    wrote = f"wrote   {out}, {len(state)} tensors"
    if config.to == "transformers":  # preprocessor_config.json has them
        return wrote
    normalization = f"mean {info.normalization[0]}, std {info.normalization[1]}" if info.normalization else "none"
    return f"{wrote}\nnormalize images in 0..1 before the model: {normalization}"


def _for_smp(model: "keras.Model", info: "ModelInfo") -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns smp's weights and, by name, the JSON files beside them."""
    from kseg.models.classification_head import aux_params
    from kseg.models.smp_config import smp_config
    from kseg.models.smp_weights import smp_state

    state, binary = smp_state(model)
    head = aux_params(model)
    return state, {"config.json": smp_config(info, binary=binary) | ({"aux_params": head} if head else {})}


def _for_transformers(model: "keras.Model", info: "ModelInfo") -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns transformers' weights and, by name, the JSON files beside them."""
    from kseg.models.pytorch.export import export_transformers_weights
    from kseg.models.transformers_config import transformers_config
    from kseg.models.transformers_processor import PROCESSOR, processor_config

    files = {"config.json": transformers_config(info), PROCESSOR: processor_config(info)}
    return export_transformers_weights(model), files


def write_state_dict(state: Mapping[str, Any], path: Path) -> None:
    """Writes arrays by key as .safetensors, or as .pth for torch.load. Writes the complete file or none."""
    from kseg.utils.files import atomic_path

    with atomic_path(path) as temporary:
        if path.suffix == ".safetensors":
            from safetensors.numpy import save_file

            save_file(dict(state), temporary)
            return
        try:
            import torch
        except ModuleNotFoundError:
            raise KsegError(f"--output={path}: writing it needs torch; install it, or write a .safetensors") from None
        torch.save({key: torch.from_numpy(array) for key, array in state.items()}, temporary)
