"""A training run from config to run directory."""

import contextlib
import dataclasses
import functools
import json
import tempfile
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from kseg.config import TrainConfig, better, flatten
from kseg.config.resume import resumed_config
from kseg.data.augmentation.augmenter import describe_transforms
from kseg.data.inspection.class_weights import check_setting
from kseg.data.loading.pipeline import eval_batches, sample_errors, train_batches
from kseg.data.loading.samples import batch_names
from kseg.data.loading.worker_pool import WorkerPool, worker_pool
from kseg.inference.predictor import Predictor
from kseg.losses import build_loss
from kseg.metrics.evaluation import Evaluation
from kseg.metrics.evaluation_files import write_evaluation, write_matrices
from kseg.models.auxiliary_head import inference_model
from kseg.models.backbones.registry import check_backbone
from kseg.models.registry import MODELS
from kseg.models.saving import load_model, save_model
from kseg.reports.report_page import write_report
from kseg.runtime import hosts
from kseg.runtime.distribution import check_batch, data_parallel
from kseg.runtime.out_of_memory import explain_out_of_memory
from kseg.runtime.run_dir import RunDir, default_run_dir
from kseg.runtime.signals import Interrupted, StopRequest, deferred_signals
from kseg.training.callbacks import Checkpoint, EarlyStopping, MetricsLog, Progress, ReleaseFreedMemory, TrainState
from kseg.training.checkpoints import RunState, newest_checkpoint, read_state, restore_model
from kseg.training.diagnostics import StopOnNonFinite, WarnOnPlateau, WarnOnUnlabelledBatches
from kseg.training.loggers import check_trackers, tracking_callbacks
from kseg.training.optimizer_config import optimization_callbacks
from kseg.training.setup import RunData, compiled_model, open_data
from kseg.training.summary import TimeEstimate, describe_memory, describe_run
from kseg.utils.files import write_text


@dataclass(frozen=True)
class TrainResult:
    """What a run ended with: the best epoch's scores on the whole validation split, its name, the run directory, its config,
    seconds.

    stopped: the exit code for a run that a signal stopped before its end, else None. After a dry run the directory is gone, and
    the scores mean nothing.
    """

    evaluation: Evaluation
    split: str
    run: RunDir
    config: TrainConfig
    seconds: float
    stopped: int | None = None


@dataclass(frozen=True)
class _Beginning:
    """Where fit begins. resuming: in a run directory that exists already. path: the checkpoint to go on from, if there is one, of
    this state.
    """

    resuming: bool
    path: Path | None
    state: RunState

    @property
    def checkpoint(self) -> tuple[Path, RunState] | None:
        return None if self.path is None else (self.path, self.state)


def train(config: TrainConfig, given: Collection[str] | None = None) -> TrainResult:
    """Trains as the config says, scores the best epoch's model on the validation split, and writes the run directory.

    given: names of the flags that were set on purpose; a resumed run takes all others from its config.json. None: all.
    Raises KsegError for whatever the user can mend; all that can be checked is checked before the run directory is made.
    In a run of several processes each calls this, within kseg.runtime.hosts.run_distributed; process 0 writes and prints.
    """
    start = time.monotonic()
    run = RunDir(config.run_dir or default_run_dir(config))
    first = hosts.is_main_process()
    with hosts.raise_together():
        stored = run.read_config().to_json() if first and config.resume and run.config.exists() else ""
    stored = hosts.broadcast_bytes(stored.encode()).decode()
    if stored:
        config = resumed_config(config, given, TrainConfig.from_json(stored))
    defaults = MODELS[config.model].info
    backbone = config.backbone or defaults["backbone"]
    augment = "none" if config.debug.overfit_batches else config.augment
    config = dataclasses.replace(config, backbone=backbone, augment=augment, resume=False)
    check_backbone(backbone, config.output_stride or defaults["output_stride"])
    transforms = describe_transforms(config.augment, config.image_size)
    check_setting(config.objective.class_weights)
    build_loss(config.objective.loss, label_smoothing=config.objective.label_smoothing)
    check_trackers(config)
    check_batch(config.devices.distribution, config.batch_size)
    with hosts.raise_together():
        if first:
            run.lock() if stored else run.check_free()
    try:
        with contextlib.ExitStack() as stack:
            pool = stack.enter_context(worker_pool(config.devices.workers))  # which starts while the data are checked
            if config.debug.dry_run:
                run = RunDir(stack.enter_context(tempfile.TemporaryDirectory()))
            return _train(config, run, transforms, pool, start, bool(stored))
    finally:
        run.unlock()


def _train(
    config: TrainConfig, run: RunDir, transforms: dict[str, Any], pool: WorkerPool | None, start: float, resuming: bool
) -> TrainResult:
    distribution, first = config.devices.distribution, hosts.is_main_process()
    with hosts.raise_together():
        data = open_data(config)
        newest = newest_checkpoint(run.checkpoints()) if resuming and first else None
    hosts.check_same("flags or data", f"{_common(config)} {data.summary()}")
    with hosts.shared_file(newest and newest[0]) as path, data_parallel(distribution):
        state = newest[1] if newest else RunState(epoch=0, step=0) if path is None else read_state(path)
        stopped, best_epoch, data = _fit(config, run, transforms, data, pool, _Beginning(resuming, path, state))
    with data_parallel(distribution, local=True):
        model = _best_model(run, stopped is None)
        own = config.batch_size // hosts.process_count()  # what this process's devices had of a batch in training
        predictor = Predictor(model, data.val, image_size=config.image_size, batch_size=own, pool=pool)
        evaluation = predictor.evaluate()
        split = f"overfitted {config.train_split}" if config.debug.overfit_batches else config.val_split
        if first:
            write_evaluation(run.evaluation, evaluation, split)
            write_matrices(run.matrices, evaluation, data.val)
            if config.tracking.report:
                with sample_errors():
                    write_report(run, config, evaluation, data.val, predictor, best_epoch=best_epoch)
    return TrainResult(evaluation, split, run, config, time.monotonic() - start, stopped)


