"""What parity tests and scripts/parity_table.py share: every (ours, reference) pair, random references, the errors that count."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import torch

from kseg.losses import CrossEntropy
from kseg.models.backbones.registry import BACKBONES
from kseg.models.build import build_backbone, build_model
from kseg.models.pytorch.load import load_torch_weights

CLASSES = 5
SIZES = ((64, 96), (129, 97), (256, 256))
EVEN_SIZES = SIZES[::2]
"""For references that refuse sizes which their stride does not divide."""


@dataclass(frozen=True)
class Pair:
    """A network of ours and the one it must equal.

    ours, reference: build them, with random weights. prefix: put before the reference's keys. sizes: that the reference takes.
    """

    name: str
    ours: Callable[[], keras.Model]
    reference: Callable[[], torch.nn.Module]
    prefix: str = ""
    sizes: tuple[tuple[int, int], ...] = SIZES
    skip: int = field(default=0)
    """Leading outputs of the reference that are no features: smp's encoders begin with the image."""


def _smp_model(name: str, model: str, backbone: str, *, sizes: tuple = SIZES, output_stride: int | None = None) -> Pair:
    stride = {} if output_stride is None else {"encoder_output_stride": output_stride}

    def reference():
        import segmentation_models_pytorch as smp

        return getattr(smp, name)(backbone, encoder_weights=None, classes=CLASSES, **stride)

    def ours():
        return build_model(model, num_classes=CLASSES, backbone=backbone, output_stride=output_stride, normalization=None)

    at = "" if output_stride is None else f", stride {output_stride}"
    return Pair(f"{model} {backbone}{at} / smp {name}", ours, reference, sizes=sizes)


def _torchvision_model(name: str, auxiliary: bool) -> Pair:
    def reference():
        from torchvision.models import segmentation

        return getattr(segmentation, name)(weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=auxiliary)

    def ours():
        return build_model(name, num_classes=CLASSES, normalization=None, auxiliary=auxiliary)

    return Pair(f"{name}{' with auxiliary head' if auxiliary else ''} / torchvision", ours, reference)


def _backbone(name: str) -> Pair:
    """smp's encoder, timm's features, or torchvision's segmentation backbone, whichever is the reference of that layout."""
    if name.startswith("torchvision_"):

        def reference():
            from torchvision.models import segmentation

            network = getattr(segmentation, f"fcn_{name.removeprefix('torchvision_')}")(weights=None, weights_backbone=None)
            return _LastLevels(network.backbone)

        return Pair(f"{name} / torchvision", lambda: build_backbone(name, output_stride=8), reference, prefix="backbone.")
    if name.startswith(("tf_efficientnet", "legacy_")):

        def reference():
            import timm

            options = {} if name.startswith("legacy_") else {"features_only": True}
            network = timm.create_model(name, pretrained=False, **options)
            return _Intermediates(network) if name.startswith("legacy_") else network

        return Pair(f"{name} / timm", lambda: build_backbone(name), reference, prefix="encoder.")

    def reference():
        import segmentation_models_pytorch as smp

        return smp.encoders.get_encoder(name, weights=None)

    return Pair(f"{name} / smp", lambda: build_backbone(name), reference, prefix="encoder.", skip=0 if "vgg" in name else 1)


class _Intermediates(torch.nn.Module):
    """timm's model, called for its features where it has no features_only."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network.forward_intermediates(x, intermediates_only=True)

    def state_dict(self):
        return {key.removeprefix("network."): value for key, value in super().state_dict().items()}


class _LastLevels(_Intermediates):
    """The level torchvision's segmentation models read, {"out": c5}."""

    def forward(self, x):
        return {"c5": self.network(x)["out"]}


SMP_BACKBONES = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnext50_32x4d",
    "se_resnext50_32x4d",
    "timm-efficientnet-b0",
    "timm-efficientnet-b4",
    "mobilenet_v2",
)
"""On which whole models are compared: the diary's, and one more of each family."""

