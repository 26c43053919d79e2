"""FCN against a torch module written from the paper, and what its upsampling starts from."""

import keras
import numpy as np
import pytest
import torch
from torch.nn import functional

from kseg.models.build import build_model
from kseg.models.decoders.fcn import Bilinear
from kseg.models.layers import Resize
from kseg.models.pytorch.load import load_torch_weights
from kseg.models.registry import MODELS

STRIDES = {"fcn32s": 32, "fcn16s": 16, "fcn8s": 8}
UPSAMPLING = {"fcn32s": (), "fcn16s": ("upscore2",), "fcn8s": ("upscore2", "upscore_pool4")}


class TorchFCN(torch.nn.Module):
    """FCN on the pools of a torchvision VGG; skips, and their number of classes, as the paper draws them."""

    def __init__(self, name: str, features: torch.nn.Sequential, num_classes: int, fc_filters: int):
        super().__init__()
        self.encoder = torch.nn.Module()
        self.encoder.features = features
        self.decoder = torch.nn.ModuleDict(
            {
                "fc6": torch.nn.Conv2d(512, fc_filters, 7, padding=3),
                "fc7": torch.nn.Conv2d(fc_filters, fc_filters, 1),
                "score_fr": torch.nn.Conv2d(fc_filters, num_classes, 1),
            }
        )
        self.skips = []
        for upsampling, pool, channels in zip(UPSAMPLING[name], ("pool4", "pool3"), (512, 256), strict=False):
            self.decoder[upsampling] = torch.nn.ConvTranspose2d(num_classes, num_classes, 4, 2, 1, bias=False)
            self.decoder[f"score_{pool}"] = torch.nn.Conv2d(channels, num_classes, 1)
            self.skips.append((upsampling, pool))

    def forward(self, x):
        size, pools = x.shape[-2:], {}
        for layer in self.encoder.features:
            x = layer(x)
            if isinstance(layer, torch.nn.MaxPool2d):
                pools[f"pool{len(pools) + 1}"] = x
        x = self.decoder["fc7"](self.decoder["fc6"](x).relu()).relu()
        x = self.decoder["score_fr"](x)
        for upsampling, pool in self.skips:
            x = self.decoder[upsampling](x)
            if x.shape[-2:] != pools[pool].shape[-2:]:
                x = functional.interpolate(x, pools[pool].shape[-2:], mode="bilinear", align_corners=False)
            x = x + self.decoder[f"score_{pool}"](pools[pool])
        return functional.interpolate(x, size, mode="bilinear", align_corners=False)


@pytest.mark.parametrize(
    ("name", "backbone", "size"), [("fcn32s", "vgg11", (64, 96)), ("fcn16s", "vgg11", (65, 83)), ("fcn8s", "vgg16", (91, 64))]
)
def test_logits_equal_torchs(smp, rng, name, backbone, size):
    from torchvision.models import vgg

    torch.manual_seed(0)
    reference = TorchFCN(name, getattr(vgg, backbone)(init_weights=False).features, 4, 24).eval()
    with torch.no_grad():
        for path, parameter in reference.encoder.named_parameters():
            parameter.mul_(2.4 if path.endswith("weight") else 1)  # else the features fade away from layer to layer
    model = build_model(name, num_classes=4, backbone=backbone, fc_filters=24, normalization=None)
    load_torch_weights(model, reference.state_dict())
    images = rng.normal(size=(1, *size, 3)).astype("float32")
    with torch.no_grad():
        expected = reference(torch.from_numpy(images).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()
    found = model.predict_on_batch(images)
    assert found.shape == expected.shape == (1, *size, 4)
    error = np.abs(found - expected).max() / np.abs(expected).max()
    print(f"{name} {backbone} {size}: {error:.1e}, spread of the logits {expected.std(axis=(1, 2))}")
    assert error <= 1e-4
    assert expected.std(axis=(1, 2)).min() > 1e-3  # they depend on the place


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
    deconvolved = functional.conv_transpose2d(
        torch.from_numpy(x).permute(0, 3, 1, 2), torch.tensor(kernel), stride=factor, padding=factor // 2
    )
    deconvolved = deconvolved.permute(0, 2, 3, 1).numpy()
    resized = keras.ops.convert_to_numpy(Resize(align_corners=False)([x, np.zeros((1, 4 * factor, 3 * factor, 1), "float32")]))
    edge = slice(factor // 2, -factor // 2)
    assert resized.shape == deconvolved.shape
    np.testing.assert_allclose(resized[:, edge, edge], deconvolved[:, edge, edge], rtol=1e-5, atol=1e-6)


def features_of(sizes, *, channels=8):
    return {level: keras.Input((None, None, channels), name=level) for level in sizes}


@pytest.mark.parametrize("name", list(STRIDES))
def test_it_starts_at_zero_and_gradients_reach_every_variable(rng, name):
    """On strided stages whose odd sizes are rounded up (c3 13x9, c4 7x5, c5 4x3)."""
    sizes = {"c3": (13, 9), "c4": (7, 5), "c5": (4, 3)}
    inputs = features_of(sizes)
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
    assert {level for level, gradient in by_feature.items() if np.abs(gradient).max() > 0} == set(MODELS[name].info["levels"])


def test_options_and_saving(rng, tmp_path):
    model = build_model("fcn8s", num_classes=3, backbone="resnet18", fc_filters=16, dropout=0.25)
    assert model.get_layer("decoder_fc6").kernel.shape == (7, 7, 512, 16)
    assert model.get_layer("decoder_fc7").kernel.shape == (1, 1, 16, 16)
    assert model.get_layer("decoder_fc7_dropout").rate == 0.25
    for name in ("score_fr", "score_pool4", "score_pool3"):
        layer = model.get_layer(f"decoder_{name}")
        layer.set_weights([rng.normal(size=w.shape) for w in layer.weights])
    images = rng.integers(0, 256, (1, 33, 47, 3)).astype("uint8")
    expected = model.predict_on_batch(images)
    assert expected.shape == (1, 33, 47, 3)
    assert expected.std() > 0
    model.save(tmp_path / "fcn.keras")
    loaded = keras.saving.load_model(tmp_path / "fcn.keras")
    np.testing.assert_allclose(loaded.predict_on_batch(images), expected, rtol=1e-5, atol=1e-5)
