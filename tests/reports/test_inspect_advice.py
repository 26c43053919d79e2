"""What kseg.inspect_data advises works when it is followed literally, and its last line is a command that trains."""

import json
import re
import shlex

import numpy as np
import pytest
from PIL import Image

from kseg import inspect_data
from kseg.config import DataConfig, InspectConfig, TrainConfig
from kseg.config.command_line import parse
from kseg.data.inspection.inspect import inspect
from kseg.training.run_data import open_data
from kseg.utils.errors import KsegError


def folder_data(root, values=(0, 1), names="0: background\n1: a\n2: 'b, or c'\n"):
    """A folder data set of which a class never occurs."""
    for split in ("train", "val"):
        for number in range(2):
            rng = np.random.default_rng(number + (split == "val") * 10)
            for kind, pixels in (
                ("images", rng.integers(0, 255, (32, 32, 3))),
                ("labels", np.resize(np.repeat(values, 512), (32, 32))),
            ):
                path = root / kind / split / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.astype(np.uint8)).save(path)
    (root / "map.yaml").write_text(names)
    return ["--dataset=folder", f"--data_dir={root}", f"--label_map={root / 'map.yaml'}"]


def coco_data(root, background=False):
    """A COCO data set with two categories of one name, of which one never occurs; every pixel has one if background is False."""
    (root / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        (root / f"images/{split}").mkdir(parents=True)
        rng = np.random.default_rng(split == "val")
        Image.fromarray(rng.integers(0, 255, (32, 32, 3)).astype(np.uint8)).save(root / f"images/{split}/a.png")
        width = 16 if background else 32
        content = {
            "images": [{"id": 1, "file_name": "a.png", "width": 32, "height": 32}],
            "annotations": [
                {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[0, 0, width, 0, width, 16, 0, 16]]},
                {"id": 2, "image_id": 1, "category_id": 2, "segmentation": [[0, 16, width, 16, width, 32, 0, 32]]},
            ],
            "categories": [{"id": 0, "name": "a"}, {"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        }
        (root / f"annotations/{split}.json").write_text(json.dumps(content))
    return ["--dataset=coco", f"--data_dir={root}"]


def run(flags, output, capsys):
    """Runs the command; returns the issues, and the printed lines."""
    try:
        inspect_data.main(["kseg.inspect_data", *flags, f"--output={output}", "--image_size=32", "--samples=1"])
    except SystemExit as end:
        if end.code != 1:
            raise
    return json.loads((output / "inspection.json").read_text())["issues"], capsys.readouterr().out.splitlines()


def advised(issue):
    """The data flags in an issue's advice, as a shell would give them to a command."""
    words = shlex.split(issue["advice"].rstrip("."))
    return [word for word in words if word.startswith("--") and not word.startswith("--class_weights")]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (folder_data, {'--ignore_categories="b, or c"'}),
        (coco_data, {"--nobackground", "--ignore_categories=a [0]"}),
        (lambda root: coco_data(root, background=True), {"--ignore_categories=a [0]"}),
    ],
)
def test_advice_followed_literally_works(tmp_path, capsys, data, expected):
    flags = data(tmp_path / "data")
    issues, _ = run(flags, tmp_path / "first", capsys)
    found = {flag for issue in issues for flag in advised(issue)}
    assert found == expected
    for flag in found:
        again, _ = run([*flags, flag], tmp_path / "again", capsys)
        before = [issue for issue in issues if flag in advised(issue) and issue["kind"] == "absent class"]
        assert before
        assert not [issue for issue in again if issue["message"] in {issue["message"] for issue in before}]
    both, _ = run([*flags, *found], tmp_path / "both", capsys)
    assert not [issue for issue in both if issue["kind"] in ("absent class", "shared name")]


def test_the_background_is_not_advised_to_be_ignored(tmp_path, capsys):
    issues, _ = run(coco_data(tmp_path / "data"), tmp_path / "out", capsys)
    assert not [issue for issue in issues if "--ignore_categories=background" in issue["advice"]]


def test_the_values_that_an_error_names_work(tmp_path, capsys):
    flags = folder_data(tmp_path / "data", (0, 255), "0: background\n1: fg\n")
    issues, lines = run(flags, tmp_path / "first", capsys)
    (issue,) = [issue for issue in issues if issue["kind"] == "value 255" and issue["split"] == "train"]
    assert lines[-1].startswith("then train on it: ")
    (tmp_path / "data/map.yaml").write_text("\n".join(re.findall(r"'(\d+: [^']+)'", issue["message"])[:2]))
    assert (tmp_path / "data/map.yaml").read_text() == "0: background\n255: fg"
    issues, lines = run(flags, tmp_path / "again", capsys)
    assert not [issue for issue in issues if issue["level"] == "error"]
    assert lines[1] == "labels  0 = background, 255 = fg"


@pytest.mark.parametrize(
    ("data", "more", "command"),
    [
        (folder_data, [], []),
        (coco_data, ["--ignore_categories=a [0]", "--nobackground", "--augment=light"], ["--augment=light"]),
        (coco_data, ["--splits=train"], ["--val_fraction=0.2"]),
        (coco_data, ["--splits=val,train"], ["--val_split=train", "--train_split=val"]),
        (folder_data, ["--val_fraction=0.5", "--split_seed=3"], ["--val_fraction=0.5", "--split_seed=3"]),
        (folder_data, ["--splits=train,test"], ["--val_fraction=0.2"]),
    ],
)
def test_the_last_line_trains(tmp_path, capsys, data, more, command):
    flags = data(tmp_path / "my data")
    _, lines = run([*flags, *more], tmp_path / "out", capsys)
    text = lines[-1].split("train on it: ")[1]
    assert text == json.loads((tmp_path / "out/inspection.json").read_text())["command"]
    arguments = shlex.split(text)
    assert arguments[:3] == ["python", "-m", "kseg.train"]
    assert set(command) <= set(arguments)
    assert "--image_size=32x32" in arguments
    config = parse(TrainConfig, ["kseg.train", *arguments[3:]], "")
    if data is coco_data and "--val_fraction=0.2" in command:  # one image cannot be divided
        with pytest.raises(KsegError, match="there is one image"):
            open_data(config)
        return
    opened = open_data(config)
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed] == ["source", "labels", "skipped"]
    assert printed[:2] == lines[:2]
    assert len(opened.train) >= 1