MODEL_PAIRS = [
    *(_smp_model("Unet", "unet", name) for name in (*SMP_BACKBONES, "vgg16_bn")),
    *(_smp_model("FPN", "fpn", name, sizes=EVEN_SIZES) for name in (*SMP_BACKBONES, "vgg16_bn")),
    *(_smp_model("DeepLabV3", "deeplabv3", name, sizes=EVEN_SIZES, output_stride=8) for name in SMP_BACKBONES),
    *(_smp_model("DeepLabV3Plus", "deeplabv3plus", name, sizes=EVEN_SIZES, output_stride=16) for name in SMP_BACKBONES),
    _smp_model("DeepLabV3Plus", "deeplabv3plus", "resnet50", sizes=EVEN_SIZES, output_stride=8),
    *(
        _torchvision_model(f"{head}_{backbone}", auxiliary)
        for head in ("fcn", "deeplabv3")
        for backbone in ("resnet50", "resnet101")
        for auxiliary in (False, True)
    ),
]
BACKBONE_PAIRS = [_backbone(name) for name in BACKBONES if not name.startswith("keras_cv/")]

ON_JAX = {
    "unet resnet18 / smp Unet",
    "fpn mobilenet_v2 / smp FPN",
    "deeplabv3plus resnext50_32x4d, stride 16 / smp DeepLabV3Plus",
    "deeplabv3_resnet50 with auxiliary head / torchvision",
}
"""Pairs that the tests run on JAX, too: with strided, depthwise, grouped and dilated convolutions, whose gradients there are
partly kseg's own.
"""


def randomise(module: torch.nn.Module) -> torch.nn.Module:
    """Evaluation mode; random parameters and statistics of every normalisation, so that none of them can be swapped unseen."""
    torch.manual_seed(0)
    for layer in module.modules():
        if isinstance(layer, (torch.nn.BatchNorm2d, torch.nn.GroupNorm)):
            torch.nn.init.uniform_(layer.weight, 0.5, 1.0)
            torch.nn.init.uniform_(layer.bias, -0.3, 0.3)
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.running_mean, -0.3, 0.3)
            torch.nn.init.uniform_(layer.running_var, 0.8, 1.5)
        if isinstance(layer, torch.nn.Conv2d) and layer.bias is not None:
            torch.nn.init.uniform_(layer.bias, -0.3, 0.3)
    return module.eval()


def channels_last(x: torch.Tensor) -> np.ndarray:
    return x.detach().permute(0, 2, 3, 1).numpy()


def channels_first(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x).permute(0, 3, 1, 2).contiguous()


def relative_error(found, expected: np.ndarray) -> float:
    """max |found - expected| / max |expected|, printed for `pytest -s`."""
    found = keras.ops.convert_to_numpy(found)
    assert found.shape == expected.shape
    error = float(np.abs(found - expected).max() / np.abs(expected).max())
    print(f"relative error {error:.1e}")
    return error


def make_smooth(reference: torch.nn.Module, model: keras.Model) -> None:
    """Training mode without chance or kinks, on both sides: no dropout, softplus for ReLU, mean for max pools.

    In float32 a unit that is 0 but for rounding falls on either side of ReLU's kink, and of two pooled values that are equal but
    for rounding either may be the largest; one that differs changes the gradient of a kernel on a small map by per cents, however
    right both networks are. Where ReLUs and max pools stand is seen by the evaluation error.
    """
    for module in list(reference.modules()):
        if isinstance(module, (torch.nn.Dropout, torch.nn.Dropout2d)):
            module.p = 0.0
        elif hasattr(module, "drop_prob"):
            module.drop_prob = 0.0
        for name, child in module.named_children():
            if isinstance(child, (torch.nn.ReLU, torch.nn.ReLU6)):
                setattr(module, name, torch.nn.Softplus(beta=4.0))
            elif isinstance(child, torch.nn.MaxPool2d) and not child.ceil_mode:  # ceil_mode's mean pool leaves padding out
                setattr(module, name, torch.nn.AvgPool2d(child.kernel_size, child.stride, child.padding))
    pools = {3: keras.layers.AveragePooling2D(3, 2), 2: keras.layers.AveragePooling2D(2)}
    for layer in model._flatten_layers():
        if isinstance(layer, (keras.layers.Dropout, keras.layers.SpatialDropout2D)):
            layer.rate = 0.0
        elif isinstance(layer, keras.layers.ReLU):
            layer.call = lambda x: keras.ops.softplus(4.0 * x) / 4.0
        elif isinstance(layer, keras.layers.MaxPooling2D) and layer.name != "encoder_layer0_pool":
            layer.call = pools[layer.pool_size[0]].call


