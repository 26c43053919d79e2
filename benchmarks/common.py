"""What the benchmarks share: the machine in words, tables in documentation, sides that take turns."""

import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from kseg.utils.errors import KsegError
from kseg.utils.files import write_text
from kseg.utils.system import usable_cores

ROOT = Path(__file__).resolve().parent.parent.parent


def machine(packages: tuple[str, ...]) -> dict[str, Any]:
    """Returns date, processor, cores, the load of other programs and the versions of those packages that are installed."""
    cpu = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        cpu = next((line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")), cpu)
    versions = {}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": cpu,
        "cores": usable_cores(),
        "load_before": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "versions": versions,
    }


def in_words(facts: dict[str, Any]) -> str:
    """Returns what `machine` found out, in a line that a table can begin with."""
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return f"{facts['date']}, {facts['cpu']}, {facts['cores']} cores, Python {facts['python']}, {versions}"


def network_title(network: str) -> str:
    """Returns how tables name a network, MODEL/BACKBONE: "deeplabv3plus on resnet50"."""
    return network.replace("/", " on ")


def read_between(page: Path, name: str) -> str:
    """Returns what stands between <!-- NAME --> and <!-- /NAME --> in a page. Raises KsegError if it has no such place."""
    return _parts(page, name)[1].strip()


def write_between(page: Path, name: str, text: str) -> None:
    """Replaces what stands between <!-- NAME --> and <!-- /NAME --> in a page. Raises KsegError if it has no such place."""
    before, _, after = _parts(page, name)
    write_text(page, f"{before}\n{text.rstrip()}\n{after}")


def read_numbers(path: Path, kind: str) -> dict[str, Any]:
    """Numbers that a command's --json wrote. Raises KsegError if they are not of this kind."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise KsegError(f"--from_json={path}: cannot be read ({error}); name a file that --json wrote") from None
    if not isinstance(result, dict) or result.get("kind") != kind:
        raise KsegError(f"--from_json={path}: holds no numbers of {kind}; name a file that its --json wrote")
    return result


def write_numbers(path: Path, result: dict[str, Any]) -> None:
    """Writes what was measured as JSON, whole or not at all. A page's table is of numbers, so that it is written after them."""
    write_text(path, json.dumps(result, indent=1) + "\n")


def place(kind: str, platform: str) -> str:
    """Where numbers of a kind stand in the page, and the name of their files: a GPU's have their own, such as "step-gpu"."""
    return kind if platform == "cpu" else f"{kind}-{platform}"


def _parts(page: Path, name: str) -> tuple[str, str, str]:
    """A page up to the first mark of a place, what is between, and the rest from its last mark on."""
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, found, rest = page.read_text(encoding="utf-8").partition(start)
    if not found or end not in rest:
        raise KsegError(f"{page}: has no place marked {start} ... {end}")
    inside, _, after = rest.partition(end)
    return before + start, inside, end + after


class Side:
    """A process that measures when it is told to, so that two can take turns without sharing an interpreter.

    It runs `python -m benchmarks.MODULE` with JSON settings as its argument, writes a line when it is ready, and for every line
    it reads, one JSON line back. environment: variables that it has beside our own.
    """

    def __init__(self, module: str, settings: dict[str, Any], environment: dict[str, str] | None = None):
        path = [str(ROOT), str(ROOT / "scripts"), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, **(environment or {}), "PYTHONPATH": os.pathsep.join(path)}
        command = [sys.executable, "-m", f"benchmarks.{module}", json.dumps(settings)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        self.ready = self._read()

    def ask(self, what: str) -> Any:
        """Returns the answer to one line."""
        assert self._process.stdin is not None
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a side of the benchmark ended with exit code {self._process.wait()}")
        return json.loads(line)

    def __enter__(self) -> "Side":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process, and waits for that."""
        assert self._process.stdin is not None
        self._process.stdin.close()  # it reads the end of its input, and ends
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def tree_memory(pid: int) -> float:
    """Returns MB that a process and its descendants hold, shared pages divided among their users (PSS)."""
    total = 0
    for child in [pid, *_descendants(pid)]:
        try:
            rollup = Path(f"/proc/{child}/smaps_rollup").read_text()
        except OSError:  # ended meanwhile
            continue
        total += int(next(line.split()[1] for line in rollup.splitlines() if line.startswith("Pss:")))
    return total / 1024


def tree_cpu(pid: int) -> float:
    """Returns the processor seconds that a process and its living descendants have used."""
    ticks = 0
    for child in [pid, *_descendants(pid)]:
        fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _descendants(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found += [child, *_descendants(child)]
    return found
