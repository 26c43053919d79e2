"""The weights that a run starts from: of its backbone, downloaded by default, or of a whole model."""

import dataclasses
import json
import shutil

import keras
import numpy as np
import pytest
from hub_server import serve
from PIL import Image
from safetensors.numpy import save_file
from tiny_model import flags as conv_flags

from kseg import Segmenter, find_lr, train
from kseg.config import DataConfig, PythonConfig, TrainConfig
from kseg.models.backbones.registry import BACKBONES, HubWeights, has_weights, register_backbone
from kseg.models.blocks import conv_bn_relu, head
from kseg.models.build import build_backbone, build_model
from kseg.models.model_folder import write_model_folder
from kseg.models.model_info import ModelInfo
from kseg.models.pytorch.export import export_torch_weights
from kseg.models.registry import MODELS, register_model
from kseg.models.saving import load_model
from kseg.runtime.run_dir import RunDir
from kseg.training.initial_weights import describe_weights, open_initial, settle_weights
from kseg.utils.errors import KsegError

REAL = DataConfig(dataset="coco", data_dir="d")
CLASSES = ("background", "red", "green", "blue")


def build_downloaded(*, output_stride, input_shape):
    images = keras.Input(input_shape, name="images")
    x = keras.layers.Conv2D(16, 3, strides=2, padding="same", name="encoder_conv1")(images)
    return keras.Model(images, {"c1": keras.layers.ReLU(name="encoder_relu")(x)}, name="backbone")


if "test_downloaded" not in BACKBONES:
    register_backbone(
        "test_downloaded", build_downloaded, output_strides=(32,), weights={"imagenet": HubWeights("o/tiny")}, first_layer="conv1"
    )


@register_model(backbone="test_conv", output_stride=32, levels=("c1",))
def test_start(features, *, num_classes):
    """test_conv, with names that are not those of an old DeepLabV3 of smp."""
    return head(conv_bn_relu(features["c1"], 24, name="decoder_block"), num_classes)


test_start.__test__ = False


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with serve(monkeypatch, tmp_path / "cache") as server:
        yield server


@pytest.fixture(scope="module")
def backbone_weights(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    generator = np.random.default_rng(1)
    arrays = {"conv1.weight": generator.normal(size=(16, 3, 3, 3)), "conv1.bias": generator.normal(size=16)}
    save_file({name: array.astype("float32") for name, array in arrays.items()}, path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def first(tiny_coco, tmp_path_factory) -> RunDir:
    """A run of test_conv on red, green and blue."""
    run = RunDir(tmp_path_factory.mktemp("runs") / "first")
    train.main(flags(tiny_coco, run.path))
    return run


@pytest.fixture(scope="module")
def other_data(tmp_path_factory):
    """A folder of label images of blue, purple and red, in this order."""
    folder = tmp_path_factory.mktemp("other")
    generator = np.random.default_rng(2)
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(generator.integers(0, 256, (32, 32, 3), "uint8")).save(folder / "images" / split / f"{i}.png")
            Image.fromarray(generator.integers(0, 3, (32, 32), "uint8")).save(folder / "labels" / split / f"{i}.png")
    (folder / "labels.yaml").write_text("0: blue\n1: purple\n2: red\n")
    return ["--dataset=folder", f"--data_dir={folder}", f"--label_map={folder / 'labels.yaml'}"]


def flags(data_dir, run_dir, *more):
    return [word for word in conv_flags(data_dir, run_dir) if not word.startswith("--model")] + ["--model=test_start", *more]


def real(**settings) -> TrainConfig:
    return settle_weights(TrainConfig(data=REAL, **settings))


def rows(path, layer="segmentation_head_0"):
    return [keras.ops.convert_to_numpy(weight) for weight in load_model(path).get_layer(layer).weights]


# --- Backbones ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "backbone", "found", "weights"),
    [
        ("deeplabv3plus", None, "keras_cv/resnet50", "imagenet"),
        ("unet", None, "resnet34", "imagenet"),
        ("fpn", "keras_cv/resnet18", "keras_cv/resnet18", "none"),
        ("fpn", "keras_cv/mit_b0", "keras_cv/mit_b0", "imagenet"),
        ("test_start", None, "test_conv", "none"),
    ],
)
def test_auto_is_imagenet_on_real_data_where_the_backbone_has_it(model, backbone, found, weights):
    config = real(model=model, backbone=backbone)
    assert (config.backbone, config.backbone_weights) == (found, weights)
    python = settle_weights(TrainConfig(data=DataConfig(dataset="python"), model=model, backbone=backbone))
    assert (python.backbone, python.backbone_weights) == (found, weights)


@pytest.mark.parametrize(("model", "backbone"), [("deeplabv3plus", "keras_cv/resnet18"), ("unet", "resnet34")])
def test_the_demonstration_starts_from_scratch(model, backbone):
    config = settle_weights(TrainConfig(model=model))
    assert (config.backbone, config.backbone_weights) == (backbone, "none")
    assert describe_weights(config) == "none: from scratch"


def test_every_model_has_a_default_backbone_with_weights_on_real_data():
    for name in MODELS:
        if not name.startswith("test_"):
            config = real(model=name)
            assert has_weights(config.backbone, "imagenet"), name
            stride = MODELS[name].info["output_stride"]
            assert stride in BACKBONES[config.backbone].info["output_strides"]


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"model": "unet", "backbone": "resnet50"}, "imagenet (smp-hub/resnet50.imagenet, revision 00cb74e3)"),
        ({"model": "unet", "backbone": "resnet50", "backbone_weights": "none"}, "none: from scratch"),
        ({"backbone": "keras_cv/resnet50"}, "imagenet (a preset of keras-cv)"),
        ({"backbone": "keras_cv/resnet18"}, "none: keras_cv/resnet18 has no ImageNet weights, so it starts from scratch"),
        ({"backbone": "resnet50", "backbone_weights": "hf://o/r@v1"}, "hf://o/r@v1"),
        ({"python": PythonConfig(initial_model="python:unet")}, "unet: this run goes on from them"),
    ],
)
def test_a_run_names_its_weights(settings, line):
    assert describe_weights(real(**settings)) == line