def build_pair(pair: Pair) -> tuple[torch.nn.Module, keras.Model]:
    """Both networks with the reference's random weights."""
    reference = randomise(pair.reference())
    model = pair.ours()
    load_torch_weights(model, {f"{pair.prefix}{key}": value for key, value in reference.state_dict().items()})
    return reference, model


def outputs(pair: Pair, reference: torch.nn.Module, images: Any) -> dict[str, torch.Tensor]:
    """The reference's outputs [B, C, h, w] under our names: "logits" and "auxiliary", or the levels."""
    y = reference(images)
    if isinstance(y, torch.Tensor):
        return {"logits": y}
    if isinstance(y, dict):
        return {{"out": "logits", "aux": "auxiliary"}.get(name, name): value for name, value in y.items()}
    y = list(y)[pair.skip :]
    return {f"c{6 - len(y) + i}": value for i, value in enumerate(y)}


def _named(y: Any) -> dict[str, Any]:
    return y if isinstance(y, dict) else {"logits": y}


def evaluation_error(pair: Pair, reference: torch.nn.Module, model: keras.Model, size: tuple[int, int]) -> float:
    """The largest relative error of the logits, or of any level's features, in evaluation mode."""
    images = np.random.default_rng(0).normal(size=(1, *size, 3)).astype("float32")
    reference.eval()
    with torch.no_grad():
        expected = outputs(pair, reference, channels_first(images))
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


def training_errors(pair: Pair, reference: torch.nn.Module, model: keras.Model, size=(64, 96), batch: int = 4) -> TrainingErrors:
    """One forward and backward pass in training mode on both sides, dropout off.

    The loss is cross entropy with ignored pixels for whole models (plus the auxiliary head's), and a random weighted sum of
    squares of all features for backbones (all terms positive, so that the sum does not cancel).
    """
    make_smooth(reference, model)
    generator = np.random.default_rng(1)
    images = generator.normal(size=(batch, *size, 3)).astype("float32")
    # Images of different brightness: batch norm of pooled values that hardly differ would divide rounding by rounding.
    images += np.linspace(-2, 2, batch, dtype="float32")[:, None, None, None]
    labels = generator.integers(0, CLASSES, (batch, *size))
    labels[:, :8] = 255

    reference.train()
    for parameter in reference.parameters():
        parameter.grad = None
    expected = outputs(pair, reference, channels_first(images))
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

    found_loss, gradients, statistics = _gradients(model, images, loss)
    # The reference's gradients and statistics, read into our variables as if they were weights, are laid out as ours.
    state = {key: value for key, value in reference.state_dict().items()}
    state |= {
        key.removeprefix("network."): torch.zeros_like(p) if p.grad is None else p.grad for key, p in reference.named_parameters()
    }
    load_torch_weights(model, {f"{pair.prefix}{key}": value for key, value in state.items()})
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


def _gradients(model: keras.Model, images: np.ndarray, loss: Callable) -> tuple[float, dict, dict]:
    """(loss, gradients by path, non-trainable variables after the step by path) on JAX or torch."""
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
    gradients, state = ([keras.ops.convert_to_numpy(x) for x in values] for values in (gradients, state))
    return (
        float(value.item()),
        {v.path: x for v, x in zip(trainable, gradients, strict=True)},
        {v.path: x for v, x in zip(rest, state, strict=True) if "seed" not in v.path},
    )
