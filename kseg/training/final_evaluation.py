"""Ends a run: writes model.keras, scores the best epoch's model, writes the report."""

from collections.abc import Sequence

import keras

from kseg.config import OVERLAP, TrainConfig
from kseg.data.loading.pipeline import sample_errors
from kseg.data.loading.worker_pool import WorkerPool
from kseg.inference.predictor import Predictor
from kseg.inference.sliding_window import Windows
from kseg.inference.source import run_credits
from kseg.inference.tta import mean_probabilities
from kseg.metrics.evaluation import Evaluation
from kseg.metrics.evaluation_files import write_evaluation, write_matrices
from kseg.models.auxiliary_head import inference_model
from kseg.models.model_folder import describe_model
from kseg.models.model_info import KERAS_MEMBER
from kseg.models.saving import load_model, save_model
from kseg.reports.report_page import write_report
from kseg.runtime import hosts
from kseg.runtime.run_dir import RunDir
from kseg.training.run_data import RunData
from kseg.utils.errors import KsegError


def evaluate_best(
    config: TrainConfig, run: RunDir, data: RunData, pool: WorkerPool | None, *, best_epoch: int, finished: bool
) -> tuple[Evaluation, str]:
    """Scores the best epoch's model on the whole validation split, and writes the files of the run directory about it.

    Returns the evaluation and the split's name. In a run of several processes each computes a part. finished: False if a signal
    stopped the run; then it gets no model.keras.
    """
    model = best_model(run, config, data.train.class_names, finished=finished)
    local_batch = config.batch_size // hosts.process_count()  # this process's devices had as much of a batch in training
    window = config.scale.val_window
    predictor = Predictor(
        model if window is None else mean_probabilities([model], window),
        data.val,
        image_size=config.image_size,
        batch_size=local_batch,
        pool=pool,
        windows=None if window is None else Windows(window, OVERLAP),
    )
    evaluation = predictor.evaluate()
    split = f"overfitted {config.train_split}" if config.debug.overfit_batches else config.val_split
    if hosts.is_main_process():
        write_evaluation(run.evaluation, evaluation, split, config.scale.prediction())
        write_matrices(run.matrices, evaluation, data.val)
        if config.tracking.report:
            with sample_errors():
                write_report(run, config, evaluation, data.val, predictor, best_epoch=best_epoch)
    return evaluation, split


def best_model(run: RunDir, config: TrainConfig, class_names: Sequence[str], *, finished: bool) -> keras.Model:
    """Returns the best epoch's model in every process. In process 0 it writes model.keras if the run is finished."""
    model = source = None
    if hosts.is_main_process():
        source = run.best if run.best.exists() else run.checkpoints()[0]
        trained = load_model(source)
        model = inference_model(trained)
        if finished:
            save_model(inference_model(trained, classification=True), run.model, _description(model, run, config, class_names))
            source = run.model  # smaller: it lacks the optimizer's state
    with hosts.shared_file(source) as path:
        if model is None:
            assert path is not None  # process 0 has one
            model = inference_model(load_model(path))
    return model


def _description(model: keras.Model, run: RunDir, config: TrainConfig, class_names: Sequence[str]) -> dict[str, str]:
    """Returns what model.keras says of itself; nothing if names are too long for it, or cannot be printed."""
    try:
        return {KERAS_MEMBER: describe_model(model, config, class_names, run_credits(run, config)).to_json()}
    except KsegError:
        return {}
