"""Builds the data set that a DataConfig describes."""

from kseg.config import TRAIN_PART, VAL_PART, DataConfig
from kseg.data.dataset import Dataset
from kseg.data.registry import DATASETS


def build_dataset(config: DataConfig, split: str) -> Dataset:
    """Opens one split of a data set.

    Args:
        config: the source and its settings.
        split: a split of the data set. With config.val_fraction also "train@train" and "train@val", the two parts of "train".

    Raises:
        KsegError: if the data set as a whole cannot be used.
    """
    import kseg.data.sources  # noqa: F401  # registers every source
    from kseg.data.cache import cached
    from kseg.data.subset import split_part

    whole, at, part = split.rpartition("@")
    divided = config.val_fraction > 0 and at + part in (TRAIN_PART, VAL_PART)
    dataset = DATASETS[config.dataset].build(config, whole if divided else split)
    dataset = cached(dataset, config.cache, config.dataset)
    if not divided:
        return dataset
    return split_part(
        dataset,
        validation=at + part == VAL_PART,
        fraction=config.val_fraction,
        seed=config.split_seed,
        group=config.split_group,
        split=whole,
    )
