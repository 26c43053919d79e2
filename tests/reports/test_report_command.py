"""kseg.report: the page of a run written again, and comparisons of runs, seen in a browser."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
from browser import browser, visit
from report_pages import CONFIG, Pictures, report, write_metrics
from tiny_model import flags

from kseg import report as command
from kseg import train
from kseg.config import ReportConfig, SelectionConfig
from kseg.metrics.bootstrap import mean_iou_difference, mean_iou_interval
from kseg.metrics.evaluation_files import read_matrices, write_evaluation, write_matrices
from kseg.metrics.scores import scores
from kseg.models.saving import load_model
from kseg.reports import run_report
from kseg.reports.comparison import differing_settings, not_comparable, read_runs
from kseg.reports.figures import short_count
from kseg.reports.report_page import hardest_classes
from kseg.runtime.metrics_csv import best_epoch
from kseg.runtime.run_dir import RunDir
from kseg.utils.errors import KsegError
from kseg.utils.files import write_text


@pytest.fixture(scope="module")
def chromium():
    with browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def trained(tiny_coco, tmp_path_factory):
    """Two finished runs, "one" and "two", on the same data."""
    folder = tmp_path_factory.mktemp("runs")
    for name, more in (("one", ["--report"]), ("two", ["--epochs=1", "--learning_rate=0.01"])):
        train.main(flags(tiny_coco, folder / name, *more))
    return folder


def looks_right(chromium, page, phone, least_colours=10):
    """Asserts that a page opens without problems, fits the screen's width and draws something at its top."""
    with visit(chromium, page.as_uri(), phone=phone) as seen:
        assert seen.problems == []
        assert seen.overflow() == 0
        broken = "[...document.images].filter(image => !image.complete || !image.naturalWidth).length"
        assert seen.page.evaluate(broken) == 0
        shot = seen.screenshot(whole=False)
        assert shot.shape == ((1688, 780, 3) if phone else (900, 1280, 3))
        assert len(np.unique(shot @ np.array([65536, 256, 1]))) > least_colours
        wide = [table.bounding_box()["width"] for table in seen.page.locator(".scroll").all()]
        assert wide and max(wide) <= (390 if phone else 1280)
        return seen.page.inner_text("body")


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("phone", [False, True])
def test_a_report_in_a_browser(chromium, tmp_path, phone):
    names = [f"class {index} with a name as long as some are" for index in range(24)]
    write_metrics(tmp_path, ["0,1e-3,2.5,0.1,9,2.0,0.2", "1,5e-4,1.5,0.3,9,1.8,0.4321"])
    (tmp_path / "environment.json").write_text(json.dumps({"command": ["train", "--run_dir=" + "long/" * 60]}))
    run, _ = report(tmp_path, Pictures([0.1, 0.5, 0.3], names))
    text = looks_right(chromium, run.report, phone, least_colours=30)
    assert "Hardest classes" in text
    with visit(chromium, run.report.as_uri(), phone=phone) as seen:
        for details in seen.page.locator("summary").all():
            details.click()
        assert "--image_size=96x128" in seen.page.inner_text("body")
        assert seen.overflow() == 0


@pytest.mark.slow
def test_a_run_s_page_is_made_again_byte_for_byte(trained, capsys):
    run = RunDir(trained / "one")
    files = [run.report, run.matrices, *sorted(run.figures.iterdir())]
    before = {path: path.read_bytes() for path in files}
    assert len(files) > 5
    for path in files:
        path.unlink()
    command.main(["kseg.report", f"--run_dir={run.path}", "--workers=0"])
    assert {path: path.read_bytes() for path in files} == before
    assert capsys.readouterr().out.strip().endswith(f", {run.report}")


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("phone", [False, True])
def test_runs_side_by_side(chromium, trained, tmp_path, phone, capsys):
    shutil.copytree(trained / "two", tmp_path / "stopped")
    (tmp_path / "stopped" / "model.keras").unlink()
    page = tmp_path / "compare.html"
    command.main(["kseg.report", "--compare", *(str(trained / name) for name in ("one", "two")), str(tmp_path / "stopped"),
                  f"--output={page}"])  # fmt: skip
    printed = capsys.readouterr().out
    assert printed.startswith("unfinished: stopped has 1 of 1 epochs")
    text = looks_right(chromium, page, phone)
    one, two, _ = read_runs([str(trained / "one"), str(trained / "two"), str(tmp_path / "stopped")])
    for run in (one, two):
        assert f"{run.mean_iou:.4f}" in text
        assert f"{load_model(trained / run.name / 'model.keras').count_params():,}" in text
        assert run.seconds > 0
    assert f"{two.mean_iou - one.mean_iou:+.4f}" in text
    source = page.read_text()
    rows = {row[1]: row[0] for row in re.findall(r"(<tr><th>(\w+)</th>.*?</tr>)", source.partition('class="settings"')[2], re.S)}
    rows.pop("Setting")
    assert set(rows) == {"epochs", "learning_rate"}
    assert re.findall('">(.*?)</td>', rows["epochs"]) == ["2", "1", "1"]
    assert not re.search(r"https?://|@import|url\(|<script", source)


