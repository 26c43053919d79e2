"""The public names, the keywords of fit, kseg.split and kseg.load: what they accept, and one line for each mistake."""

import subprocess
import sys
import typing
from collections.abc import Sequence

import keras
import numpy as np
import pytest
import tiny_model  # noqa: F401  (registers test_tiny and test_conv)
from PIL import Image

import kseg
from kseg.__main__ import COMMANDS
from kseg.api.fit_options import ELSEWHERE, FitOptions, flag_values
from kseg.api.messages import keyword_messages
from kseg.config import DataConfig, TrainConfig, leaves
from kseg.data.build import build_dataset
from kseg.utils.errors import KsegError

KEPT = {"val_fraction", "split_seed", "split_group", "on_bad_sample", "cache"}
"""Data flags that are keywords of fit: they are about any data set."""
SIZE = int | str | tuple[int, int]
FREER = {"image_size": SIZE, "val_window": SIZE | None, "schedule_milestones": Sequence[float]}
"""Keywords that take more than their flag."""


def test_no_public_name_is_a_commands():
    """kseg.predict is a module once it is imported: a function of this name would be hidden."""
    assert not set(kseg.__all__) & set(COMMANDS)


def test_importing_kseg_imports_nothing_heavy():
    program = "import sys, kseg; print([n for n in ('keras', 'jax', 'tensorflow', 'numpy', 'cv2') if n in sys.modules])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_keywords_of_fit_are_the_flags_of_train():
    flags = {item.name: (item, hint) for item, hint in leaves(TrainConfig)}
    data = {item.name for item, _ in leaves(DataConfig)}
    expected = set(flags) - (data - KEPT) - set(ELSEWHERE)
    hints = typing.get_type_hints(FitOptions)
    assert set(hints) == expected
    optional = {item.name for item, _ in leaves(TrainConfig) if item.default is None}
    for name, hint in hints.items():
        item, wanted = flags[name]
        parts = set(typing.get_args(hint)) if type(None) in typing.get_args(hint) else {hint}
        assert (type(None) in parts) == (name in optional), name
        if name in FREER:
            assert hint == FREER[name]
        elif typing.get_origin(hint) is typing.Literal:
            assert typing.get_args(hint) == item.metadata["choices"], name
        else:
            assert parts - {type(None)} == {wanted}, name
            assert item.metadata["choices"] is None, name


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"epoch": 3}, "fit has no keyword 'epoch'; did you mean epochs"),
        ({"backbone": "resnet18"}, "backbone: is a parameter of Segmenter"),
        ({"data_dir": "d"}, "data_dir: describes a data set; pass it to FolderDataset"),
        ({"coordinator": "auto"}, "coordinator: starts one of several processes; use kseg.train"),
        ({"train_split": "train"}, "train_split: names a split; pass the data set itself"),
        ({"epochs": "3"}, "epochs='3': expected a whole number"),
        ({"epochs": 3.0}, "epochs=3.0: expected a whole number"),
        ({"epochs": True}, "epochs=True: expected a whole number"),
        ({"learning_rate": "1e-3"}, "learning_rate='1e-3': expected a number"),
        ({"report": 1}, "report=1: expected True or False"),
        ({"augment": ["light"]}, r"augment=\['light'\]: expected a string"),
        ({"schedule_milestones": "3,6"}, "schedule_milestones='3,6': expected numbers of epochs"),
        ({"epochs": 0}, "^epochs=0: must be at least 1"),
        ({"image_size": 20}, "^image_size=20: height and width must be at least 32"),
        ({"schedule": "slow"}, "^schedule=slow: must be one of poly, cosine"),
        ({"augment": "lite"}, "^unknown augmentation 'lite'; did you mean light"),
        ({"loss": "cee"}, "^loss=cee: .*did you mean ce"),
        ({"loss": 3}, "^loss: 3 is neither a name such as"),
        (
            {"optimizer": keras.optimizers.Adam},
            "^optimizer: .* is neither a name such as 'adamw' nor a keras.optimizers.Optimizer",
        ),
        ({"optimizer": keras.optimizers.Adam(), "learning_rate": 0.1}, "^learning_rate=0.1: belongs to kseg's optimizers"),
        ({"optimizer": keras.optimizers.Adam(), "ema": 0.9}, "^ema=0.9: belongs to kseg's optimizers"),
        ({"loss": keras.losses.Dice(), "label_smoothing": 0.1}, "^label_smoothing=0.1: belongs to kseg's losses"),
        ({"callbacks": [print]}, "^callbacks: .* is no keras.callbacks.Callback"),
        ({"metrics": ["accuracy"]}, "^metrics: 'accuracy' is no keras.metrics.Metric"),
        ({"metrics": [keras.metrics.Mean(name="loss")]}, "^metrics: loss is a column of kseg's own; pass name= to Mean"),
        ({"resume": True}, "^resume needs run_dir"),
        ({"resume": True, "run_dir": False}, "^resume: needs run_dir"),
        ({"val_fraction": 0.2}, "^val: validation data and val_fraction"),
        ({"monitor": "speed"}, "^monitor=speed: pass monitor_mode=max or min for it"),
        ({"batch_size": 50}, "^batch_size=50 is larger than the training split, which has 4 images"),
    ],
)
def test_mistakes_in_keywords(options, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = arrays(4)
    with pytest.raises(KsegError, match=says) as error:
        kseg.Segmenter("test_conv", class_names=("a", "b"), backbone_weights=None).fit(data, data, **{"workers": 0, **options})
    assert "\n" not in str(error.value)
    assert not (tmp_path / "runs").exists()


def test_values_of_keywords():
    values = flag_values({"learning_rate": 1, "schedule_milestones": [3, 4.5], "epochs": np.int64(3), "early_stopping": None})
    assert values == {"learning_rate": 1.0, "schedule_milestones": ("3", "4.5"), "epochs": 3, "early_stopping": None}


def arrays(count, names=("a", "b")):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (count, 40, 40, 3), "uint8")
    return kseg.ArrayDataset(images, (images[..., 0] > 127).astype("uint8"), class_names=names)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"class_names": ["a", "a"]}, "class_names: 'a' occurs twice"),
        ({"class_names": "ab"}, "class_names='ab': is one string"),
        ({"model": "deeplabv4", "class_names": ["a"]}, "unknown model 'deeplabv4'; did you mean deeplabv3"),
        ({"model": "runs/x", "class_names": ["a"]}, "model=runs/x: is a trained model"),
        ({"backbone": "resnet51", "class_names": ["a"]}, "unknown backbone 'resnet51'; did you mean"),
        ({"output_stride": 5, "class_names": ["a"]}, "output_stride|stride"),
        ({"model": 3, "class_names": ["a"]}, "model: name an architecture"),
    ],
)
def test_mistakes_in_a_segmenter(arguments, says):
    with pytest.raises(KsegError, match=says):
        kseg.Segmenter(**arguments)


