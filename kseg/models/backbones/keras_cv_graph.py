"""Turns a keras-cv backbone into a graph of plain Keras layers, in two steps.

`take_apart` replaces keras-cv's composite layers by the Keras layers inside them, which makes each convolution visible, and
replaces layers that are bound to one image size. `rebuild` recreates every layer with dilation and with kseg's batch norm
momentum and convolutions. The result saves and loads without keras-cv. Keras would refuse to load keras-cv's Lambda layers and
unregistered activations.
"""

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import keras

from kseg.models.backbones.keras_cv_layers import Focus, TransposedRead, gelu_tanh
from kseg.models.channels import adapt_kernel, channel_statistics
from kseg.models.layers import NORMALIZATIONS, Conv2D, DepthwiseConv2D, DotProductAttention

BATCH_NORM_MOMENTUM = 0.9


class Names:
    """Layer names that depend only on the model. Keras and keras-cv number unnamed layers across the whole process."""

    def __init__(self) -> None:
        self._paths: dict[Any, str] = {}
        self._counts: Counter[str] = Counter()
        self._used: Counter[str] = Counter()

    def adopt(self, parent: Any, children: dict[str, Any]) -> None:
        """Names the layers inside a composite layer after it."""
        for role, child in children.items():
            self._paths[child] = f"{self.path(parent)}_{role}"

    def path(self, layer: Any) -> str:
        """Returns the layer's name, numbered within this model if Keras had numbered it."""
        if layer not in self._paths:
            stem = re.sub(r"_\d+$", "", layer.name)
            unnamed = stem.replace("_", "") == type(layer).__name__.lower()
            self._paths[layer] = f"{stem}_{self._counts[stem]}" if unnamed else layer.name
            self._counts[stem] += unnamed
        return self._paths[layer]

    def unique(self, layer: Any) -> str:
        """Returns `path`, numbered if the layer was called before."""
        path = self.path(layer)
        self._used[path] += 1
        return path if self._used[path] == 1 else f"{path}_{self._used[path]}"


def take_apart(model: Any, names: Names) -> Any:
    """Returns a functional model of Keras layers and those of keras_cv_layers, with the model's weights, for any image size.

    model: a functional model over a keras-cv backbone's graph. Its scaling to 0..1 is dropped: the result takes images in 0..1.
    """
    while any(_rule(operation) for operation in model.operations):  # a composite layer may contain others
        model = keras.models.clone_model(
            model,
            input_tensors=keras.Input((None, None, 3)),
            clone_function=lambda layer: layer,
            call_function=lambda layer, *args, **kwargs: _call_apart(names, layer, *args, **kwargs),
        )
    return model


def _call_apart(names: Names, layer: Any, *args: Any, **kwargs: Any) -> Any:
    rule = _rule(layer)
    return rule(names, layer, *args) if rule else layer(*args, **kwargs)


def _rule(layer: Any) -> Callable[..., Any] | None:
    """Returns the function that calls the replacement of `layer`, or None if the layer stays."""
    kind = type(layer).__name__
    if not isinstance(layer, keras.Layer):
        return _OPERATIONS[kind]
    if kind == "Concatenate" and layer.name == "stem_focus":  # of four slices of the image, which arrive here unsliced
        return lambda names, layer, slices: Focus(name=layer.name)(slices[0])
    if kind == "Reshape" and layer.name.startswith("output_level_"):  # from MiT's sequences to maps; here they are maps already
        return _skip
    return _RULES.get(kind)


def _skip(names: Names, layer: Any, x: Any, *args: Any) -> Any:
    return x


def _run(names: Names, block: Any, x: Any) -> Any:
    """Runs the block's own `call` on symbolic tensors, which puts its inner layers into the graph."""
    inner = {k: v for k, v in vars(block).items() if not k.startswith("_")}
    inner |= {f"{k}_{i}": layer for k, v in inner.items() if isinstance(v, list) for i, layer in enumerate(v)}
    layers = {k: v for k, v in inner.items() if isinstance(v, keras.Layer)}
    names.adopt(block, {k: v for k, v in layers.items() if not v.name.startswith(block.name)})
    return block.call(x)


def _sequence(names: Names, block: Any, x: Any) -> Any:
    """A darknet block: convolution, batch norm, and SiLU in a Lambda."""
    convolution, batch_norm, _ = block.layers
    activation = keras.layers.Activation("silu")
    names.adopt(block, {"conv": convolution, "bn": batch_norm, "silu": activation})
    return activation(batch_norm(convolution(x)))


def _patches(names: Names, layer: Any, x: Any) -> Any:
    names.adopt(layer, {"proj": layer.proj, "norm": layer.norm})
    return layer.norm(layer.proj(x))


