"""Shards written from a data set and read back, and other tfds data sets, built here."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from kseg.config import DataConfig, ShardsConfig
from kseg.data import build_dataset
from kseg.data.check import open_split
from kseg.data.dataset import BadSample, Dataset
from kseg.data.shards import write_shards
from kseg.utils.errors import KsegError

pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning"), pytest.mark.filterwarnings("ignore::ResourceWarning")]


@pytest.fixture(scope="module")
def shards(tiny_coco, tmp_path_factory):
    output = tmp_path_factory.mktemp("shards")
    folder = write_shards(ShardsConfig(data=DataConfig(dataset="coco", data_dir=str(tiny_coco)), output=str(output), name="tiny"))
    assert list(folder.glob("*.array_record*"))
    return output


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    """Like oxford_iiit_pet: the label is an Image without class names."""
    import tensorflow_datasets as tfds

    def examples():
        for index in range(4):
            label = np.full((6, 5, 1), 1 + index, np.uint8)
            yield index, {"photo": np.full((6, 5, 3), 40 * index, np.uint8), "trimap": label, "kind": index}

    features = tfds.features.FeaturesDict(
        {
            "photo": tfds.features.Image(shape=(None, None, 3)),
            "trimap": tfds.features.Image(shape=(None, None, 1)),
            "kind": tfds.features.Scalar(np.int64),
        }
    )
    output = tmp_path_factory.mktemp("pets")
    tfds.disable_progress_bar()
    for name, file_format in (("pets", "array_record"), ("old_pets", "tfrecord")):
        tfds.dataset_builders.store_as_tfds_dataset(
            name, "1.0.0", features, {"train": examples()}, data_dir=output, file_format=file_format, disable_shuffling=True
        )
    (output / "map.yaml").write_text("1: pet\n2: background\n3: ignore\n")
    return output


def pet_config(pets, **more):
    settings = {"tfds_name": "pets", "tfds_image": "photo", "tfds_label": "trimap", "label_map": str(pets / "map.yaml")}
    return DataConfig(dataset="tfds", data_dir=str(pets), **{**settings, **more})


def test_shards_come_back_to_the_same_bytes(shards, tiny_coco):
    for split in ("train", "val"):
        source = build_dataset(DataConfig(dataset="coco", data_dir=str(tiny_coco)), split)
        dataset = build_dataset(DataConfig(dataset="tfds", data_dir=str(shards), tfds_name="tiny"), split)
        assert isinstance(dataset, Dataset)
        assert (len(dataset), dataset.class_names) == (len(source), source.class_names)
        for reader in (dataset, pickle.loads(pickle.dumps(dataset))):
            for index in range(len(source)):
                expected, sample = source.load(index), reader.load(index)
                assert (sample.image == expected.image).all()
                assert (sample.label == expected.label).all()
                assert (sample.name, reader.size(index)) == (expected.name, source.size(index))
                assert reader.image_bytes(index) == source.image_bytes(index)


def test_reading_needs_no_tensorflow(shards):
    code = (
        "import sys; from kseg.config import DataConfig; from kseg.data import build_dataset\n"
        f"build_dataset(DataConfig(dataset='tfds', data_dir={str(shards)!r}, tfds_name='tiny'), 'val').load(0)\n"
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_split_expressions_and_other_features(pets):
    dataset = build_dataset(pet_config(pets), "train[:75%]")
    assert (len(dataset), dataset.class_names, dataset.name(1)) == (3, ("pet", "background"), "train[:75%]-000001")
    assert [np.unique(dataset.load(i).label).tolist() for i in range(3)] == [[0], [1], [255]]
    with pytest.raises(
        BadSample, match=r"record 3, feature trimap: the pixel in row 0, column 0 has the value 4, which map\.yaml"
    ):
        build_dataset(pet_config(pets), "train").load(3)
    with pytest.raises(BadSample, match="--max_pixels=29"):
        build_dataset(pet_config(pets, max_pixels=29), "train").load(0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tfds_name": "nothing_of_this_name"}, "cannot be opened"),
        ({"tfds_name": "old_pets"}, "is prepared as tfrecord, "),
        ({"tfds_image": "foto"}, "no such feature; did you mean photo"),
        ({"tfds_label": "kind"}, "is not an image"),
        ({"label_map": None}, "does not name its classes; pass --label_map"),
        ({"split": "tain"}, "no split 'tain'; did you mean train"),
        ({"split": "train[:x%]"}, "cannot be opened"),
    ],
)
def test_mistakes(pets, options, message):
    split = options.get("split", "train")
    with pytest.raises(KsegError) as error:
        build_dataset(pet_config(pets, **{key: value for key, value in options.items() if key != "split"}), split)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_shards_are_not_written_over_nor_half(shards, tiny_coco, tmp_path):
    data = DataConfig(dataset="coco", data_dir=str(tiny_coco))
    with pytest.raises(KsegError, match="already exists"):
        write_shards(ShardsConfig(data=data, output=str(shards), name="tiny"))
    (tmp_path / "labels").mkdir()
    (tmp_path / "images").mkdir()
    Image.new("RGB", (2, 2)).save(tmp_path / "images/a.png")
    Image.new("RGB", (2, 2), "red").save(tmp_path / "labels/a.png")
    (tmp_path / "map.yaml").write_text("0: sky\n")
    bad = DataConfig(
        dataset="folder", data_dir=str(tmp_path), images="images", labels="labels", label_map=str(tmp_path / "map.yaml")
    )
    with pytest.raises(KsegError, match="is a colour image"):
        write_shards(ShardsConfig(data=bad, output=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_shards_of_images_whose_orientation_is_ignored(tmp_path):
    """The stored file would be turned when the shards are read."""
    pixels = np.arange(6 * 6 * 3, dtype=np.uint8).reshape(6, 6, 3)
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    Image.fromarray(pixels).save(tmp_path / "images/a.png", exif=exif)
    Image.fromarray(pixels[..., 0] % 2).save(tmp_path / "labels/a.png")
    (tmp_path / "map.yaml").write_text("0: sky\n1: sea\n")
    data = DataConfig(
        dataset="folder", data_dir=str(tmp_path), images="images", labels="labels", label_map=str(tmp_path / "map.yaml"),
        exif="ignore",
    )  # fmt: skip
    write_shards(ShardsConfig(data=data, output=str(tmp_path / "out"), name="a", splits=("train",)))
    sample = build_dataset(DataConfig(dataset="tfds", data_dir=str(tmp_path / "out"), tfds_name="a"), "train").load(0)
    assert (sample.image == pixels).all()
    assert (sample.label == pixels[..., 0] % 2).all()


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A data set of files of many kinds, stored as they are, with labels of the same size, and one of another."""
    import tensorflow_datasets as tfds

    output = tmp_path_factory.mktemp("mixed")
    grey = np.arange(30, dtype=np.uint8).reshape(5, 6)
    pictures = {
        "rgb.png": Image.fromarray(grey).convert("RGB"),
        "grey.png": Image.fromarray(grey),
        "rgba.png": Image.fromarray(grey).convert("RGBA"),
        "palette.png": Image.fromarray(grey).convert("P"),
        "cmyk.jpg": Image.fromarray(grey).convert("CMYK"),
        "16bit.png": Image.fromarray(grey.astype(np.uint16) * 256),
        "one.png": Image.new("RGB", (1, 1)),
        "truncated.png": Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)),
    }
    for name, picture in pictures.items():
        picture.save(output / name)
        Image.fromarray(np.zeros((picture.height, picture.width), np.uint8)).save(output / f"label of {name}.png")
    (output / "truncated.png").write_bytes((output / "truncated.png").read_bytes()[:2000])
    (output / "text.png").write_text("no image")
    Image.new("L", (6, 5)).save(output / "label of text.png.png")
    Image.new("L", (7, 5)).save(output / "label of rgb.png of another size.png")

    def examples():
        for name in [*pictures, "text.png"]:
            yield {"image": str(output / name), "segmentation_mask": str(output / f"label of {name}.png"), "file_name": name}
        label = str(output / "label of rgb.png of another size.png")
        yield {"image": str(output / "rgb.png"), "segmentation_mask": label, "file_name": "other size"}

    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "segmentation_mask": tfds.features.LabeledImage(labels=["sky", "road"], shape=(None, None, 1)),
            "file_name": tfds.features.Text(),
        }
    )
    tfds.disable_progress_bar()
    tfds.dataset_builders.store_as_tfds_dataset(
        "mixed", "1.0.0", features, {"train": list(enumerate(examples()))}, data_dir=output, file_format="array_record",
        disable_shuffling=True,
    )  # fmt: skip
    return output


