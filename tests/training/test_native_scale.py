"""Training and validation at the images' own size."""

import contextlib
import csv
import html
import io
import json

import keras
import numpy as np
import pytest
from compilations import compilations
from tiny_model import flags

import kseg
from kseg import evaluate, predict, train
from kseg.config import DataConfig
from kseg.data import build_dataset
from kseg.models.saving import load_model
from kseg.runtime.run_dir import RunDir
from kseg.utils.errors import KsegError

WINDOW = ("--val_window=32x40", "--image_size=32x40", "--epochs=1")


@pytest.fixture(scope="module")
def windowed(tiny_coco, tmp_path_factory):
    """Returns a run with --val_window, what it printed, and the names of the compiled functions."""
    run = RunDir(tmp_path_factory.mktemp("runs") / "windowed")
    out = io.StringIO()
    with compilations() as compiled, contextlib.redirect_stdout(out):
        train.main(flags(tiny_coco, run.path, *WINDOW, "--report", "--tensorboard"))
    return run, out.getvalue(), tuple(compiled)


def mean_iou_of_tiles(model, data, window):
    """The mean IoU from windows that a loop cuts out, each pixel predicted by the window that has it first."""
    matrix = np.zeros((4, 4))
    for index in range(len(data)):
        sample = data.load(index)
        height, width = sample.label.shape
        prediction = np.full(sample.label.shape, 99)
        for top in range(0, height, window[0]):
            for left in range(0, width, window[1]):
                first = max(0, min(top, height - window[0])), max(0, min(left, width - window[1]))
                place = tuple(slice(start, start + side) for start, side in zip(first, window, strict=True))
                found = np.asarray(model.predict_on_batch(sample.image[place][None]))[0].argmax(-1)
                prediction[place] = np.where(prediction[place] == 99, found, prediction[place])
        np.add.at(matrix, (sample.label, prediction), 1)
    union = matrix.sum(0) + matrix.sum(1) - np.diag(matrix)
    return (np.diag(matrix)[union > 0] / union[union > 0]).mean()


@pytest.mark.slow
def test_validation_at_native_size(windowed, tiny_coco, tmp_path, capsys):
    run, _, compiled = windowed
    row = next(csv.DictReader(run.metrics.read_text().splitlines()))
    data = build_dataset(DataConfig(dataset="coco", data_dir=str(tiny_coco)), "val")
    by_hand = mean_iou_of_tiles(load_model(run.model), data, (32, 40))
    assert float(row["val_mean_iou"]) == pytest.approx(by_hand, rel=1e-6)
    if keras.backend.backend() == "jax":
        assert compiled.count("jit(test_step)") == 1

    at_end = json.loads(run.evaluation.read_text())
    scores = []
    for more in ((), ("--window=32x40",), ("--image_size=32x40",)):
        output = tmp_path / "scores.json"
        evaluate.main(["kseg.evaluate", f"--model={run.path}", "--workers=0", f"--output={output}", *more])
        scores.append(json.loads(output.read_text()))
    assert scores[0] == scores[1] == at_end != scores[2]
    assert at_end["prediction"] == {"window": "32x40", "overlap": 0.25}
    assert ", window 32x40, overlap 0.25" in capsys.readouterr().out

    picture = data.load(0).image
    shown = kseg.load(run.path).predict(picture).labels
    np.testing.assert_array_equal(kseg.load(run.model).predict(picture).labels, shown)
    np.testing.assert_array_equal(kseg.load(run.path).predict(picture, window=(32, 40)).labels, shown)
    kseg.load(run.path).save(tmp_path / "folder")
    assert json.loads((tmp_path / "folder/config.json").read_text())["window"] == [32, 40]
    with pytest.raises(KsegError, match="was validated by windows of 32x40, which one device computes"):
        predict.main(["kseg.predict", f"--model={run.model}", "--distribution=data_parallel", str(tiny_coco / "images/val")])


@pytest.mark.slow
def test_a_run_says_at_which_scale_it_is_scored(windowed):
    run, out, _ = windowed
    assert (
        "scale   val_mean_iou by windows of 32x40 side by side at the images' own size; the best epoch is scored by over" in out
    )
    assert "(windows of 32x40), " in next(line for line in out.splitlines() if line.startswith("epoch 1/1: "))
    assert "by overlapping windows of 32x40" in out.splitlines()[-1]
    page = " ".join(html.unescape(run.report.read_text()).split())
    assert "val split, at the images' own size, by overlapping windows of 32x40." in page
    assert "it is computed during training by windows of 32x40 pixels (height x width) that lie side by side." in page
    assert json.loads(run.transforms.read_text())["validation"] == {"windows": [32, 40]}


REFUSED = [
    (["--val_window=64"], "--val_window=64x64: is larger than every image of split val, at most 50x64 (height x width); pass "
     "--val_window=50x64 or less"),
    (["--val_window=16"], "--val_window=16: height and width must be at least 32"),
    (["--val_window=a"], "--val_window=a: expected a size such as 256"),
]  # fmt: skip


@pytest.mark.parametrize(("more", "message"), REFUSED)
def test_windows_that_cannot_be(tiny_coco, tmp_path, more, message):
    with pytest.raises(KsegError) as error:
        train.main(flags(tiny_coco, tmp_path / "run", *more))
    assert message in str(error.value)
    assert not (tmp_path / "run").exists()
