"""parity: every model and backbone beside its PyTorch reference, with the same random weights (tests/cases.py).

On JAX about 20 minutes, training mode for a few pairs only, because compiling it is slow. KERAS_BACKEND=torch takes some minutes.
"""

import argparse
import contextlib
import io
import os
import sys
import warnings
from typing import Any

from benchmarks.common import ROOT, Benchmark, Result, Save, caption, markdown, new_result

SMALL = 1e-6
"""Errors below are printed as such: they are rounding, and differ from machine to machine."""
REFUSED = "refused"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", default="", help="measure only pairs whose name contains this")


def measure(arguments: argparse.Namespace, save: Save) -> Result:
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")  # compiling is what takes long
    sys.path.insert(0, str(ROOT / "tests"))
    warnings.filterwarnings("ignore")
    from torchvision_ops import declare_torchvision_ops

    declare_torchvision_ops()
    import keras
    from cases import LARGE, PAIRS, SIZES

    from kseg.runtime.environment import describe_devices
    from kseg.utils.progress import progress_bar

    settings = {"devices": describe_devices(), "sizes": SIZES, "only": arguments.only}
    result = new_result("parity", ("keras", "torch", "segmentation-models-pytorch", "timm"), settings, rows=[])
    result["variant"] = keras.backend.backend()
    pairs = [pair for pair in [*PAIRS, *LARGE] if arguments.only in pair.name]
    with progress_bar(len(pairs), "parity") as bar:
        for pair in pairs:
            result["rows"].append({"pair": pair.name, **_errors(pair)})
            bar.update()
            keras.utils.clear_session()
    return result


def _errors(pair: Any) -> dict[str, Any]:
    """Errors at each size, or REFUSED where the reference refuses it, then of one training step: loss, gradients, statistics."""
    import keras
    from cases import SIZES
    from parity import build_pair, evaluation_error, training_errors

    with contextlib.redirect_stdout(io.StringIO()):
        reference, model = build_pair(pair)
        sizes = [float(evaluation_error(pair, reference, model, size)) if size in pair.sizes else REFUSED for size in SIZES]
        if pair.model == "segnet" or (keras.backend.backend() == "jax" and "jax" not in pair.backends):
            return {"sizes": sizes, "step": [None, None, None]}
        step = training_errors(pair, reference, model)
    return {"sizes": sizes, "step": [float(value) for value in (step.loss, step.gradient, step.statistics)]}


def table(result: Result) -> str:
    """Returns the result in Markdown."""
    sizes = [f"{height}x{width}" for height, width in result["settings"]["sizes"]]
    rows = [[row["pair"], *map(_cell, row["sizes"] + row["step"])] for row in result["rows"]]
    text = f"{len(rows)} pairs, {result['settings']['devices']}, float32"
    return f"{caption(result, text)}\n\n{markdown(['ours / reference', *sizes, 'loss', 'gradients', 'statistics'], rows)}"


def _cell(error: float | str | None) -> str:
    if error is None or isinstance(error, str):
        return error or ""
    return f"< {SMALL:.0e}" if error < SMALL else f"{error:.1e}"


BENCHMARK = Benchmark(
    help="Errors of every model and backbone beside its PyTorch reference. KERAS_BACKEND chooses kseg's backend.",
    add_arguments=add_arguments,
    measure=measure,
    table=table,
)
