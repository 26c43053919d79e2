"""models: parameters, operations and times of every backbone and model, and the weights there are: a table to choose from.

Times are those of inference and of a training step, kseg on JAX beside smp on eager torch, in alternating rounds. Members come
smallest first. With --rows, a run that was stopped goes on where it ended.
"""

import argparse
import contextlib
import functools
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

from benchmarks.common import RESULTS, ROOT, Benchmark, Result, Save, new_result, read_result
from benchmarks.models_tables import KINDS, cell, chart, models_table, table
from benchmarks.process import LastingWorker
from benchmarks.rounds import environment
from benchmarks.rows import Row, Rows, add_rows_argument
from benchmarks.steps import LINEAR, SMP_MODELS, Work
from kseg.utils.errors import KsegError

PACKAGES = ("jax", "jaxlib", "keras", "torch", "segmentation-models-pytorch", "timm")
WORKERS = ("kseg", "eager")
TWINS = ("efficientnet-b", "timm-efficientnet-b", "timm-tf_efficientnet_lite")
"""Prefixes of backbones with the layers of others, tf_efficientnet_*: of each prefix only the smallest is timed."""
COMMON_BACKBONE = "resnet50"
SHARE = 0.3
"""Seconds that a worker computes in each round, if a step is shorter."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_rows_argument(parser)
    parser.add_argument(
        "--only", nargs="+", metavar="PREFIX", help="only names that start so; other rows stay as they are in results/"
    )
    parser.add_argument("--image_size", type=int, default=192, help="of the times")
    parser.add_argument("--batch_size", type=int, default=2, help="of the times")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each; medians are reported. 0: no times")
    parser.add_argument("--largest", type=float, default=100, help="million parameters; larger ones are not timed")
    parser.add_argument("--together", type=int, default=2, help="networks that compile at the same time; times are taken alone")
    parser.add_argument("--limit", type=float, default=600, help="seconds in which a network must be compiled")


def measure(arguments: argparse.Namespace, save: Save) -> Result:
    settings = {name: getattr(arguments, name) for name in ("image_size", "batch_size", "rounds")}
    result = new_result("models", PACKAGES, settings, rows=[])
    rows = Rows(arguments.rows, settings | {"machine": {**result["machine"], "date": "", "load_before": 0}})
    if "head" in rows.done:  # date and load of the first start
        result["machine"] = rows.done["head"]["machine"]
    else:
        rows.add("head", {"machine": result["machine"]})
    members = [one for one in registered() if not arguments.only or one["name"].startswith(tuple(arguments.only))]
    others = _published(members, settings) if arguments.only else []
    with contextlib.ExitStack() as stack:
        cache = os.environ.get("JAX_COMPILATION_CACHE_DIR") or stack.enter_context(tempfile.TemporaryDirectory())
        lanes = [
            {
                name: stack.enter_context(LastingWorker("models_worker", {"worker": name}, environment(name, "", cache)))
                for name in WORKERS
            }
            for _ in range(max(1, arguments.together))
        ]
        pool = stack.enter_context(ThreadPoolExecutor(len(WORKERS) * len(lanes)))
        for member in members:
            key = f"count {_key(member)}"
            request = {"count": {name: member[name] for name in ("backbone", "model") if name in member}}
            counted = rows.done.get(key) or rows.add(key, lanes[0]["kseg"].ask(request, arguments.limit))
            member |= {name: value for name, value in counted.items() if name != "key"}
            _say(f"{member['name']}: {member.get('failed') or '{parameters:,} parameters, {flops:,} FLOPs'.format(**member)}")
        result["rows"] = [*members, *others]
        save(result)
        _take_times(members, arguments, rows, lanes, pool, lambda: save(result))
    return result


def _published(members: list[Row], settings: Row) -> list[Row]:
    """Returns the rows of the last result that are not measured now, and puts its settings into `settings` if nothing is timed.

    Raises KsegError if it has times with other settings.
    """
    path = RESULTS / "models.json"
    if not path.exists():
        return []
    result = read_result(path)
    if not settings["rounds"]:
        settings |= result["settings"]
    if settings != result["settings"] and any("times" in row for row in result["rows"]):
        raise KsegError(f"{path.name} has times of other settings ({result['settings']}); use those, or leave out --only")
    return [row for row in result["rows"] if _key(row) not in map(_key, members)]


def registered() -> list[Row]:
    """Returns every network in torch layout of the registry of backbones, and every model, without numbers."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import kseg.models.build  # noqa: F401  (fills the registries)
    from kseg.models.backbones.registry import BACKBONES
    from kseg.models.registry import MODELS

    names: dict[Any, list[str]] = {}
    for name in BACKBONES:
        if not name.startswith("keras_cv/"):
            names.setdefault(network(BACKBONES[name].build), []).append(name)
    rows: list[Row] = []
    for group in names.values():
        first, *others = sorted(group, key=lambda name: (name.startswith(("timm-", "legacy_")), name))
        info = BACKBONES[first].info
        weights = {tag: one.licence for name in group for tag, one in BACKBONES[name].info["weights"].items()}
        strides = list(info["output_strides"])
        rows.append({"name": first, "backbone": first, "others": others, "strides": strides, "weights": weights})
    for name in MODELS:
        own = MODELS[name].info["backbone"]
        rows.append({"name": name, "model": name, "backbone": COMMON_BACKBONE if name in SMP_MODELS else own})
    return rows


