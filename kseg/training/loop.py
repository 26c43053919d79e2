"""The training loop: a run from its config to its run directory.

A run's parts: setup.py (config, run directory, model), run_data.py (data), callbacks.py, optimizers.py and schedules.py,
checkpoints.py, final_evaluation.py.
"""

import contextlib
import dataclasses
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from kseg.config import TrainConfig
from kseg.data.loading.pipeline import eval_batches, sample_errors, train_batches
from kseg.data.loading.worker_pool import WorkerPool, worker_pool
from kseg.metrics.evaluation import Evaluation
from kseg.runtime import hosts
from kseg.runtime.distribution import data_parallel
from kseg.runtime.out_of_memory import explain_out_of_memory
from kseg.runtime.run_dir import RunDir, default_run_dir
from kseg.runtime.signals import Interrupted, deferred_signals
from kseg.training.callbacks import build_callbacks, is_finished
from kseg.training.checkpoints import RunState, restore_model, shared_checkpoint
from kseg.training.extras import NO_EXTRAS, FitExtras
from kseg.training.final_evaluation import evaluate_best
from kseg.training.initial_weights import InitialModel
from kseg.training.run_data import GivenData, RunData, open_data
from kseg.training.setup import (
    check_config,
    check_given,
    compiled_model,
    open_initial_of_run,
    reserved_run_dir,
    settle_config,
    shared_flags,
    write_run_dir,
)
from kseg.training.summary import describe_memory, describe_run


@dataclass(frozen=True)
class TrainResult:
    """The result of a run.

    evaluation: of the best epoch's model on the whole validation split. split: the split's name. best_epoch: from 1; 0 if there
    was none. stopped: the exit code of a run that a signal stopped, else None. note: how it was scored, if not on resized images
    and at the labels' own size. After a dry run the directory is deleted, and the scores mean nothing.
    """

    evaluation: Evaluation
    split: str
    run: RunDir
    config: TrainConfig
    seconds: float
    best_epoch: int
    stopped: int | None = None
    note: str = ""

    def summary(self) -> str:
        """Returns the lines that end a run: scores, time, and where the report is."""
        if self.config.debug.dry_run:
            return f"dry run: one batch went through everything, {self.seconds:.0f} s; nothing was kept"
        constant = f"predicting one class everywhere would score {self.evaluation.scores.constant_mean_iou:.4f}"
        page = self.run.report if self.config.tracking.report else self.run.path
        scores = ", ".join(filter(None, (self.evaluation.summary(self.split), self.note)))
        return f"{constant}\n{scores}, {self.seconds:.0f} s, {page}"


def train(
    config: TrainConfig,
    given: Collection[str] | None = None,
    *,
    data: GivenData | None = None,
    initial: keras.Model | None = None,
    extras: FitExtras = NO_EXTRAS,
) -> TrainResult:
    """Trains a model, scores the best epoch on the validation split, and writes the run directory.

    In a run of several processes each calls this, within kseg.runtime.hosts.run_distributed; process 0 writes and prints.

    Args:
        given: names of the flags that were given; a resumed run takes the others from its config.json. None: all were given.
        data: the data sets, instead of those that config.data names.
        initial: a model of this architecture and these classes to start from.
        extras: callbacks, loss, optimizer and metrics as objects.

    Raises:
        KsegError: for errors that the user can fix. Flags and data are checked before the run directory is created.
    """
    start = time.monotonic()
    config, resuming = settle_config(config, given)
    target = RunDir(config.run_dir or default_run_dir(config))
    check_given(config, data=data is not None, initial=initial is not None)
    check_config(config, extras)
    distribution = config.devices.distribution
    with (
        reserved_run_dir(target, config, resuming=resuming) as run,
        worker_pool(config.devices.workers) as pool,  # starts while the data are checked
    ):
        with hosts.raise_together():
            run_data = open_data(config, data)
        hosts.check_same("flags or data", f"{shared_flags(config)} {run_data.summary()}")
        with shared_checkpoint(run) as resume_from, data_parallel(distribution):
            fitted = _fit(
                config,
                run,
                run_data,
                pool,
                resuming=resuming,
                resume_from=resume_from,
                shown_as=target.path,
                initial=None
                if initial is None
                else InitialModel.of_model(initial, initial.name, run_data.train.class_names, extras.credits),
                extras=extras,
            )
        with data_parallel("none" if config.scale.val_window else distribution, local=True):  # windows: on one device
            finished = fitted.stopped is None
            evaluation, split = evaluate_best(config, run, fitted.data, pool, best_epoch=fitted.best_epoch, finished=finished)
    seconds = time.monotonic() - start
    return TrainResult(evaluation, split, run, config, seconds, fitted.best_epoch, fitted.stopped, config.scale.evaluation())


@dataclass(frozen=True)
class _Fitted:
    """data: what was trained on: all data, or one batch in a dry run. stopped: as in TrainResult."""

    data: RunData
    best_epoch: int
    stopped: int | None


def _fit(
    config: TrainConfig,
    run: RunDir,
    data: RunData,
    pool: WorkerPool | None,
    *,
    resuming: bool,
    resume_from: tuple[Path, RunState] | None,
    shown_as: Path,
    initial: InitialModel | None,
    extras: FitExtras,
) -> _Fitted:
    """Builds the model, writes the run directory and trains. The model is released when this returns.

    resume_from: the checkpoint to continue from. A resumed run has none if it was killed before the first.
    """
    full_config, all_data = config, data
    if config.debug.dry_run:
        config, data = dataclasses.replace(config, epochs=1), data.first_batch(config.batch_size)
    state = resume_from[1] if resume_from else RunState(epoch=0, step=0)
    loading: dict[str, Any] = {
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
            **loading,
        )
    initial = initial or open_initial_of_run(config, run, has_checkpoint=resume_from is not None)
    model = compiled_model(config, data, steps, initial=initial, extras=extras)
    if resume_from:
        restore_model(resume_from[0], model)
    write_run_dir(run, config, data, state, resuming=resuming, initial=initial)
    classes = data.train.class_names
    images = f"{len(all_data.train)} training and {len(all_data.val)} validation images"
    all_steps = len(all_data.train) // config.batch_size
    print(describe_run(full_config, model, images, all_steps, len(classes), shown_as), flush=True)
    if config.init is not None and initial is not None:
        print("".join(f"{line}\n" for line in initial.lines(len(classes))), end="", flush=True)
    if resume_from:
        print(f"resumed after epoch {state.epoch}, step {state.step} of the next, from {resume_from[0]}", flush=True)

    with deferred_signals() as request:
        callbacks = build_callbacks(config, run, data, request, steps=steps, resume_from=resume_from, own=extras.callbacks)
        if not is_finished(state, config):
            with callbacks.closed_at_exit(), contextlib.suppress(Interrupted), explain_out_of_memory(config), sample_errors():
                model.fit(
                    batches,
                    initial_epoch=state.epoch,
                    epochs=config.epochs,
                    steps_per_epoch=steps,
                    validation_data=eval_batches(data.val, window=config.scale.val_window, **loading),
                    callbacks=callbacks.in_order,
                    shuffle=False,  # train_batches shuffles, by seed and epoch
                    verbose=0,
                )
    if config.debug.dry_run:
        print(describe_memory(model, config), flush=True)
    interrupted = callbacks.train_state.epoch < config.epochs and request.signal is not None
    return _Fitted(data, callbacks.checkpoint.best_epoch, request.exit_code if interrupted else None)
