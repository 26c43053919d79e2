"""The reference experiments: their flagfiles agree with the README's table, and each trains on data in the reference's layout."""

import json
import os
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from kseg.config import TrainConfig
from kseg.config.command_line import parse
from kseg.models.layers import DOUBLE_NORMALIZATION, NORMALIZATIONS, Normalize
from kseg.utils.errors import KsegError

sys.path.insert(0, str(ROOT))
from experiments.flagfiles import read_experiments

EXPERIMENTS = read_experiments()
CATEGORIES = (
    "UNKNOWN", "General trash", "Paper", "Paper pack", "Metal", "Glass", "Plastic", "Styrofoam", "Plastic bag", "Battery",
    "Clothing",
)  # fmt: skip
MODELS = {
    "FCN-16s": "fcn16s", "SegNet": "segnet", "DeepLabV3 (torchvision)": "deeplabv3_resnet50", "DeepLabV3": "deeplabv3",
    'DeepLabV3 "baseline", own code': "deeplabv3", "same": "deeplabv3", "DeepLabV3+": "deeplabv3plus", "U-Net": "unet",
}  # fmt: skip
BACKBONES = {
    "VGG16": "vgg16", "ResNet50": "resnet50", "ResNet101": "resnet101", "ResNeXt50 32x4d": "resnext50_32x4d",
    "SE-ResNeXt50 32x4d": "se_resnext50_32x4d", "EfficientNet-b4": "timm-efficientnet-b4",
    "EfficientNet-b0": "timm-efficientnet-b0",
}  # fmt: skip
WEIGHTS = {"ImageNet": "imagenet", "noisy student": "noisy-student"}
AUGMENTS = {
    "none": "none", "AUG": "aug", "Resize 256": "resize256", "Resize 256 + AUG": "resize256_aug",
    "AUG + Transpose, ShiftScaleRotate, ElasticTransform": "aug_affine_elastic", "AUG + ElasticTransform": "aug_elastic",
    "AUG + OneOf(ElasticTransform, GridDropout, GridDistortion)": "aug_oneof",
    "Normalize on images already divided by 255 (a bug)": "none", "same bug": "none",
}  # fmt: skip


@pytest.fixture(scope="module")
def reference_data(tmp_path_factory):
    """Twelve classes, flat: DIR/{train,val,test}.json, images at DIR/<file_name>; 4, 2 and 1 pictures of 64x64."""
    folder = tmp_path_factory.mktemp("reference")
    (folder / "batch_01_vt").mkdir()
    generator = np.random.default_rng(0)
    categories = [{"id": number, "name": name} for number, name in enumerate(CATEGORIES, 1)]
    for split, count in (("train", 4), ("val", 2), ("test", 1)):
        images, annotations = [], []
        for number in range(count):
            picture = generator.integers(0, 60, (64, 64, 3)).astype("uint8")
            name = f"batch_01_vt/{split}{number:04d}.jpg"
            for category in generator.choice(len(CATEGORIES), 4, replace=False) + 1:
                left, top = map(int, generator.integers(0, 40, 2))
                picture[top : top + 20, left : left + 20] = 60 + 15 * category
                corners = [left, top, left + 20, top, left + 20, top + 20, left, top + 20]
                place = {"id": len(annotations) + 1, "image_id": number, "category_id": int(category)}
                annotations.append({**place, "segmentation": [corners], "iscrowd": 0})
            Image.fromarray(picture).save(folder / name)
            images.append({"id": number, "file_name": name, "height": 64, "width": 64})
        content = {"images": images, "annotations": [] if split == "test" else annotations, "categories": categories}
        (folder / f"{split}.json").write_text(json.dumps(content))
    return folder


def reference_rows():
    """The rows of the table in experiments/README.md, by id."""
    rows = {}
    for line in (ROOT / "experiments" / "README.md").read_text().splitlines():
        if line.startswith("| ["):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            rows[cells[0][1:7]] = cells
    return rows


def config_of(experiment, *more):
    return parse(TrainConfig, ["kseg.train", f"--flagfile={experiment.flagfile}", "--data_dir=DIR", *more], "")


