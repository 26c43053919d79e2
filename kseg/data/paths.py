"""Patterns and file names of data sets, and how messages show them."""

import os
from collections.abc import Iterable
from pathlib import Path

from kseg.data.dataset import BadSample
from kseg.utils.errors import KsegError


def fill_in(pattern: str, split: str | None, argument: str) -> str:
    """Returns `pattern` with `{split}` replaced. Raises KsegError for any other brace, or if there is no split to replace it by.

    argument: the pattern's flag, for messages.
    """
    pattern = slashes(pattern)
    if {"{", "}"} & set(pattern.replace("{split}", "")):
        raise KsegError(f"--{argument}={pattern}: has braces other than {{split}}, the only placeholder; remove them.")
    if split is None and "{split}" in pattern:
        raise KsegError(f"--{argument}={pattern}: needs a split; pass split='train', or a pattern without {{split}}.")
    return pattern.replace("{split}", split or "")


def slashes(path: str) -> str:
    """Returns a path of Windows with the slashes of other systems."""
    return path.replace("\\", "/")


def unsafe(file_name: str) -> str | None:
    """Returns why a relative file name is refused, or None. Links are checked by `check_link`, when the file is read."""
    path = Path(os.path.normpath(file_name))
    if not file_name.strip() or not path.parts:
        return "names no file"
    if path.is_absolute() or path.parts[0] == os.pardir or path.parts[0][1:] == ":":
        return "leads out of its folder"
    try:
        os.fsencode(file_name)
    except UnicodeEncodeError:
        return "no file can have"
    return "no file can have" if "\0" in file_name else None


def check_link(path: Path, folders: Iterable[Path], shown: str) -> None:
    """Raises BadSample if `path`, its links followed, is in none of the (resolved) folders.

    --follow_links does without this check.
    """
    try:
        resolved = path.resolve()
    except (OSError, RuntimeError):  # a loop of links
        raise BadSample(f"{shown}: is a link that leads nowhere.") from None
    if not any(resolved.is_relative_to(folder) for folder in folders):
        raise BadSample(f"{shown}: is a link that leaves the data set's folder; --follow_links reads it.")


def printable(text: str) -> str:
    """Returns `text` for a message: on one line, with escapes where it has characters that cannot be printed."""
    return text if text.isprintable() else ascii(text)
