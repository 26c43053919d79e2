"""kseg.predict on a run directory with a small random network: what it writes, and every way to ask for it wrongly."""

import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from random_run import random_run

from kseg import evaluate, predict
from kseg.config import DataConfig
from kseg.data import build_dataset
from kseg.data.check import open_split
from kseg.data.palette import palette
from kseg.inference.predictor import Predictor
from kseg.inference.submission import read_submission, resize_prediction
from kseg.inference.writers import image_files
from kseg.utils.errors import KsegError


@pytest.fixture(scope="module")
def data(tiny_coco, tmp_path_factory):
    """tiny_coco with a split "test": the pictures of val in another order, in folders, without annotations."""
    folder = tmp_path_factory.mktemp("data")
    shutil.copytree(tiny_coco, folder, dirs_exist_ok=True)
    content = json.loads((folder / "annotations/val.json").read_text())
    for number, image in enumerate(content["images"]):
        target = folder / f"images/test/batch_{number % 2}/{image['file_name']}"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "images/val" / image["file_name"], target)
        image["file_name"] = f"batch_{number % 2}/{image['file_name']}"
    content |= {"images": content["images"][::-1], "annotations": []}
    (folder / "annotations/test.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    return random_run(tmp_path_factory.mktemp("runs") / "run", data)


def test_every_output_shows_the_predictions_of_every_image(run, data, tmp_path, capsys):
    output = tmp_path / "new"
    labels, overlays = output / "labels", output / "overlays"
    predict.main(
        ["kseg.predict", f"--model={run.path}", "--split=test", f"--output={output}", "--write=labels,overlays,submission"]
    )
    assert capsys.readouterr().out.startswith("predicted 5 images of split test: ")
    dataset = build_dataset(DataConfig(dataset="coco", data_dir=str(data)), "test")
    model = keras.saving.load_model(run.model)
    expected = [prediction for _, prediction in Predictor(model, dataset, image_size=(32, 40), batch_size=2)(range(5))]
    assert len(np.unique(np.concatenate([prediction.ravel() for prediction in expected]))) > 1
    rows = list(read_submission(output / "submission.csv"))
    listed = [image["file_name"] for image in json.loads((data / "annotations/test.json").read_text())["images"]]
    assert [name for name, _ in rows] == listed
    assert listed[0] == "batch_0/004.png"
    for (name, ids), prediction in zip(rows, expected, strict=True):
        np.testing.assert_array_equal(ids, resize_prediction(prediction))
        with Image.open(labels / name) as label:
            assert label.mode == "P"
            np.testing.assert_array_equal(np.asarray(label), prediction)
            np.testing.assert_array_equal(np.asarray(label.convert("RGB")), palette(4)[prediction])
        with Image.open(overlays / name) as picture, Image.open(data / "images/test" / name) as image:
            mixed = np.asarray(image) * 0.5 + palette(4)[prediction] * 0.5
            assert np.abs(np.asarray(picture) - mixed).max() <= 1
    assert not list(tmp_path.rglob(".tmp-*"))


def test_names_that_differ_in_their_suffix_alone_keep_it():
    paths = [str(path) for path in image_files(["a/1.jpg", "a/1.png", "b/1.png"])]
    assert paths == ["a/1.jpg", "a/1.png", "b/1"]
    paths = [str(path) for path in image_files(["1.jpg", "1.png", "1.png.gif"])]
    assert paths == ["1.jpg", "1.png", "1.png.gif"]


def test_a_split_without_annotations_neither_trains_nor_is_scored(run, data):
    with pytest.raises(KsegError, match="split test has no annotations"):
        open_split(DataConfig(dataset="coco", data_dir=str(data)), "test")
    with pytest.raises(KsegError, match="split test has no annotations"):
        evaluate.main(["kseg.evaluate", f"--model={run.path}", "--split=test"])


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--write="], "--write= is empty: name one or more of labels, "),
        (["--write=label"], "--write=label: must be one of .*did you mean labels"),
        (["--output="], "--output= is empty"),
        (["--output={tmp}/taken"], "--output=.*submission.csv is a folder, but has to be a file"),
        (["--output={tmp}/file"], "--output=.*file/submission.csv cannot be written"),
        (["--output={tmp}/file/below", "--write=labels"], "--output=.*below/labels cannot be written"),
        (["--split=tset"], "no file annotations/tset.json.*: test, train, val"),
        (["--ignore_categories=red"], "has 4 classes, but split val of the data has 3"),
        (["--video=v.mp4", "--write=coco"], "--write=coco: lists images, not a video's frames"),
        (["--every=2"], "--every=2: needs --video=FILE"),
        (["--video_format=avi"], "--video_format=avi: needs --video=FILE"),
        (["--labels_dir=x"], "--labels_dir=x is now --output=DIR --write=labels$"),
        (["--model_file=x"], "--model_file=x is now --model=x$"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(run, tmp_path, flags, says):
    (tmp_path / "file").write_text("")
    (tmp_path / "taken/submission.csv").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    arguments = ["--write=submission", f"--output={tmp_path / 'new'}", *(flag.format(tmp=tmp_path) for flag in flags)]
    with pytest.raises(KsegError, match=says) as error:
        predict.main(["kseg.predict", f"--model={run.path}", *arguments])
    assert "\n" not in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_second_call_does_not_take_the_results_of_the_first(run, data, tmp_path, monkeypatch, capsys):
    shutil.copytree(data / "images/val", tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    command = ["kseg.predict", f"--model={run.path}", "."]
    predict.main(command)
    first = {path: path.read_bytes() for path in sorted(Path("predictions").rglob("*.png"))}
    count = len(first) // 2
    assert f"predicted {count} images" in capsys.readouterr().out
    predict.main(command)
    shown = capsys.readouterr()
    assert f"left out {2 * count} images below predictions/labels and predictions/overlays" in shown.err
    assert f"predicted {count} images" in shown.out
    assert {path: path.read_bytes() for path in sorted(Path("predictions").rglob("*.png"))} == first


def test_other_classes_than_the_runs_are_refused(run, data, tmp_path):
    content = json.loads((data / "annotations/val.json").read_text())
    content["categories"][1]["name"] = "lime"
    (data / "annotations/other.json").write_text(json.dumps(content))
    with pytest.raises(KsegError, match=r"class 'lime' where the run .* has 'green'"):
        predict.main(["kseg.predict", f"--model={run.path}", "--split=other", "--images=images/val", f"--output={tmp_path}"])


def test_a_picture_that_vanishes_leaves_no_half_submission(run, data, tmp_path, monkeypatch):
    from kseg.data.dataset import BadSample
    from kseg.data.sources.coco import CocoDataset

    load_image, seen = CocoDataset.load_image, []

    def vanish(self, index):
        seen.append(index)
        if len(seen) > 8:  # five reads are the check
            raise BadSample(f"{self.name(index)}: the file does not exist.")
        return load_image(self, index)

    monkeypatch.setattr(CocoDataset, "load_image", vanish)
    with pytest.raises(KsegError, match="the file does not exist"):
        predict.main(
            ["kseg.predict", f"--model={run.path}", "--split=test", "--workers=0", f"--output={tmp_path}", "--write=submission"]
        )
    assert list(tmp_path.iterdir()) == []
