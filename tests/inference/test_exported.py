"""Exported folders as --model: predictions and scores worked out by hand."""

import json

import numpy as np
import pytest

import kseg
from kseg.config import EvaluateConfig
from kseg.inference.exported import read_exported
from kseg.inference.load import open_model
from kseg.utils.errors import KsegError
from kseg.utils.system import without

ABOUT = {
    "format": "onnx",
    "input": {"shape": ["batch", "height", "width", 3]},
    "output": {"name": "logits"},
    "num_classes": 3,
    "class_names": ["red", "green", "blue"],
    "trained_at": [32, 48],
}


@pytest.fixture
def folder(tmp_path):
    """An ONNX file whose logits are the images' own channels."""
    import onnx
    from onnx import TensorProto, helper

    shape = ["batch", "height", "width", 3]
    cast = helper.make_node("Cast", ["images"], ["logits"], to=TensorProto.FLOAT)
    values = [
        helper.make_tensor_value_info(*value, shape) for value in (("images", TensorProto.UINT8), ("logits", TensorProto.FLOAT))
    ]
    graph = helper.make_graph([cast], "channels", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, tmp_path / "model.onnx")
    (tmp_path / "kseg.json").write_text(json.dumps(ABOUT))
    return tmp_path


def change(folder, **values):
    (folder / "kseg.json").write_text(json.dumps(ABOUT | values))


def test_predicts_and_scores(folder, rng):
    segmenter = kseg.load(folder)
    assert (segmenter.class_names, segmenter.image_size) == (("red", "green", "blue"), (32, 48))
    images = rng.integers(0, 256, (3, 32, 48, 3), dtype="uint8")
    labels = images.argmax(-1).astype("uint8")
    for image, label, found in zip(images, labels, segmenter.predict(list(images), probabilities=True), strict=True):
        np.testing.assert_array_equal(found.labels, label)
        exponents = np.exp(image - image.max(-1, keepdims=True).astype("float32"))
        np.testing.assert_allclose(found.probability_map, exponents / exponents.sum(-1, keepdims=True), atol=1e-3)
    wrong = labels.copy()
    wrong[wrong == 2] = 1  # IoU: red 1, green g / (g + b), blue 0
    data = kseg.ArrayDataset(images, wrong, class_names=["red", "green", "blue"])
    green, blue = (labels == 1).sum(), (labels == 2).sum()
    np.testing.assert_allclose([*segmenter.evaluate(data).iou.values()], [1, green / (green + blue), 0], rtol=1e-6)


def test_probabilities_count_as_they_are(folder):
    change(folder, output={"name": "probabilities"})
    image = np.zeros((32, 48, 3), "uint8")
    image[:] = (1, 3, 4)
    found = next(iter(kseg.load(folder).predict([image], probabilities=True)))
    np.testing.assert_allclose(found.probability_map[5, 7], [1 / 8, 3 / 8, 4 / 8], atol=1e-3)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"output": {"name": "labels"}}, "was exported with .*result=labels, and this needs logits"),
        ({"format": "stablehlo"}, "is stablehlo; kseg runs exports as onnx, openvino, litert"),
        ({"format": "litert"}, "has no model.tflite"),
        ({"format": "../model"}, "kseg.json: is damaged, or of a later kseg"),
        ({"num_classes": 2}, "kseg.json: is damaged"),
        ({"num_classes": True}, "kseg.json: is damaged"),
        ({"trained_at": [32]}, "kseg.json: is damaged"),
        ({"input": {"shape": ["batch", -1, 32, 3]}}, "kseg.json: is damaged"),
        ({"input": 3}, "kseg.json: is damaged"),
    ],
)
def test_what_cannot_be_opened_is_one_line(folder, values, says):
    change(folder, **values)
    with pytest.raises(KsegError, match=says) as error:
        kseg.load(folder)
    assert "\n" not in str(error.value)


def test_a_damaged_model_and_a_missing_package_are_one_line(folder):
    (folder / "model.onnx").write_bytes(b"no model")
    with pytest.raises(KsegError, match=r"model\.onnx: onnxruntime cannot open it: ") as error:
        kseg.load(folder)
    assert "\n" not in str(error.value)
    change(folder, format="openvino")
    (folder / "model.xml").write_bytes(b"")
    with without("openvino"), pytest.raises(KsegError, match="which openvino runs; install it: pip install openvino"):
        kseg.load(folder)


def test_what_an_exported_model_cannot_do_is_one_line(folder, tmp_path):
    segmenter = kseg.load(folder)
    for call in (lambda: segmenter.save(tmp_path / "new"), lambda: next(iter(segmenter.predict([], window=32)))):
        with pytest.raises(KsegError, match="is an exported model, which only runs") as error:
            call()
        assert "\n" not in str(error.value)
    assert not (tmp_path / "new").exists()
    change(folder, input={"shape": ["batch", 64, 64, 3]})
    with pytest.raises(KsegError, match="takes only images of 64x64, not of 32x48"):
        open_model(EvaluateConfig(model=str(folder), image_size=(32, 48)))
    assert read_exported(folder).size == (64, 64)
