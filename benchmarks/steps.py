"""The steps that are timed: training and inference of kseg on JAX, and of segmentation_models_pytorch (smp) or transformers on
torch.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.common import ROOT

NETWORKS = ("deeplabv3plus/resnet50", "deeplabv3plus/resnext50_32x4d", "unet/tf_efficientnet_b0")
"""The networks of the tables, MODEL/BACKBONE."""
LINEAR = "linear"
"""In place of a model's name: the backbone itself, with a 1x1 convolution on c5 that gives the logits."""
SMP_MODELS = {
    "deeplabv3plus": "DeepLabV3Plus", "deeplabv3": "DeepLabV3", "unet": "Unet", "unetplusplus": "UnetPlusPlus", "manet": "MAnet",
    "linknet": "Linknet", "fpn": "FPN", "pspnet": "PSPNet", "pan": "PAN", "upernet": "UPerNet", "segformer": "Segformer",
}  # fmt: skip
LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class Work:
    """The work of every worker. kind: "step" (training) or "infer"; network: MODEL/BACKBONE; precision: float32 or bfloat16;
    form: of the network, smp or transformers.
    """

    kind: str
    network: str
    batch_size: int
    image_size: int
    num_classes: int = 12
    precision: str = "float32"
    form: str = "smp"

    def batch(self) -> tuple[Any, Any]:
        """Returns random images uint8 [B, H, W, 3] and labels uint8 [B, H, W] in host memory."""
        import numpy as np

        rng = np.random.default_rng(0)
        shape = (self.batch_size, self.image_size, self.image_size)
        return rng.integers(0, 256, (*shape, 3), dtype="uint8"), rng.integers(0, self.num_classes, shape, dtype="uint8")


@dataclass(frozen=True)
class Step:
    """A step ready to run: `launch` starts one, `wait` returns when all of them are done. facts: for the result file."""

    launch: Callable[[], None]
    wait: Callable[[], None]
    facts: dict[str, Any]


def compiled_model(name: str, backbone: str, num_classes: int, *, metric: bool = True, **options: Any) -> Any:
    """Returns kseg's model, compiled as in a run: Adam, cross entropy, confusion matrix."""
    import keras

    import kseg
    from kseg.training.optimizers import build_optimizer

    keras.utils.set_random_seed(0)
    if name == LINEAR:
        _register_linear()
    model = kseg.build_model(name, num_classes=num_classes, backbone=backbone, **options)
    metrics = [kseg.ConfusionMatrix(num_classes)] if metric else []
    model.compile(
        build_optimizer("adam", learning_rate=LEARNING_RATE, weight_decay=0.0), loss=kseg.CrossEntropy(), metrics=metrics
    )
    return model


def _register_linear() -> None:
    """Registers LINEAR as a model, in the process that measures only."""
    import keras

    from kseg.models.registry import MODELS, register_model

    if LINEAR in MODELS:
        return

    @register_model(backbone="resnet50", output_stride=32, levels=("c5",), align_corners=False)
    def linear(features, *, num_classes):
        return keras.layers.Conv2D(num_classes, 1, name="head")(features["c5"])


def _torch_linear(encoder: str, classes: int, image_size: int, *, fused: bool) -> Any:
    """Returns smp's encoder with the head of LINEAR. fused: MobileOne's form for inference."""
    sized = {"img_size": image_size} if "swin" in encoder else {}  # Swin is built for one size there
    import segmentation_models_pytorch as smp
    import torch
    from segmentation_models_pytorch.encoders.mobileone import reparameterize_model

    class Linear(torch.nn.Module):
        def __init__(self):
            super().__init__()
            built = smp.encoders.get_encoder(encoder, weights=None, **sized)
            self.encoder = reparameterize_model(built) if fused else built
            self.head = torch.nn.Conv2d(self.encoder.out_channels[-1], classes, 1)

        def forward(self, x):
            return torch.nn.functional.interpolate(self.head(self.encoder(x)[-1]), x.shape[2:], mode="bilinear")

    return Linear()


def _transformers(name: str, backbone: str, classes: int) -> Any:
    """Returns the model of transformers, with kseg's default width of the decoder and logits in the size of the images."""
    import tiny_transformers

    from kseg.models.options import known_options

    channels = known_options(name)["decoder_channels"] or 512
    return tiny_transformers.with_full_size_logits(tiny_transformers.reference(backbone, classes=classes, channels=channels))


