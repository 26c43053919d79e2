"""Two models that compile in seconds, for tests of training: test_tiny has the blocks of real models, test_conv two convolutions.

Importing this file registers them, and the backbone test_levels, on which any decoder can be built. As a program it is
kseg.train with these models: python tests/tiny_model.py --model=test_tiny
"""

import keras
import numpy as np

from kseg.models.backbones.registry import register_backbone
from kseg.models.blocks import conv_bn_relu, head, separable_conv_bn_relu
from kseg.models.build import build_model
from kseg.models.layers import Conv2D, Resize
from kseg.models.registry import register_model
from kseg.runtime.main import run_main


def build_tiny_backbone(*, output_stride, input_shape):
    """Two strided blocks, the second with a grouped convolution: c1 [B, H/2, W/2, 8], c2 [B, H/4, W/4, 8]."""
    x = images = keras.Input(input_shape, name="images")
    x = keras.layers.AveragePooling2D(2, padding="same")(x)
    c1 = conv_bn_relu(x, 8, name="encoder_1")
    x = keras.layers.MaxPooling2D(2, padding="same")(c1)
    c2 = Conv2D(8, 3, groups=4, padding="same", name="encoder_2")(x)
    return keras.Model(images, {"c1": c1, "c2": c2}, name="backbone")


register_backbone("test_tiny", build_tiny_backbone, output_strides=(32,))


@register_model(backbone="test_tiny", output_stride=32, levels=("c1", "c2"))
def test_tiny(features, *, num_classes):
    """One dilated separable convolution on c2, and c1. No dropout. Returns logits [B, H/2, W/2, num_classes]."""
    context = separable_conv_bn_relu(features["c2"], 8, dilation_rate=2, name="decoder_1")
    context = Resize(True, name="decoder_up")([context, features["c1"]])
    return head(keras.layers.Concatenate()([context, features["c1"]]), num_classes)


def _build_conv(*, output_stride, input_shape):
    """One convolution: c1 [B, H/2, W/2, 16]."""
    images = keras.Input(input_shape, name="images")
    x = keras.layers.Conv2D(16, 3, strides=2, padding="same", name="encoder_0")(images)
    return keras.Model(images, {"c1": keras.layers.ReLU(name="encoder_1")(x)}, name="backbone")


register_backbone("test_conv", _build_conv, output_strides=(32,))


@register_model(backbone="test_conv", output_stride=32, levels=("c1",))
def test_conv(features, *, num_classes):
    """One convolution on c1 [B, H/2, W/2, 16]. Returns logits [B, H/2, W/2, num_classes]."""
    return head(conv_bn_relu(features["c1"], 24, name="decoder"), num_classes)


def _build_levels(*, output_stride, input_shape):
    """A convolution a level: c1 to c5."""
    x = images = keras.Input(input_shape, name="images")
    levels = {}
    for i in range(1, 6):
        x = keras.layers.Conv2D(8, 3, strides=2, padding="same", activation="relu", name=f"encoder_{i}")(x)
        levels[f"c{i}"] = x
    return keras.Model(images, levels, name="backbone")


register_backbone("test_levels", _build_levels, output_strides=(8, 16, 32))


def random_model(name, classes=3, **arguments):
    """A model whose batch norms all change their input."""
    model = build_model(name, num_classes=classes, **arguments)
    generator = np.random.default_rng(3)
    model.set_weights([w + generator.uniform(0, 0.1, w.shape).astype("float32") for w in model.get_weights()])
    return model


def flags(data_dir, run_dir, *more):
    """Arguments of kseg.train for a short run of test_conv."""
    return [
        "kseg.train", "--dataset=coco", f"--data_dir={data_dir}", f"--run_dir={run_dir}", "--image_size=48x64", "--batch_size=3",
        "--epochs=2", "--model=test_conv", "--workers=0", "--noreport", *more,
    ]  # fmt: skip


if __name__ == "__main__":
    from kseg.train import main

    run_main(main)
