"""Writes a data set as TensorFlow Datasets shards in ArrayRecord format."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2

from kseg.config import ShardsConfig
from kseg.data.check import open_split
from kseg.data.dataset import Dataset
from kseg.data.subset import base_sample
from kseg.utils.errors import KsegError
from kseg.utils.progress import progress_bar


def write_shards(config: ShardsConfig) -> Path:
    """Writes the shards and returns their folder. The folder appears complete or not at all. Raises KsegError."""
    assert config.output is not None  # ShardsConfig requires it
    output = Path(config.output).expanduser()
    if (output / config.name).exists():
        raise KsegError(f"{output / config.name}: already exists; pass another --name or --output, or remove it.")
    datasets: dict[str, Dataset] = {}
    for split in config.splits:
        datasets[split], skipped = open_split(config.data, split)
        for line in skipped:
            print(f"skipped: {split}: {line}")
    names = {dataset.class_names for dataset in datasets.values()}
    if len(names) > 1:
        raise KsegError(f"the splits {', '.join(datasets)} have different classes; use the same in all of them.")
    unchanged = config.data.exif == "auto"  # else the file's EXIF orientation would count again when the shards are read
    return _write(datasets, list(names.pop()), output, config.name, unchanged)


def _write(datasets: dict[str, Dataset], class_names: list[str], output: Path, name: str, unchanged: bool) -> Path:
    """unchanged: stores the images' files as they are; else their pixels."""
    import tensorflow_datasets as tfds

    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "segmentation_mask": tfds.features.LabeledImage(labels=class_names, shape=(None, None, 1), encoding_format="png"),
            "file_name": tfds.features.Text(),
        }
    )
    tfds.disable_progress_bar()
    total = sum(map(len, datasets.values()))
    with progress_bar(total, "writing shards") as bar:
        try:
            builder = tfds.dataset_builders.store_as_tfds_dataset(
                name=name,
                version="1.0.0",
                features=features,
                split_datasets={split: _examples(dataset, bar, unchanged) for split, dataset in datasets.items()},
                data_dir=output,
                file_format="array_record",
                disable_shuffling=True,
            )
        except OSError as error:
            raise KsegError(f"--output={output}: cannot be written ({error.strerror or error}).") from error
    return Path(builder.data_dir)


def _examples(dataset: Dataset, bar: Any, unchanged: bool) -> Iterator[tuple[int, dict[str, Any]]]:
    for index in range(len(dataset)):
        sample = dataset.load(index)
        yield (
            index,
            {
                "image": (_image_bytes(dataset, index) if unchanged else None)
                or _png(cv2.cvtColor(sample.image, cv2.COLOR_RGB2BGR)),
                "segmentation_mask": _png(sample.label),
                "file_name": sample.name,
            },
        )
        bar.update()


def _image_bytes(dataset: Any, index: int) -> bytes | None:
    """Returns the content of the image's file, or None if the source has no files."""
    dataset, index = base_sample(dataset, index)
    return dataset.image_bytes(index) if hasattr(dataset, "image_bytes") else None


def _png(pixels: Any) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()
