"""--model=SOURCE: everything it may name, and what it says of everything else."""

import json
import shutil

import keras
import numpy as np
import pytest
from random_run import NAMES, random_run
from tiny_model import random_model

from kseg import evaluate, predict
from kseg.inference.source import find_source
from kseg.inference.submission import read_submission
from kseg.models.model_folder import normalization_of, write_model_folder
from kseg.models.model_info import ModelInfo
from kseg.models.saving import load_model, save_model
from kseg.utils.errors import KsegError


@pytest.fixture(scope="module")
def run(tiny_coco, tmp_path_factory):
    return random_run(tmp_path_factory.mktemp("runs") / "run", tiny_coco)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model folder, and its model."""
    path = tmp_path_factory.mktemp("shared") / "folder"
    model = random_model("test_tiny", classes=4)
    write_model_folder(model, ModelInfo("test_tiny", NAMES, (48, 64), normalization=normalization_of(model)), path, {})
    return path, model


def test_a_run(run):
    source = find_source(str(run.path))
    assert (source.kind, source.path, source.shown) == ("run", run.model, str(run.model))
    assert (source.class_names, source.image_size) == (NAMES, (32, 40))
    assert source.config == run.read_config()
    assert source.load().output.shape == (None, None, None, 4)


def test_a_stopped_run_has_its_best_checkpoint(run, tmp_path):
    stopped = shutil.copytree(run.path, tmp_path / "stopped")
    (stopped / "checkpoints").mkdir(exist_ok=True)
    (stopped / "model.keras").rename(stopped / "checkpoints/best.keras")
    (stopped / "evaluation.json").unlink()
    source = find_source(str(stopped))
    assert (source.path, source.class_names) == (stopped / "checkpoints/best.keras", None)
    (stopped / "checkpoints/best.keras").unlink()
    with pytest.raises(KsegError, match=r"--ensemble=.*stopped: the run was stopped before its first checkpoint"):
        find_source(str(stopped), "--ensemble")


def test_a_file(run):
    source = find_source(str(run.model))
    assert (source.kind, source.path) == ("file", run.model)
    assert (source.run, source.config, source.class_names, source.image_size) == (None, None, None, None)
    images = np.zeros((1, 32, 40, 3), "float32")
    np.testing.assert_array_equal(*(np.asarray(model(images)) for model in (source.load(), load_model(run.model))))


def test_a_model_folder(folder):
    path, model = folder
    source = find_source(str(path))
    assert (source.kind, source.path, source.shown) == ("folder", path, str(path))
    assert (source.run, source.config, source.class_names, source.image_size) == (None, None, NAMES, (48, 64))
    for ours, theirs in zip(source.load().get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_a_model_folder_is_scored_and_predicts_as_its_file(folder, tiny_coco, tmp_path):
    """It has a size and class names; a file needs --image_size, and has none."""
    path, model = folder
    save_model(model, tmp_path / "model.keras")
    data = ["--dataset=coco", f"--data_dir={tiny_coco}", "--workers=0"]
    scores, rows = [], []
    for name, flags in ((path, []), (tmp_path / "model.keras", ["--image_size=48x64"])):
        flags = [f"--model={name}", *data, *flags]
        evaluate.main(["kseg.evaluate", *flags, f"--output={tmp_path / 'scores.json'}"])
        scores.append(json.loads((tmp_path / "scores.json").read_text()))
        predict.main(["kseg.predict", *flags, f"--output={tmp_path}", "--write=submission"])
        rows.append(dict(read_submission(tmp_path / "submission.csv")))
    assert {**scores[0], "prediction": {"image_size": "48x64"}} == scores[1]
    np.testing.assert_equal(rows[0], rows[1])


def test_classes_of_a_model_folder_must_be_the_datas(folder, tiny_coco, tmp_path):
    other = shutil.copytree(folder[0], tmp_path / "other")
    content = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(content | {"class_names": ["background", "lime", "green", "blue"]}))
    with pytest.raises(KsegError, match=r"has a class 'red' where .*other has 'lime'"):
        evaluate.main(["kseg.evaluate", f"--model={other}", "--dataset=coco", f"--data_dir={tiny_coco}", "--workers=0"])


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("unet", "--model=unet: is an architecture; name a trained model: a run directory, a .keras file, "),
        ("nothing", "--model=nothing: no such file or folder; name a trained model"),
        ("nothing.keras", "--model=nothing.keras: no such file or folder"),
        ("owner/name", "--model=owner/name: no such file or folder; .* or hf://owner/name"),
        ("hf://owner", "hf://owner: .*not the name of a repository"),
        ("hf://owner/name@", "hf://owner/name@: .*not the name of a repository"),
        ("empty", "--model=empty: is neither a run directory nor a model folder"),
        ("torn", "torn/config.json: not a kseg configuration"),
        ("stranger", "stranger/config.json: does not say that this is a model of kseg"),
        (
            "beit",
            r"--model=beit: is a model of transformers \(BeitForSemanticSegmentation\), which kseg does not read",
        ),
        ("smp", "smp/model.safetensors: the checkpoint has no weights for decoder_blocks_0_conv1_0"),
        ("dpt", "dpt/config.json: is a model of segmentation_models_pytorch of the class 'DPT', which kseg does not have"),
        ("linknet", "linknet/model.safetensors: no such file"),
        ("hub", r"--model=hub: is a model of keras-hub \(DeepLabV3ImageSegmenter\)"),
        ("timm", r"--model=timm: is a backbone of timm \(resnet50\); pass it as backbone_weights"),
        ("data", "--model=data: is a folder of data"),
        ("saved", "--model=saved: is a SavedModel, which only runs"),
        ("photo.jpg", "--model=photo.jpg: is an image; name a model"),
        ("net.pth", "--model=net.pth: is a PyTorch checkpoint; convert it: python -m kseg.convert --checkpoint=net.pth"),
        ("smp/model.safetensors", "is part of a model folder; name the folder smp"),
        ("net.weights.h5", "has weights without a model"),
        ("net.onnx", "is an exported model, which only runs"),
        ("later", "later/config.json: has format version '9'"),
        ("text.keras", "text.keras: not a .keras model file, or a damaged one"),
        ("classifier.keras", "classifier.keras: is no segmentation model"),
    ],
)
def test_what_is_no_trained_model_is_one_line(folder, tmp_path, monkeypatch, name, says):
    monkeypatch.chdir(tmp_path)
    contents = {
        "torn": '{"model": ',
        "stranger": '{"type": "segformer"}',
        "beit": '{"model_type": "beit", "architectures": ["BeitForSemanticSegmentation"]}',
        "smp": '{"_model_class": "Unet", "encoder_name": "resnet34", "classes": 3}',
        "linknet": '{"_model_class": "Linknet", "encoder_name": "resnet18"}',
        "dpt": '{"_model_class": "DPT", "encoder_name": "tu-vit_base_patch16_224"}',
        "hub": '{"module": "keras_hub.src.models.deeplab_v3", "class_name": "DeepLabV3ImageSegmenter"}',
        "timm": '{"architecture": "resnet50", "pretrained_cfg": {}}',
        "later": '{"format": "kseg", "format_version": 9}',
    }
    (tmp_path / "empty").mkdir()
    for other, content in contents.items():
        (tmp_path / other).mkdir()
        (tmp_path / other / "config.json").write_text(content)
    for other in ("stranger", "beit", "smp"):
        shutil.copy(folder[0] / "model.safetensors", tmp_path / other)
    (tmp_path / "data/images").mkdir(parents=True)
    (tmp_path / "saved").mkdir()
    for other in ("saved/saved_model.pb", "photo.jpg", "net.pth", "net.weights.h5", "net.onnx"):
        (tmp_path / other).write_text("")
    (tmp_path / "text.keras").write_text("text")
    if name == "classifier.keras":
        images = keras.Input((32, 32, 3))
        save_model(keras.Model(images, keras.layers.GlobalMaxPooling2D()(images)), tmp_path / name)
    with pytest.raises(KsegError, match=says) as error:
        find_source(name).load()
    assert "\n" not in str(error.value)
