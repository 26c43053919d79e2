"""The speed benchmarks: one real step beside the peer's, and what is made of measured numbers."""

import json
import re
import sys
from dataclasses import asdict

import keras
import pytest
from conftest import ROOT

from kseg.utils.errors import KsegError

sys.path.insert(0, str(ROOT / "scripts"))
import benchmark
from benchmarks import check, compile_times, everything, fit, growth, loader, speed
from benchmarks.common import read_between, write_between
from benchmarks.goals import peak_tflops
from benchmarks.steps import Work
from benchmarks.turns import measure

on_jax = pytest.mark.skipif(keras.backend.backend() != "jax", reason="starts processes on JAX and torch")
NETWORK = "deeplabv3plus/resnet50"


def side(seconds, memory_mb, **ready):
    """What a side of the benchmark answers, by its seconds in each turn."""
    return {"ready": ready, "turns": [{"seconds": value, "memory_mb": memory_mb} for value in seconds]}


def measured(*words, platform="cpu", device="cpu", ours=(1.0, 3.0, 2.0), theirs=(2.0, 2.0, 2.0), mb=(3000.0, 1000.0)):
    """(arguments of benchmark.py, numbers as it keeps them): kseg beside smp eager, and a torch.compile that failed."""
    arguments = benchmark.parser().parse_args(["step", "--peer", "--models", NETWORK, "--turns=3", *words])
    names = ("models", "batch_size", "image_size", "num_classes", "precision", "turns", "steps", "xla_flags", "peak_tflops")
    work = Work("step", NETWORK, arguments.batch_size, arguments.image_size, arguments.num_classes, arguments.precision)
    sides = {
        "kseg": side(ours, mb[0], platform=platform, device=device, flops=10**12),
        "eager": side(theirs, mb[1], platform=platform, device=device),
        "compile": side((), 0, failed="InductorError: no C compiler | found"),
    }
    result = {
        "kind": "step",
        "machine": {"date": "2026-01-01", "cpu": "C", "cores": 2, "load_before": 0.1, "python": "3", "versions": {"jax": "1"}},
        "settings": {name: getattr(arguments, name) for name in names} | {"peers": speed.peers(arguments)},
        "rows": [{"work": asdict(work), "sides": sides}],
    }
    return arguments, result


