"""Rewords errors: layers below name flags of the command line, which are keywords here."""

import contextlib
import re
from collections.abc import Iterator

from kseg.utils.errors import KsegError


@contextlib.contextmanager
def keyword_messages() -> Iterator[None]:
    """Turns `--name` into `name` in the message of a KsegError, unless the message names a command."""
    try:
        yield
    except KsegError as error:
        if error.args and "python -m" not in str(error) and "kseg.train" not in str(error):
            error.args = (re.sub(r"(?<![\w-])--(\w+)", r"\1", str(error)), *error.args[1:])
        raise
