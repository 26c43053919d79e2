"""Training steps to measure: kseg's on JAX, and the same model's of segmentation_models_pytorch on torch."""

import sys
from collections.abc import Callable
from typing import Any

from benchmarks.common import ROOT

PEERS = {"deeplabv3plus": "DeepLabV3Plus", "deeplabv3": "DeepLabV3", "unet": "Unet", "fpn": "FPN"}


def compiled_model(name: str, backbone: str, num_classes: int, *, metric: bool = True) -> Any:
    """Returns kseg's model, compiled as a run's is: AdamW, cross entropy, the confusion matrix."""
    import keras

    import kseg
    from kseg.optimizers import build_optimizer

    keras.utils.set_random_seed(0)
    model = kseg.build_model(name, num_classes=num_classes, backbone=backbone)
    metrics = [kseg.ConfusionMatrix(num_classes)] if metric else []
    model.compile(build_optimizer("adamw", learning_rate=1e-3, weight_decay=1e-4), loss=kseg.CrossEntropy(), metrics=metrics)
    return model


def planned_mb(step: Any) -> float:
    """MB that XLA plans for a step: arguments, results that do not replace them, and all that lives in between."""
    plan = step.memory_analysis()
    total = plan.argument_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes + plan.temp_size_in_bytes
    return total / 2**20


def torch_step(name: str, backbone: str, num_classes: int, images: Any, labels: Any) -> Callable[[], None]:
    """Returns a function that trains smp's model for a step: channels_last, AdamW, cross entropy, normalised images."""
    sys.path.insert(0, str(ROOT / "tests"))
    from conftest import declare_torchvision_ops

    declare_torchvision_ops()
    import segmentation_models_pytorch as smp
    import torch

    torch.manual_seed(0)
    encoder = f"tu-{backbone}" if backbone.startswith("tf_") else backbone
    model = getattr(smp, PEERS[name])(encoder, encoder_weights=None, classes=num_classes).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4)
    loss = torch.nn.CrossEntropyLoss(ignore_index=255)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    raw = torch.from_numpy(images).permute(0, 3, 1, 2)
    label = torch.from_numpy(labels)

    def step():
        x = ((raw.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)
        optimizer.zero_grad(set_to_none=True)
        loss(model(x), label.long()).backward()
        optimizer.step()

    return step
