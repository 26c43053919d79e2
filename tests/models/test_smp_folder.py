"""Folders that segmentation_models.pytorch saved: they open, start a run, and go back to smp with the same numbers."""

import json

import numpy as np
import pytest
import torch
from baselines import randomise
from tiny_model import flags as conv_flags

import kseg
from kseg import convert, train
from kseg.config import TrainConfig
from kseg.inference.source import find_source
from kseg.models.model_folder import find_model_folder
from kseg.models.options import known_options
from kseg.models.registry import MODELS
from kseg.models.smp_config import ARCHITECTURES, smp_config, smp_info
from kseg.utils.errors import KsegError

NORMALIZATION = (np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225]))


def logits_of(network, images):
    """smp's logits [B, H, W, C] of images uint8 [B, H, W, 3]."""
    mean, std = NORMALIZATION
    values = torch.tensor(((images / 255 - mean) / std).transpose(0, 3, 1, 2), dtype=torch.float32)
    with torch.inference_mode():
        return network.eval()(values).permute(0, 2, 3, 1).numpy()


def assert_close(found, expected):
    assert np.abs(np.asarray(found) - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (1, 64, 96, 3), dtype="uint8")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("Unet", {"decoder_attention_type": "scse", "encoder_depth": 4, "decoder_channels": (32, 16, 16, 16)}, "unet"),
        ("FPN", {"decoder_merge_policy": "cat", "decoder_dropout": 0.1}, "fpn"),
        ("PSPNet", {"psp_out_channels": 64}, "pspnet"),
        ("DeepLabV3Plus", {"encoder_output_stride": 8, "decoder_atrous_rates": (6, 12, 18)}, "deeplabv3plus"),
    ],
)
def test_a_saved_folder_opens_by_itself(smp, tmp_path, images, kind, options, expected):
    network = randomise(getattr(smp, kind)("resnet18", encoder_weights=None, classes=3, **options))
    network.save_pretrained(tmp_path / "smp")
    segmenter = kseg.load(tmp_path / "smp")
    assert segmenter.title == f"{expected} on resnet18"
    assert segmenter.class_names == ("class 0", "class 1", "class 2")
    assert_close(segmenter.model.predict(images, verbose=0), logits_of(network, images))
    source = find_source(str(tmp_path / "smp"))
    assert (source.class_names, source.image_size) == (None, None)  # smp records neither


@pytest.mark.slow
def test_one_class_becomes_two_and_goes_back(smp, tmp_path, images):
    network = randomise(smp.Unet("resnet18", encoder_weights=None, classes=1, decoder_channels=(16, 16, 8, 8, 8)))
    network.save_pretrained(tmp_path / "smp")
    segmenter = kseg.load(tmp_path / "smp", image_size=64)
    found = segmenter.model.predict(images, verbose=0)
    expected = logits_of(network, images)
    assert (found[..., 0] == 0).all()
    assert_close(found[..., 1:], expected)
    segmenter.save(tmp_path / "m.keras")
    convert.main(["kseg.convert", "--to=smp", f"--checkpoint={tmp_path / 'm.keras'}", f"--output={tmp_path / 'back'}"])
    again = smp.from_pretrained(str(tmp_path / "back"))
    assert json.loads((tmp_path / "back/config.json").read_text())["classes"] == 1
    for key, value in network.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            assert value.numpy().tobytes() == again.state_dict()[key].numpy().tobytes(), key


@pytest.mark.slow
def test_the_way_back_has_the_options(smp, tmp_path, images, capsys):
    options = {"depth": 3, "decoder_channels": (32, 16, 16), "attention": "scse", "norm": "none", "interpolation": "bilinear"}
    segmenter = kseg.Segmenter("unetplusplus", class_names=["a", "b", "c"], backbone="resnet18", backbone_weights=None,
                               model_options=options)  # fmt: skip
    segmenter.save(tmp_path / "m.keras", image_size=64)
    command = ["kseg.convert", "--to=smp", f"--checkpoint={tmp_path / 'm.keras'}", f"--output={tmp_path / 'smp'}"]
    convert.main(command)
    assert "mean (0.485, 0.456, 0.406), std (0.229, 0.224, 0.225)" in capsys.readouterr().out
    network = smp.from_pretrained(str(tmp_path / "smp"))
    assert type(network).__name__ == "UnetPlusPlus"
    assert_close(segmenter.model.predict(images, verbose=0), logits_of(network, images))
    with pytest.raises(KsegError, match="exists; name another file, or pass --overwrite"):
        convert.main(command)
    convert.main([*command, "--overwrite"])
    (tmp_path / "other").mkdir()
    with pytest.raises(KsegError, match="is no folder of smp's, so it is not replaced"):
        convert.main([*command[:-1], f"--output={tmp_path / 'other'}", "--overwrite"])
    assert kseg.load(tmp_path / "smp").model.count_params() == segmenter.model.count_params()


