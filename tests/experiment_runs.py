"""Takes two training steps of each flagfile: python tests/experiment_runs.py DATA_DIR FLAGFILE...

Compiling is what takes long. So all run in one process, without validation and files, and a flagfile that has the network of the
one before uses its compiled step. Data, augmentation, optimizer and seed are the flagfile's; images are 32x32.
"""

import sys
import time
from typing import Any

from kseg.config import TrainConfig
from kseg.config.command_line import parse
from kseg.data.loading.pipeline import train_batches
from kseg.training.initial_weights import settle_weights
from kseg.training.run_data import open_data
from kseg.training.setup import compiled_model

TINY = ("--image_size=32", "--batch_size=2", "--epochs=1", "--backbone_weights=none", "--workers=0")


def two_steps(data_dir: str, flagfile: str, models: dict[Any, Any]) -> float:
    """Returns the loss. models: the last network's compiled model, by what defines it."""
    config = parse(TrainConfig, ["kseg.train", f"--flagfile={flagfile}", f"--data_dir={data_dir}", *TINY], "")
    config = settle_weights(config)
    data = open_data(config)
    batches, steps = train_batches(
        data.train,
        augment=config.augment,
        seed=config.seed,
        first_epoch=0,
        epochs=1,
        image_size=config.image_size,
        batch_size=config.batch_size,
    )
    network = (config.model, config.backbone, config.output_stride, config.double_normalization)
    if network not in models:
        models.clear()  # some have a hundred million weights
        models[network] = compiled_model(config, data, steps)
    history = models[network].fit(batches, steps_per_epoch=steps, shuffle=False, verbose=0)
    assert steps == 2 and models[network].output.shape[-1] == 12
    return history.history["loss"][0]


def main(data_dir: str, *flagfiles: str) -> None:
    models: dict[Any, Any] = {}
    for flagfile in flagfiles:
        clock = time.process_time()
        loss = two_steps(data_dir, flagfile, models)
        print(f"{flagfile} loss {loss} processor seconds {time.process_time() - clock:.1f}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
