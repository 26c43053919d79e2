"""PicturePredictor: any picture at its own size, equal to what the network gives alone, with few programs; and bad input."""

import itertools

import keras
import numpy as np
import pytest
from compilations import compilations
from PIL import Image
from random_run import NAMES, random_network

from kseg.config import DataConfig
from kseg.data import build_dataset
from kseg.data.augmentation.augmenter import Augmenter
from kseg.inference import label_maps
from kseg.inference.picture_predictor import MAX_PROGRAMS, PicturePredictor
from kseg.inference.video import video_file
from kseg.models.ops.resize import resize_bilinear
from kseg.utils.errors import KsegError

SIZE = (32, 40)
pytestmark = pytest.mark.backends


@pytest.fixture(scope="module")
def model():
    return random_network()


def make_predictor(model, **options):
    return PicturePredictor(model, NAMES, SIZE, **{"batch_size": 4, **options})


def make_picture(height, width, seed=0):
    coarse = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (5, 7, 3)).astype("uint8"))
    return np.asarray(coarse.resize((width, height)))


def plain_labels(model, image):
    small = Augmenter("none", SIZE)(image, image[..., 0])[0]
    logits = model(small[None].astype("float32"))
    return keras.ops.convert_to_numpy(keras.ops.argmax(resize_bilinear(logits, image.shape[:2], align_corners=False), -1))[0]


