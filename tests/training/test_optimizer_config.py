"""The flags of the group "optimization": averages, freezing, precision, recomputation."""

import dataclasses
import functools
import json

import keras
import numpy as np
import pytest
from compilations import compilations
from compiled_model import load_compiled

from kseg import evaluate, train
from kseg.config import OptimizationConfig
from kseg.losses import CrossEntropy
from kseg.metrics.confusion_matrix import ConfusionMatrix
from kseg.models.backbones.registry import BACKBONES, register_backbone
from kseg.models.blocks import conv_bn_relu, head
from kseg.models.build import build_model, precision
from kseg.models.registry import MODELS
from kseg.models.saving import load_model, save_model
from kseg.runtime.memory import kept_bytes, step_memory
from kseg.runtime.run_dir import RunDir
from kseg.training.optimizer_config import configure, optimization_callbacks
from kseg.utils.errors import KsegError

on_jax = pytest.mark.backends("jax")
BATCH, SIZE, CLASSES = 4, 16, 3
IMAGES = np.random.default_rng(1).integers(0, 256, (2 * BATCH, SIZE, SIZE, 3)).astype("uint8")
LABELS = (IMAGES[..., 0] // 86).astype("uint8")


def build_convolutions(*, output_stride, input_shape, depth=2):
    """A backbone of `depth` convolutions without strides. It compiles fast."""
    x = images = keras.Input(input_shape, name="images")
    levels = {}
    for i in range(depth):
        x = conv_bn_relu(x, 8, name=f"encoder_{i}")
        levels.setdefault("c1", x)
    return keras.Model(images, {**levels, "c2": x})


def decode(features, *, num_classes):
    fused = keras.layers.Concatenate(name="fused")([features["c1"], features["c2"]])
    return head(conv_bn_relu(fused, 8, name="decoder"), num_classes)


@pytest.fixture(scope="module", autouse=True)
def registered():
    """Registers small models until these tests end: other tests run over all registered models."""
    for depth in (2, 6):
        register_backbone(f"convolutions{depth}", functools.partial(build_convolutions, depth=depth), output_strides=(32,))
    info = {"backbone": "convolutions2", "output_stride": 32, "levels": lambda: ("c1", "c2"), "align_corners": lambda: True}
    MODELS.add("test_optimization", decode, **info)
    yield
    for registry, name in ((MODELS, "test_optimization"), (BACKBONES, "convolutions2"), (BACKBONES, "convolutions6")):
        del registry._entries[name]


def tiny_model(config, *, epochs=3, steps=2, depth=2):
    """Returns a small, compiled model of build_model."""
    keras.utils.set_random_seed(0)
    with precision(config.precision):
        model = build_model("test_optimization", num_classes=CLASSES, backbone=f"convolutions{depth}")
    model.compile(
        optimizer=configure(config, model, epochs=epochs, steps=steps),
        loss=CrossEntropy(),
        metrics=[ConfusionMatrix(CLASSES)],
    )
    return model


def fit(model, epochs, *callbacks, **options):
    fixed = {"batch_size": BATCH, "shuffle": False, "verbose": 0}
    return model.fit(IMAGES, LABELS, epochs=epochs, callbacks=list(callbacks), **fixed, **options).history


def values(variables):
    return [keras.ops.convert_to_numpy(variable).copy() for variable in variables]


def split(model):
    """Returns arrays: (trainable variables of the backbone, its moving statistics, the other trainable variables)."""
    backbone = model.get_layer("backbone")
    own = {id(variable) for variable in backbone.trainable_variables}
    others = [variable for variable in model.trainable_variables if id(variable) not in own]
    return values(backbone.trainable_variables), values(backbone.non_trainable_variables), values(others)


def same(before, after):
    return all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def moved(before, after):
    return all(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))


class Each(keras.callbacks.Callback):
    """Calls `look(model, epoch)` at the end of an epoch, where checkpoints are written."""

    def __init__(self, look):
        super().__init__()
        self.look = look

    def on_epoch_end(self, epoch, logs=None):
        self.look(self.model, epoch)


@pytest.fixture
def compiled():
    """The names of the functions that JAX compiles during the test."""
    with compilations() as names:
        yield names


