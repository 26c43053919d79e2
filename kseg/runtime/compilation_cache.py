"""Compiled programs, kept between processes: a run that needs what an earlier one compiled starts its first step in seconds."""

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
"""Of a cache folder. Training DeepLabV3+ on ResNet-50 takes about 2 MB."""


def enable_compilation_cache(setting: str = COMPILATION_CACHE_AUTO) -> Path | None:
    """Lets JAX keep what it compiles in a folder, and look there first. For programs, not for libraries: it sets JAX's own
    `jax_compilation_cache_dir` and what belongs to it, for the whole process.

    setting: a folder; "auto": where $JAX_COMPILATION_CACHE_DIR or jax.config say, else a folder for this machine's processor in
    $KSEG_CACHE/xla, by default ~/.cache/kseg/xla; "none": no folder. A program is found again by its content, the versions of JAX
    and XLA, and the device. What is in the folder is run: let nobody write there whom you do not trust (it is made for its owner
    alone).

    Returns the folder, or None if nothing is kept: on other backends than JAX, or where "auto"'s folder cannot be written.
    Raises KsegError if the named folder cannot be written. A damaged entry costs its compilation and a warning of
    JAX's, no more.
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
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # the generators of initial weights: many and short
    _set_folder(folder)
    return folder


def _set_folder(folder: Path | None) -> None:
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    value = None if folder is None else str(folder)
    if jax.config.jax_compilation_cache_dir != value:
        jax.config.update("jax_compilation_cache_dir", value)
        compilation_cache.reset_cache()  # else a folder that is in use stays


def _processor() -> str:
    """Names what the processor can do: code for another one, found in a home that machines share, could end in SIGILL."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    features = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    return f"{platform.machine()}-{hashlib.sha256(features.encode()).hexdigest()[:12]}"


def _prune(folder: Path, most: int) -> None:
    """Removes the entries that were not read for longest until the rest takes at most `most` bytes.

    Once a start: JAX's own bound (jax_compilation_cache_max_size) reads the whole folder for every entry that it adds.
    """
    entries = []
    for path in folder.iterdir():
        if not re.fullmatch(r".+-[0-9a-f]{64}-cache", path.name):  # JAX's names: the folder may hold other things
            continue
        with contextlib.suppress(FileNotFoundError):  # another process prunes, too
            stat = path.stat()
            entries.append((max(stat.st_atime, stat.st_mtime), stat.st_size, path))
    total = sum(size for _, size, _ in entries)
    for _, size, path in sorted(entries):
        if total <= most:
            break
        path.unlink(missing_ok=True)
        total -= size
