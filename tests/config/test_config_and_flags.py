import dataclasses
import importlib
import json
import subprocess
import sys
import typing

import pytest

from kseg.__main__ import COMMANDS
from kseg.config import (
    ConvertConfig,
    DataConfig,
    DataOverrides,
    DemoConfig,
    EvaluateConfig,
    ExportConfig,
    HubConfig,
    InspectConfig,
    LrFinderConfig,
    OptimizationConfig,
    PredictConfig,
    ReportConfig,
    ShardsConfig,
    TrainConfig,
    leaves,
)
from kseg.config.command_line import parse
from kseg.config.data import NOT_OVERRIDDEN
from kseg.config.fields import FORMAT, RENAMED
from kseg.utils.errors import KsegError

CONFIGS = {
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
    "predict": PredictConfig,
    "inspect_data": InspectConfig,
    "find_lr": LrFinderConfig,
    "report": ReportConfig,
    "export": ExportConfig,
    "convert": ConvertConfig,
    "hub": HubConfig,
    "demo": DemoConfig,
    "write_shards": ShardsConfig,
}


def train_flags(*arguments):
    return parse(TrainConfig, ["kseg.train", *arguments], "description")


def test_defaults_of_flags_are_the_defaults_of_the_config():
    assert train_flags() == TrainConfig()


def test_flags_of_every_kind():
    config = train_flags(
        "--dataset=coco", "--data_dir=/data", "--nobackground", "--ignore_categories=void,12", "--image_size=192x256",
        "--epochs=3", "--learning_rate", "2e-4", "--output_stride=8", "--schedule=cosine",
    )  # fmt: skip
    data = DataConfig(dataset="coco", data_dir="/data", background=False, ignore_categories=("void", "12"))
    assert config == TrainConfig(
        data=data,
        image_size=(192, 256),
        epochs=3,
        output_stride=8,
        optimization=OptimizationConfig(learning_rate=2e-4, schedule="cosine"),
    )


def test_a_flagfile_and_later_flags_win(tmp_path):
    base = tmp_path / "base.txt"
    base.write_text("# a comment\n--epochs=7\n--image_size=96\n")
    run = tmp_path / "run.txt"
    run.write_text(f"--flagfile={base}\n--batch_size=2\n")
    config = train_flags(f"--flagfile={run}", "--epochs=9")
    assert (config.epochs, config.batch_size, config.image_size) == (9, 2, (96, 96))


def test_json_both_ways():
    config = TrainConfig(data=DataConfig(ignore_categories=("a",)), image_size=(64, 96), run_dir="r")
    assert TrainConfig.from_json(config.to_json()) == config


def test_json_of_a_version_whose_data_flags_were_nested():
    config = TrainConfig.from_json('{"data": {"dataset": "coco", "data_dir": "d"}, "model": "unet", "learning_rate": 0.5}')
    optimization = OptimizationConfig(learning_rate=0.5)
    assert config == TrainConfig(data=DataConfig(dataset="coco", data_dir="d"), model="unet", optimization=optimization)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"data": {}, "modle": 1}', '{"data": {"x": 1}}', '{"data": 3}'])
