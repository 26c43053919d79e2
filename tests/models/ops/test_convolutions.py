"""The CPU forms against the library's convolution, forward and both gradients."""

import re

import keras
import numpy as np
import pytest

from kseg.models.layers import Conv2D, DepthwiseConv2D, MaxPooling2D
from kseg.models.ops import convolutions

pytestmark = pytest.mark.backends

jax_only = pytest.mark.backends("jax")  # which alone has forms of its own for the CPU

CASES = [  # height, width, kernel, stride, dilation, padding
    (8, 9, 3, 1, 1, "same"),
    (8, 9, 3, 1, 1, "valid"),
    (9, 8, 3, 2, 1, "same"),
    (8, 9, 3, 2, 1, "valid"),
    (11, 7, 5, 2, 1, "same"),
    (10, 13, 5, 3, 1, "valid"),
    (7, 8, 3, 1, 6, "same"),  # taps that only ever meet the padding
    (13, 12, 3, 1, 2, "valid"),
    (5, 6, 1, 2, 1, "same"),
    (6, 5, 2, 1, 1, "same"),
]


def library_conv(x, kernel, stride, dilation, padding, groups=1):
    import jax

    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding.upper(), rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups,
    )  # fmt: skip


def check_against_library(rng, ours, library, x, k, *, forward=1e-4, gradients=1e-4):
    """Results and both gradients of ours(x, k), jitted, are library(x, k)'s. forward, gradients: what they may differ by."""
    import jax

    expected, expected_vjp = jax.vjp(library, x, k)
    found, found_vjp = jax.vjp(jax.jit(ours), x, k)
    np.testing.assert_allclose(found, expected, rtol=forward, atol=forward)
    dy = rng.normal(size=expected.shape).astype("float32")
    for ours_gradient, library_gradient in zip(found_vjp(dy), expected_vjp(dy), strict=True):
        np.testing.assert_allclose(ours_gradient, library_gradient, rtol=1e-4, atol=gradients)


@jax_only
@pytest.mark.parametrize(("height", "width", "kernel", "stride", "dilation", "padding"), CASES)
def test_depthwise_equals_the_library(rng, height, width, kernel, stride, dilation, padding):
    x = rng.normal(size=(2, height, width, 6)).astype("float32")
    k = rng.normal(size=(kernel, kernel, 6, 1)).astype("float32")

    def ours(x, k):
        return convolutions.depthwise_conv2d(x, k, strides=(stride,) * 2, padding=padding, dilation_rate=(dilation,) * 2)

    def library(x, k):
        return library_conv(x, k.reshape(kernel, kernel, 1, 6), stride, dilation, padding, groups=6)

    check_against_library(rng, ours, library, x, k, forward=1e-5)


@jax_only
@pytest.mark.parametrize(("height", "width", "kernel", "stride", "dilation", "padding"), CASES)
def test_grouped_equals_the_library(rng, height, width, kernel, stride, dilation, padding):
    x = rng.normal(size=(2, height, width, 6)).astype("float32")
    k = rng.normal(size=(kernel, kernel, 2, 9)).astype("float32")

    def ours(x, k):
        return convolutions.grouped_conv2d(x, k, groups=3, strides=(stride,) * 2, padding=padding, dilation_rate=(dilation,) * 2)

    check_against_library(rng, ours, lambda x, k: library_conv(x, k, stride, dilation, padding, groups=3), x, k)


@jax_only
@pytest.mark.parametrize(
    ("height", "width", "kernel", "stride", "dilation", "padding"), [*CASES, (3, 2, 7, 1, 1, "same"), (5, 6, 3, 2, 12, "same")]
)
def test_by_taps_equals_the_library(rng, monkeypatch, height, width, kernel, stride, dilation, padding):
    monkeypatch.setattr(convolutions, "_by_taps_is_faster", lambda *_: True)
    x = rng.normal(size=(2, height, width, 4)).astype("float32")
    k = rng.normal(size=(kernel, kernel, 4, 3)).astype("float32")

    def ours(x, k):
        return convolutions.conv2d(x, k, strides=(stride,) * 2, padding=padding, dilation_rate=(dilation,) * 2)

    check_against_library(rng, ours, lambda x, k: library_conv(x, k, stride, dilation, padding), x, k)
    half = ours(x.astype("bfloat16"), k.astype("bfloat16"))
    assert half.dtype == "bfloat16"
    expected = library_conv(x, k, stride, dilation, padding)
    np.testing.assert_allclose(np.asarray(half, "float32"), expected, rtol=0.05, atol=0.2)


