"""A training run from config to run directory."""

import contextlib
import dataclasses
import json
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from kseg import hosts
from kseg.callbacks import Checkpoint, Position, Progress, StopOnNonFinite
from kseg.checkpoints import RunState, newest_checkpoint, read_state, restore_model
from kseg.config import TrainConfig, flatten
from kseg.data import Dataset
from kseg.data.augment import describe_transforms
from kseg.data.check import open_split
from kseg.data.class_weights import check_setting, find_class_weights
from kseg.data.pipeline import eval_batches, sample_errors, train_batches
from kseg.data.workers import WorkerPool, worker_pool
from kseg.distribution import check_batch, data_parallel, describe_devices
from kseg.errors import KsegError
from kseg.interruption import Interrupted, deferred_signals
from kseg.losses import build_loss
from kseg.metrics import ConfusionMatrix
from kseg.models import MODELS, build_model
from kseg.models.backbones import check_backbone
from kseg.models.layers import DOUBLE_NORMALIZATION
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


@dataclass(frozen=True)
class _Data:
    """The splits, a line for every sample that was left out of them, and the weights of the classes in the loss."""

    train: Dataset
    val: Dataset
    skipped: list[str]
    class_weights: list[float] | None

    def summary(self) -> str:
        """What differs if two hosts do not have the same data, as far as can be told without reading them."""
        return f"{self.train.class_names} {len(self.train)} {len(self.val)} {self.class_weights}"


def train(config: TrainConfig, given: Collection[str] | None = None) -> TrainResult:
    """Trains as the config says, scores the best epoch's model on the validation split, and writes the run directory.

    given: names of the flags that were set on purpose; a resumed run takes all others from its config.json. None: all.
    Raises KsegError for whatever the user can mend; all that can be checked is checked before the run directory is made.
    In a run of several processes each calls this, within kseg.hosts.as_one; process 0 writes and prints.
    """
    start = time.monotonic()
    run = RunDir(config.run_dir or default_run_dir(config))
    first = hosts.is_first()
    with hosts.together():
        stored = run.read_config().to_json() if first and config.resume and run.config.exists() else ""
    stored = hosts.from_first(stored.encode()).decode()
    if stored:
        config = resumed_config(config, given, TrainConfig.from_json(stored))
    defaults = MODELS[config.model].info
    backbone = config.backbone or defaults["backbone"]
    config = dataclasses.replace(config, backbone=backbone, resume=False)
    check_backbone(backbone, config.output_stride or defaults["output_stride"])
    transforms = describe_transforms(config.augment, config.image_size)
    check_setting(config.objective.class_weights)
    build_loss(config.objective.loss, label_smoothing=config.objective.label_smoothing)
    check_batch(config.devices.distribution, config.batch_size)
    with hosts.together():
        if first:
            run.lock() if stored else run.check_free()
    try:
        with worker_pool(config.devices.workers) as pool:  # which starts while the data are checked
            return _train(config, run, transforms, pool, start, bool(stored))
    finally:
        run.unlock()


def _train(
    config: TrainConfig, run: RunDir, transforms: dict[str, Any], pool: WorkerPool | None, start: float, resuming: bool
) -> TrainResult:
    distribution, first = config.devices.distribution, hosts.is_first()
    with hosts.together():
        data = _open(config)
        newest = newest_checkpoint(run.checkpoints()) if resuming and first else None
    hosts.check_same("flags or data", f"{_common(config)} {data.summary()}")
    with hosts.shared_file(newest and newest[0]) as path, data_parallel(distribution):
        resumed = newest if newest or path is None else (path, read_state(path))
        stopped, best_epoch = _fit(config, run, transforms, data, pool, resuming, resumed)
    with data_parallel(distribution, local=True):
        model = _best_model(run, stopped is None)
        own = config.batch_size // hosts.rank()[1]  # what this process's devices had of a batch in training
        predictor = Predictor(model, data.val, image_size=config.image_size, batch_size=own, pool=pool)
        evaluation = predictor.evaluate()
        if first:
            write_evaluation(run.evaluation, evaluation, config.val_split)
            if config.tracking.report:
                with sample_errors():
                    write_report(run, config, evaluation, data.val, predictor, best_epoch=best_epoch)
    return TrainResult(evaluation, run, config, time.monotonic() - start, stopped)


