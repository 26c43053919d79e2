"""Training on tf.data.Dataset and keras.utils.PyDataset of (image, label) batches."""

import json
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny_model  # noqa: F401  (registers test_conv)

import kseg
from kseg.metrics.scores import scores
from kseg.utils.errors import KsegError

NAMES = ("grey", "red", "green", "blue")


def pictures(count, rng):
    """Images with one coloured square each, and their labels."""
    images = rng.integers(90, 130, (count, 48, 64, 3)).astype("uint8")
    labels = np.zeros((count, 48, 64), "uint8")
    for index in range(count):
        top, left, value = rng.integers(0, 24), rng.integers(0, 40), rng.integers(1, 4)
        images[index, top : top + 20, left : left + 20] = np.eye(3)[value - 1] * 200
        labels[index, top : top + 20, left : left + 20] = value
    labels[:, :2] = 255
    return images, labels


class Batched(keras.utils.PyDataset):
    """Batches of three; the last is smaller."""

    def __init__(self, images, labels):
        super().__init__()
        self.arrays = images, labels

    def __len__(self):
        return -(-len(self.arrays[0]) // 3)

    def __getitem__(self, index):
        return tuple(array[3 * index : 3 * index + 3] for array in self.arrays)


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(3)
    return pictures(8, rng), pictures(7, rng)


def batches(kind, arrays):
    if kind == "PyDataset":
        return Batched(*arrays)
    data = tf.data.Dataset.from_tensor_slices(arrays)
    if kind == "of unknown length":
        data = data.filter(lambda image, label: tf.reduce_max(image) > 0)
    return data.batch(3)


def segmenter():
    return kseg.Segmenter("test_conv", class_names=NAMES, backbone_weights=None)


@pytest.mark.slow
@pytest.mark.backends
@pytest.mark.parametrize("kind", ["PyDataset", "tf.data", "of unknown length"])
def test_batches_train(arrays, kind, tmp_path, capsys):
    train, val = (batches(kind, part) for part in arrays)
    seg = segmenter()
    result = seg.fit(train, val, run_dir=tmp_path / "run", epochs=3, learning_rate=0.01, tensorboard=kind == "tf.data")
    said = capsys.readouterr().out
    assert "3 training and 3 validation batches of 3 images, given from Python" in said
    assert f"mIoU {result.mean_iou:.4f} (full val set, 7 images, 4 classes" in said
    assert "at the size of the batches' labels, 48x64" in said.splitlines()[-1]
    content = json.loads((result.run_dir / "evaluation.json").read_text())
    assert (content["mean_iou"], content["images"]) == (result.mean_iou, 7)
    assert content["prediction"] == {"scored": "at the size of the batches' labels, 48x64"}
    page = result.report.read_text()
    assert "The data were given as batches" in page and "kseg.load(" in page and "Worst" in page
    assert result.metrics[result.best_epoch - 1]["val_mean_iou"] == pytest.approx(result.mean_iou, abs=1e-6)
    assert (seg.image_size, len(result.metrics)) == ((48, 64), 3)

    images, labels = arrays[1]
    predicted = seg.model.predict(images, verbose=0).argmax(-1)
    counted = labels != 255
    matrix = np.bincount(labels[counted].astype(int) * 4 + predicted[counted], minlength=16).reshape(4, 4)
    assert scores(matrix).mean_iou == result.mean_iou
    assert seg.evaluate(val).mean_iou == result.mean_iou
    data_set = kseg.ArrayDataset(images, labels, class_names=NAMES)
    assert seg.evaluate(data_set, workers=0).mean_iou == pytest.approx(result.mean_iou, abs=1e-3)


@pytest.mark.slow
def test_resume_at_the_end_of_an_epoch(arrays, tmp_path):
    train, val = (Batched(*part) for part in arrays)

    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            import signal

            if batch == 1 and (tmp_path / "run/metrics.csv").read_text().count("\n") == 2:  # in the second epoch
                signal.raise_signal(signal.SIGTERM)

    stopped = segmenter().fit(train, val, run_dir=tmp_path / "run", epochs=3, callbacks=[Stop()], report=False)
    assert stopped.stopped and len(stopped.metrics) == 1
    names = sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir())
    assert names == ["best.keras", "step-00000000.keras", "step-00000003.keras"]
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    results = [segmenter().fit(train, val, run_dir=tmp_path / name, resume=True) for name in ("run", "again")]
    assert [len(result.metrics) for result in results] == [3, 3]
    assert results[0].metrics == results[1].metrics and results[0].mean_iou == results[1].mean_iou
    with pytest.raises(KsegError, match="epochs=5: the run in"):
        segmenter().fit(train, val, run_dir=tmp_path / "run", resume=True, epochs=5)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ({"class_weights": "median_frequency"}, "class_weights=median_frequency: needs to read single samples first"),
        ({"overfit_batches": 1}, "overfit_batches=1: needs single samples in any order"),
        ({"augment": "light"}, "augment=light: needs single samples in any order"),
        ({"workers": 2}, "workers=2: needs single samples"),
        ({"checkpoint_steps": 1}, "checkpoint_steps=1: needs single samples"),
        ({"dry_run": True}, "dry_run=True: needs single samples"),
        ({"val_fraction": 0.2}, "val_fraction=0.2: needs single samples"),
        ({"batch_size": 4}, "batch_size=4: batches have their own size"),
        ({"image_size": 64}, "image_size=64: batches have their own size"),
    ],
)
def test_what_needs_single_samples_is_refused(arrays, option, says, tmp_path):
    with pytest.raises(KsegError, match=says):
        segmenter().fit(Batched(*arrays[0]), Batched(*arrays[1]), run_dir=tmp_path / "run", **option)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_file_of_class_weights_counts(arrays, tmp_path):
    (tmp_path / "weights.json").write_text("[1, 2, 3, 4]")
    options = {"epochs": 1, "report": False, "run_dir": False}
    losses = [
        segmenter().fit(Batched(*arrays[0]), Batched(*arrays[1]), class_weights=weights, **options).metrics[0]["loss"]
        for weights in ("none", tmp_path / "weights.json")
    ]
    assert losses[0] != losses[1]


