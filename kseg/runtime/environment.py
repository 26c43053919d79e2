"""Describes the machine and the software of a run: environment.json and the line about devices."""

import contextlib
import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras

import kseg
from kseg.runtime.hosts import process_count

PACKAGES = (
    "kseg", "keras", "jax", "jaxlib", "torch", "tensorflow", "tensorflow-cpu", "keras-cv", "albumentations",
    "opencv-python-headless", "pycocotools", "pillow", "numpy",
)  # fmt: skip


def environment() -> dict[str, Any]:
    """Returns the command, start time, versions, backend, devices and source commit of this process, as JSON values."""
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "command": sys.argv,
        "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "backend": keras.backend.backend(),
        "devices": describe_devices(),
        "commit": _commit(),
        "versions": versions,
    }


def describe_devices() -> str:
    """Returns the backend, its version and its devices, e.g. "jax 0.10.2 on cpu (1 device)"."""
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


def _commit():
    """Returns the git commit of kseg's source tree, with "+" if files were changed; None without a git checkout."""
    root = Path(kseg.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None

    def git(*arguments):
        return subprocess.run(
            ["git", "-C", root, *arguments], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None
