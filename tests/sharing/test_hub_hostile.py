"""kseg.sharing.hub.load_folder on folders that lie, are damaged, or want to do harm: one line, and nothing is run."""

import json
import os
import shutil
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_model import random_model

from kseg import hub
from kseg.models.model_info import ModelInfo
from kseg.utils.errors import KsegError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("shared") / "folder"
    hub.save_folder(random_model("test_tiny", normalization=None), path, info=ModelInfo("test_tiny", ("a", "b", "c"), (32, 48)))
    return path


@pytest.fixture
def copy(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": "other"}, "does not say that this is a model of kseg"),
        ({"format_version": 2}, r"has format version '2', and this kseg \(\S+\) reads 1; it was written by kseg"),
        ({"model": "test_tinny"}, r"unknown model 'test_tinny'; did you mean test_tiny"),
        ({"model": ["test_tiny"]}, "model: expected a name"),
        ({"backbone": "os.system"}, "unknown backbone 'os.system'"),
        ({"backbone": None}, "backbone: expected a name"),
        ({"output_stride": 7}, "cannot have output_stride=7"),
        ({"output_stride": True}, "output_stride: expected a whole number"),
        ({"input_shape": [None, None, 10**9]}, "input_shape: expected"),
        ({"input_shape": [10**6, None, 3]}, "input_shape: expected"),
        ({"normalization": {"mean": [0.5], "std": [0.5]}}, "normalization: expected a mean and a positive std for each"),
        ({"normalization": {"mean": [0, 0, 0], "std": [1, 1, float("nan")]}}, "normalization: expected a mean and a positive"),
        ({"normalization": {"mean": [10**400, 0, 0], "std": [1, 1, 1]}}, "cannot be read"),
        ({"normalization": "imagenet"}, "normalization: expected a mean and a std, or null"),
        ({"precision": "float64"}, "precision 'float64': expected one of float32"),
        ({"image_size": [32, 10**6]}, "more than 16384 pixels a side"),
        ({"image_size": [32]*3}, "expected a size such as"),
        ({"class_names": []}, "0 class names: expected 1 to 255"),
        ({"class_names": ["a"] * 256}, "256 class names: expected 1 to 255"),
        ({"class_names": ["a", 1]}, "class_names: expected a list of str"),
        ({"class_names": ["a", "b", "\x1b[2J"]}, r"class name '\\x1b\[2J': expected 1 to 200 characters that can be printed"),
        ({"custom_objects": "x"}, "unknown member 'custom_objects'"),
        ({"class_names": ["a", "b"]}, r"does not fit the model that config.json .*'segmentation_head_0/bias' is F32 \[3\]"),
        ({"backbone": "test_conv", "model": "test_conv"}, r"'decoder_0/kernel' is missing in the file and F32 \[3, 3, 16"),
    ],
)  # fmt: skip
def test_configs_that_lie(copy, change, says):
    content = json.loads((copy / "config.json").read_text()) | change
    (copy / "config.json").write_text(json.dumps(content))
    with pytest.raises(KsegError, match=says) as error:
        hub.load_folder(copy)
    assert str(error.value).startswith(str(copy))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b"[" * 10**5, "cannot be read"),
        (b"[1]", "does not say that this is a model of kseg"),
        (b'{"format": "kseg", "format_version": 1}', "lacks the member 'backbone'"),
        (b" " * (2**20 + 1), "has more than 1048576 bytes"),
    ],
)
def test_configs_that_are_none(copy, content, says):
    (copy / "config.json").write_bytes(content)
    with pytest.raises(KsegError, match=says) as error:
        hub.load_folder(copy)
    assert "\n" not in str(error.value)


def test_weights_that_are_others(copy):
    path = copy / "model.safetensors"
    whole, arrays = path.read_bytes(), load_file(path)
    for content, says in (
        (whole[:-4], "not a safetensors file, or a damaged one"),
        (b"\x80\x04\x95pickle", "not a safetensors file, or a damaged one"),
        (b"\xff" * 8 + whole[8:], "not a safetensors file, or a damaged one"),
        (whole + bytes(2**22), r"has \d+ bytes; the model that config.json describes has at most \d+"),
    ):
        path.write_bytes(content)
        with pytest.raises(KsegError, match=f"model.safetensors: {says}"):
            hub.load_folder(copy)
    name = next(iter(arrays))
    for change, says in (
        ({"more": np.zeros(3, "float32")}, r"'more' is F32 \[3\] in the file and missing in the model"),
        ({name: arrays[name].astype("float16")}, r"is F(16|32) .* in the file and F"),
        ({name: arrays[name].reshape(-1)}, rf"{name!r} is F32 \[\d+\] in the file"),
    ):
        save_file(arrays | change, path)
        with pytest.raises(KsegError, match=says):
            hub.load_folder(copy)


def test_links_out_of_the_folder_and_what_is_no_file(copy, tmp_path):
    (tmp_path / "elsewhere.safetensors").write_bytes((copy / "model.safetensors").read_bytes())
    (copy / "model.safetensors").rename(copy / "w")
    (copy / "model.safetensors").symlink_to("w")
    hub.load_folder(copy)  # a link within is as good as the file
    for make, says in (
        (lambda path: path.symlink_to("../elsewhere.safetensors"), "is a link out of the folder"),
        (lambda path: path.symlink_to(path.name), "no such file"),
        (lambda path: os.mkfifo(path), "is not a file"),
        (lambda path: None, "no such file"),
    ):
        (copy / "model.safetensors").unlink(missing_ok=True)
        make(copy / "model.safetensors")
        for use in (hub.load_folder, lambda folder: hub.push(folder, "owner/name")):
            with pytest.raises(KsegError, match=rf"model.safetensors: {says}"):
                use(copy)


def test_code_in_a_folder_is_not_run(copy, tmp_path):
    mark = tmp_path / "ran"
    code = f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n"
    for name in ("__init__.py", "modeling.py", "test_tiny.py", "conftest.py"):
        (copy / name).write_text(code)
    (copy / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch " + str(mark).encode() + b"'\ntR.")
    before = set(sys.modules)
    hub.load_folder(copy)
    assert not mark.exists()
    assert not {name for name in set(sys.modules) - before if "modeling" in name}
