"""Compares kseg's networks with their PyTorch baselines: outputs, one training step, and the errors that count."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import torch
from baselines import at_any_size, build_baseline
from cases import CLASSES, Case

from kseg.losses import CrossEntropy
from kseg.models.layers import MaxPoolHalf, PaddedMaxPool
from kseg.models.pytorch.export import export_torch_weights
from kseg.models.pytorch.load import load_torch_weights
from kseg.models.transformers_keys import to_kseg

_PREFIX = {"smp": "encoder.", "torchvision": "backbone.", "timm": ""}
"""Of a backbone's keys in the libraries' checkpoints of whole models."""


def channels_last(x: torch.Tensor) -> np.ndarray:
    return x.detach().permute(0, 2, 3, 1).numpy()


def channels_first(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x).permute(0, 3, 1, 2).contiguous()


def relative_error(found: Any, expected: np.ndarray) -> float:
    """Returns max |found - expected| / max |expected - its mean over places|, of [B, H, W, C], and prints it for `pytest -s`.

    Without the mean, which biases decide, an error of what depends on the place would seem smaller than it is.
    """
    found = keras.ops.convert_to_numpy(found)
    assert found.shape == expected.shape
    error = float(np.abs(found - expected).max() / np.abs(expected - expected.mean(axis=(1, 2), keepdims=True)).max())
    print(f"relative error {error:.1e}")
    return error


def make_smooth(baseline: torch.nn.Module, model: keras.Model) -> None:
    """Training mode without chance or kinks, on both sides: no dropout, softplus for ReLU, mean for max pools.

    In float32 a unit that is 0 but for rounding falls on either side of ReLU's kink, and of two pooled values that are equal but
    for rounding either may be the largest; one that differs changes the gradient of a kernel on a small map by per cents, however
    right both networks are. Where ReLUs and max pools stand is seen by the evaluation error.
    """
    for module in list(baseline.modules()):
        if isinstance(module, (torch.nn.Dropout, torch.nn.Dropout2d)):
            module.p = 0.0
        elif hasattr(module, "drop_prob"):
            module.drop_prob = 0.0
        elif hasattr(module, "_drop_connect_rate"):  # smp's own EfficientNet
            module._drop_connect_rate = 0.0
        for name, child in module.named_children():
            if isinstance(child, (torch.nn.ReLU, torch.nn.ReLU6)):
                setattr(module, name, torch.nn.Softplus(beta=4.0))
            elif isinstance(child, torch.nn.MaxPool2d) and not child.ceil_mode:
                # In ceil_mode the mean pool leaves the padding out; the layer is left alone below, too.
                setattr(module, name, torch.nn.AvgPool2d(child.kernel_size, child.stride, child.padding))
    pools = {3: keras.layers.AveragePooling2D(3, 2), 2: keras.layers.AveragePooling2D(2)}
    for layer in model._flatten_layers():
        if isinstance(layer, (keras.layers.Dropout, keras.layers.SpatialDropout2D)):
            layer.rate = 0.0
        elif isinstance(layer, keras.layers.ReLU) or (
            isinstance(layer, keras.layers.Activation) and layer.activation in (keras.activations.relu, keras.activations.relu6)
        ):
            layer.call = lambda x: keras.ops.softplus(4.0 * x) / 4.0
        elif isinstance(layer, MaxPoolHalf):
            layer.call = pools[2].call
        elif isinstance(layer, PaddedMaxPool):
            layer.call = lambda x: pools[3].call(keras.ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))))
        elif isinstance(layer, keras.layers.MaxPooling2D) and layer.name != "encoder_layer0_pool":
            layer.call = pools[layer.pool_size[0]].call


def build_pair(case: Case) -> tuple[torch.nn.Module, keras.Model]:
    """Builds the baseline with random weights, and kseg's network with the same."""
    baseline = build_baseline(case, CLASSES)
    model = case.build(**({"normalization": None} if case.model else {}))
    _copy(case, baseline.state_dict(), model)
    return baseline, model


def _copy(case: Case, state: dict[str, Any], model: keras.Model) -> None:
    load_torch_weights(model, _prefixed(case, state))


