"""A model that compiles in a few seconds, of the blocks that real ones are made of: for tests that train in processes of their
own.

Import it within a test, not above: what is registered is seen by tests that go through all models. As a program it is kseg.train
with that model to choose: python tests/tiny_model.py --model=test_tiny ...
"""

import keras

from kseg.flags import run_main
from kseg.models import register_model
from kseg.models.backbones import register_backbone
from kseg.models.layers import Conv2D, Resize, conv_bn_relu, head, separable_conv_bn_relu


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
    """A dilated separable convolution on c2, beside c1. No dropout. Returns logits [B, H/2, W/2, num_classes]."""
    context = separable_conv_bn_relu(features["c2"], 8, dilation_rate=2, name="decoder_1")
    context = Resize(True, name="decoder_up")([context, features["c1"]])
    return head(keras.layers.Concatenate()([context, features["c1"]]), num_classes)


if __name__ == "__main__":
    from kseg.train import main

    run_main(main)