@jax_only
@pytest.mark.parametrize(
    ("size", "channels", "filters", "kernel", "dilation", "by_taps"),
    [
        ((16, 16), 2048, 256, 3, 12, True),  # an ASPP's branch
        ((16, 16), 512, 4096, 7, 1, True),  # FCN's fc6
        ((64, 64), 2048, 256, 3, 12, False),
        ((8, 8), 512, 512, 3, 1, False),
        ((16, 16), 64, 64, 3, 12, False),
    ],
)
def test_convolutions_that_are_computed_by_taps(size, channels, filters, kernel, dilation, by_taps):
    import jax

    def conv(x, k):
        return convolutions.conv2d(x, k, padding="same", dilation_rate=(dilation, dilation))

    shapes = (1, *size, channels), (kernel, kernel, channels, filters)
    step = jax.jit(jax.grad(lambda x, k: conv(x, k).sum(), argnums=(0, 1)))
    traced = step.trace(*(jax.ShapeDtypeStruct(shape, "float32") for shape in shapes))
    assert ("convolution" not in traced.lower(lowering_platforms=("cpu",)).as_text()) == by_taps
    assert "convolution" in traced.lower(lowering_platforms=("cuda",)).as_text()


@jax_only
@pytest.mark.parametrize(("size", "stride"), [(3, 2), (2, 2), (3, 1), (2, 3)])
def test_max_pool_equals_the_library(rng, size, stride):
    """Where values are equal (there are five in all), the gradient goes to the same one."""
    import jax

    x = rng.integers(0, 5, (2, 11, 8, 3)).astype("float32")

    def library(x):
        return jax.lax.reduce_window(x, -np.inf, jax.lax.max, (1, size, size, 1), (1, stride, stride, 1), "VALID")

    expected, expected_vjp = jax.vjp(library, x)
    found, found_vjp = jax.vjp(jax.jit(lambda x: convolutions.max_pool2d(x, (size, size), (stride, stride))), x)
    np.testing.assert_array_equal(found, expected)
    dy = rng.integers(-4, 5, expected.shape).astype("float32")  # so that sums of overlapping windows are exact
    np.testing.assert_array_equal(found_vjp(dy)[0], expected_vjp(dy)[0])


@jax_only
def test_a_pool_in_bfloat16_has_its_gradient(rng):
    import jax

    x = rng.normal(size=(1, 6, 6, 2)).astype("bfloat16")
    value, vjp = jax.vjp(lambda x: convolutions.max_pool2d(x, (3, 3), (2, 2)), x)
    (gradient,) = vjp(np.ones(value.shape, "bfloat16"))
    assert value.dtype == gradient.dtype == "bfloat16"
    assert np.asarray(gradient, "float32").sum() == value.size


@jax_only
@pytest.mark.parametrize(
    ("groups", "channels", "results", "together"), [(8, 16, 8, 2), (4, 32, 24, 1), (32, 2, 3, 16), (32, 32, 1, 2), (2, 3, 5, 2)]
)
def test_blocks_of_groups_equal_the_library(rng, groups, channels, results, together):
    x = rng.normal(size=(2, 6, 5, groups * channels)).astype("float32")
    k = rng.normal(size=(3, 3, channels, groups * results)).astype("float32")
    assert convolutions._groups_per_block(groups, channels) == together

    def ours(x, k):
        return convolutions.grouped_conv2d(x, k, groups=groups, padding="same")

    check_against_library(rng, ours, lambda x, k: library_conv(x, k, 1, 1, "same", groups), x, k, gradients=1e-3)


@jax_only
def test_the_cpu_program_holds_no_grouped_convolution(rng):
    """What the lowering is for: the slow operation is gone from the compiled program, forward and backward."""
    import jax

    x, k = rng.normal(size=(1, 8, 8, 4)).astype("float32"), rng.normal(size=(3, 3, 4, 1)).astype("float32")

    def program(step, *arguments):
        return step.trace(*arguments).lower(lowering_platforms=("cpu",)).as_text()

    step = jax.jit(jax.grad(lambda x, k: convolutions.depthwise_conv2d(x, k, padding="same").sum(), argnums=(0, 1)))
    assert "convolution" not in program(step, x, k)
    assert program(step, x, k).count("stablehlo.while") == 1  # the kernel's gradient: compiled once for all taps
    grouped = rng.normal(size=(3, 3, 2, 6)).astype("float32")
    step = jax.jit(jax.grad(lambda x, k: convolutions.grouped_conv2d(x, k, groups=2).sum(), argnums=(0, 1)))
    counts = re.findall(r"(?:feature|batch)_group_count = (\d+)", program(step, x, grouped))
    assert counts and set(counts) == {"1"}
    for strides in ((1, 1), (2, 2)):
        step = jax.jit(
            jax.grad(lambda x, k, strides=strides: convolutions.pointwise_conv2d(x, k, strides=strides).sum(), argnums=(0, 1))
        )
        assert "convolution" not in program(step, x, rng.normal(size=(1, 1, 4, 3)).astype("float32"))
    step = jax.jit(jax.grad(lambda x: convolutions.max_pool2d(x, (3, 3), (2, 2)).sum()))
    assert "select_and_scatter" not in program(step, x)


@jax_only
def test_other_platforms_keep_the_library_form(rng):
    import jax

    x, k = rng.normal(size=(1, 8, 8, 4)).astype("float32"), rng.normal(size=(3, 3, 4, 1)).astype("float32")

    def count(platform, dilation):
        conv = jax.jit(lambda x, k: convolutions.depthwise_conv2d(x, k, padding="same", dilation_rate=(dilation, dilation)))
        return jax.export.export(conv, platforms=[platform])(x, k).mlir_module().count("stablehlo.convolution")

    assert (count("cuda", 1), count("cuda", 2), count("tpu", 2)) == (1, 0, 1)


