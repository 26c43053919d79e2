"""The benchmarks: a real step beside the baseline, tables and charts of numbers, and that the pages show those numbers."""

import os
import re
import subprocess
import sys
from dataclasses import asdict

import keras
import pytest
from conftest import ROOT

from kseg.utils.errors import KsegError

sys.path.insert(0, str(ROOT))
from benchmarks import __main__ as benchmarks
from benchmarks import common, curves, models, models_tables, models_worker, rows, speed, torch_training
from benchmarks.charts import losses_chart, runs_chart
from benchmarks.rounds import measure
from benchmarks.steps import Work

on_jax = pytest.mark.skipif(keras.backend.backend() != "jax", reason="starts processes on JAX and torch")
NETWORK = "deeplabv3plus/resnet50"
RESULTS = sorted(common.RESULTS.glob("*.json"))
MACHINE = {"date": "2026-01-01", "cpu": "C", "cores": 2, "load_before": 0.1, "python": "3", "versions": {"jax": "1"}}


def worker(seconds, memory_mb, **ready):
    """The answers of a worker of step, by its seconds in each round."""
    return {"ready": ready, "rounds": [{"seconds": value, "memory_mb": memory_mb} for value in seconds]}


def measured(*words, platform="cpu", device="cpu", ours=(1.0, 3.0, 2.0), memory_mb=3000.0):
    """A result of step: kseg beside smp eager, and a torch.compile that failed."""
    arguments = benchmarks.read_arguments(["step", "--baseline", "--models", NETWORK, "--rounds=3", *words])
    settings = {name: value for name, value in vars(arguments).items() if name not in ("command", "json", "write")}
    work = Work("step", NETWORK, arguments.batch_size, arguments.image_size, arguments.num_classes, arguments.precision)
    workers = {
        "kseg": worker(ours, memory_mb, platform=platform, device=device, flops=10**12),
        "eager": worker((2.0, 2.0, 2.0), 1000.0, platform=platform, device=device),
        "compile": worker((), 0, failed="InductorError: no C compiler | found"),
    }
    rows = [{"work": asdict(work), "workers": workers}]
    return {"benchmark": "step", "variant": speed.variant(workers), "machine": MACHINE, "settings": settings, "rows": rows}


