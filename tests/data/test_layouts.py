"""--layout: data sets as they are distributed or exported, with labels worked out by hand; and hints where files are missing."""

import json

import numpy as np
import pytest
from PIL import Image

from kseg.config import DataConfig
from kseg.data import build_dataset
from kseg.data.check import open_split
from kseg.data.known_label_maps import voc_color
from kseg.data.layouts import guess_layout, layout_hint
from kseg.utils.errors import KsegError

BLACK, RED, GREEN = [0, 0, 0], [128, 0, 0], [0, 128, 0]
PHOTO = np.full((1, 3, 3), 90, np.uint8)
COCO = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 3, "height": 1}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": {"size": [1, 3], "counts": [1, 2]}}],
    "categories": [{"id": 0, "name": "root"}, {"id": 1, "name": "crack"}],
}


def save(path, pixels, palette=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.array(pixels, np.uint8))
    if palette:
        picture = Image.frombytes("P", picture.size, picture.tobytes())
        picture.putpalette([part for value in range(256) for part in voc_color(value)])
    picture.save(path)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text if isinstance(text, str) else json.dumps(text))


def load(root, layout, split="train", **options):
    return build_dataset(DataConfig(layout=layout, data_dir=str(root), **options), split)


def voc(root):
    for name, label in (("a", [[0, 15, 255]]), ("b", [[1, 1, 1]]), ("c", [[2, 2, 2]])):
        save(root / f"JPEGImages/{name}.jpg", PHOTO)
        if name != "c":
            save(root / f"SegmentationClass/{name}.png", label, palette=True)
    write(root / "ImageSets/Segmentation/train.txt", "a\n")
    write(root / "ImageSets/Segmentation/val.txt", "b\n")


def test_voc(tmp_path):
    voc(tmp_path)
    data = load(tmp_path, "voc")
    assert (len(data), data.load(0).label.tolist()) == (1, [[0, 15, 255]])
    assert (len(data.class_names), data.class_names[15]) == (21, "person")
    assert load(tmp_path, "voc", "val").load(0).label.tolist() == [[1, 1, 1]]
    assert data.reading.source == (
        "folder: images JPEGImages, labels SegmentationClass, listed in ImageSets/Segmentation/train.txt, classes by voc"
    )
    assert DataConfig(layout="voc", data_dir=str(tmp_path)).dataset == "folder"


def test_voc_by_colour(tmp_path):
    voc(tmp_path)
    save(tmp_path / "SegmentationClass/a.png", [[BLACK, [192, 128, 128], [224, 224, 192]]])
    assert load(tmp_path, "voc").load(0).label.tolist() == [[0, 15, 255]]


def test_voc_as_labelme2voc_writes_it(tmp_path):
    save(tmp_path / "JPEGImages/a.jpg", PHOTO)
    save(tmp_path / "SegmentationClassPNG/a.png", [[0, 1, 255]], palette=True)
    write(tmp_path / "SegmentationClass/a.npy", "x")
    write(tmp_path / "class_names.txt", "_background_\ncat\n")
    data = load(tmp_path, "voc")
    assert data.class_names == ("_background_", "cat")
    assert data.load(0).label.tolist() == [[0, 1, 255]]


def test_flags_win_over_the_layout(tmp_path):
    voc(tmp_path)
    write(tmp_path / "own.yaml", "0: nothing\n15: ignore\n255: edge\n")
    data = load(tmp_path, "voc", label_map=str(tmp_path / "own.yaml"))
    assert data.class_names == ("nothing", "edge")
    assert data.load(0).label.tolist() == [[0, 255, 1]]


def cityscapes(root, ending="labelIds", pixels=((7, 26, 0),)):
    save(root / "leftImg8bit/train/aachen/aachen_0_leftImg8bit.png", PHOTO)
    save(root / f"gtFine/train/aachen/aachen_0_gtFine_{ending}.png", pixels)


def test_cityscapes(tmp_path):
    cityscapes(tmp_path)
    data = load(tmp_path, "cityscapes")
    assert len(data.class_names) == 19
    assert data.load(0).label.tolist() == [[0, 13, 255]]  # road, car, void


def test_cityscapes_of_train_ids(tmp_path):
    cityscapes(tmp_path, "labelTrainIds", [[0, 13, 255]])
    assert load(tmp_path, "cityscapes").load(0).label.tolist() == [[0, 13, 255]]


def test_cityscapes_of_cvat(tmp_path):
    save(tmp_path / "imgsFine/leftImg8bit/train/x_leftImg8bit.png", PHOTO)
    save(tmp_path / "gtFine/train/x_gtFine_color.png", [[RED, GREEN, BLACK]])
    write(tmp_path / "label_colors.txt", "0 0 0 background\n128 0 0 a\n0 128 0 b\n")
    assert load(tmp_path, "cityscapes").load(0).label.tolist() == [[1, 2, 0]]


