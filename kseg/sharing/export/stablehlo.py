"""Writes StableHLO with jax.export: a pure function with the weights inside, for several platforms and any number of images."""

import re
from pathlib import Path

import keras

from kseg.models.functional import functionalize
from kseg.sharing.export.serving import SMALLEST, Input
from kseg.utils.errors import KsegError

WITH_KERNEL = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense)


def write_stablehlo(model: keras.Model, spec: Input, platforms: tuple[str, ...], path: Path) -> None:
    """Writes a file for jax.export.deserialize. model: from serving_model.

    Each convolution has the form that is fastest on the platform that runs it (kseg.models.ops.convolutions). The kernel of a
    layer that computes in bfloat16 is stored in bfloat16. Raises KsegError for a model that takes no symbolic sizes, if `spec`
    has any.
    """
    import jax
    import jax.numpy as jnp

    apply, params, state = functionalize(model)
    for layer in model._flatten_layers():
        if isinstance(layer, WITH_KERNEL) and layer.compute_dtype == "bfloat16":
            tree, kernel = params if layer.kernel.path in params else state, layer.kernel.path
            tree[kernel] = tree[kernel].astype("bfloat16")  # the layer would cast it at every call

    def serve(images):
        logits = apply(params, state, images)[0].astype("float32")
        if spec.result == "labels":
            return jnp.argmax(logits, axis=-1).astype("uint8")
        return jax.nn.softmax(logits) if spec.result == "probabilities" else logits

    free = [side for side in spec.shape[1:] if isinstance(side, str)]
    least = [f"{side} >= {SMALLEST}" for side in free]
    shape = jax.export.symbolic_shape(", ".join(map(str, spec.shape)), constraints=least)
    images = jax.ShapeDtypeStruct((*shape, spec.channels), "uint8")
    try:
        exported = jax.export.export(jax.jit(serve), platforms=platforms)(images)
    except Exception as error:  # JAX's class for this has moved, and Keras raises others of it
        if not free:
            raise
        lines = re.sub("\033\\[[0-9]*m", "", str(error)).splitlines()  # Keras prints in bold
        reason = next((line for line in lines if "ymbolic" in line), lines[0]).strip()[:200]
        raise KsegError(f"--image_size=any: not in StableHLO: {reason}; name a size, or choose --format=onnx") from error
    path.write_bytes(exported.serialize())
