"""python -m kseg.convert, there and back, and what it says about mistakes."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from kseg.convert import main
from kseg.models.build import build_model
from kseg.models.pytorch.load import load_torch_weights
from kseg.models.saving import load_model
from kseg.utils.errors import KsegError


@pytest.fixture(scope="module")
def baseline(smp):
    torch.manual_seed(0)
    return smp.FPN("resnet18", encoder_weights=None, classes=3)


@pytest.fixture(scope="module")
def checkpoint(baseline, tmp_path_factory):
    """A Lightning checkpoint."""
    path = tmp_path_factory.mktemp("convert") / "last.ckpt"
    state = {f"model.{key}": value for key, value in baseline.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, path)
    return path


FLAGS = ("--model=fpn", "--backbone=resnet18", "--num_classes=3")


def run(*flags):
    main(["kseg.convert", *map(str, flags)])


@pytest.mark.slow
def test_there_and_back(baseline, checkpoint, tmp_path, capsys):
    run(f"--checkpoint={checkpoint}", *FLAGS, "--source=smp", f"--output={tmp_path / 'model.keras'}")
    text = capsys.readouterr().out
    assert hashlib.sha256(checkpoint.read_bytes()).hexdigest() in text
    assert "tensors, with names of smp" in text
    for name in ("w.safetensors", "w.pth"):
        run("--to=torch", f"--checkpoint={tmp_path / 'model.keras'}", f"--output={tmp_path / name}")
    states = load_file(tmp_path / "w.safetensors"), torch.load(tmp_path / "w.pth", weights_only=True)
    expected = {key: value.clone() for key, value in baseline.state_dict().items()}
    for state in states:
        baseline.load_state_dict(state, strict=True)
        for key, value in baseline.state_dict().items():
            assert torch.equal(value, expected[key]), key


@pytest.mark.slow
def test_a_head_of_other_classes(baseline, checkpoint, tmp_path):
    flags = (
        f"--checkpoint={checkpoint}",
        "--model=fpn",
        "--backbone=resnet18",
        "--num_classes=5",
        f"--output={tmp_path / 'm.keras'}",
    )
    with pytest.raises(
        KsegError, match=r"head segmentation_head\.0 has 3 classes, the model's 5; use num_classes=3, .*--reset_head"
    ):
        run(*flags)
    assert not list(tmp_path.iterdir())
    run(*flags, "--reset_head")
    model = load_model(tmp_path / "m.keras")
    assert model.output.shape[-1] == 5
    kernel = model.get_layer("decoder_p5").get_weights()[0]
    np.testing.assert_array_equal(kernel.transpose(3, 2, 0, 1), baseline.decoder.p5.weight.detach().numpy())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--output=m.keras"], "--checkpoint is missing: name the file to read"),
        (["--checkpoint=c.pth"], "--output is missing: name the file to write"),
        (["--checkpoint=c.pth", "--output=m.keras"], "--model is missing"),
        (["--checkpoint=c.pth", "--output=m.keras", "--model=fpn"], "--num_classes is missing"),
        (["--checkpoint=c.pth", "--output=m.h5", *FLAGS], "--output=m.h5: with --to=keras its name must end with .keras"),
        (["--checkpoint=c.pth", "--output=m.keras", *FLAGS], "--checkpoint=c.pth: no such file"),
        (
            ["--checkpoint=c.pth", "--output=there.keras", *FLAGS],
            "--output=there.keras exists; name another file, or pass --over",
        ),
        (["--to=torch", "--checkpoint=c", "--output=w.pth", "--model=fpn"], "--model does not go with --to=torch"),
        (["--to=torch", "--checkpoint=there.keras", "--output=w.bin"], "its name must end with .safetensors or .pth"),
        (["--to=torch", "--checkpoint=there.keras", "--output=w.pth"], "there.keras: not a .keras model file, or a damaged one"),
    ],
)
def test_mistakes_are_one_line(flags, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.keras").write_bytes(b"")
    with pytest.raises(KsegError) as error:
        run(*flags)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["there.keras"]


def test_a_mistake_is_exit_code_2(tmp_path):
    result = subprocess.run([sys.executable, "-m", "kseg.convert", "--checkpoint=none.pth"], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "error: --output is missing: name the file to write\n"


@pytest.mark.slow
def test_older_keys_sources_and_auxiliary_heads(smp):
    reference = smp.DeepLabV3("resnet18", encoder_weights=None, classes=2)
    state = reference.state_dict()
    older = {
        key.replace("decoder.aspp.", "decoder.0.")
        .replace("decoder.conv.", "decoder.1.")
        .replace("decoder.bn.", "decoder.2."): value
        for key, value in state.items()
    }
    assert set(older) != set(state)
    model = build_model("deeplabv3", num_classes=2, backbone="resnet18")
    loaded = load_torch_weights(model, {**older, "classification_head.3.weight": torch.zeros(2, 512)}, source="smp")
    assert (loaded.left_out, loaded.sources) == (("classification_head.3",), ("smp",))
    kernel = model.get_layer("decoder_conv").get_weights()[0]
    np.testing.assert_array_equal(kernel.transpose(3, 2, 0, 1), reference.decoder.conv.weight.detach().numpy())
    with pytest.raises(
        KsegError, match=r"keys \(such as encoder.conv1.weight\) are not timm's, but those of smp; leave source out"
    ):
        load_torch_weights(model, state, source="timm")
    with pytest.raises(KsegError, match="unknown source 'keras'; known: smp, torchvision, timm, efficientnet_pytorch, transf"):
        load_torch_weights(model, state, source="keras")


def test_a_kseg_model_is_no_checkpoint(tmp_path):
    words = ["kseg.convert", f"--output={tmp_path / 'out.keras'}"]
    with pytest.raises(KsegError, match=r"m.keras: is a Keras model already, .*--to=torch converts it .*--init"):
        main([*words, "--checkpoint=m.keras"])
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "config.json").write_text('{"format": "kseg"}')
    with pytest.raises(KsegError, match=r"belongs to a kseg model, the folder .*--init"):
        main([*words, *FLAGS, f"--checkpoint={tmp_path / 'model.safetensors'}"])
