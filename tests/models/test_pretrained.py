"""Pretrained weights: the table against smp's and timm's, files, and the download against a server on this machine that speaks
what huggingface_hub asks for.
"""

import re
import zipfile

import h5py
import keras
import numpy as np
import pytest
import torch
from baselines import randomise
from cases import BACKBONES
from hub_server import COMMIT, serve, use_hub
from safetensors.numpy import save_file

from kseg.models.backbones import registry
from kseg.models.build import build_backbone, build_model
from kseg.models.channels import channel_statistics
from kseg.models.hub_files import download
from kseg.models.pretrained import find_weights
from kseg.utils.errors import KsegError

# --- The table ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in BACKBONES if not name.startswith("keras_cv/")])
def test_the_table_is_smps_or_else_timms(smp, name):
    import timm  # smp's fixture makes torchvision importable

    found = {tag: (hub.repo, hub.revision) for tag, hub in registry.BACKBONES[name].info["weights"].items()}
    tables = [encoder["pretrained_settings"] for encoder in smp.encoders.encoders.values()]
    repositories = {repository for repository, _ in found.values()}
    if theirs := [table for table in tables if repositories & {facts["repo_id"] for facts in table.values()}]:
        expected = {tag.replace("-", "_"): (facts["repo_id"], facts["revision"]) for tag, facts in theirs[0].items()}
    else:
        config = timm.models.get_pretrained_cfg(registry.name_in("timm", name))
        expected = {"imagenet": (config.hf_hub_id, None)} if config.has_weights else {}
    assert found == expected


TIMMS_TAGS = {
    "imagenet": "in1k", "noisy_student": "ns_jft_in1k", "advprop": "ap_in1k", "ssl": "fb_ssl_yfcc100m_ft_in1k",
    "swsl": "fb_swsl_ig1b_ft_in1k", "instagram": "fb_wsl_ig1b_ft_in1k",
}  # fmt: skip


def test_mean_and_std_are_timms(smp):
    import timm

    compared = 0
    for name in BACKBONES:
        for tag, hub in registry.BACKBONES[name].info["weights"].items():
            # All forms of EfficientNet have the same weights.
            timms = registry.name_in("timm", name) or re.sub("^(timm-)?efficientnet-", "tf_efficientnet_", name)
            configs = timm.models.get_arch_pretrained_cfgs(timms).values() if timm.is_model(timms) else ()
            known = {config.tag: config for config in configs}
            tags = (hub.repo.rpartition(".")[2], TIMMS_TAGS[tag], "tv_in1k", "aa_in1k", "tf_in1k")
            config = next((known[tag] for tag in tags if tag in known), None)
            if config is not None:
                assert (hub.mean, hub.std) == (config.mean, config.std), (name, tag)
                compared += 1
    assert compared > 70


# --- Downloads -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with serve(monkeypatch, tmp_path / "cache") as server:
        yield server


@pytest.fixture(scope="module")
def weights(smp) -> dict[str, np.ndarray]:
    """A state_dict of resnet18 with a classifier."""
    state = randomise(smp.encoders.get_encoder("resnet18", weights=None)).state_dict()
    classifier = {"fc.weight": np.zeros((5, 512), "float32"), "fc.bias": np.zeros(5, "float32")}
    return {key: value.numpy() for key, value in state.items()} | classifier


@pytest.fixture(scope="module")
def safetensors(weights, tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file(weights, path)
    return path.read_bytes()


def kernel(model: keras.Model) -> np.ndarray:
    return model.get_layer("encoder_conv1").get_weights()[0].transpose(3, 2, 0, 1)


def cached(tmp_path):
    """Files of more than a reference's size in the cache."""
    files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.name != "CACHEDIR.TAG"]
    return [path for path in files if path.stat().st_size > 64]


