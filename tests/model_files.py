"""Files of cases.py's models that the tests on torch write, and the other backends read."""

from pathlib import Path

import keras
import numpy as np
from cases import TOLERANCES, Case

from kseg.models.saving import load_model


def _stem(case: Case, folder: Path) -> Path:
    return folder / case.name.replace("/", "-")


def _logits(model: keras.Model) -> np.ndarray:
    images = np.random.default_rng(0).integers(0, 256, (2, 65, 49, 3), dtype="uint8")
    if keras.backend.backend() == "tensorflow":  # tracing a graph takes longer than what it would compute
        found = keras.tree.map_structure(keras.ops.convert_to_numpy, model(images, training=False))
    else:
        found = model.predict_on_batch(images)
    return np.stack([found[name] for name in sorted(found)]) if isinstance(found, dict) else found


def write_file(case: Case, model: keras.Model, folder: Path) -> None:
    """Saves the model, and its logits of random images of an odd size."""
    model.save(f"{_stem(case, folder)}.keras")
    np.save(f"{_stem(case, folder)}.npy", _logits(model))


def check_file(case: Case, folder: Path) -> None:
    """The file that write_file wrote loads on this backend, and gives the logits that the model gave."""
    expected, found = np.load(f"{_stem(case, folder)}.npy"), _logits(load_model(f"{_stem(case, folder)}.keras"))
    assert found.dtype == "float32"
    assert np.ptp(expected) > 0
    assert np.abs(found - expected).max() <= TOLERANCES["forward"] * np.abs(expected).max()