def _fit(
    config: TrainConfig,
    run: RunDir,
    transforms: dict[str, Any],
    data: RunData,
    pool: WorkerPool | None,
    beginning: _Beginning,
) -> tuple[int | None, int, RunData]:
    """Makes the run directory, or opens it again, and trains.

    Returns TrainResult.stopped, the best epoch (from 1) and the data that was used: all, or in a dry run a batch.
    """
    whole, first = config, hosts.is_main_process()
    images, num_classes = (len(data.train), len(data.val)), len(data.train.class_names)
    if config.debug.dry_run:
        data, config = data.first_batch(config.batch_size), dataclasses.replace(config, epochs=1)
    checkpoint, state = beginning.path, beginning.state
    common: dict[str, Any] = {
        "image_size": config.image_size,
        "batch_size": config.batch_size,
        "share": (hosts.process_index(), hosts.process_count()),
        "pool": pool,
    }
    with hosts.raise_together():
        batches, steps = train_batches(
            data.train,
            augment=config.augment,
            seed=config.seed,
            first_epoch=state.epoch,
            first_step=state.step,
            epochs=config.epochs,
            **common,
        )
    model = compiled_model(config, data, steps)
    if checkpoint:
        restore_model(checkpoint, model)
    with hosts.raise_together():
        if first:
            run.reopen(config, state.metrics_csv) if beginning.resuming else run.create(config, data.skipped)
            write_text(run.transforms, json.dumps(transforms, indent=1) + "\n")
    where = (config.run_dir or default_run_dir(config)) if config.debug.dry_run else run.path
    print(describe_run(whole, model, images, num_classes, where), flush=True)
    if checkpoint:
        print(f"resumed after epoch {state.epoch}, step {state.step} of the next, from {checkpoint}", flush=True)

    position = TrainState(steps=steps, epoch=state.epoch, step=state.step)
    progress = Progress(
        position, batch_size=config.batch_size, epochs=config.epochs, timing=run.timing if first else None, quiet=not first
    )
    with deferred_signals() as request:
        callbacks = _callbacks(config, run, data, position, progress, request, beginning)
        saver = callbacks[-1]
        if state.epoch < config.epochs and not EarlyStopping.ended(state.callbacks, config.selection.early_stopping):
            with contextlib.ExitStack() as stack:
                for callback in callbacks:
                    if hasattr(callback, "close"):
                        stack.callback(callback.close)
                stack.enter_context(contextlib.suppress(Interrupted))
                stack.enter_context(explain_out_of_memory(config))
                stack.enter_context(sample_errors())
                model.fit(
                    batches,
                    initial_epoch=state.epoch,
                    epochs=config.epochs,
                    steps_per_epoch=steps,
                    validation_data=eval_batches(data.val, **common),
                    callbacks=callbacks,
                    shuffle=False,  # train_batches shuffles, by (seed, epoch)
                    verbose=0,
                )
        else:
            saver.set_state(state.callbacks["Checkpoint"])
    if config.debug.dry_run:
        print(describe_memory(model, config), flush=True)
    stopped = request.exit_code if position.epoch < config.epochs and request.signal is not None else None
    return stopped, saver.best_epoch, data


def _callbacks(
    config: TrainConfig,
    run: RunDir,
    data: RunData,
    position: TrainState,
    progress: Progress,
    request: StopRequest,
    beginning: _Beginning,
) -> list[Any]:
    """What accompanies fit, in the order that it takes: what adds to the logs before what reads them, the checkpoint last."""
    selection = config.selection
    mode = better(selection.monitor, selection.monitor_mode)
    callbacks: list[Any] = [
        position,
        progress,
        ReleaseFreedMemory(),
        *optimization_callbacks(config.optimization),
        TimeEstimate(steps_per_epoch=position.steps, epochs=config.epochs),
        StopOnNonFinite(position, run.nonfinite, functools.partial(batch_names, data.train, config.batch_size, config.seed)),
        WarnOnUnlabelledBatches(position.steps),
        WarnOnPlateau(),
    ]
    if hosts.is_main_process():
        callbacks.append(MetricsLog(run.metrics, append=beginning.resuming))
        callbacks += tracking_callbacks(config, run, data.val, progress)
    if selection.early_stopping:
        callbacks.append(EarlyStopping(selection.monitor, mode, selection.early_stopping))
    saver = Checkpoint(
        run,
        position,
        request,
        callbacks,
        monitor=selection.monitor,
        mode=mode,
        every=config.tracking.checkpoint_steps,
        keep=config.tracking.keep_checkpoints,
        resumed=beginning.checkpoint,
    )
    return [*callbacks, saver]


def _best_model(run: RunDir, finished: bool) -> keras.Model:
    """The best epoch's model, in every process; process 0 writes that of a finished run to model.keras."""
    model = source = None
    if hosts.is_main_process():
        source = run.best if run.best.exists() else run.checkpoints()[0]
        model = inference_model(load_model(source))
        if finished:
            save_model(model, run.model)
            source = run.model  # without the optimizer's state, so smaller
    with hosts.shared_file(source) as path:
        if model is None:
            assert path is not None  # process 0 has one
            model = inference_model(load_model(path))
    return model


def _common(config: TrainConfig) -> str:
    """What all processes of a run must have been told alike: not where each finds its data, writes, or what it runs on."""
    own = {"data_dir", "run_dir", *flatten(config.devices)}
    return repr({name: value for name, value in flatten(config).items() if name not in own})
