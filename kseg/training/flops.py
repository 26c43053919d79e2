"""Counts the floating-point operations of a model."""

import keras
import numpy as np


def count_flops(model: keras.Model, image_size: tuple[int, int]) -> int:
    """Returns the floating-point operations of the forward pass of one image: two for each multiply-add.

    As usual it counts convolutions, dense layers and the products of attention, and leaves out operations once a pixel
    (normalisation, activations, resizing). Keras traces shapes, on any backend; nothing is computed or compiled.
    """
    channels = model.input_shape[-1]
    products = 0

    def counted(layer, call):
        def count(*arguments, **options):
            nonlocal products
            result = call(*arguments, **options)
            products += _products(layer, arguments[0], result)
            return result

        return count

    class Probe(keras.layers.Layer):
        def call(self, images):
            return model(images)

    layers = [layer for layer in leaf_layers(model) if hasattr(layer, "kernel") or hasattr(layer, "num_heads")]
    try:
        for layer in layers:
            object.__setattr__(layer, "call", counted(layer, layer.call))  # Keras's own __setattr__ would track the function
        Probe().compute_output_spec(keras.KerasTensor((1, *image_size, channels), "float32"))
    finally:
        for layer in layers:
            if "call" in vars(layer):
                object.__delattr__(layer, "call")
    return 2 * products


def leaf_layers(layer: keras.Layer) -> list[keras.Layer]:
    """Returns the layers of a model, with nested models replaced by their layers."""
    inner = layer.layers if isinstance(layer, keras.Model) else []
    return [leaf for part in inner for leaf in leaf_layers(part)] if inner else [layer]


def _products(layer, inputs, output):
    """Returns the number of multiplications in a layer, from the shapes of its input and output."""
    if not hasattr(layer, "kernel"):  # attention over the positions of a window or of maps [B, H, W, C]: scores, weighted values
        positions = layer.window**2 if hasattr(layer, "window") else int(np.prod(inputs[1].shape[1:3]))
        return 2 * int(np.prod(output.shape)) * positions
    kernel = int(np.prod(layer.kernel.shape))
    if isinstance(layer, keras.layers.Conv2DTranspose):  # each input pixel is multiplied with the whole kernel
        return kernel * int(np.prod(inputs.shape[:-1]))
    return kernel * int(np.prod(output.shape[:-1]))
