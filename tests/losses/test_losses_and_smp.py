"""Compares values and gradients of the losses with segmentation_models_pytorch's."""

import jax
import numpy as np
import pytest
import torch

from kseg import losses

pytestmark = pytest.mark.parity

CASES = [
    ("dice", {}, "DiceLoss", {}),
    ("dice", {"smooth": 2.0, "log": True}, "DiceLoss", {"smooth": 2.0, "log_loss": True}),
    ("jaccard", {"smooth": 2.0}, "JaccardLoss", {"smooth": 2.0}),
    ("jaccard", {"log": True}, "JaccardLoss", {"log_loss": True}),
    ("tversky", {"alpha": 0.2, "beta": 0.9, "gamma": 1.5}, "TverskyLoss", {"alpha": 0.2, "beta": 0.9, "gamma": 1.5}),
    ("lovasz", {}, "LovaszLoss", {}),
    ("lovasz", {"per_image": True}, "LovaszLoss", {"per_image": True}),
]
WEIGHTS = (0.2, 1.0, 3.5, 0.0, 2.0)


def draw(rng, ignored=0.3):
    """Labels [2, 9, 7] of four classes, some ignored, and logits of five."""
    label = rng.integers(0, 4, (2, 9, 7)).astype("uint8")
    label[rng.random(label.shape) < ignored] = 255
    return label, (rng.normal(size=(*label.shape, 5)) * 3).astype("float32")


def ours(loss, logits):
    return jax.jit(jax.value_and_grad(loss))(logits)


def theirs(loss, label, logits):
    x = torch.tensor(logits.transpose(0, 3, 1, 2), requires_grad=True)
    value = loss(x, torch.tensor(label.astype("int64")))
    value.backward()
    return value.item(), x.grad.numpy().transpose(0, 2, 3, 1)


def assert_same(found, expected):
    assert float(found[0]) == pytest.approx(expected[0], rel=1e-5)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-4, atol=1e-6 * np.abs(expected[1]).max())


@pytest.mark.parametrize(("name", "options", "smp_name", "smp_options"), CASES)
def test_losses_of_regions(smp, rng, name, options, smp_name, smp_options):
    label, logits = draw(rng)
    loss = jax.jit(jax.value_and_grad(lambda x, weights: getattr(losses, name)(x, label, class_weights=weights, **options)))
    for weights in (None, WEIGHTS)[: 1 if name == "lovasz" else 2]:  # smp's Lovasz loss has no weights
        given = {"class_weights": list(weights)} if weights else {}
        expected = theirs(getattr(smp.losses, smp_name)("multiclass", ignore_index=255, **smp_options, **given), label, logits)
        assert_same(loss(logits, np.array(weights or (1.0,) * 5)), expected)


def test_cross_entropy_with_smoothing(smp, rng):
    """smp's mean is over all pixels, ours over those that count."""
    label, logits = draw(rng)
    loss = smp.losses.SoftCrossEntropyLoss(smooth_factor=0.2, ignore_index=255)
    value, gradient = theirs(loss, label, logits)
    scale = label.size / (label != 255).sum()
    found = ours(lambda x: losses.cross_entropy(x, label, label_smoothing=0.2), logits)
    assert_same(found, (value * scale, gradient * scale))


def test_focal_of_two_classes(smp, rng):
    """smp's is over sigmoids: logits (0, x) of two classes are a sigmoid of x."""
    label, logits = draw(rng)
    label[(label != 255) & (label > 1)] = 1
    x = logits[..., :1]
    value, gradient = theirs(
        smp.losses.FocalLoss("binary", gamma=1.5, ignore_index=255), label[..., None].transpose(0, 3, 1, 2), x
    )
    two = np.concatenate([np.zeros_like(x), x], axis=-1)
    found = ours(lambda x: losses.focal(x, label, gamma=1.5), two)
    assert_same((found[0], found[1][..., 1:]), (value, gradient))


def test_focal_of_many_classes(smp, rng):
    """smp's function over a softmax, which no class of smp's uses and which ignores nothing."""
    from segmentation_models_pytorch.losses._functional import softmax_focal_loss_with_logits

    label, logits = draw(rng, ignored=0.0)
    expected = theirs(lambda x, y: softmax_focal_loss_with_logits(x, y, gamma=2.0), label, logits)
    assert_same(ours(lambda x: losses.focal(x, label), logits), expected)
