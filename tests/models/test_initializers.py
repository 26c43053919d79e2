"""Initial values are those of Keras's initializers, and no shape takes a program of its own."""

import jax
import keras
import numpy as np
import pytest
from compilations import compilations

import kseg
from kseg.models.initializers import LENGTHS, FewCompilations, skip_random_init
from kseg.training.optimizers import build_optimizer

INITIALIZERS = {
    "he_normal of torch": lambda: keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal", seed=7),
    "he_normal": lambda: keras.initializers.HeNormal(seed=7),
    "he_uniform": lambda: keras.initializers.HeUniform(seed=7),
    "glorot_uniform": lambda: keras.initializers.GlorotUniform(seed=7),
    "uniform": lambda: keras.initializers.RandomUniform(-0.2, 0.1, seed=7),
    "normal": lambda: keras.initializers.RandomNormal(1.0, 2.0, seed=7),
    "truncated normal": lambda: keras.initializers.TruncatedNormal(1.0, 2.0, seed=7),
    "zeros": lambda: "zeros",
    "ones": lambda: "ones",
    "constant": lambda: keras.initializers.Constant(3.0),
    "orthogonal": lambda: keras.initializers.Orthogonal(seed=7),
}


@pytest.mark.parametrize("shape", [(7, 7, 3, 64), (3, 3, 32, 1), (1, 1, 1024, 256), (3, 3, 4, 128), (1, 1, 1, 1), (5, 3)])
@pytest.mark.parametrize("name", INITIALIZERS)
def test_values_are_keras_own(name, shape):
    make = INITIALIZERS[name]
    ours, theirs = FewCompilations(make())(shape, "float32"), keras.initializers.get(make())(shape, "float32")
    assert isinstance(ours, jax.Array) and ours.shape == shape and ours.dtype == "float32"
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", ["uniform", "zeros", "he_normal"])
@pytest.mark.parametrize("shape", [(12,), (LENGTHS[-1] + 1,)])
def test_vectors_are_keras_own(name, shape):
    make = INITIALIZERS[name]
    np.testing.assert_array_equal(FewCompilations(make())(shape), keras.initializers.get(make())(shape))


def test_fans_of_other_axes_are_keras_own():
    make = lambda: keras.initializers.VarianceScaling(2.0, "fan_in", "uniform", seed=7, input_axes=[0], output_axes=[1])  # noqa: E731
    np.testing.assert_array_equal(FewCompilations(make())((4, 5, 6)), make()((4, 5, 6)))


def test_a_generator_of_seeds_goes_on():
    ours, theirs = (keras.initializers.RandomNormal(seed=keras.random.SeedGenerator(3)) for _ in range(2))
    drawn = FewCompilations(ours)
    for _ in range(2):
        np.testing.assert_array_equal(drawn((3, 4)), theirs((3, 4)))


@pytest.mark.parametrize("name", ["he_uniform", "ones"])
def test_a_traced_call_gives_the_same(name):
    initializer = FewCompilations(INITIALIZERS[name]())
    np.testing.assert_array_equal(jax.jit(lambda: initializer((3, 3, 5, 7)))(), initializer((3, 3, 5, 7)))


def test_undrawn():
    initializer = FewCompilations(keras.initializers.RandomUniform(0.5, 1.0))
    with skip_random_init():
        zeros, ones = initializer((3, 4), "float32"), FewCompilations("ones")((3,), "float32")
    assert isinstance(zeros, jax.Array) and zeros.shape == (3, 4) and not np.any(zeros)
    assert np.all(ones == 1) and np.all(initializer((3, 4)) >= 0.5)


NETWORKS = {"unet": "tf_efficientnet_b0", "deeplabv3plus": "resnet50", "fcn16s": "vgg11"}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "backbone"), NETWORKS.items())
def test_a_model_and_its_optimizer_take_few_programs(name, backbone):
    options = {"fc_filters": 8} if name == "fcn16s" else {}
    jax.clear_caches()
    with compilations() as compiled:
        model = kseg.build_model(name, num_classes=3, backbone=backbone, **options)
        build_optimizer("adam", learning_rate=1e-3, weight_decay=0.0).build(model.trainable_variables)
    assert 0 < len(compiled) < 40, len(compiled)


@pytest.mark.slow
def test_loading_draws_nothing(tmp_path):
    kseg.build_model("deeplabv3plus", num_classes=3, backbone="resnet18").save(tmp_path / "model.keras")
    jax.clear_caches()
    with compilations() as compiled:
        kseg.load_model(tmp_path / "model.keras")
    assert len(compiled) < 10, len(compiled)
