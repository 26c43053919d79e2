"""Builds the data set that a DataConfig describes."""

from kseg.config import PYTHON, TRAIN_PART, VAL_PART, DataConfig
from kseg.config.data_sources import how_to_read
from kseg.data.dataset import Dataset
from kseg.data.registry import DATASETS
from kseg.utils.errors import KsegError


def build_dataset(config: DataConfig, split: str) -> Dataset:
    """Opens one split of a data set.

    Args:
        config: the source and its settings.
        split: a split of the data set. With config.val_fraction also "train@train" and "train@val", the two parts of "train".

    Raises:
        KsegError: if the data set as a whole cannot be used.
    """
    if config.dataset == PYTHON:
        raise KsegError(
            "--dataset=python: these data were given from Python, and a command cannot find them; pass --dataset and --data_dir, "
            "or call kseg.load(RUN).evaluate(data)"
        )
    import kseg.data.sources  # noqa: F401  # registers every source

    if config.dataset not in DATASETS and (how := how_to_read(config.dataset)):
        raise KsegError(f"--dataset={config.dataset}: is no source; {how}")
    from kseg.data.layouts import apply_layout

    whole, _ = _part(config, split)
    with_files, name = apply_layout(config, whole)
    return prepare_dataset(DATASETS[config.dataset].build(with_files, name), config, split)


def prepare_dataset(dataset: Dataset, config: DataConfig, split: str) -> Dataset:
    """Returns a data set with config.cache; with config.val_fraction the part of it that `split` names, see build_dataset."""
    from kseg.data.subset import split_part

    dataset = _cached(dataset, config)
    whole, part = _part(config, split)
    if not part:
        return dataset
    return split_part(
        dataset,
        validation=part == VAL_PART,
        fraction=config.val_fraction,
        seed=config.split_seed,
        group=config.split_group,
        split=whole,
    )


def _cached(dataset: Dataset, config: DataConfig) -> Dataset:
    from kseg.data.cache import cached
    from kseg.data.subset import Subset

    if isinstance(dataset, Subset):  # of kseg.split: what it was made of reads label maps
        return Subset(_cached(dataset.dataset, config), dataset.indices)
    return cached(dataset, config.cache, config.dataset)


def _part(config: DataConfig, split: str) -> tuple[str, str]:
    """Returns a split and which part of it is meant; the part is "" unless config.val_fraction divides the split."""
    whole, at, part = split.rpartition("@")
    return (whole, at + part) if config.val_fraction > 0 and at + part in (TRAIN_PART, VAL_PART) else (split, "")
