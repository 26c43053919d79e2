"""Scores against other people's definitions, and kseg.evaluate beyond the plain run: model files, windows, averages, outputs."""

import csv
import json
import shutil

import keras
import numpy as np
import pytest
import torch
from compilations import compilations
from conftest import declare_torchvision_ops
from scipy import ndimage

from kseg import evaluate, predict
from kseg.config import DataConfig, EvaluateConfig, TrainConfig
from kseg.inference.evaluate import evaluate as score
from kseg.metrics.bootstrap import mean_iou_interval
from kseg.metrics.boundary_iou import boundary_counts
from kseg.metrics.calibration import Calibration
from kseg.metrics.confusion_matrix import confusion_matrices
from kseg.metrics.evaluation import Evaluation
from kseg.metrics.evaluation_files import write_evaluation
from kseg.metrics.scores import scores
from kseg.models.saving import save_model
from kseg.runtime.run_dir import RunDir
from kseg.utils.errors import KsegError

NAMES = ["background", "red", "green", "blue"]


def network(seed):
    keras.utils.set_random_seed(seed)
    images = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(8, 5, padding="same", activation="relu")(keras.layers.Rescaling(1 / 64)(images))
    return keras.Model(images, keras.layers.Conv2D(4, 1)(x))


@pytest.fixture(scope="module")
def runs(tiny_coco, tmp_path_factory):
    """Two runs of networks with random weights; the second knows its class names."""
    found = []
    for number in (1, 2):
        run = RunDir(tmp_path_factory.mktemp("runs") / "run")
        data = DataConfig(dataset="coco", data_dir=str(tiny_coco))
        run.create(TrainConfig(data=data, image_size=(32, 40), batch_size=2), [])
        run.unlock()
        save_model(network(number), run.model)
        found.append(run)
    run.evaluation.write_text(json.dumps({"class_names": NAMES}))
    return found


def scored(tmp_path, *flags):
    """What the JSON file says after kseg.evaluate with these flags."""
    file = tmp_path / "scores.json"
    evaluate.main(["kseg.evaluate", "--workers=0", f"--output={file}", *flags])
    return json.loads(file.read_text())


@pytest.fixture
def maps(rng):
    """Labels, a tenth ignored, and logits [4, 40, 50, 5] that are right more often than not."""
    label = np.kron(rng.integers(0, 5, (4, 4, 5)), np.ones((10, 10), "int64"))
    logits = rng.normal(size=(4, 40, 50, 5)) + 1.5 * np.eye(5)[label]
    return np.where(rng.random(label.shape) < 0.1, 255, label).astype("uint8"), logits.astype("float32")


@pytest.mark.slow
def test_scores_are_those_of_torchmetrics(maps):
    declare_torchvision_ops()
    from torchmetrics.functional import classification as theirs

    label, logits = maps
    found = scores(keras.ops.convert_to_numpy(confusion_matrices(label, logits.argmax(-1), 5)).sum(0))
    given = torch.from_numpy(logits.argmax(-1)), torch.from_numpy(label.astype("int64"))
    options = {"num_classes": 5, "ignore_index": 255}
    for name, function in (
        ("iou", theirs.multiclass_jaccard_index),
        ("dice", theirs.multiclass_f1_score),
        ("precision", theirs.multiclass_precision),
        ("recall", theirs.multiclass_recall),
    ):
        np.testing.assert_allclose(getattr(found, name), function(*given, average=None, **options).numpy(), rtol=1e-6)
    assert found.mean_class_accuracy == pytest.approx(float(theirs.multiclass_accuracy(*given, average="macro", **options)))
    assert found.pixel_accuracy == pytest.approx(float(theirs.multiclass_accuracy(*given, average="micro", **options)))
    weighted = theirs.multiclass_jaccard_index(*given, average="weighted", **options)
    assert found.frequency_weighted_iou == pytest.approx(float(weighted))


