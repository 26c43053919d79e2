"""kseg.export: the code of docs/guides/export.md loads what it writes, in a process without kseg and Keras, on real images."""

import json
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tiny_model  # noqa: F401  (registers test_tiny, which has a grouped and a depthwise convolution)
from PIL import Image
from torchvision_ops import declare_torchvision_ops

import kseg
from kseg import export
from kseg.config import TrainConfig
from kseg.data.palette import palette
from kseg.models.build import build_model
from kseg.models.model_folder import normalization_of
from kseg.models.model_info import ModelInfo
from kseg.models.saving import load_model, save_model
from kseg.runtime.run_dir import RunDir
from kseg.sharing.hub import save_folder
from kseg.utils.errors import KsegError
from kseg.utils.system import without

SIZE = (32, 64)
NAMES = [f"class {i}" for i in range(12)]
HEADINGS = {
    "stablehlo": "StableHLO",
    "saved_model": "TensorFlow SavedModel",
    "onnx": "ONNX",
    "openvino": "OpenVINO",
    "litert": "LiteRT",
}
PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "guides" / "export.md"


@pytest.fixture(scope="module")
def images(shared_data):
    """Three pictures of CamVid, uint8 [3, 32, 64, 3]."""
    files = sorted((shared_data / "camvid/images/val").iterdir())[:3]
    return np.stack([np.asarray(Image.open(file).convert("RGB").resize(SIZE[::-1])) for file in files])


@pytest.fixture(scope="module")
def run_of(images, tmp_path_factory):
    """A function from (model, backbone) to (run directory, its logits of the images)."""
    made = {}

    def run_of(name, backbone):
        if name not in made:
            keras.utils.set_random_seed(3)
            model = build_model(name, num_classes=12, backbone=backbone)
            generator = np.random.default_rng(3)
            for variable in model.variables:  # batch norms that do something, and keep the signal
                low, high = {"moving_mean": (-0.1, 0.1), "moving_variance": (0.1, 0.3), "beta": (0, 0.2)}.get(
                    variable.name, (0, 0)
                )
                if high:
                    variable.assign(generator.uniform(low, high, variable.shape))
            kernel = model.get_layer("segmentation_head_0").kernel
            kernel.assign(kernel / model.predict_on_batch(images).std())  # logits as large as a trained model's
            run = RunDir(tmp_path_factory.mktemp("runs") / name)
            run.create(TrainConfig(image_size=SIZE), [])
            save_model(model, run.model)
            run.evaluation.write_text(json.dumps({"class_names": NAMES}))
            made[name] = run.path, model.predict_on_batch(images)
        return made[name]

    return run_of


def write(run, format, output, *more):
    export.main(["kseg.export", f"--model={run}", f"--format={format}", f"--output={output}", *more])
    return json.loads((output / "kseg.json").read_text())


def load(format, images, folder, result="logits"):
    """Runs the page's lines beside `exported`, where neither kseg nor keras can be imported.

    images: a batch, or a list of batches of different sizes; the result is a list, too.
    """
    if not isinstance(images, list):
        return load(format, [images], folder, result)[0]
    section = PAGE.read_text().partition(f"## {HEADINGS[format]}\n")[2]
    code = re.search(r"^```py\n(.*?)^```", section, re.M | re.S)[1].replace("logits", result)
    for number, batch in enumerate(images):
        np.save(folder / f"{number}.npy", batch)
    before = "import sys; sys.modules['kseg'] = sys.modules['keras'] = sys.modules['openvino_telemetry'] = None\n"
    code = before + code.replace("images.npy", "0.npy")
    program = [f"{code}\nnp.save('result0.npy', np.asarray({result}))"]
    for number in range(1, len(images)):
        last = code.splitlines()[-1].replace("0.npy", f"{number}.npy")
        program.append(f"{last}\nnp.save('result{number}.npy', np.asarray({result}))")
    program = "\n".join(program)
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [np.load(folder / f"result{number}.npy") for number in range(len(images))]