@on_jax
@pytest.mark.slow
def test_a_step_is_measured_beside_the_baselines(monkeypatch):
    """kseg's worker cannot import TensorFlow, keras-cv or torch, and fails if it needs one."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    work, saved = Work("step", "unet/resnet18", batch_size=2, image_size=32, num_classes=3), []
    flags = "--xla_backend_optimization_level=0"
    found = measure(
        work, ["kseg", "eager"], rounds=2, steps=1, xla_flags=flags, start_together=True,
        save=lambda found: saved.append(len(found["eager"]["rounds"])),
    )  # fmt: skip
    ready = {name: one["ready"] for name, one in found.items()}
    assert ready["kseg"]["parameters"] == ready["eager"]["parameters"] > 14e6
    assert ready["kseg"]["platform"] == ready["eager"]["platform"]
    assert ready["kseg"]["flops"] > 1e8
    assert ready["kseg"]["plan_mb"] > 3 * 4 * ready["kseg"]["parameters"] / 2**20  # weights and Adam's two averages, at least
    for one in found.values():
        assert [round["seconds"] > 0 and round["memory_mb"] > 10 for round in one["rounds"]] == [True, True]
    assert saved == [1, 2]
    with pytest.raises(KsegError, match="unknown backbone 'resnt18'; did you mean resnet18"):
        measure(Work("infer", "unet/resnt18", batch_size=1, image_size=32), ["kseg"], rounds=1, steps=1)


def test_the_table_has_ratios_and_failures():
    text = speed.table(measured())
    assert "| deeplabv3plus on resnet50 | smp, eager | 2000 | 2000 | 1.00 (0.50 to 1.50) | 2 | 3000 | 1000 | 3.00 |" in text
    assert "| smp, torch.compile | 2000 | failed: InductorError: no C compiler / found |" in text
    assert "Utilisation" not in text  # a CPU's peak is not known
    text = speed.table(measured("--batch_size=2", "--peak_tflops=10"))
    assert "of 10 TFLOP/s" in text and "deeplabv3plus on resnet50: kseg 30.0%, smp, eager 30.0%." in text  # 3 x 2 of 20 TFLOP


def test_a_gpu_has_a_name_and_a_peak_of_its_own():
    result = measured("--precision=bfloat16", platform="gpu", device="NVIDIA H200")
    assert common.result_name(result) == "step-gpu"
    assert "of 989 TFLOP/s" in speed.table(result) and "NVIDIA H200" in speed.table(result)
    assert speed.peak_tflops("NVIDIA H100 80GB HBM3", "float32") == 494.5
    assert speed.peak_tflops("NVIDIA H100 PCIe", "bfloat16") == 756
    assert speed.peak_tflops("cpu", "float32") is None
    rows = speed.overview([measured(), result]).splitlines()[2:]
    assert [row[: row.index(" | dee")] for row in rows] == ["| CPU", "| GPU"]
    assert rows[0].endswith("| 2000 | 2000 |  | 1.00 |  | 3.00 |  |")


def test_exponents_are_fitted():
    exact, fit = curves.exponent([(x, 3 * x**1.7) for x in (128, 256, 384, 1024)])
    assert exact == pytest.approx(1.7) and fit == pytest.approx(1)
    bent, fit = curves.exponent([(2, 10.0), (4, 11.0), (8, 30.0), (16, 31.0)])
    assert bent == pytest.approx(0.634, abs=1e-3)  # sum of (x - mean)(y - mean) over sum of (x - mean)^2, in powers of two
    assert fit == pytest.approx(0.845, abs=1e-3)
    assert curves.exponent([(2, 5.0), (4, 5.0)]) == (pytest.approx(0, abs=1e-9), pytest.approx(1))


def test_curves_have_exponents():
    points = {
        str(size): {"kseg": worker((size**2 / 1e4,), 10.0 * size), "eager": worker((size / 100,), None)}
        for size in (128, 256, 512)
    }
    settings = {"model": "fpn/resnet18", "at": [64, 2, 12], "precision": "float32", "rounds": 1, "steps": 1}
    text = curves.table({"machine": MACHINE, "settings": settings, "axes": {"image_size": points}})
    assert "| 256 | 6554 | 2560 | 2560 |" in text
    assert "time of kseg on JAX 2.00 (128 to 512, R² 1.000; 2.00 between the last two); time of smp, eager 1.00 (" in text
    assert "memory of kseg on JAX 1.00 (" in text and "memory of smp" not in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["step", "--models", "resnet50"], "'resnet50': is not MODEL/BACKBONE"),
        (["step", "--baseline", "--models", "segnet/vgg16_bn"], "segnet/vgg16_bn: segmentation_models_pytorch has no such model"),
        (["step", "--baseline", "eager", "--batch_size=1"], "--batch_size=1: torch cannot train deeplabv3plus/resnet50"),
        (["step", "--peer"], "step: unknown argument --peer"),
        (["infer", "--models", "unet/resnet18", "unet/resnt18"], "unknown backbone 'resnt18'; did you mean resnet18"),
        (["infer", "--models", "unet/keras_cv/resnet18"], "unet/keras_cv/resnet18: keras-cv needs TensorFlow"),
        (["step", "--baseline", "eager", "transformers", "--models", "segformer/mit_b0"], "--baseline: transformers has net"),
        (["step", "--baseline", "transformers", "--models", "unet/resnet18"], "backbone resnet18 has no such form"),
        (["infer", "--rounds=0"], "--rounds=0: must be at least 1"),
        (["tables", "nowhere"], "nowhere.json: cannot be read"),
        (["curves", "--batch_sizes", "4"], "batch_size: one value, 4, has no growth"),
        (["compile", "--models", "unett"], "unknown model 'unett'; did you mean unet"),
        (["backends", "--modle=unet"], "unknown flag --modle; did you mean model"),
        (["backends", "--steps=1"], "--steps=1: must be at least 2"),
    ],
)
def test_misuse_ends_before_anything_runs(words, message):
    with pytest.raises(KsegError, match=re.escape(message)):
        benchmarks.main(["benchmarks", *words])


def test_a_backend_must_be_one_of_keras(capsys):
    with pytest.raises(SystemExit):
        benchmarks.read_arguments(["backends", "--backends", "jax", "mxnet"])
    assert "invalid choice: 'mxnet'" in capsys.readouterr().err


@on_jax
@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["fit", "--model=unet/resnet18", "--image_size=32", "--batch_size=2", "--steps=1", "--rounds=1"], {"fit", "metric"}),
        (["loader", "--sets=synthetic", "--augments=none", "--images=8", "--rounds=1", "--workers=1"], {"rows"}),
    ],
)
def test_a_result_is_written(words, parts, tmp_path, monkeypatch):
    """Numbers and table of two commands that write; --json writes the same numbers."""
    name, page = words[0], tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    page.write_text(f"before\n<!-- {name} -->\n<!-- /{name} -->\nafter\n")
    monkeypatch.setattr(common, "ROOT", tmp_path)
    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")
    benchmarks.main(["benchmarks", *words, "--write", f"--json={tmp_path / 'copy.json'}"])
    result = common.read_result(tmp_path / "results" / f"{name}.json")
    assert result == common.read_result(tmp_path / "copy.json")
    assert result.keys() >= {"machine", "settings"} | parts and result["settings"]["rounds"] == 1
    assert common.read_between(page, name) == benchmarks.BENCHMARKS[name].table(result).strip()
    assert page.read_text().startswith("before\n") and page.read_text().endswith("after\n")
    with pytest.raises(KsegError, match="has no place marked <!-- other -->"):
        common.read_between(page, "other")
    (tmp_path / "results" / "other.json").write_text("{}")
    with pytest.raises(KsegError, match=r"other\.json: holds no benchmark's result"):
        common.read_result(tmp_path / "results" / "other.json")


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_the_pages_show_the_results(path):
    """The pages' tables are those of the numbers in benchmarks/results/, and every result is on a page."""
    result = common.read_result(path)
    assert common.result_name(result) == path.stem
    shown = []
    for page in common.pages():
        for place, text in common.page_texts(benchmarks.BENCHMARKS[result["benchmark"]], result, page).items():
            if f"<!-- {place} -->" in page.read_text():
                assert common.read_between(page, place) == text, f"{page}: run python -m benchmarks tables"
                shown.append(place)
    assert shown


