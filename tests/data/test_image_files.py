"""Files of --input: their names, and the groups that are predicted together."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from kseg.data.sources.image_files import ImageFiles, find_images
from kseg.utils.errors import KsegError

FILES = ("b.jpg", "a.PNG", "sub/c.tif", "sub/deep/d.jpg", "sub/notes.txt", ".hidden/e.jpg", ".f.jpg", "other/a.PNG", "x[1].jpg")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in FILES:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    (tmp_path / "bare").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("inputs", "names"),
    [
        (["in"], ["a.PNG", "b.jpg", "other/a.PNG", "sub/c.tif", "sub/deep/d.jpg", "x[1].jpg"]),
        (["in/sub/"], ["c.tif", "deep/d.jpg"]),
        (["in/*.jpg"], ["b.jpg", "x[1].jpg"]),
        (["in/x[1].jpg"], ["x[1].jpg"]),
        (["in/**/*.jpg"], ["b.jpg", "sub/deep/d.jpg", "x[1].jpg"]),
        (["in/s*/**"], ["sub/c.tif", "sub/deep/d.jpg"]),  # of a pattern that ends so, images alone
        (["in/sub/*.txt"], ["notes.txt"]),  # named on purpose, and then found to be no image
        (["in/.f.jpg", "in/b.jpg", "in/../in/b.jpg"], [".f.jpg", "b.jpg"]),
        (["in/sub", "in/b.jpg", "in/sub/c.tif"], ["c.tif", "deep/d.jpg", "b.jpg"]),
        (["in/a.PNG", "in/other/a.PNG"], ["a.PNG", "other/a.PNG"]),
        (["in/other", "in/a.PNG", "in/sub"], ["other/a.PNG", "a.PNG", "sub/c.tif", "sub/deep/d.jpg"]),
    ],
)
def test_files_and_their_names(folder, inputs, names):
    found = find_images(inputs)
    assert [file.name for file in found] == names
    assert all(file.path.is_file() for file in found)
    assert [(folder / file.path).name for file in found] == [Path(name).name for name in names]


def test_results_of_an_earlier_call_are_left_out(folder, capsys):
    outputs = [Path("in/sub"), Path("in/absent")]
    assert [file.name for file in find_images(["in"], outputs)] == ["a.PNG", "b.jpg", "other/a.PNG", "x[1].jpg"]
    assert "left out 2 images below in/sub and in/absent, where results go" in capsys.readouterr().err
    assert [file.name for file in find_images([str(folder / "in/**/*.jpg")], outputs)] == ["b.jpg", "x[1].jpg"]
    capsys.readouterr()
    assert [file.name for file in find_images(["in/sub/c.tif", "in/b.jpg"], outputs)] == ["c.tif", "b.jpg"]  # named on purpose
    assert not capsys.readouterr().err
    with pytest.raises(KsegError, match="all 2 images are below in/sub and in/absent, where results go; name another --output"):
        find_images(["in/sub"], outputs)


def test_absolute_and_relative_paths_give_the_same_names(folder):
    assert [file.name for file in find_images([str(folder / "in/**/c.*")])] == ["sub/c.tif"]
    assert [file.name for file in find_images(["in/sub/../**/c.*"])] == ["sub/c.tif"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("nowhere", "--input=nowhere: no such file or folder"),
        ("bare", r"--input=bare: the folder has no images \(.bmp, "),
        ("in/*.gif", r"--input=in/\*.gif: no file fits this pattern"),
        ("bare/**", r"--input=bare/\*\*: no image fits this pattern"),
        ("x" * 5000, "cannot be read|no such file"),
        ("", "--input: one of its paths is empty"),
    ],
)
def test_an_input_without_images_is_one_line(folder, given, says):
    with pytest.raises(KsegError, match=says):
        find_images(["in", given])


def test_images_have_no_labels(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 5, 3), "uint8"))
    images = ImageFiles(find_images([str(tmp_path)]), ("a", "b"))
    assert images.size(0) == (4, 5)
    assert images.load_image(0).shape == (4, 5, 3)
    assert (images.load(0).label == 255).all()