def source_of(run, kind, folder):
    """A run's model as each kind of --model: (its name, flags that it needs)."""
    file = RunDir(run).model
    if kind == "file":
        return file, [f"--image_size={SIZE[0]}x{SIZE[1]}"]
    if kind == "folder":
        model = load_model(file)
        info = ModelInfo("deeplabv3plus", tuple(NAMES), SIZE, backbone="resnet18", normalization=normalization_of(model))
        save_folder(model, folder / "shared", info=info)
        return folder / "shared", []
    return run, []


@pytest.mark.slow
@pytest.mark.parametrize(("format", "kind"), [("stablehlo", "run"), ("saved_model", "folder"), ("onnx", "file")])
def test_logits_are_the_models_own(format, kind, run_of, images, tmp_path_factory, tmp_path, capsys):
    run, expected = run_of("deeplabv3plus", "resnet18")
    assert expected.std((0, 1, 2)).max() > 0.1
    source, more = source_of(run, kind, tmp_path_factory.mktemp("sources"))
    about = write(source, format, tmp_path / "exported", *more)
    assert f"wrote   {tmp_path}/exported/{about['file']}, " in capsys.readouterr().out
    found = load(format, images, tmp_path)
    assert found.dtype == "float32"
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    assert (about["input"]["shape"], about["input"]["free"]) == (["batch", 32, 64, 3], ["batch"])
    assert about["output"] == {"name": "logits", "shape": ["batch", 32, 64, 12], "dtype": "float32"}
    assert (about["class_names"], about["palette"]) == (None if kind == "file" else NAMES, palette(12).tolist())
    assert {path.name for path in tmp_path.iterdir()} == {"exported", "0.npy", "result0.npy"}


@pytest.mark.slow
def test_labels_of_a_grouped_convolution_by_onnx(run_of, images, tmp_path):
    run, expected = run_of("test_tiny", "test_tiny")
    about = write(run, "onnx", tmp_path / "exported", "--result=labels")
    found = load("onnx", images, tmp_path, "labels")
    assert (found.dtype, about["output"]["name"]) == ("uint8", "labels")
    assert (found == expected.argmax(-1)).mean() > 0.999  # a tie may fall either way
    assert len(np.unique(found)) > 2
    assert onnx_shapes(tmp_path) == [["batch", 32, 64, 3], ["batch", 32, 64]]


def onnx_shapes(folder):
    """The shapes of the exported model's input and output."""
    import onnx

    graph = onnx.load(folder / "exported/model.onnx").graph
    return [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in (graph.input[0], graph.output[0])]


@pytest.mark.slow
@pytest.mark.parametrize(("format", "size"), [("openvino", "any"), ("litert", "32x64")])
def test_openvino_and_litert(format, size, run_of, images, rng, tmp_path):
    run, expected = run_of("test_tiny", "test_tiny")
    about = write(run, format, tmp_path / "exported", f"--image_size={size}")
    files = {"openvino": {"model.xml", "model.bin"}, "litert": {"model.tflite"}}[format]
    assert {path.name for path in (tmp_path / "exported").iterdir()} == {"kseg.json", *files}
    if size == "any":
        odd = rng.integers(0, 256, (1, 45, 71, 3), dtype="uint8")
        batches, expected = [images, odd], [expected, load_model(RunDir(run).model).predict_on_batch(odd)]
    else:
        batches, expected = [images[:1], images[1:2]], [expected[:1], expected[1:2]]
        assert (about["input"]["shape"], about["input"]["free"]) == ([1, 32, 64, 3], [])
    for found, own in zip(load(format, batches, tmp_path), expected, strict=True):
        np.testing.assert_allclose(found, own, rtol=0, atol=1e-4)
    (found,) = kseg.load(tmp_path / "exported").predict([images[0]])
    assert (found.labels == expected[0][0].argmax(-1)).mean() > 0.999  # a tie may fall either way
    assert about.get("compile_with") == ({"INFERENCE_PRECISION_HINT": "f32"} if format == "openvino" else None)


