"""Options of a model's decoder: from text, from Python and in files."""

import dataclasses
import json

import pytest

import kseg
from kseg.config import ConvertConfig, TrainConfig
from kseg.models.build import build_model
from kseg.models.model_folder import find_model_folder
from kseg.models.model_info import ModelInfo
from kseg.models.options import known_options, options_text, parse_options, read_options
from kseg.utils.errors import KsegError


def test_text_and_back():
    text = "depth=4, attention=scse, decoder_channels=(64, 32, 16, 8), center=None"
    options = parse_options("unet", text)
    assert options == {"depth": 4, "attention": "scse", "decoder_channels": (64, 32, 16, 8), "center": None}
    assert parse_options("unet", options_text(options)) == options
    assert parse_options("fpn", 'merge="cat",dropout=0') == {"merge": "cat", "dropout": 0}
    assert read_options("unet", None) == {}


@pytest.mark.parametrize(
    ("model", "text", "says"),
    [
        ("unet", "dept=4", r"--model_options=dept=4: unet has no option 'dept'; did you mean depth"),
        ("unet", "depth=0", "depth=0: must be a whole number from 1 to 4096, such as 5"),
        ("unet", "depth=True", "depth=True: must be a whole number"),
        ("unet", "decoder_channels=64", r"decoder_channels=64: must be 1 to 16 numbers from 1 to 4096, such as \(256, 128"),
        ("unet", "decoder_channels=(1, 99999)", "must be 1 to 16 numbers"),
        ("unet", "attention=3", "attention=3: must be a name or None, such as None"),
        ("fpn", "dropout=-1", "must be a number, 0 or more"),
        ("segnet", "depth=3", "segnet has no option 'depth'; it has none"),
        ("unet", "depth", "cannot be read; expected NAME=VALUE"),
        ("unet", "depth=", "cannot be read"),
        ("unet", "4", "cannot be read"),
        ("unet", "depth=__import__('os')", "cannot be read"),
        ("unet", "depth=4)+f(depth=5", "cannot be read"),
        ("unet", "**{'depth': 4}", "no option '\\*\\*'"),
        (
            "unet",
            "decoder_channels=(64, 32, 16, 8)",
            r"a block for each of its 5 levels; decoder_channels must be 5 numbers, not 4",
        ),
        ("unet", "attention=scse, depth=3, decoder_channels=(32, 16, 8)", "needs 16 channels or more in each block, not 8"),
        ("unet", "attention=se", "attention='se': must be None or 'scse'"),
        ("unet", "norm=group", "norm='group': must be 'batch' or 'none'"),
        ("unet", "interpolation=cubic", "interpolation='cubic': must be 'nearest' or 'bilinear'"),
        ("fpn", "merge=sum", "merge='sum': must be 'add' or 'cat'"),
    ],
)
def test_mistakes_are_one_line(model, text, says):
    with pytest.raises(KsegError, match=says) as error:
        build_model(model, num_classes=2, backbone="vgg11_bn", **read_options(model, text))
    assert "\n" not in str(error.value)


def test_every_option_has_a_type_that_its_default_fits():
    for model in kseg.list_models():
        known = known_options(model)
        if not model.startswith("test_"):
            assert parse_options(model, options_text(known)) == known


@pytest.mark.slow
def test_a_segmenter_keeps_them(tmp_path):
    options = {"depth": 3, "decoder_channels": [64, 32, 16], "attention": "scse"}
    first = kseg.Segmenter("unet", class_names=["a", "b"], backbone="resnet18", backbone_weights=None, model_options=options)
    assert "encoder_layer3_0_conv1" not in {layer.name for layer in first.model.get_layer("backbone").layers}
    for name in ("folder", "file.keras"):
        first.save(tmp_path / name, image_size=64)
        again = kseg.load(tmp_path / name)
        assert again.model.count_params() == first.model.count_params()
        other = kseg.Segmenter(init=tmp_path / name, class_names=["a", "c"])
        assert other.model.count_params() == first.model.count_params()
    content = json.loads((tmp_path / "folder/config.json").read_text())
    assert content["options"] == options
    with pytest.raises(KsegError, match="unet has no option 'width'"):
        kseg.Segmenter("unet", class_names=["a"], model_options={"width": 3})


def test_a_hostile_description_is_refused(tmp_path):
    info = ModelInfo("unet", ("a",), (64, 64), backbone="resnet18", options={"depth": 3, "decoder_channels": (32, 16, 8)})
    (tmp_path / "config.json").write_text(info.to_json())
    assert find_model_folder(tmp_path).info == info
    content = json.loads(info.to_json())
    for options, says in (
        ([], "expected values by name"),
        ({"decoder_channels": [10**9] * 3}, "must be"),
        ({"run": "x"}, "no option"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({**content, "options": options}))
        with pytest.raises(KsegError, match=says):
            find_model_folder(tmp_path)
    plain = dataclasses.replace(info, options={})
    assert "options" not in json.loads(plain.to_json())  # as files of versions without options


def test_flags():
    assert TrainConfig(model="unet", model_options="depth=4").model_options == "depth=4"
    with pytest.raises(KsegError, match="--model_options= is empty"):
        TrainConfig(model_options="")
    with pytest.raises(KsegError, match="--model_options does not go with --to=torch"):
        ConvertConfig(checkpoint="m.keras", output="m.pth", to="torch", model_options="depth=4")
