"""The one exception that entry points turn into a line and exit code 2."""

import difflib
from collections.abc import Iterable


class KsegError(ValueError):
    """A mistake its user can mend.

    The message is one line that says what was wrong, where (file, id or flag) and what to do. Entry points print it without a
    traceback and exit with code 2; in library use it is an ordinary ValueError.
    """


def suggest(name: str, known: Iterable[str]) -> str:
    """Returns "; did you mean a or b?" for names close to `name`, else the known names, for the end of an error message."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return f"; did you mean {' or '.join(close)}?"
    return f"; known: {', '.join(known)}."


def root_cause(error: BaseException) -> str:
    """What lies behind an error, in one short line."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return " ".join(f"{type(error).__name__}: {error}".split())[:160]