def network(build: Any) -> Any:
    """Identifies the network that a backbone's builder builds: names of the same network share it."""
    if isinstance(build, functools.partial):
        return (build.func, build.args, *sorted(build.keywords.items()))
    return build


def _key(row: Row) -> str:
    return f"{'model' if 'model' in row else 'backbone'} {row['name']}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _untimed(row: Row, arguments: argparse.Namespace) -> str:
    """Returns why a member has no times; "" for those that are timed."""
    name = row["name"]
    if row["parameters"] > 1e6 * arguments.largest:
        return "large"
    if "model" not in row and name.startswith(TWINS) and not name.endswith("0"):
        return "twin"
    if "model" not in row and 32 not in row["strides"]:
        return "no output stride 32"
    return ""


# --- Times ----------------------------------------------------------------------------------------------------------------------


def _take_times(members, arguments, rows, lanes, pool, save) -> None:
    """Times members, smallest first: those of each group compile at the same time, and are timed one after the other."""
    chosen = []
    for member in members if arguments.rounds else ():
        if "failed" not in member and not (reason := _untimed(member, arguments)):
            chosen.append(member)
        elif "failed" not in member:
            member["untimed"] = reason
    chosen.sort(key=lambda row: row["parameters"])
    done = [member for member in chosen if f"times {_key(member)}" in rows.done]
    for member in done:
        member["times"] = rows.done[f"times {_key(member)}"]["times"]
    left = [member for member in chosen if "times" not in member]
    save()
    for start in range(0, len(left), len(lanes)):
        began, group = time.perf_counter(), left[start : start + len(lanes)]
        prepared = [_prepare(member, lane, pool, arguments) for member, lane in zip(group, lanes, strict=False)]
        for number, (member, lane, futures) in enumerate(zip(group, lanes, prepared, strict=False), start + 1):
            times = _rounds(lane, futures, arguments)
            member |= {"failed": times} if isinstance(times, str) else {"times": times}
            rows.add(f"times {_key(member)}", {name: member[name] for name in ("times", "failed") if name in member})
            save()
            found = member.get("failed") or ", ".join(f"{KINDS[kind]} {cell(member, kind)}" for kind in KINDS)
            _say(f"{number + len(done)}/{len(chosen)} {member['name']}: {found}; {time.perf_counter() - began:.0f} s")
            began = time.perf_counter()


def _prepare(member, lane, pool, arguments):
    """Asks both workers of a lane to prepare inference and a step. Returns the answers to come, by worker."""
    model = member.get("model", LINEAR)
    size = {"batch_size": arguments.batch_size, "image_size": arguments.image_size}
    works = [asdict(Work(kind, f"{model}/{member['backbone']}", **size)) for kind in KINDS]
    workers = [name for name in WORKERS if name == "kseg" or model == LINEAR or model in SMP_MODELS]
    return {name: pool.submit(lane[name].ask, {"prepare": works}, arguments.limit) for name in workers}


def _rounds(lane, futures, arguments) -> dict[str, dict[str, list[float]]] | str:
    """Returns {kind: {worker: seconds of a step in each round}}, or why there are none."""
    prepared = {name: future.result() for name, future in futures.items()}
    for name, facts in prepared.items():
        if "failed" in facts:
            return f"{'smp' if name == 'eager' else name}: {facts['failed']}"
    times: dict[str, dict[str, list[float]]] = {kind: {name: [] for name in prepared} for kind in KINDS}
    for _ in range(arguments.rounds):
        for kind in KINDS:
            for name in prepared:
                steps = max(1, min(20, round(SHARE / prepared[name][kind])))
                found = lane[name].ask({"time": kind, "steps": steps}, arguments.limit)
                if "failed" in found:
                    return f"{'smp' if name == 'eager' else name}: {found['failed']}"
                times[kind][name].append(found["seconds"])
    return times


BENCHMARK = Benchmark(
    help="Parameters, operations, times and weights of every backbone and model. About an hour on two idle cores.",
    add_arguments=add_arguments,
    measure=measure,
    table=table,
    chart=chart,
    alt="Times of inference and of a training step against the number of parameters, a line for each family of backbones.",
    overview=models_table,
    charts=ROOT / "docs" / "reference",
)
