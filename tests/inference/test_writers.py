"""kseg.predict on pictures that are in no data set, and its probabilities and COCO results."""

import io
import json
import shutil

import keras
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask
from pycocotools.coco import COCO
from random_run import NAMES, random_network, random_run

from kseg import predict
from kseg.config import DataConfig
from kseg.data import build_dataset
from kseg.data.augmentation.augmenter import Augmenter
from kseg.data.cache import CachedLabels
from kseg.data.sources.image_files import ImageFile, ImageFiles
from kseg.data.subset import Subset
from kseg.inference.submission import read_submission
from kseg.inference.writers import coco_ids
from kseg.models.saving import load_model, save_model
from kseg.utils.errors import KsegError

SIZES = {"a.jpg": (48, 64), "sub/a.png": (50, 40), "sub/deep/turned.jpg": (70, 45), "z.bmp": (33, 90)}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose data set is no longer there."""
    return random_run(tmp_path_factory.mktemp("runs") / "run", "/nowhere")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Pictures of several sizes, one turned by its EXIF, and what is none: truncated, too large, text, hidden."""
    folder, generator = tmp_path_factory.mktemp("data") / "photos", np.random.default_rng(5)
    for name, (height, width) in SIZES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(generator.integers(0, 256, (6, 8, 3)).astype("uint8"))
        exif = Image.Exif()
        if "turned" in name:
            exif[0x0112] = 6
            height, width = width, height
        coarse.resize((width, height)).save(folder / name, exif=exif)
    whole = (folder / "a.jpg").read_bytes()
    (folder / "sub/truncated.jpg").write_bytes(whole[: len(whole) // 2])
    Image.new("L", (400, 300)).save(folder / "large.png")
    (folder / "empty.tif").write_bytes(b"")
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden").mkdir()
    shutil.copy(folder / "a.jpg", folder / ".hidden/b.jpg")
    return folder


def call(run, *flags):
    predict.main(["kseg.predict", f"--model={run.path}", "--workers=0", *map(str, flags)])


def expected(model, image):
    """Probabilities [H, W, 4] by torch's resize."""
    small = Augmenter("none", (32, 40))(image, image[..., 0])[0]
    logits = keras.ops.convert_to_numpy(model(small[None].astype("float32"))).transpose(0, 3, 1, 2)
    logits = torch.nn.functional.interpolate(torch.from_numpy(logits), size=image.shape[:2], mode="bilinear", align_corners=False)
    return logits.softmax(1)[0].numpy().transpose(1, 2, 0)


def test_a_folder_with_bad_files(run, photos, tmp_path, capsys):
    """Each picture at its own size, in subfolders as they are; bad files are listed and change nothing else."""
    output = tmp_path / "out"
    labels, overlays, probabilities = (output / name for name in ("labels", "overlays", "probabilities"))
    with pytest.raises(SystemExit) as exit:
        call(run, photos, "--max_pixels=100000", f"--output={output}", "--write=labels,overlays,probabilities,submission,results")
    assert exit.value.code == 1
    said = capsys.readouterr()
    assert said.out.startswith(f"predicted 4 images, skipped 3: {labels}, ")
    skipped = (output / "skipped.txt").read_text().splitlines()
    assert [line for line in said.err.splitlines() if line.startswith("skipped: ")] == [f"skipped: {line}" for line in skipped]
    assert [line.split(": ")[0] for line in skipped] == [
        f"{photos}/{bad}" for bad in ("empty.tif", "large.png", "sub/truncated.jpg")
    ]
    assert "more than --max_pixels=100000" in skipped[1]

    model = load_model(run.model)
    for name, size in SIZES.items():
        with Image.open((labels / name).with_suffix(".png")) as picture:
            label = np.asarray(picture)
        with Image.open((overlays / name).with_suffix(".png")) as picture:
            assert picture.size == size[::-1]
        found = np.load((probabilities / name).with_suffix(".npy"))
        assert found.dtype == "float16" and found.shape == (*size, 4) and label.shape == size
        truth = expected(model, ImageFiles([ImageFile(photos / name, name)], NAMES).load(0).image)
        np.testing.assert_allclose(found, truth, atol=2e-3)
        assert (label != truth.argmax(-1)).sum() <= 2  # ties
        assert len(np.unique(label)) > 1
    assert [name for name, _ in read_submission(output / "submission.csv")] == list(SIZES)
    entries = json.loads((output / "results.json").read_text())
    assert {(entry["image_id"], entry["file_name"]) for entry in entries} == set(enumerate(SIZES, 1))
    assert {entry["category_id"] for entry in entries} <= {1, 2, 3}  # the background is left out
    for folder, suffix in ((labels, "png"), (overlays, "png"), (probabilities, "npy")):
        written = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))
        assert written == [f"{name}.{suffix}" for name in ("a", "sub/a", "sub/deep/turned", "z")]
    assert sorted(path.name for path in output.iterdir()) == [
        "labels", "overlays", "probabilities", "results.json", "skipped.txt", "submission.csv",
    ]  # fmt: skip

    call(run, f"--input={photos / 'a.jpg'}", f"--output={output}")
    assert not (output / "skipped.txt").exists()


