"""One format's side of the export benchmark: loads what was exported, and predicts the same batch when it is told to."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def make(settings: dict[str, Any]) -> None:
    """Writes a run directory with a model of random weights, the batch, and the model's logits of it."""
    import keras

    import kseg
    from kseg.config import TrainConfig
    from kseg.models.saving import save_model
    from kseg.runtime.run_dir import RunDir

    keras.utils.set_random_seed(0)
    name, backbone = settings["model"].split("/", 1)
    size, folder = settings["size"], Path(settings["folder"])
    model = kseg.build_model(name, num_classes=12, backbone=backbone)
    images = np.random.default_rng(0).integers(0, 256, (settings["batch"], size, size, 3), dtype="uint8")
    run = RunDir(folder / "run")
    run.create(TrainConfig(image_size=(size, size)), [])
    save_model(model, run.model)
    np.save(folder / "images.npy", images)
    np.save(folder / "logits.npy", model.predict_on_batch(images))


def loaded(format: str, folder: Path) -> Callable[[np.ndarray], Any]:
    """Returns the function from images to logits, as docs/export.md loads it."""
    path = folder / format
    if format == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path / "model.onnx", providers=["CPUExecutionProvider"])
        return lambda images: session.run(["logits"], {"images": images})[0]
    if format == "saved_model":
        import tensorflow as tf

        model = tf.saved_model.load(path).signatures["serving_default"]
        return lambda images: model(images=tf.constant(images))["logits"].numpy()
    if format == "kseg":
        from kseg.models.saving import load_model

        return load_model(folder / "run/model.keras").predict_on_batch
    import jax.export

    call = jax.jit(jax.export.deserialize((path / "model.stablehlo").read_bytes()).call)
    return lambda images: np.asarray(call(images))


def main(settings: dict[str, Any]) -> None:
    """Says how far its logits are from the model's, in their standard deviations; then, for each line, how long a batch took."""
    folder = Path(settings["folder"])
    images, expected = np.load(folder / "images.npy"), np.load(folder / "logits.npy")
    predict = loaded(settings["format"], folder)
    error = np.abs(predict(images) - expected).max() / expected.std()
    print(json.dumps(float(error)), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        predict(images)
        print(json.dumps(time.perf_counter() - start), flush=True)


if __name__ == "__main__":
    arguments = json.loads(sys.argv[1])
    make(arguments) if arguments["format"] == "make" else main(arguments)
