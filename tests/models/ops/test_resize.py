"""Resizing against torch's."""

import keras
import numpy as np
import pytest
import torch
from parity import channels_first, channels_last

from kseg.models.layers import ResizeNearest

pytestmark = pytest.mark.backends


@pytest.mark.parametrize(
    ("source", "target"), [((2, 3), (4, 6)), ((4, 5), (7, 9)), ((3, 4), (7, 9)), ((5, 5), (5, 13)), ((9, 7), (4, 5))]
)
def test_nearest_resize_and_its_gradient_equal_torchs(rng, source, target):
    x = rng.normal(size=(2, *source, 3)).astype("float32")
    dy = rng.normal(size=(2, *target, 3)).astype("float32")
    torch_x = channels_first(x).requires_grad_()
    expected = torch.nn.functional.interpolate(torch_x, size=target, mode="nearest")
    expected.backward(channels_first(dy))
    layer, reference = ResizeNearest(), np.zeros((2, *target, 1), "float32")
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(layer([x, reference])), channels_last(expected))
    if keras.backend.backend() == "jax":
        import jax

        gradient = jax.grad(lambda x: (layer([x, reference]) * dy).sum())(x)
        np.testing.assert_allclose(gradient, channels_last(torch_x.grad), rtol=1e-5, atol=1e-5)