@pytest.mark.slow
def test_a_tag_is_downloaded_once_and_fills_the_backbone(hub, weights, safetensors):
    hub.files["smp-hub/resnet18.imagenet", "model.safetensors"] = safetensors
    for _ in range(2):
        # The table's revision is not this server's commit: only with the commit itself could the cache answer alone.
        model = build_backbone("resnet18", weights="imagenet")
        np.testing.assert_array_equal(kernel(model), weights["conv1.weight"])
        np.testing.assert_array_equal(
            model.get_layer("encoder_layer4_1_bn2").get_weights()[3], weights["layer4.1.bn2.running_var"]
        )
    assert hub.downloads == 1
    hub.status = (503, "")
    assert download("smp-hub/resnet18.imagenet", COMMIT, "model.safetensors").read_bytes() == safetensors


def test_a_truncated_download_leaves_nothing_behind(hub, safetensors, tmp_path):
    hub.files["o/r", "model.safetensors"], hub.lie = safetensors, safetensors[: len(safetensors) // 2]
    with pytest.raises(
        KsegError, match=r"cannot fetch the weights o/r, revision main, file model.safetensors: the download failed"
    ):
        find_weights("resnet18", "hf://o/r")
    assert not cached(tmp_path)
    hub.lie = None
    find_weights("resnet18", "hf://o/r")


def test_a_download_with_another_hash_is_removed(hub, safetensors, tmp_path):
    hub.files["o/r", "model.safetensors"], hub.lie = safetensors, safetensors[:-4] + b"evil"
    with pytest.raises(KsegError, match="the downloaded file differs from the Hub's hash and was removed") as error:
        find_weights("resnet18", "hf://o/r")
    assert "\n" not in str(error.value)
    assert "--backbone_weights=FILE" in str(error.value)
    assert not cached(tmp_path)


def test_a_cached_file_that_was_damaged_is_fetched_again(hub, safetensors):
    hub.files["o/r", "model.safetensors"] = safetensors
    path = download("o/r", COMMIT, "model.safetensors")
    path.resolve().write_bytes(safetensors[:100])
    assert download("o/r", COMMIT, "model.safetensors").read_bytes() == safetensors
    path.resolve().write_bytes(safetensors[:100])
    hub.status = (503, "")
    with pytest.raises(KsegError, match="cannot fetch the weights o/r, revision a"):
        download("o/r", COMMIT, "model.safetensors")
    assert not path.exists()


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ((401, "GatedRepo"), "access to it is restricted"),
        ((403, "GatedRepo"), "access to it is restricted"),
        ((401, "RepoNotFound"), "there is no such repository, or it is private"),
        ((404, "RepoNotFound"), "there is no such repository, or it is private"),
        ((404, "RevisionNotFound"), "the repository has no such revision"),
        ((404, "EntryNotFound"), "the repository has no such file"),
    ],
)
def test_refusals_of_the_hub(hub, status, reason):
    hub.status = status
    with pytest.raises(KsegError, match=reason) as error:
        build_backbone("resnet18", weights="imagenet")
    assert "smp-hub/resnet18.imagenet, revision 3f2325ff978283d47aa6a1d6878ca20565622683, file model.safetensors" in str(
        error.value
    )
    assert "\n" not in str(error.value)


def test_no_server_at_all(monkeypatch, tmp_path):
    use_hub(monkeypatch, "http://127.0.0.1:9", tmp_path)
    with pytest.raises(KsegError, match=r"the download failed \(ConnectionRefusedError.*models--smp-hub--vgg11.imagenet"):
        find_weights("vgg11", "imagenet")


@pytest.mark.slow
def test_a_repository_by_its_address(hub, weights, safetensors):
    hub.files["o/r", "weights-v2.safetensors"] = safetensors
    hub.files["o/r", "config.json"] = b'{"pretrained_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.5, 0.5, 0.5]}}'
    model = build_model("fpn", num_classes=2, backbone="resnet18", backbone_weights="hf://o/r@v1")
    assert model.get_layer("normalize").mean == (0.5, 0.4, 0.3)
    model = build_model("fpn", num_classes=2, backbone="resnet18", backbone_weights="hf://o/r@v1", normalization="imagenet")
    assert model.get_layer("normalize").mean == (0.485, 0.456, 0.406)
    np.testing.assert_array_equal(kernel(model.get_layer("backbone")), weights["conv1.weight"])
    hub.files["o/r", "second.safetensors"] = safetensors
    with pytest.raises(
        KsegError, match=r"hf://o/r has several safetensors files, only second.safetensors, weights-v2.safetensors"
    ):
        find_weights("resnet18", "hf://o/r")
    hub.files["o/pickles", "pytorch_model.bin"] = b"x"
    with pytest.raises(KsegError, match=r"hf://o/pickles has no safetensors file, only pytorch_model.bin"):
        find_weights("resnet18", "hf://o/pickles")


