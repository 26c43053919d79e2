"""Predicts label maps: python -m kseg.predict --run_dir=R --split=test --submission=FILE [--help]."""

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kseg.config import PredictConfig
from kseg.errors import KsegError
from kseg.flags import parse, run_main

if TYPE_CHECKING:
    from kseg.trained import Trained

DESCRIPTION = """
Predicts every image of a split with the model of a run directory.

  python -m kseg.predict --run_dir=runs/NAME --split=test --submission=submission.csv
  python -m kseg.predict --run_dir=runs/NAME --split=test --labels_dir=labels --overlays_dir=overlays

The split needs no annotations: a COCO file whose list of annotations is empty will do.
"""


def predict(config: PredictConfig) -> tuple[int, str]:
    """Writes what the flags name; returns (images, split). Raises KsegError for whatever the user can mend."""
    from kseg.compilation_cache import keep_compiled_programs
    from kseg.data.workers import worker_pool
    from kseg.distribution import data_parallel
    from kseg.trained import open_trained

    _check_outputs(config)
    keep_compiled_programs(config.compilation_cache)
    with data_parallel(config.distribution), worker_pool(config.workers) as pool:
        trained = open_trained(config, pool, labelled=False)
        _write_predictions(config, trained)
    return len(trained.dataset), trained.split


def _write_predictions(config: PredictConfig, trained: "Trained") -> None:
    from kseg.data.submission import write_submission
    from kseg.progress import progress_bar
    from kseg.run import atomic_path

    dataset = trained.dataset
    images = range(len(dataset))
    names = [dataset.name(index) for index in images]
    pictures = _picture_files(names)

    def predictions() -> Iterator[tuple[str, np.ndarray]]:
        with progress_bar(len(images), "predict") as bar:
            for index, (_, prediction) in zip(images, trained.predictor(images), strict=True):
                if config.labels_dir:
                    _write_label(Path(config.labels_dir, f"{pictures[index]}.png"), prediction)
                if config.overlays_dir:
                    _write_overlay(Path(config.overlays_dir, f"{pictures[index]}.jpg"), dataset.load(index).image, prediction)
                yield names[index], prediction
                bar.update()

    try:
        if config.submission:
            with atomic_path(Path(config.submission)) as temporary:
                write_submission(temporary, predictions())
        else:
            deque(predictions(), maxlen=0)
    except OSError as error:
        raise KsegError(f"cannot write {error.filename or 'the predictions'}: {error.strerror or error}") from None


def _check_outputs(config: PredictConfig) -> None:
    """Raises KsegError, before anything is predicted, for outputs that cannot be written."""
    if config.submission and Path(config.submission).is_dir():
        raise KsegError(f"--submission={config.submission}: is a folder; name a file")
    folders = {"labels_dir": config.labels_dir, "overlays_dir": config.overlays_dir}
    if config.submission:
        folders["submission"] = str(Path(config.submission).parent)
    for flag, folder in folders.items():
        if folder:
            try:
                Path(folder).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise KsegError(f"--{flag}={getattr(config, flag)}: cannot be written ({error.strerror})") from None


def _picture_files(names: Sequence[str]) -> list[Path]:
    """Where each image's outputs go, without suffix: folders are kept, suffixes only where two names differ in nothing else."""
    stems = [Path(name).with_suffix("") for name in names]
    count = Counter(stems)
    paths = [stem if count[stem] == 1 else Path(name) for name, stem in zip(names, stems, strict=True)]
    for path in paths:
        if path.is_absolute() or ".." in path.parts:
            raise KsegError(f"image {str(path)!r}: its name leaves the folder of the outputs; rename the file")
    return paths


def _write_label(path: Path, prediction: np.ndarray) -> None:
    from PIL import Image

    from kseg.palette import IGNORED, palette
    from kseg.run import atomic_path

    picture = Image.fromarray(prediction.astype("uint8"), "L")
    picture.putpalette([*palette(255).ravel().tolist(), *IGNORED])
    with atomic_path(path) as temporary:
        picture.save(temporary, optimize=True)


def _write_overlay(path: Path, image: np.ndarray, prediction: np.ndarray) -> None:
    from PIL import Image

    from kseg.palette import overlay
    from kseg.run import atomic_path

    with atomic_path(path) as temporary:
        Image.fromarray(overlay(image, prediction)).save(temporary, quality=90)


def main(argv: Sequence[str]) -> None:
    config = parse(PredictConfig, argv, DESCRIPTION)
    count, split = predict(config)
    written = [path for path in (config.submission, config.labels_dir, config.overlays_dir) if path]
    print(f"predicted {count} images of split {split}: {', '.join(written)}")


if __name__ == "__main__":
    run_main(main)
