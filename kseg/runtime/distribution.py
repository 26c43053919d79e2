"""Devices: what this process computes on, and how a batch is divided among many."""

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras

from kseg.runtime.hosts import process_count, require_jax
from kseg.utils.errors import KsegError


def data_parallel(kind: str, *, local: bool = False) -> "contextlib.AbstractContextManager[None]":
    """Returns the scope in which models are built, trained and called for --distribution=`kind`.

    "none": one device. "data_parallel": variables are copied to all devices, of all processes or, with local, of this one, and
    what a device is given is its part of a batch; sums over the batch (loss, gradients, batch norm's statistics, counts) are
    over all of it. Raises KsegError where the backend cannot.
    """
    if kind == "none":
        return contextlib.nullcontext()
    require_jax(f"--distribution={kind}")
    return keras.distribution.DataParallel(devices=_devices(local), auto_shard_dataset=False).scope()


@contextlib.contextmanager
def local_only() -> Iterator[None]:
    """A block that one process runs by itself: what Keras makes in it, while saving for one, is not divided among devices, which
    the other processes would have to take part in.
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
    """In the order of the processes, so that the global batch is their parts one after the other."""
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
    """Devices among which a batch is divided in the scope that this is called in; 1 outside of data_parallel."""
    distribution = keras.distribution.distribution()
    return 1 if distribution is None else distribution.device_mesh.devices.size


def shard(batch: Sequence[Any]) -> list[Any]:
    """Puts each array [B, ...] of a batch onto the devices in force, each device its part of B; as it is without any."""
    distribution = keras.distribution.distribution()
    if distribution is None:
        return list(batch)
    return [keras.distribution.distribute_tensor(array, distribution.get_data_layout(array.shape)) for array in batch]


def on_each_device(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function of arrays [B, ...] that computes like `function`, each device with its part of B alone.

    For what must not be divided otherwise: a loop over the batch, for one. `function` returns arrays [B, ...].
    """
    distribution = keras.distribution.distribution()
    if distribution is None:
        return function
    import jax

    part = jax.sharding.PartitionSpec(distribution.batch_dim_name)
    return jax.shard_map(function, mesh=distribution.device_mesh.backend_mesh, in_specs=part, out_specs=part, check_vma=False)


def hide_accelerators_from_tensorflow() -> None:
    """Imports TensorFlow so that it never touches a GPU or TPU: here it loads data, and would take the memory that training
    needs.

    Does nothing of the kind where TensorFlow is itself the Keras backend. Call it before anything else imports TensorFlow.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if keras.backend.backend() != "tensorflow":
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # of no use to a loader, and announced on stderr at every start
    import tensorflow as tf

    if keras.backend.backend() != "tensorflow":
        for kind in ("GPU", "TPU"):
            tf.config.set_visible_devices([], kind)


def describe_devices() -> str:
    """Returns backend, version and devices in a few words, e.g. "jax 0.10.2 on cpu (1 device)"."""
    name = keras.backend.backend()
    if name == "jax":
        import jax

        version, kinds = jax.__version__, [device.device_kind for device in jax.devices()]
    elif name == "torch":
        import torch

        version, kinds = torch.__version__, [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    else:
        import tensorflow as tf

        version, kinds = tf.__version__, [device.name for device in tf.config.list_physical_devices("GPU")]
    kinds = kinds or ["cpu"]
    processes = f" of {count} processes" if (count := process_count()) > 1 else ""
    return f"{name} {version} on {kinds[0]} ({len(kinds)} device{'s' if len(kinds) > 1 else ''}{processes})"
