"""Every data flag works with every source, or is refused there; names of data sets that are no source."""

import dataclasses
import json

import pytest

from kseg.config import DataConfig, DataOverrides, TrainConfig
from kseg.config.command_line import parse
from kseg.config.data_sources import READ_BY, drop_unread
from kseg.config.fields import FORMAT
from kseg.data import DATASETS, build_dataset
from kseg.utils.errors import KsegError

BASE = {
    "coco": {"data_dir": "d"},
    "folder": {"data_dir": "d", "label_map": "m"},
    "tfds": {"tfds_name": "t"},
    "synthetic": {},
}
EVERY_SOURCE = {
    "dataset", "data_dir", "val_fraction", "split_seed", "split_group", "on_bad_sample", "cache", "max_pixels",
}  # fmt: skip
OTHER = {
    "background": False,
    "ignore_categories": ("a",),
    "label_threshold": 0.5,
    "layout": "cvat",
    "exif": "ignore",
    "follow_links": True,
    "on_bad_annotation": "error",
}


def test_the_table_names_every_flag_that_not_every_source_reads():
    assert {item.name for item in dataclasses.fields(DataConfig)} == EVERY_SOURCE | set(READ_BY)


@pytest.mark.parametrize("source", BASE)
@pytest.mark.parametrize("flag", READ_BY)
def test_a_flag_is_read_or_refused(source, flag):
    values = BASE[source] | {flag: OTHER.get(flag, "x")}
    if source in READ_BY[flag]:
        assert DataConfig(dataset=source, **values)
        return
    what = "needs" if flag == "layout" else f"is not read by --dataset={source}; use"
    with pytest.raises(KsegError, match=f"--(no)?{flag}.* {what} --dataset=") as error:
        DataConfig(dataset=source, **values)
    assert "\n" not in str(error.value)


def test_a_forgotten_source_is_named():
    with pytest.raises(
        KsegError, match="--labels=masks: is not read by --dataset=synthetic; use --dataset=folder, or leave it out"
    ):
        parse(TrainConfig, ["kseg.train", "--labels=masks"], "")
    with pytest.raises(KsegError, match="--nobackground: is not read by --dataset=folder; use --dataset=coco or"):
        DataConfig(dataset="folder", data_dir="d", background=False)


def test_flags_of_the_random_split_need_it():
    for flag in ({"split_group": "x"}, {"split_seed": 3}):
        with pytest.raises(KsegError, match="needs --val_fraction"):
            DataConfig(**flag)


def test_a_user_s_own_source_reads_every_flag():
    assert DataConfig(dataset="mine", data_dir="d", labels="x", annotations="y", tfds_name="z")


def test_another_source_of_a_trained_run_starts_from_its_own_defaults():
    coco = DataConfig(dataset="coco", data_dir="d", background=False, annotations="a.json", images="i", ignore_categories=("a",))
    folder = DataOverrides(dataset="folder", label_map="m", images="j").apply(coco)
    assert folder == DataConfig(dataset="folder", data_dir="d", label_map="m", images="j", ignore_categories=("a",))
    with pytest.raises(KsegError, match="--labels=x: is not read by --dataset=coco"):
        DataOverrides(labels="x").apply(coco)


def test_flags_that_earlier_versions_ignored_are_dropped_from_their_files():
    old = {
        "dataset": "folder",
        "data_dir": "d",
        "label_map": "m",
        "ignore_categories": ["a"],
        "background": False,
        "split_group": "x",
    }
    for number in (1, 2, 3):
        config = TrainConfig.from_json(json.dumps({"config_format": number, **old}))
        assert config.data == DataConfig(dataset="folder", data_dir="d", label_map="m")
    with pytest.raises(KsegError, match="--nobackground: is not read"):
        TrainConfig.from_json(json.dumps({"config_format": FORMAT, **old}))
    coco = {"dataset": "coco", "ignore_categories": ["a"], "background": False, "val_fraction": 0.2, "split_group": "x"}
    assert drop_unread(coco) == coco


NAMES = [
    ("voc", "--dataset=folder --layout=voc"),
    ("VOC", "--layout=voc"),
    ("pascal-voc", "--layout=voc"),
    ("cityscapes", "--layout=cityscapes"),
    ("camvid", "--layout=camvid"),
    ("cvat", "--layout=cvat"),
    ("roboflow", "--layout=roboflow"),
    ("ade20k", "--label_map=objectInfo150.txt"),
    ("cocostuff", "stuffthingmaps"),
    ("labelme", "labelme2voc"),
    ("label-studio", "--dataset=coco"),
    ("supervisely", "--label_map=obj_class_to_machine_color.json"),
    ("yolo", "export the data as COCO"),
    ("tfrecord", "--dataset=tfds"),
    ("huggingface", "kseg.ArrayDataset"),
    ("masks", "--dataset=folder"),
]


@pytest.mark.parametrize(("name", "how"), NAMES)
def test_names_that_people_type(name, how):
    for config in (DataConfig(dataset=name), DataConfig(dataset=name, data_dir="d")):
        with pytest.raises(KsegError, match=f"--dataset={name}: is no source; ") as error:
            build_dataset(config, "train")
        assert how in str(error.value)


def test_no_source_has_such_a_name():
    assert not {name for name, _ in NAMES} & set(DATASETS)


def test_names_with_commas():
    config = parse(TrainConfig, ["kseg.train", '--ignore_categories="building, edifice",b'], "")
    assert config.data.ignore_categories == ("building, edifice", "b")
    from kseg.config import flag_lines

    (line,) = [line for line in flag_lines(config) if "ignore" in line]
    assert parse(TrainConfig, ["kseg.train", line], "") == config
