"""Compares every loss with its definition (tests/loss_definitions.py) and checks what all losses share, on every backend."""

import functools
import inspect
import pickle

import keras
import loss_definitions
import numpy as np
import pytest

from kseg import losses
from kseg.losses import CrossEntropy, FocalLoss, build_loss
from kseg.utils.errors import KsegError

pytestmark = pytest.mark.backends

BACKEND = keras.backend.backend()
WEIGHTS = (0.5, 2.0, 0.0, 1.5)
EVEN, ODD = (2, 4, 6), (2, 5, 9)
CASES = [
    ("cross_entropy", {}),
    ("cross_entropy", {"label_smoothing": 0.1}),
    ("focal", {}),
    ("focal", {"gamma": 0.5}),
    ("ohem", {}),
    ("ohem", {"keep": 0.1, "threshold": 0.2, "label_smoothing": 0.1}),
    ("dice", {}),
    ("dice", {"smooth": 1.0, "per_image": True}),
    ("jaccard", {"log": True}),
    ("tversky", {}),
    ("tversky", {"alpha": 0.6, "beta": 0.2, "gamma": 0.75}),
    ("lovasz", {}),
    ("lovasz", {"per_image": True}),
    ("boundary", {}),
    ("boundary", {"width": 5, "tolerance": 3, "per_image": True}),
]
IDS = [" ".join([name, *map(str, options)]) for name, options in CASES]
every_loss = pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)


@functools.cache
def _value_and_gradient(name, options):
    """(logits, label, weights) -> (loss, its gradient by the logits), jitted where the backend is JAX."""

    def loss(logits, label, weights):
        return getattr(losses, name)(logits, label, class_weights=weights, **dict(options))

    if BACKEND == "jax":
        import jax

        return jax.jit(jax.value_and_grad(loss))
    if BACKEND == "tensorflow":
        import tensorflow as tf

        def with_tape(logits, label, weights):
            logits = tf.Variable(logits)
            with tf.GradientTape() as tape:
                value = loss(logits, tf.constant(label), weights)
            return value, tape.gradient(value, logits)

        return with_tape
    import torch

    def backward(logits, label, weights):
        logits = torch.tensor(logits, requires_grad=True)
        value = loss(logits, torch.tensor(label), weights)
        value.backward()
        return value.detach(), logits.grad

    return backward


def value_and_gradient(name, options, label, logits, weights=(1, 1, 1, 1)):
    call = _value_and_gradient(name, tuple(options.items()))
    value, gradient = call(logits, label, np.asarray(weights, "float32"))  # no constant, so that JAX compiles once a shape
    assert keras.backend.standardize_dtype(value.dtype) == "float32"
    return float(value), np.array(gradient)


def batch(rng, shape, ignored):
    """Random labels of the first three classes of four, and logits."""
    label = rng.integers(0, 3, shape).astype("uint8")
    label[rng.random(shape) < ignored] = 255
    return label, (rng.normal(size=(*shape, 4)) * 2).astype("float32")


@every_loss
@pytest.mark.parametrize("shape", [EVEN, ODD])
def test_value_and_gradient_are_the_definitions(rng, name, options, shape):
    by_definition = getattr(loss_definitions, name)
    for ignored, weights in ((0.0, (1, 1, 1, 1)), (0.3, WEIGHTS)):
        label, logits = batch(rng, shape, ignored)
        value, gradient = value_and_gradient(name, options, label, logits, weights)
        assert value == pytest.approx(by_definition(logits, label, weights, **options), rel=2e-5, abs=1e-7)
        for _ in range(2):  # the derivative along any direction is the gradient's
            direction = rng.normal(size=logits.shape)
            ahead, behind = (by_definition(logits + s * 1e-6 * direction, label, weights, **options) for s in (1, -1))
            assert np.vdot(gradient, direction) == pytest.approx((ahead - behind) / 2e-6, rel=1e-3, abs=1e-5)


@every_loss
def test_ignored_pixels_count_as_outside_the_image(rng, name, options):
    label, logits = batch(rng, EVEN, 0.0)
    value, gradient = value_and_gradient(name, options, label, logits)
    surrounded, around = np.full(ODD, 255, "uint8"), rng.normal(size=(*ODD, 4)).astype("float32") * 9
    surrounded[:, 1:, 1:7], around[:, 1:, 1:7] = label, logits
    ignored_value, ignored_gradient = value_and_gradient(name, options, surrounded, around)
    assert ignored_value == pytest.approx(value, rel=1e-5)
    np.testing.assert_allclose(ignored_gradient[:, 1:, 1:7], gradient, rtol=1e-3, atol=1e-6)
    ignored_gradient[:, 1:, 1:7] = 0
    assert not ignored_gradient.any()


