"""Predicts a split, image files or a video with a trained model, and writes the results."""

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kseg.config import PredictConfig
from kseg.utils.errors import KsegError

if TYPE_CHECKING:
    from kseg.data import Dataset
    from kseg.inference.picture_predictor import PicturePredictor


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


def _kept(config: PredictConfig) -> dict[str, Any]:
    """Returns the options of PicturePredictor.predict for outputs other than label maps."""
    return {"confidence": "results" in config.write, "probabilities": "probabilities" in config.write}


def _predict_split(config: PredictConfig) -> Done:
    from kseg.inference.load import open_data, open_model

    opened = open_model(config)
    split, dataset = open_data(opened, labelled=False)
    _write(config, dataset, opened.picture_predictor())
    return Done(len(dataset), f"images of split {split}")


def _predict_files(config: PredictConfig) -> Done:
    """Predicts the images that can be read."""
    from kseg.data.check import check_samples
    from kseg.data.sources.image_files import ImageFiles, find_images
    from kseg.inference.load import open_model
    from kseg.inference.writers import check_inputs_stay, image_folders, write_skipped

    files = find_images(config.input, image_folders(config))
    check_inputs_stay(config, [file.name for file in files], [file.path for file in files])
    opened = open_model(config)
    predictor = opened.picture_predictor()
    images, skipped = check_samples(
        ImageFiles(files, opened.class_names, opened.data.max_pixels, config.data.exif or "auto"), "skip"
    )
    _write(config, images, predictor)
    write_skipped(config, skipped)
    return Done(len(images), "images", skipped)


def _write(config: PredictConfig, dataset: "Dataset", predictor: "PicturePredictor") -> None:
    from kseg.inference.writers import PredictionFiles
    from kseg.utils.progress import progress_bar

    with PredictionFiles(config, dataset) as files, progress_bar(len(dataset), "predict") as bar:
        for index, prediction in enumerate(predictor.predict(dataset, **_kept(config))):
            files.add(index, prediction)
            bar.update()


def _predict_video(config: PredictConfig, path: Path) -> Done:
    """Predicts frame by frame, with one batch of them in memory."""
    import numpy as np

    from kseg.inference.load import open_model
    from kseg.inference.video import Video, video_file
    from kseg.inference.writers import check_inputs_stay, output_path, write_image
    from kseg.utils.files import atomic_path
    from kseg.utils.progress import progress_bar

    check_inputs_stay(config, [], [path])
    with contextlib.ExitStack() as stack:
        video = stack.enter_context(contextlib.closing(Video(path, config.data.max_pixels)))
        predictor = open_model(config).picture_predictor(video.size)
        add_overlay = None
        if "overlays" in config.write:
            temporary = stack.enter_context(atomic_path(output_path(config, "overlays")))
            add_overlay = stack.enter_context(video_file(temporary, video.size, video.fps / config.every))
        total = None if video.expected is None else -(-video.expected // config.every)
        bar = stack.enter_context(progress_bar(total, "predict", unit="frame"))
        count = 0
        for prediction in predictor.predict(video.pictures(config.every), **_kept(config)):
            assert prediction.name is not None
            write_image(config, Path(prediction.name), prediction)
            if add_overlay:
                add_overlay(np.asarray(prediction.overlay()))
            count += 1
            bar.update()
        if not count:
            raise KsegError(f"--video={path}: has no frame that can be read")
    if total is not None and count < total:
        print(f"warning: --video={path}: ended after {count} of {total} frames; it may be damaged", file=sys.stderr)
    return Done(count, f"frames of {path}")
