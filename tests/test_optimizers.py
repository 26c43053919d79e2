"""TorchAdam against torch.optim.Adam, and against itself after saving."""

import keras
import numpy as np
import pytest
import torch

from kseg.optimizers import TorchAdam, build_optimizer


@pytest.mark.parametrize("l2", [0.0, 0.1])
def test_it_walks_as_torchs_does(rng, l2):
    """Gradients from 1e-9 to 1: where they are small, epsilon's place in the formula decides."""
    start = rng.normal(size=50).astype("float32")
    gradients = (rng.normal(size=(20, 50)) * np.logspace(-9, 0, 50)).astype("float32")
    theirs = torch.nn.Parameter(torch.from_numpy(start.copy()))
    peer = torch.optim.Adam([theirs], lr=0.01, weight_decay=l2)
    ours = keras.Variable(start)
    optimizer = TorchAdam(0.01, l2=l2)
    optimizer.build([ours])
    for gradient in gradients:
        theirs.grad = torch.from_numpy(gradient)
        peer.step()
        optimizer.apply([keras.ops.convert_to_tensor(gradient)])
        np.testing.assert_allclose(keras.ops.convert_to_numpy(ours), theirs.detach().numpy(), rtol=1e-5, atol=1e-6)
    moved = np.abs(theirs.detach().numpy() - start)
    assert moved.min() < moved.max() / 2  # else epsilon would not have mattered


def test_its_settings_survive_serialisation():
    optimizer = build_optimizer("adam", learning_rate=0.01, weight_decay=1e-6)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert (type(again), again.l2, again.epsilon) == (TorchAdam, 1e-6, 1e-8)
