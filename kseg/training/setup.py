"""Prepares a run: settles and checks its config, reserves its directory, builds its model."""

import contextlib
import dataclasses
import json
import tempfile
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from typing import Any

import keras

from kseg.config import PYTHON, TrainConfig, flatten
from kseg.config.resume import resumed_config
from kseg.data.augmentation.augmenter import describe_transforms
from kseg.data.inspection.class_weights import check_setting
from kseg.losses import build_loss
from kseg.metrics.confusion_matrix import ConfusionMatrix, UnlabelledBatches
from kseg.models.auxiliary_head import deeply_supervised, inference_model
from kseg.models.backbones.registry import check_backbone
from kseg.models.build import build_model, precision
from kseg.models.chunked_loss import with_chunked_loss
from kseg.models.classification_head import classifying
from kseg.models.credits import NO_CREDITS
from kseg.models.layers import DOUBLE_NORMALIZATION
from kseg.models.options import read_options
from kseg.models.registry import MODELS
from kseg.runtime import hosts
from kseg.runtime.distribution import check_batch
from kseg.runtime.run_dir import RunDir
from kseg.training.checkpoints import RunState
from kseg.training.extras import NO_EXTRAS, FitExtras
from kseg.training.initial_weights import InitialModel, check_weights, open_initial, registered_backbone, settle_weights
from kseg.training.loggers import check_loggers
from kseg.training.optimizer_config import configure
from kseg.training.run_data import RunData
from kseg.utils.errors import KsegError
from kseg.utils.files import write_text


def settle_config(config: TrainConfig, given: Collection[str] | None) -> tuple[TrainConfig, bool]:
    """Returns the config with all defaults filled in, and True if the run is resumed.

    given: names of the flags that were given; a resumed run takes the others from its config.json, and a run with --init some
    from its model. None: all were given.
    Process 0's config.json counts for all processes.
    """
    with hosts.raise_together():
        run = RunDir(config.run_dir) if hosts.is_main_process() and config.resume and config.run_dir is not None else None
        stored = run.read_config().to_json() if run is not None and run.config.exists() else ""
    stored = hosts.broadcast_bytes(stored.encode()).decode()
    if stored:
        before = TrainConfig.from_json(stored)
        config = resumed_config(registered_backbone(config, before.output_stride, before.model), given, before)
        weights = config.backbone_weights if config.backbone_weights != "auto" else "none"  # not in a very old config.json
        backbone = config.backbone or MODELS[config.model].info["backbone"]
        config = dataclasses.replace(config, backbone=backbone, backbone_weights=weights)
    else:
        config = settle_weights(config, given)
    augment = "none" if config.debug.overfit_batches else config.augment
    return dataclasses.replace(config, augment=augment, resume=False), bool(stored)


def check_given(config: TrainConfig, *, data: bool, initial: bool) -> None:
    """Raises KsegError unless a run that had data and a model from Python gets them again, and no other run does.

    config: settled; of a resumed run, its own. data, initial: whether they are given.
    """
    resume = f"run_dir={config.run_dir!r}, resume=True"
    if data and config.data.dataset != PYTHON:
        raise KsegError(f"--run_dir={config.run_dir}: the run's data were not given from Python; go on with kseg.train --resume")
    if config.data.dataset == PYTHON and not data:
        raise KsegError(
            "--dataset=python: stands for data given from Python, which a command cannot find; name another data set, or call "
            f"kseg.Segmenter(...).fit(train, val, {resume if config.run_dir else '...'})"
        )
    if config.python.initial_model is not None and not initial:
        raise KsegError(
            f"--run_dir={config.run_dir}: the run went on from a trained model; continue it with "
            f"kseg.load({config.run_dir!r}).fit(train, val, {resume})"
        )


def check_config(config: TrainConfig, extras: FitExtras = NO_EXTRAS) -> None:
    """Raises KsegError for flags that cannot work. The data are checked later, by open_data."""
    extras.check(config)
    assert config.backbone is not None  # settled
    check_backbone(config.backbone, config.output_stride or MODELS[config.model].info["output_stride"])
    read_options(config.model, config.model_options)
    describe_transforms(config.augment, config.image_size)
    check_setting(config.objective.class_weights)
    if extras.loss is None:
        build_loss(config.objective.loss, label_smoothing=config.objective.label_smoothing)
    check_loggers(config)
    check_weights(config)
    check_batch(config.devices.distribution, config.batch_size)


def shared_flags(config: TrainConfig) -> str:
    """Returns the flags that all processes of a run must have in common: not paths and devices, which belong to a host."""
    own = {"data_dir", "run_dir", *flatten(config.devices)}
    return repr({name: value for name, value in flatten(config).items() if name not in own})


