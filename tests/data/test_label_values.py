"""Masks of 0 and 255: refused unless the label map says what 255 is."""

import re

import keras
import numpy as np
import pytest
from PIL import Image

from kseg import train
from kseg.config import DataConfig, InspectConfig, ReportConfig, TrainConfig
from kseg.data.inspection.inspect import inspect
from kseg.data.label_values import unclear_void
from kseg.data.sources.arrays import ArrayDataset
from kseg.data.sources.folder import FolderDataset
from kseg.metrics.confusion_matrix import ConfusionMatrix
from kseg.metrics.evaluation import Evaluation
from kseg.metrics.evaluation_files import write_evaluation
from kseg.reports.run_report import report
from kseg.runtime.run_dir import RunDir
from kseg.training.progress import Progress, TrainState
from kseg.training.run_data import open_data
from kseg.utils.errors import KsegError
from kseg.utils.files import write_text

MASKS = [[[0, 0, 255], [0, 255, 255]], [[0, 0, 0], [0, 0, 0]], [[255, 255, 255], [255, 255, 255]]]


def masks(folder, values):
    """Splits train and val of the same images; `values` are the label images."""
    for split in ("train", "val"):
        for number, label in enumerate(np.array(values, np.uint8)):
            for kind, pixels in (("images", np.full((*label.shape, 3), 40 * number, np.uint8)), ("labels", label)):
                path = folder / kind / split / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    return folder


def config(folder, text, name="map.yaml"):
    (folder / name).write_text(text)
    return DataConfig(dataset="folder", data_dir=str(folder), label_map=str(folder / name))


def test_masks_of_0_and_255_are_refused_before_anything_is_written(tmp_path):
    data = config(masks(tmp_path, MASKS), "background\nfg\n", "names.txt")
    flags = [f"--{name}={getattr(data, name)}" for name in ("dataset", "data_dir", "label_map")]
    with pytest.raises(KsegError, match="split train: its label images hold only the values 0 ") as error:
        train.main(["kseg.train", *flags, f"--run_dir={tmp_path / 'run'}", "--workers=0"])
    assert "names.txt does not say what 255 is" in str(error.value)
    assert "'0: background' and '255: fg'" in str(error.value)
    assert "'255: ignore'" in str(error.value)
    assert not (tmp_path / "run").exists()
    (issue,) = [issue for issue in inspect(InspectConfig(data=data, splits=("train",))).issues if issue.kind == "value 255"]
    assert (issue.level, issue.split) == ("error", "train")


@pytest.mark.parametrize(("line", "last"), [("255: fg", 1), ("255: ignore", 255)])
def test_what_the_message_says_works(tmp_path, line, last):
    data = config(masks(tmp_path, MASKS), f"0: background\n{line}\n")
    run = open_data(TrainConfig(data=data))
    assert run.train.load(0).label.tolist() == [[0, 0, last], [0, last, last]]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([[[0, 1, 255]]], "0: background\n1: fg\n"),  # void beside two classes
        ([[[0, 7, 255]]], "0: ignore\n7: fg\n255: ignore\n"),
        ([[[0, 7, 7]]], "0: ignore\n7: fg\n"),  # no 255
        ([[[0, 7, 255]]], "0: fg\n7: fg\n"),
        ([[[0, 255, 255]], [[0, 1, 1]]], "0: background\n1: fg\n"),
    ],
)
def test_other_values_are_void_as_before(tmp_path, values, text):
    open_data(TrainConfig(data=config(masks(tmp_path, values), text)))


def test_one_value_and_255_of_many_classes(tmp_path):
    with pytest.raises(KsegError, match=r"the values 3 \('c'\) and 255.*'3: c' and '255: a'"):
        open_data(TrainConfig(data=config(masks(tmp_path, [[[3, 255]]]), "1: a\n2: b\n3: c\n")))
    with pytest.raises(KsegError, match=r"the value 255, and map.yaml"):
        open_data(TrainConfig(data=config(masks(tmp_path, [[[255, 255]]]), "0: a\n1: b\n")))


