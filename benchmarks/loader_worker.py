"""A worker of the loader benchmark: kseg's pipeline, or torch's DataLoader over the same data set and transforms.

Reads a number of batches from each line, loads so many, and answers with images/s, images a processor second, and memory.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.process import answer, tree_cpu, tree_memory

DISCARD = 10
"""Batches read before the clock starts: more than a worker holds ready while it waits for the other."""


def main(settings: dict[str, Any]) -> None:
    batches = {"kseg": kseg_batches, "torch": torch_batches}[settings["worker"]](settings)
    first_batch = next(batches)
    answer({"first_batch_s": first_batch, "memory_mb": tree_memory()})
    for line in sys.stdin:
        count = int(line)
        for _ in range(DISCARD):
            next(batches)
        start, used = time.perf_counter(), tree_cpu()
        for _ in range(count):
            next(batches)
        images = count * settings["batch_size"]
        seconds, processor = time.perf_counter() - start, max(0.01, tree_cpu() - used)  # 0.01: Linux counts no less
        answer({"images_s": images / seconds, "images_cpu_s": images / processor, "memory_mb": tree_memory()})
    os._exit(0)  # endless iterators have no orderly end


def open_dataset(settings: dict[str, Any]) -> Any:
    from kseg.config import DataConfig
    from kseg.data import build_dataset

    return build_dataset(DataConfig(**settings["data"]), "train")


def kseg_batches(settings: dict[str, Any]) -> Iterator[float]:
    """Yields for each batch the seconds since the imports were done."""
    from kseg.data.loading.pipeline import train_batches
    from kseg.data.loading.worker_pool import worker_pool

    start = time.perf_counter()
    with worker_pool(settings["workers"]) as pool:
        dataset = open_dataset(settings)
        batches, _ = train_batches(
            dataset,
            image_size=tuple(settings["image_size"]),
            batch_size=settings["batch_size"],
            augment=settings["augment"],
            seed=0,
            first_epoch=0,
            epochs=2**31,
            pool=pool,
        )
        for image, label in batches.as_numpy_iterator():
            assert image.dtype == label.dtype == "uint8"
            yield time.perf_counter() - start


def torch_batches(settings: dict[str, Any]) -> Iterator[float]:
    """The same from torch's DataLoader: uint8 batches, persistent workers, its own prefetch of 2 batches a worker."""
    import albumentations as A
    import cv2
    import torch

    from kseg.data.augmentation.augmenter import Augmenter

    start = time.perf_counter()
    dataset = open_dataset(settings)
    augmenter = Augmenter(settings["augment"], tuple(settings["image_size"]))
    own = settings["baseline_elastic"] == "kseg"
    compose = augmenter._make() if own else A.from_dict(augmenter.to_dict())  # from_dict: albumentations' ElasticTransform

    class Samples(torch.utils.data.Dataset):
        def __len__(self):
            return len(dataset)

        def __getitem__(self, index):
            sample = dataset.load(index)
            made = compose(image=sample.image, mask=sample.label)
            return made["image"], made["mask"]

    class Endless(torch.utils.data.Sampler):
        def __iter__(self):
            while True:
                yield from torch.randperm(len(dataset)).tolist()

    loader = torch.utils.data.DataLoader(
        Samples(),
        batch_size=settings["batch_size"],
        sampler=Endless(),
        num_workers=settings["workers"],
        persistent_workers=True,
        worker_init_fn=lambda _: cv2.setNumThreads(1),
    )
    for image, label in loader:
        assert image.dtype == label.dtype == torch.uint8
        yield time.perf_counter() - start


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