@jax_only
def test_vmap_and_bfloat16(rng):
    import jax

    x = rng.normal(size=(3, 2, 6, 7, 4)).astype("float32")
    k = rng.normal(size=(3, 3, 4, 1)).astype("float32")
    conv = jax.jit(lambda x: convolutions.depthwise_conv2d(x, k, padding="same"))
    np.testing.assert_allclose(jax.vmap(conv)(x), np.stack([conv(one) for one in x]), rtol=1e-6, atol=1e-6)
    half = convolutions.depthwise_conv2d(x[0].astype("bfloat16"), k.astype("bfloat16"), padding="same")
    assert half.dtype == "bfloat16"
    np.testing.assert_allclose(np.asarray(half, "float32"), conv(x[0]), rtol=0.05, atol=0.05)


@pytest.mark.parametrize(("stride", "dilation", "padding"), [(1, 1, "same"), (2, 1, "same"), (1, 3, "same"), (2, 1, "valid")])
def test_depthwise_layer_is_a_drop_in(rng, stride, dilation, padding):
    """Our layer and Keras's, from one config and one set of weights, on whichever backend runs."""
    ours = DepthwiseConv2D(3, strides=stride, dilation_rate=dilation, padding=padding, activation="relu")
    theirs = keras.layers.DepthwiseConv2D.from_config(ours.get_config())
    x = rng.normal(size=(2, 9, 12, 5)).astype("float32")
    ours.build(x.shape)
    theirs.build(x.shape)
    ours.set_weights([rng.normal(size=w.shape) for w in ours.get_weights()])
    theirs.set_weights(ours.get_weights())
    np.testing.assert_allclose(keras.ops.convert_to_numpy(ours(x)), keras.ops.convert_to_numpy(theirs(x)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("size", "stride", "padding"), [(3, 2, "valid"), (2, None, "valid"), (3, 2, "same")])
def test_max_pool_layer_is_a_drop_in(rng, size, stride, padding):
    ours = MaxPooling2D(size, stride, padding)
    theirs = keras.layers.MaxPooling2D.from_config(ours.get_config())
    x = rng.normal(size=(2, 9, 12, 5)).astype("float32")
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(ours(x)), keras.ops.convert_to_numpy(theirs(x)))
    assert ours.compute_output_shape((None, None, 12, 5)) == theirs.compute_output_shape((None, None, 12, 5))


@pytest.mark.slow
@pytest.mark.parametrize(("kernel", "stride", "groups"), [(1, 1, 1), (1, 2, 1), (3, 1, 1), (3, 2, 3), (3, 1, 3)])
def test_conv_layer_is_a_drop_in(rng, kernel, stride, groups):
    ours = Conv2D(9, kernel, strides=stride, padding="same", groups=groups)
    theirs = keras.layers.Conv2D.from_config(ours.get_config())
    x = rng.normal(size=(2, 9, 12, 6)).astype("float32")
    ours.build(x.shape)
    theirs.build(x.shape)
    ours.set_weights([rng.normal(size=w.shape) for w in ours.get_weights()])
    theirs.set_weights(ours.get_weights())
    np.testing.assert_allclose(keras.ops.convert_to_numpy(ours(x)), keras.ops.convert_to_numpy(theirs(x)), rtol=1e-5, atol=1e-5)


@jax_only
@pytest.mark.parametrize(
    ("function", "kernel", "options", "groups"),
    [
        (convolutions.depthwise_conv2d, (5, 5, 4, 1), {"strides": (2, 2), "padding": "same"}, 4),
        (convolutions.depthwise_conv2d, (3, 3, 4, 1), {"padding": "same", "dilation_rate": (12, 12)}, 4),
        (convolutions.grouped_conv2d, (3, 3, 2, 4), {"groups": 2, "strides": (2, 2), "padding": "same"}, 2),
        (convolutions.pointwise_conv2d, (1, 1, 4, 6), {"strides": (2, 2)}, 1),
    ],
)
def test_one_program_for_every_size_equals_the_library(rng, function, kernel, options, groups):
    import jax

    kernel = rng.normal(size=kernel).astype("float32")
    shape = jax.export.symbolic_shape("1, h, w, 4", constraints=["h >= 8", "w >= 8"])
    program = jax.jit(lambda x: function(x, kernel, **options))
    exported = jax.export.export(program, platforms=("cpu", "cuda"))(jax.ShapeDtypeStruct(shape, "float32"))
    stride, dilation = options.get("strides", (1, 1))[0], options.get("dilation_rate", (1, 1))[0]
    library_kernel = kernel.reshape(*kernel.shape[:2], 4 // groups, -1)
    for size in ((8, 27), (31, 14)):
        x = rng.normal(size=(1, *size, 4)).astype("float32")
        expected = library_conv(x, library_kernel, stride, dilation, options.get("padding", "valid"), groups)
        np.testing.assert_allclose(exported.call(x), expected, rtol=1e-4, atol=1e-4)
