"""SegNet against a torch module written from the paper, and max_unpool against torch's."""

import keras
import numpy as np
import pytest
import torch
from torch.nn import functional

from kseg.models.build import build_model
from kseg.models.decoders.segnet import max_unpool
from kseg.models.pytorch.load import load_torch_weights
from kseg.models.registry import MODELS
from kseg.utils.errors import KsegError

DECODER = [(512, 512, 512), (512, 512, 256), (256, 256, 128), (128, 64), (64,)]


class TorchSegNet(torch.nn.Module):
    """SegNet from its paper: torchvision's vgg16_bn with pools that tell their indices, and the mirrored decoder."""

    def __init__(self, features: torch.nn.Sequential, num_classes: int):
        super().__init__()
        self.encoder = torch.nn.Module()
        self.encoder.features = features
        self.decoder = torch.nn.Module()
        channels = 512
        for stage, widths in zip((5, 4, 3, 2, 1), DECODER, strict=True):
            layers = []
            for width in widths:
                conv = torch.nn.Conv2d(channels, width, 3, padding=1, bias=False)
                layers += [conv, torch.nn.BatchNorm2d(width), torch.nn.ReLU()]
                channels = width
            setattr(self.decoder, f"stage{stage}", torch.nn.Sequential(*layers))
        self.segmentation_head = torch.nn.Sequential(torch.nn.Conv2d(channels, num_classes, 3, padding=1))

    def forward(self, x):
        pools = []
        for layer in self.encoder.features:
            if isinstance(layer, torch.nn.MaxPool2d):
                size = x.shape[-2:]
                x, indices = functional.max_pool2d(x, 2, 2, return_indices=True)
                pools.append((indices, size))
            else:
                x = layer(x)
        for stage, (indices, size) in zip((5, 4, 3, 2, 1), reversed(pools), strict=True):
            x = functional.max_unpool2d(x, indices, 2, 2, output_size=size)
            x = getattr(self.decoder, f"stage{stage}")(x)
        return self.segmentation_head(x)


@pytest.fixture(scope="module")
def pair(smp):
    """The torch module, and ours with its weights."""
    from torchvision.models import vgg16_bn

    torch.manual_seed(0)
    reference = TorchSegNet(vgg16_bn(weights=None, init_weights=False).features, 5).eval()
    for layer in reference.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.weight, 0.5, 1.0)
            torch.nn.init.uniform_(layer.bias, -0.3, 0.3)
            torch.nn.init.uniform_(layer.running_mean, -0.3, 0.3)
            torch.nn.init.uniform_(layer.running_var, 0.1, 0.5)
    model = build_model("segnet", num_classes=5, normalization=None)
    load_torch_weights(model, reference.state_dict())
    return reference, model


@pytest.mark.parametrize("size", [(64, 64), (65, 47)])
def test_logits_equal_torchs(pair, rng, size):
    reference, model = pair
    images = rng.normal(size=(1, *size, 3)).astype("float32")
    with torch.no_grad():
        expected = reference(torch.from_numpy(images).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()
    found = model.predict_on_batch(images)
    assert found.shape == expected.shape == (1, *size, 5)
    error = np.abs(found - expected).max() / np.abs(expected).max()
    print(f"segnet {size}: {error:.1e}, spread of the logits {expected.std(axis=(1, 2))}")
    assert error <= 1e-4
    assert expected.std(axis=(1, 2)).min() > 1e-3  # they depend on the place


# rounded, rectified numbers: many windows hold their maximum more than once, or zeros alone
@pytest.mark.parametrize("shape", [(2, 8, 6, 3), (1, 7, 9, 4), (1, 3, 2, 1)])
@pytest.mark.parametrize("kind", ["distinct", "ties"])
def test_max_unpool_equals_torchs(rng, shape, kind):
    reference = rng.normal(size=shape).astype("float32")
    if kind == "ties":
        reference = np.maximum(np.round(reference), 0)
    b, h, w, c = shape
    values = rng.normal(size=(b, h // 2, w // 2, c)).astype("float32")
    _, indices = functional.max_pool2d(torch.from_numpy(reference).permute(0, 3, 1, 2), 2, 2, return_indices=True)
    torch_values = torch.from_numpy(values).permute(0, 3, 1, 2).contiguous().requires_grad_()
    expected = functional.max_unpool2d(torch_values, indices, 2, 2, output_size=(h, w))
    found = keras.ops.convert_to_numpy(max_unpool(keras.ops.convert_to_tensor(values), keras.ops.convert_to_tensor(reference)))
    np.testing.assert_array_equal(found, expected.detach().permute(0, 2, 3, 1).numpy())
    assert (found != 0).sum() == values.size

    if keras.backend.backend() == "jax":
        import jax

        dy = rng.normal(size=shape).astype("float32")
        expected.backward(torch.from_numpy(dy).permute(0, 3, 1, 2))
        gradient = jax.jit(jax.grad(lambda values, reference: (max_unpool(values, reference) * dy).sum(), argnums=(0, 1)))
        to_values, to_reference = gradient(values, reference)
        np.testing.assert_array_equal(to_values, torch_values.grad.permute(0, 2, 3, 1).numpy())
        np.testing.assert_array_equal(to_reference, 0)


WORKING = "use one of vgg11, vgg13, vgg16, vgg19, each also with _bn"


def test_other_backbones_are_refused():
    with pytest.raises(KsegError, match=f"model segnet needs a backbone that pools .*; {WORKING}"):
        build_model("segnet", num_classes=3, backbone="resnet18")
    widths = {"c0": 32, "c1": 24, "c2": 40, "c3": 80, "c4": 112, "c5": 320}  # a full-resolution level of some other family
    with pytest.raises(KsegError, match=WORKING):
        MODELS["segnet"].build({level: keras.Input((None, None, width)) for level, width in widths.items()}, num_classes=3)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="gradients are taken with jax.grad")
def test_gradients_reach_every_variable(rng):
    import jax

    model = build_model("segnet", num_classes=3, backbone="vgg11_bn")
    images = rng.integers(0, 256, (2, 33, 40, 3)).astype("float32")
    dy = rng.normal(size=(2, 33, 40, 3)).astype("float32")

    @jax.jit
    def gradients(trainable):
        def value(trainable):
            rest = [v.value for v in model.non_trainable_variables]
            return (model.stateless_call(trainable, rest, images, training=True)[0] * dy).sum()

        return jax.grad(value)(trainable)

    for variable, gradient in zip(
        model.trainable_variables, gradients([v.value for v in model.trainable_variables]), strict=True
    ):
        assert np.isfinite(gradient).all(), variable.path
        assert np.abs(gradient).max() > 0, variable.path


def test_it_is_saved_and_loaded(pair, rng, tmp_path):
    _, model = pair
    model.save(tmp_path / "segnet.keras")
    images = rng.normal(size=(1, 64, 64, 3)).astype("float32")
    loaded = keras.saving.load_model(tmp_path / "segnet.keras")
    np.testing.assert_allclose(loaded.predict_on_batch(images), model.predict_on_batch(images), rtol=1e-5, atol=1e-6)
