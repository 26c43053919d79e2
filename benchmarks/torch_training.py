"""Trains smp's DeepLabV3+ in torch and kseg's from the same initial weights on the same augmented batches of CamVid.

  python scripts/compare_torch.py --data_dir=camvid --write

prints how far the losses and the validation mIoUs are apart; --write puts them, and the picture, into docs/backends.md. Needs the
`test` extra; KERAS_BACKEND chooses kseg's backend.

Two float32 trainings drift apart however equal they are (units on either side of ReLU's kink), so that beside kseg's stands a
third run, the control: smp's again, its initial weights changed in the last digit. What counts is the loss smoothed over
--window steps, the mIoU, and whether kseg is further from smp than the control is.
"""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import numpy as np
from benchmarks.common import ROOT, machine, write_between, write_numbers

PAGE = ROOT / "docs" / "backends.md"
NUMBERS = ROOT / "docs" / "backends" / "torch.json"
PICTURE = ROOT / "docs" / "backends" / "torch.png"
SIDES = {"smp": "smp, torch", "kseg": "kseg", "control": "smp, initial weights changed in the last digit"}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    shared = Path(os.environ.get("KSEG_SHARED", ROOT.parent / "shared")) / "data" / "camvid"
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--data_dir", default=str(shared), help="CamVid in COCO format")
    result.add_argument("--backbone", default="resnet18", help="of smp and kseg alike")
    result.add_argument("--image_size", default="128x160", help="height x width, multiples of 16")
    result.add_argument("--augment", default="aug")
    result.add_argument("--batch_size", type=int, default=8)
    result.add_argument("--steps", type=int, default=100)
    result.add_argument("--learning_rate", type=float, default=1e-4)
    result.add_argument("--schedule", default="poly", choices=("constant", "poly", "cosine", "one_cycle"), help="as kseg.train's")
    result.add_argument("--warmup_steps", type=int, default=10, help="over which the learning rate rises from 0")
    result.add_argument("--window", type=int, default=20, help="steps over which the losses are averaged")
    result.add_argument("--val_images", type=int, default=0, help="validation images; 0: all")
    result.add_argument("--seed", type=int, default=21)
    result.add_argument("--write", action="store_true", help="put table and picture into docs/backends.md")
    return result


def main() -> None:
    arguments = parser().parse_args()
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import conftest

    conftest.declare_torchvision_ops()
    train, val, num_classes = read_batches(arguments)
    state = initial_state(arguments, num_classes)
    runs: dict[str, dict[str, Any]] = {}
    for side in SIDES:
        start = time.monotonic()
        if side == "kseg":
            losses, matrix = train_kseg(arguments, num_classes, state, train, val)
        else:
            weights = state if side == "smp" else in_the_last_digit(state)
            losses, matrix = train_torch(arguments, num_classes, weights, train, val)
        from kseg.metrics.confusion_matrix import scores

        runs[side] = {"losses": losses, "mean_iou": scores(matrix).mean_iou, "seconds": round(time.monotonic() - start)}
        print(f"{SIDES[side]}: loss {losses[0]:.4f} to {losses[-1]:.4f}, mIoU {runs[side]['mean_iou']:.4f}", flush=True)
    result = {"machine": machine(("torch", "keras", "jax", "segmentation-models-pytorch"))}
    result |= {"settings": vars(arguments) | {"data_dir": "camvid"}, "val_images": sum(map(len, val[0])), "runs": runs}
    print(table(result))
    if arguments.write:
        publish(result)


