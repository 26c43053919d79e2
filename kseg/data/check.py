"""Checks every sample of a data set before a run starts, so that a bad file does not stop it hours later."""

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from kseg.config import DataConfig
from kseg.data import build_dataset
from kseg.data.dataset import BadSample, Dataset
from kseg.data.image_io import MISSING
from kseg.data.subset import Subset, base_sample, sample_notes
from kseg.utils.errors import KsegError
from kseg.utils.progress import progress_bar
from kseg.utils.system import usable_cores

Result = TypeVar("Result")

ON_BAD_SAMPLE = ("error", "skip")
"""Values of check_samples' on_bad_sample."""

_PROGRESS_AFTER = 2.0  # seconds; a shorter check shows no bar
_NAMES = 3  # samples that a line names
_BLOCK = 64  # samples queued per thread; bounds how much is still read after a bad sample


def check_samples(
    dataset: Dataset, on_bad_sample: str = "error", progress: bool = True, occurring: list[bytes] | None = None
) -> tuple[Dataset, list[str]]:
    """Loads every sample once, in one thread per CPU. Prints the notes about samples on stderr, one line for each kind.

    Args:
        dataset: the data set to check.
        on_bad_sample: "error" stops at the first bad sample, "skip" leaves bad samples out.
        progress: shows a progress bar on stderr if the check takes longer than 2 seconds.
        occurring: receives the label values of each good sample, sorted.

    Returns:
        The data set without its bad samples (the same object if there are none), and one line for each bad sample, in order.

    Raises:
        KsegError: for the first bad sample with on_bad_sample="error", or if no sample is left.
    """
    if on_bad_sample not in ON_BAD_SAMPLE:
        raise KsegError(f"on_bad_sample is {on_bad_sample!r}; choose {' or '.join(ON_BAD_SAMPLE)}.")
    if not len(dataset):
        raise KsegError("the data set has no samples; choose another split.")
    good, messages = [], []
    notes: dict[str, list[str]] = {}
    for index, result in enumerate(map_samples(dataset, lambda index: _check(dataset, index), progress=progress)):
        if isinstance(result, bytes):
            good.append(index)
            for note in sample_notes(dataset, index):
                notes.setdefault(note, []).append(dataset.name(index))
            if occurring is not None:
                occurring.append(result)
        elif on_bad_sample == "error":
            raise KsegError(f"{result} {_advice(dataset, index, result)}, or pass --on_bad_sample=skip.")
        else:
            messages.append(result)
    if not good:
        raise KsegError(f"all {len(messages)} samples are bad; the first: {messages[0]} Fix the files.")
    for note, names in notes.items():
        print(f"warning: {describe_note(note, names)}", file=sys.stderr, flush=True)
    return (Subset(dataset, good) if messages else dataset), messages


def describe_note(note: str, names: Sequence[str]) -> str:
    """Returns a line about the samples that a note is about."""
    shown = ", ".join(names[:_NAMES]) + (", ..." if len(names) > _NAMES else "")
    return f"{'1 image' if len(names) == 1 else f'{len(names)} images'} ({shown}): {note}"


def map_samples(
    dataset: Dataset, function: Callable[[int], Result], *, description: str = "checking samples", progress: bool = True
) -> Iterator[Result]:
    """Yields function(index) of every sample in order, computed in one thread per CPU. Shows a progress bar after 2 seconds."""
    threads = usable_cores()
    with (
        ThreadPoolExecutor(threads) as pool,
        progress_bar(len(dataset), description, delay=_PROGRESS_AFTER, disable=not progress) as bar,
    ):
        try:
            for start in range(0, len(dataset), threads * _BLOCK):
                for result in pool.map(function, range(start, min(start + threads * _BLOCK, len(dataset)))):
                    bar.update()
                    yield result
        finally:  # the caller may have stopped early
            pool.shutdown(wait=False, cancel_futures=True)


def _advice(dataset: Dataset, index: int, message: str) -> str:
    """Returns what to do about the first bad sample."""
    if not message.endswith(MISSING):
        return "Fix the file"
    base, place = base_sample(dataset, index)
    other = base.elsewhere(place) if hasattr(base, "elsewhere") else None
    return f"Move {other} there" if other else "Put it there"


def _check(dataset: Dataset, index: int) -> bytes | str:
    """The label values of a sample, or the message of a bad one."""
    try:
        return bytes(np.flatnonzero(np.bincount(dataset.load(index).label.ravel())).tolist())
    except BadSample as error:
        return str(error)


def open_split(
    config: DataConfig, split: str, *, labelled: bool = True, occurring: list[bytes] | None = None
) -> tuple[Dataset, list[str]]:
    """Opens a split (kseg.data.build_dataset) and checks it; see check_split."""
    dataset = build_dataset(config, split)
    return check_split(dataset, split, config.on_bad_sample, labelled=labelled, occurring=occurring)


def check_split(
    dataset: Dataset, split: str, on_bad_sample: str = "error", *, labelled: bool = True, occurring: list[bytes] | None = None
) -> tuple[Dataset, list[str]]:
    """Checks every sample of a split. Prints the data set's warnings on stderr.

    Args:
        dataset: the split.
        split: its name, for messages.
        on_bad_sample: see check_samples.
        labelled: refuses a split without any annotation, such as a test split.
        occurring: see check_samples.

    Returns:
        The data set without bad samples, and one line for each bad sample (see check_samples).

    Raises:
        KsegError: if the data set cannot be used, or a sample cannot and on_bad_sample is "error".
    """
    if labelled and not getattr(dataset, "labelled", True):
        raise KsegError(f"split {split} has no annotations, so it can neither train nor be scored; use it with kseg.predict.")
    for warning in getattr(dataset, "warnings", ()):
        print(f"warning: {warning}", file=sys.stderr, flush=True)
    return check_samples(dataset, on_bad_sample, occurring=occurring)