def test_a_licence_that_is_not_free_is_printed_once(hub, capsys):
    hub.files["smp-hub/mit_b0.imagenet", "model.safetensors"] = b"read when the backbone is filled"
    for _ in range(2):
        find_weights("mit_b0", "imagenet")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("note: the weights smp-hub/mit_b0.imagenet are under the NVIDIA Source Code License")


# --- Tags, files, normalisation -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backbone", "weights", "message"),
    [
        (
            "resnet18",
            "imagenett",
            "resnet18 has no weights 'imagenett'; it has imagenet, ssl, swsl; or pass none, a file, or hf://",
        ),
        ("timm-efficientnet-b4", "jft", "it has imagenet, advprop, noisy_student"),
        ("resnet18", "hf://only-a-name", "hf://only-a-name: expected hf://owner/repo or hf://owner/repo@revision"),
        ("resnet18", "no/such.pth", "no/such.pth: no such file"),
    ],
)
def test_weights_that_are_not_there(backbone, weights, message):
    with pytest.raises(KsegError, match=message):
        find_weights(backbone, weights)


def test_advprop_brings_its_own_mean_and_std_unless_told_otherwise(hub):
    hub.files["smp-hub/timm-efficientnet-b0.advprop", "model.safetensors"] = b"read when the backbone is filled"
    for backbone in ("timm-efficientnet-b0", "tf_efficientnet_b0"):  # the two forms take the same file
        found = find_weights(backbone, "advprop")
        assert (found.mean, found.std) == ((0.5,) * 3, (0.5,) * 3)


