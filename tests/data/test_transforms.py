import json
import pickle
import random

import albumentations as A
import cv2
import numpy as np
import pytest

from kseg.data.augmentation.augmenter import Augmenter, describe_transforms
from kseg.data.augmentation.elastic import ElasticTransform
from kseg.data.augmentation.transforms import TRANSFORMS
from kseg.utils.errors import KsegError

ARGUMENTS = {  # of the transforms that have no defaults for all
    "CenterCrop": "height=90, width=100",
    "Crop": "x_max=100, y_max=90",
    "CropAndPad": "px=(-9, 9)",
    "CropNonEmptyMaskIfExists": "height=90, width=100",
    "GridElasticDeform": "num_grid_xy=(4, 4), magnitude=5",
    "LongestMaxSize": "max_size=80",
    "RandomCrop": "height=90, width=100",
    "RandomResizedCrop": "size=(64, 64)",
    "RandomSizedCrop": "min_max_height=(40, 90), size=(64, 64)",
    "Resize": "height=64, width=80",
    "SmallestMaxSize": "max_size=80",
}
GROUPS = {"Compose", "OneOf", "OneOrOther", "RandomOrder", "Sequential", "SomeOf"}


@pytest.fixture(scope="module")
def sample():
    """Noise 100x110, and a label of values 1 and 3 in blocks of ten pixels."""
    generator = np.random.default_rng(0)
    label = np.kron(generator.choice(np.array([1, 3], "uint8"), (10, 11)), np.ones((10, 10), "uint8"))
    return generator.integers(0, 256, (100, 110, 3), dtype="uint8"), label


@pytest.mark.parametrize("name", sorted(set(TRANSFORMS) - GROUPS - {"ConstrainedCoarseDropout", "HEStain"}))
def test_every_transform_keeps_labels_labels(sample, name):
    augment = Augmenter(f"{name}({ARGUMENTS.get(name, '')}{', ' if name in ARGUMENTS else ''}p=1)", (100, 110))
    for seed in range(4):
        image, label = augment(*sample, seed)
        assert (image.dtype, label.dtype, image.shape, label.shape) == ("uint8", "uint8", (100, 110, 3), (100, 110))
        assert set(np.unique(label)) <= {1, 3, 255}


@pytest.mark.parametrize(
    "text",
    ["Affine(translate_percent=0.3, rotate=40, p=1)", "PadIfNeeded(min_height=200, min_width=200)", "ShiftScaleRotate(p=1)",
     "Affine(shear=30, p=1, fill_mask=0)", "SafeRotate(p=1)", "OneOf([Rotate(limit=(30, 60)), CropAndPad(px=20)], p=1)"],
)  # fmt: skip
def test_what_comes_from_outside_is_ignored(sample, text):
    """Also where a list says that it should be class 0."""
    image, label = Augmenter(text, (100, 110))(np.maximum(sample[0], 90), sample[1], 3)
    assert (label == 255).mean() > 0.02
    black = cv2.erode((image.max(axis=-1) == 0).astype("uint8"), np.ones((5, 5)))  # away from interpolated rims
    assert (label[black == 1] == 255).all()


def test_a_list_is_what_albumentations_makes_of_it(sample):
    own = A.Compose([A.HorizontalFlip(p=0.5), A.OneOf([A.GaussianBlur(blur_limit=7), A.Transpose()], p=0.8), A.Resize(64, 72)])
    augment = Augmenter("HorizontalFlip(p=0.5),OneOf([GaussianBlur(blur_limit=7), Transpose()], p=0.8)", (64, 72))
    for seed in range(8):
        own.set_random_state(np.random.default_rng(seed), random.Random(seed))
        np.testing.assert_array_equal(augment(*sample, seed)[0], own(image=sample[0], mask=sample[1])["image"])


def test_a_list_may_name_presets():
    steps = Augmenter("aug,ElasticTransform(alpha=300),CLAHE", (64, 64)).to_dict()["transform"]["transforms"]
    names = [step["__class_fullname__"] for step in steps]
    assert names == [
        "HorizontalFlip", "VerticalFlip", "RandomRotate90", "MotionBlur", "GaussianBlur", "OpticalDistortion", "ElasticTransform",
        "CLAHE", "Resize",
    ]  # fmt: skip


@pytest.mark.parametrize("format", ["json", "yaml"])
def test_a_file_of_albumentations_is_read_and_written(sample, tmp_path, format):
    path = tmp_path / f"transforms.{format}"
    own = A.Compose([A.Rotate(p=1, fill_mask=0), A.ElasticTransform(alpha=20), A.SomeOf([A.Blur(), A.CLAHE(), A.ToGray()], n=2)])
    A.save(own, path, data_format=format)
    augment = Augmenter(str(path), (100, 110))
    own.set_random_state(np.random.default_rng(4), random.Random(4))
    made, expected = augment(*sample, 4), own(image=sample[0], mask=sample[1])
    assert np.abs(made[0].astype(int) - expected["image"]).max() <= 2  # ElasticTransform's grey level
    inside = made[1] != 255
    assert 0.5 < inside.mean() < 1
    assert (made[1][inside] == expected["mask"][inside]).mean() > 0.999
    written = A.from_dict(augment.to_dict())  # transforms.json of a run is such a file again
    assert A.to_dict(written)["transform"]["transforms"][1]["__class_fullname__"] == "ElasticTransform"
    path.write_text("changed")
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(augment))(*sample, 4)[0], made[0])  # the file is read once


