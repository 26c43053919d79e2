"""Writes StableHLO with jax.export: a pure function with the weights inside, for any batch size and several platforms."""

from pathlib import Path
from typing import TYPE_CHECKING

import keras

from kseg.models.functional import functionalize

if TYPE_CHECKING:
    from kseg.sharing.export.serving import Input


WITH_KERNEL = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense)


def write_stablehlo(model: keras.Model, spec: "Input", platforms: tuple[str, ...], path: Path) -> None:
    """Writes a file for jax.export.deserialize. model: from serving_model.

    Each convolution has the form that is fastest on the platform that runs it (kseg.models.ops.convolutions). The kernel of a
    layer that computes in bfloat16 is stored in bfloat16.
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
        return jnp.argmax(logits, axis=-1).astype("uint8") if spec.argmax else logits

    batch = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((*batch, spec.height, spec.width, spec.channels), "uint8")
    exported = jax.export.export(jax.jit(serve), platforms=platforms)(images)
    path.write_bytes(exported.serialize())
