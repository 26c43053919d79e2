"""The decoder against smp's, on the same features and weights."""

import keras
import numpy as np
import pytest
import torch

from kseg.models.layers import Resize
from kseg.models.registry import MODELS


def copy_from_torch(module: torch.nn.Module, model: keras.Model) -> None:
    """Every parameter goes to the layer named after its module path, and every layer with weights gets all of them."""
    filled = set()
    for path, torch_layer in module.named_modules():
        if not list(torch_layer.parameters(recurse=False)):
            continue
        layer = model.get_layer(path.replace(".", "_"))
        values = {name: value.detach().numpy() for name, value in torch_layer.state_dict().items()}
        if isinstance(torch_layer, torch.nn.BatchNorm2d):
            weights = [values[name] for name in ("weight", "bias", "running_mean", "running_var")]
        else:
            kernel = values["weight"].transpose(2, 3, 0, 1) if torch_layer.groups > 1 else values["weight"].transpose(2, 3, 1, 0)
            weights = [kernel, *([values["bias"]] if "bias" in values else [])]
        layer.set_weights(weights)
        filled.add(layer.name)
    assert filled == {layer.name for layer in model.layers if layer.weights}


@pytest.fixture(scope="module")
def pair(smp):
    """smp's decoder and head, and ours, with the same random weights and batch norm statistics."""
    torch.manual_seed(0)
    peer = smp.DeepLabV3Plus("resnet18", encoder_weights=None, classes=5)
    reference = torch.nn.ModuleDict({"decoder": peer.decoder, "segmentation_head": peer.segmentation_head}).eval()
    for module in reference.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight, 0.5, 1.5),
                (module.bias, -0.5, 0.5),
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 2),
            ):
                torch.nn.init.uniform_(tensor, low, high)
    features = {"c2": keras.Input((None, None, 64)), "c5": keras.Input((None, None, 512))}
    logits = MODELS["deeplabv3plus"].build(features, num_classes=5)
    size = keras.Input((None, None, 1))
    model = keras.Model([features["c2"], features["c5"], size], Resize(align_corners=True)([logits, size]))
    copy_from_torch(reference, model)
    return reference, model


def run_reference(reference, c2, c5):
    decoded = reference["decoder"]([None, None, c2, None, None, c5])
    return reference["segmentation_head"](decoded)


@pytest.mark.parametrize(("height", "width"), [(64, 96), (256, 256), (32, 160)])
def test_logits_equal_smps(pair, rng, height, width):
    reference, model = pair
    c2 = rng.normal(size=(2, height // 4, width // 4, 64)).astype("float32")
    c5 = rng.normal(size=(2, height // 16, width // 16, 512)).astype("float32")
    with torch.no_grad():
        expected = run_reference(reference, *(torch.from_numpy(x).permute(0, 3, 1, 2) for x in (c2, c5)))
    expected = expected.permute(0, 2, 3, 1).numpy()
    found = model.predict_on_batch([c2, c5, np.zeros((2, height, width, 1), "float32")])
    assert found.shape == expected.shape == (2, height, width, 5)
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="gradients are taken with jax.grad")
def test_gradients_equal_smps(pair, rng):
    import jax

    reference, model = pair
    c2 = rng.normal(size=(1, 12, 16, 64)).astype("float32")
    c5 = rng.normal(size=(1, 3, 4, 512)).astype("float32")
    dy = rng.normal(size=(1, 48, 64, 5)).astype("float32")
    inputs = [torch.from_numpy(x).permute(0, 3, 1, 2).contiguous().requires_grad_() for x in (c2, c5)]
    run_reference(reference, *inputs).backward(torch.from_numpy(dy).permute(0, 3, 1, 2))

    @jax.jit
    def gradients(trainable, c2, c5):
        def value(trainable, c2, c5):
            size = np.zeros((1, 48, 64, 1), "float32")
            logits, _ = model.stateless_call(trainable, [v.value for v in model.non_trainable_variables], [c2, c5, size])
            return (logits * dy).sum()

        return jax.grad(value, argnums=(0, 1, 2))(trainable, c2, c5)

    by_variable, *by_input = gradients([v.value for v in model.trainable_variables], c2, c5)
    for found, expected in zip(by_input, inputs, strict=True):
        expected = expected.grad.permute(0, 2, 3, 1).numpy()
        assert np.abs(found - expected).max() <= 1e-3 * np.abs(expected).max()
    kernels = {v.path.split("/")[0]: g for v, g in zip(model.trainable_variables, by_variable, strict=True) if v.name == "kernel"}
    for path, layer in reference.named_modules():
        if isinstance(layer, torch.nn.Conv2d):
            found = kernels[path.replace(".", "_")]
            expected = layer.weight.grad.numpy().transpose((2, 3, 0, 1) if layer.groups > 1 else (2, 3, 1, 0))
            assert np.abs(found - expected).max() <= 1e-3 * np.abs(expected).max(), path
