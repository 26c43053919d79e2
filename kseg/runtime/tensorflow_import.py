"""Imports TensorFlow without letting it take the accelerators."""

import os

import keras


def hide_accelerators_from_tensorflow() -> None:
    """Imports TensorFlow and hides GPUs and TPUs from it: it only loads data, and would reserve the memory that training needs.

    With TensorFlow as the Keras backend it hides nothing. Call it before anything else imports TensorFlow.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if keras.backend.backend() != "tensorflow":
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # useless for loading, and announced on stderr at every start
    import tensorflow as tf

    if keras.backend.backend() != "tensorflow":
        for kind in ("GPU", "TPU"):
            tf.config.set_visible_devices([], kind)
