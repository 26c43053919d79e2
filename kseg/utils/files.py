"""Writes files and folders atomically, reads JSON, and names the cache folder."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`, with the same name. If the block raises nothing, the file is synced and renamed to
    `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".tmp-") as folder:
        temporary = Path(folder) / path.name
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)


@contextlib.contextmanager
def atomic_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yields a temporary folder beside `path`. If the block raises nothing, its files are synced and it is renamed to `path`.

    replace: delete the folder that `path` names at that moment, if there is one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".tmp-") as work:
        temporary = Path(work) / path.name
        temporary.mkdir()
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                with file.open("rb") as opened:
                    os.fsync(opened.fileno())
        if replace and path.exists():
            path.rename(Path(work) / "replaced")
        temporary.rename(path)


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object. Returns {} if the file is missing or holds something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def cache_folder() -> Path:
    """Returns $KSEG_CACHE, by default ~/.cache/kseg. The folder may not exist, and deleting it loses only time."""
    return Path(os.environ.get("KSEG_CACHE") or "~/.cache/kseg").expanduser()


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask
