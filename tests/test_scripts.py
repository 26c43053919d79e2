"""The scripts that run and compare experiments, each for real at the smallest scale."""

import csv
import json
import sys

import keras
import numpy as np
import pytest
from conftest import ROOT

from benchmarks.charts import losses_chart, runs_chart
from kseg import evaluate
from kseg.metrics.scores import scores
from kseg.models.layers import DOUBLE_NORMALIZATION
from kseg.models.saving import load_model
from kseg.runtime.run_dir import RunDir
from kseg.utils.errors import KsegError

sys.path.insert(0, str(ROOT / "scripts"))
import compare_backends
import compare_torch
import experiment_scores
import reproduce
from experiments_page import write_pages

from experiments import read_experiments

on_jax = pytest.mark.skipif(keras.backend.backend() != "jax", reason="starts processes on the back ends it names")
EXTRA = ["--backbone=resnet18", "--image_size=32", "--workers=0"]


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory):
    """(output folder, arguments): 0428-5, the double normalisation, on the smallest backbone."""
    folder = tmp_path_factory.mktemp("reproduced")
    arguments = ["reproduce.py", "--scale=smoke", "--only=0428-5", f"--output_dir={folder}", *EXTRA]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KSEG_CACHE", str(tmp_path_factory.mktemp("cache")))
        reproduce.main(arguments)
        yield folder, arguments


@on_jax
def test_an_experiment_is_reproduced(reproduced):
    folder, _ = reproduced
    result = json.loads((folder / "0428-5.json").read_text())
    run = RunDir(folder / "runs" / "0428-5")
    assert result["mean_iou"] == json.loads(run.evaluation.read_text())["mean_iou"]
    assert 0 < result["batch_mean_iou"] < 1
    assert (result["epochs"], result["val_images"], result["batch_size"]) == (1, 4, 4)
    assert result["val_mean_ious"] == [float(row["val_mean_iou"]) for row in csv.DictReader(run.metrics.read_text().splitlines())]
    assert result["parameters"] == load_model(run.model).count_params()
    assert result["peak_memory_mb"] > 100
    table = (folder / "experiments.md").read_text()
    assert "# The diary's experiments on a few pictures drawn by kseg, not the diary's data, at scale smoke" in table
    assert "they do not compare" in table
    assert f"| 0428-5 DeepLabV3+ on ResNet50 | 0.1617 |  | {result['mean_iou']:.4f} | {result['batch_mean_iou']:.4f} |" in table
    page = (folder / "experiments.html").read_text()
    assert f">{result['mean_iou']:.4f}<" in page
    assert (folder / "curves.png").stat().st_size > 5000


@on_jax
def test_a_double_normalized_run_is_scored_as_it_was_trained(reproduced, tmp_path):
    """The mistake is part of the saved model: whoever loads it computes the same, and the same score."""
    run = RunDir(reproduced[0] / "runs" / "0428-5")
    layer = load_model(run.model).get_layer("normalize")
    assert (layer.mean, layer.std) == DOUBLE_NORMALIZATION
    evaluate.main(["kseg.evaluate", f"--model={run.path}", f"--output={tmp_path / 'again.json'}", "--workers=0"])
    assert json.loads((tmp_path / "again.json").read_text()) == json.loads(run.evaluation.read_text())


@on_jax
def test_what_is_finished_is_not_run_again(reproduced):
    folder, arguments = reproduced
    before = {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("*")}
    reproduce.main(arguments)
    assert {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("*")} == before
    with pytest.raises(KsegError, match="0428-5 was run there with other flags"):
        reproduce.main([*arguments, "--epochs=2"])


@on_jax
def test_a_failure_is_told_and_the_others_go_on(reproduced, tmp_path):
    """Weights that are not there."""
    _, arguments = reproduced
    missing = tmp_path / "missing.pth"
    with pytest.raises(SystemExit) as exit:
        reproduce.main([*arguments, f"--output_dir={tmp_path}", f"--backbone_weights={missing}"])
    assert exit.value.code == 1
    assert not (tmp_path / "runs" / "0428-5").exists()
    assert "failed: error: " in (tmp_path / "experiments.md").read_text()
    assert "no such file" in (tmp_path / "experiments.html").read_text()
    assert not (tmp_path / "0428-5.json").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--only=0428-9", "--data_dir=D"], "--only=0428-9: no such experiment; did you mean 0428-"),
        (["--data=camvid"], "--data_dir is missing"),
        (["--data_dir=D", "--epoch=3"], "unknown flag --epoch; did you mean epochs"),
        (["--data_dir=D", "stray"], "unexpected argument 'stray'"),
    ],
)
def test_misuse_is_told_before_anything_runs(words, message):
    with pytest.raises(KsegError, match=message):
        reproduce.read_arguments(words)


