"""Does the work of kseg.report: writes the page of a run again, or a page that compares runs."""

from pathlib import Path

from kseg.config import EvaluateConfig, ReportConfig, better
from kseg.runtime.metrics_csv import best_epoch
from kseg.runtime.run_dir import RunDir
from kseg.utils.errors import KsegError


def report(config: ReportConfig) -> tuple[Path, str]:
    """Writes a page. Returns its path and a summary of one or more lines. Raises KsegError for what the user can fix."""
    return _compare(config) if config.compare else _rewrite(config)


def _rewrite(config: ReportConfig) -> tuple[Path, str]:
    from kseg.data.loading.pipeline import sample_errors
    from kseg.data.loading.worker_pool import worker_pool
    from kseg.inference.load import open_trained
    from kseg.metrics.evaluation_files import write_matrices
    from kseg.reports.report_page import write_report
    from kseg.runtime.compilation_cache import enable_compilation_cache

    run = RunDir(config.run_dir or "")
    if run.read_config().debug.overfit_batches:
        raise KsegError(
            f"--run_dir={run.path}: was trained with --overfit_batches and evaluated on those batches; train again for its report"
        )
    enable_compilation_cache(config.compilation_cache)
    evaluate = EvaluateConfig(model=str(run.path), data=config.data, workers=config.workers)
    with worker_pool(config.workers) as pool:
        trained = open_trained(evaluate, pool, flag="--run_dir")
        evaluation = trained.predictor.evaluate()
        selection = trained.config.selection
        best = best_epoch(run.read_metrics(), selection.monitor, better(selection.monitor, selection.monitor_mode))
        try:
            with sample_errors():
                write_report(run, trained.config, evaluation, trained.dataset, trained.predictor, best_epoch=best)
            write_matrices(run.matrices, evaluation, trained.dataset)
        except OSError as error:
            raise KsegError(f"--run_dir={run.path}: cannot be written ({error.strerror or error})") from None
    return run.report, evaluation.summary(trained.split)


def _compare(config: ReportConfig) -> tuple[Path, str]:
    from kseg.reports.comparison import read_runs
    from kseg.reports.comparison_page import write_comparison

    runs = read_runs(config.compare)
    path = Path(config.output or "compare.html")
    try:
        if path.is_dir():
            raise KsegError(f"--output={path}: is a folder; name a file")
        notes = write_comparison(path, runs)
    except OSError as error:
        raise KsegError(f"--output={path}: cannot be written ({error.strerror or error})") from None
    alone = [f" (of {run.only_class!r} alone)" if run.only_class else "" for run in runs]
    scores = ["n/a" if run.mean_iou is None else f"{run.mean_iou:.4f}" for run in runs]
    scored = ", ".join(f"{run.name} {score}{note}" for run, score, note in zip(runs, scores, alone, strict=True))
    return path, "\n".join([*notes, f"mIoU {scored}"])