@every_loss
def test_nothing_counted_is_zero(rng, name, options):
    """All pixels are ignored, or of a class with weight 0."""
    _, logits = batch(rng, EVEN, 0.0)
    for label, weights in ((255, (1, 1, 1, 1)), (2, WEIGHTS)):
        value, gradient = value_and_gradient(name, options, np.full(EVEN, label, "uint8"), logits, weights)
        assert value == 0 and not gradient.any()


@every_loss
def test_logits_of_any_size_have_finite_gradients(rng, name, options):
    label, _ = batch(rng, EVEN, 0.1)
    for right in (1, -1):
        logits = right * 1e4 * (np.arange(4) == label[..., None]).astype("float32")
        value, gradient = value_and_gradient(name, options, label, logits)
        assert np.isfinite(value) and np.isfinite(gradient).all()


@every_loss
def test_an_image_without_counted_pixels_changes_nothing(rng, name, options):
    label, logits = batch(rng, EVEN, 0.2)
    label[1] = 255
    alone = getattr(loss_definitions, name)(logits[:1], label[:1], (1.0,) * 4, **options)
    assert value_and_gradient(name, options, label, logits)[0] == pytest.approx(alone, rel=2e-5)


def test_pixels_that_tie_share_the_last_places():
    """Two surprising pixels and six equal ones: half of the eight are kept, the equal ones in equal parts."""
    label = np.zeros((1, 2, 4), "uint8")
    logits = np.zeros((1, 2, 4, 4), "float32")
    logits[0, 0, :2, 1] = 3
    value, gradient = value_and_gradient("ohem", {"keep": 0.5}, label, logits)
    assert value == pytest.approx((2 * np.log(3 + np.exp(3)) + 2 * np.log(4)) / 4)
    assert (gradient[..., 0] != 0).all()
    np.testing.assert_allclose(gradient[0, 1], np.broadcast_to(gradient[0, 1, 0], (4, 4)))


def test_cross_entropy_is_torchs(rng):
    import torch

    label, logits = batch(rng, EVEN, 0.4)
    for options in ({"weight": WEIGHTS}, {"label_smoothing": 0.2}):
        theirs = torch.nn.CrossEntropyLoss(
            **{k: torch.tensor(v) if k == "weight" else v for k, v in options.items()}, ignore_index=255
        )
        expected = float(theirs(torch.tensor(logits.transpose(0, 3, 1, 2)), torch.tensor(label.astype("int64"))))
        ours = CrossEntropy(class_weights=options.get("weight"), label_smoothing=options.get("label_smoothing", 0.0))
        assert float(ours(label, logits)) == pytest.approx(expected, rel=1e-5)


def test_another_ignore_index(rng):
    label, logits = batch(rng, EVEN, 0.0)
    expected = loss_definitions.cross_entropy(logits, np.where(label == 0, 255, label), (1.0,) * 4)
    assert float(CrossEntropy(ignore_index=0)(label, logits)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["ce", "dice"])
def test_weights_of_another_number_of_classes(rng, name):
    label, logits = batch(rng, EVEN, 0.0)
    with pytest.raises(KsegError, match=r"class_weights has the shape \(3,\), the logits have 4 classes"):
        build_loss(name, class_weights=(1, 2, 3))(label, logits)


@pytest.mark.backends("jax")
@pytest.mark.parametrize("name", ["cross_entropy", "ohem", "lovasz"])
def test_pure_functions_of_jax(rng, name):
    """vmap equals a loop. bfloat16 logits are cast to float32."""
    import jax
    import jax.numpy as jnp

    loss = jax.jit(getattr(losses, name))
    label, logits = batch(rng, (3, *EVEN), 0.2)
    each = [float(loss(x, t)) for x, t in zip(logits, label, strict=True)]
    np.testing.assert_allclose(jax.vmap(loss)(logits, label), each, rtol=1e-5)
    low = jnp.asarray(logits[0], "bfloat16")
    assert float(loss(low, label[0])) == float(loss(low.astype("float32"), label[0]))


@pytest.mark.parametrize("name", list(losses.LOSSES))
def test_a_class_has_the_parameters_of_its_function(name):
    cls = losses.LOSSES[name].build
    function = getattr(losses, cls().name)
    of_function, of_class = (dict(inspect.signature(x).parameters) for x in (function, cls))
    assert list(of_function)[:2] == ["logits", "label"] and list(of_class)[:2] == ["ignore_index", "class_weights"]
    assert of_class.pop("name").default == function.__name__
    own = [key for key in of_function if key not in ("logits", "label")]
    assert {key: of_function[key].default for key in own} == {key: value.default for key, value in of_class.items()}
    assert function.__doc__ in cls.__doc__
    assert pickle.loads(pickle.dumps(cls)) is cls and pickle.loads(pickle.dumps(cls())).get_config() == cls().get_config()