def test_training_and_validation_are_described_apart():
    described = describe_transforms("HorizontalFlip(p=1)", (64, 72))
    names = {split: [t["__class_fullname__"] for t in made["transform"]["transforms"]] for split, made in described.items()}
    assert names == {"train": ["HorizontalFlip", "Resize"], "validation": ["Resize"]}


def test_lists_and_presets_take_the_fast_elastic_transform():
    for text in ("ElasticTransform", "aug_elastic", "aug_affine_elastic", "Sequential([ElasticTransform()])"):
        augment = Augmenter(text, (64, 64))
        steps = augment._recipe.build(64, 64)
        assert ElasticTransform in [
            type(t) for step in steps for t in (step.transforms if hasattr(step, "transforms") else [step])
        ]


MISTAKES = [
    ("agu", "unknown augmentation 'agu'; did you mean aug"),
    ("HorizontalFlp()", "unknown transform 'HorizontalFlp'; did you mean HorizontalFlip"),
    ("HorizontalFlip(q=1)", "HorizontalFlip has no argument 'q'; known: p."),
    ("GaussianBlur(blur_limits=3)", "GaussianBlur has no argument 'blur_limits'; did you mean blur_limit"),
    ("GaussianBlur(blur_limit='x')", "GaussianBlur: blur_limit.tuple.*valid"),
    ("Blur(blur_limit=-4)", "Blur: blur_limit: Invalid kernel size range"),
    ("SomeOf([Blur(), CLAHE()], n=5)", "SomeOf: `n` is greater than number of transforms"),
    ("Blur(blur_limit=open('x').read())", r"Blur\(blur_limit=.*literal"),
    ("Blur(blur_limit=[x for x in (3, 5)])", r"Blur\(blur_limit=.*literal"),
    ("__import__('os').system('true')", "is not a transform"),
    ("Blur(3)", "arguments of Blur by name"),
    ("Blur(", "a preset, a file, or transforms such as"),
    ("", "transforms such as"),
    ("OneOf()", "OneOf needs a list of transforms"),
    ("Affine(mask_interpolation=1)", "labels are resampled by nearest neighbour only"),
    ("Normalize()", "Normalize cannot be used: the model's first layer normalises"),
    ("OneOf([ToFloat(), Blur()])", "ToFloat cannot be used: the model's first layer normalises"),
    ("ToTensorV2()", r"images stay uint8 \[H, W, 3\] until the model"),
    ("Lambda()", "Lambda cannot be used"),
    ("no_such.json", "cannot be read .No such file"),
]


@pytest.mark.parametrize(("text", "message"), MISTAKES)
def test_mistakes_are_one_line(text, message):
    with pytest.raises(KsegError, match=message) as error:
        Augmenter(text, (64, 64))
    assert "\n" not in str(error.value)


def nested(depth):
    step = {"__class_fullname__": "Blur", "p": 1}
    for _ in range(depth):
        step = {"__class_fullname__": "OneOf", "p": 1, "transforms": [step]}
    return json.dumps({"transform": step})


FILES = [
    ("a.json", json.dumps(A.to_dict(A.Compose([A.HorizontalFlip(), A.Normalize()]))), "Normalize cannot be used"),
    ("a.json", '{"transform": {"__class_fullname__": "os.system", "command": "true"}}', "unknown transform 'system'"),
    ("a.json", '{"transform": {"__class_fullname__": "Blur", "blur_limit": {"a": 1}}}', "Blur: blur_limit"),
    ("a.json", '{"transform": [1]}', 'has no "transform"; write it with albumentations.save'),
    ("a.json", "[" * 100000, "cannot be read"),
    ("a.json", nested(30), "is not a transform as albumentations.save writes it"),
    ("a.json", " " * (2**20 + 1), "is larger than 1048576 bytes"),
    (
        "a.json",
        json.dumps(A.to_dict(A.Compose([A.VerticalFlip()], keypoint_params=A.KeypointParams("xy")))),
        "has boxes, keypoints",
    ),
    ("a.yaml", "transform: !!python/object/apply:os.system [true]", "cannot be read .could not determine a constructor"),
    ("a.yaml", "a: &a [1]\ntransform: {transforms: [*a, *a]}", "it has aliases"),
]


@pytest.mark.parametrize(("name", "content", "message"), FILES)
def test_files_are_data_and_bounded(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(KsegError, match=message) as error:
        Augmenter(str(path), (64, 64))
    assert str(error.value).startswith(f"--augment={path}") or str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
