"""Converts checkpoints between PyTorch and Keras."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kseg.config import ConvertConfig
from kseg.runtime.compilation_cache import enable_compilation_cache
from kseg.utils.errors import KsegError


def convert(config: ConvertConfig) -> str:
    """Converts a checkpoint and returns a summary to print. Raises KsegError for a mistake that the user can fix."""
    assert config.checkpoint is not None and config.output is not None  # ConvertConfig requires them
    checkpoint, out = Path(config.checkpoint), Path(config.output)
    kinds = (".keras",) if config.to == "keras" else (".safetensors", ".pth")
    if out.suffix not in kinds:
        raise KsegError(f"--output={out}: with --to={config.to} its name must end with {' or '.join(kinds)}")
    if out.exists() and not config.overwrite:
        raise KsegError(f"--output={out} exists; name another file, or pass --overwrite")
    if not checkpoint.is_file():
        raise KsegError(f"--checkpoint={checkpoint}: no such file")
    if config.to == "keras":
        _check_foreign(checkpoint)
    enable_compilation_cache(config.compilation_cache)
    try:
        return _to_keras(config, checkpoint, out) if config.to == "keras" else _to_torch(checkpoint, out)
    except OSError as error:
        raise KsegError(f"--output={out}: {error.strerror or error}") from None


def _check_foreign(checkpoint: Path) -> None:
    """Raises KsegError for the weights of a model folder, which is a kseg model already."""
    from kseg.models.model_folder import is_model_folder

    if checkpoint.suffix == ".safetensors" and is_model_folder(checkpoint.parent):
        raise KsegError(
            f"--checkpoint={checkpoint}: belongs to a kseg model, the folder {checkpoint.parent}, and is no PyTorch checkpoint; "
            "kseg.train --init and the --model of other commands take the folder"
        )


def _to_keras(config: ConvertConfig, checkpoint: Path, out: Path) -> str:
    from kseg.models.build import build_model
    from kseg.models.pytorch.load import load_torch_weights
    from kseg.models.saving import save_model

    assert config.model is not None and config.num_classes is not None  # ConvertConfig requires them
    model = build_model(
        config.model,
        num_classes=config.num_classes,
        backbone=config.backbone,
        output_stride=config.output_stride,
        input_shape=(None, None, config.in_channels),
    )
    source = None if config.source == "auto" else config.source
    loaded = load_torch_weights(model, checkpoint, source=source, reset_head=config.reset_head)
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
