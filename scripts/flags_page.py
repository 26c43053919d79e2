"""Writes docs/reference/flags.md from the configs: python scripts/flags_page.py"""

import importlib
from collections.abc import Container
from pathlib import Path
from typing import Any

from kseg import config
from kseg.config.fields import as_typed, leaves
from kseg.config.help import placeholder

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "flags.md"
COMMANDS = {
    "train": config.TrainConfig,
    "evaluate": config.EvaluateConfig,
    "predict": config.PredictConfig,
    "inspect_data": config.InspectConfig,
    "find_lr": config.LrFinderConfig,
    "report": config.ReportConfig,
    "export": config.ExportConfig,
    "convert": config.ConvertConfig,
    "hub": config.HubConfig,
    "demo": config.DemoConfig,
    "write_shards": config.ShardsConfig,
}
HEAD = """# Flags

Every flag of every command, as `--help` shows them. `scripts/flags_page.py` writes this page.

`--flagfile=FILE` reads flags from a file, one a line; `#` starts a comment, and later flags win. `[no]` marks a switch: `--remat`
turns it on, `--noremat` off. Flags that a command shares with `train` or `evaluate` are listed once.

Commands: COMMANDS.
"""


def page() -> str:
    """Returns the page's text."""
    links = " · ".join(f"[{name}](#{name})" for name in COMMANDS)
    parts = [HEAD.replace("COMMANDS", links)]
    listed: dict[str, dict[str, tuple[str, Any]]] = {}  # flags of the commands before, for those that share them
    for name, config_class in COMMANDS.items():
        purpose = (importlib.import_module(f"kseg.{name}").__doc__ or "").partition(": python")[0].partition("\n")[0]
        parts.append(f"## {name}\n\n`python -m kseg.{name}`: {purpose[0].lower()}{purpose[1:]}.\n")
        own = {field.name: (field.metadata["help"], field.default) for field, _ in leaves(config_class)}
        notes = []
        for other in ("train", "evaluate"):
            shared = [flag for flag, text in own.items() if listed.get(other, {}).get(flag) == text]
            own = {flag: text for flag, text in own.items() if flag not in shared}
            everything = shared and len(shared) == len(listed[other])
            flags = f"all flags of [{other}](#{other})" if everything else ", ".join(f"`--{flag}`" for flag in shared)
            notes += [f"{'And' if everything else f'As in [{other}](#{other}):'} {flags}.\n"] if shared else []
        for group, rows in _groups(config_class, own).items():
            parts.append("\n".join([f"| {group} | | default |", "|---|---|---|", *rows]) + "\n")
        parts += notes
        listed[name] = own
    return "\n".join(parts)


def _groups(config_class: type, names: Container[str]) -> dict[str, list[str]]:
    """Returns the table's rows of the flags in names, by group, in the order of --help."""
    groups: dict[str, list[str]] = {name: [] for name in getattr(config_class, "GROUPS", ())}
    for field, hint in leaves(config_class):
        if field.name in names:
            head = f"--[no]{field.name}" if hint is bool else f"--{field.name}={placeholder(field, hint)}"
            default = field.default if hint is bool else as_typed(field.default)
            shown = ("yes" if default else "no") if hint is bool else "" if default in (None, "") else f"`{default}`"
            cells = (cell.replace("|", r"\|") for cell in (f"`{head}`", field.metadata["help"], shown))
            groups.setdefault(field.metadata["group"], []).append(f"| {' | '.join(cells)} |")
    return {group: rows for group, rows in groups.items() if rows}


if __name__ == "__main__":
    PAGE.write_text(page())
