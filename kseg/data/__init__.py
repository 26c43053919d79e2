"""Data sources by name. Nothing here imports TensorFlow; kseg.data.pipeline does."""

from kseg.config import DataConfig
from kseg.data.dataset import IGNORE_INDEX, BadSample, Dataset, Sample
from kseg.registry import Registry

__all__ = ["DATASETS", "IGNORE_INDEX", "BadSample", "Dataset", "Sample", "build_dataset"]

DATASETS = Registry("dataset")


def build_dataset(config: DataConfig, split: str) -> Dataset:
    """Opens one split. Raises KsegError, one line, for whatever is wrong with the data set as a whole."""
    return DATASETS[config.dataset].build(config, split)


@DATASETS.register("coco")
def _coco(config: DataConfig, split: str) -> Dataset:
    """A COCO annotation file and a folder of images for each split."""
    from kseg.data.coco import CocoDataset

    assert config.data_dir is not None  # DataConfig requires it
    return CocoDataset(
        config.data_dir,
        split,
        annotations=config.annotations,
        images=config.images,
        background=config.background,
        ignore_categories=config.ignore_categories,
    )


@DATASETS.register("synthetic")
def _synthetic(config: DataConfig, split: str) -> Dataset:
    """The offline demonstration: drawn once into a cache folder, then read as any COCO data set."""
    from kseg.data.synthetic import load_synthetic

    return load_synthetic(split, config.data_dir)
