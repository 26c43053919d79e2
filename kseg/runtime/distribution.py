"""Data parallelism: divides batches among devices."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras

from kseg.runtime.hosts import require_jax
from kseg.utils.errors import KsegError


def data_parallel(kind: str, *, local: bool = False) -> "contextlib.AbstractContextManager[None]":
    """Returns the scope in which to build, train and call models with --distribution=`kind`.

    "none": one device. "data_parallel": every device has a copy of the variables and computes its part of a batch; sums over
    the batch (loss, gradients, batch norm's statistics, counts) are over the whole batch.
    local: use this process's devices only, not those of all processes. Raises KsegError on backends other than JAX.
    """
    if kind == "none":
        return contextlib.nullcontext()
    require_jax(f"--distribution={kind}")
    return keras.distribution.DataParallel(devices=_devices(local), auto_shard_dataset=False).scope()


@contextlib.contextmanager
def local_only() -> Iterator[None]:
    """Turns distribution off inside the block, for work that one process does alone, such as saving.

    Arrays that Keras makes there would otherwise be divided among devices, and wait for the other processes.
    """
    distribution = keras.distribution.distribution()
    if distribution is not None:
        keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        if distribution is not None:
            keras.distribution.set_distribution(distribution)


def _devices(local: bool) -> list[str]:
    """Returns device names in the order of the processes, so that a global batch is their batches one after the other."""
    import jax

    devices = jax.local_devices() if local else sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    return [f"{device.platform}:{device.id}" for device in devices]


def check_batch(kind: str, batch_size: int) -> None:
    """Raises KsegError if a batch cannot be divided evenly among the devices of all processes."""
    if kind == "none":
        return
    require_jax(f"--distribution={kind}")
    import jax

    counts = Counter(device.process_index for device in jax.devices())
    if len(set(counts.values())) > 1:
        (most, more), *_, (least, fewer) = counts.most_common()
        raise KsegError(f"process {most} has {more} devices, process {least} has {fewer}: give all processes equally many")
    devices = counts.total()
    if batch_size % devices:
        below = batch_size // devices * devices
        choice = f"{below} or {below + devices}" if below else f"{devices}"
        raise KsegError(f"--batch_size={batch_size}: cannot be divided evenly among {devices} devices; use {choice}")


def device_count() -> int:
    """Returns the number of devices that share a batch in the current scope; 1 outside data_parallel."""
    distribution = keras.distribution.distribution()
    return 1 if distribution is None else distribution.device_mesh.devices.size


def shard(batch: Sequence[Any]) -> list[Any]:
    """Puts each array [B, ...] onto the devices of the current scope, divided along B. Outside a scope it returns them as is."""
    distribution = keras.distribution.distribution()
    if distribution is None:
        return list(batch)
    return [keras.distribution.distribute_tensor(array, distribution.get_data_layout(array.shape)) for array in batch]


def on_each_device(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `function`, from arrays [B, ...] to arrays [B, ...], such that each device applies it to its part of B only.

    For functions that XLA cannot divide well, such as a loop over the batch.
    """
    distribution = keras.distribution.distribution()
    if distribution is None:
        return function
    import jax

    part = jax.sharding.PartitionSpec(distribution.batch_dim_name)
    return jax.shard_map(function, mesh=distribution.device_mesh.backend_mesh, in_specs=part, out_specs=part, check_vma=False)
