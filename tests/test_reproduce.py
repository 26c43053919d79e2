"""Reproducing the reference experiments, for real at the smallest scale."""

import csv
import json
import re
import sys

import keras
import numpy as np
import pytest
from conftest import ROOT

from kseg import evaluate
from kseg.metrics.scores import scores
from kseg.models.layers import DOUBLE_NORMALIZATION
from kseg.models.saving import load_model
from kseg.runtime.run_dir import RunDir
from kseg.utils.errors import KsegError

sys.path.insert(0, str(ROOT))
from experiments import reproduce
from experiments.flagfiles import read_experiments
from experiments.scores import batch_mean_iou
from experiments.table import write_table

on_jax = pytest.mark.skipif(keras.backend.backend() != "jax", reason="starts kseg.train on JAX")
EXTRA = ["--backbone=resnet18", "--image_size=32", "--workers=0"]


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory):
    """(output folder, arguments) of 0428-5, the double normalization, on the smallest backbone."""
    folder = tmp_path_factory.mktemp("reproduced")
    arguments = ["reproduce.py", "--scale=smoke", "--only=0428-5", f"--output={folder}", *EXTRA]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KSEG_CACHE", str(tmp_path_factory.mktemp("cache")))
        reproduce.main(arguments)
        yield folder, arguments


@on_jax
@pytest.mark.slow
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
    assert "# The reference experiments on a few drawn images, not the reference's data, at scale smoke" in table
    assert "do not compare" in table
    assert f"| 0428-5 DeepLabV3+ on ResNet50 | 0.1617 |  | {result['mean_iou']:.4f} | {result['batch_mean_iou']:.4f} |" in table
    assert (folder / "curves.png").stat().st_size > 5000


@on_jax
@pytest.mark.slow
def test_a_double_normalized_run_is_scored_as_it_was_trained(reproduced, tmp_path):
    """The mistake is part of the saved model: a loaded one computes the same, and gets the same score."""
    run = RunDir(reproduced[0] / "runs" / "0428-5")
    layer = load_model(run.model).get_layer("normalize")
    assert (layer.mean, layer.std) == DOUBLE_NORMALIZATION
    evaluate.main(["kseg.evaluate", f"--model={run.path}", f"--output={tmp_path / 'again.json'}", "--workers=0"])
    assert json.loads((tmp_path / "again.json").read_text()) == json.loads(run.evaluation.read_text())


@on_jax
@pytest.mark.slow
def test_a_finished_experiment_is_not_run_again(reproduced):
    folder, arguments = reproduced
    before = {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("*")}
    reproduce.main(arguments)
    assert {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("*")} == before
    with pytest.raises(KsegError, match="0428-5 was run there with other flags"):
        reproduce.main([*arguments, "--epochs=2"])


@on_jax
@pytest.mark.slow
def test_a_failure_is_a_row_of_the_table(reproduced, tmp_path):
    """Weights that are not there."""
    _, arguments = reproduced
    missing = tmp_path / "missing.pth"
    with pytest.raises(SystemExit) as exit:
        reproduce.main([*arguments, f"--output={tmp_path}", f"--backbone_weights={missing}"])
    assert exit.value.code == 1
    assert not (tmp_path / "runs" / "0428-5").exists()
    table = (tmp_path / "experiments.md").read_text()
    assert "failed: error: " in table and "no such file" in table
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
def test_misuse_ends_before_anything_runs(words, message):
    with pytest.raises(KsegError, match=message):
        reproduce.read_arguments(words)


def test_scales_keep_the_proportions():
    """Half the side for Resize 256, batch 4 where the reference has 4; full is the flagfile itself."""

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


def test_the_batch_averaged_miou_differs():
    """A class that one batch gets all wrong weighs as much there as everywhere else together."""
    matrices = np.zeros((3, 2, 2), "int64")
    matrices[0] = [[90, 0], [0, 10]]
    matrices[1] = [[99, 0], [1, 0]]
    matrices[2] = [[100, 0], [0, 0]]
    assert batch_mean_iou(matrices, 3) == scores(matrices.sum(0)).mean_iou
    expected = np.mean([1, (99 / 100 + 0) / 2, 1])
    assert batch_mean_iou(matrices, 1) == pytest.approx(expected)
    assert batch_mean_iou(matrices, 2) == pytest.approx(np.mean([(189 / 190 + 10 / 11) / 2, 1]))


def test_the_table_compares_only_the_same_data(tmp_path):
    row = {"id": "0427-1", "title": "FCN", "leaderboard": 0.3218, "validation": None, "failed": "error: <b> | no"}
    write_table(tmp_path, "the reference's data", [row], comparable=True)
    table = (tmp_path / "experiments.md").read_text()
    assert "do not compare" not in table
    assert "| 0427-1 FCN | 0.3218 |  | failed: error: <b> / no |" in table


def test_the_readme_shows_the_results():
    """The scores of CamVid and the facades, by experiment."""
    text = (ROOT / "experiments" / "README.md").read_text()
    for experiment in read_experiments():
        (line,) = re.findall(rf"^\| {experiment.id} .*", text, re.M)
        files = [ROOT / "experiments" / "results" / f"small-{data}" / f"{experiment.id}.json" for data in ("camvid", "facade")]
        scores = [json.loads(file.read_text())[name] for file in files for name in ("mean_iou", "batch_mean_iou")]
        assert [cell.strip() for cell in line.split("|")][4:8] == [f"{score:.4f}" for score in scores]


def test_a_flagfile_without_a_header_is_refused(tmp_path):
    (tmp_path / "0501_1_unet.txt").write_text("--model=unet\n")
    with pytest.raises(ValueError, match=r"0501_1_unet\.txt: must begin with"):
        read_experiments(tmp_path)
