"""kseg.Segmenter on real pictures: the same numbers as the commands, and what only Python can give."""

import json
import shutil

import keras
import numpy as np
import pytest
import tiny_model  # noqa: F401  (registers test_tiny and test_conv)
from PIL import Image

import kseg
from kseg.config import TrainConfig
from kseg.evaluate import main as evaluate_command
from kseg.hub import main as hub_command
from kseg.models.build import build_model
from kseg.models.saving import load_model
from kseg.train import main as train_command
from kseg.utils.errors import KsegError

OPTIONS = {"image_size": (48, 64), "epochs": 2, "batch_size": 4, "augment": "light", "workers": 0}
FLAGS = ["--image_size=48x64", "--epochs=2", "--batch_size=4", "--augment=light", "--workers=0"]
FOLDER = ["--dataset=folder", "--images=images", "--labels=labels"]


@pytest.fixture(scope="module")
def data_dir(shared_data, tmp_path_factory):
    """Ten pictures of CamVid at a quarter of their size: images/, labels/ and names.txt."""
    camvid = kseg.CocoDataset(shared_data / "camvid", "val")
    folder = tmp_path_factory.mktemp("data")
    for kind in ("images", "labels"):
        (folder / kind).mkdir()
    for index in range(10):
        sample = camvid.load(index * 10)
        Image.fromarray(sample.image[::4, ::4]).save(folder / f"images/{index}.png")
        Image.fromarray(sample.label[::4, ::4]).save(folder / f"labels/{index}.png")
    (folder / "names.txt").write_text("\n".join(camvid.class_names))
    return folder


@pytest.fixture(scope="module")
def data(data_dir):
    return kseg.FolderDataset(data_dir, class_names=(data_dir / "names.txt").read_text().split())


@pytest.fixture(scope="module")
def fitted(data, tmp_path_factory):
    """A Segmenter, its result, and the validation part."""
    train, val = kseg.split(data, 0.3)
    segmenter = kseg.Segmenter("test_tiny", class_names=data.class_names, backbone_weights=None)
    return segmenter, segmenter.fit(train, val, run_dir=tmp_path_factory.mktemp("runs") / "first", **OPTIONS), val


def weights(path):
    """The bytes of all weights in a .keras file."""
    return [weight.numpy().tobytes() for weight in load_model(path).weights]


