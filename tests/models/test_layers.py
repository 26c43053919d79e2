import keras
import numpy as np
import pytest
import torch

from kseg.models.layers import BatchNormalization, Normalize, Resize
from kseg.models.ops.resize import resize_bilinear, resize_tile


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize(
    ("source", "target"), [((4, 6), (16, 24)), ((5, 7), (33, 64)), ((1, 1), (5, 6)), ((9, 8), (4, 3)), ((3, 3), (1, 1))]
)
def test_resize_equals_torch(rng, align_corners, source, target):
    x = rng.normal(size=(2, *source, 3)).astype("float32")
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(x).permute(0, 3, 1, 2), size=target, mode="bilinear", align_corners=align_corners
    )
    found = Resize(align_corners)([x, np.zeros((2, *target, 1), "float32")])
    np.testing.assert_allclose(keras.ops.convert_to_numpy(found), expected.permute(0, 2, 3, 1).numpy(), rtol=1e-5, atol=1e-5)


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
        expected = theirs(torch.from_numpy(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).detach().numpy()
        np.testing.assert_allclose(keras.ops.convert_to_numpy(ours(x, training=training)), expected, rtol=1e-4, atol=1e-5)
    for variable, buffer in ((ours.moving_mean, theirs.running_mean), (ours.moving_variance, theirs.running_var)):
        np.testing.assert_allclose(keras.ops.convert_to_numpy(variable), buffer.numpy(), rtol=1e-5)
