"""Reports on a run, or compares several: python -m kseg.report --run_dir=R, or --compare R1 R2 [--help]."""

from collections.abc import Sequence

from kseg.config import ReportConfig
from kseg.config.command_line import parse
from kseg.runtime.main import run_main

DESCRIPTION = """
Writes the report of a finished or stopped run again, without training, or compares several runs on one page.

  python -m kseg.report --run_dir=runs/NAME
  python -m kseg.report --compare runs/A runs/B runs/C --output=compare.html
"""


def main(argv: Sequence[str]) -> None:
    """Runs the command. argv[0] is the program."""
    config = parse(ReportConfig, argv, DESCRIPTION)
    from kseg.reports.run_report import report  # imported late: --help needs no Keras

    path, text = report(config)
    print(f"{text}, {path}")


if __name__ == "__main__":
    run_main(main)
