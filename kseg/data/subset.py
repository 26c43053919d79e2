"""Subsets of a data set: chosen samples, and the random split of --val_fraction."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from kseg.data.cache import CachedLabels
from kseg.data.dataset import Dataset, Sample
from kseg.utils.errors import KsegError


class Subset:
    """Some samples of a data set, in the order of `indices`; a Dataset as well.

    Args:
        dataset: a Dataset.
        indices: 0 <= index < len(dataset), in any order, repeats allowed.

    Raises:
        IndexError: if an index is outside the data set.
    """

    def __init__(self, dataset: Dataset, indices: Sequence[int]):
        self.dataset = dataset
        self.indices = tuple(int(index) for index in indices)
        if any(not 0 <= index < len(dataset) for index in self.indices):
            raise IndexError(f"a Subset's indices must be between 0 and {len(dataset) - 1}")
        self.class_names = dataset.class_names
        self.ignore_index = dataset.ignore_index
        self.warnings = getattr(dataset, "warnings", ())
        self.reading = getattr(dataset, "reading", None)
        self.labelled = getattr(dataset, "labelled", True)
        self.category_ids = getattr(dataset, "category_ids", None)  # of COCO's data sets, as image_ids
        ids = getattr(dataset, "image_ids", None)
        self.image_ids = None if ids is None else tuple(ids[index] for index in self.indices)

    def __len__(self) -> int:
        return len(self.indices)

    def load(self, index: int) -> Sample:
        return self.dataset.load(self.indices[index])

    def name(self, index: int) -> str:
        return self.dataset.name(self.indices[index])

    def size(self, index: int) -> tuple[int, int]:
        return self.dataset.size(self.indices[index])


def base_sample(dataset: Any, index: int) -> tuple[Any, int]:
    """Returns the data set that reads a sample, and the sample's index there: below subsets and caches."""
    while True:
        if isinstance(dataset, Subset):
            dataset, index = dataset.dataset, dataset.indices[index]
        elif isinstance(dataset, CachedLabels):
            dataset = dataset.dataset
        else:
            return dataset, index


def sample_notes(dataset: Dataset, index: int) -> list[str]:
    """Returns what the user should know of a sample that was loaded."""
    base, place = base_sample(dataset, index)
    return base.notes(place) if hasattr(base, "notes") else []


def split_part(
    dataset: Dataset, *, validation: bool, fraction: float, seed: int, group: str | None = None, split: str = "train"
) -> Subset:
    """Returns one of the two parts of a random split. Together they are the whole data set.

    The parts depend on the samples' names, the seed and the arguments, not on the order of the samples.

    Args:
        dataset: what to split.
        validation: True returns the validation part: about `fraction` of the samples, at least one group.
        fraction: 0 < fraction < 1.
        seed: seed of the random split.
        group: regular expression, searched in each name: samples with the same first group (or match) stay together.
        split: the split's name, for messages.

    Raises:
        KsegError: if a name does not match the expression, or there are fewer than two groups.
    """
    names = [dataset.name(index) for index in range(len(dataset))]
    keys = names
    if group is not None:
        pattern = re.compile(group)
        keys = []
        for name in names:
            match = pattern.search(name)
            key = match and (match[1] if pattern.groups else match[0])
            if key is None:
                raise KsegError(
                    f"--split_group={group}: does not match the image name {name!r}; choose one that matches every name."
                )
            keys.append(key)
    members: dict[str, list[int]] = {}
    for index, key in enumerate(keys):
        members.setdefault(key, []).append(index)
    groups = sorted(members)
    if len(groups) < 2:
        what = (
            f"--split_group={group}: all {len(names)} images are in one group, {groups[0]!r}" if group else "there is one image"
        )
        raise KsegError(f"{what}, so split {split} cannot be divided; --val_fraction needs at least two groups.")
    chosen: set[int] = set()
    wanted = max(1, round(fraction * len(names)))
    for place in np.random.default_rng(seed).permutation(len(groups)).tolist()[:-1]:  # one group stays for training
        if chosen and len(chosen) + len(members[groups[place]]) / 2 > wanted:
            break
        chosen.update(members[groups[place]])
    return Subset(dataset, [index for index in range(len(names)) if (index in chosen) == validation])