@pytest.mark.slow
def test_a_run_starts_from_a_folder(smp, tiny_coco, tmp_path, capsys):
    smp.FPN("resnet18", encoder_weights=None, classes=4, decoder_segmentation_channels=32).save_pretrained(tmp_path / "smp")
    words = [word for word in conv_flags(tiny_coco, tmp_path / "run", "--epochs=1") if not word.startswith("--model")]
    train.main([*words, f"--init={tmp_path / 'smp'}", "--image_size=32x48"])
    assert "\nloaded  all " in capsys.readouterr().out
    config = TrainConfig.from_json((tmp_path / "run" / "config.json").read_text())
    assert (config.model, config.backbone, config.model_options) == ("fpn", "resnet18", "segmentation_channels=32")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"_model_class": "DPT"}, "the class 'DPT', which kseg does not have"),
        ({"encoder_name": "dpn68"}, "has smp's encoder 'dpn68', which kseg does not have"),
        ({"decoder_use_norm": "layernorm"}, "decoder_use_norm=layernorm, which kseg lacks; it has batch norm, or none"),
        ({"decoder_use_norm": {"type": "batchnorm", "eps": 0.1}}, "which kseg lacks"),
        ({"later_option": 3}, "has smp's option later_option=3, which kseg's unet lacks"),
        ({"classes": 10**6}, "expected 1 to 255"),
        ({"classes": "3"}, "expected 1 to 255"),
        ({"decoder_channels": [10**9] * 5}, "must be 1 to 16 numbers from 1 to 4096"),
        ({"decoder_interpolation": "area"}, "interpolation='area': must be 'nearest' or 'bilinear'"),
    ],
)
def test_what_kseg_lacks_is_named(smp, tmp_path, changes, says):
    smp.Unet("resnet18", encoder_weights=None, decoder_channels=(8, 8, 8, 8, 8)).save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**content, **changes}))
    with pytest.raises(KsegError, match=says) as error:
        find_model_folder(tmp_path).load()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("depth", [10**9, "3", None, -1])
def test_a_hostile_depth_is_one_line(tmp_path, depth):
    content = {"_model_class": "PSPNet", "encoder_name": "resnet18", "encoder_depth": depth, "upsampling": 8}
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(KsegError, match=r"pspnet: depth=.*: must be a whole number from 1 to 4096"):
        find_model_folder(tmp_path)


def test_a_huge_file_is_refused(smp, tmp_path):
    smp.Unet("resnet18", encoder_weights=None, decoder_channels=(8, 8, 8, 8, 8)).save_pretrained(tmp_path)
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.truncate(2**28)
    with pytest.raises(KsegError, match=r"has 268435456 bytes; the model that config.json describes has at most \d+$"):
        find_model_folder(tmp_path).load()


@pytest.mark.slow
def test_defaults_are_smps(smp):
    """Every architecture with smp's defaults is kseg's with its own."""
    for kind, (model, _, _) in ARCHITECTURES.items():
        config = getattr(smp, kind)("resnet18", encoder_weights=None, classes=3)._hub_mixin_config
        info = smp_info({**config, "_model_class": kind})
        assert (info.model, info.output_stride) == (model, MODELS[model].info["output_stride"])
        own = {"decoder_channels": 256} if model == "upernet" else {}  # kseg's default, None, depends on the form
        assert {**known_options(model), **info.options} == {**known_options(model), **own}
        written = smp_config(info, binary=False)
        assert smp_info(written) == info
        assert set(written) - {"_model_class"} <= set(config)