@pytest.mark.slow
def test_files_of_pytorch(weights, tmp_path):
    tensors = {key: torch.from_numpy(value) for key, value in weights.items()}
    whole = {f"encoder.{key}": value for key, value in tensors.items()} | {"decoder.block.weight": torch.zeros(3)}
    torch.save(whole, tmp_path / "whole_model.pth")
    save_file(weights, tmp_path / "w.safetensors")
    for name in ("whole_model.pth", "w.safetensors"):
        np.testing.assert_array_equal(kernel(build_backbone("resnet18", weights=tmp_path / name)), weights["conv1.weight"])
    with pytest.raises(KsegError, match=r"w.safetensors: the checkpoint has no weights for .*; wrong model or backbone"):
        build_backbone("resnet34", weights=str(tmp_path / "w.safetensors"))
    with pytest.raises(KsegError, match="keras_cv/resnet18 takes no PyTorch weights"):
        build_backbone("keras_cv/resnet18", weights=tmp_path / "w.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "keras_cv/mobilenet_v3_small"])
def test_files_of_keras(name, tmp_path):
    normalization = ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    trained = build_model("fpn", num_classes=2, backbone=name, normalization=normalization)
    trained.save(tmp_path / "model.keras")
    trained.get_layer("backbone").save_weights(tmp_path / "b.weights.h5")
    expected = trained.get_layer("backbone").get_weights()
    model = build_model("fpn", num_classes=5, backbone=name, backbone_weights=tmp_path / "model.keras")
    assert (model.get_layer("normalize").mean, model.get_layer("normalize").std) == normalization
    for found in (model.get_layer("backbone"), build_backbone(name, weights=tmp_path / "b.weights.h5")):
        for ours, theirs in zip(found.get_weights(), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(KsegError, match=r"model.keras: has a different backbone"):
        build_backbone("resnet34", weights=tmp_path / "model.keras")
    with pytest.raises(KsegError, match=r"b.weights.h5: not the weights of this backbone"):
        build_backbone("resnet34", weights=tmp_path / "b.weights.h5")


@pytest.mark.slow
def test_hostile_files_of_keras_are_refused(tmp_path):
    backbone = build_backbone("resnet18")
    backbone.save(tmp_path / "leaving.keras")
    with zipfile.ZipFile(tmp_path / "leaving.keras", "a") as archive:
        archive.writestr("../outside", b"0")
    backbone.save_weights(tmp_path / "other.weights.h5")
    (tmp_path / "secret").write_bytes(bytes(64 * 4))
    with h5py.File(tmp_path / "other.weights.h5", "a") as file:
        group = file["layers/batch_normalization/vars"]
        del group["0"]
        group.create_dataset("0", (64,), "f4", external=[(str(tmp_path / "secret"), 0, 64 * 4)])
    (tmp_path / "text.keras").write_text("text")
    for name, message in (
        ("leaving.keras", "holds a file '../outside', which leads out of it"),
        ("other.weights.h5", "not the weights of this backbone .*: Not allowed: H5 file"),
        ("text.keras", "not a .keras model file, or a damaged one"),
    ):
        with pytest.raises(KsegError, match=f"{name}: {message}") as error:
            build_backbone("resnet18", weights=tmp_path / name)
        assert "\n" not in str(error.value)


# --- Images that are not RGB ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 2, 4])
def test_the_first_convolution_is_adapted_as_smps(smp, channels, weights, tmp_path):
    from segmentation_models_pytorch.encoders._utils import patch_first_conv

    reference = torch.nn.Sequential(torch.nn.Conv2d(3, 64, 7, bias=False))
    reference[0].weight.data = torch.from_numpy(weights["conv1.weight"])
    patch_first_conv(reference, channels, pretrained=True)
    save_file(weights, tmp_path / "w.safetensors")
    model = build_backbone("resnet18", weights=tmp_path / "w.safetensors", input_shape=(None, None, channels))
    np.testing.assert_allclose(kernel(model), reference[0].weight.detach().numpy(), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "csp_darknet_tiny"])  # the latter sees four pixels' channels at once
def test_keras_cvs_first_convolution_is_adapted(rng, name):
    from kseg.models.backbones import keras_cv, keras_cv_tables

    family, _ = keras_cv_tables.BACKBONES[name]
    keras.utils.set_random_seed(1)
    theirs = keras_cv.keras_cv_model(name)
    rgb, doubled = (
        keras_cv.convert(lambda: theirs, family, input_shape=(None, None, channels), copy_weights=True) for channels in (3, 6)
    )
    images = rng.normal(size=(1, 64, 64, 3)).astype("float32")
    expected = rgb.predict_on_batch(images)["c5"]
    np.testing.assert_allclose(doubled.predict_on_batch(np.tile(images, 2))["c5"], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_normalisation_of_other_channels():
    mean, std = (0.1, 0.2, 0.6), (0.3, 0.3, 0.6)
    assert channel_statistics(mean, std, 3) == (mean, std)
    assert channel_statistics(mean, std, 1) == ((pytest.approx(0.3),), (pytest.approx(0.4),))
    assert channel_statistics(mean, std, 4) == ((0.1, 0.2, 0.6, 0.1), (0.3, 0.3, 0.6, 0.3))
    assert channel_statistics((0.5,) * 4, (1.0,) * 4, 4) == ((0.5,) * 4, (1.0,) * 4)
    with pytest.raises(KsegError, match="normalization has 2 means and 2 stds, the images have 4 channels"):
        channel_statistics((0.5,) * 2, (1.0,) * 2, 4)
    model = build_model("fpn", num_classes=2, backbone="resnet18", input_shape=(None, None, 4))
    assert model.get_layer("normalize").std == (0.229, 0.224, 0.225, 0.229)
    assert model.output.shape == (None, None, None, 2)
