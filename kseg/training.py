"""A training run from config to run directory."""

import contextlib
import dataclasses
import functools
import json
import tempfile
import time
from dataclasses import dataclass
from typing import Any

import keras

from kseg.callbacks import Checkpoint, Progress
from kseg.config import TrainConfig, better
from kseg.data import Dataset
from kseg.data.augment import describe_transforms
from kseg.data.check import open_split
from kseg.data.class_weights import check_setting, find_class_weights
from kseg.data.order import batch_names
from kseg.data.pipeline import eval_batches, sample_errors, train_batches
from kseg.data.workers import WorkerPool, worker_pool
from kseg.early_stopping import EarlyStopping
from kseg.errors import KsegError
from kseg.losses import CrossEntropy
from kseg.metrics import ConfusionMatrix, UnlabelledBatches
from kseg.models import MODELS, build_model
from kseg.models.backbones import check_backbone
from kseg.optimizers import build_optimizer, build_schedule, warmup_steps
from kseg.report import write_report
from kseg.run import RunDir, default_run_dir, load_model, save_model, write_text
from kseg.sanity import StopOnNonFinite, WarnOfStillLoss, WarnOfUnlabelledBatches, check_labels
from kseg.scoring import Evaluation, Predictor, write_evaluation
from kseg.summary import TimeEstimate, describe_run
from kseg.tracking import check_trackers, tracking_callbacks
from kseg.trial import describe_memory, first_batch, overfit_sets


@dataclass(frozen=True)
class TrainResult:
    """What a run ended with: the best epoch's scores on the whole validation split, its name, the run directory, seconds in all.

    After a dry run the directory is gone, and the scores mean nothing.
    """

    evaluation: Evaluation
    split: str
    run: RunDir
    seconds: float


def train(config: TrainConfig) -> TrainResult:
    """Trains as the config says, scores the best epoch's model on the validation split, and writes the run directory.

    Raises KsegError for whatever the user can mend; all that can be checked is checked before the run directory is made.
    """
    start = time.monotonic()
    defaults = MODELS[config.model].info
    backbone = config.backbone or defaults["backbone"]
    augment = "none" if config.trial.overfit_batches else config.augment
    config = dataclasses.replace(config, backbone=backbone, augment=augment)
    check_backbone(backbone, config.output_stride or defaults["output_stride"])
    transforms = describe_transforms(config.augment, config.image_size)
    check_setting(config.objective.class_weights)
    check_trackers(config)
    run = RunDir(config.run_dir or default_run_dir(config))
    run.check_free()

    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(worker_pool(config.devices.workers))  # which starts while the data are checked
        folder = stack.enter_context(tempfile.TemporaryDirectory()) if config.trial.dry_run else run.path
        return _train(config, RunDir(folder), transforms, pool, start)


def _train(config: TrainConfig, run: RunDir, transforms: dict[str, Any], pool: WorkerPool | None, start: float) -> TrainResult:
    train_set, val_set, skipped = open_splits(config)
    whole, images = config, (len(train_set), len(val_set))  # what a dry run, of less, tells of
    if config.trial.dry_run:
        train_set, val_set = (first_batch(split, config.batch_size) for split in (train_set, val_set))
        config = dataclasses.replace(config, epochs=1)
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
    model = compiled_model(config, train_set, steps, class_weights)
    run.create(config, skipped)
    write_text(run.transforms, json.dumps(transforms, indent=1) + "\n")
    where = (config.run_dir or default_run_dir(config)) if config.trial.dry_run else run.path
    print(describe_run(whole, model, images, len(train_set.class_names), where), flush=True)

    selection = config.selection
    mode = better(selection.monitor, selection.monitor_mode)
    checkpoint = Checkpoint(run.last, run.best, selection.monitor, mode)
    log = keras.callbacks.CSVLogger(run.metrics)
    callbacks = [
        Progress(batch_size=config.batch_size, steps=steps, epochs=config.epochs),
        TimeEstimate(steps_per_epoch=steps, epochs=config.epochs),
        StopOnNonFinite(run.nonfinite, functools.partial(batch_names, train_set, config.batch_size, config.seed)),
        WarnOfUnlabelledBatches(steps),
        WarnOfStillLoss(),
        log,
        checkpoint,
        *([EarlyStopping(selection.monitor, mode, selection.early_stopping)] if selection.early_stopping else []),
        *tracking_callbacks(config, run, val_set),
    ]
    with sample_errors(), contextlib.ExitStack() as stack:
        stack.callback(lambda: log.csv_file and log.csv_file.close())  # Keras closes it only at the end of a run that ends well
        model.fit(
            batches,
            epochs=config.epochs,
            steps_per_epoch=steps,
            validation_data=eval_batches(val_set, image_size=config.image_size, batch_size=config.batch_size, pool=pool),
            callbacks=callbacks,
            shuffle=False,  # train_batches shuffles, by (seed, epoch)
            verbose=0,
        )
    if config.trial.dry_run:
        print(describe_memory(model, config), flush=True)

    model = load_model(run.best)
    save_model(model, run.model)
    predictor = Predictor(model, val_set, image_size=config.image_size, batch_size=config.batch_size, pool=pool)
    evaluation = predictor.evaluate()
    split = f"overfitted {config.train_split}" if config.trial.overfit_batches else config.val_split
    write_evaluation(run.evaluation, evaluation, split)
    if config.tracking.report:
        with sample_errors():
            write_report(run, config, evaluation, val_set, predictor, best_epoch=checkpoint.best_epoch)
    return TrainResult(evaluation, split, run, time.monotonic() - start)


def open_splits(config: TrainConfig) -> tuple[Dataset, Dataset, list[str]]:
    """Returns the checked splits and a line for every sample that was left out; warns of labels that teach nothing."""
    splits: list[Dataset] = []
    skipped: list[str] = []
    occurring: list[bytes] = []
    for split in (config.train_split, config.val_split):
        dataset, bad = open_split(config.data, split, occurring=None if splits else occurring)
        splits.append(dataset)
        skipped += [f"{split}: {line}" for line in bad]
    train_set, val_set = splits
    if train_set.class_names != val_set.class_names:
        raise KsegError(f"the splits {config.train_split} and {config.val_split} define different categories; make them agree")
    check_labels(train_set, occurring, config.train_split)
    if config.trial.overfit_batches:
        train_set, val_set = overfit_sets(train_set, config.trial.overfit_batches, config.batch_size, config.seed)
    return train_set, val_set, skipped


def compiled_model(config: TrainConfig, train_set: Dataset, steps: int, class_weights: list[float] | None) -> keras.Model:
    """Returns the model that the config describes, with optimizer, loss and metrics, ready for fit. steps: an epoch's."""
    keras.utils.set_random_seed(config.seed)
    num_classes = len(train_set.class_names)
    model = build_model(
        config.model,
        num_classes=num_classes,
        backbone=config.backbone,
        backbone_weights=None if config.backbone_weights == "none" else config.backbone_weights,
        output_stride=config.output_stride,
    )
    optimization = config.optimization
    schedule = build_schedule(
        optimization.schedule,
        optimization.learning_rate,
        steps=steps * config.epochs,
        warmup_steps=warmup_steps(optimization.warmup_epochs, steps),
    )
    model.compile(
        optimizer=build_optimizer(optimization.optimizer, learning_rate=schedule, weight_decay=optimization.weight_decay),
        loss=CrossEntropy(train_set.ignore_index, class_weights),
        metrics=[ConfusionMatrix(num_classes, train_set.ignore_index), UnlabelledBatches(train_set.ignore_index)],
    )
    return model
