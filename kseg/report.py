"""Reports of runs that are there: python -m kseg.report --run_dir=R, or --compare R1 R2 [--help]."""

from collections.abc import Sequence

from kseg.config import ReportConfig
from kseg.config.command_line import parse
from kseg.runtime.main import run_main

DESCRIPTION = """
Makes the page of a finished or stopped run again, without training, or puts several runs side by side on one page.

  python -m kseg.report --run_dir=runs/NAME
  python -m kseg.report --compare runs/A runs/B runs/C --output=compare.html

What stands on the pages: docs/report.md.
"""


def main(argv: Sequence[str]) -> None:
    config = parse(ReportConfig, argv, DESCRIPTION)
    from kseg.reports.run_report import report  # imported late, so that --help answers at once

    path, text = report(config)
    print(f"{text}, {path}")


if __name__ == "__main__":
    run_main(main)
