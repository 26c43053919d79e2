"""Scores a trained model on a whole split."""

from pathlib import Path
from typing import TYPE_CHECKING

from kseg.config import EvaluateConfig
from kseg.utils.errors import KsegError

if TYPE_CHECKING:
    from kseg.inference.load import Trained
    from kseg.metrics.evaluation import Evaluation


def evaluate(config: EvaluateConfig) -> "tuple[Evaluation, Trained]":
    """Returns the scores and the model and data that were scored; writes the files that the options name. Raises KsegError."""
    from kseg.data.loading.worker_pool import worker_pool
    from kseg.inference.load import open_trained
    from kseg.metrics.evaluation_files import write_evaluation, write_per_image
    from kseg.runtime.compilation_cache import enable_compilation_cache
    from kseg.runtime.distribution import data_parallel

    _check_outputs(config)
    enable_compilation_cache(config.compilation_cache)
    with data_parallel(config.distribution), worker_pool(config.workers) as pool:
        trained = open_trained(config, pool, confidence=config.calibration)
        evaluation = trained.predictor.evaluate(boundary=config.boundary)
    try:
        if config.output:
            write_evaluation(Path(config.output), evaluation, trained.split, trained.how)
        if config.per_image:
            write_per_image(Path(config.per_image), evaluation, trained.dataset)
    except OSError as error:
        raise KsegError(f"cannot write {error.filename or 'the scores'}: {error.strerror or error}") from None
    return evaluation, trained


def _check_outputs(config: EvaluateConfig) -> None:
    """Raises KsegError, before anything is scored, for outputs that cannot be written."""
    for flag in ("output", "per_image"):
        if file := getattr(config, flag):
            try:
                Path(file).parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise KsegError(f"--{flag}={file}: cannot be written ({error.strerror})") from None
            if Path(file).is_dir():
                raise KsegError(f"--{flag}={file}: is a folder; name a file")
