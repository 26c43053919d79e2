"""What FCN's upsampling and scores start from, and its options. tests/models/test_models.py compares whole models."""

import keras
import numpy as np
import pytest
import torch
from parity import channels_first, channels_last
from torch.nn import functional

from kseg.models.build import build_model
from kseg.models.decoders.fcn import Bilinear
from kseg.models.layers import Resize
from kseg.models.registry import MODELS

STRIDES = {"fcn32s": 32, "fcn16s": 16, "fcn8s": 8}


@pytest.fixture
def upsample():
    layer = keras.layers.Conv2DTranspose(2, 4, strides=2, padding="same", use_bias=False, kernel_initializer=Bilinear())
    return lambda x: keras.ops.convert_to_numpy(layer(x))


def test_upsampling_starts_bilinear(upsample):
    """Inside, where no neighbour is missing: a constant stays it, a ramp is sampled at the half-pixel centres."""
    constant = upsample(np.ones((1, 5, 4, 2), "float32"))
    assert constant.shape == (1, 10, 8, 2)
    np.testing.assert_allclose(constant[:, 1:-1, 1:-1], 1, rtol=1e-6)
    ramp = np.stack([np.tile(np.arange(4.0), (5, 1)), 10 * np.tile(np.arange(5.0)[:, None], (1, 4))], axis=-1)
    found = upsample(ramp[None].astype("float32"))[0]
    centres = (np.arange(10) + 0.5) / 2 - 0.5
    np.testing.assert_allclose(found[1:-1, 1:-1, 0], np.tile(centres[1:7], (8, 1)), rtol=1e-6)
    np.testing.assert_allclose(found[1:-1, 1:-1, 1], np.tile(10 * centres[1:9, None], (1, 6)), rtol=1e-6)


@pytest.mark.parametrize("factor", [2, 8, 16, 32])
def test_the_last_resize_is_the_papers_fixed_deconvolution(rng, factor):
    """Away from the border, where the deconvolution fades to zero."""
    x = rng.normal(size=(1, 4, 3, 2)).astype("float32")
    kernel = keras.ops.convert_to_numpy(Bilinear()((2 * factor, 2 * factor, 2, 2))).transpose(3, 2, 0, 1)
    deconvolved = functional.conv_transpose2d(channels_first(x), torch.tensor(kernel), stride=factor, padding=factor // 2)
    deconvolved = channels_last(deconvolved)
    resized = keras.ops.convert_to_numpy(Resize(align_corners=False)([x, np.zeros((1, 4 * factor, 3 * factor, 1), "float32")]))
    edge = slice(factor // 2, -factor // 2)
    assert resized.shape == deconvolved.shape
    np.testing.assert_allclose(resized[:, edge, edge], deconvolved[:, edge, edge], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", list(STRIDES))
def test_it_starts_at_zero_and_gradients_reach_every_variable(rng, name):
    """On strided stages whose odd sizes are rounded up (c3 13x9, c4 7x5, c5 4x3)."""
    sizes = {"c3": (13, 9), "c4": (7, 5), "c5": (4, 3)}
    inputs = {level: keras.Input((None, None, 8), name=level) for level in sizes}
    model = keras.Model(inputs, MODELS[name].build(inputs, num_classes=3, fc_filters=16, dropout=0.0))
    features = {level: rng.normal(size=(1, *size, 8)).astype("float32") for level, size in sizes.items()}
    logits = model.predict_on_batch(features)
    assert logits.shape == (1, *sizes[f"c{int(np.log2(STRIDES[name]))}"], 3)
    np.testing.assert_array_equal(logits, 0)  # as the paper begins
    if keras.backend.backend() != "jax":
        return
    import jax

    for variable in model.trainable_variables:
        if "score" in variable.path and "upscore" not in variable.path:
            variable.assign(rng.normal(size=variable.shape))

    def value(trainable, features):
        logits, _ = model.stateless_call(trainable, [], features, training=False)
        return (logits**2).sum()

    by_variable, by_feature = jax.jit(jax.grad(value, argnums=(0, 1)))([v.value for v in model.trainable_variables], features)
    for variable, gradient in zip(model.trainable_variables, by_variable, strict=True):
        assert np.abs(gradient).max() > 0, variable.path
    assert {level for level, gradient in by_feature.items() if np.abs(gradient).max() > 0} == set(MODELS[name].info["levels"]())


def test_options():
    model = build_model("fcn8s", num_classes=3, backbone="resnet18", fc_filters=16, dropout=0.25)
    assert model.get_layer("decoder_fc6").kernel.shape == (7, 7, 512, 16)
    assert model.get_layer("decoder_fc7").kernel.shape == (1, 1, 16, 16)
    assert model.get_layer("decoder_fc7_dropout").rate == 0.25
