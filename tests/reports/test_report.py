import base64
import dataclasses
import html
import json
import re

import matplotlib
import numpy as np
import pytest
from report_pages import CONFIG, Pictures, decode, report, write_metrics

from kseg.config import DataConfig, TrainConfig
from kseg.data.palette import IGNORED, colorize, palette
from kseg.metrics.evaluation import Evaluation
from kseg.metrics.scores import scores
from kseg.reports.examples import WRONG


def test_numbers_are_the_evaluations(tmp_path):
    pictures = Pictures(np.linspace(0, 0.5, 12))
    write_metrics(tmp_path, ["0,1e-3,2.5,0.1,9,2.0,0.2", "1,5e-4,1.5,0.3,9,1.8,0.4321"])
    _, page = report(tmp_path, pictures)
    total = pictures.evaluation().scores
    headline = re.findall(r"<dt>(.*?)</dt><dd>([\d.]+)", page.source)
    assert headline == [
        ("mIoU", f"{total.mean_iou:.4f}"),
        ("Baseline mIoU", f"{total.constant_mean_iou:.4f}"),
        ("Pixel accuracy", f"{total.pixel_accuracy:.4f}"),
        ("Mean Dice", f"{total.mean_dice:.4f}"),
    ]
    share, columns = total.pixels / total.pixels.sum(), (total.iou, total.precision, total.recall, total.dice)
    rows = [
        [name, *(f"{values[index]:.4f}" for values in columns), f"{total.pixels[index]:,}", f"{share[index]:.2%}"]
        for index, name in enumerate(pictures.class_names)
    ]
    assert page.rows[1:4] == rows
    assert "12 images, 3 classes" in page.text
    assert "epoch 2 of 2" in page.text
    assert "val_mean_iou (0.4321)" in page.text
    assert "96x128 (height x width)" in page.text
    assert f"python -m kseg.evaluate --model={tmp_path}" in page.text


@pytest.mark.parametrize(
    ("count", "best", "median", "worst"),
    [
        (1, [0], [], []),
        (2, [0], [], [1]),
        (4, [0, 1], [2], [3]),
        (8, [0, 1, 2], [3, 4], [7, 6, 5]),
        (21, [0, 1, 2], [9, 10, 11], [20, 19, 18]),
    ],
)
def test_best_median_and_worst_images_are_shown(tmp_path, count, best, median, worst):
    order = np.random.default_rng(3).permutation(count)
    pictures = Pictures((np.arange(count) / 25)[np.argsort(order)])  # image order[k] is the k-th best
    run, page = report(tmp_path, pictures)
    ranking = pictures.evaluation().ranking()
    np.testing.assert_array_equal(ranking, order)
    expected = [int(ranking[place]) for place in best + median + worst]
    assert pictures.asked == expected
    shown = re.findall(r'<figcaption><b>mIoU ([\d.]+)</b> <span class="name">image_(\d+).jpg', page.source)
    assert [int(name) for _, name in shown] == expected
    assert [value for value, _ in shown] == [f"{scores(pictures.predict(index)[0]).mean_iou:.4f}" for index in expected]
    names = {
        f"{group}_{k + 1}" for group, places in (("best", best), ("median", median), ("worst", worst)) for k in range(len(places))
    }
    assert {path.stem for path in run.figures.iterdir()} == names | {"iou", "confusion_matrix"}


def test_example_pictures_show_image_label_and_prediction(tmp_path):
    pictures = Pictures([0.2])
    run, page = report(tmp_path, pictures)
    sample, prediction = pictures.load(0), pictures.predict(0)[1]
    image, label, predicted, errors = (np.asarray(decode(source["src"]), "int32") for source in page.images[-4:])
    assert [source["alt"].split()[0] for source in page.images[-4:]] == ["image", "label", "prediction", "errors"]
    assert np.abs(image - sample.image).max() < 16  # JPEG
    counted = sample.label != 255
    np.testing.assert_array_equal(label[counted], colorize(sample.label)[counted])
    np.testing.assert_array_equal(predicted[counted], colorize(prediction)[counted])
    np.testing.assert_array_equal(label[~counted].min(-1), label[~counted].max(-1))  # greys
    assert len(np.unique(label[~counted])) == 2
    assert (predicted[~counted] == IGNORED).all(-1).any()
    red = (errors == WRONG).all(-1)
    np.testing.assert_array_equal(red, counted & (prediction != sample.label))
    assert 0.15 < red[counted].mean() < 0.25
    np.testing.assert_array_equal(errors[~red].min(-1), errors[~red].max(-1))  # greys
    assert (errors[~counted] == 120).all(-1).any()
    assert f"{red[counted].mean():.2%} of the labelled pixels wrong" in page.text
    strip = np.asarray(decode(run.figures / "best_1.png"))
    assert strip.shape == (40, 4 * 60 + 3 * 8, 3)
    np.testing.assert_array_equal(strip[:, :60], sample.image)
    np.testing.assert_array_equal(strip[:, -60:], errors)


