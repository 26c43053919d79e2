"""A run directory and a split of data, opened together: where evaluate and predict start."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import keras

from kseg.config import TrainConfig, TrainedConfig
from kseg.data import Dataset
from kseg.data.check import open_split
from kseg.data.workers import WorkerPool
from kseg.distribution import check_batch
from kseg.errors import KsegError
from kseg.models.supervision import main_head
from kseg.run import RunDir, load_model
from kseg.scoring import Predictor


@dataclass(frozen=True)
class Trained:
    """A model and what it is to be used on. path: the file that the model came from."""

    run: RunDir
    config: TrainConfig
    split: str
    dataset: Dataset
    model: keras.Model
    path: Path
    predictor: Predictor


def open_trained(config: TrainedConfig, pool: WorkerPool | None, *, labelled: bool = True) -> Trained:
    """Opens what the flags say, every sample checked; says which samples are left out.

    pool: what loads the images (kseg.data.workers). labelled: refuses a split without annotations. Raises KsegError for whatever
    the user can mend.
    """
    assert config.run_dir is not None  # TrainedConfig requires it
    run = RunDir(config.run_dir)
    trained = run.read_config()
    chosen = {field.name: getattr(config, field.name, None) for field in dataclasses.fields(trained.data)}
    data = dataclasses.replace(trained.data, **{name: value for name, value in chosen.items() if value is not None})
    split = config.split or trained.val_split
    dataset, skipped = open_split(data, split, labelled=labelled)
    for line in skipped:
        print(f"skipped: {line}")
    path = run.newest_model()
    model = main_head(load_model(path))
    if model.output.shape[-1] != len(dataset.class_names):
        raise KsegError(
            f"{path} has {model.output.shape[-1]} classes, but split {split} of the data has {len(dataset.class_names)}"
        )
    known = run.read_class_names()
    if known is not None and known != dataset.class_names:
        ours, theirs = next((a, b) for a, b in zip(known, dataset.class_names, strict=True) if a != b)
        raise KsegError(
            f"split {split} of the data has a class {theirs!r} where the run {run.path} has {ours!r}; use the run's data"
        )
    batch_size = config.batch_size or trained.batch_size
    check_batch(config.distribution, batch_size)
    predictor = Predictor(model, dataset, image_size=trained.image_size, batch_size=batch_size, pool=pool)
    return Trained(run, trained, split, dataset, model, path, predictor)
