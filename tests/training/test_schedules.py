"""Learning rates, step by step, against PyTorch's schedulers."""

import keras
import numpy as np
import pytest
import torch

from kseg.training.schedules import build_schedule, steps_in

pytestmark = pytest.mark.backends


STEPS, RATE = 40, 0.1


def rates(schedule, steps=STEPS):
    values = [schedule(keras.ops.convert_to_tensor(step)) if callable(schedule) else schedule for step in range(steps)]
    return np.array([float(keras.ops.convert_to_numpy(value)) for value in values])


def torchs_rates(make):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE)
    scheduler = make(optimizer)
    values = []
    for _ in range(STEPS):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return np.array(values)


T = torch.optim.lr_scheduler
TORCH = {
    "poly": ({}, lambda optimizer: T.PolynomialLR(optimizer, total_iters=STEPS, power=0.9)),
    "cosine": ({}, lambda optimizer: T.CosineAnnealingLR(optimizer, T_max=STEPS)),
    "step": ({"milestones": [10, 25], "gamma": 0.5}, lambda optimizer: T.MultiStepLR(optimizer, [10, 25], gamma=0.5)),
    "one_cycle": ({}, lambda optimizer: T.OneCycleLR(optimizer, RATE, total_steps=STEPS + 1)),
    "constant": ({}, lambda optimizer: T.ConstantLR(optimizer, factor=1.0)),
}


@pytest.mark.parametrize("name", TORCH)
def test_it_is_torchs(name):
    options, make = TORCH[name]
    steps = STEPS + 1 if name == "one_cycle" else STEPS  # torch's refuses to step past its last
    ours = rates(build_schedule(name, RATE, steps=steps, **options))
    np.testing.assert_allclose(ours, torchs_rates(make), rtol=2e-5, atol=1e-8)


def test_one_cycle_rises_over_the_warmup_if_there_is_one():
    ours = rates(build_schedule("one_cycle", RATE, steps=STEPS + 1, warmup_steps=20))
    expected = torchs_rates(lambda optimizer: T.OneCycleLR(optimizer, RATE, total_steps=STEPS + 1, pct_start=20 / (STEPS + 1)))
    np.testing.assert_allclose(ours, expected, rtol=2e-5)
    assert ours.argmax() == 19


@pytest.mark.parametrize("name", ["poly", "cosine", "step", "constant"])
def test_warmup_comes_before(name):
    """The rate rises in equal steps from 0, then follows the schedule without warm-up over the rest of the run."""
    ours = rates(build_schedule(name, RATE, steps=STEPS, warmup_steps=8, milestones=[18, 33]))
    np.testing.assert_allclose(ours[:8], RATE * np.arange(8) / 8, rtol=1e-6)
    rest = rates(build_schedule(name, RATE, steps=STEPS - 8, milestones=[10, 25]), STEPS - 8)
    np.testing.assert_allclose(ours[8:], rest, rtol=1e-6)


@pytest.mark.parametrize("name", TORCH)
def test_with_accumulation_it_counts_updates(name):
    """With four steps an update, the rate is constant within an update, and equals that of a run with a quarter of the steps."""
    options = {"milestones": [8, 20]}
    ours = rates(build_schedule(name, RATE, steps=STEPS, warmup_steps=4, accumulate_steps=4, **options))
    short = rates(build_schedule(name, RATE, steps=10, warmup_steps=1, milestones=[2, 5]), 10)
    np.testing.assert_allclose(ours, np.repeat(short, 4), rtol=1e-6)


@pytest.mark.parametrize("name", TORCH)
def test_it_survives_serialisation(name):
    schedule = build_schedule(name, RATE, steps=STEPS, warmup_steps=4, milestones=[8], accumulate_steps=2)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    np.testing.assert_array_equal(rates(again), rates(schedule))


def test_part_of_an_epoch_is_whole_steps():
    assert [steps_in(epochs, 10) for epochs in (0, 0.05, 1, 1.5)] == [0, 1, 10, 15]