def test_a_run_downloads_its_weights_and_names_them(hub, backbone_weights, tiny_coco, tmp_path, capsys):
    hub.files["o/tiny", "model.safetensors"] = backbone_weights
    run = RunDir(tmp_path / "run")
    train.main(flags(tiny_coco, run.path, "--backbone=test_downloaded", "--freeze_backbone_epochs=2"))
    assert "\nweights imagenet (o/tiny, revision main)\n" in capsys.readouterr().out
    config = json.loads(run.config.read_text())
    assert (config["backbone"], config["backbone_weights"]) == ("test_downloaded", "imagenet")
    fresh = build_backbone("test_downloaded", weights="imagenet").get_layer("encoder_conv1").get_weights()
    trained = load_model(run.model).get_layer("backbone").get_layer("encoder_conv1").get_weights()
    for ours, theirs in zip(trained, fresh, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    train.main(["kseg.train", "--resume", f"--run_dir={run.path}"])  # a finished run: the flag need not be given
    assert hub.downloads == 1


@pytest.mark.parametrize("command", ["train", "find_lr"])
def test_weights_that_cannot_be_fetched_are_one_line_and_leave_nothing(command, hub, tiny_coco, tmp_path):
    hub.status = (503, "")
    words = flags(tiny_coco, tmp_path / "run", "--backbone=test_downloaded")
    with pytest.raises(KsegError) as error:
        {"train": train, "find_lr": find_lr}[command].main(
            [*words, *([f"--output={tmp_path / 'lr.png'}"] * (command == "find_lr"))]
        )
    message = str(error.value)
    assert "cannot fetch the weights o/tiny" in message
    assert message.endswith("to train from scratch, pass --backbone_weights=none")
    assert "\n" not in message
    assert not {path.name for path in tmp_path.iterdir()} - {"cache"}


def test_a_preset_that_cannot_be_fetched_names_resnet50_and_leaves_nothing(monkeypatch, tiny_coco, tmp_path):
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    words = flags(tiny_coco, tmp_path / "run")[:-1]
    with pytest.raises(
        KsegError, match=r"keras_cv/resnet50: cannot fetch .*--backbone=resnet50.* or --backbone_weights=none"
    ) as e:
        train.main(words)
    assert "\n" not in str(e.value)
    assert not (tmp_path / "run").exists()


# --- Whole models ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["run", "file", "folder", "torch"])
def source(request, first, tmp_path_factory):
    """(name for --init, flags that say what it is, the model)."""
    folder, model = tmp_path_factory.mktemp("source"), load_model(first.model)
    if request.param == "run":
        return str(first.path), [], model
    if request.param == "file":
        return str(shutil.copy(first.model, folder / "m.keras")), [], model
    if request.param == "folder":
        info = ModelInfo(
            "test_start", CLASSES, (48, 64), normalization=(model.get_layer("normalize").mean, model.get_layer("normalize").std)
        )
        write_model_folder(model, info, folder / "shared", {})
        return str(folder / "shared"), [], model
    save_file(
        {name: np.ascontiguousarray(array) for name, array in export_torch_weights(model).items()}, folder / "m.safetensors"
    )
    return str(folder / "m.safetensors"), ["--model=test_start"], model


def test_a_run_starts_from_each_kind_of_source(source, tiny_coco, tmp_path, capsys):
    name, more, model = source
    words = [*flags(tiny_coco, tmp_path / "run")[:-1], *more]
    train.main([*words, f"--init={name}", "--learning_rate=1e-12", "--weight_decay=0", "--epochs=1", "--ema=0.5"])
    out = capsys.readouterr().out
    assert f"\nweights {name}\n" in out
    assert f"\nloaded  all {len(model.weights)} weights" in out
    trained = load_model(tmp_path / "run" / "model.keras")
    for weight, theirs in zip(trained.trainable_weights, model.trainable_weights, strict=True):
        np.testing.assert_allclose(weight, theirs, atol=1e-6)
    stored = TrainConfig.from_json((tmp_path / "run" / "config.json").read_text())
    assert (stored.model, stored.backbone, stored.init, stored.backbone_weights) == ("test_start", "test_conv", name, "none")
    notes = json.loads((tmp_path / "run" / "initial_weights.json").read_text())
    assert (notes["source"], notes["copied"], notes["head"]) == (name, len(model.weights), [])


def test_a_run_starts_from_the_hub(hub, first, tiny_coco, tmp_path, capsys):
    model = load_model(first.model)
    normalize = model.get_layer("normalize")
    info = ModelInfo("test_start", CLASSES, (48, 64), normalization=(normalize.mean, normalize.std))
    write_model_folder(model, info, tmp_path / "shared", {})
    hub.private["o/start"] = False
    for path in (tmp_path / "shared").rglob("*"):
        if path.is_file():
            hub.files["o/start", path.relative_to(tmp_path / "shared").as_posix()] = path.read_bytes()
    words = [*flags(tiny_coco, tmp_path / "run")[:-1], "--init=hf://o/start", "--learning_rate=1e-12", "--weight_decay=0"]
    train.main(words)
    out = capsys.readouterr().out
    assert "\nweights hf://o/start\n" in out
    assert f"\nloaded  all {len(model.weights)} weights" in out
    for ours, theirs in zip(rows(tmp_path / "run" / "model.keras"), rows(first.model), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    hub.status = (503, "")
    with pytest.raises(KsegError, match="cannot fetch the weights o/absent"):
        train.main([*flags(tiny_coco, tmp_path / "other")[:-1], "--init=hf://o/absent"])
    assert not (tmp_path / "other").exists()


def test_a_segmenter_starts_from_a_model_of_other_classes(first):
    """Classes of the same name keep their rows, in another order; the rest of the head is new."""
    segmenter = Segmenter(init=first.path, class_names=["blue", "purple", "red"])
    for ours, theirs in zip(segmenter.model.get_layer("segmentation_head_0").weights, rows(first.model), strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(ours)[..., [0, 2]], theirs[..., [3, 1]])
    for ours, theirs in zip(segmenter.model.get_layer("backbone").weights, rows(first.model, "backbone"), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    prediction = segmenter.predict(np.zeros((40, 50, 3), "uint8"))
    assert prediction.class_names == ("blue", "purple", "red")
    assert prediction.labels.shape == (40, 50)


def test_other_classes_keep_the_rows_of_their_names(first, other_data, tmp_path, capsys):
    words = ["--learning_rate=1e-12", "--weight_decay=0", "--epochs=1", "--batch_size=2", "--workers=0", "--noreport"]
    train.main(["kseg.train", *other_data, f"--init={first.path}", f"--run_dir={tmp_path / 'run'}", *words])
    out = capsys.readouterr().out
    assert "rows of classes of the same name in segmentation_head_0\n" in out
    assert "\nclasses kept 2 (blue, red); new 1 (purple); left out 2 (background, green)\n" in out
    for ours, theirs in zip(rows(tmp_path / "run" / "model.keras"), rows(first.model), strict=True):
        np.testing.assert_allclose(ours[..., [0, 2]], theirs[..., [3, 1]], atol=1e-6)
    config = TrainConfig.from_json((tmp_path / "run" / "config.json").read_text())
    assert config.image_size == (48, 64)  # of the source, as the flag is not given
    notes = json.loads((tmp_path / "run" / "initial_weights.json").read_text())
    assert (notes["kept"], notes["new"], notes["dropped"]) == (["blue", "red"], ["purple"], ["background", "green"])
    assert tuple(notes["class_names"]) == CLASSES


def test_a_checkpoint_of_other_classes_gets_a_new_head(first, other_data, tmp_path, capsys):
    arrays = {name: np.ascontiguousarray(array) for name, array in export_torch_weights(load_model(first.model)).items()}
    save_file(arrays, tmp_path / "m.safetensors")
    words = ["--model=test_start", "--epochs=1", "--batch_size=2", "--workers=0", "--noreport", "--auxiliary_weight=0"]
    train.main(["kseg.train", *other_data, f"--init={tmp_path / 'm.safetensors'}", f"--run_dir={tmp_path / 'run'}", *words])
    assert "made anew for other classes: segmentation_head_0\n" in capsys.readouterr().out


def test_init_goes_with_settings_that_change_the_network(first, tiny_coco, tmp_path):
    """All keep the weights: the auxiliary head is new, and the backbone is frozen in the only epoch."""
    more = ("--ema=0.5", "--freeze_backbone_epochs=1", "--precision=mixed_bfloat16", "--epochs=1", "--loss_chunks=2")
    train.main(flags(tiny_coco, tmp_path / "run", f"--init={first.path}", *more))
    for ours, theirs in zip(*(rows(path, "backbone") for path in (tmp_path / "run" / "model.keras", first.model)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_a_resumed_run_needs_its_source_no_more(first, tiny_coco, tmp_path):
    copy = shutil.copytree(first.path, tmp_path / "source")
    whole, halved = RunDir(tmp_path / "whole"), RunDir(tmp_path / "halved")
    for run in (whole, halved):
        train.main(flags(tiny_coco, run.path, f"--init={copy}"))
    for path in (halved.model, halved.evaluation, halved.matrices, halved.checkpoints()[0], halved.best):
        path.unlink()
    shutil.rmtree(copy)
    train.main(["kseg.train", "--resume", f"--run_dir={halved.path}"])
    assert halved.metrics.read_text() == whole.metrics.read_text()
    for ours, theirs in zip(load_model(halved.model).weights, load_model(whole.model).weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_resume_with_more_epochs_points_to_init(first):
    with pytest.raises(KsegError, match=r"--epochs=9: the run in .* has 2, .*start another run from its model, with --init="):
        train.main(["kseg.train", "--resume", f"--run_dir={first.path}", "--epochs=9"])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--model=test_tiny"], r"--model=test_tiny: --init=.* has test_start, .*leave --model out"),
        (["--backbone=test_tiny"], r"--backbone=test_tiny: --init=.* has test_conv"),
        (["--backbone_weights=imagenet"], r"--backbone_weights=imagenet: --init=.* has all weights"),
        (["--double_normalization"], r"--double_normalization=True: --init=.* its own normalisation"),
    ],
)
def test_flags_of_another_model_are_refused(more, message, first, tiny_coco, tmp_path):
    words = flags(tiny_coco, tmp_path / "run")[:-1]
    with pytest.raises(KsegError, match=message):
        train.main([*words, f"--init={first.path}", *more])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("nowhere", [], r"--init=.*nowhere: no such file or folder"),
        ("nowhere.pth", [], r"--init=.*nowhere.pth: no such file"),
        ("backbone.safetensors", [], r"--init=.*: does not record its architecture; name it with --model and --backbone"),
        ("backbone.safetensors", ["--model=test_start"], r"--init=.*: has no segmentation head .*--backbone_weights takes"),
        (
            "bare.keras",
            ["--model=test_tiny"],
            r"--init=.*bare.keras: the weights are of another architecture .*; say with --model",
        ),
        ("bare.keras", [], r"does not record its architecture"),
    ],
)
def test_sources_that_cannot_be_used(name, more, message, backbone_weights, tiny_coco, tmp_path):
    (tmp_path / "backbone.safetensors").write_bytes(backbone_weights)
    build_model("test_start", num_classes=4).save(tmp_path / "bare.keras")
    words = [*flags(tiny_coco, tmp_path / "run")[:-1], *more]
    with pytest.raises(KsegError, match=message):
        train.main([*words, f"--init={tmp_path / name}"])
    assert not (tmp_path / "run").exists()


def test_a_model_file_without_description_is_named_by_flags(tiny_coco, tmp_path):
    model = build_model("test_start", num_classes=4, normalization=((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)))
    model.save(tmp_path / "bare.keras")
    config = settle_weights(TrainConfig(data=REAL, model="test_start", init=str(tmp_path / "bare.keras")), {"model", "init"})
    initial = open_initial(config)
    assert initial.normalization == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert initial.class_names is None
    assert dataclasses.replace(config, init=None) == settle_weights(TrainConfig(data=REAL, model="test_start"))