def test_every_row_has_a_flagfile():
    assert len(EXPERIMENTS) == 20
    assert [experiment.id for experiment in EXPERIMENTS] == list(reference_rows())
    assert {experiment.flagfile.name for experiment in EXPERIMENTS} == {
        re.search(r"flags/([^)]+)\)", cells[0])[1] for cells in reference_rows().values()
    }


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda experiment: experiment.id)
def test_a_flagfile_agrees_with_its_row(experiment, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # a flagfile finds its base from anywhere
    _, model, backbone, weights, augment, batch, epochs, seed, leaderboard, validation = reference_rows()[experiment.id]
    config = config_of(experiment)
    assert config.model == MODELS[model]
    if backbone in BACKBONES:
        assert config.backbone == BACKBONES[backbone]
    if weights:
        assert config.backbone_weights == WEIGHTS[weights]
    assert config.augment == AUGMENTS[augment]
    assert config.image_size == ((256, 256) if "Resize 256" in augment else (512, 512))
    assert config.double_normalization == ("bug" in augment)
    assert config.seed == int(seed)
    if batch:
        assert config.batch_size == int(batch)
    if epochs:
        assert config.epochs == int(epochs)
    for found, stated in ((experiment.leaderboard, leaderboard), (experiment.validation, validation)):
        assert found == (float(stated) if re.match(r"\d", stated) else None)
    optimization = config.optimization
    assert (optimization.optimizer, optimization.schedule, optimization.learning_rate) == ("adam", "constant", 1e-4)
    assert (optimization.weight_decay, optimization.warmup_epochs, config.objective.class_weights) == (1e-6, 0, "none")


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda experiment: experiment.id)
def test_the_header_agrees_with_the_flags(experiment):
    """It has the file's own command, and batch and epochs, also where kseg chose them."""
    text, config = experiment.flagfile.read_text(), config_of(experiment)
    assert f"# python -m kseg.train --flagfile=flags/{experiment.flagfile.name} --data_dir=DIR\n" in text
    assert f"seed {config.seed}" in experiment.title
    for count, name in ((config.batch_size, "batch"), (config.epochs, "epochs")):
        pattern = rf"\bbatch {count}\b" if name == "batch" else rf"\b{count} epochs\b"
        assert re.search(pattern, text), name


def test_double_normalization_divides_once_more(rng):
    images = rng.integers(0, 256, (1, 4, 5, 3)).astype("uint8")
    mean, std = map(np.array, NORMALIZATIONS["imagenet"])
    found = keras.ops.convert_to_numpy(Normalize(*DOUBLE_NORMALIZATION)(images))
    np.testing.assert_allclose(found, (images / 255 / 255 - mean) / std, rtol=1e-5)


@pytest.mark.slow
def test_weights_that_cannot_be_fetched_are_one_line(reference_data, tmp_path, monkeypatch):
    """The error names the file to fetch and the flag that takes it."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    command = [
        sys.executable, "-m", "kseg.train", f"--flagfile={ROOT / 'flags/0429_8_unet_efficientnet_b0.txt'}",
        f"--data_dir={reference_data}", "--batch_size=2", "--workers=0", f"--run_dir={tmp_path / 'run'}",
    ]  # fmt: skip
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error: cannot fetch the weights smp-hub/timm-efficientnet-b0")
    assert "--backbone_weights=FILE" in done.stderr
    assert not (tmp_path / "run").exists()


def run_all(backend, data_dir, experiments, config):
    """Two steps of each experiment, in one process."""
    if keras.backend.backend() != "jax":
        pytest.skip("this run is already on another backend")
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        # Compiled programs serve networks of the same shapes, and later runs.
        "JAX_COMPILATION_CACHE_DIR": str(config.cache.mkdir("xla")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }

    def network(experiment):
        train = config_of(experiment)
        return train.model, train.backbone or "", train.double_normalization

    flagfiles = [experiment.flagfile for experiment in sorted(experiments, key=network)]  # the same network compiles once
    command = [sys.executable, ROOT / "tests" / "experiment_runs.py", data_dir, *flagfiles]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    losses = [float(loss) for loss in re.findall(r" loss (\S+) ", done.stdout)]
    assert len(losses) == len(experiments)
    assert np.isfinite(losses).all(), done.stdout


ON_TORCH = [item for item in EXPERIMENTS if config_of(item).backbone in ("resnet101", "timm-efficientnet-b4")]
"""Experiments with the deepest backbones, whose steps XLA compiles for minutes. Torch computes them at once."""


@pytest.mark.slow
def test_every_experiment_trains(reference_data, pytestconfig):
    assert len(EXPERIMENTS) == 20 and len(ON_TORCH) < 7
    run_all("jax", reference_data, [item for item in EXPERIMENTS if item not in ON_TORCH], pytestconfig)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "torch"])
def test_experiments_train_on(backend, reference_data, pytestconfig):
    chosen = [item for item in EXPERIMENTS if item.id == "0429-6"]
    run_all(backend, reference_data, [*chosen, *ON_TORCH] if backend == "torch" else chosen, pytestconfig)


def test_a_flagfile_that_another_names_is_looked_for_beside_it(tmp_path, monkeypatch):
    (tmp_path / "below").mkdir()
    (tmp_path / "base.txt").write_text("--epochs=7\n")
    (tmp_path / "below" / "middle.txt").write_text("--flagfile=../base.txt\n--batch_size=3\n")
    (tmp_path / "run.txt").write_text("--flagfile=below/middle.txt\n--seed=5\n")
    monkeypatch.chdir(tmp_path / "below")
    config = parse(TrainConfig, ["kseg.train", "--flagfile=../run.txt"], "")
    assert (config.epochs, config.batch_size, config.seed) == (7, 3, 5)
    (tmp_path / "run.txt").write_text("--flagfile=missing.txt\n")
    with pytest.raises(KsegError, match=r"missing\.txt"):
        parse(TrainConfig, ["kseg.train", "--flagfile=../run.txt"], "")
