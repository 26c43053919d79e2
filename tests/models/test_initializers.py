"""Initial weights are those of Keras's initializers, drawn by few programs."""

import json

import jax
import keras
import numpy as np
import pytest

import kseg
from kseg.models.initializers import LENGTHS, RandomUniform, VarianceScaling, in_rows, undrawn
from kseg.models.layers import Conv2D, DepthwiseConv2D

SHAPES = [(7, 7, 3, 64), (3, 3, 32, 1), (1, 1, 1024, 256), (3, 3, 4, 128), (1, 1, 1, 1)]
SCALINGS = [(2.0, mode, kind) for mode in ("fan_in", "fan_out") for kind in ("untruncated_normal", "truncated_normal", "uniform")]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scaling", [*SCALINGS, (1.0, "fan_avg", "uniform")])
def test_weights_are_keras_own(shape, scaling):
    ours = VarianceScaling(*scaling, seed=7)(shape)
    theirs = keras.initializers.VarianceScaling(*scaling, seed=7)(shape)
    assert keras.ops.shape(ours) == shape and keras.backend.standardize_dtype(ours.dtype) == "float32"
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("shape", [*SHAPES, (12,), (LENGTHS[-1] + 1,)])
def test_uniform_weights_are_keras_own(shape):
    np.testing.assert_array_equal(
        RandomUniform(-0.2, 0.1, seed=7)(shape), keras.initializers.RandomUniform(-0.2, 0.1, seed=7)(shape)
    )


def test_a_traced_call_draws_the_same():
    initializer = VarianceScaling(2.0, "fan_in", "uniform", seed=7)
    np.testing.assert_array_equal(jax.jit(lambda: initializer((3, 3, 5, 7)))(), initializer((3, 3, 5, 7)))


def test_new_shapes_need_no_new_programs():
    compiled = []

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    def draw(channels):
        for make in (lambda: VarianceScaling(2.0, "fan_out", "untruncated_normal"), lambda: RandomUniform(-1, 1)):
            make()((3, 3, channels, 10))

    draw(10)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        draw(20)
        assert not compiled
        keras.initializers.RandomNormal()((3, 3, 17, 23))
        assert compiled  # which is to say that the listener would have heard
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_a_layers_initializer_is_read_from_its_config():
    layer = Conv2D(3, 3, kernel_initializer=VarianceScaling(2.0, "fan_out", "untruncated_normal", seed=5))
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    copy = keras.saving.deserialize_keras_object(config)
    assert isinstance(copy.kernel_initializer, VarianceScaling)
    np.testing.assert_array_equal(copy.kernel_initializer((3, 3, 2, 3)), layer.kernel_initializer((3, 3, 2, 3)))


def test_in_rows():
    glorot = in_rows(keras.initializers.GlorotUniform())
    assert isinstance(glorot, VarianceScaling) and (glorot.scale, glorot.mode, glorot.distribution) == (1.0, "fan_avg", "uniform")
    zeros = keras.initializers.Zeros()
    assert in_rows(zeros) is zeros


def test_undrawn():
    initializer = RandomUniform(0.5, 1.0)
    with undrawn():
        zeros = initializer((3, 4), "float32")
    assert keras.ops.is_tensor(zeros) and zeros.shape == (3, 4) and not np.any(zeros)
    assert np.all(initializer((3, 4)) >= 0.5)


NETWORKS = {
    "unet": ("tf_efficientnet_b0", {}),
    "deeplabv3plus": ("keras_cv/mobilenet_v3_small", {}),
    "fpn": ("se_resnext50_32x4d", {}),
    "fcn16s": ("vgg11", {"fc_filters": 8}),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_no_convolution_draws_a_shape_of_its_own(name):
    backbone, options = NETWORKS[name]
    model = kseg.build_model(name, num_classes=3, backbone=backbone, **options)
    layers = [layer for layer in model._flatten_layers() if isinstance(layer, DepthwiseConv2D | Conv2D)]
    roles = ("depthwise_initializer" if isinstance(layer, DepthwiseConv2D) else "kernel_initializer" for layer in layers)
    used = {type(getattr(layer, role)) for layer, role in zip(layers, roles, strict=True)}
    assert used <= {VarianceScaling, RandomUniform, keras.initializers.Zeros}, used
