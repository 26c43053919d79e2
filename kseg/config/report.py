"""What kseg.report is told: a run whose page is made again, or runs to compare."""

from dataclasses import dataclass
from typing import ClassVar

from kseg.config.data import DataOverrides
from kseg.config.fields import check_workers, compilation_cache_field, field
from kseg.utils.errors import KsegError


@dataclass(frozen=True)
class ReportConfig(DataOverrides):
    """A report to write."""

    POSITIONAL: ClassVar[str] = "compare"

    run_dir: str | None = field(None, "Run directory whose report.html and figures are made again.", "report")
    compare: tuple[str, ...] = field(
        (),
        "Run directories to put side by side, separated by commas or spaces; the first is what the others are measured by.",
        "report",
    )
    output: str | None = field(None, "Page of --compare to write; default: compare.html.", "report")
    workers: int | None = field(None, "Processes that load images; 0: threads; default: one a core.", "report")
    compilation_cache: str = compilation_cache_field()

    def __post_init__(self):
        if self.run_dir is None and not self.compare:
            raise KsegError("nothing to report: name a run with --run_dir=R, or several with --compare R1 R2")
        if self.run_dir is not None and self.compare:
            raise KsegError("--compare: writes a page of its own; leave --run_dir out")
        if self.compare:
            if len(self.compare) == 1:
                raise KsegError(f"--compare={self.compare[0]}: name two run directories or more")
            if twice := [name for name in self.compare if self.compare.count(name) > 1]:
                raise KsegError(f"--compare={','.join(self.compare)}: names {twice[0]} twice")
        elif self.output is not None:
            raise KsegError(f"--output={self.output}: goes with --compare; --run_dir writes the run's own report.html")
        check_workers(self.workers)