def planned_mb(step: Any) -> float | None:
    """Returns the MB that XLA plans for a compiled step: arguments, results that do not replace them, and temporary values.
    None where XLA does not say.
    """
    plan = step.memory_analysis()
    if plan is None:
        return None
    total = plan.argument_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes + plan.temp_size_in_bytes
    return total / 2**20


def kseg_step(work: Work) -> Step:
    """Returns kseg's step on JAX: Keras's own training step with its state donated, or the jitted forward pass to logits."""
    import jax
    import keras

    import kseg
    from kseg.runtime.memory import jitted_step
    from kseg.training.flops import count_flops

    keras.config.set_dtype_policy("mixed_bfloat16" if work.precision == "bfloat16" else "float32")
    images, labels = work.batch()
    name, backbone = work.network.split("/", 1)
    model = compiled_model(name, backbone, work.num_classes, **({} if work.form == "smp" else {"form": work.form}))
    facts = {
        "flops": count_flops(model, images.shape[1:3]),
        "parameters": sum(math.prod(v.shape) for v in model.trainable_variables),
    }
    if work.kind == "step":
        step, (state, _) = jitted_step(model, images, labels)
        compiled = step.lower(state, (images, labels)).compile()

        def launch():
            nonlocal state
            _, state = compiled(state, (images, labels))

        facts["plan_mb"] = planned_mb(compiled)
        return Step(launch, lambda: jax.block_until_ready(state), facts)
    apply, params, variables = kseg.functionalize(model)
    for variable in model.variables:  # functionalize copied them; both would count as the step's memory
        variable.value.delete()
    compiled = jax.jit(lambda *arguments: apply(*arguments)[0]).lower(params, variables, images).compile()
    logits = None

    def predict():
        nonlocal logits
        logits = compiled(params, variables, images)

    facts["plan_mb"] = planned_mb(compiled)
    return Step(predict, lambda: jax.block_until_ready(logits), facts)


def torch_step(work: Work, *, compiled: bool = False) -> Step:
    """Returns smp's or transformers' step on torch, on the GPU if there is one: channels_last, Adam, cross entropy.

    Normalisation is on the device. compiled: torch.compile from raw images to the loss or the logits. bfloat16 runs under
    autocast. On a GPU the baseline uses cudnn.benchmark, TF32 and fused Adam.
    """
    sys.path.insert(0, str(ROOT / "tests"))
    from torchvision_ops import declare_torchvision_ops

    declare_torchvision_ops()
    import segmentation_models_pytorch as smp
    import torch

    from kseg.models.backbones.registry import name_in

    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = True
        torch.set_float32_matmul_precision("high")
    name, backbone = work.network.split("/", 1)
    if work.form == "transformers":
        model = _transformers(name, backbone, work.num_classes)
    elif name == LINEAR:
        encoder = name_in("smp", backbone.removesuffix("_fused"))
        model = _torch_linear(encoder, work.num_classes, work.image_size, fused=backbone.endswith("_fused"))
    else:
        encoder = name_in("smp", backbone)
        model = getattr(smp, SMP_MODELS[name])(encoder, encoder_weights=None, classes=work.num_classes)
    # PyTorch on a CPU crashes in the gradient of MobileOne's trained form in channels_last.
    crashes = device == "cpu" and backbone.startswith("mobileone") and not backbone.endswith("_fused")
    layout = torch.contiguous_format if crashes else torch.channels_last
    model = model.to(device, memory_format=layout).train(work.kind == "step")
    loss = torch.nn.CrossEntropyLoss(ignore_index=255)
    mean, std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    images, labels = (torch.from_numpy(array) for array in work.batch())
    if device == "cuda":
        images, labels = images.pin_memory(), labels.pin_memory()

    def forward(raw):
        x = ((raw.permute(0, 3, 1, 2).float() / 255 - mean) / std).contiguous(memory_format=layout)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=work.precision == "bfloat16"):
            return model(x)

    def objective(raw, label):
        return loss(forward(raw).float(), label.long())

    call: Callable[..., Any] = objective if work.kind == "step" else forward
    if compiled:
        call = torch.compile(call, dynamic=False)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True if device == "cuda" else None)

    def train():
        optimizer.zero_grad(set_to_none=True)
        call(images.to(device, non_blocking=True), labels.to(device, non_blocking=True)).backward()
        optimizer.step()

    def predict():
        with torch.inference_mode():
            call(images.to(device, non_blocking=True)).float()

    def wait():
        if device == "cuda":
            torch.cuda.synchronize()

    return Step(train if work.kind == "step" else predict, wait, {"parameters": sum(p.numel() for p in model.parameters())})