def test_the_table_of_models_has_every_network_of_the_registry():
    """With the weights and strides of today; of a small one, also the numbers of today."""
    advice = "run: python -m benchmarks models --only NAME --rounds=0 --write"
    rows = {(row["name"], row.get("model")): row for row in common.read_result(common.RESULTS / "models.json")["rows"]}
    page = (ROOT / "docs" / "reference" / "models.md").read_text()
    for network in models.registered():
        name = network["name"]
        if name.startswith("test_") or network.get("model", "").startswith("test_"):  # other tests registered it
            continue
        assert (name, network.get("model")) in rows, f"{name}: {advice}"
        row = rows[name, network.get("model")]
        assert {key: row[key] for key in network} == network, f"{name}: {advice}"
        for shown in (name, *network.get("others", ())):
            assert f"`{shown}`" in page
    if keras.backend.backend() == "jax":
        found = models_worker.count("mobilenetv3_small_100")
        assert found.items() <= rows["mobilenetv3_small_100", None].items(), advice
        assert found["parameters"] == 927_008  # without the classifier


def test_times_beside_smps_stand_in_the_table():
    times = {"infer": {"kseg": [0.02, 0.022], "eager": [0.01, 0.02]}, "step": {"kseg": [0.5, 0.5], "eager": [0.1, 0.1]}}
    weights = {"imagenet": None, "ssl": "CC BY-NC 4.0, not for commercial use"}
    row = {"name": "resnet18", "others": ["r18"], "strides": [8, 32], "weights": weights, "parameters": 11_180_000, "flops": 2e10}
    head = {"name": "unet", "model": "unet", "backbone": "resnet50", "parameters": 3e7, "flops": 1e11, "failed": "no | memory"}
    settings = {"image_size": 256, "batch_size": 2, "rounds": 2}
    result = {"machine": MACHINE, "settings": settings, "rows": [{**row, "times": times}, head]}
    text = models_tables.table(result)
    cells = "21 / 15 (1.55) | 500 / 100 (5.00) | `imagenet`, `ssl` | permissive (`imagenet`); CC BY-NC 4.0 (`ssl`) |"
    assert f"| `resnet18` (`r18`) | 8, 32 | 11.2 | 20 | {cells}" in text
    assert "more than 3 times smp's for `resnet18` (5.0): not explained yet" in text
    assert "- `unet` failed: no / memory" in models_tables.models_table([result])
    assert models_tables.chart(result).startswith(b"\x89PNG")
    families = ("resnet18", "resnet18d", "vgg16_bn", "tf_efficientnetv2_s", "mobileone_s0_fused", "se_resnext50_32x4d")
    found = [models_tables.family(name) for name in families]
    assert found == ["resnet", "resnet d", "vgg bn", "tf_efficientnetv2", "mobileone fused", "se_resnext"]


