"""Two training steps of flagfiles, one after the other: python tests/experiment_runs.py DATA_DIR FLAGFILE...

In one process, and without the validation and the files of a whole run, because compiling is what costs: a flagfile with the
network of the one before goes on with what is compiled. Data, augmentation, optimizer and seed are the flagfile's; the input is
32x32.
"""

import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent / "models"))

from kseg.config import TrainConfig
from kseg.config.command_line import parse
from kseg.data.loading.pipeline import train_batches
from kseg.training.run_data import open_data
from kseg.training.setup import compiled_model

TINY = ("--image_size=32", "--batch_size=2", "--epochs=1", "--backbone_weights=none", "--workers=0")


def two_steps(data_dir: str, flagfile: str, models: dict[Any, Any]) -> float:
    """Returns the loss."""
    config = parse(TrainConfig, ["kseg.train", f"--flagfile={flagfile}", f"--data_dir={data_dir}", *TINY], "")
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
        models.clear()  # a hundred million weights, some of them
        models[network] = compiled_model(config, data, steps)
    history = models[network].fit(batches, steps_per_epoch=steps, shuffle=False, verbose=0)
    assert steps == 2 and models[network].output.shape[-1] == 12
    return history.history["loss"][0]


def main(data_dir: str, *flagfiles: str) -> None:
    models: dict[Any, Any] = {}
    for flagfile in flagfiles:
        start = time.process_time()
        loss = two_steps(data_dir, flagfile, models)
        print(f"{flagfile} loss {loss} processor seconds {time.process_time() - start:.1f}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
