"""What --remat or --loss_chunks saves: bytes of a training step with and without, as JAX and XLA count. Nothing is trained."""

import argparse
import os

from kseg.runtime.xla_flags import SEQUENTIAL, xla_flags_and

HELP = "Memory of a training step with and without --remat, or --loss_chunks, as JAX and XLA count it."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", default="deeplabv3plus:resnet50,deeplabv3plus:resnet101", help="MODEL:BACKBONE,...")
    parser.add_argument("--image_size", type=int, default=256)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--num_classes", type=int, default=21)
    parser.add_argument("--loss_chunks", type=int, default=0, help="measure so many bands, instead of --remat")
    parser.add_argument("--xla", action="store_true", help="also compile the steps (minutes each) for XLA's own figure")


def run(arguments: argparse.Namespace) -> None:
    # In its order for concurrency XLA recomputes everything at once.
    os.environ["XLA_FLAGS"] = xla_flags_and(SEQUENTIAL)
    os.environ["KERAS_BACKEND"] = "jax"
    import numpy as np

    from kseg.losses import CrossEntropy
    from kseg.models.build import build_model
    from kseg.models.chunked_loss import with_chunked_loss
    from kseg.runtime.distribution import describe_devices
    from kseg.runtime.memory import kept_bytes, step_memory

    size, batch = arguments.image_size, arguments.batch_size
    images, labels = np.zeros((batch, size, size, 3), "uint8"), np.zeros((batch, size, size), "uint8")
    print(f"{describe_devices()}, batch {batch} of {size}x{size}, MiB\n")
    measures = {"kept for the backward pass": kept_bytes, **({"XLA's temporary memory": step_memory} if arguments.xla else {})}
    flag = f"--loss_chunks={arguments.loss_chunks}" if arguments.loss_chunks else "--remat"
    print("| model | " + "".join(f"{name} | with {flag} | " for name in measures))
    print("|---|" + "---|---|" * len(measures))
    for name in arguments.models.split(","):
        model_name, backbone = name.split(":")
        cells = []
        for measure in measures.values():
            for saving in (False, True):
                model = build_model(model_name, num_classes=arguments.num_classes, backbone=backbone)
                if saving and arguments.loss_chunks:
                    model = with_chunked_loss(model, arguments.loss_chunks)
                else:
                    model.get_layer("backbone").remat = saving
                model.compile(optimizer="adamw", loss=CrossEntropy())
                cells.append(f"{measure(model, images, labels) / 2**20:.0f}")
        print(f"| {model_name} on {backbone} | {' | '.join(cells)} |", flush=True)
