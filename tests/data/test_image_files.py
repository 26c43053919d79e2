"""Files of --input: their names, and the groups that are predicted together."""

from pathlib import Path

import numpy as np
import pytest

from kseg.data.sources.image_files import MAX_AREA_RATIO, ImageArrays, find_images, group_by_size
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


def test_groups_of_sizes():
    photos = [(3000, 4000), (4000, 3000), (1500, 2000)]
    assert group_by_size(photos) == [[0, 1, 2]]
    assert group_by_size([(100, 90), *photos, (40, 40), (90, 100)]) == [[1, 2, 3], [0, 4, 5]]
    assert group_by_size([(10, 10)] * 3) == [[0, 1, 2]]
    rng = np.random.default_rng(1)
    sizes = [tuple(map(int, np.exp(rng.uniform(3, 9, 2)))) for _ in range(200)]
    groups = group_by_size(sizes)
    assert sorted(index for group in groups for index in group) == list(range(200))
    assert 1 < len(groups) < 30
    for group in groups:
        height, width = (max(sizes[index][axis] for index in group) for axis in (0, 1))
        assert all(MAX_AREA_RATIO * np.prod(sizes[index]) > height * width for index in group)


def test_arrays_have_no_labels():
    pictures = ImageArrays([np.zeros((4, 5, 3), "uint8")], ("a", "b"))
    assert pictures.size(0) == (4, 5)
    assert (pictures.load(0).label == 255).all()
