"""Callbacks that change what a run trains, and what it is validated with."""

from typing import Any

import keras


def _inner(optimizer: Any) -> Any:
    """The optimizer inside a LossScaleOptimizer, or the optimizer."""
    return getattr(optimizer, "inner_optimizer", optimizer)


class AverageWeights(keras.callbacks.Callback):
    """Validates and saves the averaged weights of an optimizer with use_ema. Put it before what saves.

    They are in the model from the validation that ends an epoch until the next epoch begins, and at the end of a run; batch
    norm's statistics are the model's always. keras.callbacks.SwapEMAWeights does not serve: it forgets the weights that train at
    the end of fit, a run that goes on from a checkpoint would take one for the other, and on TensorFlow it swaps by
    adding and subtracting, which rounds.
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
        """Returns which of the two weights are in the model, for a checkpoint."""
        return {"averages_in_model": _inner(self.model.optimizer).averages_in_model}

    def set_state(self, state: dict[str, bool]) -> None:
        """Says which of the two weights a checkpoint put into the model."""
        _inner(self.model.optimizer).averages_in_model = state["averages_in_model"]


class FreezeBackbone(keras.callbacks.Callback):
    """Keeps the backbone as it is for the first `epochs`: its weights, and its layers as in inference (batch norm neither uses
    nor updates a batch's statistics, dropout is off). Then everything trains.

    The step is traced again at the thaw, so that until then no gradient of the backbone is computed: two compilations in all.
    The variables that train stay the same, for the optimizer and for checkpoints; the epoch alone decides, so that a run can go
    on from either side. The optimizer must have freezes_backbone.
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
