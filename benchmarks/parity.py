"""parity: every model and backbone beside its PyTorch baseline, with the same random weights (tests/cases.py).

On KERAS_BACKEND=torch every case, large ones too; on JAX, where compiling takes long, the cases that the tests compare there.
With --rows, a run that was stopped goes on where it ended.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.common import ROOT, Benchmark, Result, Save, caption, markdown, new_result
from benchmarks.process import LastingWorker
from benchmarks.rows import Row, Rows, add_rows_argument

PACKAGES = ("keras", "torch", "segmentation-models-pytorch", "timm", "transformers")
SMALL = 1e-6
"""Errors below are printed as such: they are rounding, and differ from machine to machine."""
STEP = ("loss", "gradients", "statistics")
MOST_MB = 4000
"""A worker that holds more after a case is replaced by a new one."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_rows_argument(parser)
    parser.add_argument("--only", nargs="+", metavar="TEXT", help="only cases whose name contains one of these")
    parser.add_argument("--limit", type=float, default=1800, help="seconds that a case may take")


def measure(arguments: argparse.Namespace, save: Save) -> Result:
    cases, sizes, tolerances, devices = _cases(arguments.only)
    settings = {"devices": devices, "sizes": sizes, "tolerances": tolerances}
    result = new_result("parity", PACKAGES, settings, rows=[])
    result["variant"] = devices.partition(" ")[0]
    rows = Rows(arguments.rows, settings | {"versions": result["machine"]["versions"]})
    with LastingWorker("parity_worker", {}, {"CUDA_VISIBLE_DEVICES": ""}) as worker:
        for number, case in enumerate(cases, 1):
            if case["case"] in rows.done:
                found = rows.done[case["case"]]
            else:
                start = time.perf_counter()
                found = worker.ask({"case": case["case"]}, arguments.limit)
                if found.pop("held_mb", 0) > MOST_MB:
                    worker.close()
                found = rows.add(case["case"], {**found, "seconds": round(time.perf_counter() - start, 1)})
                said = found.get("failed") or " ".join(f"{name} {_cell(error)}" for name, error in _errors(found, sizes).items())
                print(f"{number}/{len(cases)} {case['case']}: {said}; {found['seconds']} s", file=sys.stderr, flush=True)
            result["rows"].append({**case, **{name: value for name, value in found.items() if name != "key"}})
            save(result)
    return result


def _cases(only: Sequence[str] | None) -> tuple[list[Row], list[list[int]], dict[str, float], str]:
    """Returns the cases by name with their groups, the sizes, the tolerances, and the backend with its devices."""
    sys.path.insert(0, str(ROOT / "tests"))
    import keras
    from cases import LARGE, PAIRS, SIZES, TOLERANCES

    from kseg.runtime.environment import describe_devices

    backend = keras.backend.backend()
    cases = [*PAIRS, *LARGE] if backend == "torch" else [case for case in PAIRS if backend in case.backends]
    chosen = [case for case in cases if not only or any(text in case.name for text in only)]
    found = [{"case": case.name, "group": _group(case)} for case in chosen]
    return found, [list(size) for size in SIZES], dict(TOLERANCES), describe_devices()


def _group(case: Any) -> str:
    """Of a model its name; of a backbone alone the module that builds it."""
    from kseg.models.backbones.registry import BACKBONES

    if case.model:
        return f"model {case.model}"
    build = BACKBONES[case.backbone].build
    return f"backbones of {getattr(build, 'func', build).__module__.rpartition('.')[2]}.py"


def _errors(row: Row, sizes: Sequence[Sequence[int]]) -> dict[str, float | None]:
    """A row's errors by column."""
    names = [f"{height}x{width}" for height, width in sizes]
    return {**dict(zip(names, row["sizes"], strict=True)), **dict(zip(STEP, row.get("step", [None] * 3), strict=True))}


def table(result: Result) -> str:
    """Returns the largest error of each group, in Markdown, and the cases that failed or missed a tolerance."""
    settings, groups = result["settings"], {}
    for row in result["rows"]:
        groups.setdefault(row["group"], []).append(row)
    columns = [f"{height}x{width}" for height, width in settings["sizes"]]
    lines = []
    for group, rows in sorted(groups.items(), key=lambda item: (item[0].startswith("backbones"), item[0])):
        good = [_errors(row, settings["sizes"]) for row in rows if "failed" not in row]
        largest = [max((row[name] for row in good if row[name] is not None), default=None) for name in (*columns, *STEP)]
        stepped = sum("step" in row for row in rows)
        same = sum(not row["round_trip"]["different"] for row in rows if "failed" not in row)
        lines.append([group, str(len(rows)), *map(_cell, largest[:3]), str(stepped), *map(_cell, largest[3:]), str(same)])
    text = f"{len(result['rows'])} cases, {settings['devices']}, float32: the largest error of each group"
    heads = ["group", "cases", *columns, "of them trained", *STEP, "come back to the byte"]
    parts = [caption(result, text), markdown(heads, lines), _misses(result)]
    return "\n\n".join(filter(None, parts))


def _misses(result: Result) -> str:
    """Names cases that failed, that missed a tolerance, or whose weights came back changed."""
    settings = result["settings"]
    limits = {"loss": "loss", "gradients": "gradient", "statistics": "statistics"}
    found = []
    for row in result["rows"]:
        if "failed" in row:
            found.append(f"- {row['case']} failed: {row['failed']}")
            continue
        for name, error in _errors(row, settings["sizes"]).items():
            limit = settings["tolerances"][limits.get(name, "forward")]
            if error is not None and not error <= limit:
                found.append(f"- {row['case']}: {name} {error:.1e}, wanted {limit:.0e}")
        if row["round_trip"]["different"]:
            found.append(f"- {row['case']}: comes back changed, such as {row['round_trip']['different'][0]}")
    return "\n".join(found) if found else "No case failed or missed a tolerance."


def _cell(error: float | None) -> str:
    if error is None:
        return ""
    return f"< {SMALL:.0e}" if error < SMALL else f"{error:.1e}"


BENCHMARK = Benchmark(
    help="Errors of every model and backbone beside its PyTorch baseline. KERAS_BACKEND chooses kseg's backend: torch takes all.",
    add_arguments=add_arguments,
    measure=measure,
    table=table,
)