def test_an_unknown_parameter_of_a_class():
    with pytest.raises(TypeError, match="FocalLoss has no parameter 'gama'; it has gamma"):
        FocalLoss(gama=3)


def test_a_loss_of_an_earlier_version_is_read():
    """Its module has moved; the registered name has not."""
    config = {"name": "ohem", "ignore_index": 0, "class_weights": None, "keep": 0.5, "threshold": 0.1, "label_smoothing": 0.0}
    saved = {"module": "kseg.losses.objects", "class_name": "OhemCrossEntropy", "registered_name": "kseg>OhemCrossEntropy"}
    loss = keras.losses.deserialize({**saved, "config": config})
    assert type(loss) is losses.OhemCrossEntropy and loss.get_config() == config


EXPRESSIONS = [
    "focal(gamma=3)",
    "ohem(keep=0.1, threshold=0.7)+0.25*boundary(width=5)",
    "ce + 1e+1 * dice(per_image=true,log=True)",
]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_survives_serialization(expression):
    loss = build_loss(expression, class_weights=WEIGHTS)
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert type(again) is type(loss)
    assert again.get_config() == loss.get_config()


def test_an_expression_is_the_weighted_sum(rng):
    label, logits = batch(rng, EVEN, 0.0)
    options = {"ignore_index": 0, "class_weights": WEIGHTS}
    loss = build_loss("2*ce+tversky(alpha=0.1)+0.5*ohem", **options, label_smoothing=0.1)
    found = float(keras.losses.deserialize(keras.losses.serialize(loss))(label, logits))
    parts = [
        2 * losses.cross_entropy(logits, label, label_smoothing=0.1, **options),
        losses.tversky(logits, label, alpha=0.1, **options),
        0.5 * losses.ohem(logits, label, label_smoothing=0.1, **options),
    ]
    assert found == pytest.approx(sum(map(float, parts)), rel=1e-6)
    assert build_loss("ce(label_smoothing=0.3)", label_smoothing=0.1).parameters == {"label_smoothing": 0.3}
    assert type(build_loss(" ce ")) is CrossEntropy


MISTAKES = [
    ("", "is empty"),
    ("ce+", 'has an empty part before or after a "+"'),
    ("+ce", 'has an empty part before or after a "+"'),
    ("ce++dice", 'has an empty part before or after a "+"'),
    ("dise", "unknown loss 'dise'; did you mean dice?"),
    ("ce+0.5*dise(smooth=1)", "unknown loss 'dise'; did you mean dice?"),
    ("x*dice", "the weight 'x' is not a number"),
    ("dice*0.5", "the weight 'dice' is not a number; write it before the loss"),
    ("ce+-0.5*dice", "the weight -0.5 must be more than 0"),
    ("0*dice", "the weight 0 must be more than 0"),
    ("1e999*dice", "must be more than 0 and finite"),
    ("0.5dice", "cannot be read; give a sum of losses, such as"),
    ("0.5*(ce+dice)", "is not a loss"),
    ("ce-dice", "is not a loss"),
    ("focal(gama=3)", "focal has no parameter 'gama'; did you mean gamma?"),
    ("focal(**x)", "focal has no parameter 'None'"),
    ("focal(3)", "focal(3): give its parameters by name, such as focal(gamma=2.0)"),
    ("focal(gamma=high)", "focal(gamma=high): must be a number"),
    ("focal(gamma=True)", "focal(gamma=True): must be a number"),
    ("dice(log=1)", "dice(log=1): must be True or False"),
    ("boundary(width=3.5)", "boundary(width=3.5): must be a whole number"),
    ("boundary(width=4)", "boundary: width=4 must be odd, at least 3"),
    ("focal(gamma=-1)", "focal: gamma=-1.0 must be 0 or more"),
    ("ohem(keep=0)", "ohem: keep=0.0 must be in (0, 1]"),
    ("ce(label_smoothing=1)", "ce: label_smoothing=1.0 must be in [0, 1)"),
    ("tversky(gamma=0)", "tversky: gamma=0.0 must be more than 0"),
    ("dice(class_weights=1)", "dice has no parameter 'class_weights'"),
    ("(" * 300, "cannot be read"),
]


@pytest.mark.parametrize(("expression", "message"), MISTAKES)
def test_a_mistake_is_one_line(expression, message):
    with pytest.raises(KsegError) as error:
        build_loss(expression)
    assert str(error.value).startswith(f"--loss={expression}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_nothing_to_smooth():
    with pytest.raises(KsegError, match=r"--label_smoothing=0.1: --loss=dice\+focal has no cross entropy to smooth"):
        build_loss("dice+focal", label_smoothing=0.1)
