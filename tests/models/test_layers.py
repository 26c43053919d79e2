"""kseg's layers against torch's."""

import keras
import numpy as np
import pytest
import torch
from parity import channels_first, channels_last

from kseg.models.layers import BatchNormalization, GlobalResponseNorm, Normalize, PaddedMaxPool

pytestmark = pytest.mark.backends


def test_normalize_takes_uint8_and_float_alike(rng):
    image = rng.integers(0, 256, (1, 4, 5, 3)).astype("uint8")
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    expected = (image / 255.0 - mean) / std
    for dtype in ("uint8", "float32"):
        found = keras.ops.convert_to_numpy(Normalize(mean, std)(image.astype(dtype)))
        assert found.dtype == "float32"
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (3, 1, 1, 4)])
def test_batch_norm_equals_torchs(rng, shape, affine):
    """Two training batches and what is left of them for inference; with scale and offset and without."""
    ours = BatchNormalization(momentum=0.9, epsilon=1e-5, scale=affine, center=affine)
    theirs = torch.nn.BatchNorm2d(shape[-1], affine=affine)
    ours.build(shape)
    if affine:
        for variable, parameter in ((ours.gamma, theirs.weight), (ours.beta, theirs.bias)):
            value = rng.normal(size=shape[-1]).astype("float32")
            variable.assign(value)
            parameter.data = torch.from_numpy(value)
    for training in (True, True, False):
        theirs.train(training)
        x = (5 + 3 * rng.normal(size=shape)).astype("float32")
        expected = channels_last(theirs(channels_first(x)))
        np.testing.assert_allclose(keras.ops.convert_to_numpy(ours(x, training=training)), expected, rtol=1e-4, atol=1e-5)
    for variable, buffer in ((ours.moving_mean, theirs.running_mean), (ours.moving_variance, theirs.running_var)):
        np.testing.assert_allclose(keras.ops.convert_to_numpy(variable), buffer.numpy(), rtol=1e-5)


def test_global_response_norm_equals_timms_where_a_channel_is_zero(smp, rng):
    """The square root of 0 has no gradient, but the layer must."""
    from timm.layers.grn import GlobalResponseNorm as Theirs  # smp's fixture makes torchvision importable

    x = rng.normal(size=(2, 3, 4, 5)).astype("float32")
    x[..., 2] = 0
    ours, theirs = GlobalResponseNorm(), Theirs(5)
    ours.build(x.shape)
    values = [rng.normal(size=5).astype("float32") for _ in range(2)]
    ours.set_weights(values)
    theirs.weight.data, theirs.bias.data = map(torch.from_numpy, values)
    expected = theirs(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(keras.ops.convert_to_numpy(ours(x)), expected, rtol=1e-5, atol=1e-6)
    if keras.backend.backend() == "torch":
        gradients = []
        for layer in (ours, theirs):
            images = torch.from_numpy(x).requires_grad_()
            (layer(images) ** 2).sum().backward()
            gradients.append(images.grad.numpy())
        np.testing.assert_allclose(*gradients, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(8, 6), (7, 5), (1, 2)])
def test_padded_max_pool_equals_torchs_below_zero(rng, size):
    x = rng.normal(size=(2, *size, 3)).astype("float32") - 5
    expected = channels_last(torch.nn.MaxPool2d(3, 2, 1)(channels_first(x)))
    layer = PaddedMaxPool()
    assert layer.compute_output_shape(x.shape) == expected.shape
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(layer(x)), expected)