def test_from_python(tmp_path):
    masks(tmp_path, MASKS)
    data = FolderDataset(tmp_path, "train", label_map={0: "background", 255: "fg"})
    assert data.load(0).label.tolist() == [[0, 0, 1], [0, 1, 1]]
    assert data.label_values(0).tolist() == [0, 255]


def test_a_label_map_of_colours_is_clear(tmp_path):
    masks(tmp_path, MASKS)
    data = FolderDataset(tmp_path, "train", label_map={"background": [0, 0, 0], "ignore": [255, 255, 255]})
    assert data.load(0).label.tolist() == [[0, 0, 255], [0, 255, 255]]
    assert unclear_void(data, [bytes([0, 255])]) is None


def test_the_remedy_in_python(tmp_path):
    masks(tmp_path, MASKS)
    occurring = [bytes([0, 255])]
    folder = FolderDataset(tmp_path, "train", class_names=["background", "fg"])
    assert "pass label_map={0: 'background', 255: 'fg'}, or one with 255: 'ignore'" in unclear_void(folder, occurring)
    labels = np.array(MASKS, np.uint8)
    arrays = ArrayDataset(np.zeros((3, 2, 3, 3), np.uint8), labels, class_names=["background", "fg"])
    assert "labels[labels == 255] = 1), or pass ignore_index=255" in unclear_void(arrays, occurring)
    stated = ArrayDataset(np.zeros((3, 2, 3, 3), np.uint8), labels, class_names=["background", "fg"], ignore_index=255)
    assert unclear_void(stated, occurring) is None
    labels[labels == 255] = 1
    fixed = ArrayDataset(np.zeros((3, 2, 3, 3), np.uint8), labels, class_names=["background", "fg"])
    assert unclear_void(fixed, occurring) is None
    assert fixed.load(0).label.tolist() == [[0, 0, 1], [0, 1, 1]]


def test_a_mean_of_one_class_says_so():
    one = Evaluation(("background", "fg"), np.array([[[6, 0], [0, 0]]]))
    text = one.summary("val")
    assert text.startswith("mIoU 1.0000 (full val set, 1 images, 2 classes, 1 of them absent and left out: ")
    assert "no mean, but the IoU of 'background' alone" in text
    assert "alone" not in Evaluation(("a", "b"), np.array([[[6, 0], [1, 0]]])).summary("val")


def test_a_comparison_says_so_too(tmp_path):
    matrices = {"one": [[6, 0], [0, 0]], "two": [[6, 0], [1, 0]]}
    for name, matrix in matrices.items():
        run = RunDir(tmp_path / name)
        run.path.mkdir()
        write_text(run.config, TrainConfig().to_json())
        write_evaluation(run.evaluation, Evaluation(("background", "fg"), np.array([matrix])), "val")
    page, text = report(ReportConfig(compare=tuple(str(tmp_path / name) for name in matrices), output=str(tmp_path / "c.html")))
    assert text.splitlines()[-1] == "mIoU one 1.0000 (of 'background' alone), two 0.4286"
    assert "of background alone" in page.read_text()


def test_a_split_of_one_class_is_warned_about(tmp_path, capsys):
    data = open_data(TrainConfig(data=config(masks(tmp_path, [[[0, 0]]]), "0: background\n1: fg\n")))
    assert data.only_class == "background"
    assert "split val: every labelled pixel is of class 'background'" in capsys.readouterr().err


def test_an_epochs_line_says_so(capsys):
    model = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Conv2D(2, 1)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss=loss, metrics=[ConfusionMatrix(2)])
    images, labels, state = np.ones((1, 4, 4, 3), "float32"), np.zeros((1, 4, 4), "int32"), TrainState(steps=1)
    for only_class, ends in (("background", " (labels of 'background' alone)"), (None, "")):
        progress = Progress(state, batch_size=1, epochs=1, only_class=only_class, quiet=True)
        model.fit(images, labels, validation_data=(images, labels), verbose=0, callbacks=[state, progress])
        assert re.search(rf"val_mean_iou \d\.\d{{4}}{re.escape(ends)}, ", capsys.readouterr().out)
