"""KsegError, which commands print as one line, and helpers for its message."""

import difflib
from collections.abc import Iterable


class KsegError(ValueError):
    """A mistake that the user can fix.

    The message is one line: what is wrong, where (file, id or flag) and what to do. Commands print it without a traceback and
    exit with code 2. In library use it is an ordinary ValueError.
    """


def suggest(name: str, known: Iterable[str]) -> str:
    """Returns the end of an error message: "; did you mean a or b?" with names close to `name`, else all known names."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return f"; did you mean {' or '.join(close)}?"
    return f"; known: {', '.join(known)}."


def root_cause(error: BaseException) -> str:
    """Returns the first error in a chain of causes as one line of at most 160 characters."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return " ".join(f"{type(error).__name__}: {error}".split())[:160]
