"""remat: what --remat or --loss_chunks saves in a training step, in bytes counted by JAX and XLA. Nothing is trained."""

import argparse
import os

from benchmarks.common import Benchmark, Result, Save, batch, caption, markdown, new_result, title
from kseg.runtime.xla_flags import SEQUENTIAL, xla_flags_and


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--models", nargs="+", default=["deeplabv3plus/resnet50", "deeplabv3plus/resnet101"], help="MODEL/BACKBONE"
    )
    parser.add_argument("--image_size", type=int, default=256)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--num_classes", type=int, default=21)
    parser.add_argument("--loss_chunks", type=int, default=0, help="measure this many chunks instead of --remat")
    parser.add_argument("--xla", action="store_true", help="also compile the steps (minutes each) for XLA's temporary memory")


def measure(arguments: argparse.Namespace, save: Save) -> Result:
    # In its order for concurrency XLA recomputes everything at once, which saves nothing.
    os.environ["XLA_FLAGS"] = xla_flags_and(SEQUENTIAL)
    os.environ["KERAS_BACKEND"] = "jax"
    import numpy as np

    from kseg.losses import CrossEntropy
    from kseg.models.build import build_model
    from kseg.models.chunked_loss import with_chunked_loss
    from kseg.runtime.memory import kept_bytes, step_memory

    size, count = arguments.image_size, arguments.batch_size
    images, labels = np.zeros((count, size, size, 3), "uint8"), np.zeros((count, size, size), "uint8")
    measures = {"kept": kept_bytes, **({"temporary": step_memory} if arguments.xla else {})}
    result = new_result("remat", ("jax", "jaxlib", "keras"), vars(arguments), rows=[])
    result["variant"] = "chunks" if arguments.loss_chunks else ""
    for network in arguments.models:
        name, backbone = network.split("/", 1)
        row: dict = {"network": network}
        for what, bytes_of in measures.items():
            row[what] = []
            for saving in (False, True):
                model = build_model(name, num_classes=arguments.num_classes, backbone=backbone)
                if saving and arguments.loss_chunks:
                    model = with_chunked_loss(model, arguments.loss_chunks)
                else:
                    model.get_layer("backbone").remat = saving
                model.compile(optimizer="adamw", loss=CrossEntropy())
                row[what].append(bytes_of(model, images, labels) / 2**20)
        result["rows"].append(row)
        save(result)
    return result


def table(result: Result) -> str:
    """Returns the result in Markdown."""
    settings = result["settings"]
    flag = f"--loss_chunks={settings['loss_chunks']}" if settings["loss_chunks"] else "--remat"
    names = {"kept": "kept for the backward pass", "temporary": "XLA's temporary memory"}
    present = [what for what in names if what in result["rows"][0]]
    text = f"{batch(settings).capitalize()}, MiB"
    rows = [[title(row["network"]), *(f"{value:.0f}" for what in present for value in row[what])] for row in result["rows"]]
    columns = ["model", *(column for what in present for column in (names[what], f"with `{flag}`"))]
    return f"{caption(result, text)}\n\n{markdown(columns, rows)}"


BENCHMARK = Benchmark(
    help="Memory of a training step with and without --remat, or --loss_chunks, as JAX and XLA count it.",
    add_arguments=add_arguments,
    measure=measure,
    table=table,
)
