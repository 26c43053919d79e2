"""Does the work of Segmenter.save."""

from pathlib import Path

import keras

from kseg.models.model_folder import write_model_folder
from kseg.models.model_info import KERAS_MEMBER, ModelInfo
from kseg.models.saving import save_model
from kseg.utils.errors import KsegError


def save_as(path: Path, model: keras.Model, info: ModelInfo | None, *, overwrite: bool) -> None:
    """Writes a .keras file, if the path ends so, or a model folder.

    info: the model's description; None if its architecture is unknown. Raises KsegError if the path exists or cannot be written.
    """
    if path.suffix != ".keras":
        if info is None:
            raise KsegError(f"{path}: the model does not record its architecture, which a folder needs; name a file NAME.keras")
        write_model_folder(model, info, path, {}, overwrite=overwrite)
        return
    if path.is_dir() or (path.exists() and not overwrite):
        raise KsegError(f"{path} exists; name another file{'' if path.is_dir() else ', or pass overwrite=True'}")
    try:
        save_model(model, path, {} if info is None else {KERAS_MEMBER: info.to_json()})
    except OSError as error:
        raise KsegError(f"{path}: cannot be written ({error.strerror or error})") from None
