"""What test_contract.py runs in processes of their own, one a backend: python contract.py build|predict DIR.

build: makes the models of CASES with random weights, writes them to DIR as .keras files with their logits, and, to
gradients.json, which variables get no gradient. predict: loads the files and writes the logits of this backend.
"""

import json
import sys
from pathlib import Path

import keras
import numpy as np

from kseg import load_model
from kseg.losses import CrossEntropy
from kseg.models.build import build_model

SMALL_FC = {"fc_filters": 32}
CASES = {
    "fcn32s": ("vgg11", SMALL_FC),
    "fcn16s": ("vgg13_bn", SMALL_FC),
    "fcn8s": ("mobilenet_v2", SMALL_FC),
    "segnet": ("vgg11_bn", {}),
    "unet": ("tf_efficientnet_b0", {}),
    "fpn": ("timm-efficientnet-b0", {}),
    "deeplabv3": ("resnet18", {}),
    "deeplabv3plus": ("legacy_seresnext50_32x4d", {}),
    "fcn_resnet50": (None, {"auxiliary": True}),
    "fcn_resnet101": ("torchvision_resnet50", {}),
    "deeplabv3_resnet50": (None, {}),
    "deeplabv3_resnet101": ("torchvision_resnet50", {"auxiliary": True}),
    "fcn32s on resnet_v2": ("keras_cv/resnet18_v2", SMALL_FC),
    "fcn16s on resnet": ("keras_cv/resnet18", SMALL_FC),
    "fcn8s on densenet": ("keras_cv/densenet121", SMALL_FC),
    "fcn16s on mix_transformer": ("keras_cv/mit_b0", SMALL_FC),
    "fcn32s on csp_darknet": ("keras_cv/csp_darknet_tiny", SMALL_FC),
    "fcn16s on mobilenet_v3": ("keras_cv/mobilenet_v3_small", SMALL_FC),
    "fpn on efficientnet_v1": ("keras_cv/efficientnetv1_b0", {}),
    "fpn on efficientnet_v2": ("keras_cv/efficientnetv2_b0", {}),
    "unet on keras_cv's vgg": ("keras_cv/vgg16", {"decoder_channels": (32, 16, 16, 8, 8)}),
}
"""Each model, and each family of backbones: (backbone, options) by the model's name and a remark."""


def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, 65, 49, 3), dtype="uint8")


def logits(model: keras.Model) -> np.ndarray:
    found = model.predict_on_batch(images())
    return np.stack([found[name] for name in sorted(found)]) if isinstance(found, dict) else found


def randomise(model: keras.Model) -> None:
    """What begins as a constant (biases, statistics, zero scores) would hide mistakes."""
    generator = np.random.default_rng(1)
    for variable in model.variables:
        value = keras.ops.convert_to_numpy(variable)
        if value.ndim and np.ptp(value) == 0 and "seed" not in variable.path:
            variable.assign(value + generator.uniform(0.05, 0.3, value.shape).astype(value.dtype))


def without_gradient(model: keras.Model) -> list[str]:
    """Paths of trainable variables whose gradient is zero (torch backend)."""
    for variable in model.trainable_variables:
        variable.value.grad = None
    found = model(np.random.default_rng(2).integers(0, 256, (4, 64, 64, 3)), training=True)
    labels = np.random.default_rng(3).integers(0, 3, (4, 64, 64))
    sum(CrossEntropy()(labels, y) for y in (found.values() if isinstance(found, dict) else [found])).backward()
    gradients = {v.path: v.value.grad for v in model.trainable_variables}
    return [path for path, gradient in gradients.items() if gradient is None or not gradient.any()]


def main(mode: str, folder: Path) -> None:
    backend = keras.backend.backend()
    missing = {}
    for name, (backbone, options) in CASES.items():
        path = folder / f"{name}.keras"
        if mode == "build":
            keras.utils.set_random_seed(0)
            model = build_model(name.split()[0], num_classes=3, backbone=backbone, **options)
            randomise(model)
            np.save(folder / f"{name}.built.npy", logits(model))
            model.save(path)
            missing[name] = without_gradient(model)
        else:
            model = load_model(path)
            np.save(folder / f"{name}.{backend}.npy", logits(model))
    if mode == "build":
        (folder / "gradients.json").write_text(json.dumps(missing))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
