"""kseg.hub: a model folder gives the same logits to the bit, from disk or from the Hub."""

import json
import re
import shutil

import keras
import numpy as np
import pytest
import yaml
from hub_server import COMMIT, TOKEN, serve
from huggingface_hub import ModelCard
from PIL import Image
from tiny_model import random_model

from kseg import export, hub
from kseg.config import DataConfig, TrainConfig
from kseg.config.share import HubConfig
from kseg.inference.source import find_source
from kseg.metrics.evaluation import Evaluation
from kseg.metrics.evaluation_files import write_evaluation
from kseg.models.build import precision
from kseg.models.model_info import ModelInfo
from kseg.models.saving import save_model
from kseg.reports.figures import iou_chart
from kseg.runtime.run_dir import RunDir
from kseg.sharing.export.folder import model_name
from kseg.sharing.model_card import markdown, training_command
from kseg.utils.errors import KsegError

# huggingface_hub passes bytes to httpx2 in a deprecated way.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")
NAMES = ("back|ground", "<script>alert(1)</script>", "[a](b) *c* `d` _e_ & ~~f~~")
ATTACK = "pretty --- name: 'x' \"y\" <img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).integers(0, 256, (2, 40, 56, 3), dtype="uint8")


@pytest.fixture(scope="module")
def run(images, tmp_path_factory):
    """(run directory of test_tiny, its logits of the images)."""
    keras.utils.set_random_seed(3)
    run = RunDir(tmp_path_factory.mktemp("runs") / "run")
    data = DataConfig(dataset="coco", data_dir="/home/someone/secret/my data")
    config = TrainConfig(
        data=data, model="test_tiny", backbone="test_tiny", image_size=(32, 48), epochs=3, run_dir="/home/someone/r"
    )
    run.create(config, ["train: one.jpg", "val: two.jpg"])
    model = random_model("test_tiny", normalization=((0.1, 0.2, 1 / 3), (0.5, 0.25, 0.7)))
    save_model(model, run.model)
    matrices = np.random.default_rng(0).integers(0, 90, (6, 3, 3))
    evaluation = Evaluation(NAMES, matrices)
    write_evaluation(run.evaluation, evaluation, "val")
    run.figures.mkdir()
    (run.figures / "iou.png").write_bytes(iou_chart(NAMES, evaluation.scores))
    Image.fromarray(np.zeros((20, 76, 3), "uint8")).save(run.figures / "median_1.png")
    return run, model.predict_on_batch(images)


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    """The run's model folder, as the command line writes it."""
    path = tmp_path_factory.mktemp("shared") / "folder"
    hub.main(["kseg.hub", f"--model={run[0].path}", f"--output={path}", f"--license={ATTACK}", f"--data_name={ATTACK}"])
    return path


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with serve(monkeypatch, tmp_path / "cache") as server:
        yield server


# --- A folder -------------------------------------------------------------------------------------------------------------------


def test_a_runs_folder_gives_the_same_logits_to_the_bit(run, folder, images):
    shared = hub.load_folder(folder)
    np.testing.assert_array_equal(shared.model.predict_on_batch(images), run[1])
    assert run[1].std((0, 1, 2)).max() > 1e-3
    assert shared.class_names == NAMES
    assert shared.info.image_size == (32, 48)
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == {
        "config.json", "model.safetensors", "README.md", "figures/iou.png", "figures/median_1.png",
    }  # fmt: skip
    modes = {path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()}
    assert modes == {(folder / "README.md").stat().st_mode & 0o777}


