"""The learning-rate range test (Smith 2017, arXiv:1506.01186)."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from keras import ops

from kseg.config import LrFinderConfig
from kseg.data.loading.pipeline import sample_errors, train_batches
from kseg.data.loading.worker_pool import worker_pool
from kseg.reports.figures import rate_chart
from kseg.runtime.distribution import check_batch, data_parallel
from kseg.runtime.out_of_memory import explain_out_of_memory
from kseg.training.initial_weights import check_weights, describe_weights, open_initial, settle_weights
from kseg.training.run_data import open_data
from kseg.training.setup import compiled_model
from kseg.utils.errors import KsegError
from kseg.utils.files import atomic_path
from kseg.utils.progress import progress_bar

_DIVERGED = 4.0  # times the lowest smoothed loss: the run has diverged
_SMOOTHING = 0.9  # of the exponential moving average, with bias correction
_LEARNT = 0.98  # times the first smoothed loss: nothing was learnt if the lowest is above


@dataclass(frozen=True)
class LrFinderResult:
    """The learning rate and the loss of each step, float64 [N]."""

    rates: np.ndarray
    losses: np.ndarray

    @property
    def smooth(self) -> np.ndarray:
        """The mean of the moving averages from the left and from the right, which has no lag.

        Losses are clipped at twice the first, so that divergence does not hide what came before.
        """
        losses = np.minimum(self.losses, 2 * self.losses[0])
        return (moving_average(losses) + moving_average(losses[::-1])[::-1]) / 2

    @property
    def lowest(self) -> int:
        """The step with the lowest smoothed loss."""
        return int(np.argmin(self.smooth))

    @property
    def suggestion(self) -> float | None:
        """The learning rate at which the smoothed loss falls fastest; None if it did not fall."""
        smooth = self.smooth
        if self.lowest < 2 or smooth[self.lowest] > _LEARNT * smooth[0]:
            return None
        return float(self.rates[np.argmin(np.gradient(smooth)[: self.lowest])])

    def summary(self) -> str:
        """Returns e.g. "--learning_rate=0.0004 (where the loss falls fastest; it is lowest at 0.02)"."""
        if self.suggestion is None:
            return f"no suggestion: the loss does not fall between {self.rates[0]:.2g} and {self.rates[-1]:.2g}"
        lowest = self.rates[self.lowest]
        return f"--learning_rate={self.suggestion:.2g} (where the loss falls fastest; it is lowest at {lowest:.2g})"


def moving_average(losses: np.ndarray) -> np.ndarray:
    """Returns the exponential moving average from the left, float64 [N], with bias correction."""
    averages, average = [], 0.0
    for step, loss in enumerate(losses, 1):
        average = _SMOOTHING * average + (1 - _SMOOTHING) * float(loss)
        averages.append(average / (1 - _SMOOTHING**step))
    return np.array(averages)


class LrRangeTest(keras.callbacks.Callback):
    """Collects the loss of every step. Ends the run if the loss is not finite or diverges."""

    def __init__(self, steps: int, batch_size: int):
        super().__init__()
        self.losses: list[float] = []
        self.batch_size = batch_size
        self._bar = progress_bar(steps * batch_size, "learning rates")
        self._sum = 0.0

    def on_train_batch_end(self, batch, logs=None):
        self._bar.update(self.batch_size)
        total = float(ops.convert_to_numpy((logs or {})["loss"])) * (batch + 1)  # the logs have the mean so far
        loss, self._sum = total - self._sum, total
        if not math.isfinite(loss):
            self.model.stop_training = True
            return
        self.losses.append(loss)
        smooth = moving_average(np.array(self.losses))
        if len(smooth) > 5 and smooth[-1] > _DIVERGED * smooth.min():
            self.model.stop_training = True

    def on_train_end(self, logs=None):
        self._bar.close()


def run_lr_finder(config: LrFinderConfig, given: Collection[str] | None = None) -> LrFinderResult:
    """Trains while the learning rate rises from lr_min to lr_max, by the same factor in each of lr_steps steps.

    given: names of the flags that were given; None: those that differ from their defaults. Raises KsegError for
    errors that the user can fix.
    """
    if not (folder := Path(config.output).absolute().parent).is_dir():
        raise KsegError(f"--output={config.output}: the folder {folder} does not exist")
    train = settle_weights(config.train, given)
    check_weights(train)
    if train.devices.coordinator is not None:
        raise KsegError(f"--coordinator={train.devices.coordinator}: find_lr runs in one process; leave the flag out")
    distribution = train.devices.distribution
    check_batch(distribution, train.batch_size)
    with data_parallel(distribution), worker_pool(train.devices.workers) as pool, explain_out_of_memory(train), sample_errors():
        data = open_data(train)
        steps = max(len(data.train) // train.batch_size, 1)
        batches, steps = train_batches(
            data.train,
            augment=train.augment,
            seed=train.seed,
            first_epoch=0,
            epochs=math.ceil(config.lr_steps / steps),
            image_size=train.image_size,
            batch_size=train.batch_size,
            pool=pool,
        )
        model = compiled_model(train, data, steps, initial=open_initial(train))
        print(f"weights {describe_weights(train)}", flush=True)
        model.optimizer.learning_rate = keras.optimizers.schedules.ExponentialDecay(
            config.lr_min, config.lr_steps - 1, config.lr_max / config.lr_min
        )
        sweep = LrRangeTest(config.lr_steps, train.batch_size)
        model.fit(batches, epochs=1, steps_per_epoch=config.lr_steps, callbacks=[sweep], shuffle=False, verbose=0)
    losses = np.array(sweep.losses)
    if not len(losses):
        raise KsegError(
            f"the loss is no finite number at the first step: --lr_min={config.lr_min} is too high, or the data damaged"
        )
    rates = config.lr_min * (config.lr_max / config.lr_min) ** (np.arange(len(losses)) / (config.lr_steps - 1))
    return LrFinderResult(rates, losses)


def write_picture(path: str, result: LrFinderResult) -> None:
    """Draws the loss over the learning rate as a PNG file. Raises KsegError if it cannot be written."""
    try:
        with atomic_path(Path(path)) as temporary:
            temporary.write_bytes(rate_chart(result.rates, result.losses, result.smooth, result.suggestion))
    except OSError as error:
        raise KsegError(f"--output={path}: cannot be written ({error.strerror or error})") from None