def written(path, pictures, *, config=CONFIG, class_names=None, matrices=True):
    """A run directory of an evaluation, without a model."""
    path.mkdir()
    evaluation = pictures.evaluation()
    evaluation = dataclasses.replace(evaluation, class_names=class_names or evaluation.class_names)
    run = RunDir(path)
    write_text(run.config, config.to_json())
    write_evaluation(run.evaluation, evaluation, "val")
    if matrices:
        write_matrices(run.matrices, evaluation, pictures)
    return evaluation


def test_a_paired_difference_is_surer_than_the_intervals(tmp_path):
    errors = np.linspace(0, 0.8, 12)
    a = written(tmp_path / "a", Pictures(errors + 0.02))
    b = written(tmp_path / "b", Pictures(errors))
    low, high = mean_iou_difference(b.matrices, a.matrices)
    gain = b.scores.mean_iou - a.scores.mean_iou
    assert 0 < low <= gain <= high
    assert mean_iou_interval(a.matrices)[1] > mean_iou_interval(b.matrices)[0]
    assert mean_iou_difference(a.matrices, b.matrices) == pytest.approx((-high, -low))
    assert mean_iou_difference(a.matrices, a.matrices) == (0, 0)
    assert np.isnan(mean_iou_difference(a.matrices[:1], b.matrices[:1])).all()
    with pytest.raises(ValueError, match="one shape"):
        mean_iou_difference(a.matrices, b.matrices[:3])
    page, text = run_report.report(ReportConfig(compare=tuple(str(tmp_path / name) for name in "ab"),
                                                     output=str(tmp_path / "c.html")))  # fmt: skip
    assert f"{gain:+.4f}<br>\n<small>{low:+.4f} to {high:+.4f}<br>\nsignificant</small>" in page.read_text()
    assert "unfinished: a has 0 of" in text
    best = re.findall(r'best">([\d.]+)<', page.read_text())
    assert best == [f"{b.scores.mean_iou:.4f}", *(f"{iou:.4f}" for iou in b.scores.iou)]


def test_runs_without_a_finite_epoch_are_compared(tmp_path):
    for name, rows in (("_a", ["0,1e-3,inf,nan,9,nan,nan"]), ("$b_{", ["1e300,1e-3,2.5,0.1,9,2.0,0.2", "-5,1,1,1,1,1,1"])):
        written(tmp_path / name, Pictures([0.1, 0.2]))
        write_metrics(tmp_path / name, rows)
    config = ReportConfig(compare=(str(tmp_path / "_a"), str(tmp_path / "$b_{")), output=str(tmp_path / "c.html"))
    page, _ = run_report.report(config)
    assert "Validation mIoU and loss of every run" in page.read_text()


def test_runs_of_other_data_are_not_compared(tmp_path):
    written(tmp_path / "a", Pictures([0.1, 0.2]))
    written(tmp_path / "images", Pictures([0.1, 0.2, 0.3]))
    written(tmp_path / "classes", Pictures([0.1, 0.2]), class_names=("background", "road", "bus"))
    written(tmp_path / "plain", Pictures([0.2, 0.3]), matrices=False)
    (tmp_path / "unscored").mkdir()
    write_text(RunDir(tmp_path / "unscored").config, CONFIG.to_json())
    names = ("a", "images", "classes", "plain", "unscored")
    runs = read_runs([str(tmp_path / name) for name in names])
    reasons = [not_comparable(runs[0], run) for run in runs]
    assert reasons[0] is None and reasons[3] is None
    assert reasons[1].startswith("images was evaluated on other images or labels (coco data/streets, val, 6,")
    assert reasons[2] == "classes has other classes than a"
    assert reasons[4] == "unscored was not evaluated"
    page, text = run_report.report(ReportConfig(compare=tuple(str(tmp_path / name) for name in names),
                                                     output=str(tmp_path / "c.html")))  # fmt: skip
    for reason in filter(None, reasons):
        assert f"not comparable: {reason}" in text
    assert page.read_text().count("no confusion matrices of the same images") == 1
    assert "IoU by class" in page.read_text()
    assert differing_settings(runs) == {}


