"""Recognises errors about memory that ran out, and explains them."""

import contextlib
from collections.abc import Iterator

from kseg.config import TrainConfig
from kseg.utils.errors import KsegError

_NAMES = ("OutOfMemoryError", "ResourceExhaustedError")  # PyTorch's on a GPU, TensorFlow's
_MESSAGES = ("RESOURCE_EXHAUSTED", "Out of memory", "can't allocate memory")  # JAX's, and PyTorch's on a CPU


def is_out_of_memory(error: BaseException) -> bool:
    """Returns True if JAX, TensorFlow, PyTorch or Python raised the error because a device's or the host's memory ran out."""
    if isinstance(error, KsegError):
        return False
    known = isinstance(error, MemoryError) or type(error).__name__ in _NAMES
    return known or (isinstance(error, RuntimeError) and any(message in str(error) for message in _MESSAGES))


@contextlib.contextmanager
def explain_out_of_memory(config: TrainConfig) -> Iterator[None]:
    """Replaces an out-of-memory error during training by a KsegError that suggests flags.

    kseg does not reduce the batch size by itself: that would change the result of the run.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        batch, steps = config.batch_size, config.optimization.accumulate_steps
        sizes = "--image_size or --val_window" if config.scale.val_window else "--image_size"
        fewer = max(1, batch // 2)
        smaller = f"--batch_size={fewer} (with --accumulate_steps={steps * batch // fewer} an update sees as many images), "
        raise KsegError(
            f"memory ran out while training with --batch_size={batch}, --image_size={'x'.join(map(str, config.image_size))}; try "
            f"{smaller if batch > 1 else ''}a smaller {sizes}, --remat or --precision=mixed_bfloat16"
        ) from error
