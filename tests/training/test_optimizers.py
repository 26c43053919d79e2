"""kseg's optimizers against PyTorch's with parameter groups, on given gradients; accumulation and averages."""

import functools

import keras
import numpy as np
import pytest
import torch

from kseg.training.optimizers import TorchAdam, build_optimizer

pytestmark = pytest.mark.backends

SHAPES = ((3, 5), (5,), (3, 5), (5,), (4, 3), (4, 3), (3,))
"""Weights and biases of the backbone, and others. Some shapes occur twice."""
BACKBONE = (0, 1, 2)


def draw(rng, steps, scale=1.0):
    return [[(scale * rng.normal(size=shape)).astype("float32") for shape in SHAPES] for _ in range(steps)]


def walk(optimizer, start, gradients, each=lambda step: None):
    """Returns the variables after each step."""
    variables = [keras.Variable(value) for value in start]
    optimizer.build(variables)
    if type(optimizer).__name__ == "AdamW":
        optimizer.epsilon = 1e-12  # Keras adds it before the average is corrected, torch after: without it they are the same
    path = []
    apply = jitted(optimizer) if keras.backend.backend() == "jax" else optimizer.apply
    for step, values in enumerate(gradients):
        each(step)
        apply([keras.ops.convert_to_tensor(value) for value in values])
        path.append([keras.ops.convert_to_numpy(variable).copy() for variable in variables])
    return path


def jitted(optimizer):
    """Returns optimizer.apply as fit calls it on JAX: traced once, and again when the backbone is unfrozen."""
    import jax

    @functools.partial(jax.jit, static_argnums=0)
    def step(frozen, state, gradients, values):
        return optimizer.stateless_apply(state, gradients, values)

    def apply(gradients):
        groups = optimizer.model_variables, optimizer.variables
        values, state = ([variable.value for variable in group] for group in groups)
        for group, new in zip(groups, step(optimizer.backbone_frozen, state, gradients, values), strict=True):
            for variable, value in zip(group, new, strict=True):
                variable.assign(value)

    return apply


def torchs_walk(make, start, gradients, *, decay, only_weights, multiplier=1.0, clip=None, frozen_steps=0):
    parameters = [torch.nn.Parameter(torch.from_numpy(value.copy())) for value in start]
    groups = []
    for i, parameter in enumerate(parameters):
        decays = parameter.ndim > 1 or not only_weights
        rate = 0.01 * (np.broadcast_to(multiplier, len(BACKBONE))[i] if i in BACKBONE else 1.0)
        groups.append({"params": [parameter], "weight_decay": decay if decays else 0.0, "lr": rate})
    optimizer = make(groups)
    path = []
    for step, values in enumerate(gradients):
        for i, (parameter, value) in enumerate(zip(parameters, values, strict=True)):
            parameter.grad = None if i in BACKBONE and step < frozen_steps else torch.from_numpy(value.copy())
        if clip:
            torch.nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
        path.append([parameter.detach().numpy().copy() for parameter in parameters])
    return path


def assert_same(ours, theirs, rtol=2e-5):
    for step, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        for a, b in zip(mine, other, strict=True):
            np.testing.assert_allclose(a, b, rtol=rtol, atol=2e-6, err_msg=f"step {step}")


class TorchLion(torch.optim.Optimizer):
    """Lion as in the listing of its paper; PyTorch has none."""

    def __init__(self, groups):
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    momentum = self.state[parameter].setdefault("m", torch.zeros_like(parameter))
                    parameter -= group["lr"] * group["weight_decay"] * parameter
                    parameter -= group["lr"] * torch.sign(0.9 * momentum + 0.1 * parameter.grad)
                    momentum.mul_(0.99).add_(parameter.grad, alpha=0.01)


TORCH = {
    "adamw": lambda groups: torch.optim.AdamW(groups, eps=1e-12),
    "adam": torch.optim.Adam,
    "sgd": lambda groups: torch.optim.SGD(groups, momentum=0.9),
    "lion": TorchLion,
}


@pytest.mark.parametrize("only_weights", [True, False])
@pytest.mark.parametrize("name", TORCH)
def test_it_matches_pytorch(name, only_weights, rng):
    """With decay on all variables or on weights, a slower backbone, and clipping that takes effect in every second step.

    The learning rate of the backbone has one factor, or one for each variable.
    """
    multiplier = [0.1, 0.5, 1.0] if only_weights else 0.1
    start, gradients = draw(rng, 1)[0], draw(rng, 20)
    gradients[::2] = draw(rng, 10, scale=0.01)
    options = {"weight_decay_on": "weights" if only_weights else "all", "backbone": BACKBONE, "backbone_multiplier": multiplier}
    ours = walk(build_optimizer(name, learning_rate=0.01, weight_decay=0.1, clip_norm=2.0, **options), start, gradients)
    theirs = torchs_walk(TORCH[name], start, gradients, decay=0.1, only_weights=only_weights, multiplier=multiplier, clip=2.0)
    assert_same(ours, theirs)


@pytest.mark.parametrize(("name", "weights_only"), [("adamw", True), ("lion", True), ("adam", False), ("sgd", False)])
def test_auto_decays_what_its_kind_does(name, weights_only):
    """With gradients of 0 only the decay changes variables."""
    start = [np.ones(shape, "float32") for shape in SHAPES]
    zeros = [[np.zeros(shape, "float32") for shape in SHAPES]]
    (after,) = walk(build_optimizer(name, learning_rate=0.1, weight_decay=0.5), start, zeros)
    assert [bool((value < 1).all()) for value in after] == [len(shape) > 1 or not weights_only for shape in SHAPES]