@pytest.mark.parametrize("member", ["evaluation.json", "matrices.npz", "metrics.csv", "timing.csv", "model.keras"])
def test_damaged_files_are_no_traceback(tmp_path, member):
    for name in ("a", "b"):
        written(tmp_path / name, Pictures([0.1, 0.2]))
    (tmp_path / "b" / member).write_bytes(b"\x00{]")
    page, _ = run_report.report(ReportConfig(compare=(str(tmp_path / "a"), str(tmp_path / "b")),
                                                  output=str(tmp_path / "c.html")))  # fmt: skip
    assert "Comparison of 2 runs" in page.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to report"),
        (["--compare", "nowhere", "b"], "--compare=nowhere: no such folder"),
        (["--compare=b"], "--compare=b: name two"),
        (["--compare=b", "b"], "names b twice"),
        (["a", "b"], "unexpected argument 'a'"),
        (["--run_dir=nowhere"], "--run_dir=nowhere: no such folder"),
        (["--run_dir=a", "--compare=b,c"], "--compare: cannot be combined with --run_dir"),
        (["--run_dir=a", "--output=x.html"], "--output=x.html: goes with --compare"),
    ],
)
def test_misuse_is_one_line(arguments, message):
    with pytest.raises(KsegError, match=re.escape(message)) as raised:
        command.main(["kseg.report", *arguments])
    assert "\n" not in str(raised.value)


def test_matrices_come_back(tmp_path):
    pictures = Pictures([0.1, 0.4], names=["a/b.png", "\ud800 日本.jpg"])
    evaluation = pictures.evaluation()
    write_matrices(tmp_path / "m.npz", evaluation, pictures)
    names, matrices = read_matrices(tmp_path / "m.npz")
    assert names == ("a/b.png", "\ud800 日本.jpg")
    np.testing.assert_array_equal(matrices, evaluation.matrices)
    np.savez(tmp_path / "pickle.npz", names=np.array([{}], dtype=object), matrices=evaluation.matrices)
    assert read_matrices(tmp_path / "pickle.npz") is None
    assert read_matrices(tmp_path / "nothing.npz") is None


def test_hardest_classes_say_what_they_are_taken_for():
    matrix = np.array([[90, 10, 0, 0], [34, 60, 6, 0], [0, 0, 100, 0], [0, 0, 0, 0]])
    first, second = hardest_classes(("wall", "fence", "sky", "tree"), matrix)
    assert (first.name, first.missed_as) == ("fence", ("wall", 0.34))
    assert first.iou == scores(matrix).iou[1]
    assert first.mixed_with == ("wall", pytest.approx(10 / 70))
    assert second.name == "wall" and second.mixed_with == ("fence", pytest.approx(34 / 124))
    assert hardest_classes(("a", "b"), np.diag([3, 4])) == []
    assert hardest_classes(("a", "b"), np.zeros((2, 2), int)) == []


def test_the_best_epoch_is_the_first_of_the_best():
    rows = [{"epoch": n, "x": value} for n, value in enumerate([0.1, 0.3, float("nan"), 0.3, 0.2], 1)]
    assert best_epoch(rows, "x", "max") == 2
    assert best_epoch(rows, "x", "min") == 1
    assert best_epoch(rows, "y", "max") == best_epoch([], "x", "max") == 0
    assert SelectionConfig().monitor == "val_mean_iou"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (999, "999"), (1000, "1.00k"), (9996, "10.0k"), (99960, "100k"), (999600, "1.00M"), (4_560_000_000, "4.56G")],
)
def test_counts_of_pixels_are_short(count, text):
    assert short_count(count) == text
