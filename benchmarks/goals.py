"""What kseg's speed is to reach, of segmentation_models_pytorch's, and what devices can do."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

NETWORKS = ("deeplabv3plus/resnet50", "deeplabv3plus/resnext50_32x4d", "unet/tf_efficientnet_b0")
"""MODEL/BACKBONE of the benchmarks' tables."""

PEAK_TFLOPS = {"H100 PCIe": 756.0, "H100": 989.0, "H200": 989.0, "A100": 312.0}
"""Dense bfloat16, from NVIDIA's data sheets; the first name found in the device's. Half of it in float32, as TF32."""


@dataclass(frozen=True)
class Goal:
    """Of one peer: at most so much of its time, at least so much of its images/s, at most so much of its memory."""

    peer: str
    time: float | None = None
    images_s: float | None = None
    memory: float | None = None


SMALL, LARGE = ("cpu", "float32", 4, 256), ("gpu", "bfloat16", 16, 512)
GOALS = {
    ("step", *SMALL, "deeplabv3plus/resnet50"): Goal("eager", time=0.9, memory=1.0),
    ("step", *SMALL, "deeplabv3plus/resnext50_32x4d"): Goal("eager", time=1.1, memory=1.0),
    ("step", *SMALL, "unet/tf_efficientnet_b0"): Goal("eager", time=1.5, memory=1.0),
    **{("infer", *SMALL, network): Goal("eager", time=0.9) for network in NETWORKS},
    ("step", *LARGE, "deeplabv3plus/resnet50"): Goal("compile", images_s=1.1, memory=0.8),
    ("step", *LARGE, "deeplabv3plus/resnext50_32x4d"): Goal("compile", images_s=1.0, memory=0.8),
    ("step", *LARGE, "unet/tf_efficientnet_b4"): Goal("compile", images_s=1.0, memory=0.8),
}


def peak_tflops(device: str, precision: str) -> float | None:
    """A device's dense peak; None if it is not in the table."""
    for name, value in PEAK_TFLOPS.items():
        if all(word in device for word in name.split()):
            return value if precision == "bfloat16" else value / 2
    return None


def verdicts(where: tuple[str, str], work: Mapping[str, Any], peer: str, time: float, share: float | None) -> str:
    """Each goal, and whether it is met or by how much it is missed; nothing for work that has none.

    where: ("step" or "infer", "cpu" or "gpu"). time, share: kseg's time and memory over the peer's.
    """
    key = (*where, work["precision"], work["batch_size"], work["image_size"], work["network"])
    goal = GOALS.get(key)
    if goal is None or goal.peer != peer:
        return ""
    parts = []
    if goal.time is not None:
        parts.append(f"time at most {goal.time}: {_verdict(time - goal.time)}")
    if goal.images_s is not None:
        parts.append(f"images/s at least {goal.images_s}: {_verdict(goal.images_s - 1 / time)} ({1 / time:.2f})")
    if goal.memory is not None and share is not None:
        parts.append(f"memory at most {goal.memory}: {_verdict(share - goal.memory)}")
    return "; ".join(parts)


def _verdict(excess: float) -> str:
    return "met" if excess <= 0 else f"missed by {excess:.2f}"
