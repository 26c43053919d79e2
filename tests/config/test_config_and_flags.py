import pytest

from kseg.config import DataConfig, EvaluateConfig, OptimizationConfig, TrainConfig, leaves
from kseg.config.command_line import parse
from kseg.utils.errors import KsegError


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
    ],
)
def test_misuse_is_one_line(arguments, message):
    with pytest.raises(KsegError) as error:
        train_flags(*arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert "ERROR" not in str(error.value)


def test_evaluate_needs_a_run_dir():
    with pytest.raises(KsegError, match="--run_dir is missing"):
        parse(EvaluateConfig, ["kseg.evaluate"], "")


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
        "data:", "input:", "model:", "training:", "loss:", "optimization:", "output:", "devices:",
    ]  # fmt: skip
    assert max(map(len, text.splitlines())) <= 115