def test_a_model_of_python_in_sixteen_bits_and_five_channels(tmp_path):
    with precision("mixed_bfloat16"):
        model = random_model("test_conv", input_shape=(None, None, 5), normalization=None)
    images = np.random.default_rng(1).normal(size=(1, 32, 32, 5)).astype("float32")
    shape = (None, None, 5)
    info = ModelInfo("test_conv", ("a", "b", "c"), (32, 32), input_shape=shape, precision="mixed_bfloat16")
    with pytest.raises(KsegError, match="pass info=ModelInfo"):
        hub.save_folder(model, tmp_path / "folder")
    hub.save_folder(model, tmp_path / "folder", info=info)
    shared = hub.load_folder(tmp_path / "folder")
    np.testing.assert_array_equal(shared.model.predict_on_batch(images), model.predict_on_batch(images))
    assert shared.info == info
    assert shared.model.get_layer("decoder_0").compute_dtype == "bfloat16"
    assert keras.config.dtype_policy().name == "float32"


def test_an_auxiliary_head_stays_at_home(images, tmp_path):
    main = random_model("test_conv", normalization=None)
    auxiliary = keras.layers.Conv2D(3, 1, name="aux_classifier_4")(main.output)
    model = keras.Model(main.input, {"logits": main.output, "auxiliary": auxiliary})
    hub.save_folder(model, tmp_path / "folder", info=ModelInfo("test_conv", ("a", "b", "c"), (32, 32)))
    shared = hub.load_folder(tmp_path / "folder").model
    np.testing.assert_array_equal(shared.predict_on_batch(images), main.predict_on_batch(images))


