"""A model as a pure function: the same numbers as the model, under the transformations of JAX, and the way back."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import ROOT
from small_model import small_model

import kseg
from kseg.models.functional import assign, flat, functionalize, nested
from kseg.runtime.xla_flags import xla_flags_and
from kseg.utils.errors import KsegError

if keras.backend.backend() != "jax":
    pytest.skip("functionalize is for JAX", allow_module_level=True)
import jax
import jax.numpy as jnp


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(3)
    return small_model()


@pytest.fixture(scope="module")
def pure(model):
    """(apply, params, state), apply under jit."""
    apply, params, state = functionalize(model)
    return jax.jit(apply, static_argnames="training"), params, state


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3), dtype="uint8")


def loss(apply, params, state, images, rng):
    logits, state = apply(params, state, images, training=True, rng=rng)
    return jnp.mean(jnp.square(logits - 1)), state


@pytest.fixture(scope="module")
def gradient(pure, images):
    """(function of params, state, images, rng; its result for key 0)."""
    function = jax.jit(jax.value_and_grad(lambda *arguments: loss(pure[0], *arguments), has_aux=True))
    return function, function(*pure[1:], images, jax.random.key(0))


def close(found, expected, tolerance=1e-4):
    found, expected = np.asarray(found), np.asarray(expected)
    return found.shape == expected.shape and np.abs(found - expected).max() <= tolerance * max(np.abs(expected).max(), 1e-6)


def test_it_computes_what_the_model_computes(model, pure, images):
    apply, params, state = pure
    logits, same = apply(params, state, images)
    assert logits.shape == (2, 32, 48, 3) and logits.dtype == "float32" and np.ptp(logits) > 0
    assert close(logits, model.predict_on_batch(images))
    assert sorted(same) == sorted(state) and all((same[path] == state[path]).all() for path in state)
    paths = [v.path for v in model.trainable_variables] + [v.path for v in model.non_trainable_variables]
    assert sorted([*params, *state]) == sorted(path for path in paths if "seed_generator" not in path)
    assert {"first_0/kernel", "segmentation_head_0/bias"} <= set(params)
    assert "first_1/moving_variance" in state


def test_training_is_pure_and_repeatable(model, pure, gradient, images):
    _, params, state = pure
    function, ((value, updated), gradients) = gradient
    again = function(params, state, images, jax.random.key(0))
    other = function(params, state, images, jax.random.key(1))
    assert again[0][0] == value != other[0][0]  # dropout follows the key
    assert sorted(gradients) == sorted(params) and all(np.any(g) for g in gradients.values())
    assert sorted(updated) == sorted(state) and all((updated[path] != state[path]).any() for path in state)
    for variable in model.variables:  # what was computed left no trace in the model
        expected = params.get(variable.path, state.get(variable.path))
        assert expected is None or (np.asarray(variable) == np.asarray(expected)).all()
    # The first batch norm's statistics, by hand: torch's momentum, and its unbiased variance.
    values = np.asarray(model.get_layer("first_0")(model.get_layer("normalize")(images)), "float64").reshape(-1, 8)
    assert close(updated["first_1/moving_mean"], 0.1 * values.mean(0))
    assert close(updated["first_1/moving_variance"], 0.9 + 0.1 * values.var(0, ddof=1))


def test_vmap_over_models_and_images(pure, images):
    apply, params, state = pure
    other = {path: value * 1.1 for path, value in params.items()}
    stacked = jax.tree.map(lambda *values: jnp.stack(values), params, other)
    each_image = jax.vmap(lambda params, image: apply(params, state, image[None])[0][0], (None, 0))
    found = jax.jit(jax.vmap(each_image, (0, None)))(stacked, images)
    assert found.shape == (2, 2, 32, 48, 3)
    assert close(found[0], apply(params, state, images)[0])
    assert close(found[1], apply(other, state, images)[0])


def test_there_and_back(model, pure, images, tmp_path):
    """Through safetensors and Orbax into a model built alike, whose file then holds them."""
    import orbax.checkpoint
    from safetensors.numpy import load_file, save_file

    from kseg.models.saving import save_model

    apply, params, state = pure
    params = {path: value + 0.05 for path, value in params.items()}
    save_file({path: np.asarray(value) for path, value in (params | state).items()}, tmp_path / "all.safetensors")
    read = load_file(tmp_path / "all.safetensors")
    checkpointer = orbax.checkpoint.StandardCheckpointer()
    checkpointer.save(tmp_path / "orbax", nested(params))
    checkpointer.wait_until_finished()
    restored = flat(checkpointer.restore(tmp_path / "orbax", nested(params)))
    checkpointer.close()
    assert sorted(restored) == sorted(params) and all((restored[path] == params[path]).all() for path in params)

    before = model.get_weights()
    try:
        assign(model, restored, {path: read[path] for path in state})
        expected, _ = apply(params, state, images)
        assert close(model.predict_on_batch(images), expected)
        save_model(model, tmp_path / "model.keras")
        jax.tree.map(lambda value: value.delete(), restored)  # as donation does
        assert close(model.predict_on_batch(images), expected)
    finally:
        model.set_weights(before)
    _, loaded, _ = functionalize(kseg.load_model(tmp_path / "model.keras"))
    assert list(loaded) == list(params) and all((loaded[path] == params[path]).all() for path in params)


def test_trees():
    tree = {"a_0/kernel": 1, "a_0/bias": 2, "b": 3, "c/d/e": 4}
    assert nested(tree) == {"a_0": {"kernel": 1, "bias": 2}, "b": 3, "c": {"d": {"e": 4}}}
    assert flat(nested(tree)) == tree


def test_what_is_refused(model, pure, images):
    _, params, state = pure
    apply = functionalize(model)[0]  # jit would add a line of JAX's to the message
    with pytest.raises(KsegError, match=r"^params lack segmentation_head_0/bias, which the model has$"):
        apply({path: value for path, value in params.items() if path != "segmentation_head_0/bias"}, state, images)
    with pytest.raises(KsegError, match=r"^state have x, which the model does not have$"):
        apply(params, state | {"x": 0}, images)
    with pytest.raises(KsegError, match=r"^params lack .*, .* and 4 more, which the model has$"):
        assign(model, {})
    with pytest.raises(KsegError, match=r"^params: segmentation_head_0/bias has shape \(4,\), the model's is \(3,\)$"):
        assign(model, params | {"segmentation_head_0/bias": np.zeros(4)})
    with pytest.raises(KsegError, match=r"^the model has random layers \(dropout\): pass rng="):
        apply(params, state, images, training=True)
    with pytest.raises(KsegError, match=r"^model later is not built; "):
        functionalize(keras.Sequential([keras.layers.Dense(3)], name="later"))


def test_what_is_frozen_is_state_and_twins_are_refused():
    def dense(model):
        x = keras.Input((3,))
        return keras.Model(x, keras.layers.Dense(3, name="dense")(x), name=model)

    one = dense("one")
    images = np.ones((2, 3), "float32")
    one.get_layer("dense").kernel.trainable = False
    apply, params, state = functionalize(one)
    assert (list(params), list(state)) == (["dense/bias"], ["dense/kernel"])
    logits, state = apply({"dense/bias": np.ones(3, "float32")}, {"dense/kernel": np.eye(3, dtype="float32")}, images)
    assert (logits == 2).all() and (state["dense/kernel"] == np.eye(3)).all()
    x = keras.Input((3,))
    both = keras.Model(x, dense("two")(one(x)), name="both")
    with pytest.raises(KsegError, match=r"^model both has two variables dense/kernel; give their layers different names$"):
        functionalize(both)


SHARDED = """
import jax, numpy as np, optax
import kseg
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from functools import partial
from small_model import small_model
apply, params, state = kseg.functionalize(small_model())
images = np.random.default_rng(0).integers(0, 256, (4, 32, 48, 3), dtype="uint8")
label = jax.numpy.ones((4, 32, 48), int)
mesh = Mesh(jax.devices(), ("data",))
assert len(jax.devices()) == 2

