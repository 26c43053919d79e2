"""Looks at every sample of a data set before a run starts, so that a bad file does not end it hours later."""

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from kseg.config import DataConfig
from kseg.data import build_dataset
from kseg.data.dataset import BadSample, Dataset
from kseg.data.subset import Subset
from kseg.utils.errors import KsegError
from kseg.utils.progress import progress_bar
from kseg.utils.system import usable_cores

Result = TypeVar("Result")

ON_BAD_SAMPLE = ("error", "skip")
"""What check_samples can do about a bad sample."""

_PROGRESS_AFTER = 2.0  # Seconds; a shorter check shows no bar.
_BLOCK = 64  # Samples a thread is given ahead; bounds what is queued, and how much is read after a bad sample.


def check_samples(
    dataset: Dataset, on_bad_sample: str = "error", progress: bool = True, occurring: list[bytes] | None = None
) -> tuple[Dataset, list[str]]:
    """Loads every sample once, with a thread for each CPU.

    Args:
        dataset: what to check.
        on_bad_sample: "error" stops at the first bad sample, "skip" leaves bad samples out.
        progress: shows a bar on stderr if it takes longer than 2 seconds.
        occurring: receives the values that occur in the label map of each good sample.

    Returns:
        The data set without its bad samples (the same object if it has none), and one line for each bad sample, in order.

    Raises:
        KsegError: with "error", for the bad sample of the lowest index; with either, if no sample is left.
    """
    if on_bad_sample not in ON_BAD_SAMPLE:
        raise KsegError(f"on_bad_sample is {on_bad_sample!r}; choose {' or '.join(ON_BAD_SAMPLE)}.")
    if not len(dataset):
        raise KsegError("the data set has no samples; choose another split.")
    good, messages = [], []
    for index, seen in enumerate(map_samples(dataset, lambda index: _look(dataset, index), progress=progress)):
        if isinstance(seen, bytes):
            good.append(index)
            if occurring is not None:
                occurring.append(seen)
        elif on_bad_sample == "error":
            raise KsegError(f"{seen} Fix the file, or pass --on_bad_sample=skip.")
        else:
            messages.append(seen)
    if not good:
        raise KsegError(f"all {len(messages)} samples are bad; the first: {messages[0]} Fix the files.")
    return (Subset(dataset, good) if messages else dataset), messages


def map_samples(
    dataset: Dataset, look: Callable[[int], Result], *, description: str = "checking samples", progress: bool = True
) -> Iterator[Result]:
    """Yields look(index) of every sample in order, computed with a thread for each CPU and, after 2 seconds, a bar on stderr."""
    threads = usable_cores()
    with (
        ThreadPoolExecutor(threads) as pool,
        progress_bar(len(dataset), description, delay=_PROGRESS_AFTER, disable=not progress) as bar,
    ):
        try:
            for start in range(0, len(dataset), threads * _BLOCK):
                for result in pool.map(look, range(start, min(start + threads * _BLOCK, len(dataset)))):
                    bar.update()
                    yield result
        finally:  # The reader may have seen enough.
            pool.shutdown(wait=False, cancel_futures=True)


def _look(dataset: Dataset, index: int) -> bytes | str:
    """The values that occur in a sample's label map, or what is wrong with the sample."""
    try:
        return bytes(np.flatnonzero(np.bincount(dataset.load(index).label.ravel())).tolist())
    except BadSample as error:
        return str(error)


def open_split(
    config: DataConfig, split: str, *, labelled: bool = True, occurring: list[bytes] | None = None
) -> tuple[Dataset, list[str]]:
    """Opens a split and looks at every sample of it; warnings of the data set go to stderr.

    Args:
        config: where the data are.
        split: which part of them.
        labelled: refuses a split that has images but not one annotation, as a test split may.
        occurring: receives the values that occur in the label map of each sample.

    Returns:
        The data set without bad samples, and one line for each that was left out (see check_samples).

    Raises:
        KsegError: for whatever is wrong with the data set, or with a sample if config.on_bad_sample is "error".
    """
    dataset = build_dataset(config, split)
    if labelled and not getattr(dataset, "labelled", True):
        raise KsegError(f"split {split} has no annotations: it can be predicted (kseg.predict), but neither train nor be scored")
    for warning in getattr(dataset, "warnings", ()):
        print(f"warning: {warning}", file=sys.stderr, flush=True)
    return check_samples(dataset, config.on_bad_sample, occurring=occurring)