@pytest.mark.slow
def test_a_published_segformer_at_any_size_by_onnx(images, rng, tmp_path):
    declare_torchvision_ops()
    import torch
    import transformers

    torch.manual_seed(3)
    network = transformers.SegformerForSemanticSegmentation(transformers.SegformerConfig(num_labels=5, decoder_hidden_size=24))
    network.eval().decode_head.classifier.weight.data *= 100  # logits as large as a trained model's
    network.save_pretrained(tmp_path / "model")
    processor = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "size": 64}
    (tmp_path / "model" / "preprocessor_config.json").write_text(json.dumps(processor))
    about = write(tmp_path / "model", "onnx", tmp_path / "exported", "--image_size=any", "--result=probabilities")
    assert (about["input"]["free"], about["input"]["smallest"]) == (["batch", "height", "width"], 32)
    assert onnx_shapes(tmp_path) == [["batch", "height", "width", 3], ["batch", "height", "width", 5]]
    batches = [images, rng.integers(0, 256, (1, 45, 71, 3), dtype="uint8"), rng.integers(0, 256, (2, 33, 32, 3), dtype="uint8")]
    for batch, found in zip(batches, load("onnx", batches, tmp_path, "probabilities"), strict=True):
        values = torch.tensor(((batch / 255 - 0.5) / 0.25).transpose(0, 3, 1, 2), dtype=torch.float32)
        with torch.inference_mode():
            logits = network(values).logits
            logits = torch.nn.functional.interpolate(logits, size=batch.shape[1:3], mode="bilinear")
        expected = logits.softmax(1).permute(0, 2, 3, 1).numpy()
        assert expected.std((0, 1, 2)).max() > 0.02
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_images_of_any_size_by_stablehlo(run_of, images, rng, tmp_path, capsys):
    run, expected = run_of("test_tiny", "test_tiny")
    about = write(run, "stablehlo", tmp_path / "exported", "--image_size=any")
    assert "images of any size to logits float32" in capsys.readouterr().out
    assert (about["input"]["shape"], about["input"]["smallest"]) == (["batch", "height", "width", 3], 32)
    assert about["output"]["shape"] == ["batch", "height", "width", 12]
    odd = rng.integers(0, 256, (1, 45, 71, 3), dtype="uint8")
    model = load_model(RunDir(run).model)
    for found, own in zip(load("stablehlo", [images, odd], tmp_path), (expected, model.predict_on_batch(odd)), strict=True):
        np.testing.assert_allclose(found, own, rtol=0, atol=1e-4)


def test_stablehlo_for_two_platforms_labels_and_bfloat16(run_of, images, tmp_path):
    import jax

    run, expected = run_of("test_tiny", "test_tiny")

    def call(*flags):
        about = write(run, "stablehlo", tmp_path / "exported", "--overwrite", *flags)
        exported = jax.export.deserialize((tmp_path / "exported/model.stablehlo").read_bytes())
        assert list(exported.platforms) == about["platforms"]
        return np.asarray(exported.call(images)), exported

    labels, exported = call("--result=labels")
    assert exported.platforms == ("cpu", "cuda")
    assert labels.dtype == "uint8"
    assert (labels == expected.argmax(-1)).mean() > 0.999
    logits, exported = call("--dtype=bfloat16", "--platforms=cpu")
    assert "bf16" in exported.mlir_module()
    error = np.abs(logits - expected).max()
    assert 1e-4 < error < 0.05 * np.abs(expected).max()
    assert not [path for path in tmp_path.iterdir() if path.name != "exported"]


