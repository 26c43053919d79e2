"""Writes, loads and uploads model folders."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from kseg.config import HubConfig
from kseg.config.fields import REPOSITORY
from kseg.utils.errors import KsegError, root_cause

if TYPE_CHECKING:
    import keras

    from kseg.inference.source import Source
    from kseg.models.model_folder import SharedModel
    from kseg.models.model_info import ModelInfo


def save_folder(
    source: "str | os.PathLike | keras.Model",
    folder: str | os.PathLike,
    *,
    info: "ModelInfo | None" = None,
    overwrite: bool = False,
) -> None:
    """Writes a model folder atomically: config.json and model.safetensors; for a run also README.md and its figures.

    source: a run directory, or a model from build_model with its `info` (kseg.models.model_info.ModelInfo). overwrite: replace an
    earlier model folder. Raises KsegError if the run has no model or scores, or if `info` does not describe the model.
    """
    from kseg.inference.source import find_source
    from kseg.models.model_folder import write_model_folder

    if isinstance(source, (str, os.PathLike)):
        config = HubConfig(model=os.fspath(source), output=os.fspath(folder), overwrite=overwrite)
        _write_run(find_source(os.fspath(source)), config)
    elif info is None:
        raise KsegError("save_folder: a model does not record its class names; pass info=ModelInfo(...)")
    else:
        write_model_folder(source, info, Path(folder), {}, overwrite=overwrite)


def load_folder(source: str | os.PathLike, revision: str | None = None) -> "SharedModel":
    """Loads a model folder, or a repository of the Hub: owner/name or hf://owner/name[@revision]. Runs no code from it.

    revision: a branch, tag or commit of the repository. Returns a SharedModel with `model` (images [B, H, W, 3], RGB in 0..255,
    to logits [B, H, W, num_classes]), `class_names` and `info`. Raises KsegError if there is no such folder or repository, or if
    kseg.hub did not write it.
    """
    from kseg.models.model_folder import find_model_folder

    return find_model_folder(source, revision).load()


def push(folder: str | os.PathLike, repository: str, *, private: bool = True) -> str:
    """Uploads a model folder to a repository of the Hub in one commit and returns the repository's address.

    Uploads only the files that kseg.hub writes. Creates the repository if needed. private: the repository must be private.
    Authenticates with the token of `hf auth login` or HF_TOKEN. Raises KsegError if a file is missing, the Hub refuses, or the
    repository is public against `private`.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError

    import kseg
    from kseg.models.model_folder import folder_files
    from kseg.models.model_info import read_info

    if not re.fullmatch(REPOSITORY, repository):
        raise KsegError(f"{repository}: expected owner/name, of letters, digits, '.', '_' and '-'")
    info = read_info(Path(folder))
    operations = [CommitOperationAdd(name, path) for name, path in folder_files(Path(folder)).items()]
    api = HfApi(library_name="kseg", library_version=kseg.__version__)
    try:
        address = api.create_repo(repository, private=private, exist_ok=True)
        if private and not api.repo_info(repository).private:
            raise KsegError(f"{repository} exists and is public; make it private on its page, or pass --noprivate")
        api.create_commit(repository, operations, commit_message=f"{info.model} on {info.backbone}, by kseg {kseg.__version__}")
    except KsegError:
        raise
    except Exception as error:  # network and protocol errors of huggingface_hub and the libraries below it
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
        message = (
            error.server_message if isinstance(error, HfHubHTTPError) else str(error) if isinstance(error, ValueError) else None
        )
        reason = " ".join((message or root_cause(error)).split())
        if token := get_token():  # a server may repeat it in its answer
            reason = reason.replace(token, "***")
        login = "; log in with `hf auth login`, or set HF_TOKEN to a token with write access" if status in (401, 403) else ""
        raise KsegError(f"cannot push to {repository}: {reason}{login}") from None
    return str(address)


def share(config: HubConfig) -> Iterator[str]:
    """Writes the model folder of a run and uploads it, or uploads a model folder; yields a line after each step."""
    from kseg.inference.source import find_source

    assert config.model is not None  # HubConfig requires it
    source = find_source(config.model)
    folder = Path(config.output or source.path)
    if source.folder is None:
        _write_run(source, config)
        yield f"wrote   {folder}: config.json, model.safetensors, README.md; read README.md before you share it"
    elif source.folder.library != "kseg":
        _write_published(source, config)
        yield f"wrote   {folder}: config.json, model.safetensors, README.md; read README.md before you share it"
    elif source.folder.files.repository is not None:
        raise KsegError(f"--model={source.name}: is on the Hub; name a run directory or a local model folder")
    elif config.output is not None:
        raise KsegError(f"--output={folder}: --model={source.name} is a model folder already; leave --output out")
    if config.push is not None:
        address = push(folder, config.push, private=config.private)
        yield f"pushed  {address}{' (private)' if config.private else ''}"


def _write_published(source: "Source", config: HubConfig) -> None:
    """Writes a folder of kseg for a model that another library published."""
    from kseg.models.model_folder import check_free, write_model_folder
    from kseg.sharing.model_card import LIBRARIES, published_card

    folder, info = source.folder, source.info
    assert folder is not None and info is not None  # the source is a folder
    if config.output is None:
        raise KsegError(
            f"--model={source.name}: is a folder of {LIBRARIES[folder.library]}; name the folder to write: --output=DIR"
        )
    if folder.unrecorded:
        raise KsegError(
            f"--model={source.name}: does not record {' and '.join(sorted(folder.unrecorded))}; write the folder in Python: "
            "kseg.load(NAME, class_names=[...], image_size=...).save(FOLDER)"
        )
    check_free(Path(config.output), config.overwrite)
    card = {"README.md": published_card(info, folder.library, config)}
    write_model_folder(source.load(), info, Path(config.output), card, overwrite=config.overwrite)


def _write_run(source: "Source", config: HubConfig) -> None:
    from kseg.models.model_folder import check_free, describe_model, write_model_folder
    from kseg.sharing.model_card import card_files

    if source.run is None or source.config is None:
        raise KsegError(
            f"--model={source.name}: is not a run directory, which has the class names and scores for the model card; name one, "
            "or write a folder without a card in Python: kseg.hub.save_folder(model, folder, info=ModelInfo(...))"
        )
    if config.output is None:
        raise KsegError("--output is missing: name the folder to write")
    folder, trained = Path(config.output), source.config
    check_free(folder, config.overwrite)
    if source.class_names is None:
        raise KsegError(f"--model={source.name}: the run stopped before its evaluation; finish it with kseg.train --resume")
    model = source.load()
    info = describe_model(model, trained, source.class_names, source.credits)
    write_model_folder(model, info, folder, card_files(source.run, trained, info, config), overwrite=config.overwrite)