def test_an_inspection_of_a_random_split_reads_its_parts(tmp_path):
    flags = folder_data(tmp_path)
    data = DataConfig(dataset="folder", data_dir=str(tmp_path), label_map=flags[2].split("=")[1], val_fraction=0.5)
    inspection = inspect(InspectConfig(data=data))
    assert [(split.split, len(split.samples)) for split in inspection.splits] == [("train@train", 1), ("train@val", 1)]


def test_splits_of_the_same_files_are_refused(tmp_path):
    flags = folder_data(tmp_path)
    data = DataConfig(
        dataset="folder", data_dir=str(tmp_path), label_map=flags[2].split("=")[1], images="images/train", labels="labels/train"
    )
    with pytest.raises(KsegError, match=r"the splits train and val are the same files .*--val_fraction=0.2"):
        open_data(TrainConfig(data=data))


def test_what_was_left_out_is_on_the_page(tmp_path, capsys):
    flags = coco_data(tmp_path / "data")
    content = json.loads((tmp_path / "data/annotations/train.json").read_text())
    content["annotations"].append({"id": 9, "image_id": 1, "category_id": 2, "segmentation": []})
    (tmp_path / "data/annotations/train.json").write_text(json.dumps(content))
    _, lines = run(flags, tmp_path / "out", capsys)
    assert lines[2].startswith("skipped train: annotations/train.json: left out 1 annotation or part of one")
    split = json.loads((tmp_path / "out/inspection.json").read_text())["splits"]["train"]
    assert split["left_out"] == ["annotations/train.json: annotation 9 (image images/train/a.png): its segmentation is empty."]
    assert ["2 b", "b"] in split["reading"]["meanings"]
    page = (tmp_path / "out/inspection.html").read_text()
    assert "annotation 9 (image images/train/a.png)" in page
    assert "python -m kseg.train" in page