@on_jax
def test_a_step_is_measured_beside_the_peers(monkeypatch):
    """kseg's side imports neither TensorFlow nor keras-cv nor torch: it could not, and says so if it would have to."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    work = Work("step", "unet/resnet18", batch_size=2, image_size=32, num_classes=3)
    found = measure(work, ["kseg", "eager"], turns=2, steps=1, xla_flags="--xla_backend_optimization_level=0")
    ready = {name: one["ready"] for name, one in found.items()}
    assert ready["kseg"]["parameters"] == ready["eager"]["parameters"] > 14e6
    assert ready["kseg"]["platform"] == ready["eager"]["platform"]
    assert ready["kseg"]["flops"] > 1e8
    assert ready["kseg"]["plan_mb"] > 3 * 4 * ready["kseg"]["parameters"] / 2**20  # weights and Adam's two averages, at least
    for one in found.values():
        assert [turn["seconds"] > 0 and turn["memory_mb"] > 10 for turn in one["turns"]] == [True, True]
    with pytest.raises(KsegError, match="unknown backbone 'resnt18'; did you mean resnet18"):
        measure(Work("infer", "unet/resnt18", batch_size=1, image_size=32), ["kseg"], turns=1, steps=1)


def test_the_table_says_ratios_and_goals():
    _, result = measured()
    text = speed.table(result)
    assert "| deeplabv3plus on resnet50 | smp, eager | 2000 | 2000 | 1.00 (0.50 to 1.50) | 2 | 3000 | 1000 | 3.00 |" in text
    assert "time at most 0.9: missed by 0.10; memory at most 1.0: missed by 2.00 |" in text
    assert "| smp, torch.compile | 2000 | failed: InductorError: no C compiler / found |" in text
    assert "utilisation" not in text  # a CPU's peak is not known
    _, result = measured("--batch_size=2", "--peak_tflops=10")
    text = speed.table(result)
    assert "time at most" not in text  # the goals are for batch 4
    assert "of 10 TFLOP/s" in text and "deeplabv3plus on resnet50 kseg 30.0%, smp, eager 30.0%." in text  # 3 x 2 of 20 TFLOP


def test_a_gpu_has_a_place_and_a_peak_of_its_own():
    words = ("--precision=bfloat16", "--batch_size=16", "--image_size=512")
    _, result = measured(*words, platform="gpu", device="NVIDIA H200")
    assert speed.section(result) == "step-gpu"
    assert "of 989 TFLOP/s" in speed.table(result) and "NVIDIA H200" in speed.table(result)
    assert peak_tflops("NVIDIA H100 80GB HBM3", "float32") == 494.5 and peak_tflops("NVIDIA H100 PCIe", "bfloat16") == 756
    assert peak_tflops("cpu", "float32") is None
    row = result["rows"][0]
    row["sides"] |= {"compile": row["sides"]["eager"], "kseg": side((1.0, 1.0, 1.0), 900.0, **row["sides"]["kseg"]["ready"])}
    assert "images/s at least 1.1: met (2.00); memory at most 0.8: missed by 0.10 |" in speed.table(result)


def test_check_reads_from_the_page_what_to_run_and_what_was_measured(tmp_path):
    arguments, result = measured("--xla_flags=--xla_a=1 --xla_b=2", "--image_size=128")
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- step -->\n<!-- /step -->\n<!-- infer -->\nNot measured yet.\n<!-- /infer -->\nafter\n")
    write_between(page, "step", speed.table(result))
    again, ratios = check.committed_run(page, "step")
    wanted = {name: value for name, value in vars(arguments).items() if name not in ("command", "run", "peer")}
    assert {name: value for name, value in vars(again).items() if name != "peer"} == wanted
    assert speed.peers(again) == ["eager", "compile"]
    assert ratios == {("deeplabv3plus on resnet50", "smp, eager"): {"time": 1.0, "memory": 3.0}}
    with pytest.raises(KsegError, match="infer has no measured ratios; measure them first"):
        check.committed_run(page, "infer")
    with pytest.raises(KsegError, match="has no place marked <!-- step-gpu -->"):
        check.committed_run(page, "step-gpu")
    with pytest.raises(KsegError, match="measure it again with --write"):
        check.read_ratios("| network | peer |\n|---|---|\n| a | b |")


def test_check_tells_what_got_worse(tmp_path, monkeypatch, capsys):
    arguments, result = measured()
    page = tmp_path / "page.md"
    page.write_text(f"<!-- step -->\n{speed.table(result)}\n<!-- /step -->\n")
    words = ["check", "--sections", "step", f"--page={page}"]
    for change, worse in (
        ({}, []),
        ({"ours": (1.14, 3.42, 2.28)}, []),
        ({"ours": (1.2, 3.6, 2.4)}, ["time: 1.00 on the page, 1.20 now (+20%, tolerance 15%): WORSE"]),
        ({"mb": (3400.0, 1000.0)}, ["memory: 3.00 on the page, 3.40 now (+13%, tolerance 10%): WORSE"]),
    ):
        monkeypatch.setattr(speed.STEP, "measure", lambda arguments, change=change: measured(**change)[1])
        arguments = benchmark.parser().parse_args(words)
        if worse:
            with pytest.raises(SystemExit) as exit:
                arguments.run(arguments)
            assert exit.value.code == 1
        else:
            arguments.run(arguments)
        said = capsys.readouterr()
        assert all(line in said.err for line in worse) and said.err.count("WORSE") == len(worse)
    turns = iter([{"ours": (1.2, 3.6, 2.4)}, {"mb": (3400.0, 1000.0)}])  # another ratio each time: once is nothing
    monkeypatch.setattr(speed.STEP, "measure", lambda arguments: measured(**next(turns))[1])
    arguments.run(arguments)
    said = capsys.readouterr()
    assert said.out.count("WORSE") == 2 and said.out.endswith("Nothing got worse.\n") and not said.err
    gone = check.compare({("a", "b"): {"time": 1.0}}, {}, check.TOLERANCE)
    assert [*gone.values()] == ["a, b, time: 1.00 on the page, not measured now: WORSE"]


def test_exponents_are_fitted():
    exact, fit = growth.exponent([(x, 3 * x**1.7) for x in (128, 256, 384, 1024)])
    assert exact == pytest.approx(1.7) and fit == pytest.approx(1)
    bent, fit = growth.exponent([(2, 10.0), (4, 11.0), (8, 30.0), (16, 31.0)])
    assert bent == pytest.approx(0.634, abs=1e-3)  # sum of (x - mean)(y - mean) over sum of (x - mean)^2, in powers of two
    assert fit == pytest.approx(0.845, abs=1e-3)
    assert growth.exponent([(2, 5.0), (4, 5.0)]) == (pytest.approx(0, abs=1e-9), pytest.approx(1))


def test_curves_state_their_exponents():
    points = {
        str(size): {"kseg": side((size**2 / 1e4,), 10.0 * size), "eager": side((size / 100,), None)} for size in (128, 256, 512)
    }
    result = {
        "machine": {"date": "2026-01-01", "cpu": "C", "cores": 2, "load_before": 0.1, "python": "3", "versions": {"jax": "1"}},
        "settings": {"model": "fpn/resnet18", "at": [64, 2, 12], "precision": "float32", "turns": 1, "steps": 1},
        "axes": {"image_size": points},
    }
    text = growth.text(result)
    assert "| 256 | 6554 | 2560 | 2560 |" in text
    assert "time of kseg on JAX 2.00 (128 to 512, R² 1.000; 2.00 between the last two); time of smp, eager 1.00 (" in text
    assert "memory of kseg on JAX 1.00 (" in text and "memory of smp" not in text


def test_plots_are_pictures():
    from benchmarks.charts import growth_chart, ratios_chart

    _, result = measured()
    assert ratios_chart(speed.chart_rows(result)).startswith(b"\x89PNG")
    axes = {"classes": {"time": {"kseg": [(2, 100.0), (150, 300.0)]}, "memory": {"kseg": [(2, 50.0), (150, 51.0)]}}}
    assert growth_chart(axes, growth.NAMES).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["step", "--models", "resnet50"], "'resnet50': is not MODEL/BACKBONE"),
        (["step", "--peer", "--models", "segnet/vgg16_bn"], "segnet/vgg16_bn: segmentation_models_pytorch has no such model"),
        (["step", "--peer", "eager", "--batch_size=1"], "--batch_size=1: torch cannot train deeplabv3plus/resnet50 on one image"),
        (["infer", "--models", "unet/resnet18", "unet/resnt18"], "unknown backbone 'resnt18'; did you mean resnet18"),
        (["infer", "--models", "unet/keras_cv/resnet18"], "unet/keras_cv/resnet18: keras-cv needs TensorFlow"),
        (["infer", "--turns=0"], "--turns=0: must be at least 1"),
        (["infer", "--from_json=nowhere.json"], "--from_json=nowhere.json: cannot be read"),
        (["curves", "--batch_sizes", "4"], "batch_size: one value, 4, has no growth"),
        (["curves", "--from_json=nowhere.json"], "--from_json=nowhere.json: cannot be read"),
        (["memory", "--peer", "--models", "fcn8s/vgg11"], "fcn8s/vgg11: segmentation_models_pytorch has no such model"),
        (["compile", "--from_json=nowhere.json"], "--from_json=nowhere.json: cannot be read"),
        (["compile", "--models", "unett"], "unknown model 'unett'; did you mean unet"),
    ],
)
def test_misuse_is_told_before_anything_runs(words, message):
    with pytest.raises(KsegError, match=re.escape(message)):
        benchmark.main(["benchmark.py", *words])


def test_numbers_of_another_command_are_refused(tmp_path):
    _, result = measured()
    (tmp_path / "step.json").write_text(json.dumps(result))
    with pytest.raises(KsegError, match="holds no numbers of infer"):
        benchmark.main(["benchmark.py", "infer", f"--from_json={tmp_path / 'step.json'}"])
    benchmark.main(["benchmark.py", "step", f"--from_json={tmp_path / 'step.json'}"])


@on_jax
@pytest.mark.parametrize(
    ("module", "words", "parts"),
    [
        (fit, ["fit", "--model=unet", "--image_size=32", "--batch_size=2", "--steps=1", "--rounds=1"], {"fit", "metric"}),
        (loader, ["loader", "--sets=synthetic", "--augments=none", "--images=8", "--rounds=1", "--workers=1"], {"rows"}),
    ],
)
def test_what_was_measured_is_written(module, words, parts, tmp_path, monkeypatch):
    name = words[0]
    monkeypatch.setattr(module, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(module, "NUMBERS", tmp_path / "numbers.json")
    (tmp_path / "page.md").write_text(f"<!-- {name} -->\n<!-- /{name} -->\n")
    benchmark.main(["benchmark.py", *words, "--write"])
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert numbers.keys() >= {"machine", "settings"} | parts and numbers["settings"]["rounds"] == 1
    assert read_between(tmp_path / "page.md", name) == module.table(numbers).strip()


def test_all_runs_every_command_that_measures():
    assert {*everything.COMMANDS} == {*benchmark.COMMANDS} - {"all", "check"}
    for name, words in everything.COMMANDS.items():
        writing = ["--write"] if name in everything.WRITING else []
        benchmark.parser().parse_args([name, *words, *writing])
    bare = benchmark.parser().parse_args(["all", "--bare", "--only", "step", "loader"])
    assert everything.commands(bare) == ["step"]
    assert benchmark.parser().parse_args(["metric"]).run is benchmark.COMMANDS["fit"].run


@pytest.mark.parametrize("name", ["step", "infer", "step-gpu", "infer-gpu", "curves", "curves-gpu", "compile", "compile-gpu"])
def test_the_page_says_what_was_measured(name):
    """What stands in the page is the table of the numbers kept beside it."""
    path = ROOT / "docs" / "performance" / f"{name}.json"
    text = read_between(ROOT / "docs" / "performance.md", name)
    if not path.exists():
        assert text.startswith("Not measured")
        return
    result = json.loads(path.read_text())
    kind = name.removesuffix("-gpu")
    assert text.startswith({"curves": growth.text, "compile": compile_times.table}.get(kind, speed.table)(result))
