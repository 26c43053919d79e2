"""A model that compiles in a second, for tests of what surrounds training: importing this registers --model=tiny."""

import keras

from kseg.models import register_model
from kseg.models.backbones import register_backbone
from kseg.models.layers import conv_bn_relu, head


def _build(*, output_stride, input_shape):
    """c1, half the size."""
    images = keras.Input(input_shape, name="images")
    x = keras.layers.Conv2D(16, 3, strides=2, padding="same", name="encoder_0")(images)
    return keras.Model(images, {"c1": keras.layers.ReLU(name="encoder_1")(x)}, name="backbone")


register_backbone("tiny", _build, output_strides=(32,))


@register_model(backbone="tiny", output_stride=32, levels=("c1",))
def tiny(features, *, num_classes):
    """One convolution on c1 [B, H/2, W/2, 16]. Returns logits [B, H/2, W/2, num_classes]."""
    return head(conv_bn_relu(features["c1"], 24, name="decoder"), num_classes)


def flags(data_dir, run_dir, *more):
    return [
        "kseg.train", "--dataset=coco", f"--data_dir={data_dir}", f"--run_dir={run_dir}", "--image_size=48x64", "--batch_size=3",
        "--epochs=2", "--model=tiny", "--workers=0", "--noreport", *more,
    ]  # fmt: skip
