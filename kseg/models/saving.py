"""Model files, .keras: written whole or not at all, and read as files from outside, which are not to be trusted."""

import os
import zipfile
from pathlib import Path

import keras

import kseg.models.auxiliary_head
import kseg.models.backbone
import kseg.models.decoders  # noqa: F401
from kseg.models.initializers import skip_random_init
from kseg.runtime.distribution import local_only
from kseg.utils.errors import KsegError
from kseg.utils.files import atomic_path

_INFLATED, _SMALL = 50, 2**28  # A .keras file may unpack to so many times its size, or to so many bytes.


def save_model(model: keras.Model, path: Path) -> None:
    """Writes a .keras file (with the optimizer's state if the model is compiled) whole or not at all."""
    with local_only(), atomic_path(path) as temporary:
        model.save(temporary)


def load_model(path: str | os.PathLike) -> keras.Model:
    """Loads a .keras file, with Keras's safe mode on; not its optimizer and loss.

    Raises KsegError if the file is missing, no Keras model, cannot be
    loaded, or holds paths that lead out of it or more than it can have room for.
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
        raise KsegError(f"{path}: holds a file {leaving[0][:80]!r}, which leads out of it; do not trust where it is from")
    if unpacked > max(_INFLATED * packed, _SMALL):  # Keras does not compress, and weights hardly can be
        raise KsegError(f"{path}: would unpack to {unpacked} bytes from {packed}; do not trust where it is from")
    try:
        with skip_random_init():
            return keras.saving.load_model(path, compile=False, safe_mode=True)
    except MemoryError:
        raise
    except Exception as error:  # a layer of other code than Keras and kseg, one that safe mode refuses, weights that do not fit
        reason = " ".join((str(error).strip().splitlines() or [type(error).__name__])[0].split())
        raise KsegError(f"{path}: Keras cannot load it ({reason})") from error