def _fit(
    config: TrainConfig,
    run: RunDir,
    transforms: dict[str, Any],
    data: _Data,
    pool: WorkerPool | None,
    resuming: bool,
    resumed: tuple[Path, RunState] | None,
) -> tuple[int | None, int]:
    """Makes the run directory, or opens it again, and trains. Returns TrainResult.stopped and the best epoch, from 1.

    resumed: the checkpoint to go on from, and its state.
    """
    first = hosts.is_first()
    state = resumed[1] if resumed else RunState(epoch=0, step=0)
    common: dict[str, Any] = {
        "image_size": config.image_size,
        "batch_size": config.batch_size,
        "share": hosts.rank(),
        "pool": pool,
    }
    with hosts.together():
        batches, steps = train_batches(
            data.train,
            augment=config.augment,
            seed=config.seed,
            first_epoch=state.epoch,
            first_step=state.step,
            epochs=config.epochs,
            **common,
        )
    model = _compiled_model(config, data, steps)
    if resumed:
        restore_model(resumed[0], model)
    with hosts.together():
        if first:
            run.reopen(config, state.metrics_csv) if resuming else run.create(config, data.skipped)
            write_text(run.transforms, json.dumps(transforms, indent=1) + "\n")
    _announce(config, model, data, steps, run)
    if resumed:
        print(f"resumed after epoch {state.epoch}, step {state.step} of the next, from {resumed[0]}", flush=True)

    position = Position(steps=steps, epoch=state.epoch, step=state.step)
    progress = Progress(
        position, batch_size=config.batch_size, epochs=config.epochs, timing=run.timing if first else None, quiet=not first
    )
    with deferred_signals() as request:
        callbacks = [
            position,
            progress,
            StopOnNonFinite(),
        ]
        if first:
            callbacks.append(keras.callbacks.CSVLogger(run.metrics, append=resuming))
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
                    validation_data=eval_batches(data.val, **common),
                    callbacks=[*callbacks, checkpoint],
                    shuffle=False,  # train_batches shuffles, by (seed, epoch)
                    verbose=0,
                )
        else:
            checkpoint.set_state(state.callbacks["Checkpoint"])

    stopped = request.exit_code if position.epoch < config.epochs and request.signal is not None else None
    return stopped, checkpoint.best_epoch


def _best_model(run: RunDir, finished: bool) -> keras.Model:
    """The best epoch's model, in every process; process 0 writes that of a finished run to model.keras."""
    model = source = None
    if hosts.is_first():
        source = run.best if run.best.exists() else run.checkpoints()[0]
        model = main_head(load_model(source))
        if finished:
            save_model(model, run.model)
            source = run.model  # without the optimizer's state, so smaller
    with hosts.shared_file(source) as path:
        if model is None:
            assert path is not None  # process 0 has one
            model = main_head(load_model(path))
    return model


def _common(config: TrainConfig) -> str:
    """What all processes of a run must have been told alike: not where each finds its data, writes, or what it runs on."""
    own = {"data_dir", "run_dir", *flatten(config.devices)}
    return repr({name: value for name, value in flatten(config).items() if name not in own})


def _open(config: TrainConfig) -> _Data:
    """Returns the checked splits."""
    splits, skipped = [], []
    for split in (config.train_split, config.val_split):
        dataset, bad = open_split(config.data, split)
        splits.append(dataset)
        skipped += [f"{split}: {line}" for line in bad]
    train_set, val_set = splits
    if train_set.class_names != val_set.class_names:
        raise KsegError(f"the splits {config.train_split} and {config.val_split} define different categories; make them agree")
    return _Data(train_set, val_set, skipped, find_class_weights(config.objective.class_weights, train_set))


def _compiled_model(config: TrainConfig, data: _Data, steps: int) -> keras.Model:
    keras.utils.set_random_seed(config.seed)
    num_classes, objective = len(data.train.class_names), config.objective
    model = build_model(
        config.model,
        num_classes=num_classes,
        backbone=config.backbone,
        backbone_weights=None if config.backbone_weights == "none" else config.backbone_weights,
        output_stride=config.output_stride,
        normalization=DOUBLE_NORMALIZATION if config.double_normalization else "auto",
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
            ignore_index=data.train.ignore_index,
            class_weights=data.class_weights,
            label_smoothing=objective.label_smoothing,
        ),
        metrics=[ConfusionMatrix(num_classes, data.train.ignore_index)],
    )
    return model


def _announce(config: TrainConfig, model: keras.Model, data: _Data, steps: int, run: RunDir) -> None:
    height, width = config.image_size
    print(f"backend {describe_devices()}")
    print(f"model   {config.model} on {config.backbone}, {model.count_params() / 1e6:.1f} M parameters, input {height}x{width}")
    print(f"data    {len(data.train)} training and {len(data.val)} validation images, {len(data.train.class_names)} classes")
    if config.data.dataset == "synthetic":
        print("        drawn by kseg: a demonstration that needs no download, not a benchmark")
    print(f"run     {config.epochs} epochs of {steps} steps, batch {config.batch_size}, into {run.path}", flush=True)
