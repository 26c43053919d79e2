"""Devices: what this process computes on."""

import os

import keras


def hide_accelerators_from_tensorflow() -> None:
    """Imports TensorFlow so that it never touches a GPU or TPU: here it loads data, and would take the memory that training needs.

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

        devices = jax.devices()
        kind = devices[0].device_kind
        return f"jax {jax.__version__} on {kind} ({len(devices)} device{'s' if len(devices) > 1 else ''})"
    if name == "torch":
        import torch

        kind = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu"
        return f"torch {torch.__version__} on {kind}"
    if name == "tensorflow":
        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
        return f"tensorflow {tf.__version__} on {'gpu' if gpus else 'cpu'} ({max(len(gpus), 1)} device{'s' if len(gpus) > 1 else ''})"
    return name
