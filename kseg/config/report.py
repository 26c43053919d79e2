"""Options of kseg.report."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from kseg.config.data import DataOverrides
from kseg.config.fields import check_workers, compilation_cache_field, field, workers_field
from kseg.utils.errors import KsegError


@dataclass(frozen=True)
class ReportConfig:
    """A run to report on, or runs to compare."""

    POSITIONAL: ClassVar[str] = "compare"
    POSITIONAL_NEEDS_FLAG: ClassVar[bool] = True

    run_dir: str | None = field(None, "Run directory: write its report.html and figures again.", "report", value="DIR")
    compare: tuple[str, ...] = field(
        (),
        "Run directories to compare on one page, separated by commas or spaces; the first is the baseline.",
        "report",
        value="DIR DIR ...",
    )
    output: str | None = field(None, "Page that --compare writes; default: compare.html.", "report", value="FILE")
    data: DataOverrides = dataclasses.field(default_factory=DataOverrides)
    workers: int | None = workers_field()
    compilation_cache: str = compilation_cache_field()

    def __post_init__(self):
        if self.run_dir is None and not self.compare:
            raise KsegError("nothing to report: name a run with --run_dir=R, or several with --compare R1 R2")
        if self.run_dir is not None and self.compare:
            raise KsegError("--compare: cannot be combined with --run_dir; leave one out")
        if self.compare:
            if len(self.compare) == 1:
                raise KsegError(f"--compare={self.compare[0]}: name two run directories or more")
            if twice := [name for name in self.compare if self.compare.count(name) > 1]:
                raise KsegError(f"--compare={','.join(self.compare)}: names {twice[0]} twice")
        elif self.output is not None:
            raise KsegError(f"--output={self.output}: goes with --compare; --run_dir writes the run's own report.html")
        check_workers(self.workers)
