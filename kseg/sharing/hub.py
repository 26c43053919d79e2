"""Writes, loads and uploads model folders."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from kseg.config import HubConfig
from kseg.config.share import REPOSITORY
from kseg.utils.errors import KsegError, root_cause

if TYPE_CHECKING:
    import keras

    from kseg.models.model_folder import SharedModel
    from kseg.models.model_info import ModelInfo


def save_folder(
    source: "str | os.PathLike | keras.Model",
    folder: str | os.PathLike,
    *,
    info: "ModelInfo | None" = None,
    overwrite: bool = False,
) -> None:
    """Writes a model folder, whole or not at all: config.json, model.safetensors, and of a run also README.md with its figures.

    source: a run directory, or a model of build_model with `info`, what it is (kseg.models.model_info.ModelInfo). overwrite: an earlier
    model folder is replaced. Raises KsegError if there is nothing to save, or it is not what build_model would build.
    """
    from kseg.models.model_folder import write_model_folder

    if isinstance(source, (str, os.PathLike)):
        share_run(HubConfig(run_dir=os.fspath(source), folder=os.fspath(folder), overwrite=overwrite))
    elif info is None:
        raise KsegError("save_folder: a model does not say what its classes are; pass info=ModelInfo(...)")
    else:
        write_model_folder(source, info, Path(folder), {}, overwrite=overwrite)


def load_folder(source: str | os.PathLike, revision: str | None = None) -> "SharedModel":
    """Loads a model folder, or a repository of the Hub by its name, owner/name; runs no code from it.

    revision: of the repository: a branch, tag or commit. Returns a SharedModel: its `model` maps images [B, H, W, 3], RGB in
    0..255, to logits [B, H, W, classes]; `class_names` and `info` say the rest. Raises KsegError, one line, if there is no such
    folder or repository, or it is not what kseg.hub writes.
    """
    from kseg.models.model_folder import WEIGHTS, SharedModel, build_described, largest_file, read_weights
    from kseg.models.model_info import CONFIG, MAX_CONFIG, member, parse_info, read_info
    from kseg.models.pretrained import download

    folder, name = Path(source), os.fspath(source)
    if folder.is_dir():
        if revision is not None:
            raise KsegError(f"{name}: is a folder, which has no revisions; leave revision out")
        info = read_info(folder)
        model = build_described(info, folder / CONFIG)
        read_weights(model, member(folder, WEIGHTS))
        return SharedModel(model, info)
    if not re.fullmatch(REPOSITORY, name):
        raise KsegError(f"{name}: no such folder, and no name of a repository (owner/name)")
    instead = "load the folder that it is in"
    config = download(name, revision, CONFIG, limit=MAX_CONFIG, instead=instead)
    if re.fullmatch("[0-9a-f]{40}", config.parent.name):  # the cache's folder of a commit: the weights must be of the same
        revision = config.parent.name
    info = parse_info(config, f"{name}: {CONFIG}")
    model = build_described(info, f"{name}: {CONFIG}")
    read_weights(model, download(name, revision, WEIGHTS, limit=largest_file(model), instead=instead))
    return SharedModel(model, info)


def push(folder: str | os.PathLike, repository: str, *, private: bool = True) -> str:
    """Uploads a model folder's own files to a repository of the Hub, made if it is not there, in one commit; returns its address.

    private: as for --private. Logs in with the token of `hf auth login` or HF_TOKEN. Raises KsegError if the folder is not whole,
    the Hub refuses, or the repository is public and was to be private.
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
            raise KsegError(f"{repository} is there and public; make it private on its page, or pass --noprivate")
        api.create_commit(repository, operations, commit_message=f"{info.model} on {info.backbone}, by kseg {kseg.__version__}")
    except KsegError:
        raise
    except Exception as error:  # network and protocol errors of huggingface_hub and what it is built on
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
        told = (
            error.server_message if isinstance(error, HfHubHTTPError) else str(error) if isinstance(error, ValueError) else None
        )
        reason = " ".join((told or root_cause(error)).split())
        if token := get_token():  # a server may put it into what it answers
            reason = reason.replace(token, "***")
        login = "; log in with `hf auth login`, or set HF_TOKEN to a token that may write there" if status in (401, 403) else ""
        raise KsegError(f"cannot push to {repository}: {reason}{login}") from None
    return str(address)


def share_run(config: HubConfig) -> None:
    from kseg.models.model_folder import check_free, normalization_of, write_model_folder
    from kseg.models.model_info import ModelInfo
    from kseg.models.saving import load_model
    from kseg.runtime.run_dir import RunDir
    from kseg.sharing.model_card import card_files

    assert config.run_dir is not None and config.folder is not None  # the callers' configs have them
    folder = Path(config.folder)
    check_free(folder, config.overwrite)
    run = RunDir(config.run_dir)
    trained = run.read_config()
    names = run.read_class_names()
    if names is None:
        raise KsegError(f"--run_dir={run.path}: the run was stopped before its evaluation; go on with it: --resume")
    model = load_model(run.newest_model())
    info = ModelInfo(
        model=trained.model,
        class_names=names,
        image_size=trained.image_size,
        backbone=trained.backbone,
        output_stride=trained.output_stride,
        normalization=normalization_of(model),
        input_shape=tuple(model.input.shape[1:]),
        precision=trained.optimization.precision,
    )
    write_model_folder(model, info, folder, card_files(run, trained, info, config), overwrite=config.overwrite)
