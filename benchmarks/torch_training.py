"""torch-training: DeepLabV3+ trained by smp in torch and by kseg, from the same weights on the same batches of CamVid.

Two float32 trainings drift apart however equal they are (units on either side of ReLU's kink). So a third run, the control, is
smp's again with initial weights changed in the last digit. kseg should be about as far from smp as the control is. Compared are
the loss, smoothed over --window steps, and the mIoU.
"""

import argparse
import os
import sys
import time
from typing import Any

import numpy as np

from benchmarks.common import ROOT, Benchmark, Result, Save, caption, markdown, new_result
from benchmarks.loader import CAMVID

NAMES = {"smp": "smp, torch", "kseg": "kseg", "control": "smp, initial weights changed in the last digit"}
PACKAGES = ("torch", "keras", "jax", "segmentation-models-pytorch")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data_dir", default=str(CAMVID), help="CamVid in COCO format")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--image_size", default="128x160", help="height x width, multiples of 16")
    parser.add_argument("--augment", default="aug")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument(
        "--schedule", default="poly", choices=("constant", "poly", "cosine", "one_cycle"), help="as in kseg.train"
    )
    parser.add_argument("--warmup_steps", type=int, default=10, help="over which the learning rate rises from 0")
    parser.add_argument("--window", type=int, default=20, help="steps over which the losses are averaged")
    parser.add_argument("--val_images", type=int, default=0, help="validation images; 0: all")
    parser.add_argument("--seed", type=int, default=21)


def measure(arguments: argparse.Namespace, save: Save) -> Result:
    backend = os.environ.setdefault("KERAS_BACKEND", "jax")
    sys.path.insert(0, str(ROOT / "tests"))
    from torchvision_ops import declare_torchvision_ops

    declare_torchvision_ops()
    from kseg.metrics.scores import scores
    from kseg.training.schedules import build_schedule

    rates = build_schedule(
        arguments.schedule, arguments.learning_rate, steps=arguments.steps, warmup_steps=arguments.warmup_steps
    )
    train, val, num_classes = read_batches(arguments)
    state = initial_state(arguments, num_classes)
    settings = vars(arguments) | {"data_dir": "camvid", "backend": backend}
    result = new_result("torch-training", PACKAGES, settings, val_images=sum(map(len, val[0])), runs={})
    for name in NAMES:
        start = time.monotonic()
        if name == "kseg":
            losses, matrix = train_kseg(arguments, rates, num_classes, state, train, val)
        else:
            weights = state if name == "smp" else in_the_last_digit(state)
            losses, matrix = train_torch(arguments, rates, num_classes, weights, train, val)
        run = {"losses": losses, "mean_iou": scores(matrix).mean_iou, "seconds": round(time.monotonic() - start)}
        result["runs"][name] = run
        print(f"{NAMES[name]}: loss {losses[0]:.4f} to {losses[-1]:.4f}, mIoU {run['mean_iou']:.4f}", flush=True)
    return result


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
    """Returns smp's own random weights."""
    import torch

    torch.manual_seed(arguments.seed)
    return {k: v.clone() for k, v in smp_model(arguments, num_classes).state_dict().items()}


def in_the_last_digit(state: dict[str, Any]) -> dict[str, Any]:
    """Returns the state with every number changed by about a rounding unit, up or down at random."""
    import torch

    torch.manual_seed(0)
    changed = {}
    for key, value in state.items():
        signs = torch.randint(0, 2, value.shape, dtype=torch.float64) * 2 - 1
        changed[key] = (value * (1 + 1e-7 * signs)).to(value.dtype) if value.is_floating_point() else value
    return changed


def smp_model(arguments: argparse.Namespace, num_classes: int) -> Any:
    """Returns smp's network, without dropout."""
    import segmentation_models_pytorch as smp
    import torch

    model = smp.DeepLabV3Plus(arguments.backbone, encoder_weights=None, classes=num_classes)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def train_torch(arguments, rates, num_classes, state, train, val) -> tuple[list[float], np.ndarray]:
    """Trains smp's network in torch. Returns (loss of each step, confusion matrix [C, C] on the validation batches)."""
    import torch

    from kseg.models.layers import NORMALIZATIONS

    model = smp_model(arguments, num_classes).train()
    model.load_state_dict(state)
    optimizer = torch.optim.Adam(model.parameters(), lr=arguments.learning_rate, weight_decay=1e-6)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in NORMALIZATIONS["imagenet"])

    def forward(images):
        return model((torch.tensor(images).permute(0, 3, 1, 2) / 255 - mean) / std)

    losses = []
    for step, (images, labels) in enumerate(train):
        optimizer.param_groups[0]["lr"] = float(rates(step)) if callable(rates) else rates
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(forward(images), torch.from_numpy(labels.astype("int64")), ignore_index=255)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    with torch.inference_mode():
        predictions = [forward(images).argmax(1).numpy() for images in val[0]]
    return losses, count(predictions, val[1], num_classes)


