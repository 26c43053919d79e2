"""A model of few layers and every kind of them, for tests of what is done with a model: XLA compiles it in a second."""

import keras

from kseg.models.layers import NORMALIZATIONS, Normalize, Resize, conv_bn_relu, head, separable_conv_bn_relu


def small_model() -> keras.Model:
    """Batch norm, dropout, a depthwise convolution, a stride and a resize. [B, H, W, 3] in 0..255 to logits [B, H, W, 3]."""
    images = keras.Input((None, None, 3), name="images")
    x = conv_bn_relu(Normalize(*NORMALIZATIONS["imagenet"], name="normalize")(images), 8, name="first")
    x = separable_conv_bn_relu(keras.layers.MaxPooling2D(2)(x), 12, name="second")
    x = head(keras.layers.Dropout(0.5)(x), 3)
    return keras.Model(images, Resize(True, name="logits")([x, images]), name="small")