def test_legend_lists_the_classes_that_occur(tmp_path):
    class Few(Pictures):
        def load(self, index):
            sample = super().load(index)
            return dataclasses.replace(sample, label=np.where(sample.label == 2, 1, sample.label))

    pictures = Few([0.0], class_names=("sky", "road", "car", "tree"))
    pictures.predict = lambda index: (np.diag([9, 9, 0, 0]), np.full((40, 60), 1, "int32"))
    _, page = report(tmp_path, pictures)
    legend = re.search(r'<ul class="legend">(.*?)</ul>', page.source, re.DOTALL)[1]
    assert re.findall(r'class="name">(\w+)<', legend) == ["sky", "road", "tree"]
    for index in (0, 1, 3):
        assert "#{:02x}{:02x}{:02x}".format(*palette(4)[index]) in legend
    assert "ignored" in legend


def test_page_is_one_file_without_scripts_or_network(tmp_path):
    write_metrics(tmp_path, ["0,1e-3,2.5,0.1,9,2.0,0.2"])
    _, page = report(tmp_path, Pictures([0.1, 0.2]))
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert not re.search(r"https?://|@import|url\(", page.source)
    assert "default-src 'none'" in page.source
    assert len(page.images) == 3 + 2 * 4
    for image in page.images:
        assert min(decode(image["src"]).size) >= 1
        assert image["alt"]


def test_names_are_text_not_html(tmp_path):
    attack = "<script>alert(1)</script>\"'&$x_{"
    names = ("background", f"{attack}\n", "日本語 \udcff\x00\u202e $\\frac{", "long " * 40)
    config = dataclasses.replace(
        CONFIG, data=DataConfig(dataset="coco", data_dir=attack), model="<script>", backbone=attack, val_split=attack
    )
    (tmp_path / "skipped.txt").write_text(f"train: {attack}\n")
    (tmp_path / "environment.json").write_text(json.dumps({"command": [attack], "versions": {attack: attack}}))
    _, page = report(tmp_path, Pictures([0.3], names, names=[f"\ud800{attack}.jpg"]), config)
    assert "script" not in page.tags
    assert page.text.count(attack) >= 8
    assert page.images[-1]["alt"] == f"errors of ?{attack}.jpg"
    assert html.escape(attack, quote=False)[:9] in page.source


def test_same_inputs_give_the_same_bytes_whatever_the_matplotlibrc(tmp_path):
    contents = []
    for name, settings in (("a", {}), ("b", {"axes.facecolor": "red", "savefig.dpi": 50, "text.usetex": True})):
        write_metrics(tmp_path / name, ["0,1e-3,2.5,0.1,9,2.0,0.2", "1,1e-3,2.5,0.1,9,2.0,0.2"])
        with matplotlib.rc_context(settings):
            run, _ = report(tmp_path / name, Pictures([0.1, 0.2]))
        contents.append({path.name: path.read_bytes() for path in run.figures.iterdir()})
    assert len(contents[0]) == 5
    assert contents[0] == contents[1]


@pytest.mark.parametrize("count", [1, 16, pytest.param(50, marks=pytest.mark.slow)])
def test_any_number_of_classes(tmp_path, count):
    pictures = Pictures(
        [0.3, 0.4], [f"class number {index} of the data set" for index in range(count)], sizes=[(40, 60), (8, 3000)]
    )
    run, page = report(tmp_path, pictures)
    assert f"{count} class" in page.text
    assert max(decode(run.figures / "worst_1.png").size) <= 4 * 640 + 3 * 8
    assert decode(run.figures / "iou.png").width == 7 * 144


def test_absent_and_unlabelled_classes_are_named(tmp_path):
    matrix = np.zeros((1, 4, 4), "int64")
    matrix[0, 0] = [6, 2, 0, 0]
    matrix[0, 2, 2] = 4
    pictures = Pictures([0.0], ("sky", "road", "car", "tree"))
    _, page = report(tmp_path, pictures, evaluation=Evaluation(pictures.class_names, matrix))
    assert "tree is absent from labels and predictions, and left out of the means" in page.text
    assert "road is predicted but never labelled in this split. The IoU is 0 and counts in the mean" in page.text
    assert ["tree", *["absent"] * 4, "0", "0.00%"] in page.rows
    assert ["road", "0.0000", "0.0000", "-", "0.0000", "0", "0.00%"] in page.rows
    means = [(6 / 8 + 0 + 1) / 3, (1 + 0 + 1) / 3, (6 / 8 + 1) / 2, (12 / 14 + 0 + 1) / 3]
    assert ["Mean", *(f"{mean:.4f}" for mean in means), "", ""] in page.rows
    assert "sky : IoU 0.7500; 25% of its pixels are predicted as road ." in page.text
    assert "tree : IoU" not in page.text and "road : IoU" not in page.text


