"""A training run from config to run directory."""

import dataclasses
import json
import time
from dataclasses import dataclass
from typing import Any

import keras

from kseg.callbacks import Checkpoint, Progress, StopOnNonFinite
from kseg.config import TrainConfig
from kseg.data import Dataset
from kseg.data.augment import describe_transforms
from kseg.data.check import open_split
from kseg.data.class_weights import check_setting, find_class_weights
from kseg.data.pipeline import eval_batches, sample_errors, train_batches
from kseg.data.workers import WorkerPool, worker_pool
from kseg.distribution import describe_devices
from kseg.errors import KsegError
from kseg.losses import CrossEntropy
from kseg.metrics import ConfusionMatrix
from kseg.models import MODELS, build_model
from kseg.models.backbones import check_backbone
from kseg.optimization import configure, optimization_callbacks, precision
from kseg.report import write_report
from kseg.run import RunDir, default_run_dir, load_model, save_model, write_text
from kseg.scoring import Evaluation, Predictor, write_evaluation


@dataclass(frozen=True)
class TrainResult:
    """What a run ended with: the best epoch's scores on the whole validation split, the run directory, seconds in all."""

    evaluation: Evaluation
    run: RunDir
    seconds: float


def train(config: TrainConfig) -> TrainResult:
    """Trains as the config says, scores the best epoch's model on the validation split, and writes the run directory.

    Raises KsegError for whatever the user can mend; all that can be checked is checked before the run directory is made.
    """
    start = time.monotonic()
    defaults = MODELS[config.model].info
    backbone = config.backbone or defaults["backbone"]
    config = dataclasses.replace(config, backbone=backbone)
    check_backbone(backbone, config.output_stride or defaults["output_stride"])
    transforms = describe_transforms(config.augment, config.image_size)
    check_setting(config.objective.class_weights)
    run = RunDir(config.run_dir or default_run_dir(config))
    run.check_free()

    with worker_pool(config.devices.workers) as pool:  # which starts while the data are checked
        return _train(config, run, transforms, pool, start)


def _train(config: TrainConfig, run: RunDir, transforms: dict[str, Any], pool: WorkerPool | None, start: float) -> TrainResult:
    train_set, val_set, skipped = _open(config)
    class_weights = find_class_weights(config.objective.class_weights, train_set)
    batches, steps = train_batches(
        train_set,
        augment=config.augment,
        seed=config.seed,
        first_epoch=0,
        epochs=config.epochs,
        image_size=config.image_size,
        batch_size=config.batch_size,
        pool=pool,
    )
    model = _compiled_model(config, train_set, steps, class_weights)
    run.create(config, skipped)
    write_text(run.transforms, json.dumps(transforms, indent=1) + "\n")
    _announce(config, model, train_set, val_set, steps, run)

    checkpoint = Checkpoint(run.last, run.best)
    callbacks = [
        Progress(batch_size=config.batch_size, steps=steps, epochs=config.epochs),
        StopOnNonFinite(),
        *optimization_callbacks(config.optimization),
        keras.callbacks.CSVLogger(run.metrics),
        checkpoint,
    ]
    with sample_errors():
        model.fit(
            batches,
            epochs=config.epochs,
            steps_per_epoch=steps,
            validation_data=eval_batches(val_set, image_size=config.image_size, batch_size=config.batch_size, pool=pool),
            callbacks=callbacks,
            shuffle=False,  # train_batches shuffles, by (seed, epoch)
            verbose=0,
        )

    model = load_model(run.best)
    save_model(model, run.model)
    predictor = Predictor(model, val_set, image_size=config.image_size, batch_size=config.batch_size, pool=pool)
    evaluation = predictor.evaluate()
    write_evaluation(run.evaluation, evaluation, config.val_split)
    if config.tracking.report:
        with sample_errors():
            write_report(run, config, evaluation, val_set, predictor, best_epoch=checkpoint.best_epoch)
    return TrainResult(evaluation, run, time.monotonic() - start)


def _open(config: TrainConfig) -> tuple[Dataset, Dataset, list[str]]:
    """Returns the checked splits and a line for every sample that was left out."""
    splits, skipped = [], []
    for split in (config.train_split, config.val_split):
        dataset, bad = open_split(config.data, split)
        splits.append(dataset)
        skipped += [f"{split}: {line}" for line in bad]
    train_set, val_set = splits
    if train_set.class_names != val_set.class_names:
        raise KsegError(f"the splits {config.train_split} and {config.val_split} define different categories; make them agree")
    return train_set, val_set, skipped


def _compiled_model(config: TrainConfig, train_set: Dataset, steps: int, class_weights: list[float] | None) -> keras.Model:
    keras.utils.set_random_seed(config.seed)
    num_classes = len(train_set.class_names)
    with precision(config.optimization.precision):
        model = build_model(
            config.model,
            num_classes=num_classes,
            backbone=config.backbone,
            backbone_weights=None if config.backbone_weights == "none" else config.backbone_weights,
            output_stride=config.output_stride,
        )
    model.compile(
        optimizer=configure(config.optimization, model, epochs=config.epochs, steps=steps),
        loss=CrossEntropy(train_set.ignore_index, class_weights),
        metrics=[ConfusionMatrix(num_classes, train_set.ignore_index)],
    )
    return model


def _announce(config: TrainConfig, model: keras.Model, train_set: Dataset, val_set: Dataset, steps: int, run: RunDir) -> None:
    height, width = config.image_size
    print(f"backend {describe_devices()}")
    print(f"model   {config.model} on {config.backbone}, {model.count_params() / 1e6:.1f} M parameters, input {height}x{width}")
    print(f"data    {len(train_set)} training and {len(val_set)} validation images, {len(train_set.class_names)} classes")
    if config.data.dataset == "synthetic":
        print("        drawn by kseg: a demonstration that needs no download, not a benchmark")
    print(f"run     {config.epochs} epochs of {steps} steps, batch {config.batch_size}, into {run.path}", flush=True)
