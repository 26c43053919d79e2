"""Predicts a split, image files or a video with a trained model, and writes the results."""

import contextlib
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kseg.config import PredictConfig
from kseg.utils.errors import KsegError

if TYPE_CHECKING:
    from kseg.data import Dataset
    from kseg.inference.predictor import Predictor


@dataclass(frozen=True)
class Done:
    """The number of images or frames predicted, a description of them, and a line per file of --input that was skipped."""

    count: int
    what: str
    skipped: Sequence[str] = ()


def predict(config: PredictConfig) -> Done:
    """Predicts and writes what the options name. Raises KsegError."""
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


def _extras(config: PredictConfig) -> dict[str, Any]:
    """Returns the predictor's options for outputs other than label maps."""
    return {"confidence": "results" in config.write, "keep": "probabilities" in config.write}


def _predict_split(config: PredictConfig) -> Done:
    from kseg.data.loading.worker_pool import worker_pool
    from kseg.inference.load import open_trained

    with worker_pool(config.workers) as pool:
        trained = open_trained(config, pool, labelled=False, **_extras(config))
        _write(config, trained.dataset, [(range(len(trained.dataset)), trained.predictor)])
    return Done(len(trained.dataset), f"images of split {trained.split}")


def _predict_files(config: PredictConfig) -> Done:
    """Predicts the images that can be read, by one compiled program, or a few if their sizes differ much."""
    from kseg.data.check import check_samples
    from kseg.data.loading.worker_pool import worker_pool
    from kseg.data.sources.image_files import ImageFiles, find_images, group_by_size
    from kseg.data.subset import Subset
    from kseg.inference.load import open_model
    from kseg.inference.writers import check_inputs_stay, write_skipped

    files = find_images(config.input)
    check_inputs_stay(config, [file.name for file in files], [file.path for file in files])
    opened = open_model(config)
    images, skipped = check_samples(ImageFiles(files, opened.class_names, opened.data.max_pixels), "skip")
    groups = group_by_size([images.size(index) for index in range(len(images))])
    with worker_pool(config.workers) as pool:
        parts = ((group, opened.predictor(Subset(images, group), "--input", pool, **_extras(config))) for group in groups)
        _write(config, images, parts)
    write_skipped(config, skipped)
    return Done(len(images), "images", skipped)


def _write(config: PredictConfig, dataset: "Dataset", parts: "Iterable[tuple[Sequence[int], Predictor]]") -> None:
    """parts: indices of some images, and a Predictor of just these."""
    from kseg.inference.writers import PredictionFiles
    from kseg.utils.progress import progress_bar

    with PredictionFiles(config, dataset) as files, progress_bar(len(dataset), "predict") as bar:
        for indices, predictor in parts:
            for index, prediction in zip(indices, predictor.predict(range(len(indices))), strict=True):
                files.add(index, prediction)
                bar.update()


def _predict_video(config: PredictConfig, path: Path) -> Done:
    """Predicts frame by frame, with one batch of them in memory."""
    import numpy as np

    from kseg.data.palette import overlay
    from kseg.data.sources.image_files import ImageArrays
    from kseg.inference.load import open_model
    from kseg.inference.video import Video, video_file
    from kseg.inference.writers import check_inputs_stay, output_path, write_image
    from kseg.utils.files import atomic_path
    from kseg.utils.progress import progress_bar

    check_inputs_stay(config, [], [path])
    with contextlib.ExitStack() as stack:
        video = stack.enter_context(contextlib.closing(Video(path, config.data.max_pixels)))
        opened = open_model(config)
        add_overlay = None
        if "overlays" in config.write:
            temporary = stack.enter_context(atomic_path(output_path(config, "overlays")))
            add_overlay = stack.enter_context(video_file(temporary, video.size, video.fps / config.every))
        total = None if video.expected is None else -(-video.expected // config.every)
        bar = stack.enter_context(progress_bar(total, "predict", unit="frame"))
        blank = ImageArrays([np.zeros((*video.size, 3), "uint8")], opened.class_names)
        predictor = opened.predictor(blank, "--video", keep="probabilities" in config.write)
        pending: deque[tuple[int, np.ndarray]] = deque()  # frames without a prediction yet

        def frames() -> Iterator[np.ndarray]:
            for number, frame in video.frames(config.every):
                pending.append((number, frame))
                yield frame

        count = 0
        for prediction in predictor.predict_arrays(frames()):
            count += 1
            number, frame = pending.popleft()
            write_image(config, Path(f"frame_{number:06d}"), prediction)
            if add_overlay:
                add_overlay(overlay(frame, prediction.prediction))
            bar.update()
        if not count:
            raise KsegError(f"--video={path}: has no frame that can be read")
    if total is not None and count < total:
        print(f"warning: --video={path}: ended after {count} of {total} frames; it may be damaged", file=sys.stderr)
    return Done(count, f"frames of {path}")
