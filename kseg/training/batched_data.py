"""Trains on batches that Python hands over: tf.data.Dataset and keras.utils.PyDataset (kseg.inference.batches).

What other data get is here, too: run directory, curves, checkpoints, evaluation, report. A run resumes at the end of an epoch.
"""

import contextlib
import time
import warnings
from collections.abc import Collection
from typing import cast

import keras

from kseg.config import TrainConfig
from kseg.data.dataset import Dataset
from kseg.data.inspection.class_weights import FORMULAS, find_class_weights
from kseg.inference.batches import Batches, evaluate_batches, first_images
from kseg.metrics.evaluation_files import write_evaluation, write_matrices
from kseg.reports.report_page import write_report
from kseg.runtime import hosts
from kseg.runtime.distribution import data_parallel
from kseg.runtime.out_of_memory import explain_out_of_memory
from kseg.runtime.run_dir import RunDir, default_run_dir
from kseg.runtime.signals import Interrupted, deferred_signals
from kseg.training.callbacks import build_callbacks, is_finished
from kseg.training.checkpoints import RunState, restore_model, shared_checkpoint
from kseg.training.extras import NO_EXTRAS, FitExtras
from kseg.training.final_evaluation import best_model
from kseg.training.initial_weights import InitialModel
from kseg.training.loop import TrainResult
from kseg.training.run_data import RunData
from kseg.training.setup import (
    check_config,
    check_given,
    compiled_model,
    open_initial_of_run,
    reserved_run_dir,
    settle_config,
    write_run_dir,
)
from kseg.training.summary import describe_run
from kseg.utils.errors import KsegError

_NEEDS_SAMPLES = {
    "augment": "none", "overfit_batches": None, "dry_run": False, "workers": None, "cache": "none", "on_bad_sample": "error",
    "checkpoint_steps": 0, "val_fraction": 0.0, "val_window": None,
}  # fmt: skip
"""Flags that need single samples in any order, and their values without effect."""


def train_on_batches(
    config: TrainConfig,
    given: Collection[str],
    train: Batches,
    val: Batches,
    *,
    initial: keras.Model | None = None,
    extras: FitExtras = NO_EXTRAS,
) -> TrainResult:
    """Trains a model on batches and scores the best epoch at the size of the validation batches. Otherwise as loop.train.

    Raises KsegError for errors that the user can fix.
    """
    start = time.monotonic()
    config, resuming = settle_config(config, given)
    target = RunDir(config.run_dir or default_run_dir(config))
    check_given(config, data=True, initial=initial is not None)
    check_flags(config)
    check_config(config, extras)
    if hosts.process_count() > 1:
        raise KsegError("batches of one process are not divided among several; pass data sets, such as FolderDataset")
    weights = find_class_weights(config.objective.class_weights, cast(Dataset, train))
    data = RunData(cast(Dataset, train), first_images(val), [], weights)
    first = None if initial is None else InitialModel.of_model(initial, initial.name, train.class_names, extras.credits)
    with (
        reserved_run_dir(target, config, resuming=resuming) as run,
        shared_checkpoint(run) as resume_from,
        data_parallel(config.devices.distribution),
    ):
        state = resume_from[1] if resume_from else RunState(epoch=0, step=0)
        first = first or open_initial_of_run(config, run, has_checkpoint=resume_from is not None)
        model = compiled_model(config, data, train.steps, initial=first, extras=extras)
        if resume_from:
            restore_model(resume_from[0], model)
        write_run_dir(run, config, data, state, resuming=resuming, initial=first)
        images = f"{train.steps} training and {val.steps} validation batches of {train.batch_size} images, given from Python"
        print(describe_run(config, model, images, train.steps, len(train.class_names), target.path), flush=True)
        if resume_from:
            print(f"resumed after epoch {state.epoch}, from {resume_from[0]}", flush=True)
        with deferred_signals() as request:
            callbacks = build_callbacks(
                config,
                run,
                data,
                request,
                steps=train.steps,
                resume_from=resume_from,
                own=extras.callbacks,
                names=lambda epoch, step: [f"batch {step + 1} of epoch {epoch + 1}"],
                within_epochs=False,
            )
            if not is_finished(state, config):
                with (
                    callbacks.closed_at_exit(),
                    contextlib.suppress(Interrupted),
                    explain_out_of_memory(config),
                    warnings.catch_warnings(),
                ):
                    # Keras says so at the end of each epoch whose number of batches tf.data does not know.
                    warnings.filterwarnings("ignore", "Your input ran out of data")
                    model.fit(
                        train.source,
                        initial_epoch=state.epoch,
                        epochs=config.epochs,
                        validation_data=val.source,
                        callbacks=callbacks.in_order,
                        shuffle=isinstance(train.source, keras.utils.PyDataset),  # a tf.data.Dataset shuffles itself
                        verbose=0,
                    )
        interrupted = callbacks.train_state.epoch < config.epochs and request.signal is not None
        best_epoch, stopped = callbacks.checkpoint.best_epoch, request.exit_code if interrupted else None
        del model, callbacks
    note = f"at the size of the batches' labels, {val.image_size[0]}x{val.image_size[1]}"
    best = best_model(run, config, train.class_names, finished=stopped is None)
    evaluation, shown = evaluate_batches(best, val, "val")
    write_evaluation(run.evaluation, evaluation, config.val_split, {"scored": note})
    write_matrices(run.matrices, evaluation, cast(Dataset, _Names(len(evaluation.matrices))))
    if config.tracking.report:
        write_report(run, config, evaluation, shown.dataset, shown, best_epoch=best_epoch, note=note, shown=shown.evaluation)
    return TrainResult(evaluation, config.val_split, run, config, time.monotonic() - start, best_epoch, stopped, note)


def check_flags(config: TrainConfig) -> None:
    """Raises KsegError for flags that need single samples in any order, which batches do not give."""
    for group in (config, config.data, config.scale, config.debug, config.devices, config.tracking):
        for name, unset in _NEEDS_SAMPLES.items():
            if (value := getattr(group, name, unset)) != unset:
                raise KsegError(f"--{name}={value}: needs single samples in any order, which batches do not give; {_INSTEAD}")
    if config.objective.class_weights in FORMULAS:
        raise KsegError(
            f"--class_weights={config.objective.class_weights}: needs to read single samples first, which batches do not give; "
            f"name a file of weights, or {_INSTEAD}"
        )


_INSTEAD = "pass a data set with random access, such as kseg.FolderDataset or kseg.ArrayDataset"


class _Names:
    """Names of images by their place, for matrices.npz."""

    def __init__(self, count: int):
        self._count = count

    def __len__(self) -> int:
        return self._count

    def name(self, index: int) -> str:
        return f"{index:06d}"
