"""Applies the flags of the group "optimization": builds the optimizer, and the callbacks that control it."""

from typing import Any

import keras

from kseg.config import OptimizationConfig
from kseg.models.layer_decay import rate_factors
from kseg.training.optimizers import build_optimizer
from kseg.training.schedules import build_schedule, steps_in
from kseg.utils.errors import KsegError


def configure(
    config: OptimizationConfig,
    model: keras.Model,
    *,
    epochs: int,
    steps: int,
    optimizer: keras.optimizers.Optimizer | None = None,
) -> keras.optimizers.Optimizer:
    """Returns the optimizer to compile a model of build_model with, and turns on --remat in its backbone.

    steps: of an epoch. optimizer: instead of the config's. With mixed_float16 the result is Keras's LossScaleOptimizer around it.
    Raises KsegError for flags that do not fit the number of steps, the backbone or the backend.
    """
    if config.accumulate_steps > steps:
        raise KsegError(f"--accumulate_steps={config.accumulate_steps}: an epoch has {steps} steps only; use a smaller number")
    backbone = model.get_layer("backbone")
    if config.remat:
        backbone.remat = True
    if optimizer is None:
        optimizer = _build(config, model, backbone, epochs=epochs, steps=steps)
    if config.precision == "mixed_float16":
        # model.compile would wrap it too, but a file of the model would then hold the optimizer without its wrapper.
        return keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer


def _build(
    config: OptimizationConfig, model: keras.Model, backbone: Any, *, epochs: int, steps: int
) -> keras.optimizers.Optimizer:
    factors = dict.fromkeys(map(id, backbone.trainable_variables), config.backbone_lr_multiplier)
    if config.layer_decay < 1:
        try:
            decays = rate_factors(backbone, config.layer_decay)
        except KsegError as error:
            raise KsegError(f"--layer_decay={config.layer_decay}: the backbone does not fit: {error}; leave it out") from None
        factors = {key: factor * decay for (key, factor), decay in zip(factors.items(), decays, strict=True)}
    members = {i: factors[id(variable)] for i, variable in enumerate(model.trainable_variables) if id(variable) in factors}
    schedule = build_schedule(
        config.schedule,
        config.learning_rate,
        steps=steps * epochs,
        warmup_steps=steps_in(config.warmup_epochs, steps),
        milestones=[steps_in(milestone, steps) for milestone in config.milestones()],
        gamma=config.schedule_gamma,
        accumulate_steps=config.accumulate_steps,
    )
    return build_optimizer(
        config.optimizer,
        learning_rate=schedule,
        weight_decay=config.weight_decay,
        weight_decay_on=config.weight_decay_on,
        momentum=config.momentum,
        clip_norm=config.clip_norm,
        ema=config.ema,
        accumulate_steps=config.accumulate_steps,
        backbone=list(members),
        backbone_multiplier=list(members.values()) if config.layer_decay < 1 else config.backbone_lr_multiplier,
        freezes_backbone=config.freeze_backbone_epochs > 0,
    )


def optimization_callbacks(config: OptimizationConfig) -> list[keras.callbacks.Callback]:
    """Returns the callbacks for the flags --freeze_backbone_epochs and --ema."""
    callbacks: list[keras.callbacks.Callback] = []
    if config.freeze_backbone_epochs:
        callbacks.append(FreezeBackbone(config.freeze_backbone_epochs))
    if config.ema:
        callbacks.append(AverageWeights())
    return callbacks


class FreezeBackbone(keras.callbacks.Callback):
    """Freezes the backbone for the first `epochs`: its weights stay, batch norm and dropout act as in inference.

    When the backbone is unfrozen, the step is compiled a second time; until then its gradients are not computed. The model's
    trainable variables never change, so optimizer and checkpoints do not either. A resumed run needs no state: the epoch
    decides. The optimizer must be built with freezes_backbone.
    """

    def __init__(self, epochs: int):
        super().__init__()
        self.epochs = epochs

    def on_epoch_begin(self, epoch, logs=None):
        frozen = epoch < self.epochs
        backbone = self.model.get_layer("backbone")
        if backbone.frozen != frozen:
            backbone.frozen = _inner(self.model.optimizer).backbone_frozen = frozen
            self.model.make_train_function(force=True)


class AverageWeights(keras.callbacks.Callback):
    """Validates and saves the averaged weights (--ema).

    The averages are in the model from the validation of an epoch until the next epoch begins, and at the end of the run. Batch
    norm's statistics are not averaged. Keras's SwapEMAWeights does not serve: at the end of fit it drops the weights that train,
    it cannot resume, and on TensorFlow it swaps by adding and subtracting, which rounds.
    """

    def on_epoch_begin(self, epoch, logs=None):
        self._swap(False)

    def on_test_begin(self, logs=None):
        self._swap(True)

    def on_epoch_end(self, epoch, logs=None):
        self._swap(True)

    def _swap(self, averages: bool) -> None:
        optimizer = _inner(self.model.optimizer)
        if optimizer.averages_in_model != averages:
            optimizer.swap_averages()

    def get_state(self) -> dict[str, bool]:
        """Returns which weights are in the model, for a checkpoint."""
        return {"averages_in_model": _inner(self.model.optimizer).averages_in_model}

    def set_state(self, state: dict[str, bool]) -> None:
        """Tells the optimizer which weights a checkpoint put into the model."""
        _inner(self.model.optimizer).averages_in_model = state["averages_in_model"]


def _inner(optimizer: Any) -> Any:
    """Returns the optimizer inside a LossScaleOptimizer, or the optimizer itself."""
    return getattr(optimizer, "inner_optimizer", optimizer)
