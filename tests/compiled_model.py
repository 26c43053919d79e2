"""Loads a checkpoint with optimizer and loss. kseg.load_model loads neither."""

import keras

import kseg.losses
import kseg.metrics.confusion_matrix
import kseg.models
import kseg.training.optimizers
import kseg.training.schedules  # noqa: F401  (registers the classes that the file names)


def load_compiled(path):
    """Returns the compiled model of a .keras file that a run wrote."""
    return keras.saving.load_model(path, compile=True, safe_mode=True)
