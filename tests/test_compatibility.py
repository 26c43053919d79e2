"""Files of an earlier version load, score, and resume: tests/files/65221f7 was written by the commit of that name.

runA: test_tiny of tests/tiny_model.py on tiny_coco, with adamw, an EMA, a frozen backbone, chunked loss and early stopping; the
checkpoints are the one within epoch 2 and the one at its end. runB: adam, ce+0.5*dice, mixed_float16, one_cycle, accumulated
gradients; the checkpoint of epoch 1. folder: runA as a model folder. logits.npz: what the two models made of the first validation
image, at every fourth pixel. The commands stand in environment.json; config.json is of format 2.
"""

import json
import os
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tiny_model
from conftest import ROOT
from PIL import Image

from kseg import evaluate
from kseg.config import TrainConfig
from kseg.inference.source import find_source
from kseg.models.saving import load_model
from kseg.runtime.run_dir import RunDir
from kseg.sharing.hub import load_folder

FILES = ROOT / "tests/files/65221f7"
assert tiny_model  # registers test_tiny


def logits(model, data):
    """As logits.npz has them."""
    image = np.asarray(Image.open(data / "images/val/000.png").convert("RGB"))
    return np.asarray(keras.ops.convert_to_numpy(model.predict_on_batch(image[None])))[:, ::4, ::4]


@pytest.mark.parametrize(("name", "tolerance"), [("runA", 1e-5), ("runB", 5e-3)])  # runB computes in float16
def test_a_keras_file_predicts_what_it_did(tiny_coco, name, tolerance):
    with np.load(FILES / "logits.npz") as recorded:
        expected = recorded[name]
    for model in (load_model(FILES / name / "model.keras"), find_source(str(FILES / name)).load()):
        np.testing.assert_allclose(logits(model, tiny_coco), expected, rtol=0, atol=tolerance * expected.std())


def test_a_model_folder_predicts_what_it_did(tiny_coco):
    with np.load(FILES / "logits.npz") as recorded:
        expected = recorded["runA"]
    shared = load_folder(FILES / "folder")
    assert shared.class_names == ("background", "red", "green", "blue")
    for model in (shared.model, find_source(str(FILES / "folder")).load()):
        np.testing.assert_allclose(logits(model, tiny_coco), expected, rtol=0, atol=1e-5 * expected.std())


@pytest.mark.parametrize("name", ["runA", "runB"])
def test_a_run_scores_what_it_did(tiny_coco, tmp_path, name):
    """But for pixels between two classes, which may fall to the other on another processor."""
    file = tmp_path / "scores.json"
    evaluate.main(["kseg.evaluate", f"--model={FILES / name}", f"--data_dir={tiny_coco}", "--workers=0", f"--output={file}"])
    scores, recorded = (json.loads(path.read_text()) for path in (file, FILES / name / "evaluation.json"))
    assert scores["mean_iou"] == pytest.approx(recorded["mean_iou"], abs=1e-3)
    assert np.abs(np.subtract(scores["confusion_matrix"], recorded["confusion_matrix"])).sum() <= 20
    assert scores["class_names"] == recorded["class_names"]


STOPPED = [("runA", "step-00000005"), ("runA", "step-00000006"), ("runB", "step-00000003")]
"""A run and the checkpoint that is its newest: in the middle of an epoch, and at the end of one."""


@pytest.fixture(scope="module")
def resumed(tiny_coco, tmp_path_factory):
    """{(name, checkpoint): RunDir}, all resumed in one process without the tests' XLA_FLAGS, as they were written."""
    if keras.backend.backend() != "jax":
        pytest.skip("the runs are of JAX, and --loss_chunks needs it")
    runs = {stopped: RunDir(tmp_path_factory.mktemp("resumed") / "run") for stopped in STOPPED}
    for (name, checkpoint), run in runs.items():
        run.best.parent.mkdir(parents=True)
        for file in ("config.json", "environment.json", f"checkpoints/{checkpoint}.keras"):
            shutil.copy(FILES / name / file, run.path / file)
    program = (
        "import sys, tiny_model, kseg.train\nfor run in sys.argv[2:]: kseg.train.main([*sys.argv[1].split(), '--run_dir=' + run])"
    )
    flags = f"kseg.train --resume --noreport --data_dir={tiny_coco}"
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment["PYTHONPATH"] = str(ROOT / "tests")
    command = [sys.executable, "-c", program, flags, *(str(run.path) for run in runs.values())]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    for _, checkpoint in runs:
        assert f"{checkpoint}.keras" in done.stdout
    return runs


@pytest.mark.slow
@pytest.mark.parametrize(("name", "checkpoint"), STOPPED)
def test_a_run_resumes_to_what_it_became(resumed, name, checkpoint):
    run, recorded = resumed[name, checkpoint], RunDir(FILES / name)
    rows, expected = run.read_metrics(), recorded.read_metrics()
    assert [list(row) for row in rows] == [list(row) for row in expected]
    for ours, theirs in zip(rows, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-7)
    scores = [json.loads(path.read_text())["mean_iou"] for path in (run.evaluation, recorded.evaluation)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-3)


@pytest.mark.parametrize("name", ["runA", "runB"])
def test_config_json_reads(name):
    """Format 2 as it is, and format 1, in which groups could be nested and the number was missing."""
    text = (FILES / name / "config.json").read_text()
    config = TrainConfig.from_json(text)
    assert config.objective.loss_chunks == (2 if name == "runA" else 0)
    assert (config.model, config.image_size, config.optimization.optimizer) == (
        "test_tiny", (48, 64), "adamw" if name == "runA" else "adam",
    )  # fmt: skip
    content = json.loads(text)
    assert content.pop("config_format") == 2
    assert TrainConfig.from_json(json.dumps(content)) == config
    nested = {"data": {key: content.pop(key) for key in ("dataset", "data_dir", "background")}}
    assert TrainConfig.from_json(json.dumps(content | nested)) == config
    assert TrainConfig.from_json(config.to_json()) == config
