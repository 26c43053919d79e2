"""Loggers: TensorBoard, Weights & Biases, MLflow.

To add a service, define a subclass of _Service, and name it in SERVICES, logger_callbacks and kseg.config.TrackingConfig.
"""

import importlib.util
from typing import Any

import keras
import numpy as np
from keras import ops

from kseg.config import TrainConfig, flatten
from kseg.data import Dataset, Sample
from kseg.data.loading.samples import EvalSamples, WindowSamples, eval_samples
from kseg.models.auxiliary_head import inference_model
from kseg.reports.examples import panels, side_by_side
from kseg.runtime.run_dir import RunDir
from kseg.training.progress import Progress
from kseg.utils.errors import KsegError

IMAGES = 4
"""The number of validation images that TensorBoard shows."""
SERVICES = ("wandb", "mlflow")


def check_loggers(config: TrainConfig) -> None:
    """Raises KsegError if the config names a service but its package is not installed. Starts nothing."""
    for name in SERVICES:
        project = getattr(config.tracking, name)
        if project is not None and not _installed(name):
            raise KsegError(f"--{name}={project}: {name} is not installed; install it (pip install {name}) or leave the flag out")


def _installed(name: str) -> bool:
    """Returns True for an installed package, but not for a mere folder of its name, such as wandb leaves behind."""
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None


def logger_callbacks(config: TrainConfig, run: RunDir, val_set: Dataset, progress: Progress) -> list[keras.callbacks.Callback]:
    """Returns a callback for each logger in the config."""
    callbacks: list[keras.callbacks.Callback] = []
    if config.tracking.tensorboard:
        callbacks.append(TensorBoard(run, eval_samples(val_set, config.image_size, config.scale.val_window), progress))
    if config.debug.dry_run:  # leaves nothing behind, on servers neither
        return callbacks
    if config.tracking.wandb is not None:
        callbacks.append(WandB(config.tracking.wandb, config, run, progress))
    if config.tracking.mlflow is not None:
        callbacks.append(MLflow(config.tracking.mlflow, config, run, progress))
    return callbacks


class TensorBoard(keras.callbacks.TensorBoard):
    """Keras's TensorBoard with pictures: image, label and prediction of IMAGES validation images, after every epoch.

    The images are the same in each epoch, as validation sees them (with --val_window, windows). Scalars of every epoch are under
    train/ and validation/. Two methods of Keras's do nothing here: one reads loss and metrics from the device after every step
    without writing them, the other writes the validation scores a second time.
    """

    def __init__(self, run: RunDir, samples: EvalSamples | WindowSamples, progress: Progress):
        super().__init__(run.tensorboard, write_graph=False)
        self._progress = progress
        chosen = np.linspace(0, len(samples) - 1, min(IMAGES, len(samples))).round().astype(int).tolist()
        self._samples = []
        for number in chosen:
            image, label = samples(number)
            self._samples.append(Sample(image, label, samples.name(number)))
        self._ignore_index = samples.dataset.ignore_index

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        model = inference_model(self.model)
        # argmax on the device: logits of many classes would be hundreds of megabytes to fetch.
        self._predictor = keras.Model(model.input, ops.argmax(model.output, axis=-1))

    def on_train_batch_end(self, batch, logs=None):
        pass

    def on_test_end(self, logs=None):
        pass

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, {**(logs or {}), **self._progress.speed})
        predictions = np.asarray(self._predictor.predict_on_batch(np.stack([sample.image for sample in self._samples])))
        # _val_writer and _writers are private in Keras. TensorBoard expects one writer a folder, so ours are Keras's.
        with self._val_writer.as_default():
            for sample, prediction in zip(self._samples, predictions, strict=True):
                picture = side_by_side(panels(sample, prediction, self._ignore_index))
                self.summary.image(f"predictions/{sample.name}", picture[None], step=epoch)
        for writer in self._writers.values():
            writer.flush()


class _Service(keras.callbacks.Callback):
    """Base of callbacks that send the flags to a service when the run starts, and the logs after every epoch."""

    flag = ""

    def __init__(self, project: str, config: TrainConfig, run: RunDir, progress: Progress):
        super().__init__()
        self.project, self.config, self.run, self.progress = project, config, run, progress
        self.id: str | None = None
        self._started = False

    def on_epoch_begin(self, epoch, logs=None):
        if not self._started:
            try:
                self.start()
            except Exception as error:  # each service has its own errors: no login, no network, no such store
                reason = " ".join(str(error).split()) or type(error).__name__
                raise KsegError(f"--{self.flag}={self.project}: cannot start ({reason})") from error
            self._started = True

    def get_state(self) -> dict[str, Any]:
        """Returns what a resumed run needs to continue under the same id."""
        return {"id": self.id}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores the result of get_state, before the first epoch begins."""
        self.id = state["id"]

    def start(self) -> None:
        """Connects to the service, sends the flags, and sets self.id."""
        raise NotImplementedError


class WandB(_Service):
    """Logs to Weights & Biases, with its files below the run directory.

    Its own Keras callback fails on JAX: it calls .numpy() of the learning rate.
    """

    flag = "wandb"

    def start(self):
        import wandb

        settings = {"project": self.project, "name": self.run.path.name, "config": flatten(self.config), "dir": self.run.path}
        self._run = wandb.init(**settings, id=self.id, resume="allow" if self.id else None)
        self.id = self._run.id

    def on_epoch_end(self, epoch, logs=None):
        self._run.log({**(logs or {}), **self.progress.speed, "epoch": epoch})

    def on_train_end(self, logs=None):
        if self._started:
            self._run.finish()


class MLflow(_Service):
    """Logs to MLflow, at MLFLOW_TRACKING_URI or MLflow's default."""

    flag = "mlflow"

    def start(self):
        import mlflow

        mlflow.set_experiment(self.project)
        resumed = self.id is not None
        self.id = mlflow.start_run(run_id=self.id, run_name=self.run.path.name).info.run_id
        flags = [] if resumed else list(flatten(self.config).items())
        for start in range(0, len(flags), 100):  # the most that a request may have
            mlflow.log_params(dict(flags[start : start + 100]))

    def on_epoch_end(self, epoch, logs=None):
        import mlflow

        mlflow.log_metrics({name: float(value) for name, value in {**(logs or {}), **self.progress.speed}.items()}, step=epoch)

    def on_train_end(self, logs=None):
        if self._started:
            import mlflow

            mlflow.end_run()
