"""Image files with label images (folder, its VOC and Cityscapes layouts), the cache of label maps, and the random split."""

import dataclasses
import json
import multiprocessing
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kseg.config import DataConfig, TrainConfig
from kseg.data import build_dataset
from kseg.data.check import check_samples, open_split
from kseg.data.dataset import BadSample, Dataset
from kseg.utils.errors import KsegError

LABEL = np.array([[0, 1, 2], [2, 255, 1]], np.uint8)


def save(path, pixels, mode=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(pixels)
    if mode == "P":
        picture = Image.frombytes("P", pixels.shape[::-1], pixels.tobytes())
        picture.putpalette([9, 9, 9, 128, 0, 0, 0, 128, 0] + [200] * 759)
    picture.save(path, **options)


@pytest.fixture
def folder(tmp_path):
    """Splits train (a, b, sub/c) and val (d) with labels of values 0, 1, 2 and 255."""
    for name in ("train/a", "train/b", "train/sub/c", "val/d"):
        save(tmp_path / f"images/{name}.jpg", np.full((2, 3, 3), 90, np.uint8))
        save(tmp_path / f"labels/{name}.png", LABEL, "P")
    (tmp_path / "map.yaml").write_text("0: sky\n1: road\n2: ignore\n")
    return tmp_path


def config(folder, **more):
    return DataConfig(dataset="folder", data_dir=str(folder), **{"label_map": str(folder / "map.yaml"), **more})


def bad(dataset, index=0):
    with pytest.raises(BadSample) as error:
        dataset.load(index)
    message = str(error.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


def test_palette_indices_are_mapped(folder):
    dataset = build_dataset(config(folder), "train")
    assert isinstance(dataset, Dataset)
    assert dataset.class_names == ("sky", "road")
    assert [dataset.name(i) for i in range(3)] == ["images/train/a.jpg", "images/train/b.jpg", "images/train/sub/c.jpg"]
    again = pickle.loads(pickle.dumps(dataset))
    for source in (dataset, again):
        sample = source.load(2)
        assert sample.label.tolist() == [[0, 1, 255], [255, 255, 1]]
        assert (sample.label.dtype, sample.image.shape, source.size(2)) == (np.uint8, (2, 3, 3), (2, 3))


@pytest.mark.parametrize(("bits", "colour"), [(1, 0), (2, 0), (4, 0), (4, 3)])
def test_values_of_fewer_bits_are_not_scaled(folder, bits, colour):
    """PNG of 1, 2 and 4 bits; Pillow spreads grey ones over 0..255."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    row = int("".join(f"{value:0{bits}b}" for value in (0, 1, 1)).ljust(16, "0"), 2).to_bytes(2, "big")[: (3 * bits + 7) // 8]
    header = struct.pack(">IIBBBBB", 3, 2, bits, colour, 0, 0, 0)
    palette = chunk(b"PLTE", bytes(range(48))) if colour else b""
    content = chunk(b"IHDR", header) + palette + chunk(b"IDAT", zlib.compress((b"\0" + row) * 2)) + chunk(b"IEND", b"")
    (folder / "labels/train/a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    assert build_dataset(config(folder), "train").load(0).label.tolist() == [[0, 1, 1]] * 2


def test_16_bits_json_and_class_list(folder):
    save(folder / "labels/train/a.png", np.array([[0, 1000, 65535]] * 2, np.uint16))
    (folder / "map.json").write_text(json.dumps({"1000": "car", "0": "ignore", "65535": "car"}))
    dataset = build_dataset(config(folder, label_map=str(folder / "map.json")), "train")
    assert dataset.class_names == ("car",)
    assert dataset.load(0).label.tolist() == [[255, 0, 0]] * 2
    (folder / "names.txt").write_text("sky\nroad\nignore\n")
    assert build_dataset(config(folder, label_map=str(folder / "names.txt")), "val").load(0).label[0].tolist() == [0, 1, 255]


def test_voc(tmp_path):
    for name in ("2007_000032", "2007_000039", "2007_000063"):
        save(tmp_path / f"JPEGImages/{name}.jpg", np.zeros((2, 3, 3), np.uint8))
        if name != "2007_000063":
            save(tmp_path / f"SegmentationClass/{name}.png", LABEL, "P")
    lists = tmp_path / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_000039\n2007_000032\n")
    (tmp_path / "voc.yaml").write_text("0: background\n1: aeroplane\n2: bicycle\n255: ignore\n")
    voc = config(
        tmp_path, images="JPEGImages", labels="SegmentationClass", label_map=str(tmp_path / "voc.yaml"),
        split_list="ImageSets/Segmentation/{split}.txt",
    )  # fmt: skip
    dataset = build_dataset(voc, "train")
    assert [dataset.name(i) for i in range(len(dataset))] == ["JPEGImages/2007_000039.jpg", "JPEGImages/2007_000032.jpg"]
    assert (dataset.load(0).label == LABEL).all()
    with pytest.raises(KsegError, match=r"ImageSets/Segmentation/val.txt: the split list cannot be read"):
        build_dataset(voc, "val")
    (lists / "val.txt").write_text("2007_000063\nmissing\n2007_000039 1\n")
    dataset, skipped = check_samples(build_dataset(voc, "val"), "skip")
    assert len(dataset) == 1
    assert skipped == [
        "JPEGImages/2007_000063.jpg: there is no label image of this name.",
        "missing: there is no image of this name.",
    ]


def test_cityscapes(tmp_path):
    for city, frame in (("bochum", "000000_000313"), ("aachen", "000000_000019")):
        save(tmp_path / f"leftImg8bit/train/{city}/{city}_{frame}_leftImg8bit.png", np.zeros((2, 3, 3), np.uint8))
        save(tmp_path / f"gtFine/train/{city}/{city}_{frame}_gtFine_labelIds.png", np.array([[7, 8, 0]] * 2, np.uint8))
        save(tmp_path / f"gtFine/train/{city}/{city}_{frame}_gtFine_color.png", np.zeros((2, 3, 3), np.uint8))
    (tmp_path / "ids.yaml").write_text("0: ignore\n7: road\n8: sidewalk\n")
    dataset = build_dataset(
        config(
            tmp_path, images="leftImg8bit/{split}/*_leftImg8bit.png", labels="gtFine/{split}/*_gtFine_labelIds.png",
            label_map=str(tmp_path / "ids.yaml"),
        ), "train",
    )  # fmt: skip
    assert len(dataset) == 2
    assert dataset.name(0) == "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png"
    assert dataset.load(1).label.tolist() == [[0, 1, 255]] * 2


def test_bad_samples(folder):
    image, label = folder / "images/train/a.jpg", folder / "labels/train/a.png"
    good = (image.read_bytes(), label.read_bytes())

    def message():
        text = bad(build_dataset(config(folder), "train"))
        image.unlink(missing_ok=True)
        label.unlink(missing_ok=True)
        image.write_bytes(good[0])
        label.write_bytes(good[1])
        build_dataset(config(folder), "train").load(0)
        return text

    save(label, np.array([[0, 1, 1], [1, 7, 1]], np.uint8))
    text = message()
    assert text.startswith("labels/train/a.png: the pixel in row 1, column 1 has the value 7")
    assert "map.yaml" in text
    save(label, np.array([[[0] * 3] * 3, [[0] * 3, [9] * 3, [0] * 3]], np.uint8))
    assert "row 1, column 1 has the value 9" in message()
    save(label, np.array([[[0, 0, 0], [7, 8, 9], [0, 0, 0]]] * 2, np.uint8))
    assert "labels/train/a.png: is a colour image (row 0, column 1: [7, 8, 9])" in message()
    save(label, np.zeros((3, 2), np.uint8))
    assert message() == "images/train/a.jpg: the image is 3x2 (width x height), but labels/train/a.png says 2x3."
    label.write_bytes(good[1][:-30])
    assert "labels/train/a.png: cannot be read as an image" in message()
    Image.new("L", (3, 2)).save(label, format="JPEG")
    assert "labels/train/a.png: is a JPEG file, whose compression changes values" in message()
    label.unlink()
    assert "images/train/a.jpg: there is no label image of this name." in message()
    image.write_bytes(b"")
    assert message() == "images/train/a.jpg: the file is empty."
    image.write_bytes(good[0][:100])
    assert message().startswith("images/train/a.jpg: ")
    image.unlink()
    (folder.parent / "outside.jpg").write_bytes(good[0])
    image.symlink_to(folder.parent / "outside.jpg")
    assert message() == "images/train/a.jpg: is a link that leaves the data set's folder; --follow_links reads it."
    save(image, np.zeros((2, 3), np.uint16), format="PNG")
    assert "16 bits or floats" in message()
    label.unlink()
    with pytest.raises(KsegError, match="pass --on_bad_sample=skip"):
        open_split(config(folder), "train")
    assert len(open_split(config(folder, on_bad_sample="skip"), "train")[0]) == 2


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P"])
def test_images_of_one_pixel_and_of_other_modes(folder, mode):
    Image.new("RGB", (1, 1), (10, 200, 30)).convert(mode).save(folder / "images/train/a.jpg", format="TIFF")
    save(folder / "labels/train/a.png", np.ones((1, 1), np.uint8))
    sample = build_dataset(config(folder), "train").load(0)
    assert (sample.image.shape, sample.label.tolist()) == ((1, 1, 3), [[1]])


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_max_pixels_is_checked_before_decoding(folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 89_478_485)  # the default; other tests may have raised it
    Image.new("1", (30_000, 30_000)).save(folder / "labels/train/a.png")
    save(folder / "images/train/a.jpg", np.zeros((2, 3, 3), np.uint8))
    assert "--max_pixels raises the limit" in bad(build_dataset(config(folder), "train"))
    assert "--max_pixels=5 pixels" in bad(build_dataset(config(folder, max_pixels=5), "train"), 1)
    raised = bad(build_dataset(config(folder, max_pixels=900_000_000), "train"))
    assert raised == "images/train/a.jpg: the image is 3x2 (width x height), but labels/train/a.png says 30000x30000."
    assert Image.MAX_IMAGE_PIXELS == 900_000_000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n", "is not a mapping"), ("{", "cannot be read"), ("x: a", "'x' is not a label value"),
        ("1: no", "put it in quotes"), ("70000: a", "is not between 0 and 65535"), ("1: ignore", "names no class"),
        ("", "is not a mapping"), ("true: a", "True is not a label value"),
    ],
)  # fmt: skip
def test_label_map_mistakes(folder, text, message):
    (folder / "map.yaml").write_text(text)
    with pytest.raises(KsegError, match=r"map\.yaml") as error:
        build_dataset(config(folder), "train")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_map": None}, "needs --label_map"),
        ({"label_map": "/nowhere.yaml"}, "cannot be read"),
        ({"images": "image/{split}"}, "data_dir has no folder image/train"),
        ({"images": "../{split}"}, "leads out of its folder"),
        ({"images": "images/{split}/*/*.jpg"}, "more than one"),
        ({"labels": "images/val"}, "there are no such files"),
        ({"labels": "labels/val"}, "no label image fits any of 3 images"),
        ({"data_dir": "/nowhere"}, "is not a folder"),
        ({"cache": "disk"}, "are already files on disk"),
    ],
)
def test_mistakes_of_the_whole(folder, options, message):
    with pytest.raises(KsegError) as error:
        build_dataset(dataclasses.replace(config(folder), **options), "train")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def load_all(config):
    dataset = build_dataset(config, "train")
    return b"".join(dataset.load(index).label.tobytes() for index in range(len(dataset)))


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_cached_label_maps_are_painted_once(tiny_coco, tmp_path, monkeypatch, kind):
    monkeypatch.setenv("KSEG_CACHE", str(tmp_path))
    plain = DataConfig(dataset="coco", data_dir=str(tiny_coco))
    dataset = build_dataset(DataConfig(dataset="coco", data_dir=str(tiny_coco), cache=kind), "train")
    painted = []
    paint = dataset.dataset.load_label
    monkeypatch.setattr(dataset.dataset, "load_label", lambda index: painted.append(index) or paint(index))
    expected = build_dataset(plain, "train")
    for index in [*range(9), *range(9)]:
        assert (dataset.load(index).label == expected.load(index).label).all()
    assert painted == list(range(9))
    assert dataset.load(-1).name == expected.name(8)


def test_damaged_cache_files_are_written_again_and_settings_do_not_mix(tiny_coco, tmp_path, monkeypatch):
    monkeypatch.setenv("KSEG_CACHE", str(tmp_path))
    with_cache = DataConfig(dataset="coco", data_dir=str(tiny_coco), cache="disk")
    expected = load_all(DataConfig(dataset="coco", data_dir=str(tiny_coco)))
    assert load_all(with_cache) == expected
    files = sorted(tmp_path.rglob("*.png"))
    assert len(files) == 9
    whole = [file.read_bytes() for file in files]
    files[0].write_bytes(whole[0][:-30])
    files[1].write_bytes(b"")
    files[2].write_bytes(whole[2][:60] + bytes([whole[2][60] ^ 255]) + whole[2][61:])
    save(files[3], np.zeros((4, 4), np.uint8))
    save(files[4], np.full((48, 64), 77, np.uint8))
    assert load_all(with_cache) == expected
    assert [file.read_bytes() for file in files] == whole
    other = DataConfig(dataset="coco", data_dir=str(tiny_coco), cache="disk", background=False)
    assert load_all(other) != expected
    assert len(list(tmp_path.rglob("*.png"))) == 18


def test_processes_share_the_cache(tiny_coco, tmp_path, monkeypatch):
    monkeypatch.setenv("KSEG_CACHE", str(tmp_path))
    with_cache = DataConfig(dataset="coco", data_dir=str(tiny_coco), cache="disk")
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        results = pool.map(load_all, [with_cache] * 4, chunksize=1)
    assert set(results) == {load_all(DataConfig(dataset="coco", data_dir=str(tiny_coco)))}
    assert all(path.suffix == ".png" for path in tmp_path.rglob("*") if path.is_file())


def clips(folder, count=4, frames=5):
    for clip in range(count):
        for frame in range(frames):
            save(folder / f"images/train/clip{clip}_{frame:03d}.png", np.zeros((2, 3, 3), np.uint8))
            save(folder / f"labels/train/clip{clip}_{frame:03d}.png", np.zeros((2, 3), np.uint8))
    (folder / "map.yaml").write_text("0: sky\n")
    return folder


def test_the_random_split_keeps_groups_together(tmp_path):
    def parts(**options):
        run = TrainConfig(data=config(tmp_path, val_fraction=0.25, **options))
        assert TrainConfig.from_json(run.to_json()) == run  # as evaluate reads it
        result = [build_dataset(run.data, split) for split in (run.train_split, run.val_split)]
        return [{dataset.name(i) for i in range(len(dataset))} for dataset in result]

    clips(tmp_path)
    for options in ({"split_group": r"clip(\d+)_"}, {"split_group": r"clip\d+"}):
        train, val = parts(**options)
        assert (len(train), len(val)) == (15, 5)
        assert len({Path(name).name[:5] for name in val}) == 1
        assert not {Path(name).name[:5] for name in train} & {Path(name).name[:5] for name in val}
    train, val = parts()
    assert (len(train), len(val), len(train | val)) == (15, 5, 20)
    assert parts() == [train, val]
    assert parts(split_seed=1) != [train, val]


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ("xyz", "does not match the image name"),
        ("clip", "all 20 images are in one group"),
        ("clip0(x)?", "does not match the image"),
    ],
)
def test_groups_that_do_not_split(tmp_path, group, message):
    run = TrainConfig(data=config(clips(tmp_path), val_fraction=0.5, split_group=group))
    with pytest.raises(KsegError, match=message):
        build_dataset(run.data, run.val_split)


@pytest.mark.parametrize(
    "options", [{"val_fraction": 1.0}, {"val_fraction": -0.1}, {"split_group": "("}, {"max_pixels": 0}, {"cache": "tape"}]
)
def test_flags_out_of_range(options):
    with pytest.raises(KsegError, match=f"--{next(iter(options))}="):
        DataConfig(**options)
