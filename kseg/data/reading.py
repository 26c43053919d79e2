"""How a source reads a split: what it decided, for the user to look at before training."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Reading:
    """What a source decided about a split.

    source: the source and its files. meanings: (value, colour or category, what it became) pairs, in the file's order. left_out:
    a line for each kind of thing that was left out.
    """

    source: str
    meanings: tuple[tuple[str, str], ...]
    left_out: tuple[str, ...] = ()