def test_rows_of_a_run_that_was_stopped_are_kept(tmp_path):
    path = tmp_path / "rows.jsonl"
    first = rows.Rows(path, {"size": 1})
    first.add("a", {"value": 1})
    first.add("b", {"failed": "no memory"})
    with path.open("a") as file:
        file.write('{"key": "c", "val')  # killed while it wrote
    again = rows.Rows(path, {"size": 1})
    assert again.done == {"a": {"key": "a", "value": 1}}  # what failed is tried again
    again.add("b", {"value": 2})
    assert set(rows.Rows(path, {"size": 1}).done) == {"a", "b"}
    with pytest.raises(KsegError, match="holds rows of other settings"):
        rows.Rows(path, {"size": 2})
    path.write_text("no rows")
    with pytest.raises(KsegError, match="holds no rows of a benchmark"):
        rows.Rows(path, {"size": 1})


def test_charts_are_pictures():
    pictures = [losses_chart({"a": [1.0, 0.5], "b": [1.1, 0.4]}, 2), runs_chart({"0427-1": [0.1, 0.2], "0427-2": [0.3]})]
    for path in RESULTS:
        result = common.read_result(path)
        if chart := benchmarks.BENCHMARKS[result["benchmark"]].chart:
            picture = chart(result)
            assert picture is None or common.picture_path(benchmarks.BENCHMARKS[result["benchmark"]], result).exists()
            pictures += filter(None, [picture])
    assert len(pictures) > 3
    assert all(picture.startswith(b"\x89PNG") and len(picture) > 5000 for picture in pictures)


def test_how_far_apart_trainings_are():
    runs = {
        "smp": {"losses": [2.0, 1.0, 1.0, 1.0], "mean_iou": 0.3},
        "kseg": {"losses": [2.0, 1.1, 0.9, 1.0], "mean_iou": 0.304},
    }
    first, smoothed, points = torch_training.differences({"runs": runs, "settings": {"window": 2, "steps": 4}}, "kseg")
    assert (first, points) == (0, pytest.approx(0.4))
    assert smoothed == pytest.approx(0.05)  # of means 1.5, 1, 1 and 1.55, 1, 0.95


def test_the_control_changes_the_last_digit():
    import torch

    state = {"weight": torch.randn(1000), "count": torch.tensor(3)}
    changed = torch_training.in_the_last_digit(state)
    ratio = (changed["weight"].double() / state["weight"].double() - 1).abs()
    assert 0 < ratio.mean() < 2e-7 and ratio.max() < 3e-7
    assert changed["count"] == 3 and changed["weight"].dtype == torch.float32


@on_jax
@pytest.mark.slow
def test_backends_agree(tiny_coco, monkeypatch, tmp_path):
    """JAX and torch, each in a process of its own: the same logits and gradients from the same weights, and the same losses."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    words = [
        "--model=deeplabv3plus", "--backbone=resnet18", "--dataset=coco", f"--data_dir={tiny_coco}", "--image_size=48x64",
        "--batch_size=4", "--steps=2", "--predictions=2", "--learning_rate=1e-5", f"--json={tmp_path / 'result.json'}",
    ]  # fmt: skip
    benchmarks.main(["benchmarks", "backends", "--backends", "jax", "torch", *words])
    result = common.read_result(tmp_path / "result.json")
    jax, torch = result["backends"].values()
    assert jax["devices"].startswith("jax") and torch["devices"].startswith("torch")
    assert jax["parameters"] == torch["parameters"]
    assert torch["logits_difference"] < 1e-4
    assert torch["gradients_difference"] < 0.05
    assert len(jax["train"]) == 2 and len(jax["predict"]) == 3
    assert torch["train"][0]["loss"] == pytest.approx(jax["train"][0]["loss"], rel=1e-4)
    table = benchmarks.BENCHMARKS["backends"].table(result)
    assert "deeplabv3plus on resnet18, batch 4x48x64x3" in table and f"{torch['logits_difference']:.1e}" in table


def test_the_gpu_script_has_flags_that_exist(tmp_path):
    """Its command line, as a python that only prints it sees it."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\n[ "$1" = - ] || printf "%s\\n" "$@"\n')  # "-": the check of packages
    python.chmod(0o755)
    for tiny in ("", "1"):
        environment = {**os.environ, "PYTHON": str(python), "OUT": str(tmp_path), "TINY": tiny, "TMPDIR": str(tmp_path)}
        done = subprocess.run([ROOT / "benchmarks" / "gpu.sh"], env=environment, capture_output=True, text=True, check=True)
        words = done.stdout.splitlines()
        assert words[:2] == ["-m", "benchmarks"]
        arguments = benchmarks.read_arguments(words[2:])
        network = "unet/resnet18" if tiny else "unet/tf_efficientnet_b4"
        assert (arguments.models, arguments.precision, arguments.baseline) == ([network], "bfloat16", ["compile"])
        assert arguments.json == tmp_path / "step-gpu-unet.json" and arguments.label == "unet"