def test_other_json_is_refused(text):
    with pytest.raises(KsegError, match="not a kseg configuration"):
        TrainConfig.from_json(text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--modle=x"], "unknown flag --modle; did you mean model"),
        (["--xyzzy"], "unknown flag --xyzzy; known: "),
        (["stray"], "unexpected argument 'stray': every setting is a flag, --name=value"),
        (["--epochs=many"], "--epochs=many: "),
        (["--epochs=0"], "--epochs=0: must be at least 1"),
        (["--batch_size=-1"], "--batch_size=-1: must be at least 1"),
        (["--seed=-1"], "--seed=-1: must be at least 0"),
        (["--learning_rate=nan"], "--learning_rate=nan: must be a finite number"),
        (["--learning_rate=0"], "--learning_rate=0: must be more than 0"),
        (["--weight_decay=-1"], "--weight_decay=-1.0: must be a finite number, 0 or more"),
        (["--image_size=31"], "--image_size=31: height and width must be at least 32"),
        (["--image_size=64x31"], "--image_size=64x31: height and width must be at least 32"),
        (["--image_size=big"], "--image_size=big: expected a size such as 256 or 192x256"),
        (["--image_size=1x2x3"], "--image_size=1x2x3: expected a size"),
        (["--schedule=steps"], "--schedule=steps: "),
        (["--schedule=step"], "--schedule=step and --schedule_milestones=EPOCH,... go together"),
        (["--schedule_milestones=3"], "--schedule=step and --schedule_milestones=EPOCH,... go together"),
        (["--schedule=step", "--schedule_milestones=3,2"], "--schedule_milestones=3,2: must be numbers of epochs"),
        (["--schedule=step", "--schedule_milestones=3,x"], "--schedule_milestones=3,x: must be numbers of epochs"),
        (["--backbone_lr_multiplier=0"], "--backbone_lr_multiplier=0: must be more than 0"),
        (["--momentum=1"], "--momentum=1.0: must be at least 0 and less than 1"),
        (["--ema=1"], "--ema=1.0: must be at least 0 and less than 1"),
        (["--ema=nan"], "--ema=nan: must be at least 0 and less than 1"),
        (["--clip_norm=-1"], "--clip_norm=-1.0: must be a finite number, 0 or more"),
        (["--accumulate_steps=0"], "--accumulate_steps=0: must be at least 1"),
        (["--freeze_backbone_epochs=-1"], "--freeze_backbone_epochs=-1: must be at least 0"),
        (["--on_bad_sample=hope"], "--on_bad_sample=hope: "),
        (["--dataset=coco"], "--dataset=coco needs --data_dir"),
        (["--flagfile=/nowhere/flags.txt"], "/nowhere/flags.txt"),
        (["--epochs"], "Missing value for --epochs"),
        (
            ["--model=runs/x"],
            "--model=runs/x: is a trained model; name an architecture, such as deeplabv3plus; to start from its weights: ",
        ),
        (["--model=model.keras"], "--model=model.keras: is a trained model"),
        (["--model=hf://owner/name"], "--model=hf://owner/name: is a trained model"),
    ],
)
def test_misuse_is_one_line(arguments, message):
    with pytest.raises(KsegError) as error:
        train_flags(*arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert "ERROR" not in str(error.value)


def test_evaluate_needs_a_model():
    with pytest.raises(KsegError, match="--model is missing"):
        parse(EvaluateConfig, ["kseg.evaluate"], "")


RENAMED_FLAGS = [
    ("train", "--loss_bands=2", "--loss_bands=2 is now --loss_chunks=2"),
    ("find_lr", "--loss_bands=2", "--loss_bands=2 is now --loss_chunks=2"),
    ("export", "--argmax", "--argmax is now --result=labels"),
    ("convert", "--out=f.keras", "--out=f.keras is now --output=f.keras"),
    ("inspect_data", "--output_dir=d", "--output_dir=d is now --output=d"),
    ("write_shards", "--output_dir=d", "--output_dir=d is now --output=d"),
    ("predict", "--labels_dir=d", "--labels_dir=d is now --output=DIR --write=labels"),
    ("predict", "--overlays_dir=d", "--overlays_dir=d is now --output=DIR --write=overlays"),
    ("predict", "--overlay_video=f", "--overlay_video=f is now --output=DIR --write=overlays"),
    ("predict", "--probabilities_dir=d", "--probabilities_dir=d is now --output=DIR --write=probabilities"),
    ("predict", "--results=f", "--results=f is now --output=DIR --write=results"),
    ("predict", "--submission=f", "--submission=f is now --output=DIR --write=submission"),
    ("hub", "--folder=d", "--folder=d is now --output=d"),
    ("demo", "--folder=d", "--folder=d is now --model=d"),
    *((name, "--model_file=f", "--model_file=f is now --model=f") for name in ("evaluate", "predict", "demo")),
    *((name, "--run_dir=r", "--run_dir=r is now --model=r") for name in ("evaluate", "predict", "export", "hub", "demo")),
]


@pytest.mark.parametrize(("command", "flag", "message"), RENAMED_FLAGS)
def test_an_old_flag_is_refused_with_its_new_name(command, flag, message, tmp_path):
    (tmp_path / "flags.txt").write_text(f"{flag}\n")
    for arguments in ([flag], flag.split("="), [f"--flagfile={tmp_path / 'flags.txt'}"]):
        with pytest.raises(KsegError) as error:
            parse(CONFIGS[command], [f"kseg.{command}", *arguments], "")
        if len(arguments) == 1:
            assert str(error.value) == message
        else:  # absl does not say what follows
            assert str(error.value) == message.replace(f"={arguments[1]}", "")


def test_every_renamed_flag_is_gone_and_its_new_name_is_there():
    assert set(RENAMED) == {flag.lstrip("-").partition("=")[0] for _, flag, _ in RENAMED_FLAGS}
    for command, flag, message in RENAMED_FLAGS:
        names = {field.name for field, _ in leaves(CONFIGS[command])}
        assert flag.lstrip("-").partition("=")[0] not in names
        assert message.partition(" is now --")[2].partition("=")[0] in names


@pytest.mark.parametrize("number", [None, 2])
def test_json_of_before_flags_were_renamed(number):
    content = json.loads(TrainConfig(run_dir="runs/x").to_json())
    content["loss_bands"] = content.pop("loss_chunks") + 4
    del content["config_format"]
    config = TrainConfig.from_json(json.dumps(content if number is None else {"config_format": number, **content}))
    assert (config.objective.loss_chunks, config.run_dir) == (4, "runs/x")
    with pytest.raises(KsegError, match="unknown field 'loss_bands'"):
        TrainConfig.from_json(json.dumps({"config_format": FORMAT, **content}))


def test_overrides_are_the_data_flags_without_defaults():
    hints, own = typing.get_type_hints(DataConfig), typing.get_type_hints(DataOverrides)
    expected = [item for item in dataclasses.fields(DataConfig) if item.name not in NOT_OVERRIDDEN]
    assert [item.name for item in dataclasses.fields(DataOverrides)] == [item.name for item in expected]
    for item, theirs in zip(dataclasses.fields(DataOverrides), expected, strict=True):
        assert item.default is None
        assert own[item.name] == hints[item.name] | None
        assert {**item.metadata, "group": None} == {**theirs.metadata, "group": None}


def test_overrides_replace_what_is_given():
    data = DataConfig(dataset="coco", data_dir="d", ignore_categories=("a",), val_fraction=0.2)
    assert DataOverrides().apply(data) == data
    changed = DataOverrides(data_dir="e", ignore_categories=(), background=False).apply(data)
    assert changed == dataclasses.replace(data, data_dir="e", ignore_categories=(), background=False)
    with pytest.raises(KsegError, match="--on_bad_sample=hope"):
        DataOverrides(on_bad_sample="hope")


def test_plain_arguments():
    config = parse(PredictConfig, ["kseg.predict", "a", "--model=m", "b", "--input=c", "d"], "")
    assert config.input == ("c", "a", "b", "d")
    assert parse(ReportConfig, ["kseg.report", "--compare", "a", "b"], "").compare == ("a", "b")
    for config_class, flags in ((EvaluateConfig, ["--model=m"]), (ReportConfig, [])):
        with pytest.raises(KsegError, match="unexpected argument 'a'"):
            parse(config_class, ["kseg", *flags, "a"], "")


def test_help_imports_nothing_heavy():
    """What every command's --help, and that of kseg itself, imports: so it answers at once."""
    program = """
import contextlib, runpy, sys
for name in sys.argv[1:]:
    sys.argv = [name, "--help"]
    with contextlib.suppress(SystemExit):
        runpy.run_module(name, run_name="__main__", alter_sys=True)
heavy = "keras jax tensorflow torch cv2 matplotlib numpy albumentations PIL huggingface_hub jinja2".split()
print("imported:", *(name for name in heavy if name in sys.modules))
"""
    modules = ["kseg", *(f"kseg.{name}" for name in COMMANDS)]
    done = subprocess.run([sys.executable, "-c", program, *modules], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "imported:"
    assert done.stdout.count("--flagfile=FILE") == len(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command(name, capsys):
    with pytest.raises(SystemExit) as exit:
        importlib.import_module(f"kseg.{name}").main([f"kseg.{name}", "--help"])
    assert exit.value.code == 0
    text = capsys.readouterr().out
    for field, _ in leaves(CONFIGS[name]):
        assert f"--{field.name}" in text or f"--[no]{field.name}" in text
        assert field.metadata["help"].endswith((".", "?"))
    assert max(map(len, text.splitlines())) <= 130
    assert text.count("as in the run") <= 2  # in the headings of the two groups of data flags


def test_help_lists_every_flag_by_group(capsys):
    with pytest.raises(SystemExit) as exit:
        train_flags("--help")
    assert exit.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("description")
    names = [field.name for field, _ in leaves(TrainConfig)]
    assert len(set(names)) == len(names)
    for name in names:
        assert f"--{name}" in text or f"--[no]{name}" in text
    assert [line for line in text.splitlines() if line.endswith(":") and line[0] != " "] == [
        "model:", "data:", "input:", "training:", "data files:", "loss:", "optimization:", "output:", "devices:",
    ]  # fmt: skip
    assert max(map(len, text.splitlines())) <= 115