def test_files_of_every_kind_load_or_are_skipped_with_the_reason(mixed):
    config = DataConfig(dataset="tfds", data_dir=str(mixed), tfds_name="mixed", on_bad_sample="skip")
    good, lines = open_split(config, "train")
    names = [good.name(index) for index in range(len(good))]
    assert names == ["rgb.png", "grey.png", "rgba.png", "palette.png", "cmyk.jpg", "one.png"]
    assert [good.load(index).image.shape for index in range(len(good))] == [(5, 6, 3)] * 5 + [(1, 1, 3)]
    for line, reason in zip(lines, ("I;16", "truncated", "not an image", "6x5"), strict=True):
        assert reason in line, lines
    with pytest.raises(KsegError, match=r"record 5.*Fix the file, or pass --on_bad_sample=skip"):
        open_split(DataConfig(dataset="tfds", data_dir=str(mixed), tfds_name="mixed"), "train")


def test_a_damaged_shard_is_one_line(shards, tmp_path):
    import shutil

    shutil.copytree(shards, tmp_path / "copy")
    (shard,) = (tmp_path / "copy").rglob("*train.array_record*")
    content = bytearray(shard.read_bytes())
    middle = len(content) // 3
    content[middle : middle + 500] = bytes(500)
    shard.write_bytes(content)
    with pytest.raises(KsegError, match=r"tiny|train"):
        open_split(DataConfig(dataset="tfds", data_dir=str(tmp_path / "copy"), tfds_name="tiny"), "train")
