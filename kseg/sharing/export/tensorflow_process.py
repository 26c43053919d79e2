"""Writes SavedModel and ONNX in a separate process, in which Keras computes with TensorFlow.

Keras exports a model on JAX as one XLA program, which only XLA runs. The same model on the TensorFlow backend becomes a graph of
plain TensorFlow operations, which TensorFlow Lite, TensorFlow Serving and tf2onnx understand.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import kseg
from kseg.runtime.main import run_main
from kseg.utils.errors import KsegError

OPSET = 18
"""The newest ONNX operator set that tf2onnx writes."""


def run_with_tensorflow(settings: dict[str, Any]) -> None:
    """Exports a model in a process with the TensorFlow backend.

    settings: "model" (a name for find_source), "format", "folder" (to write into), and the fields of Input. Raises KsegError with
    the error message of the process, or RuntimeError with its whole output if it crashes.
    """
    root = str(Path(kseg.__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "PYTHONPATH": path}
    environment |= {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2", "TF_ENABLE_ONEDNN_OPTS": "0"}
    command = [sys.executable, "-m", "kseg.sharing.export.tensorflow_process", json.dumps(settings)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode == 2 and "error: " in done.stderr:
        raise KsegError(done.stderr.rpartition("error: ")[2].strip())
    if done.returncode:
        raise RuntimeError(f"the export with TensorFlow ended with exit code {done.returncode}:\n{done.stderr[-4000:]}")


def main(argv: Sequence[str]) -> None:
    import tensorflow as tf

    from kseg.inference.source import find_source
    from kseg.sharing.export.serving import serving_model

    settings = json.loads(argv[1])
    model = serving_model(find_source(settings["model"]).load(channels=None), "float32")
    images = tf.TensorSpec((None, settings["height"], settings["width"], settings["channels"]), tf.uint8, name="images")

    @tf.function(input_signature=[images])
    def serve(images):
        logits = model(images, training=False)
        logits.set_shape((None, settings["height"], settings["width"], None))  # TensorFlow loses it
        if settings["argmax"]:
            return {"labels": tf.cast(tf.argmax(logits, axis=-1), tf.uint8)}
        return {"logits": logits}

    folder = Path(settings["folder"])
    if settings["format"] == "saved_model":
        module = tf.Module()  # Keras's ExportArchive would write every variable twice
        module.variables_of_model = [variable.value for variable in model.variables]
        module.serve = serve
        tf.saved_model.save(module, str(folder), signatures={"serving_default": serve})
    else:
        use_plain_groups(model)
        use_plain_gelu(model)
        write_onnx(serve, images, folder / "model.onnx")


def use_plain_groups(model: Any) -> None:
    """Makes each grouped convolution one Conv2D operation, in a graph that is converted and never run.

    Keras computes them with XLA, because TensorFlow's own operation cannot on a CPU. XLA operations have no ONNX form.
    """
    import keras
    import tensorflow as tf

    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Conv2D) and layer.groups > 1:
            padding, strides, dilations = layer.padding.upper(), list(layer.strides), list(layer.dilation_rate)
            layer.convolution_op = partial(tf.nn.conv2d, strides=strides, padding=padding, dilations=dilations)


def use_plain_gelu(model: Any) -> None:
    """Makes GELU x (1 + erf(x / sqrt(2))) / 2. TensorFlow's own has the operation erfc, which ONNX lacks."""
    import keras
    import tensorflow as tf

    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Activation) and layer.activation is keras.activations.gelu:
            layer.activation = lambda x: 0.5 * x * (1 + tf.math.erf(x * 0.5**0.5))


def write_onnx(function: Any, images: Any, path: Path) -> None:
    """Writes a tf.function of one tensor as ONNX, with batch norm folded into convolutions. images: its tf.TensorSpec."""
    import onnx
    import tf2onnx

    model, _ = tf2onnx.convert.from_function(function, input_signature=[images], opset=OPSET)
    (output,) = model.graph.output
    shape = function.get_concrete_function().structured_outputs[output.name].shape
    # tf2onnx names the batch by a number, and may lose fixed sizes.
    for value, known in ((model.graph.input[0], images.shape), (output, shape)):
        for dimension, size in zip(value.type.tensor_type.shape.dim, known, strict=True):
            if size is None:
                dimension.dim_param = "batch"
            else:
                dimension.dim_value = size
    onnx.checker.check_model(model)
    onnx.save(model, path)


if __name__ == "__main__":
    run_main(main)