@contextlib.contextmanager
def reserved_run_dir(run: RunDir, config: TrainConfig, *, resuming: bool) -> Iterator[RunDir]:
    """Yields the run directory, locked if it exists, and unlocks it at the end. A dry run gets a temporary one.

    Raises KsegError if another run uses it, or if it cannot be created.
    """
    with contextlib.ExitStack() as stack:
        stack.callback(run.unlock)
        with hosts.raise_together():
            if hosts.is_main_process():
                run.lock() if resuming else run.check_free()
        if config.debug.dry_run:
            run = RunDir(stack.enter_context(tempfile.TemporaryDirectory()))
            stack.callback(run.unlock)
        yield run


def open_initial_of_run(config: TrainConfig, run: RunDir, *, has_checkpoint: bool) -> InitialModel | None:
    """Loads the model of --init, if any; a resumed run's checkpoint has its weights, and process 0's run directory the rest."""
    if config.init is None:
        return None
    stored = b""
    if has_checkpoint and hosts.is_main_process() and run.initial_weights.exists():
        stored = run.initial_weights.read_bytes()
    stored = hosts.broadcast_bytes(stored)
    with hosts.raise_together():
        return InitialModel.of_run(stored.decode()) if stored else open_initial(config)


def write_run_dir(
    run: RunDir, config: TrainConfig, data: RunData, state: RunState, *, resuming: bool, initial: InitialModel | None
) -> None:
    """Creates or reopens the run directory, in process 0, and writes what is known before training."""
    with hosts.raise_together():
        if hosts.is_main_process():
            run.reopen(config, state.metrics_csv) if resuming else run.create(config, data.skipped)
            transforms = describe_transforms(config.augment, config.image_size)
            if config.scale.val_window:
                transforms["validation"] = {"windows": config.scale.val_window}
            write_text(run.transforms, json.dumps(transforms, indent=1) + "\n")
            if initial is not None and initial.transfer is not None and (config.init or initial.credits != NO_CREDITS):
                write_text(run.initial_weights, initial.to_json())


def compiled_model(
    config: TrainConfig, data: RunData, steps: int, *, initial: InitialModel | None = None, extras: FitExtras = NO_EXTRAS
) -> keras.Model:
    """Returns the model that the config describes, with optimizer, loss and metrics, ready for fit.

    steps: of an epoch. initial: a model of the same architecture, whose weights and normalisation count.
    """
    keras.utils.set_random_seed(config.seed)
    num_classes, ignore_index = len(data.train.class_names), data.train.ignore_index
    objective = config.objective
    with precision(config.optimization.precision):
        model = build_network(config, data.train.class_names, initial)
        if objective.classification_weight:
            model = classifying(
                model,
                objective.classification_weight,
                auxiliary_weight=objective.auxiliary_weight,
                ignore_index=ignore_index,
            )
        elif objective.auxiliary_weight:
            model = deeply_supervised(model, objective.auxiliary_weight)
        if objective.loss_chunks:
            model = with_chunked_loss(model, objective.loss_chunks)
    loss = extras.loss or build_loss(
        objective.loss,
        ignore_index=ignore_index,
        class_weights=data.class_weights,
        label_smoothing=objective.label_smoothing,
    )
    model.compile(
        optimizer=configure(config.optimization, model, epochs=config.epochs, steps=steps, optimizer=extras.new_optimizer()),
        loss=loss,
        metrics=[ConfusionMatrix(num_classes, ignore_index), UnlabelledBatches(ignore_index), *extras.metrics],
    )
    return model


def build_network(config: TrainConfig, class_names: Sequence[str], initial: InitialModel | None = None) -> keras.Model:
    """Returns the model that a settled config describes, not compiled. initial: as in compiled_model."""
    normalization: Any = DOUBLE_NORMALIZATION if config.double_normalization else "auto"
    build = partial(
        build_model,
        config.model,
        backbone=config.backbone,
        output_stride=config.output_stride,
        normalization=normalization if initial is None else initial.normalization,
        **read_options(config.model, config.model_options),
    )
    weights = None if config.backbone_weights == "none" or initial is not None else config.backbone_weights
    model = build(
        num_classes=len(class_names),
        backbone_weights=weights,
        auxiliary=config.objective.auxiliary_weight > 0,
        classification=config.objective.classification_weight > 0,
    )
    if initial is not None:
        initial.initialize(inference_model(model), class_names, lambda count: build(num_classes=count))
    return model
