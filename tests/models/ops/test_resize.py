"""Resizing against torch's."""

import keras
import numpy as np
import pytest
import torch
from parity import channels_first, channels_last

from kseg.models.layers import Resize, ResizeNearest
from kseg.models.ops.resize import resize_bilinear, resize_tile

pytestmark = pytest.mark.backends


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize(
    ("source", "target"), [((4, 6), (16, 24)), ((5, 7), (33, 64)), ((1, 1), (5, 6)), ((9, 8), (4, 3)), ((3, 3), (1, 1))]
)
def test_resize_equals_torch(rng, align_corners, source, target):
    x = rng.normal(size=(2, *source, 3)).astype("float32")
    expected = torch.nn.functional.interpolate(channels_first(x), size=target, mode="bilinear", align_corners=align_corners)
    found = Resize(align_corners)([x, np.zeros((2, *target, 1), "float32")])
    np.testing.assert_allclose(keras.ops.convert_to_numpy(found), channels_last(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(13, 17), (6, 8), (3, 40), (1, 1)])
def test_tiles_are_parts_of_the_plain_resize(rng, size):
    """The size is data. Pixels within it are the plain resize, and equal to the last bit in any tile that has them."""
    x = rng.normal(size=(6, 8, 3)).astype("float32")
    expected = keras.ops.convert_to_numpy(resize_bilinear(keras.ops.convert_to_tensor(x[None]), size, align_corners=False)[0])
    whole = keras.ops.convert_to_numpy(resize_tile(keras.ops.convert_to_tensor(x), np.array(size), np.array([0, 0]), (48, 48)))
    np.testing.assert_allclose(whole[: size[0], : size[1]], expected, rtol=1e-4, atol=1e-5)
    for start in ((0, 0), (5, 0), (5, 7)):
        found = resize_tile(keras.ops.convert_to_tensor(x), np.array(size), np.array(start), (5, 7))
        tile = whole[start[0] : start[0] + 5, start[1] : start[1] + 7]
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(found), tile)


@pytest.mark.slow
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