def test_a_model_that_is_not_as_described_is_not_saved(tmp_path):
    model = random_model("test_conv")
    for info, says in (
        (
            ModelInfo("test_conv", ("a", "b"), (32, 32)),
            r"build_model\('test_conv', .* makes a different model: this one has \('segmentation_head_0",
        ),
        (ModelInfo("test_conv", ("a", "b", "c"), (32, 32), normalization=((0.5,) * 3, (0.1,) * 3)), "its logits differ"),
    ):
        with pytest.raises(KsegError, match=says):
            hub.save_folder(model, tmp_path / "folder", info=info)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_there(run, folder, tmp_path):
    with pytest.raises(KsegError, match=r"folder exists; name another folder, or pass --overwrite"):
        hub.save_folder(run[0].path, folder)
    other = tmp_path / "theirs"
    other.mkdir()
    (other / "config.json").write_text('{"architectures": ["Other"]}')
    with pytest.raises(KsegError, match="is no earlier model folder"):
        hub.save_folder(run[0].path, other, overwrite=True)
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "old.txt").write_text("")
    hub.save_folder(run[0].path, copy, overwrite=True)
    assert not (copy / "old.txt").exists()
    assert (copy / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert "license:" not in (copy / "README.md").read_text()
    assert "No licence is stated" in (copy / "README.md").read_text()


def test_a_run_that_has_no_scores(run, tmp_path):
    stopped = RunDir(tmp_path / "run")
    shutil.copytree(run[0].path, stopped.path)
    stopped.evaluation.write_text(json.dumps({"class_names": NAMES}))
    with pytest.raises(KsegError, match=r"evaluation.json: is missing or does not match the model"):
        hub.save_folder(stopped.path, tmp_path / "folder")
    stopped.evaluation.unlink()
    with pytest.raises(KsegError, match="stopped before its evaluation; finish it with"):
        hub.save_folder(stopped.path, tmp_path / "folder")


# --- The card -------------------------------------------------------------------------------------------------------------------


def test_the_card(run, folder):
    text = (folder / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    data = yaml.safe_load(front)
    assert (data["library_name"], data["pipeline_tag"], data["license"]) == ("kseg", "image-segmentation", ATTACK)
    (result,) = data["model-index"][0]["results"]
    scores = json.loads(run[0].evaluation.read_text())
    assert {metric["type"]: metric["value"] for metric in result["metrics"]} == {
        "mean_iou": scores["mean_iou"], "accuracy": scores["pixel_accuracy"],
    }  # fmt: skip
    assert (result["dataset"]["name"], result["dataset"]["split"]) == (ATTACK, "val")
    read = ModelCard(text).data.eval_results[0]  # as huggingface_hub reads it
    assert (read.metric_type, read.metric_value, read.dataset_split) == ("mean_iou", scores["mean_iou"], "val")
    interval = scores["mean_iou_interval"]
    assert (
        f"| mIoU | {scores['mean_iou']:.4f} (95% confidence interval {interval['low']:.4f} to {interval['high']:.4f}) |" in body
    )
    rows = [line for line in body.splitlines() if line.startswith("| ") and line.count(" | ") == 5]
    assert len(rows) == 1 + 3
    for line, name, iou in zip(rows[1:], NAMES, scores["iou"], strict=True):
        assert line.startswith(f"| {markdown(name)} | {iou:.4f} | ")
    assert "<script>" not in body
    assert "<img" not in body
    assert "\\*c\\* \\`d\\` \\_e\\_ &amp; " in body
    assert re.findall(r"!\[[^\]]*\]\((.*?)\)", body) == ["figures/median_1.png", "figures/iou.png"]
    assert "--data_dir=my data" in body
    assert "someone" not in text
    assert "2 unusable samples were skipped" in body
    assert 'kseg.hub.load_folder("FOLDER")' in body and "kseg.demo --model=FOLDER\n" in body


def test_what_is_no_run_gets_no_card(run, folder, tmp_path):
    for source, more, says in (
        (run[0].model, ["--output=f"], r"model.keras: is not a run directory.*kseg.hub.save_folder\(model, folder, info="),
        (folder, ["--output=f"], "--output=f: --model=.*folder is a model folder already"),
        (run[0].path, ["--push=o/n"], "--output is missing"),
    ):
        with pytest.raises(KsegError, match=says) as error:
            hub.main(["kseg.hub", f"--model={source}", *more])
        assert "\n" not in str(error.value)
    with pytest.raises(KsegError, match="is not a run directory"):
        hub.save_folder(folder, tmp_path / "copy")


def test_no_pictures_if_none_are_wanted(run, tmp_path):
    hub.main(["kseg.hub", f"--model={run[0].path}", f"--output={tmp_path / 'f'}", "--nopictures"])
    assert not (tmp_path / "f/figures").exists()
    assert "![" not in (tmp_path / "f/README.md").read_text()


def test_the_command_says_what_differs_from_the_defaults():
    data = DataConfig(dataset="coco", data_dir="/a/b/camvid", background=False, ignore_categories=("void",))
    config = TrainConfig(data=data, augment="/a/aug.json", batch_size=3, image_size=(64, 96), run_dir="runs/x")
    assert training_command(config) == (
        "python -m kseg.train --dataset=coco --data_dir=camvid --nobackground --ignore_categories=void --image_size=64x96 "
        "--augment=aug.json --batch_size=3"
    )


# --- The Hub --------------------------------------------------------------------------------------------------------------------


def test_there_and_back(server, run, folder, images, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "secrets.txt").write_text("not for others")
    hub.main(["kseg.hub", f"--model={copy}", "--push=owner/name"])
    assert capsys.readouterr().out == f"pushed  {server.url}/owner/name (private)\n"
    assert server.private == {"owner/name": True}
    own = {"config.json", "model.safetensors", "README.md", "figures/iou.png", "figures/median_1.png"}
    assert {name for _, name in server.files} == own
    ((summary, inside),) = server.commits
    assert summary.startswith("test_tiny on test_tiny, by kseg ")
    assert inside == {"config.json", "README.md"}
    for name, revision in (
        ("owner/name", None),
        ("owner/name", "main"),
        ("hf://owner/name", COMMIT),
        ("hf://owner/name@main", None),
    ):
        shared = hub.load_folder(name, revision)
        np.testing.assert_array_equal(shared.model.predict_on_batch(images), run[1])
    assert server.downloads == 2
    assert model_name(find_source("hf://owner/name")) == f"hf://owner/name@{COMMIT}"  # for another process
    export.main(["kseg.export", "--model=hf://owner/name", "--format=stablehlo", "--platforms=cpu", f"--output={tmp_path / 'e'}"])
    assert "read    hf://owner/name\n" in capsys.readouterr().out
    assert json.loads((tmp_path / "e/kseg.json").read_text())["class_names"] == list(NAMES)
    with pytest.raises(KsegError, match="--model=hf://owner/name: is on the Hub"):
        hub.main(["kseg.hub", "--model=hf://owner/name", "--push=owner/other"])
    server.status = (503, "")
    hub.load_folder("owner/name", COMMIT)  # from the cache alone


def test_a_public_repository_is_not_taken_for_a_private_one(server, folder):
    server.private["owner/name"] = False
    with pytest.raises(KsegError, match="owner/name exists and is public; make it private on its page, or pass --noprivate"):
        hub.push(folder, "owner/name")
    assert not server.commits
    hub.push(folder, "owner/name", private=False)
    hub.push(folder, "owner/new", private=False)
    assert server.private == {"owner/name": False, "owner/new": False}
    assert len(server.commits) == 2


def test_what_the_hub_refuses_is_one_line_without_the_token(server, folder, monkeypatch, capsys):
    server.refusal = (400, "you sent {authorization}")
    with pytest.raises(KsegError, match=r"cannot push to owner/name: .*you sent Bearer \*\*\*") as error:
        hub.push(folder, "owner/name")
    assert "\n" not in str(error.value)
    server.refusal, server.invalid = None, '"license" must be one of'
    with pytest.raises(KsegError, match=r'cannot push to owner/name: Invalid metadata in README.md. - "license" must be one of'):
        hub.push(folder, "owner/name")
    assert not server.commits
    monkeypatch.setenv("HF_TOKEN", "another")
    with pytest.raises(KsegError, match=r"log in with `hf auth login`, or set HF_TOKEN") as error:
        hub.push(folder, "owner/other")
    assert "another" not in str(error.value)
    assert TOKEN not in "".join(capsys.readouterr())


def test_what_cannot_be_had_from_the_hub(server, folder):
    for name in ("config.json", "model.safetensors"):
        server.files["o/r", name] = (folder / name).read_bytes()
    server.files["o/r", "model.safetensors"] += bytes(2**21)
    with pytest.raises(KsegError, match=r"o/r: model.safetensors has \d+ bytes, more than the \d+ that are expected"):
        hub.load_folder("o/r")
    assert server.downloads == 1
    server.files["o/s", "config.json"] = b" " * (2**20 + 1)
    with pytest.raises(KsegError, match=r"o/s: config.json has 1048577 bytes"):
        hub.load_folder("o/s")
    server.files["o/t", "config.json"] = b"{}"
    with pytest.raises(KsegError, match=r"o/t: config.json: does not say that this is a model of kseg"):
        hub.load_folder("o/t")
    with pytest.raises(KsegError, match="there is no such repository, or it is private"):
        hub.load_folder("o/none")


# --- Mistakes -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ([], "--model is missing"),
        (["--output=f"], "--model is missing: name a run directory, or a model folder to upload with --push=owner/name"),
        (["--model=f"], "--output is missing"),
        (["--run_dir=r"], "--run_dir=r is now --model=r"),
        (["--folder=f"], "--folder=f is now --output=f"),
        (["--model=f", "--push=name"], "--push=name: expected owner/name"),
        (["--model=f", "--push=../name"], "expected owner/name"),
        (["--model=f", "--push=owner/name"], "--model=f: no such file or folder"),
        (["--model=unet", "--output=f"], "--model=unet: is an architecture"),
        (["--output=f", "--model=none", "--license="], "--license= is empty"),
    ],
)
def test_mistakes_are_one_line(flags, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KsegError, match=says) as error:
        hub.main(["kseg.hub", *flags])
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_names_that_lead_nowhere(tmp_path):
    with pytest.raises(KsegError, match=r"none: no such folder, and not the name of a repository \(hf://owner/name"):
        hub.load_folder(tmp_path / "none")
    with pytest.raises(KsegError, match="is a folder, which has no revisions"):
        hub.load_folder(tmp_path, revision="main")
    assert HubConfig(model="f", push="o/n").private
