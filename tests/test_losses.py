import keras
import numpy as np
import pytest

from kseg.losses import CrossEntropy


def by_definition(label, logits, ignore_index=255):
    logits = logits.astype("float64")
    log_softmax = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    picked = [
        row[t] for row, t in zip(log_softmax.reshape(-1, logits.shape[-1]), label.ravel(), strict=True) if t != ignore_index
    ]
    return -np.mean(picked) if picked else 0.0


@pytest.mark.parametrize("ignored", [0.0, 0.3, 1.0])
def test_cross_entropy_is_the_mean_over_counted_pixels(rng, ignored):
    label = rng.integers(0, 6, (3, 9, 7)).astype("uint8")
    label[rng.random(label.shape) < ignored] = 255
    logits = rng.normal(size=(3, 9, 7, 6)).astype("float32") * 4
    assert float(CrossEntropy()(label, logits)) == pytest.approx(by_definition(label, logits), rel=1e-5, abs=1e-7)


def test_another_ignore_index(rng):
    label = rng.integers(0, 4, (2, 5, 5)).astype("uint8")
    logits = rng.normal(size=(2, 5, 5, 4)).astype("float32")
    assert float(CrossEntropy(ignore_index=0)(label, logits)) == pytest.approx(by_definition(label, logits, 0), rel=1e-5)


def test_ignored_pixels_have_no_gradient(rng):
    if keras.backend.backend() != "jax":
        pytest.skip("the gradient is taken with jax.grad")
    import jax

    label = rng.integers(0, 4, (1, 4, 4)).astype("uint8")
    label[0, 1] = 255
    logits = rng.normal(size=(1, 4, 4, 4)).astype("float32")
    gradient = np.asarray(jax.grad(lambda x: CrossEntropy()(label, x))(logits))
    assert (gradient[0, 1] == 0).all()
    assert (np.abs(gradient[0, [0, 2, 3]]).sum(-1) > 0).all()


def test_config_round_trip():
    loss = keras.losses.deserialize(keras.losses.serialize(CrossEntropy(ignore_index=7)))
    assert loss.ignore_index == 7


WEIGHTS = (0.2, 1.0, 3.5, 0.0, 2.0, 0.7)


@pytest.mark.parametrize("ignored", [0.0, 0.4, 1.0])
def test_class_weights_are_those_of_torch(rng, ignored):
    import torch

    label = rng.integers(0, 6, (3, 9, 7)).astype("uint8")
    label[rng.random(label.shape) < ignored] = 255
    logits = rng.normal(size=(3, 9, 7, 6)).astype("float32") * 4
    peer = torch.nn.CrossEntropyLoss(weight=torch.tensor(WEIGHTS), ignore_index=255)
    expected = float(peer(torch.tensor(logits.transpose(0, 3, 1, 2)), torch.tensor(label.astype("int64"))))
    if ignored == 1:
        expected = 0.0  # torch says nan
    assert float(CrossEntropy(class_weights=WEIGHTS)(label, logits)) == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_pixels_of_classes_that_weigh_nothing(rng):
    logits = rng.normal(size=(1, 4, 4, 6)).astype("float32")
    assert float(CrossEntropy(class_weights=WEIGHTS)(np.full((1, 4, 4), 3, "uint8"), logits)) == 0.0


def test_equal_weights_change_nothing(rng):
    label = rng.integers(0, 6, (2, 5, 5)).astype("uint8")
    logits = rng.normal(size=(2, 5, 5, 6)).astype("float32")
    assert float(CrossEntropy(class_weights=[7] * 6)(label, logits)) == pytest.approx(float(CrossEntropy()(label, logits)))


def test_class_weights_round_trip():
    loss = keras.losses.deserialize(keras.losses.serialize(CrossEntropy(class_weights=WEIGHTS)))
    assert tuple(loss.class_weights) == WEIGHTS