def test_calibration_error_is_torchmetrics(maps):
    declare_torchvision_ops()
    from torchmetrics.functional.classification import multiclass_calibration_error

    label, logits = maps
    probabilities = torch.from_numpy(logits).softmax(-1).numpy()
    counted, calibration = label != 255, Calibration()
    for image in range(4):
        place = counted[image]
        right = logits[image].argmax(-1) == label[image]
        calibration.add(probabilities[image].max(-1)[place], right[place])
    expected = multiclass_calibration_error(
        torch.from_numpy(probabilities[counted]), torch.from_numpy(label[counted].astype("int64")), num_classes=5, n_bins=15
    )
    assert calibration.error() == pytest.approx(float(expected), rel=1e-5)
    assert calibration.error() > 0.01
    assert calibration.pixels.sum() == counted.sum()


def test_probabilities_that_are_right_as_often_as_they_say_have_no_error():
    calibration = Calibration()
    calibration.add(np.array([0.5, 0.5, 1.0]), np.array([True, False, True]))
    assert calibration.error() == 0
    calibration.add(np.array([1.0]), np.array([False]))
    assert calibration.error() == pytest.approx((0 + 2 * 0.5) / 4)
    assert np.isnan(Calibration().error())


def test_boundaries_are_what_erosion_takes_away(maps):
    """Against scipy's erosion, pixel by pixel; ignored pixels belong to nothing."""
    label, logits = maps
    prediction = logits.argmax(-1)
    distance = round(0.02 * np.hypot(40, 50))
    assert distance == 1
    for image in range(4):
        counted = label[image] != 255
        expected = []
        for index in range(5):
            outlines = []
            for mask in ((label[image] == index) & counted, (prediction[image] == index) & counted):
                outlines.append(mask & ~ndimage.binary_erosion(mask, np.ones((3, 3)), iterations=distance))
            expected.append(((outlines[0] & outlines[1]).sum(), (outlines[0] | outlines[1]).sum()))
        np.testing.assert_array_equal(boundary_counts(label[image], prediction[image], 5), expected)


def test_boundary_iou_of_a_shifted_square():
    """300 x 400 pixels: boundaries are 10 wide. A square of 100 moves by 5."""
    label, prediction = np.zeros((2, 300, 400), "uint8")
    label[100:200, 100:200], prediction[100:200, 105:205] = 1, 1
    ring = 100**2 - 80**2
    ours, theirs = np.zeros((2, 300, 400), bool)
    for ring_map, left in ((ours, 100), (theirs, 105)):
        ring_map[100:200, left : left + 100] = True
        ring_map[110:190, left + 10 : left + 90] = False
    assert ours.sum() == ring
    np.testing.assert_array_equal(boundary_counts(label, prediction, 2)[1], [(ours & theirs).sum(), (ours | theirs).sum()])
    same = boundary_counts(label, label, 3)
    assert same[1].tolist() == [ring, ring] and same[2].tolist() == [0, 0]


def test_the_interval_is_of_resampled_images(rng):
    """Close to the normal one where all images are alike but for chance, and the same every time."""
    right = rng.integers(40, 60, 400)
    matrices = np.stack([np.array([[r, 50], [0, 100]]) for r in right])
    low, high = mean_iou_interval(matrices)
    assert (low, high) == mean_iou_interval(matrices)
    assert (low, high) != mean_iou_interval(matrices, seed=1)
    middle = scores(matrices.sum(0)).mean_iou
    draws = [scores(matrices[rng.integers(0, 400, 400)].sum(0)).mean_iou for _ in range(2000)]
    assert low < middle < high
    assert high - low == pytest.approx(2 * 1.96 * np.std(draws), rel=0.12)
    assert np.isnan(mean_iou_interval(matrices[:1])).all()
    assert mean_iou_interval(np.repeat(matrices[:1], 3, 0)) == pytest.approx((scores(matrices[0]).mean_iou,) * 2)


def test_a_class_that_a_resample_lacks_is_left_out_of_its_mean():
    matrices = np.array([[[10, 0], [0, 0]], [[0, 0], [6, 6]]])
    possible = [1.0, (0 + 0.5) / 2, (10 / 16 + 0.5) / 2]  # the first twice, the second twice, both
    assert mean_iou_interval(matrices) == (min(possible), max(possible))