def test_mistakes_in_data():
    segmenter = kseg.Segmenter("test_conv", class_names=("a", "b"), backbone_weights=None)
    data = arrays(4)
    for given, says in (
        ("data", "train: a str is no data set; open it with kseg.FolderDataset"),
        ((np.zeros(3), np.zeros(3)), "train: a tuple is no data set; make it one with kseg.ArrayDataset"),
        (np.zeros((2, 4, 4, 3)), "train: a ndarray is no data set; make it one with kseg.ArrayDataset"),
        (None, "train: a NoneType is no data set"),
        (arrays(4, ("a", "c")), "train: has a class 'c' where the model has 'b'; use class_names=data.class_names"),
        (arrays(4, ("a", "b", "c")), "train: has 3 classes, and the model 2; use class_names=data.class_names"),
    ):
        with pytest.raises(KsegError, match=says):
            segmenter.fit(given, data)
    with pytest.raises(KsegError, match=r"val: no validation data; pass a data set, or val_fraction=0.2"):
        segmenter.fit(data)
    with pytest.raises(KsegError, match="val: has 3 classes"):
        segmenter.fit(data, arrays(4, ("a", "b", "c")))
    with pytest.raises(KsegError, match="data: has 3 classes"):
        segmenter.evaluate(arrays(4, ("a", "b", "c")))
    beyond = kseg.ArrayDataset(np.zeros((4, 40, 40, 3), "uint8"), np.full((4, 40, 40), 7), class_names=("a", "b"))
    with pytest.raises(KsegError, match=r"labels\[0\].* has the value 7.*pass on_bad_sample=skip"):
        segmenter.fit(beyond, data, run_dir=False)
    with pytest.raises(KsegError, match="image_size: the model was not trained here and does not record its size"):
        segmenter.predict(np.zeros((40, 40, 3), "uint8"))
    with pytest.raises(KsegError, match=r"ensemble: expected Segmenters, not a str; kseg.load opens one"):
        segmenter.predict(np.zeros((40, 40, 3), "uint8"), image_size=32, ensemble=["runs/x"])