def slices(*arrays):
    return tf.data.Dataset.from_tensor_slices(arrays)


def wrong(images, labels):
    beyond = labels + 7 * (labels == 0).astype("uint8")
    return {
        r"train: expected images \[B, H, W, 3\], not .* \[48, 64, 3\]; batch it first": slices(images, labels),
        r"train: never ends; an epoch needs a number of batches": slices(images, labels).batch(3).repeat(),
        r"train: has no batches": slices(images[:0], labels[:0]).batch(3),
        r"train: expected batches of \(image, label\), not of 3 values": slices(images, labels, labels).batch(3),
        r"train: expected labels \[B, H, W\] of integers, not float32": Batched(images, labels.astype("float32")),
        r"train: expected labels .*, not uint8 of shape \[3, 48, 64, 1\]": Batched(images, labels[..., None]),
        r"differ in number or size": Batched(images, labels[:, :40]),
        r"train: a label has the value 7; there are 4 classes, and 255 is ignored": Batched(images, beyond),
        r"train: images are in 0..1; the model takes 0..255": Batched((images / 255).astype("float32"), labels),
    }


@pytest.mark.parametrize("number", range(9))
def test_batches_that_do_not_fit(arrays, number):
    says, data = list(wrong(*arrays[0]).items())[number]
    with pytest.raises(KsegError, match=says):
        segmenter().fit(data, Batched(*arrays[1]))


def test_batches_and_data_sets_do_not_mix(arrays):
    data_set = kseg.ArrayDataset(*arrays[1], class_names=NAMES)
    with pytest.raises(KsegError, match="val: pass batches for both train and val"):
        segmenter().fit(Batched(*arrays[0]), data_set)
    with pytest.raises(KsegError, match="val: pass batches for both train and val"):
        segmenter().fit(Batched(*arrays[0]))
    with pytest.raises(KsegError, match="data: batches have no single samples"):
        kseg.split(Batched(*arrays[0]), 0.2)
    with pytest.raises(KsegError, match="tta: needs single samples, which batches do not give"):
        segmenter().evaluate(Batched(*arrays[1]), tta="hflip")
