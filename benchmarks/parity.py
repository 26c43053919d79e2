"""Measures every pair of tests/models/parity.py and writes the table into docs/checkpoints.md.

  python scripts/parity_table.py                        on JAX (some 20 minutes; training mode for a few pairs only)
  KERAS_BACKEND=torch python scripts/parity_table.py    on torch (some minutes)

Needs the `test` extra. The table goes between the page's markers, one a backend.
"""

import contextlib
import io
import os
import re
import sys
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "models")]
warnings.filterwarnings("ignore")
os.environ.setdefault("KERAS_BACKEND", "jax")

import conftest  # noqa: E402

conftest.declare_torchvision_ops()

import keras  # noqa: E402
import torch  # noqa: E402
from parity import BACKBONE_PAIRS, MODEL_PAIRS, ON_JAX, SIZES, Pair, build_pair, evaluation_error, training_errors  # noqa: E402

from kseg.runtime.distribution import describe_devices  # noqa: E402
from kseg.utils.files import write_text  # noqa: E402
from kseg.utils.progress import progress_bar  # noqa: E402

PAGE = ROOT / "docs" / "checkpoints.md"
SMALL = 1e-6
"""What is below is printed as such: it is rounding, and another machine's differs."""


REFUSED, NOT_RUN = "refused", ""


def measure(pair: Pair) -> list[float | str]:
    """Errors at each of SIZES (REFUSED where the reference refuses the size), then of loss, gradients and statistics."""
    with contextlib.redirect_stdout(io.StringIO()):
        reference, model = build_pair(pair)
        errors = [evaluation_error(pair, reference, model, size) if size in pair.sizes else REFUSED for size in SIZES]
        if keras.backend.backend() == "jax" and pair.name not in ON_JAX:
            return [*errors, NOT_RUN, NOT_RUN, NOT_RUN]
        step = training_errors(pair, reference, model)
    return [*errors, step.loss, step.gradient, step.statistics]


def row(pair: Pair, errors: list[float | str]) -> str:
    cells = [e if isinstance(e, str) else f"< {SMALL:.0e}" if e < SMALL else f"{e:.1e}" for e in errors]
    return f"| {pair.name} | {' | '.join(cells)} |"


def main() -> None:
    pairs = MODEL_PAIRS + BACKBONE_PAIRS
    rows = []
    with progress_bar(len(pairs), "parity") as bar:
        for pair in pairs:
            rows.append(row(pair, measure(pair)))
            bar.update()
            keras.utils.clear_session()
    backend = keras.backend.backend()
    sizes = " | ".join(f"{height}x{width}" for height, width in SIZES)
    table = [
        f"{len(pairs)} pairs on {describe_devices()}, against torch {torch.__version__}, float32.",
        "",
        f"| ours / reference | {sizes} | loss | gradients | statistics |",
        "|---|" + "---|" * (len(SIZES) + 3),
        *rows,
    ]
    begin, end = f"<!-- parity {backend} begin -->", f"<!-- parity {backend} end -->"
    text = PAGE.read_text()
    found = re.search(f"{begin}.*{end}", text, re.S)
    if not found:
        raise SystemExit(f"{PAGE}: has no lines {begin} and {end} to put the table between")
    write_text(PAGE, text.replace(found[0], "\n".join([begin, *table, end])))


if __name__ == "__main__":
    main()