@pytest.mark.slow
def test_the_readme_in_short(data_dir, tmp_path, monkeypatch, capsys):
    """The issue's block, with other paths, sizes, epochs and weights, gives the shell's numbers."""
    shutil.copytree(data_dir, tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    names = (data_dir / "names.txt").read_text().split()

    data = kseg.FolderDataset("data", class_names=names)
    train, val = kseg.split(data, 0.2)
    seg = kseg.Segmenter("deeplabv3plus", class_names=data.class_names, backbone="resnet18", backbone_weights=None)
    result = seg.fit(train, val, image_size=64, epochs=1, batch_size=4, augment="light", workers=0)
    evaluation = seg.evaluate(val, workers=0)
    prediction = seg.predict("data/images/3.png")
    seg.save("my_model")
    loaded = kseg.load("my_model")
    apply, params, state = kseg.functionalize(seg.model)

    said = capsys.readouterr().out
    assert result.run_dir.parent.name == "runs" and result.run_dir.name.endswith("-deeplabv3plus-resnet18")
    assert f"into {result.run_dir}" in said and f"mIoU {result.mean_iou:.4f}" in said
    assert result.report == result.run_dir / "report.html" and result.report.exists()
    assert evaluation.mean_iou == result.mean_iou
    assert evaluation.iou.keys() == set(names)
    assert (prediction.labels.shape, prediction.labels.dtype, prediction.class_names) == ((90, 120), np.uint8, tuple(names))
    assert prediction.overlay().size == (120, 90)
    assert (loaded.predict("data/images/3.png").labels == prediction.labels).all()
    assert (loaded.class_names, loaded.image_size) == (seg.class_names, (64, 64))
    images = np.stack([val.load(0).image[:64, :64]])
    logits, _ = apply(params, state, images.astype("float32"))
    np.testing.assert_allclose(logits, seg.model.predict(images, verbose=0), atol=1e-4)

    shell = [*FOLDER, "--data_dir=data", "--label_map=data/names.txt", "--val_fraction=0.2", "--run_dir=shell"]
    train_command(
        ["kseg.train", *shell, "--model=deeplabv3plus", "--backbone=resnet18", "--backbone_weights=none", "--image_size=64",
         "--epochs=1", "--batch_size=4", "--augment=light", "--workers=0"]
    )  # fmt: skip
    theirs = json.loads((tmp_path / "shell/evaluation.json").read_text())
    assert (theirs["mean_iou"], theirs["iou"]) == (result.mean_iou, [None if np.isnan(v) else v for v in result.iou.values()])
    assert weights(tmp_path / "shell/model.keras") == weights(result.run_dir / "model.keras")
    assert (tmp_path / "shell/metrics.csv").read_bytes() == (result.run_dir / "metrics.csv").read_bytes()
    evaluate_command(
        ["kseg.evaluate", "--model=my_model", *FOLDER, "--data_dir=data", "--label_map=data/names.txt", "--workers=0"]
    )
    ours = loaded.evaluate(data, workers=0)
    assert ours.table() in capsys.readouterr().out


@pytest.mark.slow
def test_the_same_bytes_as_the_command_with_all_that_options_change(data, data_dir, tmp_path):
    """Losses, class weights, an auxiliary head, EMA, a schedule, val_fraction; on a model that was looked at before."""
    segmenter = kseg.Segmenter("test_tiny", class_names=data.class_names, backbone_weights=None)
    assert segmenter.model.count_params() > 0
    segmenter.fit(
        data, run_dir=tmp_path / "python", **OPTIONS, val_fraction=0.3, split_seed=3, loss="ce+0.5*dice", class_weights="inverse",
        optimizer="sgd", learning_rate=0.01, schedule="step", schedule_milestones=[1], ema=0.9, seed=5, report=False,
        label_smoothing=0.1, cache="memory",
    )  # fmt: skip
    train_command(
        ["kseg.train", *FOLDER, f"--data_dir={data_dir}", f"--label_map={data_dir}/names.txt", f"--run_dir={tmp_path}/shell",
         "--model=test_tiny", *FLAGS, "--val_fraction=0.3", "--split_seed=3", "--loss=ce+0.5*dice", "--class_weights=inverse",
         "--optimizer=sgd", "--learning_rate=0.01", "--schedule=step", "--schedule_milestones=1", "--ema=0.9", "--seed=5",
         "--noreport", "--label_smoothing=0.1", "--cache=memory", "--backbone_weights=none"]
    )  # fmt: skip
    for name in ("metrics.csv", "evaluation.json", "transforms.json"):
        assert (tmp_path / "python" / name).read_bytes() == (tmp_path / "shell" / name).read_bytes()
    assert weights(tmp_path / "python/model.keras") == weights(tmp_path / "shell/model.keras")
    ours, theirs = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("python", "shell"))
    differing = {name for name in ours if ours[name] != theirs[name]}
    assert differing <= {"dataset", "data_dir", "images", "labels", "label_map", "run_dir"}
    assert (ours["dataset"], ours["val_split"]) == ("python", "train@val")


@pytest.mark.slow
def test_a_second_fit_goes_on(fitted, data, tmp_path, capsys):
    segmenter, first, val = fitted
    again = kseg.load(first.run_dir)
    before = [weight.numpy() for weight in again.model.weights]
    train = kseg.split(data, 0.3)[0]
    result = again.fit(train, val, run_dir=tmp_path / "second", **{**OPTIONS, "epochs": 1}, learning_rate=1e-9, optimizer="sgd")
    assert f"{first.run_dir}" in capsys.readouterr().out
    for weight, old in zip(again.model.weights, before, strict=True):
        if "moving" not in weight.path:
            np.testing.assert_allclose(weight.numpy(), old, atol=1e-6)
    assert json.loads((result.run_dir / "config.json").read_text())["initial_model"].startswith("python:")
    options = {name: value for name, value in OPTIONS.items() if name != "image_size"} | {"epochs": 1}
    third = again.fit(train, val, run_dir=False, **options, auxiliary_weight=0.0, precision="mixed_bfloat16")
    assert again.image_size == segmenter.image_size == OPTIONS["image_size"]
    assert (third.run_dir, third.report, len(third.metrics)) == (None, None, 1)
    assert "tmp" not in repr(third)
    assert segmenter.evaluate(val, workers=0).mean_iou == first.mean_iou  # another Segmenter's fits do not change it