def loss(params, state, images, label):
    logits, state = apply(params, state, images, training=True, rng=jax.random.key(0))
    return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean(), state

def close(a, b):
    return float(abs(np.asarray(a) - np.asarray(b)).max()) <= 1e-3 * float(abs(np.asarray(b)).max()) + 1e-6

# Recomputed and on two devices, gradients and moving statistics are those of the whole batch.
expected = jax.jit(jax.grad(loss, has_aux=True))(params, state, images, label)
batch = jax.device_put((images, label), NamedSharding(mesh, P("data")))
found = jax.jit(jax.grad(jax.checkpoint(loss), has_aux=True))(params, state, *batch)
assert all(jax.tree.leaves(jax.tree.map(close, found, expected)))

@jax.jit
@partial(jax.shard_map, mesh=mesh, in_specs=(P(), P(), P("data")), out_specs=P("data"))
def predict(params, state, images):
    return apply(params, state, images)[0]

logits = predict(params, state, images)
assert len(logits.sharding.device_set) == 2
assert close(logits, jax.jit(apply)(params, state, images)[0])
print("done")
"""
BLOCKED = """
from kseg.utils.system import without
blocked = without("tensorflow", "keras_cv", "torch")
blocked.__enter__()
import kseg, kseg.models.functional, kseg.losses, kseg.metrics.confusion_matrix, kseg.models, jax, numpy as np
model = kseg.build_model("deeplabv3plus", num_classes=3, backbone="vgg11_bn", output_stride=32)
apply, params, state = kseg.functionalize(model)
logits, _ = jax.jit(apply, static_argnames="training")(params, state, np.zeros((2, 32, 48, 3), "uint8"))
assert logits.shape == (2, 32, 48, 3)
print("done")
"""
TWO_DEVICES = "--xla_force_host_platform_device_count=2"


@pytest.mark.slow
@pytest.mark.parametrize(("program", "flags"), [(SHARDED, TWO_DEVICES), (BLOCKED, "")], ids=["two_devices", "without_tf"])
def test_in_a_process_of_its_own(program, flags):
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "XLA_FLAGS": xla_flags_and(flags), "PYTHONPATH": path}
    if flags:  # the two are CPUs
        environment["JAX_PLATFORMS"] = "cpu"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout == "done\n"


def test_metric_and_loss_are_functions_of_arrays(rng):
    from kseg.losses import CrossEntropy
    from kseg.metrics.confusion_matrix import confusion_matrices

    logits = jnp.asarray(rng.normal(size=(2, 8, 9, 3)), "float32")
    label = rng.integers(0, 3, (2, 8, 9))
    label[0, 0] = 255
    value = jax.jit(lambda label, logits: CrossEntropy(255)(label, logits))(label, logits)
    kept = label != 255
    logp = np.asarray(jax.nn.log_softmax(logits))[kept]
    assert close(value, -logp[np.arange(len(logp)), label[kept]].mean(), 1e-5)
    counts = jax.jit(lambda label, found: confusion_matrices(label, found, 3))(label, logits.argmax(-1))
    expected = np.zeros((2, 3, 3), int)
    found = np.asarray(logits.argmax(-1))
    np.add.at(expected, (np.nonzero(kept)[0], label[kept], found[kept]), 1)
    assert (np.asarray(counts) == expected).all()
