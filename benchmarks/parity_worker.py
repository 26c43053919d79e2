"""A worker of parity: compares one case of tests/cases.py for each JSON line {"case": name}, and answers with its errors."""

import contextlib
import gc
import io
import json
import os
import sys
import warnings
from typing import Any

from benchmarks.common import ROOT
from benchmarks.process import answer, held_mb, peak_mb, release, reset_peak

os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")  # compiling is what takes long
sys.path.insert(0, str(ROOT / "tests"))


def main() -> None:
    """Runs the worker."""
    warnings.filterwarnings("ignore")
    with contextlib.redirect_stdout(io.StringIO()):
        from torchvision_ops import declare_torchvision_ops

        declare_torchvision_ops()
        import keras
        from cases import LARGE, PAIRS
    cases = {case.name: case for case in [*PAIRS, *LARGE]}
    answer({})
    for line in sys.stdin:
        reset_peak()
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                found = compare(cases[json.loads(line)["case"]])
        except Exception as error:
            text = str(error).strip().partition("\n")[0]
            found = {"failed": f"{type(error).__name__}: {text}"}
        found["peak_mb"] = round(peak_mb())
        keras.utils.clear_session()
        gc.collect()
        release()
        answer({**found, "held_mb": round(held_mb())})


def compare(case: Any) -> dict[str, Any]:
    """Returns a case's errors.

    sizes: of inference at each of SIZES, None where the baseline refuses it. round_trip: how many tensors came back to the byte,
    and the keys of others. step: of loss, gradients and statistics, for a case that compares a training step.
    """
    import keras
    from cases import SIZES
    from parity import build_pair, evaluation_error, round_trip, training_errors

    baseline, model = build_pair(case)
    row: dict[str, Any] = {
        "sizes": [float(evaluation_error(case, baseline, model, size)) if size in case.sizes else None for size in SIZES]
    }
    same, different = round_trip(case, baseline, model)
    row["round_trip"] = {"same": same, "different": different[:5]}
    if case.step and keras.backend.backend() != "tensorflow":
        step = training_errors(case, baseline, model, size=case.test_sizes[0])
        row["step"] = [float(step.loss), float(step.gradient), float(step.statistics)]
    return row


if __name__ == "__main__":
    main()
