"""The end of a run that no longer gets better."""

from typing import Any

import keras
import numpy as np


class EarlyStopping(keras.callbacks.EarlyStopping):
    """Keras's EarlyStopping, which says so, and whose state a checkpoint can keep.

    monitor: column of the logs. mode: "max" or "min". patience: epochs in a row without a better value, after which the run ends.
    """

    def __init__(self, monitor: str, mode: str, patience: int):
        super().__init__(monitor=monitor, mode=mode, patience=patience)
        self._resumed: dict[str, Any] = {}

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)  # which forgets everything
        self.__dict__.update(self._resumed)

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        if self.stopped_epoch:
            print(f"no better {self.monitor} since epoch {self.best_epoch + 1}: the run ends here", flush=True)

    def get_monitor_value(self, logs):
        """A value that is no finite number is worse than any other; Keras would never find a better one than NaN."""
        value = super().get_monitor_value(logs)
        worst = -np.inf if self.mode == "max" else np.inf
        return value if value is None or np.isfinite(value) else worst

    def get_state(self) -> dict[str, Any]:
        """What a resumed run needs, as JSON values."""
        return {"wait": self.wait, "best": None if self.best is None else float(self.best), "best_epoch": self.best_epoch}

    @staticmethod
    def ended(states: dict[str, dict[str, Any]], patience: int | None) -> bool:
        """Whether a run whose callbacks have these states has ended: one that is resumed only to be scored."""
        return patience is not None and states.get("EarlyStopping", {}).get("wait", 0) >= patience

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes what get_state gave, before training begins or after."""
        self._resumed = state
        self.__dict__.update(state)