def test_split_is_that_of_val_fraction(tiny_coco):
    data = kseg.CocoDataset(tiny_coco, "train")
    config = DataConfig(dataset="coco", data_dir=str(tiny_coco), val_fraction=0.3, split_seed=4)
    ours = [[part.name(index) for index in range(len(part))] for part in kseg.split(data, 0.3, seed=4)]
    splits = [build_dataset(config, split) for split in ("train@train", "train@val")]
    assert ours == [[part.name(index) for index in range(len(part))] for part in splits]
    assert sorted(ours[0] + ours[1]) == [data.name(index) for index in range(len(data))]
    train, val = kseg.split(data, 0.3, group=r"(\d)\.png")
    assert len(train) + len(val) == 9
    for arguments, says in (
        ({"fraction": 0}, "fraction=0: must be more than 0"),
        ({"fraction": "0.2"}, "fraction='0.2': must be"),
        ({"fraction": 1.5}, "fraction=1.5: must be"),
        ({"fraction": 0.3, "group": "x"}, "^split_group=x: does not match the image name"),
        ({"fraction": 0.3, "group": "("}, r"^group=\(: is not a regular expression"),
        ({"fraction": 0.3, "seed": -1}, "^seed=-1: must be a whole number"),
    ):
        with pytest.raises(KsegError, match=says):
            kseg.split(data, **arguments)


def test_load_says_what_it_is_given(tmp_path):
    Image.fromarray(np.zeros((8, 8, 3), "uint8")).save(tmp_path / "photo.png")
    (tmp_path / "weights.pth").write_bytes(b"PK")
    (tmp_path / "dpt").mkdir()
    (tmp_path / "dpt/config.json").write_text('{"architectures": ["DPTForSemanticSegmentation"]}')
    for name, says in (
        ("photo.png", "^source=.*photo.png: is an image; name a model, and predict the image with it"),
        ("weights.pth", "is a PyTorch checkpoint; convert it: python -m kseg.convert"),
        ("dpt", r"is a model of transformers \(DPTForSemanticSegmentation\), which kseg does not read; it reads Segformer"),
        ("nothing", "no such file or folder; name a trained model: a run directory"),
    ):
        with pytest.raises(KsegError, match=says):
            kseg.load(tmp_path / name)
    with pytest.raises(KsegError, match="deeplabv3plus: is an architecture"):
        kseg.load("deeplabv3plus")
    with pytest.raises(KsegError, match="expected a path or hf://owner/name, not a int"):
        kseg.load(3)


def test_messages_name_keywords():
    with pytest.raises(KsegError, match=r"^epochs=0: pass on_bad_sample=skip, or report-x$"), keyword_messages():
        raise KsegError("--epochs=0: pass --on_bad_sample=skip, or report-x")
    with pytest.raises(KsegError, match=r"--model=unet"), keyword_messages():
        raise KsegError("convert it: python -m kseg.convert --model=unet")