@pytest.mark.parametrize("l2", [0.0, 0.1])
def test_torch_adams_epsilon_is_where_torchs_is(rng, l2):
    """Gradients from 1e-9 to 1: for small ones, epsilon's place in the formula matters."""
    start = rng.normal(size=50).astype("float32")
    gradients = (rng.normal(size=(20, 50)) * np.logspace(-9, 0, 50)).astype("float32")
    ours = walk(TorchAdam(0.01, l2=l2), [start], gradients[:, None])
    theirs = torch.nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = torch.optim.Adam([theirs], lr=0.01, weight_decay=l2)
    for gradient, (value,) in zip(gradients, ours, strict=True):
        theirs.grad = torch.from_numpy(gradient)
        optimizer.step()
        np.testing.assert_allclose(value, theirs.detach().numpy(), rtol=1e-5, atol=1e-6)
    moved = np.abs(theirs.detach().numpy() - start)
    assert moved.min() < moved.max() / 2  # else epsilon would not have mattered


@pytest.mark.parametrize("name", TORCH)
def test_an_unfrozen_backbone_starts_as_in_pytorch(name, rng):
    """Without a gradient, PyTorch neither decays nor counts the step. Adam corrects its averages by each variable's own steps."""
    start, gradients = draw(rng, 1)[0], draw(rng, 20)
    optimizer = build_optimizer(name, learning_rate=0.01, weight_decay=0.1, backbone=BACKBONE, freezes_backbone=True)

    def freeze(step):
        optimizer.backbone_frozen = step < 8

    ours = walk(optimizer, start, gradients, freeze)
    only_weights = optimizer.decay_on == "weights"
    assert_same(ours, torchs_walk(TORCH[name], start, gradients, decay=0.1, only_weights=only_weights, frozen_steps=8))


@pytest.mark.backends("jax")  # the others trace no update
@pytest.mark.parametrize("name", TORCH)
def test_a_program_traces_the_update_once_for_each_shape(name, rng, monkeypatch):
    optimizer = build_optimizer(name, learning_rate=0.01, weight_decay=0.1, backbone=BACKBONE, backbone_multiplier=[0.1, 0.5, 1])
    updated = []
    update_step = type(optimizer).update_step
    monkeypatch.setattr(
        type(optimizer), "update_step", lambda self, g, v, rate: [updated.append(v.shape), update_step(self, g, v, rate)]
    )
    walk(optimizer, draw(rng, 1)[0], draw(rng, 3))
    assert sorted(updated) == sorted(set(SHAPES))


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_accumulated_gradients_are_one_update(name, rng):
    """Three steps an update equal an update with the mean gradient, in weights and averages. The norm of the mean is clipped."""
    start, gradients = draw(rng, 1)[0], draw(rng, 12)
    means = [[np.mean(parts, axis=0) for parts in zip(*gradients[i : i + 3], strict=True)] for i in range(0, 12, 3)]
    options = {"learning_rate": 0.01, "weight_decay": 0.1, "clip_norm": 1.0, "ema": 0.7}
    one, three = build_optimizer(name, **options), build_optimizer(name, accumulate_steps=3, **options)
    expected, path = walk(one, start, means), walk(three, start, gradients)
    assert_same(path[2::3], expected)
    assert_same([path[0], path[1], path[3]], [start, start, path[2]], rtol=0)
    for a, b in zip(one.slots["average"], three.slots["average"], strict=True):
        np.testing.assert_allclose(keras.ops.convert_to_numpy(a), keras.ops.convert_to_numpy(b), rtol=2e-5, atol=2e-6)
    assert int(three.iterations) == int(one.iterations) == 4


def test_averages_and_their_swap(rng):
    """The average starts at the first update's weights, then follows a = 0.9 a + 0.1 w. A swap loses no bit."""
    start, gradients = draw(rng, 1)[0], draw(rng, 10)
    optimizer = build_optimizer("sgd", learning_rate=0.1, weight_decay=0.0, ema=0.9)
    path = walk(optimizer, start, gradients)
    averages = path[0]
    for weights in path[1:]:
        averages = [0.9 * average + 0.1 * weight for average, weight in zip(averages, weights, strict=True)]
    variables, followed = optimizer.model_variables, optimizer.slots["average"]
    before = [keras.ops.convert_to_numpy(x).copy() for x in (*variables, *followed)]
    optimizer.swap_averages()
    assert_same([[keras.ops.convert_to_numpy(x) for x in variables]], [averages])
    assert_same([[keras.ops.convert_to_numpy(x) for x in followed]], [path[-1]], rtol=0)
    assert np.abs(averages[0] - path[-1][0]).max() > 0.01
    optimizer.finalize_variable_values(variables)  # must change nothing: the averages are in the model already
    optimizer.swap_averages()
    for a, b in zip(before, (*variables, *followed), strict=True):
        np.testing.assert_array_equal(a, keras.ops.convert_to_numpy(b))


@pytest.mark.parametrize("name", TORCH)
def test_its_settings_survive_serialisation(name):
    optimizer = build_optimizer(
        name, learning_rate=0.01, weight_decay=1e-6, weight_decay_on="weights", momentum=0.8, clip_norm=2.0, ema=0.99,
        accumulate_steps=2, backbone=[0, 2], backbone_multiplier=0.1, freezes_backbone=True,
    )  # fmt: skip
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(again) is type(optimizer)
    assert again.get_config() == optimizer.get_config()
    assert (again.backbone, again.decay_on, again.l2 or again.weight_decay) == ((0, 2), "weights", 1e-6)
