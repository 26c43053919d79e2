"""Trains smp's network in torch with the flags of kseg.train: python -m experiments.smp_training OUT.json [flags].

Data, augmentation, order of the images and settings are those of the flags. smp's network is trained eagerly in float32 by
torch.optim.AdamW. As in kseg, the epoch with the best mIoU at the input's size is kept. Its weights then go into kseg's network,
which computes the same, and kseg scores it at the labels' own size.
"""

import copy
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, write_numbers
from benchmarks.torch_training import count
from kseg.config import TrainConfig
from kseg.config.command_line import parse


def measure(config: TrainConfig) -> dict[str, Any]:
    """Trains and returns the scores, the seconds of each epoch with its validation, and the validation mIoU of each epoch."""
    sys.path.insert(0, str(ROOT / "tests"))
    from torchvision_ops import declare_torchvision_ops

    declare_torchvision_ops()
    import torch

    from kseg.data.loading.pipeline import eval_batches, train_batches
    from kseg.data.loading.worker_pool import worker_pool
    from kseg.metrics.scores import scores
    from kseg.training.run_data import open_data
    from kseg.training.schedules import build_schedule

    torch.manual_seed(config.seed)
    data = open_data(config)
    classes = len(data.train.class_names)
    model, weights = smp_network(config, classes)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (weights.mean, weights.std))
    settings = config.optimization
    sizes = {"image_size": config.image_size, "batch_size": config.batch_size}
    seconds, mean_ious, best = [], [], (-1.0, None)

    def forward(images):
        return model((torch.tensor(images).permute(0, 3, 1, 2) / 255 - mean) / std)

    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    with worker_pool(config.devices.workers) as pool:
        batches, steps = train_batches(
            data.train, augment=config.augment, seed=config.seed, first_epoch=0, epochs=config.epochs, pool=pool, **sizes
        )
        rates = build_schedule(settings.schedule, settings.learning_rate, steps=steps * config.epochs, warmup_steps=0)
        stream = iter(batches.as_numpy_iterator())
        for epoch in range(config.epochs):
            start = time.monotonic()
            model.train()
            for step in range(epoch * steps, (epoch + 1) * steps):
                images, labels = next(stream)
                optimizer.param_groups[0]["lr"] = float(rates(step)) if callable(rates) else rates
                optimizer.zero_grad()
                target = torch.from_numpy(labels.astype("int64"))
                torch.nn.functional.cross_entropy(forward(images), target, ignore_index=data.train.ignore_index).backward()
                optimizer.step()
            model.eval()
            val = eval_batches(data.val, pool=pool, **sizes).as_numpy_iterator()
            with torch.inference_mode():
                predictions, labels = zip(*((forward(images).argmax(1).numpy(), label) for images, label in val), strict=True)
            mean_ious.append(scores(count(predictions, labels, classes)).mean_iou)
            if mean_ious[-1] > best[0]:
                best = (mean_ious[-1], copy.deepcopy(model.state_dict()))
            seconds.append(round(time.monotonic() - start, 2))
            print(f"epoch {epoch + 1}/{config.epochs}: val_mean_iou {mean_ious[-1]:.4f}, {seconds[-1]:.0f} s", flush=True)
    return {**score(config, data, best[1], weights), "epoch_seconds": seconds, "val_mean_ious": mean_ious}


def smp_network(config: TrainConfig, classes: int) -> tuple[Any, Any]:
    """Returns smp's network with the backbone's weights, and their kseg.models.pretrained.Pretrained."""
    import segmentation_models_pytorch as smp
    import torch

    from kseg.models.build import build_backbone
    from kseg.models.pretrained import Pretrained, find_weights
    from kseg.models.pytorch.export import export_torch_weights
    from kseg.models.smp_config import smp_class

    network = getattr(smp, smp_class(config.model))(config.backbone, encoder_weights=None, classes=classes)
    if config.backbone_weights == "none":
        return network, Pretrained()
    backbone = build_backbone(config.backbone, weights=config.backbone_weights)  # reads all spellings
    state = {key: torch.tensor(value) for key, value in export_torch_weights(backbone).items()}
    network.encoder.load_state_dict(state)
    return network, find_weights(config.backbone, config.backbone_weights)


def score(config: TrainConfig, data: Any, state: Any, weights: Any) -> dict[str, float]:
    """Returns the scores of smp's weights in kseg's network, at the labels' own size."""
    import kseg

    names = data.train.class_names
    normalization = (weights.mean, weights.std)
    model = kseg.build_model(config.model, num_classes=len(names), backbone=config.backbone, normalization=normalization)
    kseg.load_torch_weights(model, state)
    segmenter = kseg.Segmenter.of_model(
        model, names, origin="smp", architecture=None, image_size=config.image_size, batch_size=config.batch_size
    )
    evaluation = segmenter.evaluate(data.val)
    return {"mean_iou": evaluation.mean_iou, "pixel_accuracy": evaluation.scores.pixel_accuracy}


def main(argv: list[str]) -> None:
    from kseg.training.initial_weights import settle_weights

    output, words = Path(argv[1]), argv[2:]
    write_numbers(output, measure(settle_weights(parse(TrainConfig, ["kseg.train", *words], ""))))


if __name__ == "__main__":
    main(sys.argv)