def train_kseg(arguments, rates, num_classes, state, train, val) -> tuple[list[float], np.ndarray]:
    """Trains kseg's network with Keras; returns the same."""
    from kseg.losses import CrossEntropy
    from kseg.models.build import build_model
    from kseg.models.pytorch.load import load_torch_weights
    from kseg.training.optimizers import TorchAdam

    model = build_model("deeplabv3plus", num_classes=num_classes, backbone=arguments.backbone, dropout=0.0)
    load_torch_weights(model, state)
    model.compile(optimizer=TorchAdam(rates, l2=1e-6), loss=CrossEntropy())
    losses = []
    for images, labels in train:
        losses.append(float(model.train_on_batch(images, labels)))
        model.reset_metrics()  # else the losses returned are running means
    predictions = [model.predict_on_batch(images).argmax(-1) for images in val[0]]
    return losses, count(predictions, val[1], num_classes)


def count(predictions, labels, num_classes) -> np.ndarray:
    """Returns one confusion matrix over all batches."""
    from keras import ops

    from kseg.metrics.confusion_matrix import confusion_matrices

    counts = [
        ops.convert_to_numpy(confusion_matrices(ops.convert_to_tensor(label), ops.convert_to_tensor(prediction), num_classes))
        for prediction, label in zip(predictions, labels, strict=True)
    ]
    return np.sum(counts, axis=(0, 1), dtype="int64")


def smooth(losses: list[float], window: int) -> np.ndarray:
    """Returns the running means of `window` steps."""
    return np.convolve(losses, np.ones(window) / window, "valid")


def differences(result: Result, name: str) -> tuple[float, float, float]:
    """Returns differences from smp: relative of the first loss, the largest of the smoothed losses, and of the mIoU in points."""
    runs, window = result["runs"], min(result["settings"]["window"], result["settings"]["steps"])
    ours, theirs = runs[name]["losses"], runs["smp"]["losses"]
    smoothed = np.abs(smooth(ours, window) / smooth(theirs, window) - 1).max()
    points = 100 * abs(runs[name]["mean_iou"] - runs["smp"]["mean_iou"])
    return abs(ours[0] / theirs[0] - 1), float(smoothed), points


def table(result: Result) -> str:
    """Returns the result in Markdown."""
    settings, rows = result["settings"], []
    text = (
        f"kseg on {settings['backend']}. DeepLabV3+ on {settings['backbone']}, {settings['image_size']}, batch "
        f"{settings['batch_size']}, {settings['steps']} steps of Adam at {settings['learning_rate']:g} ({settings['schedule']}, "
        f"{settings['warmup_steps']} steps of warm-up), `{settings['augment']}`, no dropout, seed {settings['seed']}; mIoU on "
        f"{result['val_images']} validation images at the input's size"
    )
    for name, run in result["runs"].items():
        first, smoothed, points = differences(result, name)
        cells = [NAMES[name], f"{np.mean(run['losses'][-settings['window'] :]):.4f}", f"{run['mean_iou']:.4f}"]
        rows.append([*cells, *(("", "", "") if name == "smp" else (f"{first:.1e}", f"{smoothed:.2%}", f"{points:.2f} points"))])
    columns = ["", f"last {settings['window']} losses", "mIoU", "first loss differs by", "smoothed loss by at most", "mIoU by"]
    return f"{caption(result, text)}\n\n{markdown(columns, rows)}"


def chart(result: Result) -> bytes:
    from benchmarks.charts import losses_chart

    window = result["settings"]["window"]
    return losses_chart({NAMES[name]: smooth(run["losses"], window).tolist() for name, run in result["runs"].items()}, window)


BENCHMARK = Benchmark(
    help="A short training of DeepLabV3+ in PyTorch and in kseg, from the same weights on the same batches.",
    add_arguments=add_arguments,
    measure=measure,
    table=table,
    chart=chart,
    alt="The smoothed losses of the three runs",
)
