"""Writes SavedModel, ONNX and LiteRT in a separate process, in which Keras computes with TensorFlow.

Keras exports a model on JAX as one XLA program, which only XLA runs. The same model on the TensorFlow backend becomes a graph of
plain TensorFlow operations, which TensorFlow Lite, TensorFlow Serving and tf2onnx understand.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kseg
from kseg.runtime.main import run_main
from kseg.utils.errors import KsegError

if TYPE_CHECKING:
    from kseg.sharing.export.serving import Input

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
    from kseg.sharing.export.serving import Input, serving_model

    settings = json.loads(argv[1])
    format, folder = settings.pop("format"), Path(settings.pop("folder"))
    model = serving_model(find_source(settings.pop("model")).load(channels=None), "float32")
    spec = Input(**settings)
    images = tf.TensorSpec((spec.batch, spec.height, spec.width, spec.channels), tf.uint8, name="images")
    serve = tf.function(partial(serve_images, model, spec), input_signature=[images])
    if format == "saved_model":
        write_saved_model(model, serve, folder)
        return
    use_plain_groups(model)
    if format == "litert":
        write_litert(model, serve, folder / "model.tflite")
    else:
        write_onnx(serve, images, spec, folder / "model.onnx")


def serve_images(model: Any, spec: "Input", images: Any) -> dict[str, Any]:
    """Computes the exported model's result, by its name, of images uint8 [B, H, W, C]."""
    import tensorflow as tf

    logits = model(images, training=False)
    logits.set_shape((spec.batch, spec.height, spec.width, None))  # TensorFlow loses it
    if spec.result == "labels":
        return {"labels": tf.cast(tf.argmax(logits, axis=-1), tf.uint8)}
    return {spec.result: tf.nn.softmax(logits) if spec.result == "probabilities" else logits}


def write_saved_model(model: Any, serve: Any, folder: Path) -> None:
    """Writes a SavedModel with the tf.function `serve` of the model as its signature."""
    import tensorflow as tf

    module = tf.Module()  # Keras's ExportArchive would write every variable twice
    module.variables_of_model = [variable.value for variable in model.variables]
    module.serve = serve
    tf.saved_model.save(module, str(folder), signatures={"serving_default": serve})


def write_litert(model: Any, serve: Any, path: Path) -> None:
    """Writes a file for LiteRT (TensorFlow Lite). Raises KsegError for an operation that LiteRT's own kernels do not have."""
    import tensorflow as tf

    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        write_saved_model(model, serve, Path(scratch))
        converter = tf.lite.TFLiteConverter.from_saved_model(scratch, signature_keys=["serving_default"])
        try:
            content = converter.convert()
        except Exception as error:  # its own class is not public
            missing = sorted(set(re.findall(r"'tf\.(\w+)' op is neither a custom op nor a flex op", str(error))))
            if not missing:
                raise
            raise KsegError(f"--format=litert: LiteRT has no {', '.join(missing)}; choose another format") from None
    path.write_bytes(content)


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


def write_onnx(function: Any, images: Any, spec: "Input", path: Path) -> None:
    """Writes a tf.function of one tensor as ONNX, with batch norm folded into convolutions. images: its tf.TensorSpec."""
    import onnx
    import tf2onnx

    model, _ = tf2onnx.convert.from_function(
        function, input_signature=[images], opset=OPSET, custom_op_handlers={"Erfc": (_erfc, [])}
    )
    (output,) = model.graph.output
    shape = function.get_concrete_function().structured_outputs[output.name].shape
    # tf2onnx names free sizes by numbers, and may lose fixed ones.
    for value, channels in ((model.graph.input[0], images.shape[3:]), (output, shape[3:])):
        for dimension, size in zip(value.type.tensor_type.shape.dim, (*spec.shape, *channels), strict=True):
            if isinstance(size, str):
                dimension.dim_param = size
            else:
                dimension.dim_value = size
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        if (missing := re.search(r"No Op registered for (\w+)", str(error))) is None:
            raise
        raise KsegError(f"--format=onnx: ONNX has no operation for TensorFlow's {missing[1]}; choose another format") from None
    onnx.save(model, path)


def _erfc(graph: Any, node: Any, name: str, args: Any) -> None:
    """Writes TensorFlow's Erfc, of the exact GELU, as 1 - Erf: tf2onnx has none."""
    import numpy as np

    (shape,), (dtype,), outputs = node.output_shapes, node.output_dtypes, node.output
    graph.remove_node(name)
    erf = graph.make_node("Erf", node.input, shapes=[shape], dtypes=[dtype])
    one = graph.make_const(f"{name}_one", np.ones((), "float32"))
    graph.make_node("Sub", [one.output[0], erf.output[0]], name=name, outputs=outputs, shapes=[shape], dtypes=[dtype])


if __name__ == "__main__":
    run_main(main)