def test_camvid_as_published_with_segnet(tmp_path):
    save(tmp_path / "train/0001.png", PHOTO)
    save(tmp_path / "trainannot/0001.png", [[0, 8, 11]])
    data = load(tmp_path, "camvid")
    assert data.class_names[8] == "car"
    assert data.load(0).label.tolist() == [[0, 8, 255]]


def test_camvid_of_cvat(tmp_path):
    save(tmp_path / "train/0001.png", PHOTO)
    save(tmp_path / "trainannot/0001.png", [[BLACK, RED, GREEN]])
    write(tmp_path / "label_colors.txt", "0 0 0 background\n0 128 0 b\n128 0 0 a\n")
    assert load(tmp_path, "camvid").load(0).label.tolist() == [[0, 2, 1]]


def test_camvid_of_kaggle(tmp_path):
    save(tmp_path / "train/0001.png", PHOTO)
    save(tmp_path / "train_labels/0001_L.png", [[BLACK, RED, GREEN]])
    write(tmp_path / "class_dict.csv", "name,r,g,b\nBuilding,128,0,0\nVoid,0,0,0\nTree,0,128,0\n")
    data = load(tmp_path, "camvid")
    assert data.class_names == ("Building", "Tree")
    assert data.load(0).label.tolist() == [[255, 0, 1]]


def test_camvid_as_it_was_first(tmp_path):
    for name in ("a", "b"):
        save(tmp_path / f"701_StillsRaw_full/{name}.png", PHOTO)
        save(tmp_path / f"LabeledApproved_full/{name}_L.png", [[BLACK, RED, GREEN]])
    write(tmp_path / "label_colors.txt", "128 0 0\t\tBuilding\n0 128 0\t\tTree\n0 0 0\t\tVoid\n")
    write(tmp_path / "train.txt", "/SegNet/CamVid/train/b.png /SegNet/CamVid/trainannot/b.png\n")
    data = load(tmp_path, "camvid")
    assert [data.name(i) for i in range(len(data))] == ["701_StillsRaw_full/b.png"]
    assert data.load(0).label.tolist() == [[255, 0, 1]]


def test_roboflow_masks(tmp_path):
    for split in ("train", "valid"):
        save(tmp_path / split / "a_jpg.rf.1.jpg", PHOTO)
        save(tmp_path / split / "a_jpg.rf.1_mask.png", [[0, 1, 2]])
        write(tmp_path / split / "_classes.csv", "Pixel Value, Class\n0, background\n1, crack\n2, rust\n")
    for split in ("train", "val", "valid"):  # --val_split is val unless it is given
        data = load(tmp_path, "roboflow", split, dataset="folder")
        assert data.class_names == ("background", "crack", "rust")
        assert data.load(0).label.tolist() == [[0, 1, 2]]


def test_roboflow_coco(tmp_path):
    for split in ("train", "valid"):
        save(tmp_path / split / "a.jpg", PHOTO)
        write(tmp_path / split / "_annotations.coco.json", COCO)
    for split in ("train", "val"):
        data = load(tmp_path, "roboflow", split, dataset="coco", ignore_categories=("root",))
        assert data.class_names == ("background", "crack")
        assert data.load(0).label.tolist() == [[0, 1, 1]]


def test_cvat_masks(tmp_path):
    save(tmp_path / "JPEGImages/a.jpg", PHOTO)
    save(tmp_path / "SegmentationClass/a.png", [[BLACK, RED, GREEN]])
    write(tmp_path / "labelmap.txt", "# label:color_rgb:parts:actions\nbackground:0,0,0::\na:0,128,0::\nb:128,0,0::\n")
    write(tmp_path / "ImageSets/Segmentation/default.txt", "a\n")
    data = load(tmp_path, "cvat", "default", dataset="folder")
    assert data.class_names == ("background", "a", "b")
    assert data.load(0).label.tolist() == [[0, 2, 1]]
    with pytest.raises(KsegError, match=r"ImageSets/Segmentation/train.txt: .* Choose another split: default"):
        load(tmp_path, "cvat", dataset="folder")


@pytest.mark.parametrize("inner", ["", "/default"])
def test_cvat_coco(tmp_path, inner):
    save(tmp_path / f"images{inner}/a.jpg", PHOTO)
    write(tmp_path / "annotations/instances_default.json", COCO)
    assert load(tmp_path, "cvat", "default", dataset="coco").load(0).label.tolist() == [[0, 2, 2]]


