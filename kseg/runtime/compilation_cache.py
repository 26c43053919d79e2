"""Keeps compiled programs on disk, so that a later run starts its first step within seconds."""

import contextlib
import hashlib
import os
import platform
import re
from pathlib import Path

from kseg.config.fields import COMPILATION_CACHE_AUTO, COMPILATION_CACHE_NONE
from kseg.utils.errors import KsegError
from kseg.utils.files import cache_folder

MAX_BYTES = 2**30
"""The size of a cache folder. Training DeepLabV3+ on ResNet-50 takes about 2 MB."""


def enable_compilation_cache(setting: str = COMPILATION_CACHE_AUTO) -> Path | None:
    """Makes JAX keep compiled programs in a folder and look there first. Returns the folder, or None if nothing is kept.

    For commands, not for libraries: it sets JAX's `jax_compilation_cache_dir` for the whole process. JAX finds a program by its
    content, the versions of JAX and XLA, and the device. A damaged entry costs a compilation and a warning of JAX.

    Programs in the folder are executed: let only people you trust write there. The folder is created for its owner alone.

    Args:
        setting: a folder; "none"; or "auto", which is $JAX_COMPILATION_CACHE_DIR or JAX's own setting if there is one, else a
            folder for this machine's processor below $KSEG_CACHE/xla (by default ~/.cache/kseg/xla).

    Raises:
        KsegError: if the named folder cannot be written. If "auto"'s cannot, nothing is kept.
    """
    import keras

    if not setting:
        raise KsegError("--compilation_cache=: name a folder, or auto, or none")
    if keras.backend.backend() != "jax":
        return None
    import jax

    current = jax.config.jax_compilation_cache_dir
    if setting == COMPILATION_CACHE_NONE:
        _set_folder(None)
        return None
    if setting == COMPILATION_CACHE_AUTO and current:
        return Path(current)
    folder = cache_folder() / "xla" / _processor() if setting == COMPILATION_CACHE_AUTO else Path(setting).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(None, "no permission")
        _prune(folder, MAX_BYTES)
    except OSError as error:
        if setting == COMPILATION_CACHE_AUTO:
            return None
        raise KsegError(
            f"--compilation_cache={setting}: cannot be written ({error.strerror or error}); name another folder, or none"
        ) from None
    jax.config.update(
        "jax_persistent_cache_min_compile_time_secs", 0.0
    )  # by default JAX does not keep short compilations, of which a start has many
    _set_folder(folder)
    return folder


def _set_folder(folder: Path | None) -> None:
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    value = None if folder is None else str(folder)
    if jax.config.jax_compilation_cache_dir != value:
        jax.config.update("jax_compilation_cache_dir", value)
        compilation_cache.reset_cache()  # JAX otherwise stays with the folder that it already uses


def _processor() -> str:
    """Returns a name for the processor's instruction set. Machines may share a home folder, and foreign code ends in SIGILL."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    features = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    return f"{platform.machine()}-{hashlib.sha256(features.encode()).hexdigest()[:12]}"


def _prune(folder: Path, most: int) -> None:
    """Removes the least recently used entries until the rest takes at most `most` bytes.

    JAX's own limit, jax_compilation_cache_max_size, does not serve: it reads the whole folder for each entry it adds (seconds
    if the folder is full), and cannot add any to a folder in which JAX once wrote without a limit.
    """
    entries = []
    for path in folder.iterdir():
        if not re.fullmatch(r".+-[0-9a-f]{64}-cache", path.name):  # JAX's names; the folder may hold other files
            continue
        with contextlib.suppress(FileNotFoundError):  # another process may prune at the same time
            stat = path.stat()
            entries.append((max(stat.st_atime, stat.st_mtime), stat.st_size, path))
    total = sum(size for _, size, _ in entries)
    for _, size, path in sorted(entries):
        if total <= most:
            break
        path.unlink(missing_ok=True)
        total -= size
