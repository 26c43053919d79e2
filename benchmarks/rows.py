"""Keeps the rows of a long measurement in a file, so that a run that was stopped goes on where it ended."""

import argparse
import json
from pathlib import Path
from typing import Any

from kseg.utils.errors import KsegError

Row = dict[str, Any]


def add_rows_argument(parser: argparse.ArgumentParser) -> None:
    """Adds --rows."""
    parser.add_argument(
        "--rows",
        type=Path,
        metavar="FILE",
        help="keep each row in FILE as it is got; those that FILE holds are not measured again",
    )


class Rows:
    """Rows by key, from and to a file of JSON lines. The first line holds the settings.

    Rows with "failed" are tried again: they are not among `done`. Without a path nothing is kept. Raises KsegError if the file
    is not such a file, or if it holds rows of other settings, which would not be comparable.
    """

    def __init__(self, path: Path | None, settings: Row):
        self.path, self.done = path, {}
        head = {"settings": settings}
        if path is None:
            return
        if path.exists():
            found, *rows = self._read(path)
            if found != json.loads(json.dumps(head)):
                raise KsegError(f"--rows={path}: holds rows of other settings ({found.get('settings')}); name another file")
            self.done = {row["key"]: row for row in rows if "failed" not in row}
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(head) + "\n", encoding="utf-8")

    def add(self, key: str, row: Row) -> Row:
        """Adds a row under its key, and returns it with the key."""
        row = {"key": key, **row}
        if "failed" not in row:
            self.done[key] = row
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        return row

    @staticmethod
    def _read(path: Path) -> list[Row]:
        """The lines of the file; a last one that is half written, from a run that was killed, is cut off."""
        text = path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]
        try:
            lines = [json.loads(line) for line in whole.splitlines()]
        except ValueError:
            lines = []
        if not lines or not all(isinstance(line, dict) for line in lines) or not all("key" in line for line in lines[1:]):
            raise KsegError(f"--rows={path}: holds no rows of a benchmark; name another file")
        if whole != text:
            path.write_text(whole, encoding="utf-8")
        return lines