@pytest.mark.slow
def test_weights_of_the_users_count(data, tmp_path, capsys):
    """A model whose weights were set starts from them; one that was only looked at is built as the command builds it."""
    segmenter = kseg.Segmenter("test_conv", class_names=data.class_names, backbone_weights=None)
    values = [np.full(weight.shape, 0.01, "float32") for weight in segmenter.model.weights]
    segmenter.model.set_weights(values)
    train, val = kseg.split(data, 0.3)
    segmenter.fit(train, val, run_dir=tmp_path / "run", **{**OPTIONS, "epochs": 1}, optimizer="sgd", learning_rate=1e-9)
    assert all(np.allclose(w.numpy(), 0.01) for w in segmenter.model.trainable_weights)
    assert "weights that were set from Python: this run goes on from them" in " ".join(capsys.readouterr().out.split())


class Halves(keras.callbacks.Callback):
    """Remembers epochs, in a state that is resumed, and adds a column."""

    def __init__(self):
        super().__init__()
        self.seen, self.saved_before = [], []

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(epoch)
        logs["half"] = 0.5 * epoch

    def get_state(self):
        return {"seen": self.seen}

    def set_state(self, state):
        self.seen = list(state["seen"])


class Brighter(keras.losses.Loss):
    """A loss of the user's own, without get_config."""

    def call(self, label, logits):
        return keras.ops.mean(keras.ops.square(logits[..., 0]))


@pytest.mark.slow
@pytest.mark.backends
def test_own_callbacks_loss_optimizer_and_metrics(data, tmp_path):
    train, val = kseg.split(data, 0.3)

    def fit(folder, **more):
        segmenter = kseg.Segmenter("test_conv", class_names=data.class_names, backbone_weights=None)
        callback = Halves()
        optimizer = keras.optimizers.Adam(keras.optimizers.schedules.ExponentialDecay(1e-2, 2, 0.9))
        metric = keras.metrics.MeanMetricWrapper(lambda label, logits: keras.ops.max(logits), name="largest")
        options = {**OPTIONS, "report": False, "monitor": "half", "monitor_mode": "max"} | more
        result = segmenter.fit(
            train, val, run_dir=tmp_path / folder, loss=Brighter(), optimizer=optimizer, metrics=[metric], callbacks=[callback],
            **options,
        )  # fmt: skip
        return result, callback

    result, callback = fit("whole", epochs=3)
    assert callback.seen == [0, 1, 2]
    assert [row["half"] for row in result.metrics] == [0, 0.5, 1]
    assert result.metrics[-1].keys() >= {"largest", "val_largest", "val_mean_iou"}
    assert result.best_epoch == 3
    content = json.loads((result.run_dir / "config.json").read_text())
    assert (content["loss"], content["optimizer"]) == ("python:Brighter", "python:Adam")
    assert (content["metrics"], content["callbacks"]) == (["python:MeanMetricWrapper"], ["python:Halves"])

    shutil.copytree(result.run_dir, tmp_path / "part")
    (tmp_path / "part/model.keras").unlink()
    for path in (tmp_path / "part/checkpoints").glob("*.keras"):
        if path.name != "step-00000002.keras":
            path.unlink()
    resumed, callback = fit("part", epochs=3, resume=True)
    assert callback.seen == [0, 1, 2]
    assert (resumed.run_dir / "metrics.csv").read_bytes() == (result.run_dir / "metrics.csv").read_bytes()
    assert weights(resumed.run_dir / "model.keras") == weights(result.run_dir / "model.keras")
    assert resumed.mean_iou == result.mean_iou

    segmenter = kseg.Segmenter("test_conv", class_names=data.class_names, backbone_weights=None)
    with pytest.raises(KsegError, match=r"^loss: the run's was given from Python, python:Brighter; go on with fit\(loss="):
        segmenter.fit(train, val, run_dir=tmp_path / "part", resume=True)
    with pytest.raises(KsegError, match=r"dataset=python: stands for data given from Python.*resume=True"):
        train_command(["kseg.train", "--resume", f"--run_dir={tmp_path}/part"])


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_bytes(data, tmp_path, capsys):
    train, val = kseg.split(data, 0.3)

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            import signal

            if epoch == 0:
                signal.raise_signal(signal.SIGINT)

    def segmenter():
        return kseg.Segmenter("test_tiny", class_names=data.class_names, backbone_weights=None)

    whole = segmenter().fit(train, val, run_dir=tmp_path / "whole", **OPTIONS)
    stopped = segmenter().fit(train, val, run_dir=tmp_path / "part", callbacks=[Stop()], **OPTIONS)
    assert stopped.stopped and not whole.stopped and len(stopped.metrics) == 1
    assert f"to continue: fit(..., run_dir='{tmp_path / 'part'}', resume=True)" in capsys.readouterr().out
    resumed = segmenter().fit(train, val, run_dir=tmp_path / "part", resume=True)
    assert resumed.mean_iou == whole.mean_iou
    assert weights(resumed.run_dir / "model.keras") == weights(whole.run_dir / "model.keras")
    with pytest.raises(KsegError, match=r"^learning_rate=0.5: the run in .* has 0.001, and a resumed run keeps"):
        segmenter().fit(train, val, run_dir=tmp_path / "part", resume=True, learning_rate=0.5)