@pytest.mark.slow
def test_dense_layers_as_int8(run_of, images, tmp_path, capsys):
    """As a transformer has them. A model of convolutions is refused."""
    import jax

    inputs = keras.Input((*SIZE, 3))
    x = keras.layers.Dense(64, activation="relu")(keras.layers.Rescaling(1 / 255)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(12)(keras.layers.Dense(256, activation="relu")(x)))
    expected = model.predict_on_batch(images)
    run = RunDir(tmp_path / "run")
    run.create(TrainConfig(image_size=SIZE), [])
    save_model(model, run.model)
    write(run.path, "stablehlo", tmp_path / "whole")
    about = write(run.path, "stablehlo", tmp_path / "exported", "--quantize=int8")
    assert "dense   3 layers as int8\n" in capsys.readouterr().out
    assert about["quantized"] == "int8"
    whole, exported = (tmp_path / name / "model.stablehlo" for name in ("whole", "exported"))
    assert exported.stat().st_size < 0.6 * whole.stat().st_size
    found = np.asarray(jax.export.deserialize(exported.read_bytes()).call(images))
    error = np.abs(found - expected).max()
    assert 1e-4 < error < 0.05 * np.abs(expected).max()
    with pytest.raises(KsegError, match="the model has no dense layers, and Keras quantises no convolutions"):
        write(run_of("test_tiny", "test_tiny")[0], "stablehlo", tmp_path / "new", "--quantize=int8")
    assert not (tmp_path / "new").exists()


def test_other_sizes_than_a_fixed_one_are_refused(tmp_path):
    run = RunDir(tmp_path / "run")
    run.create(TrainConfig(image_size=SIZE), [])
    save_model(build_model("test_conv", num_classes=3, input_shape=(*SIZE, 3)), run.model)
    for size, shown in (("64", "64x64"), ("any", "any")):
        with pytest.raises(KsegError, match=rf"--image_size={shown}: .*model.keras takes images of 32x64 only"):
            write(run.path, "onnx", tmp_path / "exported", f"--image_size={size}")
    save_model(build_model("test_conv", num_classes=3), run.model)
    with pytest.raises(KsegError, match=r"--image_size is missing: .*model.keras"):
        write(run.model, "onnx", tmp_path / "exported")
    assert not (tmp_path / "exported").exists()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--format=onnx", "--output=new"], "--model is missing"),
        (["--run_dir=r"], "--run_dir=r is now --model=r"),
        (["--model=none", "--output=new"], "--format is missing: choose stablehlo, saved_model, onnx, openvino, litert"),
        (["--model=none", "--format=onnx"], "--output is missing"),
        (["--model=none", "--format=onnx", "--output=new"], "--model=none: no such file or folder"),
        (["--model=none", "--format=onnx", "--output=old"], "--output=old exists; name another folder, or pass --overwrite"),
        (["--model=none", "--format=onnx", "--output=old", "--overwrite"], "--output=old is not an earlier export"),
        (["--model=none", "--format=onnx", "--output=new", "--dtype=bfloat16"], "does not go with --format=onnx"),
        (["--model=none", "--format=stablehlo", "--output=new", "--platforms=gpu"], "--platforms=gpu: name one or more of"),
        (["--model=none", "--format=onnx", "--output=new", "--quantize=int8"], "--quantize=int8 needs --format=stablehlo"),
        (["--model=none", "--format=onnx", "--output=new", "--image_size=8"], "must be at least 32"),
        (["--model=none", "--format=litert", "--output=new", "--image_size=any"], "any does not go with --format=litert"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(flags, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old").mkdir()
    with pytest.raises(KsegError, match=says) as error:
        export.main(["kseg.export", *flags])
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.rglob("*")] == ["old"]


def test_a_format_without_its_packages_is_one_line(tmp_path):
    with without("tf2onnx", "openvino"):
        with pytest.raises(KsegError, match=r"onnx needs onnx and tf2onnx; install them: pip install 'kseg\[export\]'"):
            write(tmp_path, "onnx", tmp_path / "exported")
        with pytest.raises(KsegError, match=r"needs onnx, tf2onnx and openvino; .*'kseg\[openvino\]'"):
            write(tmp_path, "openvino", tmp_path / "exported")