def test_nothing_labelled(tmp_path):
    pictures = Pictures([0.0, 0.0])
    evaluation = Evaluation(pictures.class_names, np.zeros((2, 3, 3), "int64"))
    _, page = report(tmp_path, pictures, evaluation=evaluation, best_epoch=0)
    assert "Every pixel of the split is ignored" in page.text
    assert "2 images have only ignored pixels and no mIoU" in page.text
    assert re.findall(r"<dd>(.*?)\s*</dd>", page.source) == ["n/a"] * 4
    assert pictures.asked == []


@pytest.mark.parametrize(
    "rows",
    [
        ["0,1e-3,2.5,0.1,9,2.0,0.2"],
        ["0,1e-3,inf,nan,9,nan,nan", "1,1e-3,nan,nan,9,-inf,nan"],
        ["0,1e-3,2.5,0.1,9,2.0,0.2", "1,1e-3,2.5,0.1,9,NA,NA,more", "garbage", "2,1e-3,2.5"],
    ],
)
def test_curves_of_odd_logs(tmp_path, rows):
    write_metrics(tmp_path, rows)
    run, page = report(tmp_path, Pictures([0.1]), best_epoch=1)
    curves = next(image for image in page.images if image["alt"].startswith("Loss"))
    assert base64.b64decode(curves["src"].partition(",")[2]) == (run.figures / "curves.png").read_bytes()


@pytest.mark.parametrize("content", [None, "epoch,loss\n"])
def test_no_curves_without_epochs(tmp_path, content):
    if content is not None:
        (tmp_path / "metrics.csv").write_text(content)
    run, page = report(tmp_path, Pictures([0.1]))
    assert "metrics.csv has no epochs" in page.text
    assert not (run.figures / "curves.png").exists()


def test_skipped_samples_are_counted_and_the_first_listed(tmp_path):
    (tmp_path / "skipped.txt").write_text("".join(f"train: bad_{index}.jpg\n" for index in range(14)))
    _, page = report(tmp_path, Pictures([0.1]))
    assert "not a benchmark" not in page.text
    assert "14 unusable samples were skipped" in page.text
    assert re.findall(r"bad_(\d+)", page.text) == [str(index) for index in range(10)]


def test_synthetic_data_is_called_a_demonstration(tmp_path):
    assert (
        "It is a demonstration that needs no download, not a benchmark"
        in report(tmp_path, Pictures([0.1]), TrainConfig())[1].text
    )


def test_settings_and_environment(tmp_path):
    content = {"command": ["train", "--run_dir=a b"], "cpus": 4, "commit": None, "versions": {"keras": "3.12.0"}}
    (tmp_path / "environment.json").write_text(json.dumps(content))
    data = DataConfig(dataset="coco", data_dir="d", background=False, ignore_categories=("x", "y"))
    _, page = report(tmp_path, Pictures([0.1]), dataclasses.replace(CONFIG, data=data))
    settings = re.search(r"<pre>(.*?)</pre>", page.source, re.DOTALL)[1].splitlines()
    assert {"--image_size=96x128", "--nobackground", "--ignore_categories=x,y", "--report", "--seed=21"} <= set(settings)
    assert not any("None" in line for line in settings)
    assert page.rows[-4:] == [["command", "train '--run_dir=a b'"], ["cpus", "4"], ["commit", "null"], ["keras", "3.12.0"]]


def test_palette_is_distinct_and_stable():
    colors = palette(255).astype(int)
    assert len(np.unique(colors, axis=0)) == 255
    np.testing.assert_array_equal(palette(7), colors[:7])
    fifty = np.vstack([colors[:50], [IGNORED]])
    distance = np.abs(fifty[:, None] - fifty[None]).sum(-1) + 1000 * np.eye(51)
    assert distance.min() > 45
    assert colors[0].max() < 64
    assert (np.ptp(colors[1:], axis=1) > 0).all()  # no greys
    with pytest.raises(ValueError, match="255"):
        palette(256)


def test_colorize():
    label = np.array([[0, 3], [255, 1]], "uint8")
    picture = colorize(label)
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture, [[palette(4)[0], palette(4)[3]], [IGNORED, palette(4)[1]]])
    np.testing.assert_array_equal(colorize(label.astype("int32")), picture)
