"""The table of docs/guides/data.md: every line that it says to type is accepted."""

import re
import shlex

import pytest
from conftest import ROOT

from kseg.config import InspectConfig, TrainConfig
from kseg.config.command_line import parse

ROWS = re.findall(r"^\| (.+?) \| (.+?) \|$", (ROOT / "docs/guides/data.md").read_text(), re.M)
COMMANDS = [(what, flags, text) for what, text in ROWS for flags in re.findall(r"`(--[^`]+)`", text) if what != "note"]


@pytest.mark.parametrize(("what", "flags", "text"), COMMANDS, ids=[what for what, _, _ in COMMANDS])
def test_what_the_table_says_to_type_is_accepted(what, flags, text):
    words = shlex.split(flags)
    if text.startswith("add"):
        words = ["--dataset=folder", "--data_dir=DIR", "--label_map=classes.yaml", *words]
    assert parse(TrainConfig, ["kseg.train", *words], "").data.dataset in ("coco", "folder", "tfds")
    if not any("_split=" in word for word in words):
        assert parse(InspectConfig, ["kseg.inspect_data", *words], "")


def test_the_table_is_found():
    assert len(COMMANDS) > 25
