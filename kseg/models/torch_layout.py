"""The tensors of a layer in PyTorch: their names, and the axes of their kernels."""

import keras

from kseg.utils.errors import KsegError


def tensor_names(layer: keras.Layer) -> list[str]:
    """Returns the names of a layer's tensors in its torch module, in Keras's order. Raises KsegError for unknown layer types.

    A layer type of kseg's names them in `torch_names`.
    """
    if names := getattr(layer, "torch_names", None):
        return list(names)
    if isinstance(layer, keras.layers.BatchNormalization):
        return ["weight", "bias", "running_mean", "running_var"]
    if isinstance(layer, (keras.layers.GroupNormalization, keras.layers.LayerNormalization)):
        return ["weight", "bias"]
    if isinstance(layer, (keras.layers.Dense, keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Conv2DTranspose)):
        return ["weight", "bias"] if layer.use_bias else ["weight"]
    raise KsegError(f"layer {layer.name} is a {type(layer).__name__}, which has no counterpart in torch")


def is_kernel(layer: keras.Layer, shape: tuple[int, ...]) -> bool:
    """Returns True for a weight of this shape that kernel_axes transposes. Layers with torch_names have torch's own layout."""
    return len(shape) in (2, 4) and not hasattr(layer, "torch_names")


def kernel_axes(layer: keras.Layer) -> tuple[int, ...]:
    """Returns the axes that transpose the kernel of a convolution or a Dense layer from torch's layout to Keras's."""
    if isinstance(layer, keras.layers.Dense):
        return (1, 0)
    return (2, 3, 0, 1) if isinstance(layer, keras.layers.DepthwiseConv2D) else (2, 3, 1, 0)


def tensor_shapes(layer: keras.Layer) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a layer's tensors in torch's layout, by name."""
    shapes = {}
    for name, weight in zip(tensor_names(layer), layer.weights, strict=True):
        shape = tuple(weight.shape)
        if is_kernel(layer, shape):
            axes = kernel_axes(layer)
            shape = tuple(shape[axes.index(axis)] for axis in range(len(shape)))
        shapes[name] = shape
    return shapes
