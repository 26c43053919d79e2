"""The files of a model folder: a local one, or a repository of the Hugging Face Hub at one commit."""

from dataclasses import dataclass
from pathlib import Path

from kseg.models.hub_files import download, has_file
from kseg.utils.errors import KsegError

_INSTEAD = "load the folder that it is in"


@dataclass(frozen=True)
class FolderFiles:
    """A folder, or a repository's folder in the Hub's cache, whose files are fetched when they are asked for.

    name: as the user gave it. path: the folder. repository: owner/name, or None. revision: of the repository.
    """

    name: str
    path: Path
    repository: str | None = None
    revision: str | None = None

    def has(self, name: str) -> bool:
        """Returns True if there is such a file. Where the Hub does not answer, those in its cache count."""
        return (self.path / name).exists() or (self.repository is not None and has_file(self.repository, self.revision, name))

    def get(self, name: str, limit: int) -> Path:
        """Returns the path of a file. limit: in bytes.

        Raises KsegError if it is missing, larger than the limit, leads out of the folder, or differs from the Hub's hash.
        """
        if self.repository is not None:
            return download(self.repository, self.revision, name, limit=limit, instead=_INSTEAD)
        path = member(self.path, name)
        if (size := path.stat().st_size) > limit:
            raise KsegError(f"{self.path / name}: has {size} bytes; the model that config.json describes has at most {limit}")
        return path

    def shown(self, name: str) -> str:
        """Returns a file's name for messages."""
        return str(self.path / name) if self.repository is None else f"{self.name}: {name}"


def member(folder: Path, name: str) -> Path:
    """Returns the path of a file in a folder. Raises KsegError if it is missing, not a file, or a link out of the folder."""
    path = folder / name
    try:
        found = path.resolve(strict=True)
        inside = found.is_relative_to(folder.resolve())
    except (OSError, RuntimeError):
        raise KsegError(f"{path}: no such file") from None
    if not inside:
        hint = "; pass owner/name for what is in the Hub's cache" if "snapshots" in folder.absolute().parts else ""
        raise KsegError(f"{path}: is a link out of the folder, and is not followed{hint}")
    if not found.is_file():
        raise KsegError(f"{path}: is not a file")
    return found
