"""Reads the base model and the licence from the README.md of a folder of another library."""

import re

from kseg.config.fields import REPOSITORY
from kseg.models.backbones.mix_transformer import LICENCE as NVIDIAS
from kseg.models.credits import Credits
from kseg.models.folder_files import FolderFiles
from kseg.utils.errors import KsegError

CARD = "README.md"
_MAX_CARD = 2**20  # bytes
_NVIDIAS = re.compile(r"nvidia/(?:segformer|mit)-b\d", re.IGNORECASE)


def read_credits(files: FolderFiles) -> Credits:
    """Returns a repository and its licence, by the metadata of README.md; of a local folder, the base model that it names."""
    metadata = _metadata(files)
    licence, base = _value(metadata, "license"), _value(metadata, "base_model")
    if base is not None and not re.fullmatch(REPOSITORY, base):
        base = None
    if licence == "other":
        licence = _value(metadata, "license_name") or "other terms, which its page names"
    named = next(filter(None, (known_licence(name) for name in (files.repository, base) if name)), None)
    return Credits(files.repository or base, named or licence)


def known_licence(repository: str) -> str | None:
    """Returns the licence of NVIDIA's weights of SegFormer and its backbones; None for other repositories, owner/name."""
    return NVIDIAS if _NVIDIAS.match(repository) else None


def _metadata(files: FolderFiles) -> str:
    """Returns the YAML at the top of README.md; nothing if it has none, or cannot be had."""
    try:
        if not files.has(CARD):
            return ""
        text = files.get(CARD, _MAX_CARD).read_text(encoding="utf-8", errors="replace")
    except (KsegError, OSError):
        return ""
    found = re.match(r"\s*---[ ]*\n(.*?)\n---", text, re.DOTALL)
    return "" if found is None else found[1]


def _value(metadata: str, name: str) -> str | None:
    """Returns a value of a few words, or the first of a list. Reads lines, so that no parser sees a stranger's YAML."""
    found = re.search(rf"""^{name}:[ ]*(?:\n[ ]*-[ ]+)?["']?([\w./+ -]{{1,100}}?)["']?[ ]*$""", metadata, re.MULTILINE)
    return None if found is None else found[1].strip() or None
