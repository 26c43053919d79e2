"""Memory that ran out: how to tell, on every backend, and what to say."""

import contextlib
from collections.abc import Iterator

from kseg.config import TrainConfig
from kseg.errors import KsegError

_NAMES = ("OutOfMemoryError", "ResourceExhaustedError")  # torch's on a GPU, TensorFlow's
_SIGNS = ("RESOURCE_EXHAUSTED", "Out of memory", "can't allocate memory")  # JAX's; torch's on a CPU


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of JAX, TensorFlow, torch or Python says that the device's or the host's memory ran out."""
    if isinstance(error, KsegError):
        return False
    known = isinstance(error, MemoryError) or type(error).__name__ in _NAMES
    return known or (isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS))


@contextlib.contextmanager
def explained_exhaustion(config: TrainConfig) -> Iterator[None]:
    """Turns want of memory while a model trains into a KsegError that names what to try.

    Another batch size would make another run of it, so it is not for the program to choose.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        batch, steps = config.batch_size, config.optimization.accumulate_steps
        fewer = max(1, batch // 2)
        smaller = f"--batch_size={fewer} (with --accumulate_steps={steps * batch // fewer} an update sees as many images), "
        raise KsegError(
            f"memory ran out while training with --batch_size={batch}, --image_size={'x'.join(map(str, config.image_size))}; try "
            f"{smaller if batch > 1 else ''}a smaller --image_size, --remat or --precision=mixed_bfloat16"
        ) from error
