"""Devices: what this process computes on."""

import os

import keras


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
    return f"{name} {version} on {kinds[0]} ({len(kinds)} device{'s' if len(kinds) > 1 else ''})"