def test_layouts_that_need_a_source():
    for layout in ("roboflow", "cvat"):
        with pytest.raises(KsegError, match=f"--layout={layout}: needs --dataset=coco or --dataset=folder"):
            DataConfig(layout=layout, data_dir="d")
    with pytest.raises(KsegError, match="--layout=voc: needs --dataset=folder"):
        DataConfig(layout="voc", dataset="coco", data_dir="d")


def test_guesses(tmp_path):
    voc(tmp_path / "a/VOCdevkit/VOC2012")
    assert guess_layout(tmp_path) is None
    assert layout_hint(tmp_path / "a") == f"--data_dir={tmp_path / 'a/VOCdevkit/VOC2012'} --layout=voc"
    with pytest.raises(
        KsegError, match=r"data_dir has no folder JPEGImages; it looks like a known layout: pass --data_dir=.*VOC2012"
    ):
        load(tmp_path / "a", "voc")
    with pytest.raises(KsegError, match=r"--layout=camvid: .* has no folder trainannot"):
        load(tmp_path, "camvid")


# Files in other places than the flags say: what the message says works.


def flags_of(message):
    """The flags that a message says to pass."""
    text = message.rpartition("pass ")[2].rstrip(".")
    pairs = [part.replace("'", "").removeprefix("--").split("=", 1) for part in text.split() if part.startswith("--")]
    return dict(pairs)


def followed(config, split="train"):
    """Opens a split, passing the flags of each message, until there is none."""
    for _ in range(4):
        try:
            return build_dataset(config, split)
        except KsegError as error:
            flags = flags_of(str(error))
            if not flags:
                raise
            values = {name: getattr(config, name) for name in ("dataset", "data_dir", "annotations", "images", "layout")}
            config = DataConfig(**values | flags)
    raise AssertionError("the advice never ends")


@pytest.mark.parametrize(
    ("json_file", "image"),
    [
        ("train/_annotations.coco.json", "train/a.jpg"),
        ("annotations/instances_train2017.json", "train2017/a.jpg"),
        ("annotations.json", "a.jpg"),
        ("annotations.json", "images/a.jpg"),
        ("data/coco/result.json", "data/images/a.jpg"),
        ("labels/train.json", "images/train/a.jpg"),
    ],
)
def test_the_advice_about_coco_files_works(tmp_path, json_file, image):
    write(tmp_path / json_file, COCO)
    save(tmp_path / image, PHOTO)
    data = followed(DataConfig(dataset="coco", data_dir=str(tmp_path)))
    assert data.load(0).label.tolist() == [[0, 2, 2]]


def test_file_names_with_folders_of_their_own(tmp_path):
    content = json.loads(json.dumps(COCO))
    content["images"][0]["file_name"] = "images/train/a.jpg"
    write(tmp_path / "annotations/train.json", content)
    save(tmp_path / "images/train/a.jpg", PHOTO)
    config = DataConfig(dataset="coco", data_dir=str(tmp_path))
    with pytest.raises(KsegError, match=r"none of its 1 images is in images/train; .*: pass --images='\.'\.$"):
        build_dataset(config, "train")
    assert followed(config).load(0).label.tolist() == [[0, 2, 2]]
    content["images"][0]["file_name"] = "upload/1/a.jpg"
    write(tmp_path / "annotations/train.json", content)
    with pytest.raises(KsegError, match=r"there is images/train/a.jpg, but the file names it upload/1/a.jpg; correct"):
        build_dataset(config, "train")
    (tmp_path / "images/train/a.jpg").unlink()
    with pytest.raises(KsegError, match="there are no images below data_dir; check --data_dir"):
        build_dataset(config, "train")


def test_a_json_file_that_is_missing_altogether(tmp_path):
    config = DataConfig(dataset="coco", data_dir=str(tmp_path))
    write(tmp_path / "notes.txt", "x")
    with pytest.raises(KsegError, match="it has neither COCO files nor images; check --data_dir"):
        build_dataset(config, "train")
    save(tmp_path / "photos/a.jpg", PHOTO)
    with pytest.raises(KsegError, match=r"images in photos \(1\): with label images among them, pass --dataset=folder"):
        build_dataset(config, "train")
    voc(tmp_path / "VOC2012")
    with pytest.raises(KsegError, match=r"another kind of data set: pass --data_dir=.*VOC2012 --layout=voc"):
        build_dataset(config, "train")


def test_one_missing_image_of_many_is_a_bad_sample(tmp_path):
    content = json.loads(json.dumps(COCO))
    content["images"].append({"id": 2, "file_name": "b.jpg", "width": 3, "height": 1})
    write(tmp_path / "annotations/train.json", content)
    save(tmp_path / "images/train/a.jpg", PHOTO)
    config = DataConfig(dataset="coco", data_dir=str(tmp_path), on_bad_sample="skip")
    data, skipped = open_split(config, "train")
    assert len(data) == 1
    assert skipped == ["images/train/b.jpg: the file does not exist."]
    save(tmp_path / "images/old/b.jpg", PHOTO)
    with pytest.raises(KsegError, match=r"b.jpg: the file does not exist. Move images/old/b.jpg there, or pass --on_bad_sample"):
        open_split(DataConfig(dataset="coco", data_dir=str(tmp_path)), "train")