def test_plain_arguments_are_inputs_and_outputs_have_a_default_place(run, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    call(run, photos / "sub/deep", f"--input={photos / 'z.bmp'}", photos / "a.jpg")
    assert capsys.readouterr().out == "predicted 3 images: predictions/labels, predictions/overlays\n"
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*"))
    assert files == [f"predictions/{kind}/{name}.png" for kind in ("labels", "overlays") for name in ("a", "turned", "z")]


def test_a_giant_among_small_ones_is_predicted_as_all_alone(run, photos, tmp_path):
    Image.open(photos / "a.jpg").resize((400, 300)).save(tmp_path / "giant.png")
    inputs = [photos / "a.jpg", tmp_path / "giant.png", photos / "z.bmp"]
    flags = [f"--output={tmp_path / 'out'}", "--write=submission"]
    file = tmp_path / "out/submission.csv"
    call(run, f"--input={','.join(map(str, inputs))}", *flags)
    rows = dict(read_submission(file))
    assert set(rows) == {"a.jpg", "giant.png", "z.bmp"}
    for path in inputs:
        call(run, f"--input={path}", *flags)
        [(name, row)] = read_submission(file)
        np.testing.assert_array_equal(rows[name], row)


def test_coco_reads_the_results_of_a_split(run, tiny_coco, tmp_path):
    """pycocotools finds images and categories by their ids, and the masks are the label images."""
    data = tmp_path / "data"
    shutil.copytree(tiny_coco, data)
    file = data / "annotations/val.json"
    content = json.loads(file.read_text())
    for image in content["images"]:
        image["id"] = 1000 - image["id"]
    for annotation in content["annotations"]:
        annotation["image_id"] = 1000 - annotation["image_id"]
    file.write_text(json.dumps(content))
    call(run, f"--data_dir={data}", "--split=val", f"--output={tmp_path}", "--write=results,labels,probabilities")
    truth = COCO(str(file))
    results = truth.loadRes(str(tmp_path / "results.json"))
    classes = {3: 1, 5: 2, 11: 3}  # tiny_coco's categories
    assert len(results.anns) > 5
    for image in truth.loadImgs(truth.getImgIds()):
        label = np.zeros((image["height"], image["width"]), "uint8")
        probabilities = np.load(tmp_path / "probabilities" / image["file_name"].replace("png", "npy"))
        confidence = probabilities.astype("float64").max(-1)
        for entry in results.loadAnns(results.getAnnIds(image["id"])):
            pixels = mask.decode(entry["segmentation"]).astype(bool)
            assert not label[pixels].any()
            label[pixels] = classes[entry["category_id"]]
            assert entry["area"] == pixels.sum()
            assert entry["score"] == pytest.approx(confidence[pixels].mean(), abs=1e-3)
        with Image.open(tmp_path / "labels" / image["file_name"]) as picture:
            np.testing.assert_array_equal(label, np.asarray(picture))


def test_files_for_other_tools_give_the_labels_back(run, photos, tmp_path):
    """coco.json is a data set of kseg; Label Studio's tasks have a mask for each class."""
    with pytest.raises(SystemExit):  # some files are bad
        call(run, photos, "--max_pixels=100000", f"--output={tmp_path}", "--write=labels,coco,label_studio")
    content = json.loads((tmp_path / "coco.json").read_text())
    assert [image["file_name"] for image in content["images"]] == list(SIZES)
    assert content["categories"] == [{"id": number, "name": NAMES[number]} for number in (1, 2, 3)]
    data = DataConfig(dataset="coco", data_dir=str(tmp_path), annotations="coco.json", images="images")
    shutil.copytree(photos, tmp_path / "images")
    dataset = build_dataset(data, "val")
    assert dataset.class_names == NAMES
    tasks = json.loads((tmp_path / "label_studio.json").read_text())
    assert [task["data"]["image"] for task in tasks] == [f"/data/local-files/?d={name}" for name in SIZES]
    for index, (name, task) in enumerate(zip(SIZES, tasks, strict=True)):
        with Image.open((tmp_path / "labels" / name).with_suffix(".png")) as picture:
            label = np.asarray(picture)
        np.testing.assert_array_equal(dataset.load(index).label, label)
        shown = [result["value"]["brushlabels"] for result in task["predictions"][0]["result"]]
        assert shown == [[NAMES[value]] for value in np.unique(label) if value]


def test_ids_are_kept_by_subsets_and_caches(tiny_coco):
    dataset = build_dataset(DataConfig(dataset="coco", data_dir=str(tiny_coco)), "val")
    assert coco_ids(Subset(CachedLabels(dataset), [3, 0])) == ((4, 1), (None, 3, 5, 11))
    dataset = build_dataset(DataConfig(dataset="coco", data_dir=str(tiny_coco), background=False), "val")
    assert coco_ids(dataset)[1] == (3, 5, 11)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--input={photos}/nothing.jpg"], "--input=.*nothing.jpg: no such file or folder"),
        (["--input={photos}/empty.tif"], "all 1 samples are bad; the first: .*empty.tif: the file is empty"),
        (["{tmp}/labels/a.png", "--write=labels"], "--output=.*: would write over the input .*labels/a.png; name another folder"),
        (
            ["{tmp}/labels", "--write=labels"],
            "--input: all 1 images are below .*/labels and .*where results go; name another --output",
        ),
        (["{tmp}/submission.csv", "--write=submission"], "--output=.*: would write over the input .*submission.csv"),
        (["{tmp}/skipped.txt"], "--output=.*: would write over the input .*skipped.txt"),
        (["{photos}", "--split=val"], "--split=val: cannot be combined with --input=.*; leave one out"),
        (["{photos}", "--video=v.mp4"], "--video=v.mp4: cannot be combined with --input=.*; leave one out"),
        (["{photos}", "--ensemble={tmp}/other.keras"], "other.keras has 3 classes, but .*model.keras has 4"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(run, photos, tmp_path, flags, says):
    save_model(random_network(classes=3), tmp_path / "other.keras")
    (tmp_path / "labels").mkdir()
    for name in ("labels/a.png", "submission.csv", "skipped.txt"):
        shutil.copy(photos / "sub/a.png", tmp_path / name)
    before = {path: path.read_bytes() for folder in (photos, tmp_path) for path in folder.rglob("*.*") if path.is_file()}
    with pytest.raises(KsegError, match=says) as error:
        call(run, f"--output={tmp_path}", *(flag.format(photos=photos, tmp=tmp_path) for flag in flags))
    assert "\n" not in str(error.value)
    assert before == {path: path.read_bytes() for folder in (photos, tmp_path) for path in folder.rglob("*.*") if path.is_file()}


def test_a_model_file_needs_neither_run_nor_data(run, photos, tmp_path):
    """Its classes have no names; so none is the background."""
    flags = [f"--model={run.model}", "--image_size=32x40", f"--output={tmp_path}", "--write=results"]
    predict.main(["kseg.predict", "--workers=0", *flags, f"{photos}/sub/a*"])
    file = tmp_path / "results.json"
    entries = json.loads(file.read_text())
    runs = [entry["segmentation"] for entry in entries]
    assert mask.decode(mask.merge(runs)).all()
    assert mask.area(runs).sum() == 50 * 40
    assert io.StringIO(file.read_text()).readline() == "[\n"
