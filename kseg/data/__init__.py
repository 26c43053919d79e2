"""Data sources by name. Nothing here imports TensorFlow; kseg.data.loading.pipeline does."""

from kseg.config import TRAIN_PART, VAL_PART, DataConfig
from kseg.data.dataset import IGNORE_INDEX, BadSample, Dataset, Sample
from kseg.utils.errors import KsegError
from kseg.utils.registry import Registry

__all__ = ["DATASETS", "IGNORE_INDEX", "BadSample", "Dataset", "Sample", "build_dataset"]

DATASETS = Registry("dataset")


def build_dataset(config: DataConfig, split: str) -> Dataset:
    """Opens one split, or with config.val_fraction the part "@train" or "@val" of one.

    Raises KsegError, one line, for whatever is wrong with the data set as a whole.
    """
    from kseg.data.cache import cached
    from kseg.data.subset import split_part

    whole, at, part = split.rpartition("@")
    if not config.val_fraction or at + part not in (TRAIN_PART, VAL_PART):
        return cached(DATASETS[config.dataset].build(config, split), config.cache, config.dataset)
    dataset = cached(DATASETS[config.dataset].build(config, whole), config.cache, config.dataset)
    return split_part(
        dataset,
        validation=at + part == VAL_PART,
        fraction=config.val_fraction,
        seed=config.split_seed,
        group=config.split_group,
        split=whole,
    )


@DATASETS.register("coco")
def _coco(config: DataConfig, split: str) -> Dataset:
    """A COCO annotation file and a folder of images for each split."""
    from kseg.data.sources.coco import CocoDataset

    assert config.data_dir is not None  # DataConfig requires it
    return CocoDataset(
        config.data_dir,
        split,
        annotations=config.annotations,
        images=config.images,
        background=config.background,
        ignore_categories=config.ignore_categories,
        max_pixels=config.max_pixels,
    )


@DATASETS.register("folder")
def _folder(config: DataConfig, split: str) -> Dataset:
    """Image files and label images side by side."""
    from kseg.data.sources.folder import FolderDataset
    from kseg.data.sources.label_map import read_label_map

    assert config.data_dir is not None  # DataConfig requires it
    if config.label_map is None:
        raise KsegError("--dataset=folder needs --label_map=FILE, which names the class of each label value")
    return FolderDataset(
        config.data_dir,
        split,
        images=config.images,
        labels=config.labels,
        split_list=config.split_list,
        label_map=read_label_map(config.label_map),
        max_pixels=config.max_pixels,
    )


@DATASETS.register("tfds")
def _tfds(config: DataConfig, split: str) -> Dataset:
    """A prepared TensorFlow Datasets data set in ArrayRecord format; TensorFlow is not needed to read it."""
    from kseg.data.sources.label_map import read_label_map
    from kseg.data.sources.tfds import TfdsDataset

    assert config.tfds_name is not None  # DataConfig requires it
    return TfdsDataset(
        config.tfds_name,
        split,
        data_dir=config.data_dir,
        image=config.tfds_image,
        label=config.tfds_label,
        label_map=read_label_map(config.label_map) if config.label_map else None,
        max_pixels=config.max_pixels,
    )


@DATASETS.register("synthetic")
def _synthetic(config: DataConfig, split: str) -> Dataset:
    """The offline demonstration: drawn once into a cache folder, then read as any COCO data set."""
    from kseg.data.synthetic.dataset import load_synthetic

    return load_synthetic(split, config.data_dir)
