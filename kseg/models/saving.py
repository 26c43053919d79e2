"""Saves .keras files atomically, and loads them as untrusted files."""

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import keras

import kseg.models.auxiliary_head
import kseg.models.backbone
import kseg.models.classification_head
import kseg.models.decoders  # noqa: F401
from kseg.models.initializers import skip_random_init
from kseg.runtime.distribution import local_only
from kseg.utils.errors import KsegError
from kseg.utils.files import atomic_path

_MAX_RATIO, _ALWAYS_ALLOWED = 50, 2**28  # a .keras file may unpack to 50 times its size, or to 256 MiB


def save_model(model: keras.Model, path: Path, further: Mapping[str, str] | None = None) -> None:
    """Writes a .keras file, completely or not at all. Includes the optimizer's state if the model is compiled.

    further: texts that the file, a zip archive, has beside Keras's, by their name in it. Keras ignores them.
    """
    with local_only(), atomic_path(path) as temporary:
        model.save(temporary)
        with zipfile.ZipFile(temporary, "a") as archive:
            for name, text in (further or {}).items():
                archive.writestr(zipfile.ZipInfo(name), text)  # with the date of all archives: the same model, the same bytes


def load_model(path: str | os.PathLike) -> keras.Model:
    """Loads the model of a .keras file in Keras's safe mode, without optimizer and loss.

    Raises KsegError for a file that is missing, is not a Keras model, cannot be loaded, has paths that lead out of it, or
    unpacks to far more than its size.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            archive.getinfo("config.json")
            members = archive.infolist()
            unpacked, packed = sum(member.file_size for member in members), path.stat().st_size
    except FileNotFoundError:
        raise KsegError(f"{path}: no such file") from None
    except (OSError, KeyError, zipfile.BadZipFile):
        raise KsegError(f"{path}: not a .keras model file, or a damaged one") from None
    if leaving := [member.filename for member in members if Path(member.filename).is_absolute() or ".." in member.filename]:
        raise KsegError(f"{path}: holds a file {leaving[0][:80]!r}, which leads out of it; do not trust its source")
    if unpacked > max(_MAX_RATIO * packed, _ALWAYS_ALLOWED):  # Keras does not compress, and weights hardly compress
        raise KsegError(f"{path}: would unpack to {unpacked} bytes from {packed}; do not trust its source")
    try:
        with skip_random_init():
            return keras.saving.load_model(path, compile=False, safe_mode=True)
    except MemoryError:
        raise
    except Exception as error:  # unknown layers, layers that safe mode refuses, weights that do not fit
        reason = " ".join((str(error).strip().splitlines() or [type(error).__name__])[0].split())
        raise KsegError(f"{path}: Keras cannot load it ({reason})") from error
