"""Run directories and model files of other versions, or damaged or malicious ones: read, or refused in one line."""

import json
import re
import zipfile

import keras
import pytest
from random_run import random_network, random_run

from kseg import evaluate
from kseg.config import TrainConfig
from kseg.config.fields import FORMAT
from kseg.models.saving import load_model, save_model
from kseg.runtime.run_dir import RunDir, default_run_dir
from kseg.utils.errors import KsegError


@pytest.fixture(scope="module")
def run(tiny_coco, tmp_path_factory):
    return random_run(tmp_path_factory.mktemp("runs") / "run", tiny_coco)


def copy_of(run, path, config, version=None):
    """Returns a copy of the run directory with another config.json, and another version of kseg."""
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    environment = json.loads(run.environment.read_text())
    if version:
        environment["versions"]["kseg"] = version
    (path / "environment.json").write_text(json.dumps(environment))
    (path / "model.keras").write_bytes(run.model.read_bytes())
    return RunDir(path)


def test_a_run_of_an_earlier_version_is_read_and_scored(run, tiny_coco, tmp_path):
    """Its config.json has no format, nested groups, and lacks later flags."""
    known = json.loads(run.config.read_text())
    assert known["config_format"] == FORMAT
    data = {"dataset": "coco", "data_dir": str(tiny_coco)}
    old = {"data": data, "image_size": [32, 40], "batch_size": 2, "optimization": {"learning_rate": 1e-3}}
    early = copy_of(run, tmp_path / "early", old, "0.1.0")
    assert early.read_config() == run.read_config()
    scores = []
    for folder in (run, early):
        evaluate.main(["kseg.evaluate", f"--model={folder.path}", "--workers=0", f"--output={tmp_path / 'scores.json'}"])
        scores.append(json.loads((tmp_path / "scores.json").read_text()))
    assert scores[0] == scores[1]


@pytest.mark.parametrize(
    ("change", "version", "says"),
    [
        (
            {"config_format": FORMAT + 1},
            "9.0",
            rf"config.json: its format is {FORMAT + 1}, and this kseg reads up to {FORMAT}: .*\(the run is of kseg '9.0', ",
        ),
        ({"config_format": "x"}, None, f"its format is 'x', and this kseg reads up to {FORMAT}"),
        ({"config_format": True}, None, "its format is True"),
        ({"teacher": "big"}, "9.0", r"unknown field 'teacher' \(the run is of kseg '9.0', this is "),
        ({"teacher": "big"}, None, "unknown field 'teacher'$"),
        ({"epochs": "many"}, None, "not a kseg configuration"),
    ],
)
def test_a_run_of_a_later_version_is_refused_with_the_reason(run, tmp_path, change, version, says):
    later = copy_of(run, tmp_path / "later", json.loads(run.config.read_text()) | change, version)
    for flags in ([f"--model={later.path}"], [f"--model={run.path}", f"--ensemble={later.path}"]):
        with pytest.raises(KsegError, match=says) as error:
            evaluate.main(["kseg.evaluate", *flags])
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"\xff\xfe\xfa", b"[" * 100000, b"", b"3", b'{"config_format": 2}'])
def test_what_is_no_config_is_one_line(run, tmp_path, content):
    broken = copy_of(run, tmp_path / "broken", {})
    broken.config.write_bytes(content)
    with pytest.raises(KsegError, match=r"config.json: not a kseg configuration"):
        broken.read_config()


def test_a_config_comes_back():
    assert TrainConfig.from_json(TrainConfig(epochs=3).to_json()) == TrainConfig(epochs=3)


def test_archives_that_lead_out_or_blow_up_are_refused(run, tmp_path):
    def changed(name, change):
        path = tmp_path / name
        with zipfile.ZipFile(run.model) as source, zipfile.ZipFile(path, "w") as target:
            for member in source.namelist():
                target.writestr(member, source.read(member))
            change(target)
        return path

    def bomb(archive):
        archive.writestr("assets/zeros", b"0")
        archive.getinfo("assets/zeros").file_size = 2**40  # as the directory at the archive's end then says

    assert load_model(changed("same.keras", lambda archive: None)).count_params() == random_network().count_params()
    with pytest.raises(KsegError, match=r"holds a file '../../outside', which leads out of it"):
        load_model(changed("leaving.keras", lambda archive: archive.writestr("../../outside", b"0")))
    with pytest.raises(KsegError, match=r"holds a file '/etc/outside', which leads out of it"):
        load_model(changed("absolute.keras", lambda archive: archive.writestr("/etc/outside", b"0")))
    with pytest.raises(KsegError, match=r"would unpack to \d+ bytes from \d+; do not trust"):
        load_model(changed("bomb.keras", bomb))


@pytest.mark.parametrize("broken", [b"{}", b"[]", b"[" * 100000, b'{"class_name": "Functional", "config": 3}'])
def test_a_model_file_of_nonsense_is_one_line(run, tmp_path, broken):
    path = tmp_path / "broken.keras"
    with zipfile.ZipFile(run.model) as source, zipfile.ZipFile(path, "w") as target:
        for member in source.namelist():
            target.writestr(member, broken if member == "config.json" else source.read(member))
    with pytest.raises(KsegError, match=r"broken.keras: Keras cannot load it") as error:
        load_model(path)
    assert "\n" not in str(error.value)


def test_code_in_a_model_file_is_not_run(tmp_path):
    images = keras.Input((32, 32, 3))
    model = keras.Model(images, keras.layers.Lambda(lambda x: x)(images))
    save_model(model, tmp_path / "lambda.keras")
    with pytest.raises(KsegError, match="Keras cannot load it"):
        load_model(tmp_path / "lambda.keras")


@pytest.mark.parametrize(("backbone", "name"), [(None, "unet"), ("keras_cv/resnet18", "unet-resnet18")])
def test_a_run_is_named_by_time_model_and_backbone(backbone, name):
    path = default_run_dir(TrainConfig(model="unet", backbone=backbone))
    assert re.fullmatch(rf"\d{{8}}-\d{{6}}-{name}", path.name)
    assert path.parent.name == "runs"