def test_scales_keep_the_diary_s_proportions():
    """Half the side where the diary has Resize 256, batch 4 where it has 4; full is the flagfile itself."""

    def flags(id, scale):
        arguments, extra = reproduce.read_arguments([f"--scale={scale}", f"--only={id}", "--data=camvid", "--data_dir=D"])
        (experiment,) = reproduce.choose(arguments.only)
        return reproduce.flags_of(experiment, arguments, extra)[1:]

    camvid = list(reproduce.DATA["camvid"][1])
    none = "--backbone_weights=none"
    assert flags("0429-4", "small") == [*camvid, none, "--image_size=64x80", "--epochs=4", "--batch_size=4", "--data_dir=D"]
    assert flags("0429-3", "small") == [*camvid, none, "--image_size=32x40", "--epochs=4", "--batch_size=8", "--data_dir=D"]
    assert flags("0427-1", "small")[-3:] == ["--epochs=4", "--batch_size=8", "--data_dir=D"]
    assert flags("0429-4", "full") == [*camvid, "--data_dir=D"]


def test_the_batch_averaged_number_is_another():
    """A class that one batch gets all wrong weighs as much there as everywhere else together."""
    matrices = np.zeros((3, 2, 2), "int64")
    matrices[0] = [[90, 0], [0, 10]]
    matrices[1] = [[99, 0], [1, 0]]
    matrices[2] = [[100, 0], [0, 0]]
    assert experiment_scores.batch_mean_iou(matrices, 3) == scores(matrices.sum(0)).mean_iou
    expected = np.mean([1, (99 / 100 + 0) / 2, 1])
    assert experiment_scores.batch_mean_iou(matrices, 1) == pytest.approx(expected)
    assert experiment_scores.batch_mean_iou(matrices, 2) == pytest.approx(np.mean([(189 / 190 + 10 / 11) / 2, 1]))


def test_the_page_escapes_and_compares_only_like_with_like(tmp_path):
    row = {"id": "0427-1", "title": "FCN", "leaderboard": 0.3218, "validation": None, "failed": "error: <b> | no"}
    write_pages(tmp_path, "the diary's data", [row], comparable=True)
    assert "do not compare" not in (tmp_path / "experiments.md").read_text()
    assert "| 0427-1 FCN | 0.3218 |  | failed: error: <b> / no |" in (tmp_path / "experiments.md").read_text()
    assert "failed: error: &lt;b&gt;" in (tmp_path / "experiments.html").read_text()


def test_a_header_that_says_nothing_is_refused(tmp_path):
    (tmp_path / "0501_1_unet.txt").write_text("--model=unet\n")
    with pytest.raises(ValueError, match=r"0501_1_unet\.txt: does not begin with"):
        read_experiments(tmp_path)


def test_how_far_apart_trainings_are():
    runs = {
        "smp": {"losses": [2.0, 1.0, 1.0, 1.0], "mean_iou": 0.3},
        "kseg": {"losses": [2.0, 1.1, 0.9, 1.0], "mean_iou": 0.304},
    }
    first, smoothed, points = compare_torch.differences({"runs": runs, "settings": {"window": 2, "steps": 4}}, "kseg")
    assert (first, points) == (0, pytest.approx(0.4))
    assert smoothed == pytest.approx(0.05)  # of means 1.5, 1, 1 and 1.55, 1, 0.95


def test_the_control_changes_the_last_digit():
    import torch

    state = {"weight": torch.randn(1000), "count": torch.tensor(3)}
    changed = compare_torch.in_the_last_digit(state)
    ratio = (changed["weight"].double() / state["weight"].double() - 1).abs()
    assert 0 < ratio.mean() < 2e-7 and ratio.max() < 3e-7
    assert changed["count"] == 3 and changed["weight"].dtype == torch.float32


@on_jax
def test_back_ends_agree(tiny_coco, monkeypatch):
    """JAX and torch, each in a process of its own: the same logits and gradients from the same weights, and the same losses."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    words = [
        "--model=deeplabv3plus", "--backbone=resnet18", "--dataset=coco", f"--data_dir={tiny_coco}", "--image_size=48x64",
        "--batch_size=4", "--backends=jax,torch", "--steps=2", "--predictions=2", "--learning_rate=1e-5",
    ]  # fmt: skip
    result = compare_backends.compare(compare_backends.read_arguments(["compare_backends.py", *words]))
    jax, torch = result["backends"].values()
    assert jax["devices"].startswith("jax") and torch["devices"].startswith("torch")
    assert jax["parameters"] == torch["parameters"]
    assert torch["logits_difference"] < 1e-4
    assert torch["gradients_difference"] < 0.05
    assert len(jax["train"]) == 2 and len(jax["predict"]) == 3
    assert torch["train"][0]["loss"] == pytest.approx(jax["train"][0]["loss"], rel=1e-4)
    table = compare_backends.table([result])
    assert "| deeplabv3plus resnet18, 4x48x64x3 | jax" in table and f"{torch['logits_difference']:.1e}" in table


def test_unknown_back_ends_are_refused():
    with pytest.raises(KsegError, match="--backends=jax,mxnet: must be some of jax, tensorflow, torch"):
        compare_backends.read_arguments(["compare_backends.py", "--backends=jax,mxnet"])


def test_charts_are_pictures():
    for chart in (losses_chart({"a": [1.0, 0.5], "b": [1.1, 0.4]}, 2), runs_chart({"0427-1": [0.1, 0.2], "0427-2": [0.3]})):
        assert chart.startswith(b"\x89PNG") and len(chart) > 5000
