"""One side of the loader benchmark: kseg's pipeline, or torch's DataLoader over the same data set and transforms."""

import json
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.common import tree_cpu, tree_memory

DISCARD = 10
"""Batches read before the clock starts: more than either side holds ready while the other has its turn."""


def main(settings: dict[str, Any]) -> None:
    batches = {"kseg": kseg_batches, "torch": torch_batches}[settings["side"]](settings)
    first_batch = next(batches)
    print(json.dumps({"first_batch_s": first_batch, "memory_mb": tree_memory(os.getpid())}), flush=True)
    for line in sys.stdin:
        count = int(line)
        for _ in range(DISCARD):
            next(batches)
        start, used = time.perf_counter(), tree_cpu(os.getpid())
        for _ in range(count):
            next(batches)
        images = count * settings["batch_size"]
        answer = {
            "images_s": images / (time.perf_counter() - start),
            "images_cpu_s": images / (tree_cpu(os.getpid()) - used),
            "memory_mb": tree_memory(os.getpid()),
        }
        print(json.dumps(answer), flush=True)
    os._exit(0)  # endless iterators have no orderly end


def open_dataset(settings: dict[str, Any]) -> Any:
    from kseg.config import DataConfig
    from kseg.data import build_dataset

    return build_dataset(DataConfig(**settings["data"]), "train")


def kseg_batches(settings: dict[str, Any]) -> Iterator[float]:
    """Yields the seconds from after the imports to the first batch, then for every batch."""
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
    """The same from torch.utils.data.DataLoader: uint8 collated, persistent workers, its own prefetch of 2 batches a worker."""
    import cv2
    import torch

    from kseg.data.augmentation.augmenter import Augmenter

    start = time.perf_counter()
    dataset = open_dataset(settings)
    stock = settings["peer_elastic"] == "albumentations"
    compose = _compose(Augmenter(settings["augment"], tuple(settings["image_size"])), stock)

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


def _compose(augmenter: Any, stock_elastic: bool) -> Any:
    """The augmenter's transforms as a Compose; with albumentations' own ElasticTransform if wanted."""
    import albumentations as A

    if stock_elastic:
        return A.from_dict(augmenter.to_dict())
    return augmenter._make()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