def _prefixed(case: Case, state: dict[str, Any]) -> dict[str, Any]:
    prefix = "" if case.model else _PREFIX[case.library]
    return {f"{prefix}{key}": value for key, value in state.items()}


FILLED_IN = ("num_batches_tracked", "conv_head.weight", "bn2.", "_conv_head.weight", "_bn1.")
"""Of an encoder: tensors that export_torch_weights fills in, as kseg has no use for them. They begin the encoder's keys."""


def round_trip(case: Case, baseline: torch.nn.Module, model: keras.Model) -> tuple[int, list[str]]:
    """Reads the baseline's weights and exports them again. Returns how many tensors came back, and the keys that differ.

    A tensor must come back once, with the same bytes. Left out are those that kseg has no layer for. Keys of backbones alone are
    compared without the prefixes and the flat names that libraries give the same modules.
    """
    loaded = load_torch_weights(model, _prefixed(case, baseline.state_dict()))
    state, exported = {key: value.numpy() for key, value in baseline.state_dict().items()}, export_torch_weights(model)
    if case.library == "transformers":  # a saved file has other names than the modules
        state, exported = to_kseg(state), to_kseg(exported)
    before, after = ({_plain(case, key): value for key, value in one.items()} for one in (state, exported))
    assert (len(before), len(after)) == (len(state), len(exported))
    left_out = {_plain(case, module) for module in loaded.left_out}

    def counts(key):
        filled = any(part in key if "." not in part else key.startswith(part) for part in FILLED_IN)
        return not filled and not any(key.startswith(f"{module}.") for module in left_out)

    keys = {key for key in {*before, *after} if counts(key)}
    different = [
        key for key in sorted(keys) if key not in before or key not in after or before[key].tobytes() != after[key].tobytes()
    ]
    return len(keys) - len(different), different


def _plain(case: Case, key: str) -> str:
    """A key or module without the encoder's prefix, and with "stages.0" for timm's flat "stages_0"."""
    if case.library in ("paper", "transformers"):
        return key
    key = re.sub(r"^(?:encoder\.|backbone\.)?(?:model\.)?", "", key)
    return re.sub(r"^(stem|stages|layers)_(?=\d)", r"\1.", key)


def outputs(case: Case, baseline: torch.nn.Module, model: keras.Model, images: Any) -> dict[str, torch.Tensor]:
    """Returns the baseline's outputs [B, C, h, w] under kseg's names: "logits" and "auxiliary", or the levels."""
    size = tuple(images.shape[2:])
    refused = case.library == "smp" and case.model not in (None, "unet") and any(side % 32 for side in size)
    y = at_any_size(baseline, images) if refused else baseline(images)
    if isinstance(y, torch.Tensor):
        return {"logits": y}
    if isinstance(y, dict):
        return {{"out": "logits", "aux": "auxiliary"}[name]: value for name, value in y.items()}
    levels = sorted(model.output)  # smp's encoders begin with the image, and torchvision's backbone has c5 alone
    return dict(zip(reversed(levels), reversed(y), strict=False))


def _named(y: Any) -> dict[str, Any]:
    return y if isinstance(y, dict) else {"logits": y}


def evaluation_error(case: Case, baseline: torch.nn.Module, model: keras.Model, size: tuple[int, int]) -> float:
    """The largest relative error of the logits, or of any level's features, in evaluation mode."""
    images = np.random.default_rng(0).normal(size=(1, *size, 3)).astype("float32")
    baseline.eval()
    with torch.no_grad():
        expected = outputs(case, baseline, model, channels_first(images))
    found = _named(model.predict_on_batch(images))
    return max(relative_error(found[name], channels_last(value)) for name, value in expected.items())


@dataclass(frozen=True)
class TrainingErrors:
    """Relative errors of one step in training mode.

    gradient, statistics: the largest over variables of max |a - b| / max(max |b|, a hundredth of the largest variable's max |b|);
    without the floor a gradient that is 0 but for rounding, such as that of a bias before batch norm, would decide.
    """

    loss: float
    gradient: float
    statistics: float