def _encoder(names: Names, block: Any, x: Any) -> Any:
    """MiT's block on a map [B, H, W, C]. keras-cv's takes the square root of the sequence's length as height and width."""
    attention, mlp = block.attn, block.mlp
    product, gelu = DotProductAttention(attention.num_heads), keras.layers.Activation(gelu_tanh)
    inner = {role: getattr(attention, role) for role in ("q", "k", "v", "proj")} | {"attention": product, "gelu": gelu}
    inner |= {role: getattr(mlp, role) for role in ("fc1", "dwconv", "fc2")} | {"norm1": block.norm1, "norm2": block.norm2}

    def add(x: Any, y: Any, number: int) -> Any:
        if block.drop_prop:  # like keras-cv's DropPath, drops the branch of single images
            inner[f"drop{number}"] = drop = keras.layers.Dropout(float(block.drop_prop), noise_shape=(None, 1, 1, 1))
            y = drop(y)
        inner[f"add{number}"] = total = keras.layers.Add()
        return total([x, y])

    y = block.norm1(x)
    q = attention.q(y)
    if attention.sr_ratio > 1:
        read, undo = TransposedRead(), TransposedRead(inverse=True)
        inner |= {"sr_read": read, "sr": attention.sr, "sr_undo": undo, "sr_norm": attention.norm}
        y = attention.norm(undo(attention.sr(read(y))))
    x = add(x, attention.proj(product([q, attention.k(y), attention.v(y)])), 1)
    x = add(x, mlp.fc2(gelu(mlp.dwconv(mlp.fc1(block.norm2(x))))), 2)
    names.adopt(block, inner)
    return x


_RULES: dict[str, Callable[..., Any]] = {
    "MBConvBlock": _run,
    "FusedMBConvBlock": _run,
    "SqueezeAndExcite2D": _run,
    "CrossStagePartial": _run,
    "Sequential": _sequence,
    "OverlappingPatchingAndEmbedding": _patches,
    "HierarchicalTransformerEncoder": _encoder,
    "Rescaling": _skip,
    # Padding before a strided "valid" convolution, for the size known when keras-cv built it. `rebuild` makes the convolution
    # "same", which pads the same pixels at any size.
    "ZeroPadding2D": _skip,
    # keras-cv's hard sigmoid: an addition and a product with constants (skipped below) around the only ReLU layer it uses.
    "ReLU": lambda names, layer, x: keras.layers.Activation("hard_sigmoid")(x),
}
_OPERATIONS: dict[str, Callable[..., Any]] = {
    "ReLU": lambda names, operation, x: keras.layers.Activation("relu")(x),  # what keras.activations.relu leaves
    "Multiply": lambda names, operation, x, y: keras.layers.Multiply()([x, y]) if keras.backend.is_keras_tensor(y) else x,
    "Add": _skip,
    "GetItem": _skip,
}


def rebuild(
    model: Any, names: Names, *, output_stride: int, input_shape: tuple[int | None, int | None, int], copy_weights: bool
) -> Any:
    """Returns the backbone: every layer of a taken-apart model recreated, with dilation instead of strides beyond output_stride.

    A layer with an output of stride s > output_stride loses its own stride, and its kernel, if larger than 1x1, is dilated by
    s / output_stride. This is smp's rule: the convolution that loses its stride is dilated too.

    copy_weights: copy the model's weights and give them images in 0..1. Otherwise the weights are random.
    """
    inputs = first = keras.Input(input_shape, name="images")
    if copy_weights:
        mean, std = channel_statistics(*NORMALIZATIONS["imagenet"], input_shape[-1])
        first = keras.layers.Rescaling(scale=list(std), offset=list(mean), name="unit_range")(inputs)
    strides = {id(inputs): 1}  # strides of the graph's tensors; the graph keeps them alive, so ids stay unique
    made = []

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        # Inputs have the same stride, except the shortened keys and values of an attention, which come later.
        stride = strides[id(keras.tree.flatten(args)[0])] * getattr(layer, "strides", (1,))[0]
        copy = _copy(layer, names.unique(layer), dilation=max(1, stride // output_stride))
        made.append((layer, copy))
        outputs = copy(*keras.tree.map_structure(lambda x: first if x is inputs else x, args), **kwargs)
        strides[id(outputs)] = stride
        return outputs

    clone = keras.models.clone_model(model, input_tensors=inputs, clone_function=lambda layer: layer, call_function=call)
    if copy_weights:
        for layer, copy in made:
            weights = layer.get_weights()
            if weights and weights[0].shape != tuple(copy.weights[0].shape):  # the first convolution, made for RGB
                weights[0] = adapt_kernel(weights[0], input_shape[-1])
            copy.set_weights(weights)
    return keras.Model(inputs, clone.output, name="backbone")


def _copy(layer: Any, name: str, *, dilation: int) -> Any:
    """Returns a new layer like `layer`. With dilation > 1 it loses its stride, and a kernel larger than 1x1 is dilated."""
    kind = type(layer)
    config = layer.get_config() | {"name": name}
    if dilation > 1 and hasattr(layer, "strides"):
        config["strides"] = (1, 1)
    if kind in (keras.layers.Conv2D, keras.layers.DepthwiseConv2D):
        kind = {keras.layers.Conv2D: Conv2D, keras.layers.DepthwiseConv2D: DepthwiseConv2D}[kind]
        if layer.kernel_size != (1, 1):
            config |= {"padding": "same", "dilation_rate": (dilation, dilation)}
        if type(layer.activation).__name__ == "HardSigmoidActivation":  # keras-cv's, which cannot be saved
            config["activation"] = "hard_sigmoid"
    elif kind is keras.layers.BatchNormalization:
        config["momentum"] = BATCH_NORM_MOMENTUM
    return kind.from_config(config)
