"""Predicts a split, files or a video with a trained model, and writes the results."""

import contextlib
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kseg.config import PredictConfig
from kseg.utils.errors import KsegError

if TYPE_CHECKING:
    from kseg.data import Dataset
    from kseg.inference.predictor import Predictor


@dataclass(frozen=True)
class Done:
    """How many images, of what, were predicted; a line for each file of --input that was left out."""

    count: int
    what: str
    skipped: Sequence[str] = ()


def predict(config: PredictConfig) -> Done:
    """Writes what the flags name. Raises KsegError for whatever the user can mend."""
    from kseg.inference.writers import check_outputs
    from kseg.runtime.compilation_cache import enable_compilation_cache
    from kseg.runtime.distribution import data_parallel

    check_outputs(config)
    enable_compilation_cache(config.compilation_cache)
    try:
        with data_parallel(config.distribution):
            if config.video is not None:
                return _predict_video(config, Path(config.video))
            return _predict_files(config) if config.input else _predict_split(config)
    except OSError as error:
        raise KsegError(f"cannot write {error.filename or 'the predictions'}: {error.strerror or error}") from None


def _predict_split(config: PredictConfig) -> Done:
    from kseg.data.loading.worker_pool import worker_pool
    from kseg.inference.load import open_trained

    with worker_pool(config.workers) as pool:
        keep = config.probabilities_dir is not None
        trained = open_trained(config, pool, labelled=False, confidence=config.results is not None, keep=keep)
        _write(config, trained.dataset, [(range(len(trained.dataset)), trained.predictor)])
    return Done(len(trained.dataset), f"images of split {trained.split}")


def _predict_files(config: PredictConfig) -> Done:
    """The pictures that can be read, in one program or, where their sizes differ much, a few."""
    from kseg.data.check import check_samples
    from kseg.data.loading.worker_pool import worker_pool
    from kseg.data.sources.image_files import ImageFiles, find_images, group_by_size
    from kseg.data.subset import Subset
    from kseg.inference.load import open_model
    from kseg.inference.writers import check_inputs_stay, write_skipped

    files = find_images(config.input)
    check_inputs_stay(config, [file.name for file in files], [file.path for file in files])
    opened = open_model(config)
    pictures, skipped = check_samples(ImageFiles(files, opened.class_names, opened.data.max_pixels), "skip")
    with worker_pool(config.workers) as pool:

        def parts() -> Iterator[tuple[Sequence[int], "Predictor"]]:
            for group in group_by_size([pictures.size(index) for index in range(len(pictures))]):
                yield (
                    group,
                    opened.predictor(
                        Subset(pictures, group),
                        "--input",
                        pool,
                        confidence=config.results is not None,
                        keep=config.probabilities_dir is not None,
                    ),
                )

        _write(config, pictures, parts())
    write_skipped(config, skipped)
    return Done(len(pictures), "images", skipped)


def _write(config: PredictConfig, dataset: "Dataset", parts: "Iterable[tuple[Sequence[int], Predictor]]") -> None:
    """parts: the indices of some images, and what predicts them, counting from 0."""
    from kseg.inference.writers import PredictionFiles
    from kseg.utils.progress import progress_bar

    with PredictionFiles(config, dataset) as files, progress_bar(len(dataset), "predict") as bar:
        for indices, predictor in parts:
            for index, found in zip(indices, predictor.predict(range(len(indices))), strict=True):
                files.add(index, found)
                bar.update()


def _predict_video(config: PredictConfig, path: Path) -> Done:
    """Frame by frame: a batch of them is held at a time."""
    import numpy as np

    from kseg.data.palette import overlay
    from kseg.data.sources.image_files import ImageArrays
    from kseg.inference.load import open_model
    from kseg.inference.video import Video, video_file
    from kseg.inference.writers import check_inputs_stay, write_picture
    from kseg.utils.files import atomic_path
    from kseg.utils.progress import progress_bar

    check_inputs_stay(config, [], [path])
    with contextlib.ExitStack() as stack:
        video = stack.enter_context(contextlib.closing(Video(path, config.max_pixels)))
        opened = open_model(config)
        add = None
        if config.overlay_video:
            temporary = stack.enter_context(atomic_path(Path(config.overlay_video)))
            add = stack.enter_context(video_file(temporary, video.size, video.frames_a_second / config.every))
        total = None if video.expected is None else -(-video.expected // config.every)
        bar = stack.enter_context(progress_bar(total, "predict", unit="frame"))
        blank = ImageArrays([np.zeros((*video.size, 3), "uint8")], opened.class_names)
        predictor = opened.predictor(blank, "--video", keep=config.probabilities_dir is not None)
        waiting: deque[tuple[int, np.ndarray]] = deque()  # what the predictor has taken and not yet given back

        def frames() -> Iterator[np.ndarray]:
            for number, frame in video.frames(config.every):
                waiting.append((number, frame))
                yield frame

        count = 0
        for found in predictor.predict_arrays(frames()):
            count += 1
            number, frame = waiting.popleft()
            write_picture(config, Path(f"frame_{number:06d}"), found, frame)
            if add:
                add(overlay(frame, found.prediction))
            bar.update()
        if not count:
            raise KsegError(f"--video={path}: has not one frame that can be read")
    if total is not None and count < total:
        print(f"warning: --video={path}: ended after {count} of {total} frames; it may be damaged", file=sys.stderr)
    return Done(count, f"frames of {path}")
