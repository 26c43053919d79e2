"""Files appear completely or not at all; JSON that cannot be read is empty."""

import contextlib

import pytest

from kseg.utils.files import atomic_folder, atomic_path, read_json


@pytest.mark.parametrize("content", [None, b"", b"\xff\x00", b"[1]", b"{", b"[" * 10**5])
def test_json_that_cannot_be_read_is_empty(tmp_path, content):
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    assert read_json(tmp_path / "a.json") == {}


def test_json_is_read(tmp_path):
    (tmp_path / "a.json").write_text('{"name": "日本"}', encoding="utf-8")
    assert read_json(tmp_path / "a.json") == {"name": "日本"}


def test_a_failure_leaves_the_earlier_file_and_folder(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder").mkdir()
    with contextlib.suppress(ZeroDivisionError), atomic_path(tmp_path / "file") as file:
        file.write_text("new")
        raise ZeroDivisionError
    with contextlib.suppress(ZeroDivisionError), atomic_folder(tmp_path / "folder", replace=True) as folder:
        (folder / "new").write_text("")
        raise ZeroDivisionError
    assert (tmp_path / "file").read_text() == "old"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]
