"""SegNet's unpooling against torch's, and the backbones it takes. tests/models/test_models.py compares the whole model."""

import keras
import numpy as np
import pytest
from parity import channels_first, channels_last
from torch.nn import functional

from kseg.models.build import build_model
from kseg.models.decoders.segnet import max_unpool
from kseg.models.registry import MODELS
from kseg.utils.errors import KsegError


# rounded, rectified numbers: many windows hold their maximum more than once, or zeros alone
@pytest.mark.parametrize("shape", [(2, 8, 6, 3), (1, 7, 9, 4), (1, 3, 2, 1)])
@pytest.mark.parametrize("kind", ["distinct", "ties"])
def test_max_unpool_equals_torchs(rng, shape, kind):
    reference = rng.normal(size=shape).astype("float32")
    if kind == "ties":
        reference = np.maximum(np.round(reference), 0)
    b, h, w, c = shape
    values = rng.normal(size=(b, h // 2, w // 2, c)).astype("float32")
    _, indices = functional.max_pool2d(channels_first(reference), 2, 2, return_indices=True)
    torch_values = channels_first(values).requires_grad_()
    expected = functional.max_unpool2d(torch_values, indices, 2, 2, output_size=(h, w))
    found = keras.ops.convert_to_numpy(max_unpool(keras.ops.convert_to_tensor(values), keras.ops.convert_to_tensor(reference)))
    np.testing.assert_array_equal(found, channels_last(expected))
    assert (found != 0).sum() == values.size

    if keras.backend.backend() == "jax":
        import jax

        dy = rng.normal(size=shape).astype("float32")
        expected.backward(channels_first(dy))
        gradient = jax.jit(jax.grad(lambda values, reference: (max_unpool(values, reference) * dy).sum(), argnums=(0, 1)))
        to_values, to_reference = gradient(values, reference)
        np.testing.assert_array_equal(to_values, channels_last(torch_values.grad))
        np.testing.assert_array_equal(to_reference, 0)


WORKING = "use one of vgg11, vgg13, vgg16, vgg19, each also with _bn"


def test_other_backbones_are_refused():
    with pytest.raises(KsegError, match=f"model segnet needs a backbone that pools .*; {WORKING}"):
        build_model("segnet", num_classes=3, backbone="resnet18")
    widths = {"c0": 32, "c1": 24, "c2": 40, "c3": 80, "c4": 112, "c5": 320}  # a full-resolution level of some other family
    with pytest.raises(KsegError, match=WORKING):
        MODELS["segnet"].build({level: keras.Input((None, None, width)) for level, width in widths.items()}, num_classes=3)