def test_what_the_file_says(tmp_path):
    evaluation = Evaluation(("a", "b", "c"), np.array([[[3, 1, 0], [0, 0, 0], [2, 0, 0]]]), np.array([[1, 2], [0, 0], [0, 3]]))
    write_evaluation(tmp_path / "e.json", evaluation, "val", {"tta": "flips"})
    content = json.loads((tmp_path / "e.json").read_text())
    assert content["precision"] == [0.6, 0.0, None]
    assert content["recall"] == [0.75, None, 0.0]
    assert content["mean_iou_interval"] == {"low": None, "high": None, "level": 0.95, "resamples": 1000}  # of one image
    assert content["boundary"] == {"distance": 0.02, "mean_iou": 0.25, "iou": [0.5, None, 0.0]}
    assert content["prediction"] == {"tta": "flips"}
    assert [line.split()[1:4] for line in evaluation.table().splitlines()[1:4]] == [
        ["0.5000", "0.6000", "0.7500"],
        ["0.0000", "0.0000", "-"],
        ["0.0000", "-", "0.0000"],
    ]


def test_a_model_file_scores_as_its_run(runs, tiny_coco, tmp_path, capsys):
    plain = scored(tmp_path, f"--model={runs[0].path}", f"--per_image={tmp_path / 'images.csv'}")
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"mIoU {plain['mean_iou']:.4f} (full val set, 5 images, 4 classes; 95% interval ")
    assert last.endswith(str(runs[0].model))
    file = shutil.copy(runs[0].model, tmp_path / "other.keras")
    flags = [f"--model={file}", "--dataset=coco", f"--data_dir={tiny_coco}"]
    assert scored(tmp_path, *flags, "--image_size=32x40") == {**plain, "prediction": {"image_size": "32x40"}}
    with pytest.raises(KsegError, match=r"--image_size is missing: .*other.keras does not record"):
        scored(tmp_path, *flags)
    assert scored(tmp_path, *flags, "--image_size=32x40", "--split=train")["images"] == 9

    rows = list(csv.DictReader((tmp_path / "images.csv").read_text().splitlines()))
    assert [row["name"] for row in rows] == [f"{index:03d}.png" for index in range(5)]
    assert [(row["height"], row["width"]) for row in rows[:2]] == [("48", "64"), ("50", "40")]
    assert all(int(row["labelled_pixels"]) == int(row["height"]) * int(row["width"]) for row in rows)
    right = sum(float(row["pixel_accuracy"]) * int(row["labelled_pixels"]) for row in rows)
    assert right / sum(int(row["labelled_pixels"]) for row in rows) == pytest.approx(plain["pixel_accuracy"])
    for row in rows:
        known = [float(row[f"iou:{name}"]) for name in NAMES if row[f"iou:{name}"]]
        assert float(row["mean_iou"]) == pytest.approx(np.mean(known))


def test_windows_averages_and_all_scores_at_once(runs, tmp_path, capsys):
    """An ensemble, with flips, by windows: the same programs for all the sizes of pictures."""
    first, second = runs
    flags = ["--window=32", "--tta=flips,turns", f"--ensemble={second.path}", "--boundary", "--calibration"]
    with compilations() as compiled:
        content = scored(tmp_path, f"--model={first.path}", *flags)
    if keras.backend.backend() == "jax":
        assert compiled.count("jit(predict_step)") == 3  # the network, and a band's two programs
    assert content["prediction"] == {
        "ensemble": str(second.path),
        "window": "32x32",
        "overlap": 0.25,
        "tta": "flips,turns",
    }
    assert np.sum(content["confusion_matrix"]) == 3 * 48 * 64 + 2 * 50 * 40 == sum(content["calibration"]["pixels"])
    assert 0 < content["boundary"]["mean_iou"] < 1
    out = capsys.readouterr().out
    assert f"mean boundary IoU {content['boundary']['mean_iou']:.4f}" in out
    assert f"expected calibration error {content['calibration']['expected_error']:.4f}" in out
    assert out.splitlines()[-1].endswith("window 32x32, overlap 0.25, tta flips,turns")