def test_a_shells_run_is_not_resumed_from_python(data, data_dir, tmp_path):
    train_command(
        ["kseg.train", *FOLDER, f"--data_dir={data_dir}", f"--label_map={data_dir}/names.txt", f"--run_dir={tmp_path}/shell",
         "--model=test_conv", *FLAGS, "--val_fraction=0.3", "--noreport", "--backbone_weights=none"]
    )  # fmt: skip
    segmenter = kseg.Segmenter("test_conv", class_names=data.class_names, backbone_weights=None)
    with pytest.raises(KsegError, match=r"were not given from Python; go on with kseg.train --resume"):
        segmenter.fit(*kseg.split(data, 0.3), run_dir=tmp_path / "shell", resume=True)
    loaded = kseg.load(tmp_path / "shell")
    assert (loaded.image_size, loaded.title) == ((48, 64), "test_conv on test_conv")


def test_evaluate_and_report_of_a_run_with_data_from_python(fitted, data_dir, tmp_path, capsys):
    _, result, _ = fitted
    for command, flag in (("evaluate", "model"), ("report", "run_dir")):
        module = __import__(f"kseg.{command}", fromlist=["main"])
        with pytest.raises(KsegError, match=r"pass --dataset and --data_dir, or call kseg.load\(RUN\).evaluate\(data\)"):
            module.main([f"kseg.{command}", f"--{flag}={result.run_dir}"])
    evaluate_command(
        ["kseg.evaluate", f"--model={result.run_dir}", *FOLDER, f"--data_dir={data_dir}", f"--label_map={data_dir}/names.txt",
         "--workers=0"]
    )  # fmt: skip
    assert "10 images" in capsys.readouterr().out


@pytest.mark.slow
def test_what_evaluate_may_do(fitted, data):
    segmenter, result, val = fitted
    plain = segmenter.evaluate(val, workers=0, calibration=True, boundary=True)
    assert plain.mean_iou == result.mean_iou
    assert plain.calibration is not None and plain.boundary_iou is not None
    flipped = segmenter.evaluate(val, workers=0, tta="hflip")
    windows = segmenter.evaluate(val, workers=0, window=(48, 64))
    twice = segmenter.evaluate(val, workers=0, ensemble=[kseg.load(result.run_dir)])
    assert len({plain.mean_iou, flipped.mean_iou, windows.mean_iou}) == 3
    assert np.isclose(twice.mean_iou, plain.mean_iou, atol=0.01)
    assert segmenter.evaluate(val, workers=0, image_size=64).mean_iou != plain.mean_iou


def test_predict_takes_every_kind_of_picture(fitted, data, data_dir):
    segmenter, _, _ = fitted
    path = data_dir / "images/4.png"
    one = segmenter.predict(path)
    array, picture = np.asarray(Image.open(path)), Image.open(path)
    for other in (str(path), array, picture):
        assert (segmenter.predict(other).labels == one.labels).all()
    several = segmenter.predict([path, array, picture], probabilities=True)
    assert len(several) == 3 and all((p.labels == one.labels).all() for p in several)
    assert len(segmenter.predict(data)) == 10
    assert len(segmenter._predictors._kept) == 1
    segmenter.predict(path, window=(48, 64), tta=("hflip",))
    with pytest.raises(KsegError, match=r"^tta=turns: quarter turns need a square input"):
        segmenter.predict(path, tta="turns")
    with pytest.raises(KsegError, match=r"there is no keyword 'widow'; did you mean window"):
        segmenter.predict(path, widow=64)