def folder_config(root, **options):
    write(root / "map.yaml", "0: background\n1: a\n")
    return DataConfig(dataset="folder", data_dir=str(root), label_map=str(root / "map.yaml"), **options)


def test_folders_in_other_places(tmp_path):
    save(tmp_path / "train/photos/a.jpg", PHOTO)
    save(tmp_path / "train/masks/a.png", [[0, 1, 1]])
    with pytest.raises(
        KsegError, match=r"train/masks \(1\), train/photos \(1\): pass --images='{split}/masks' or --images='{split}"
    ):
        build_dataset(folder_config(tmp_path), "train")
    with pytest.raises(KsegError, match=r"no folder labels/train; .* or --labels='{split}/photos'"):
        build_dataset(folder_config(tmp_path, images="{split}/photos"), "train")
    data = build_dataset(folder_config(tmp_path, images="{split}/photos", labels="{split}/masks"), "train")
    assert data.load(0).label.tolist() == [[0, 1, 1]]


def test_jpeg_label_images_say_so_and_the_threshold_reads_them(tmp_path):
    save(tmp_path / "images/train/a.jpg", np.zeros((16, 16, 3)))
    label = np.zeros((16, 16), np.uint8)
    label[:, 8:] = 255
    save(tmp_path / "labels/train/a.jpg", label)
    with pytest.raises(KsegError, match=r"only 1 .jpg files, whose compression changes label values; .*--label_threshold=128"):
        build_dataset(folder_config(tmp_path), "train")
    data = build_dataset(folder_config(tmp_path, label_threshold=128), "train")
    assert data.load(0).label.tolist() == (label // 255).tolist()
    assert data.class_names == ("background", "a")


def test_labels_of_other_kinds(tmp_path):
    save(tmp_path / "images/train/a.jpg", PHOTO)
    write(tmp_path / "labels/train/a.json", "{}")
    with pytest.raises(KsegError, match=r"no such files in data_dir, only 1 .json files; check the pattern"):
        build_dataset(folder_config(tmp_path), "train")


def test_a_label_map_that_is_not_given_is_looked_for(tmp_path):
    write(tmp_path / "meta/labelmap.txt", "background:0,0,0::\n")
    with pytest.raises(KsegError, match=r"needs --label_map=FILE, .*; .*meta/labelmap.txt may be it"):
        build_dataset(DataConfig(dataset="folder", data_dir=str(tmp_path)), "train")


def test_linked_folders(tmp_path, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for split in ("x", "y"):
        save(elsewhere / f"images/{split}/a.jpg", PHOTO)
        save(elsewhere / f"labels/{split}/a.png", [[0, 1, 1]])
    for kind in ("images", "labels"):
        save(tmp_path / f"{kind}/train/b.png", [[0, 1, 1]])
        for name in ("x", "y"):
            (tmp_path / kind / "train" / name).symlink_to(elsewhere / kind / name)
        (tmp_path / kind / "train/loop").symlink_to(tmp_path / kind / "train")
    data = build_dataset(folder_config(tmp_path), "train")
    assert len(data) == 1
    assert data.warnings[0].startswith("3 linked folders of --images=images/train (first: images/train/loop) not searched")
    data = build_dataset(folder_config(tmp_path, follow_links=True), "train")
    assert [data.name(i) for i in range(3)] == ["images/train/b.png", "images/train/x/a.jpg", "images/train/y/a.jpg"]
    assert data.load(1).label.tolist() == [[0, 1, 1]]


def test_label_images_with_the_image_s_suffix(tmp_path):
    save(tmp_path / "images/train/a.jpg", PHOTO)
    save(tmp_path / "labels/train/a.jpg.png", [[0, 1, 1]])
    data = build_dataset(folder_config(tmp_path), "train")
    assert data.load(0).label.tolist() == [[0, 1, 1]]
    assert data.warnings == ()


def test_split_lists_of_windows(tmp_path):
    save(tmp_path / "images/sub/a b.png", PHOTO)
    save(tmp_path / "labels/sub/a b.png", [[0, 1, 1]])
    write(tmp_path / "train.txt", "sub\\a b\n")
    data = build_dataset(folder_config(tmp_path, images="images", labels="labels", split_list="{split}.txt"), "train")
    assert data.load(0).label.tolist() == [[0, 1, 1]]
