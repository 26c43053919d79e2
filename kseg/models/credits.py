"""The model that weights started from, and the licence of its weights: for messages and model cards."""

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from kseg.config.fields import REPOSITORY
from kseg.utils.errors import KsegError

_RESTRICTED = re.compile(r"\bother\b|\bnc\b|non-?commercial|no commercial|research", re.IGNORECASE)
_LONGEST = 200


@dataclass(frozen=True)
class Credits:
    """Names what a model's weights started from.

    base_model: the repository of the Hub, owner/name. licence: of its weights. None where unknown. Raises KsegError for other
    names, and for a text that no message can show.
    """

    base_model: str | None = None
    licence: str | None = None

    def __post_init__(self):
        for name, value in vars(self).items():
            if value is not None and not (isinstance(value, str) and value.isprintable() and 0 < len(value) <= _LONGEST):
                raise KsegError(f"{name}: expected 1 to {_LONGEST} characters that can be printed")
        if self.base_model is not None and not re.fullmatch(REPOSITORY, self.base_model):
            raise KsegError(f"base_model {self.base_model[:40]!r}: expected owner/name")

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "Credits":
        """Reads what `members` returned."""
        return cls(content.get("base_model"), content.get("licence"))

    def members(self) -> dict[str, str]:
        """Returns what is known, for a JSON file."""
        return {name: value for name, value in vars(self).items() if value is not None}

    @property
    def restricted(self) -> bool:
        """True for a licence that does not allow every use, such as commercial use, or that has no common name."""
        return self.licence is not None and _RESTRICTED.search(self.licence) is not None


NO_CREDITS = Credits()


@cache  # once a process
def print_licence(what: str, licence: str) -> None:
    """Prints, to stderr, the licence that weights are under. what: their repository."""
    print(f"note: the weights {what} are under {licence}", file=sys.stderr, flush=True)