def test_an_ensemble_of_one_model_twice_is_that_model(runs, tmp_path):
    plain = scored(tmp_path, f"--model={runs[0].path}")
    twice = scored(tmp_path, f"--model={runs[0].path}", f"--ensemble={runs[0].model},{runs[0].path}")
    # Probabilities are resized to the labels' size where logits were: pixels between two classes may fall to the other.
    assert np.abs(np.subtract(plain["confusion_matrix"], twice["confusion_matrix"])).sum() < 0.05 * 3 * 48 * 64
    both = scored(tmp_path, f"--model={runs[0].path}", f"--ensemble={runs[1].path}")
    assert both["confusion_matrix"] != twice["confusion_matrix"]


def test_predict_takes_them_too(runs, tmp_path):
    flags = ["kseg.predict", f"--model={runs[0].path}", "--workers=0", "--window=48"]
    predict.main([*flags, f"--output={tmp_path}", "--write=labels"])
    assert len(list((tmp_path / "labels").glob("*.png"))) == 5


MISUSE = [
    (["--tta=hflipp"], "--tta=hflipp: must be one of .*did you mean hflip"),
    (["--tta=turns"], "--tta=turns: quarter turns need a square input, not 32x40"),
    (["--window=16"], "--window=16: height and width must be at least 32"),
    (["--window=64", "--image_size=64"], "--window predicts images at their own size"),
    (["--window=64", "--overlap=1"], "--overlap=1.0: must be between 0 and 0.9"),
    (["--window=64", "--distribution=data_parallel"], "--window: computes on one device"),
    (["--ensemble=/nowhere"], "--ensemble=/nowhere: no such file or folder"),
    (["--ensemble=/nowhere/x.keras"], "--ensemble=/nowhere/x.keras: no such file"),
    (["--per_image={tmp}"], "--per_image=.*: is a folder"),
]


@pytest.mark.parametrize(("flags", "says"), MISUSE)
def test_misuse_is_one_line(runs, tmp_path, flags, says):
    with pytest.raises(KsegError, match=says) as error:
        evaluate.main(["kseg.evaluate", f"--model={runs[0].path}", *(flag.format(tmp=tmp_path) for flag in flags)])
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_models_that_do_not_fit_together(runs, tmp_path):
    """Other classes, another size, another kind of model: each is named."""
    first, second = runs
    other = RunDir(shutil.copytree(second.path, tmp_path / "other"))
    other.evaluation.write_text(json.dumps({"class_names": ["background", "lime", "green", "blue"]}))
    config = {"model": str(first.path), "workers": 0}
    with pytest.raises(KsegError, match=r"has a class 'red' where the run .*other has 'lime'"):
        score(EvaluateConfig(**config, ensemble=(str(other.path),)))
    content = json.loads(other.config.read_text())
    other.config.write_text(json.dumps({**content, "image_size": [64, 64]}))
    with pytest.raises(KsegError, match=r"--ensemble=.*other: was trained at 64x64, .* at 32x40; pass --image_size or --window"):
        score(EvaluateConfig(**config, ensemble=(str(other.path),)))
    images = keras.Input((32, 32, 3))
    save_model(keras.Model(images, keras.layers.Conv2D(4, 1)(images)), tmp_path / "fixed.keras")
    with pytest.raises(KsegError, match=r"fixed.keras: takes only images of 32x32, not of 64x64"):
        score(EvaluateConfig(**config, ensemble=(str(tmp_path / "fixed.keras"),), window=(64, 64)))
    save_model(keras.Model(images, keras.layers.GlobalMaxPooling2D()(images)), tmp_path / "classifier.keras")
    with pytest.raises(KsegError, match=r"classifier.keras: is no segmentation model"):
        score(EvaluateConfig(**config, ensemble=(str(tmp_path / "classifier.keras"),)))
    code = keras.Model(images, keras.layers.Lambda(lambda x: x)(keras.layers.Conv2D(4, 1)(images)))
    save_model(code, tmp_path / "code.keras")
    with pytest.raises(KsegError, match=r"code.keras: Keras cannot load it \(.*Lambda.*\)$") as error:
        score(EvaluateConfig(**config, ensemble=(str(tmp_path / "code.keras"),)))
    assert "\n" not in str(error.value)