def test_a_backbone_is_unfrozen(compiled, tmp_path):
    """While frozen, the backbone keeps its weights and statistics, and the others train as with Keras's trainable = False.

    There are two compilations. A run resumes to the same bits from before and from after the change, from files with averages in
    the place of the weights.
    """
    plain = OptimizationConfig(learning_rate=0.01, weight_decay=0.1, ema=0.8, schedule="constant")
    config = dataclasses.replace(plain, freeze_backbone_epochs=1, backbone_lr_multiplier=0.5)
    model, epochs, states = tiny_model(config), [], []
    freeze, average = optimization_callbacks(config)

    def look(model, epoch):
        epochs.append(split(model))
        states.append(average.get_state())
        save_model(model, tmp_path / f"{epoch}.keras")

    start = split(model)
    fit(model, 3, freeze, average, Each(look))
    assert keras.backend.backend() != "jax" or compiled.count("jit(train_step)") == 2
    for before, after, change in zip(start, epochs[0], (same, same, moved), strict=True):
        assert change(before, after)
    for before, after in zip(epochs[0], epochs[1], strict=True):
        assert moved(before, after)

    reference = tiny_model(plain)
    reference.get_layer("backbone").trainable = False
    reference.compile(optimizer=configure(plain, reference, epochs=1, steps=2), loss=CrossEntropy())
    fit(reference, 1, *optimization_callbacks(plain))
    for ours, theirs in zip(epochs[0][2], values(reference.trainable_variables), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)

    for epoch in (0, 1):
        again, (freeze, average) = load_compiled(tmp_path / f"{epoch}.keras"), optimization_callbacks(config)
        average.set_model(again)
        average.set_state(states[epoch])
        fit(again, 3, freeze, average, initial_epoch=epoch + 1)
        assert same(values(model.variables), values(again.variables))
        assert same(values(model.optimizer.variables), values(again.optimizer.variables))
    assert keras.backend.backend() != "jax" or compiled.count("jit(train_step)") == 5


