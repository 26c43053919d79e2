"""What this process holds of the machine's memory, as Linux counts it."""

import gc
from pathlib import Path

from kseg.runtime.memory import return_freed_memory


def peak_mb() -> float:
    """MB that this process has held at most since the last reset."""
    return _status("VmHWM:")


def held_mb() -> float:
    """MB that this process holds."""
    return _status("VmRSS:")


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(name))) / 1024


def reset_peak() -> None:
    """Starts the peak anew at what is held now."""
    Path("/proc/self/clear_refs").write_text("5")


def release() -> None:
    """Gives what the allocator keeps for later back to the system, so that it does not count."""
    gc.collect()
    return_freed_memory()