def training_errors(case: Case, baseline: torch.nn.Module, model: keras.Model, size=(64, 96), batch: int = 4) -> TrainingErrors:
    """One forward and backward pass in training mode on both sides, dropout off.

    The loss is cross entropy with ignored pixels for whole models (plus the auxiliary head's), and a random weighted sum of
    squares of all features for backbones (all terms positive, so that the sum does not cancel).
    """
    make_smooth(baseline, model)
    generator = np.random.default_rng(1)
    images = generator.normal(size=(batch, *size, 3)).astype("float32")
    # Images of different brightness: batch norm of pooled values that hardly differ would divide rounding by rounding.
    images += np.linspace(-2, 2, batch, dtype="float32")[:, None, None, None]
    labels = generator.integers(0, CLASSES, (batch, *size))
    labels[:, :8] = 255

    baseline.train()
    for parameter in baseline.parameters():
        parameter.grad = None
    expected = outputs(case, baseline, model, channels_first(images))
    weights = {k: generator.uniform(size=channels_last(v).shape).astype("float32") / 100 for k, v in expected.items()}
    if "logits" in expected:
        losses = [torch.nn.functional.cross_entropy(y, torch.from_numpy(labels), ignore_index=255) for y in expected.values()]
    else:
        losses = [(y**2 * channels_first(weights[name])).sum() for name, y in expected.items()]
    expected_loss = sum(losses)
    expected_loss.backward()

    def loss(y):
        y = _named(y)
        if "logits" in expected:
            return sum(CrossEntropy()(labels, y[name]) for name in expected)
        return sum(keras.ops.sum(y[name] ** 2 * keras.ops.convert_to_tensor(weights[name])) for name in expected)

    found_loss, gradients, statistics = _step(model, images, loss)
    # The baseline's gradients and statistics, read into our variables as if they were weights, are laid out as ours.
    gradient_of = {key: torch.zeros_like(p) if p.grad is None else p.grad for key, p in baseline.named_parameters()}
    _copy(case, baseline.state_dict() | gradient_of, model)
    by_path = {variable.path: keras.ops.convert_to_numpy(variable) for variable in model.variables}
    expected_loss = expected_loss.item()
    return TrainingErrors(
        abs(found_loss - expected_loss) / abs(expected_loss), _largest(gradients, by_path), _largest(statistics, by_path)
    )


def _largest(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    if not found:  # VGG without batch norm has no statistics
        return 0.0
    floor = 0.01 * max(np.abs(expected[path]).max() for path in found)
    errors = {
        path: np.abs(value - expected[path]).max() / max(np.abs(expected[path]).max(), floor) for path, value in found.items()
    }
    worst = max(errors, key=lambda path: errors[path])
    print(f"largest error {errors[worst]:.1e} of {worst}")
    return float(errors[worst])


def _step(model: keras.Model, images: np.ndarray, loss: Callable) -> tuple[float, dict, dict]:
    """Returns (loss, gradients by path, batch norm's statistics after the step by path), on JAX or torch."""
    trainable, rest = model.trainable_variables, model.non_trainable_variables
    if keras.backend.backend() == "jax":
        import jax

        @jax.jit
        def step(values, state, images):
            def value(values, state):
                y, state = model.stateless_call(values, state, images, training=True)
                return loss(y), state

            return jax.value_and_grad(value, has_aux=True)(values, state)

        (value, state), gradients = step([v.value for v in trainable], [v.value for v in rest], images)
    else:
        for variable in trainable:
            variable.value.grad = None
        value = loss(model(images, training=True))
        value.backward()
        gradients = [torch.zeros_like(v.value) if v.value.grad is None else v.value.grad for v in trainable]
        state = [v.value for v in rest]
    norms = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
    statistics = {v.path for layer in norms for v in (layer.moving_mean, layer.moving_variance)}
    gradients, state = ([keras.ops.convert_to_numpy(x) for x in values] for values in (gradients, state))
    return (
        float(value.item()),
        {v.path: x for v, x in zip(trainable, gradients, strict=True)},
        {v.path: x for v, x in zip(rest, state, strict=True) if v.path in statistics},
    )