def test_the_averages_are_what_is_validated_and_saved(tmp_path):
    config = OptimizationConfig(ema=0.9, learning_rate=0.05, schedule="constant")
    raw, seen, weights = [], [], []
    model = tiny_model(config)

    class Raw(keras.callbacks.Callback):  # before AverageWeights, so it sees the weights that train
        def on_train_batch_end(self, batch, logs=None):
            self.model.jax_state_sync() if keras.backend.backend() == "jax" else None
            raw.append(values(self.model.trainable_variables))

    def look(model, epoch):
        seen.append(model.evaluate(IMAGES, LABELS, batch_size=BATCH, verbose=0, return_dict=True)["loss"])
        weights.append(values(model.trainable_variables))
        save_model(model, tmp_path / "best.keras")

    callbacks = (Raw(), *optimization_callbacks(config), Each(look))
    history = fit(model, 3, *callbacks, validation_data=(IMAGES, LABELS), validation_batch_size=BATCH)
    averages, expected = raw[0], []
    for step, now in enumerate(raw[1:], start=2):
        averages = [0.9 * average + 0.1 * value for average, value in zip(averages, now, strict=True)]
        expected += [averages] if step % 2 == 0 else []
    for ours, theirs in zip(weights, expected, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(history["val_loss"], seen, rtol=1e-6)
    assert moved(weights[-1], raw[-1])
    assert same(values(model.trainable_variables), weights[-1])  # after fit, too
    assert same(values(load_compiled(tmp_path / "best.keras").trainable_variables), weights[-1])


def test_accumulated_steps_are_one_step_of_the_whole_batch():
    """Batch norm is in inference mode, and both halves of the batch have as many labelled pixels."""
    results = []
    for batch, every in ((2 * BATCH, 1), (BATCH, 2)):
        config = OptimizationConfig(accumulate_steps=every, optimizer="adam", learning_rate=0.01, warmup_epochs=1)
        model = tiny_model(config, steps=every)
        for layer in model._flatten_layers():
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.trainable = False
        model.compile(optimizer=configure(config, model, epochs=3, steps=every), loss=CrossEntropy())
        model.fit(IMAGES, LABELS, batch_size=batch, shuffle=False, verbose=0, epochs=3)
        results.append(values(model.trainable_variables))
        assert int(model.optimizer.iterations) == 3
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_it_learns_in_half_the_bits(policy):
    config = OptimizationConfig(precision=policy, learning_rate=0.02, optimizer="adam", schedule="constant", ema=0.9)
    model = tiny_model(config, epochs=8)
    assert keras.config.dtype_policy().name == "float32"  # of what is built afterwards
    assert model.get_layer("backbone").get_layer("encoder_0_0").compute_dtype == policy.removeprefix("mixed_")
    assert {variable.dtype for variable in model.weights} == {"float32"}
    assert model.output.dtype == "float32"
    history = fit(model, 8)
    assert history["loss"][-1] < 0.8 * history["loss"][0]
    scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (policy == "mixed_float16")
    if scaled:
        _check_loss_scale(model)


def _check_loss_scale(model):
    """Checks that an overflow skips the step."""
    before, steps = values(model.trainable_variables), int(model.optimizer.iterations)
    for scale, change in ((2.0**40, same), (2.0**10, moved)):
        model.optimizer.dynamic_scale.assign(scale)
        model.train_on_batch(IMAGES[:BATCH], LABELS[:BATCH])
        assert change(before, values(model.trainable_variables))
    assert int(model.optimizer.iterations) == steps + 1


def test_a_loss_scale_is_saved(tmp_path):
    model = tiny_model(OptimizationConfig(precision="mixed_float16"))
    model.optimizer.build(model.trainable_variables)
    model.optimizer.dynamic_scale.assign(8.0)
    save_model(model, tmp_path / "model.keras")
    assert float(load_compiled(tmp_path / "model.keras").optimizer.dynamic_scale) == 8.0


@on_jax
def test_recomputation_changes_memory_and_nothing_else(tmp_path):
    """Gradients (SGD's steps are multiples of them) and statistics stay the same. Less is kept for the backward pass."""
    weights, kept = [], []
    for remat in (False, True):
        config = OptimizationConfig(remat=remat, optimizer="sgd", momentum=0.0, weight_decay=0.0, learning_rate=0.1)
        model = tiny_model(config, depth=6)
        assert model.get_layer("backbone").remat == remat
        kept.append(kept_bytes(model, IMAGES, LABELS))
        model.train_on_batch(IMAGES, LABELS)
        weights.append(values(model.weights))
    for a, b in zip(*weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert kept[1] < 0.6 * kept[0]
    activation = IMAGES.size // 3 * 8 * 4
    assert step_memory(model, IMAGES, LABELS) > 4 * activation  # of the backbone's ends, the decoder's input and output
    save_model(model, tmp_path / "model.keras")
    assert same(values(load_model(tmp_path / "model.keras").weights), weights[1])


@pytest.mark.backends("tensorflow", "torch")
def test_recomputation_needs_jax():
    with pytest.raises(KsegError, match=r"^--remat needs the JAX backend, and this is"):
        tiny_model(OptimizationConfig(remat=True))


@pytest.mark.slow
@on_jax
def test_the_flags_reach_a_run(tiny_coco, tmp_path, compiled):
    """The flags work in kseg.train, with a backbone frozen to the end. The files load, and score as reported."""
    run = RunDir(tmp_path / "run")
    train.main(
        [
            "kseg.train", "--dataset=coco", f"--data_dir={tiny_coco}", f"--run_dir={run.path}", "--image_size=32",
            "--batch_size=2", "--model=test_optimization", "--epochs=1", "--optimizer=sgd", "--learning_rate=0.05",
            "--schedule=step", "--schedule_milestones=0.5,0.75", "--weight_decay_on=weights", "--backbone_lr_multiplier=0.5",
            "--clip_norm=5", "--accumulate_steps=2", "--ema=0.5", "--freeze_backbone_epochs=1", "--precision=mixed_bfloat16",
            "--remat", "--noreport",
        ]
    )  # fmt: skip
    steps = [compiled.count(f"jit({step}_step)") for step in ("train", "test", "predict")]
    assert steps == [1, 1, 2]  # scoring has two programs: the network, and its label maps
    model = load_compiled(run.checkpoints()[0])
    backbone, config = model.get_layer("backbone"), model.optimizer.get_config()
    assert not any(value.any() for value in values(backbone.get_layer("encoder_0_1").non_trainable_variables[:1]))
    assert model.get_layer("segmentation_head_0").compute_dtype == "bfloat16"
    assert int(model.optimizer.iterations) == 2  # of 4 steps
    assert len(model.optimizer.backbone) == len(backbone.trainable_variables) == 6
    settings = ("momentum", "decay_on", "l2", "backbone_multiplier", "global_clipnorm", "ema_momentum", "freezes_backbone")
    assert [config[name] for name in settings] == [0.9, "weights", 1e-4, 0.5, 5.0, 0.5, True]
    assert values([model.optimizer.learning_rate])[0] == pytest.approx(0.05 * 0.01)
    # The averages are in the model's place: of the two updates' weights, one half each. The weights wait in the optimizer.
    last = model.trainable_variables[-1], model.optimizer.slots["average"][-1]
    assert moved(*([value] for value in values(last)))
    evaluate.main(["kseg.evaluate", f"--model={run.path}", f"--output={tmp_path / 'again.json'}"])
    assert json.loads((tmp_path / "again.json").read_text()) == json.loads(run.evaluation.read_text())


def test_more_steps_an_update_than_an_epoch_has():
    with pytest.raises(KsegError, match=r"^--accumulate_steps=3: an epoch has 2 steps only"):
        tiny_model(OptimizationConfig(accumulate_steps=3))