def test_every_kind_of_picture(model, tmp_path):
    """Paths, PIL images and arrays, grey and RGB, of one picture give the same labels; a transposed one is turned upright."""
    image = make_picture(50, 70)
    Image.fromarray(image).save(tmp_path / "a.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.fromarray(np.ascontiguousarray(np.rot90(image)))
    turned.save(tmp_path / "turned.png", exif=exif)
    predictor = make_predictor(model)
    expected = plain_labels(model, image)
    assert len(np.unique(expected)) > 1
    given = [
        str(tmp_path / "a.png"),
        tmp_path / "a.png",
        tmp_path / "turned.png",
        Image.fromarray(image),
        image,
        image[:, ::-1][:, ::-1],
    ]
    with Image.open(tmp_path / "turned.png") as opened:
        given.append(opened)
        found = list(predictor.predict(given))
    for prediction in found:
        np.testing.assert_array_equal(prediction.labels, expected)
        np.testing.assert_array_equal(prediction.image, image)
        assert prediction.labels.dtype == "uint8" and prediction.class_names == NAMES
    path, turned = (str(tmp_path / name) for name in ("a.png", "turned.png"))
    assert [prediction.name for prediction in found] == [path, path, turned, None, None, None, turned]
    grey = image[..., 0]
    wanted = plain_labels(model, np.stack([grey] * 3, -1))
    for prediction in predictor.predict([grey, grey[..., None], Image.fromarray(grey)]):
        np.testing.assert_array_equal(prediction.labels, wanted)
    np.testing.assert_array_equal(predictor.predict_one(image).labels, expected)
    assert [p.labels.shape for p in predictor.predict(np.stack([image, image]))] == [(50, 70)] * 2
    assert list(predictor.predict([])) == []


@pytest.mark.slow
def test_neither_the_batch_nor_the_tile_changes_anything(model):
    """Every picture at once, one by one, and in tiles of 90x64, with a giant among small ones."""
    pictures = [make_picture(*size, seed) for seed, size in enumerate([(20, 30), (33, 90), (530, 600), (7, 5), (1, 1), (64, 40)])]
    together = list(make_predictor(model).predict(pictures, confidence=True, probabilities=True))
    for number, options in enumerate(({}, {"batch_size": 1}, {"tile": (90, 64)})):
        predictor = make_predictor(model, **options)
        for picture, expected in zip(pictures, together, strict=True):
            found = predictor.predict_one(picture, confidence=True, probabilities=True)
            assert found.labels.shape == picture.shape[:2]
            np.testing.assert_array_equal(found.labels, expected.labels)
            np.testing.assert_allclose(found.confidence, expected.confidence, rtol=1e-5)
            np.testing.assert_array_equal(
                found.probability_map.argmax(-1)[found.confidence > 0.6], found.labels[found.confidence > 0.6]
            )
            np.testing.assert_allclose(found.probabilities(), expected.probabilities(), atol=1e-3)
            if number == 0:
                assert (found.labels != plain_labels(model, picture)).sum() <= 2  # ties
                np.testing.assert_allclose(found.probabilities().sum(-1), 1, atol=5e-3)
                np.testing.assert_allclose(found.probabilities().max(-1), found.confidence, atol=1e-3)


def test_what_was_not_asked_for(model):
    found = make_predictor(model).predict_one(make_picture(9, 9))
    assert found.confidence is None
    with pytest.raises(KsegError, match="pass probabilities=True to predict"):
        found.probabilities()


def sizes_for(count, longest):
    generator = np.random.default_rng(1)
    return [tuple(int(side) for side in np.exp(generator.uniform(2, np.log(longest), 2))) for _ in range(count)]


@pytest.mark.slow
@pytest.mark.parametrize("window", [None, (32, 32)])
def test_few_programs_serve_all_sizes(model, window):
    """200 pictures of 50 sizes, one by one and in batches; by windows fewer, but wider than several bands."""
    if keras.backend.backend() != "jax":
        pytest.skip("JAX says what it compiles")
    sizes = (
        [*sizes_for(48, 200), (600, 20), (90, 1100)]
        if window is None
        else [(40, 100), (33, 257), (50, 513), (32, 1025), (40, 2049), (32, 4097), (9, 9000)]
    )
    pictures = [make_picture(*size) for size in sizes] * (4 if window is None else 1)
    predictor = make_predictor(model, window=window, batch_size=8)
    with compilations() as compiled:
        for picture in pictures[:50]:
            predictor.predict_one(picture)
        alone = len(compiled)
        found = list(predictor.predict(pictures))
    assert [prediction.labels.shape for prediction in found] == [picture.shape[:2] for picture in pictures]
    assert 0 < alone <= len(compiled) <= MAX_PROGRAMS
    if window is None:
        assert len(compiled) <= 4
    with compilations() as more:
        predictor.predict_one(make_picture(101, 203))
    assert more == []


def test_widths_of_bands_are_few():
    from kseg.inference.sliding_window import band_width

    widths = {band_width(width) for width in range(1, 16385)}
    assert widths == {256, 512, 1024, 2048, 4096, 8192, 16384}
    assert all(width <= band_width(width) < max(257, 2 * width) for width in range(1, 5000))
    assert 2 * len(widths) + 1 <= MAX_PROGRAMS


def test_the_tile_of_pictures_of_one_size_wastes_little():
    assert label_maps.best_tile(360, 480) == (360, 480)
    assert label_maps.best_tile(1080, 1920) == (360, 480)
    assert label_maps.best_tile(513, 1) == (257, 1)


@pytest.mark.parametrize(
    "options", [{"tta": ["flips"]}, {"window": (32, 48)}, {"window": (48, 32), "tta": ["hflip"], "overlap": 0.5}]
)
def test_options_are_those_of_the_predictor(model, tiny_coco, options):
    """With windows, test-time augmentation and an ensemble the labels are those that kseg.evaluate scores."""
    from kseg.inference.predictor import Predictor
    from kseg.inference.sliding_window import Windows
    from kseg.inference.tta import mean_probabilities

    data = build_dataset(DataConfig(dataset="coco", data_dir=str(tiny_coco)), "val")
    models, window = [model, random_network(seed=8)], options.get("window")
    expected = Predictor(
        mean_probabilities(models, window or SIZE, options.get("tta", ())),
        data,
        image_size=SIZE,
        batch_size=3,
        probabilities=True,
        windows=Windows(window, options.get("overlap", 0.25)) if window else None,
        confidence=True,
    )
    found = make_predictor(models, **options).predict(data, confidence=True)
    for index, (prediction, scored) in enumerate(zip(found, expected.predict(range(5)), strict=True)):
        np.testing.assert_array_equal(prediction.labels, scored.prediction)
        np.testing.assert_allclose(prediction.confidence, scored.confidence, rtol=1e-5)
        assert prediction.name == data.name(index)
        np.testing.assert_array_equal(prediction.image, data.load(index).image)


def test_longest_downscales_large_pictures_only(model):
    predictor = make_predictor(model)
    large, small = make_picture(300, 200), make_picture(60, 90)
    shrunk, same = predictor.predict([large, small], longest=100)
    assert shrunk.labels.shape == shrunk.image.shape[:2] == (100, 67)
    np.testing.assert_array_equal(same.labels, predictor.predict_one(small).labels)
    whole = predictor.predict_one(large).labels
    assert (shrunk.labels == whole[1::3, 1::3][:100, :67]).mean() > 0.9


def test_frames_of_a_video(model, tmp_path):
    path = tmp_path / "clip.avi"
    with video_file(path, (50, 66), 10.0) as add:
        for number in range(7):
            add(make_picture(50, 66, number))
    predictor = make_predictor(model)
    found = list(predictor.predict_video(path, every=3, confidence=True))
    assert [prediction.name for prediction in found] == ["frame_000000", "frame_000003", "frame_000006"]
    for prediction in found:
        np.testing.assert_array_equal(prediction.labels, predictor.predict_one(prediction.image).labels)
        assert prediction.confidence.shape == (50, 66)
    with pytest.raises(KsegError, match=r"^.*none.avi: no such file"):
        predictor.predict_video(tmp_path / "none.avi")
    with pytest.raises(KsegError, match="every=0: must be at least 1"):
        predictor.predict_video(path, every=0)


def test_a_generator_is_read_as_predictions_are_taken(model, tmp_path):
    """Pictures in memory by whole batches only; of paths, some more are read ahead."""
    taken = []
    pictures = (taken.append(number) or make_picture(9, 9) for number in itertools.count())
    found = make_predictor(model, batch_size=2).predict(pictures)
    for given in range(1, 6):
        next(found)
        assert given <= len(taken) <= given + 1
    found.close()


BAD = {
    "nothing.jpg": r"nothing.jpg: the file does not exist$",
    "text.jpg": r"text.jpg: is not an image file of a known format",
    "cut.jpg": r"cut.jpg: cannot be read as an image",
    ".": r"is a folder; pass its files",
}


@pytest.mark.parametrize("name", BAD)
def test_files_that_are_no_pictures(model, tmp_path, name):
    (tmp_path / "text.jpg").write_text("no picture")
    Image.fromarray(make_picture(40, 60)).save(tmp_path / "whole.jpg")
    content = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    found = make_predictor(model, batch_size=1).predict([tmp_path / "whole.jpg", tmp_path / name])
    assert next(found).labels.shape == (40, 60)
    with pytest.raises(KsegError, match=BAD[name]) as error:
        next(found)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("picture", "says"),
    [
        (np.zeros((4, 5, 3)), r"picture 0: is an array of float64 \(4x5x3\), but uint8 in 0..255 is expected; multiply by 255"),
        (np.zeros((4, 5, 3), "int64"), "is an array of int64"),
        (np.zeros((3, 4, 5), "uint8"), r"of shape 3x4x5, but \[H, W, 3\].*transpose it"),
        (np.zeros((4, 5, 4), "uint8"), "of shape 4x5x4.*leave the fourth channel out"),
        (np.zeros((4, 5, 2), "uint8"), "of shape 4x5x2"),
        (np.zeros((0, 5, 3), "uint8"), "of shape 0x5x3"),
        (np.zeros(5, "uint8"), "of shape 5,"),
        ([np.zeros((2, 4, 5, 3), "uint8")], "of shape 2x4x5x3.*a list of pictures"),
        ([[1, 2]], "picture 0: is a list; a picture is a path, a PIL image, or an array uint8"),
        (b"content", "is a bytes"),
        (None, "is a NoneType"),
        (Image.new("I;16", (4, 5)), "picture 0: is an image of mode I;16"),
        (keras.ops.zeros((4, 5, 3), "uint8"), r"pass numpy.asarray of it"),
    ],
)
def test_what_is_no_picture(model, picture, says):
    with pytest.raises(KsegError, match=says) as error:
        next(make_predictor(model).predict(picture))
    assert "\n" not in str(error.value)


def test_a_pil_image_stays_as_it_is(model):
    image = Image.fromarray(make_picture(8, 9)).quantize(16)
    image.info["transparency"] = 3
    make_predictor(model).predict_one(image)
    assert image.info["transparency"] == 3 and image.mode == "P"


@pytest.mark.parametrize(
    ("names", "says"),
    [(("a", "b", "c", "a"), "class_names has 'a' twice"), (("a", "b"), "the model has 4 classes, but class_names has 2")],
)
def test_names_that_are_not_the_models(model, names, says):
    with pytest.raises(KsegError, match=says):
        PicturePredictor(model, names, SIZE)
    with pytest.raises(KsegError, match="predict_one takes one picture"):
        make_predictor(model).predict_one([])