def read_batches(arguments: argparse.Namespace) -> tuple[list[tuple[np.ndarray, np.ndarray]], tuple[Any, Any], int]:
    """Returns the training batches (images uint8 [B, h, w, 3], labels uint8 [B, h, w]), (images, labels) of the validation
    batches, and the number of classes.
    """
    from kseg.config import DataConfig
    from kseg.config.fields import parse_size
    from kseg.data import build_dataset
    from kseg.data.loading.pipeline import eval_batches, train_batches

    config = DataConfig("coco", arguments.data_dir, background=False, ignore_categories=("unlabelled",))
    size, batch_size = parse_size(arguments.image_size), arguments.batch_size
    train_set, val_set = (build_dataset(config, split) for split in ("train", "val"))
    batches, _ = train_batches(
        train_set,
        augment=arguments.augment,
        seed=arguments.seed,
        first_epoch=0,
        epochs=-(-arguments.steps // max(len(train_set) // batch_size, 1)),
        image_size=size,
        batch_size=batch_size,
    )
    train = list(batches.take(arguments.steps).as_numpy_iterator())
    count = arguments.val_images or len(val_set)
    val = list(eval_batches(val_set, image_size=size, batch_size=batch_size).take(-(-count // batch_size)).as_numpy_iterator())
    return train, tuple(zip(*val, strict=True)), len(train_set.class_names)


def initial_state(arguments: argparse.Namespace, num_classes: int) -> dict[str, Any]:
    """smp's own random weights."""
    import torch

    torch.manual_seed(arguments.seed)
    return {k: v.clone() for k, v in smp_model(arguments, num_classes).state_dict().items()}


def in_the_last_digit(state: dict[str, Any]) -> dict[str, Any]:
    """The state with every number a rounding unit or so larger or smaller, at random."""
    import torch

    torch.manual_seed(0)
    changed = {}
    for key, value in state.items():
        signs = torch.randint(0, 2, value.shape, dtype=torch.float64) * 2 - 1
        changed[key] = (value * (1 + 1e-7 * signs)).to(value.dtype) if value.is_floating_point() else value
    return changed


def learning_rate(arguments: argparse.Namespace) -> Any:
    """The schedule of both sides, or a number."""
    from kseg.training.schedules import build_schedule

    return build_schedule(arguments.schedule, arguments.learning_rate, steps=arguments.steps, warmup_steps=arguments.warmup_steps)


def smp_model(arguments: argparse.Namespace, num_classes: int) -> Any:
    """smp's network, without dropout."""
    import segmentation_models_pytorch as smp
    import torch

    model = smp.DeepLabV3Plus(arguments.backbone, encoder_weights=None, classes=num_classes)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def train_torch(arguments, num_classes, state, train, val) -> tuple[list[float], np.ndarray]:
    """smp's network by torch's own means. Returns (loss of each step, confusion matrix [C, C] on the validation batches)."""
    import torch

    from kseg.models.layers import NORMALIZATIONS

    model = smp_model(arguments, num_classes).train()
    model.load_state_dict(state)
    optimizer = torch.optim.Adam(model.parameters(), lr=arguments.learning_rate, weight_decay=1e-6)
    schedule = learning_rate(arguments)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in NORMALIZATIONS["imagenet"])

    def forward(images):
        return model((torch.tensor(images).permute(0, 3, 1, 2) / 255 - mean) / std)

    losses = []
    for step, (images, labels) in enumerate(train):
        optimizer.param_groups[0]["lr"] = float(schedule(step)) if callable(schedule) else schedule
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(forward(images), torch.from_numpy(labels.astype("int64")), ignore_index=255)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    with torch.inference_mode():
        predictions = [forward(images).argmax(1).numpy() for images in val[0]]
    return losses, count(predictions, val[1], num_classes)


def train_kseg(arguments, num_classes, state, train, val) -> tuple[list[float], np.ndarray]:
    """kseg's network by Keras's; returns the same."""
    from kseg.losses import CrossEntropy
    from kseg.models.build import build_model
    from kseg.models.pytorch.load import load_torch_weights
    from kseg.training.optimizers import TorchAdam

    model = build_model("deeplabv3plus", num_classes=num_classes, backbone=arguments.backbone, dropout=0.0)
    load_torch_weights(model, state)
    model.compile(optimizer=TorchAdam(learning_rate(arguments), l2=1e-6), loss=CrossEntropy())
    losses = []
    for images, labels in train:
        losses.append(float(model.train_on_batch(images, labels)))
        model.reset_metrics()  # else the losses returned are running means
    predictions = [model.predict_on_batch(images).argmax(-1) for images in val[0]]
    return losses, count(predictions, val[1], num_classes)


def count(predictions, labels, num_classes) -> np.ndarray:
    """One confusion matrix over all batches, both sides' alike."""
    from keras import ops

    from kseg.metrics.confusion_matrix import confusion_matrices

    counts = [
        ops.convert_to_numpy(confusion_matrices(ops.convert_to_tensor(label), ops.convert_to_tensor(found), num_classes))
        for found, label in zip(predictions, labels, strict=True)
    ]
    return np.sum(counts, axis=(0, 1), dtype="int64")


def smooth(losses: list[float], window: int) -> np.ndarray:
    """Means of each `window` steps that follow on each other."""
    return np.convolve(losses, np.ones(window) / window, "valid")


def differences(result: dict[str, Any], side: str) -> tuple[float, float, float]:
    """Of a side from smp: (loss of the first step, largest of the smoothed losses, each relative; mIoU in points)."""
    runs, window = result["runs"], min(result["settings"]["window"], result["settings"]["steps"])
    ours, theirs = runs[side]["losses"], runs["smp"]["losses"]
    smoothed = np.abs(smooth(ours, window) / smooth(theirs, window) - 1).max()
    points = 100 * abs(runs[side]["mean_iou"] - runs["smp"]["mean_iou"])
    return abs(ours[0] / theirs[0] - 1), float(smoothed), points


def table(result: dict[str, Any]) -> str:
    """The result in Markdown."""
    settings, here = result["settings"], result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in here["versions"].items())
    lines = [
        f"{here['date']}, {here['cpu']}, {here['cores']} cores, {versions}; kseg on {os.environ['KERAS_BACKEND']}. DeepLabV3+ on "
        f"{settings['backbone']}, {settings['image_size']}, batch {settings['batch_size']}, {settings['steps']} steps of Adam at "
        f"{settings['learning_rate']:g} ({settings['schedule']}, {settings['warmup_steps']} steps of warm-up), "
        f"`{settings['augment']}`, no dropout, seed {settings['seed']}; mIoU on {result['val_images']} "
        "validation images at the input's size.",
        "",
        f"| | last {settings['window']} losses | mIoU | first loss differs by | smoothed loss by at most | mIoU by |",
        "|---|---|---|---|---|---|",
    ]
    for side, run in result["runs"].items():
        first, smoothed, points = differences(result, side)
        cells = [SIDES[side], f"{np.mean(run['losses'][-settings['window'] :]):.4f}", f"{run['mean_iou']:.4f}"]
        cells += ["", "", ""] if side == "smp" else [f"{first:.1e}", f"{smoothed:.2%}", f"{points:.2f} points"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def publish(result: dict[str, Any]) -> None:
    """Writes numbers, picture and table below docs/."""
    from kseg.reports.figures import losses_chart
    from kseg.utils.files import atomic_path

    window = result["settings"]["window"]
    curves = {SIDES[side]: smooth(run["losses"], window).tolist() for side, run in result["runs"].items()}
    with atomic_path(PICTURE) as temporary:
        temporary.write_bytes(losses_chart(curves, window))
    write_numbers(NUMBERS, result)
    write_between(PAGE, "torch", table(result) + "\n\n![The smoothed losses of the three runs](backends/torch.png)")


if __name__ == "__main__":
    main()