@pytest.mark.slow
def test_saved_and_loaded(fitted, tmp_path):
    segmenter, result, val = fitted
    segmenter.save(tmp_path / "folder")
    segmenter.save(tmp_path / "file.keras")
    for source in (tmp_path / "folder", tmp_path / "file.keras", result.run_dir, result.run_dir / "model.keras"):
        loaded = kseg.load(source)
        assert loaded.evaluate(val, workers=0).mean_iou == result.mean_iou
        assert (loaded.class_names, loaded.image_size) == (segmenter.class_names, (48, 64))
        assert loaded.title == "test_tiny on test_tiny"
        assert str(source) in repr(loaded)
    assert keras.saving.load_model(tmp_path / "file.keras", compile=False).count_params() == segmenter.model.count_params()
    for name in ("folder", "file.keras"):
        with pytest.raises(KsegError, match="exists"):
            segmenter.save(tmp_path / name)
        segmenter.save(tmp_path / name, overwrite=True)
    new = kseg.Segmenter("test_conv", class_names=["a", "b"], backbone_weights=None)
    with pytest.raises(KsegError, match="the model was not trained; pass image_size=256"):
        new.save(tmp_path / "new")
    new.save(tmp_path / "new", image_size="48x64")
    assert kseg.load(tmp_path / "new").image_size == (48, 64)


def test_a_keras_model_of_unknown_architecture(data, tmp_path):
    """It predicts and is evaluated, but fit needs to know what it is."""
    build_model("test_conv", num_classes=len(data.class_names)).save(tmp_path / "own.keras")
    loaded = kseg.load(tmp_path / "own.keras")
    assert loaded.class_names[1] == "class 1"
    loaded = kseg.load(tmp_path / "own.keras", class_names=data.class_names, image_size=64)
    assert loaded.evaluate(data, workers=0).mean_iou > 0
    with pytest.raises(KsegError, match=r"does not record its architecture"):
        loaded.fit(data, val_fraction=0.3)
    with pytest.raises(KsegError, match=r"does not record its architecture, which a folder needs"):
        loaded.save(tmp_path / "folder")
    loaded.save(tmp_path / "again.keras")
    with pytest.raises(KsegError, match=r"class_names: has 2 names, and the model of .* has 13 classes"):
        kseg.load(tmp_path / "own.keras", class_names=["a", "b"])


@pytest.mark.slow
def test_a_notebook_shows_them(fitted):
    segmenter, result, _ = fitted
    shown = result._repr_html_()
    assert shown.count("<img") == 2 and f"{result.mean_iou:.4f}" in shown and "bicyclist" in shown
    assert len(shown) < 500_000
    assert "test_tiny on test_tiny" in segmenter._repr_html_() and "bicyclist" in segmenter._repr_html_()
    assert "share of pixels" in result.evaluation._repr_html_()
    assert repr(result).startswith("FitResult(mIoU ")


def test_a_model_card_has_the_call(fitted, tmp_path):
    _, result, _ = fitted
    hub_command(["kseg.hub", f"--model={result.run_dir}", f"--output={tmp_path / 'shared'}"])
    card = (tmp_path / "shared/README.md").read_text()
    assert "Data set given from Python (python)" in card
    call = "kseg.Segmenter('test_tiny', class_names=[...], backbone='test_tiny', backbone_weights='none').fit(train, val, "
    assert f"```python\n{call}image_size=(48, 64), augment='light', epochs=2, batch_size=4)\n```" in card
    assert kseg.load(tmp_path / "shared").predict(np.zeros((48, 64, 3), "uint8")).labels.shape == (48, 64)


@pytest.mark.slow
def test_a_dry_run_keeps_nothing(data, tmp_path, capsys):
    segmenter = kseg.Segmenter("test_conv", class_names=data.class_names, backbone_weights=None)
    result = segmenter.fit(data, val_fraction=0.3, run_dir=tmp_path / "run", dry_run=True, **OPTIONS)
    assert result.run_dir is None and not (tmp_path / "run").exists()
    assert "nothing was kept" in capsys.readouterr().out
    assert segmenter._initial() is None


@pytest.mark.slow
def test_arrays_train_in_worker_processes(data, tmp_path):
    samples = [data.load(index) for index in range(len(data))]
    arrays = kseg.ArrayDataset(
        [sample.image for sample in samples], [sample.label for sample in samples], class_names=data.class_names,
        names=[sample.name for sample in samples],
    )  # fmt: skip
    scores = []
    for dataset, workers in ((arrays, 2), (data, 0)):
        segmenter = kseg.Segmenter("test_conv", class_names=data.class_names, backbone_weights=None)
        train, val = kseg.split(dataset, 0.3)
        options = {**OPTIONS, "workers": workers, "report": False}
        scores.append(segmenter.fit(train, val, run_dir=tmp_path / str(workers), **options).mean_iou)
    assert scores[0] == scores[1]
    assert weights(tmp_path / "0/model.keras") == weights(tmp_path / "2/model.keras")


def test_defaults_are_those_of_the_flags(data):
    segmenter = kseg.Segmenter(class_names=data.class_names, backbone_weights=None)
    assert segmenter.title.startswith(TrainConfig().model)
