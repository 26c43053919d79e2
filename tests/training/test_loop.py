"""Training end to end on a tiny data set: train, stop, evaluate, and wrong flags."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from compilations import compilations
from compiled_model import load_compiled
from tiny_model import flags as small_flags

from kseg import evaluate, train
from kseg.models.saving import load_model
from kseg.runtime.run_dir import RunDir
from kseg.utils.errors import KsegError

SMALLEST = ("--backbone=keras_cv/resnet18", "--backbone_weights=none")


def flags(data_dir, run_dir, *more):
    return [
        "kseg.train", "--dataset=coco", f"--data_dir={data_dir}", f"--run_dir={run_dir}", "--image_size=48x64", "--batch_size=4",
        "--epochs=2", "--augment=aug", *SMALLEST, *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tiny_coco, tmp_path_factory):
    """Returns (run directory, what was printed, names of the compiled functions)."""
    run_dir = tmp_path_factory.mktemp("runs") / "first"
    with compilations() as compiled:
        out = _capture(lambda: train.main(flags(tiny_coco, run_dir)))
    return RunDir(run_dir), out, tuple(compiled)


def _capture(call):
    import contextlib
    import io

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        call()
    return out.getvalue()


@pytest.mark.slow
def test_what_a_run_leaves(trained):
    run, out, _ = trained
    files = (
        run.config,
        run.environment,
        run.transforms,
        run.metrics,
        run.best,
        run.timing,
        *run.checkpoints(),
        run.model,
        run.evaluation,
        run.report,
    )
    for path in files:
        assert path.stat().st_size > 0
    assert not run.skipped.exists()
    assert not list(run.path.rglob(".tmp-*"))
    rows = list(csv.DictReader(run.metrics.read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert {"loss", "mean_iou", "val_loss", "val_mean_iou", "learning_rate"} <= set(rows[0])
    assert json.loads(run.environment.read_text())["backend"] == keras.backend.backend()
    described = json.loads(run.transforms.read_text())
    counts = [len(described[split]["transform"]["transforms"]) for split in ("train", "validation")]
    assert counts == [7, 1]  # AUG's six, and Resize
    mean_iou = json.loads(run.evaluation.read_text())["mean_iou"]
    last = out.strip().splitlines()[-1]
    assert last.startswith(f"mIoU {mean_iou:.4f} (full val set, 5 images, 4 classes")
    assert last.endswith(f" s, {run.report}")
    assert keras.backend.backend() in next(line for line in out.splitlines() if line.startswith("backend"))


@pytest.mark.slow
def test_class_weights_reach_the_loss(tiny_coco, tmp_path):
    weights = {"background": 0.25, "red": 1, "green": 2, "blue": 3}
    (tmp_path / "weights.json").write_text(json.dumps(weights))
    train.main(small_flags(tiny_coco, tmp_path / "run", "--epochs=1", f"--class_weights={tmp_path / 'weights.json'}"))
    loss = load_compiled(tmp_path / "run/checkpoints/best.keras").loss
    assert loss.class_weights == list(weights.values())


@pytest.mark.slow
def test_evaluate_gives_the_same_number_to_the_last_digit(trained, tmp_path):
    run, _, _ = trained
    file = tmp_path / "again.json"
    out = _capture(lambda: evaluate.main(["kseg.evaluate", f"--model={run.path}", f"--output={file}"]))
    assert json.loads(file.read_text()) == json.loads(run.evaluation.read_text())
    assert out.strip().splitlines()[-1].startswith("mIoU ")


@pytest.mark.slow
def test_evaluate_other_data(trained, tiny_coco, tmp_path):
    run, _, _ = trained
    shutil.copytree(tiny_coco, tmp_path / "moved")
    out = _capture(
        lambda: evaluate.main(
            ["kseg.evaluate", f"--model={run.path}", "--split=train", f"--data_dir={tmp_path / 'moved'}", "--batch_size=3"]
        )
    )
    assert "(full train set, 9 images, 4 classes" in out


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "jax", reason="counts XLA's compilations under JAX")
def test_each_step_compiles_once(trained):
    """Once: a training step, a validation step, and for scoring a network and a label map, though batches and sizes differ."""
    _, _, compiled = trained
    assert compiled.count("jit(train_step)") == 1
    assert compiled.count("jit(test_step)") == 1
    assert compiled.count("jit(predict_step)") == 2


@pytest.mark.slow
def test_same_seed_same_bytes(trained, tiny_coco, tmp_path):
    run, _, _ = trained
    train.main(flags(tiny_coco, tmp_path / "again", "--noreport"))
    for before, after in zip(
        load_model(run.checkpoints()[0]).get_weights(),
        load_model(RunDir(tmp_path / "again").checkpoints()[0]).get_weights(),
        strict=True,
    ):
        np.testing.assert_array_equal(before, after)


@pytest.mark.slow
def test_the_optimizer_is_in_the_last_checkpoint(trained):
    run, _, _ = trained
    model = load_compiled(run.checkpoints()[0])
    assert int(model.optimizer.iterations.value) == 4
    assert not hasattr(load_model(run.model), "optimizer")


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "jax", reason="functionalize is for JAX")
def test_a_trained_model_goes_into_jax_code_and_back(trained, tiny_coco, tmp_path):
    """As a pure function it computes the same. Orbax and safetensors store it. Read back, it scores as in the run."""
    import jax
    import orbax.checkpoint
    from safetensors.numpy import load_file, save_file

    from kseg.models.functional import assign, flat, functionalize, nested
    from kseg.models.saving import save_model

    run, _, _ = trained
    model = load_model(run.model)
    apply, params, state = functionalize(model)
    images = np.random.default_rng(0).integers(0, 256, (2, 48, 64, 3), dtype="uint8")
    expected = model.predict_on_batch(images)
    logits, _ = jax.jit(apply)(params, state, images)
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())

    save_file({path: np.asarray(value) for path, value in state.items()}, tmp_path / "state.safetensors")
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "params", nested(params))
        checkpointer.wait_until_finished()
        params = flat(checkpointer.restore(tmp_path / "params", nested(params)))
    model.set_weights([np.zeros_like(value) for value in model.get_weights()])
    assign(model, params, load_file(tmp_path / "state.safetensors"))
    for found, value in zip(model.get_weights(), load_model(run.model).get_weights(), strict=True):
        np.testing.assert_array_equal(found, value)
    save_model(model, tmp_path / "back.keras")
    back, file = tmp_path / "back.keras", tmp_path / "scores.json"
    data = (f"--model={back}", "--dataset=coco", f"--data_dir={tiny_coco}", "--image_size=48x64", "--batch_size=4")
    _capture(lambda: evaluate.main(["kseg.evaluate", *data, f"--output={file}"]))
    assert json.loads(file.read_text())["mean_iou"] == json.loads(run.evaluation.read_text())["mean_iou"]


@pytest.mark.slow
def test_a_killed_run_can_be_evaluated(tiny_coco, tmp_path):
    run = RunDir(tmp_path / "killed")
    command = [sys.executable, "-m", *flags(tiny_coco, run.path, "--epochs=500", "--noreport")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not run.checkpoints() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    out = _capture(lambda: evaluate.main(["kseg.evaluate", f"--model={run.path}"]))
    assert "(full val set, 5 images, 4 classes" in out
    assert "checkpoints" in out.splitlines()[-1]


@pytest.mark.slow
def test_bad_samples_can_be_left_out(tiny_coco, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(tiny_coco, data)
    (data / "images/train/002.png").unlink()
    (data / "images/val/001.png").write_bytes(b"no image")
    run = RunDir(tmp_path / "run")
    with pytest.raises(KsegError, match=r"images/train/002.png.*--on_bad_sample=skip"):
        train.main(small_flags(data, run.path))
    assert not run.path.exists()
    out = _capture(lambda: train.main(small_flags(data, run.path, "--on_bad_sample=skip", "--epochs=1")))
    assert "(full val set, 4 images, 4 classes" in out
    lines = run.skipped.read_text().splitlines()
    assert [line.split(":")[0] for line in lines] == ["train", "val"]
    assert "002.png" in lines[0]


MISUSE = [
    (["--model=deeplabv4"], "unknown model 'deeplabv4'; did you mean deeplabv3"),
    (["--backbone=keras_cv/resnet19"], "unknown backbone 'keras_cv/resnet19'; did you mean keras_cv/resnet1"),
    (["--backbone=keras_cv/densenet121", "--output_stride=8"], "backbone keras_cv/densenet121 cannot have output_stride=8"),
    (["--augment=agu"], "unknown augmentation 'agu'; did you mean aug"),
    (["--dataset=cocoa"], "unknown dataset 'cocoa'; did you mean coco"),
    (["--batch_size=10"], "--batch_size=10 is larger than the training split, which has 9 images"),
    (["--train_split=trian"], "trian"),
    (["--data_dir=/nowhere/at/all"], "/nowhere/at/all"),
    (["--ignore_categories=gren"], "did you mean green"),
    (["--backbone_weights=imagenett"], "imagenett"),
]


@pytest.mark.parametrize(("more", "message"), MISUSE)
def test_misuse_is_one_line_and_writes_nothing(tiny_coco, tmp_path, more, message):
    with pytest.raises(KsegError) as error:
        train.main(flags(tiny_coco, tmp_path / "run", *more))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_dir_that_holds_another_run(trained, tiny_coco):
    run, _, _ = trained
    before = sorted(run.path.rglob("*"))
    with pytest.raises(KsegError, match="holds another run; name a new folder"):
        train.main(flags(tiny_coco, run.path))
    assert sorted(run.path.rglob("*")) == before


def test_a_run_dir_that_cannot_be_written(tiny_coco, tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(KsegError, match="cannot be written"):
            train.main(flags(tiny_coco, path))
    folder = tmp_path / "full"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(KsegError, match="is not empty"):
        train.main(flags(tiny_coco, folder))


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such file or folder"), ({}, "neither a run directory nor"), ({"config.json": "{"}, "not a kseg configuration")],
)
def test_evaluate_what_is_no_run(tmp_path, content, message):
    if content is not None:
        (tmp_path / "run").mkdir()
        for name, text in content.items():
            (tmp_path / "run" / name).write_text(text)
    with pytest.raises(KsegError, match=message):
        evaluate.main(["kseg.evaluate", f"--model={tmp_path / 'run'}"])


@pytest.mark.slow
def test_evaluate_a_damaged_model(trained, tmp_path):
    run, _, _ = trained
    shutil.copytree(run.path, tmp_path / "run")
    (tmp_path / "run" / "model.keras").write_bytes(run.model.read_bytes()[:1000])
    with pytest.raises(KsegError, match=r"model.keras: not a .keras model file, or a damaged one"):
        evaluate.main(["kseg.evaluate", f"--model={tmp_path / 'run'}"])


@pytest.mark.slow
@pytest.mark.parametrize(("module", "argument"), [("kseg.train", "--modle=x"), ("kseg.evaluate", "--model=/nowhere")])
def test_the_process_exits_with_2_and_no_traceback(module, argument):
    done = subprocess.run(
        [sys.executable, "-m", module, argument], capture_output=True, text=True, env={**os.environ}, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1


def test_an_unknown_backend():
    done = subprocess.run(
        [sys.executable, "-m", "kseg.train"],
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_BACKEND": "jaxx"},
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "error: KERAS_BACKEND=jaxx: must be one of jax, tensorflow, torch\n"
