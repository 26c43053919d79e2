"""A training run from config to run directory."""

import contextlib
import dataclasses
import json
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import keras

from kseg.callbacks import Checkpoint, Position, Progress, StopOnNonFinite
from kseg.checkpoints import RunState, newest_checkpoint, restore_model
from kseg.config import TrainConfig
from kseg.data import Dataset
from kseg.data.augment import describe_transforms
from kseg.data.check import open_split
from kseg.data.class_weights import check_setting, find_class_weights
from kseg.data.pipeline import eval_batches, sample_errors, train_batches
from kseg.data.workers import WorkerPool, worker_pool
from kseg.distribution import describe_devices
from kseg.errors import KsegError
from kseg.interruption import Interrupted, deferred_signals
from kseg.losses import build_loss
from kseg.metrics import ConfusionMatrix
from kseg.models import MODELS, build_model
from kseg.models.backbones import check_backbone
from kseg.models.supervision import deeply_supervised, main_head
from kseg.optimizers import build_optimizer, build_schedule, warmup_steps
from kseg.report import write_report
from kseg.resume import resumed_config
from kseg.run import RunDir, default_run_dir, load_model, save_model, write_text
from kseg.scoring import Evaluation, Predictor, write_evaluation


@dataclass(frozen=True)
class TrainResult:
    """What a run ended with: the best epoch's scores on the whole validation split, the run directory, its config, seconds.

    stopped: the exit code for a run that a signal stopped before its end, else None.
    """

    evaluation: Evaluation
    run: RunDir
    config: TrainConfig
    seconds: float
    stopped: int | None = None


def train(config: TrainConfig, given: Collection[str] | None = None) -> TrainResult:
    """Trains as the config says, scores the best epoch's model on the validation split, and writes the run directory.

    given: names of the flags that were set on purpose; a resumed run takes all others from its config.json. None: all.
    Raises KsegError for whatever the user can mend; all that can be checked is checked before the run directory is made.
    """
    start = time.monotonic()
    run = RunDir(config.run_dir or default_run_dir(config))
    resuming = config.resume and run.config.exists()
    if resuming:
        config = resumed_config(config, given, run.read_config())
    defaults = MODELS[config.model].info
    backbone = config.backbone or defaults["backbone"]
    config = dataclasses.replace(config, backbone=backbone, resume=False)
    check_backbone(backbone, config.output_stride or defaults["output_stride"])
    transforms = describe_transforms(config.augment, config.image_size)
    check_setting(config.objective.class_weights)
    build_loss(config.objective.loss, label_smoothing=config.objective.label_smoothing)
    if resuming:
        run.lock()
    else:
        run.check_free()
    try:
        with worker_pool(config.devices.workers) as pool:  # which starts while the data are checked
            return _train(config, run, transforms, pool, start, resuming)
    finally:
        run.unlock()


def _train(
    config: TrainConfig, run: RunDir, transforms: dict[str, Any], pool: WorkerPool | None, start: float, resuming: bool
) -> TrainResult:
    train_set, val_set, skipped = _open(config)
    class_weights = find_class_weights(config.objective.class_weights, train_set)
    resumed = newest_checkpoint(run.checkpoints()) if resuming else None
    state = resumed[1] if resumed else RunState(epoch=0, step=0)
    batches, steps = train_batches(
        train_set,
        augment=config.augment,
        seed=config.seed,
        first_epoch=state.epoch,
        first_step=state.step,
        epochs=config.epochs,
        image_size=config.image_size,
        batch_size=config.batch_size,
        pool=pool,
    )
    model = _compiled_model(config, train_set, steps, class_weights)
    if resumed:
        restore_model(resumed[0], model)
    if resuming:
        run.reopen(config, state.metrics_csv)
    else:
        run.create(config, skipped)
    write_text(run.transforms, json.dumps(transforms, indent=1) + "\n")
    _announce(config, model, train_set, val_set, steps, run)
    if resumed:
        print(f"resumed after epoch {state.epoch}, step {state.step} of the next, from {resumed[0]}", flush=True)

    position = Position(steps=steps, epoch=state.epoch, step=state.step)
    progress = Progress(position, batch_size=config.batch_size, epochs=config.epochs, timing=run.timing)
    with deferred_signals() as request:
        callbacks = [
            position,
            progress,
            StopOnNonFinite(),
            keras.callbacks.CSVLogger(run.metrics, append=resuming),
        ]
        checkpoint = Checkpoint(
            run,
            position,
            request,
            callbacks,
            every=config.tracking.checkpoint_steps,
            keep=config.tracking.keep_checkpoints,
            resumed=resumed,
        )
        if state.epoch < config.epochs:
            with sample_errors(), contextlib.suppress(Interrupted), contextlib.closing(progress):
                model.fit(
                    batches,
                    initial_epoch=state.epoch,
                    epochs=config.epochs,
                    steps_per_epoch=steps,
                    validation_data=eval_batches(val_set, image_size=config.image_size, batch_size=config.batch_size, pool=pool),
                    callbacks=[*callbacks, checkpoint],
                    shuffle=False,  # train_batches shuffles, by (seed, epoch)
                    verbose=0,
                )
        else:
            checkpoint.set_state(state.callbacks["Checkpoint"])

    stopped = request.exit_code if position.epoch < config.epochs and request.signal is not None else None
    model = main_head(load_model(run.best if run.best.exists() else run.checkpoints()[0]))
    if stopped is None:
        save_model(model, run.model)
    predictor = Predictor(model, val_set, image_size=config.image_size, batch_size=config.batch_size, pool=pool)
    evaluation = predictor.evaluate()
    write_evaluation(run.evaluation, evaluation, config.val_split)
    if config.tracking.report:
        with sample_errors():
            write_report(run, config, evaluation, val_set, predictor, best_epoch=checkpoint.best_epoch)
    return TrainResult(evaluation, run, config, time.monotonic() - start, stopped)


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
    objective = config.objective
    model = build_model(
        config.model,
        num_classes=num_classes,
        backbone=config.backbone,
        backbone_weights=None if config.backbone_weights == "none" else config.backbone_weights,
        output_stride=config.output_stride,
        auxiliary=objective.auxiliary_weight > 0,
    )
    if objective.auxiliary_weight:
        model = deeply_supervised(model, objective.auxiliary_weight)
    optimization = config.optimization
    schedule = build_schedule(
        optimization.schedule,
        optimization.learning_rate,
        steps=steps * config.epochs,
        warmup_steps=warmup_steps(optimization.warmup_epochs, steps),
    )
    model.compile(
        optimizer=build_optimizer(optimization.optimizer, learning_rate=schedule, weight_decay=optimization.weight_decay),
        loss=build_loss(
            objective.loss,
            ignore_index=train_set.ignore_index,
            class_weights=class_weights,
            label_smoothing=objective.label_smoothing,
        ),
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
