"""SavedModel and ONNX: made in a process of its own, in which Keras computes with TensorFlow.

Keras's own export of a model on JAX wraps one XLA program, which only XLA runs. The same .keras file on the TensorFlow backend
becomes a graph of plain TensorFlow operations, which TensorFlow Lite, TensorFlow Serving and tf2onnx understand.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kseg.errors import KsegError
from kseg.flags import run_main


def run_with_tensorflow(settings: dict[str, Any]) -> None:
    """Writes settings["format"] of the .keras file settings["model"] into settings["folder"]. The rest of the settings: Input's.

    Raises KsegError with what the process says it cannot do, RuntimeError with all it said if it fails.
    """
    root = str(Path(__file__).resolve().parent.parent.parent)
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    environment |= {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2", "TF_ENABLE_ONEDNN_OPTS": "0"}
    command = [sys.executable, "-m", "kseg.exporters.tensorflow_process", json.dumps(settings)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode == 2 and "error: " in done.stderr:
        raise KsegError(done.stderr.rpartition("error: ")[2].strip())
    if done.returncode:
        raise RuntimeError(f"the export with TensorFlow ended with exit code {done.returncode}:\n{done.stderr[-4000:]}")


def main(argv: Sequence[str]) -> None:
    import keras
    import tensorflow as tf

    from kseg.exporters.serving import serving_model
    from kseg.run import load_model

    settings = json.loads(argv[1])
    model = serving_model(load_model(settings["model"]), "float32")
    images = tf.TensorSpec((None, settings["height"], settings["width"], settings["channels"]), tf.uint8, name="images")

    def serve(images):
        logits = model(images, training=False)
        if settings["argmax"]:
            return {"labels": tf.cast(tf.argmax(logits, axis=-1), tf.uint8)}
        return {"logits": logits}

    folder = Path(settings["folder"])
    if settings["format"] == "saved_model":
        archive = keras.export.ExportArchive()
        archive.track(model)
        archive.add_endpoint("serve", serve, input_signature=[images])
        archive.write_out(str(folder), verbose=False)
    else:
        write_onnx(tf.function(serve), images, folder / "model.onnx")


def write_onnx(function: Any, images: Any, path: Path) -> None:
    """Writes a tf.function of one tensor, batch norm folded into the convolutions; the sizes that are not fixed are the batch."""
    import onnx
    import tf2onnx

    model, _ = tf2onnx.convert.from_function(function, input_signature=[images], opset=OPSET)
    channels = {output.name: output for output in model.graph.output}
    (output,) = channels.values()
    shape = function.get_concrete_function(images).structured_outputs[output.name].shape
    for value, known in ((model.graph.input[0], images.shape), (output, shape)):
        for dimension, size in zip(value.type.tensor_type.shape.dim, known, strict=True):
            if size is None:
                dimension.dim_param = "batch"
            else:
                dimension.dim_value = size
    onnx.checker.check_model(model)
    onnx.save(model, path)


OPSET = 18
"""Of ONNX: the newest that tf2onnx writes."""


if __name__ == "__main__":
    run_main(main)
