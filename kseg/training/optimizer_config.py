"""From the flags of the group "optimization" to what a run is compiled and trained with."""

import keras

from kseg.config.train import OptimizationConfig
from kseg.training.callbacks import AverageWeights, FreezeBackbone
from kseg.training.optimizers import build_optimizer
from kseg.training.schedules import build_schedule, steps_in
from kseg.utils.errors import KsegError


def configure(config: OptimizationConfig, model: keras.Model, *, epochs: int, steps: int) -> keras.optimizers.Optimizer:
    """Returns the optimizer to compile the model with, and turns on what the backbone is to do (remat).

    model: one of build_model's. steps: of an epoch. With mixed_float16, Keras's LossScaleOptimizer is around the optimizer.
    Raises KsegError for what does not go with this many steps, or with the backend.
    """
    if config.accumulate_steps > steps:
        raise KsegError(f"--accumulate_steps={config.accumulate_steps}: an epoch has {steps} steps only; use a smaller number")
    backbone = model.get_layer("backbone")
    if config.remat:
        backbone.remat = True
    members = {id(variable) for variable in backbone.trainable_variables}
    schedule = build_schedule(
        config.schedule,
        config.learning_rate,
        steps=steps * epochs,
        warmup_steps=steps_in(config.warmup_epochs, steps),
        milestones=[steps_in(milestone, steps) for milestone in config.milestones()],
        gamma=config.schedule_gamma,
        accumulate_steps=config.accumulate_steps,
    )
    optimizer = build_optimizer(
        config.optimizer,
        learning_rate=schedule,
        weight_decay=config.weight_decay,
        weight_decay_on=config.weight_decay_on,
        momentum=config.momentum,
        clip_norm=config.clip_norm,
        ema=config.ema,
        accumulate_steps=config.accumulate_steps,
        backbone=[i for i, variable in enumerate(model.trainable_variables) if id(variable) in members],
        backbone_multiplier=config.backbone_lr_multiplier,
        freezes_backbone=config.freeze_backbone_epochs > 0,
    )
    if config.precision == "mixed_float16":
        # model.compile would wrap it too, but a file of the model would then hold the optimizer without its wrapper.
        return keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer


def optimization_callbacks(config: OptimizationConfig) -> list[keras.callbacks.Callback]:
    """Returns the callbacks that the flags ask for. Put them before those that save the model."""
    callbacks: list[keras.callbacks.Callback] = []
    if config.freeze_backbone_epochs:
        callbacks.append(FreezeBackbone(config.freeze_backbone_epochs))
    if config.ema:
        callbacks.append(AverageWeights())
    return callbacks
