"""Small models for tests: few layers of every kind, which XLA compiles in a second."""

import keras
import numpy as np

from kseg.models.blocks import conv_bn_relu, head, separable_conv_bn_relu
from kseg.models.layers import NORMALIZATIONS, Normalize, Resize


def small_model() -> keras.Model:
    """Batch norm, dropout, a depthwise convolution, a stride and a resize. [B, H, W, 3] in 0..255 to logits [B, H, W, 3]."""
    images = keras.Input((None, None, 3), name="images")
    x = conv_bn_relu(Normalize(*NORMALIZATIONS["imagenet"], name="normalize")(images), 8, name="first")
    x = separable_conv_bn_relu(keras.layers.MaxPooling2D(2)(x), 12, name="second")
    x = head(keras.layers.Dropout(0.5)(x), 3)
    return keras.Model(images, Resize(True, name="logits")([x, images]), name="small")


def strongest_channel() -> keras.Model:
    """Predicts class 1, 2 or 3 where red, green or blue is the strongest channel, 0 where all are dark.

    Made of Keras's own layers, so any process can load it.
    """
    images = keras.Input((None, None, 3))
    layer = keras.layers.Conv2D(4, 1, name="logits")
    model = keras.Model(images, layer(keras.layers.Rescaling(1 / 255)(images)), name="strongest")
    layer.set_weights([np.hstack([np.zeros((3, 1)), np.eye(3)])[None, None], np.array([0.3, 0, 0, 0])])
    return model
