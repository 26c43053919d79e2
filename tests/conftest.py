"""What all tests share. The backend is JAX unless KERAS_BACKEND says otherwise; test_backends.py runs files again on the others."""

import os
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent


def declare_torchvision_ops() -> None:
    """Lets `import torchvision` succeed beside a CPU-only torch, where its compiled operators cannot load.

    timm and segmentation_models_pytorch import torchvision and call none of these operators.
    """
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        declare_torchvision_ops.library = library  # the declarations live as long as this object


@pytest.fixture(scope="session")
def smp():
    """segmentation_models_pytorch, the peer whose numbers ours must match."""
    declare_torchvision_ops()
    import segmentation_models_pytorch

    return segmentation_models_pytorch


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with the real data sets camvid and facade: $KSEG_SHARED/data, or ../shared/data beside the checkout."""
    path = Path(os.environ.get("KSEG_SHARED", ROOT.parent / "shared")) / "data"
    if not path.is_dir():
        pytest.skip(f"the real data sets are not at {path}; set KSEG_SHARED to the folder that holds data/camvid and data/facade")
    return path


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(0)
