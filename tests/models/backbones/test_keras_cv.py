"""keras-cv's backbones: configurations, numbers against keras-cv's own models, dilation, any size, saving, and errors.

Numbers are compared on small members of each family, made with keras-cv's base classes; the published ones are checked
symbolically, without values, because initialising them takes minutes.
"""

import math
import subprocess
import sys
from functools import cache, partial

import jax
import keras
import numpy as np
import pytest

from kseg.models.backbones import keras_cv as kcv
from kseg.models.backbones import keras_cv_tables as tables
from kseg.models.backbones.keras_cv_layers import Focus, TransposedRead, gelu_tanh
from kseg.models.backbones.registry import list_backbones
from kseg.models.build import build_backbone
from kseg.models.layers import NORMALIZATIONS, Conv2D, DepthwiseConv2D, DotProductAttention
from kseg.utils.errors import KsegError

MEAN, STD = (np.asarray(values, "float32") for values in NORMALIZATIONS["imagenet"])

SMALL = {
    "resnet": (tables.RESNET, {**tables._resnet([1, 1, 2, 2], "block"), "stackwise_filters": [4, 4, 8, 8]}),
    "resnet_basic": (tables.RESNET, {**tables._resnet([1, 1, 1, 2], "basic_block"), "stackwise_filters": [64, 4, 8, 8]}),
    "resnet_v2": (tables.RESNET_V2, {**tables._resnet([2, 2, 2, 3], "block"), "stackwise_filters": [4, 4, 8, 8]}),
    "efficientnetv1": (
        tables.EFFICIENTNET_V1,
        {
            "width_coefficient": 0.1,
            "depth_coefficient": 1.0,
            "stackwise_kernel_sizes": [3, 3, 5, 3, 5],
            "stackwise_num_repeats": [1, 1, 1, 1, 2],
            "stackwise_input_filters": [80, 80, 80, 160, 160],
            "stackwise_output_filters": [80, 80, 160, 160, 240],
            "stackwise_expansion_ratios": [1, 2, 2, 2, 2],
            "stackwise_strides": [1, 2, 2, 2, 2],
            "stackwise_squeeze_and_excite_ratios": [0.25] * 5,
        },
    ),
    "efficientnetv2": (
        tables.EFFICIENTNET_V2,
        tables._efficientnet_v2(80, [80, 80, 160, 160, 240, 240], [1, 1, 1, 1, 1, 2], 0.1),
    ),
    "mobilenet_v3": (
        tables.MOBILENET_V3,
        {
            "stackwise_expansion": [1, 2, 2, 2, 2],
            "stackwise_filters": [16, 16, 16, 16, 16],
            "stackwise_kernel_size": [3, 3, 5, 5, 5],
            "stackwise_stride": [2, 2, 2, 2, 1],
            "stackwise_se_ratio": [0.25, None, 0.25, 0.25, 0.25],
            "stackwise_activation": ["relu", "relu", "hard_swish", "hard_swish", "hard_swish"],
        },
    ),
    "densenet": (tables.DENSENET, {"stackwise_num_repeats": [1, 1, 1, 2], "growth_rate": 8}),
    "mit": (tables.MIT, {"depths": [1, 1, 1, 2], "embedding_dims": [8, 16, 20, 32]}),
    "csp_darknet": (tables.CSP_DARKNET, tables._csp_darknet(8, 1)),
    "vgg16": (tables.VGG16, {}),
}
DILATED = [name for name, (family, _) in SMALL.items() if 16 in family.output_strides]


@pytest.fixture(autouse=True, scope="module")
def _initial_values_from_numpy():
    """Keras's random initialisers, on JAX, compile a program for each shape of weight: most of what these tests would do."""
    from keras.src.backend import random

    def replace(draw, normal):
        def cheap(shape, a=0.0, b=1.0, dtype=None, seed=None, **names):
            if not isinstance(seed, int):  # not an initialiser's
                return draw(shape, a, b, dtype=dtype, seed=seed, **names)
            a, b = names.get("mean", names.get("minval", a)), names.get("stddev", names.get("maxval", b))
            rng = np.random.default_rng(seed)
            return (rng.normal(a, b, shape) if normal else rng.uniform(a, b, shape)).astype(dtype or "float32")

        return cheap

    with pytest.MonkeyPatch.context() as patch:
        for name in ("truncated_normal", "uniform"):
            patch.setattr(random, name, replace(getattr(random, name), normal=name != "uniform"))
        yield


@cache
def small(name, input_shape=None):
    """keras-cv's own small model over images in 0..255, with every weight away from its initial value."""
    import keras_cv

    family, config = SMALL[name]
    options = dict(family.options) if input_shape is None else {**family.options, "input_shape": input_shape}
    model = getattr(keras_cv.models, family.class_name)(include_rescaling=True, **options, **config)
    if input_shape is not None:
        model.set_weights(small(name).get_weights())
    else:
        rng = np.random.default_rng(0)
        model.set_weights([w + rng.uniform(0.0, 0.3, w.shape) if w.ndim == 1 else w for w in model.get_weights()])
    return model


@cache
def converted(name, output_stride=32):
    """The backbone with small(name)'s weights."""
    return kcv.convert(lambda: small(name), SMALL[name][0], output_stride=output_stride, copy_weights=True)


def images(height, width):
    return np.random.default_rng(1).uniform(0, 255, (2, height, width, 3)).astype("float32")


def normalised(x):
    return ((x / 255 - MEAN) / STD).astype("float32")


@cache
def features(name, height, width, output_stride=32):
    """What the converted backbone makes of images(height, width)."""
    return run(converted(name, output_stride), normalised(images(height, width)))


def compiled_forward(model, x):
    """Returns (the lowered inference of x, its arguments)."""

    def forward(params, state, x):
        return model.stateless_call(params, state, x, training=False)[0]

    params, state = ([v.value for v in variables] for variables in (model.trainable_variables, model.non_trainable_variables))
    return jax.jit(forward).lower(params, state, x), (params, state, x)


def run(model, x):
    lowered, arguments = compiled_forward(model, x)
    return {level: np.asarray(y) for level, y in lowered.compile()(*arguments).items()}


def assert_close(actual, expected):
    assert actual.keys() == expected.keys()
    for level in expected:
        scale = np.abs(expected[level]).max()
        assert scale > 0
        np.testing.assert_allclose(actual[level] / scale, expected[level] / scale, atol=2e-5, err_msg=level)


# --- The published configurations -----------------------------------------------------------------------------------------------


def multiple_of_8(channels):
    """The nearest multiple of 8 that is at most 10% too small: MobileNet's and EfficientNet's rule."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def expected_params(name):
    """The parameter count that keras-cv states for a name, or where its statement is of something else, what it leaves out."""
    family, config = tables.BACKBONES[name]
    if family is tables.DENSENET or family is tables.VGG16:  # nothing stated: keras.applications has the same networks
        application = getattr(keras.applications, name.replace("densenet", "DenseNet").replace("vgg", "VGG"))
        return kcv._without_values(lambda: application(include_top=False, weights=None)).count_params()
    params = kcv._keras_cv_class(name).presets[name]["metadata"]["params"]
    if family is tables.MIT:  # stated with a classifier of ten classes
        return params - 10 * (config["embedding_dims"][-1] + 1)
    if family is tables.EFFICIENTNET_V1:
        # Stated with an expansion, a 1x1 convolution and a batch norm, in the blocks whose expansion ratio is 1. Neither
        # keras-cv's code nor the paper nor keras.applications has one.
        stem, first = (multiple_of_8(filters * config["width_coefficient"]) for filters in (32, 16))
        repeats = math.ceil(config["depth_coefficient"])
        return params - sum(c * c + 4 * c for c in [stem] + [first] * (repeats - 1))
    if family is tables.MOBILENET_V3:
        # Stated with squeeze-and-excite bottlenecks that are not rounded to multiples of 8, as the code and the paper do.
        widths = {"mobilenet_v3_small": [16, 96, 240, 240, 120, 144], "mobilenet_v3_large": [72, 120, 120, 480, 672, 672]}[name]
        return params + sum((multiple_of_8(w / 4) - w // 4) * (2 * w + 1) for w in widths)
    return params


@pytest.mark.slow
@pytest.mark.parametrize("name", tables.BACKBONES)
def test_published_configuration(name):
    model = kcv._without_values(lambda: kcv.keras_cv_model(name))
    assert model.count_params() == expected_params(name)
    assert f"keras_cv/{name}" in list_backbones()


@pytest.mark.parametrize(
    ("name", "application"),
    [
        ("mobilenet_v3_small", "MobileNetV3Small"),
        ("mobilenet_v3_large", "MobileNetV3Large"),
        ("efficientnetv1_b3", "EfficientNetB3"),
    ],
)
def test_where_the_stated_count_is_off_keras_applications_agrees_with_ours(name, application):
    ours = kcv._without_values(lambda: kcv.keras_cv_model(name)).count_params()
    build = getattr(keras.applications, application)
    theirs = kcv._without_values(lambda: build(include_top=False, weights=None, input_shape=(224, 224, 3)))
    normalisation = sum(math.prod(w.shape) for layer in theirs.layers if layer.name == "normalization" for w in layer.weights)
    assert ours == theirs.count_params() - normalisation


def test_importing_the_backbones_imports_neither_tensorflow_nor_keras_cv():
    code = (
        "import sys, kseg.models.build; from kseg.models.backbones.registry import BACKBONES\n"
        "assert 'keras_cv/mit_b0' in BACKBONES; print(*sys.modules)"
    )
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"tensorflow", "keras_cv"} & set(modules)


# --- Numbers against keras-cv ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_with_its_weights_the_backbone_computes_what_keras_cv_computes(name):
    """Also the proof that a preset's weights would be copied right, and see the images they were trained on."""
    reference = kcv._features(SMALL[name][0], small(name))
    x = images(64, 64)
    assert_close(features(name, 64, 64), run(reference, x))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet", "efficientnetv1", "efficientnetv2", "mobilenet_v3", "densenet"])
def test_an_odd_size_is_computed_as_by_a_keras_cv_model_made_for_it(name):
    reference = kcv._features(SMALL[name][0], small(name, (33, 65, 3)))
    x = images(33, 65)
    assert_close(features(name, 33, 65), run(reference, x))


@pytest.mark.slow
def test_csp_darknet_pads_an_odd_size_to_an_even_one():
    padded = np.pad(images(33, 65), ((0, 0), (0, 1), (0, 1), (0, 0)))
    reference = kcv._features(tables.CSP_DARKNET, small("csp_darknet"))
    expected = run(reference, padded)
    # The backbone pads with zeros after the normalisation was undone, the reference before the division by 255: the same black.
    assert_close(features("csp_darknet", 33, 65), expected)


def test_mit_takes_any_size():
    outputs = features("mit", 33, 65)
    assert {level: y.shape for level, y in outputs.items()} == {
        "c2": (2, 9, 17, 8), "c3": (2, 5, 9, 16), "c4": (2, 3, 5, 20), "c5": (2, 2, 3, 32)
    }  # fmt: skip
    assert all(np.isfinite(y).all() and y.std() > 0 for y in outputs.values())


def test_attention_of_maps():
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=shape).astype("float32") for shape in [(2, 3, 5, 8), (2, 2, 4, 8), (2, 2, 4, 8)])
    expected = np.zeros((2, 15, 8))
    for b in range(2):
        for head in (slice(0, 4), slice(4, 8)):
            scores = q[b].reshape(15, 8)[:, head] @ k[b].reshape(8, 8)[:, head].T / 2.0
            weights = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
            expected[b][:, head] = weights @ v[b].reshape(8, 8)[:, head]
    np.testing.assert_allclose(DotProductAttention(2)([q, k, v]), expected.reshape(2, 3, 5, 8), atol=1e-5)


def test_transposed_read():
    x = np.arange(2 * 3 * 5 * 4, dtype="float32").reshape(2, 3, 5, 4)
    y = np.asarray(TransposedRead()(x))
    assert y.shape == x.shape
    assert y[0].ravel().tolist() == x[0].transpose(2, 0, 1).ravel().tolist()
    np.testing.assert_array_equal(TransposedRead(inverse=True)(y), x)


@pytest.mark.parametrize("size", [(4, 6), (5, 6), (4, 7), (5, 7)])
def test_focus(size):
    x = np.random.default_rng(0).normal(size=(1, *size, 2)).astype("float32")
    p = np.pad(x, ((0, 0), (0, size[0] % 2), (0, size[1] % 2), (0, 0)))
    expected = np.concatenate([p[:, ::2, ::2], p[:, 1::2, ::2], p[:, ::2, 1::2], p[:, 1::2, 1::2]], axis=-1)
    np.testing.assert_array_equal(Focus()(x), expected)
    assert Focus().compute_output_shape(x.shape) == expected.shape


# --- Dilation -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DILATED)
def test_dilation_leaves_the_finer_levels_as_they_were(name):
    plain, dilated = features(name, 64, 64), features(name, 64, 64, output_stride=8)
    for level in ("c1", "c2", "c3"):
        np.testing.assert_array_equal(dilated[level], plain[level])
    assert dilated["c4"].shape[1:3] == dilated["c5"].shape[1:3] == (8, 8)


@pytest.mark.parametrize("output_stride", [16, 8])
@pytest.mark.parametrize("size", [(64, 64), (33, 65)])
def test_dilated_bottleneck_resnet_contains_the_plain_one(output_stride, size):
    """Its strides are on 1x1 convolutions, so the dilated network computes the plain one's values and others between them."""
    plain, dilated = features("resnet", *size), features("resnet", *size, output_stride)
    for level in ("c4", "c5"):
        step = 2 ** int(level[1]) // output_stride
        np.testing.assert_allclose(dilated[level][:, ::step, ::step], plain[level], atol=1e-4 * np.abs(plain[level]).max())


# name -> (prefixes of the layers at stride 16, prefixes of those at stride 32); ResNet V2 strides at the end of a stage.
STAGES = {
    "resnet50": (("v2_stack_2_",), ("v2_stack_3_",)),
    "resnet50_v2": (("v2_stack_2_block6", "v2_stack_3_block1", "v2_stack_3_block2"), ("v2_stack_3_block3",)),
    "efficientnetv1_b0": (("block4", "block5"), ("block6", "block7")),
    "efficientnetv2_b0": (("block4", "block5"), ("block6",)),
    "mobilenet_v3_small": (tuple(f"expanded_conv_{i}_" for i in range(3, 8)), tuple(f"expanded_conv_{i}_" for i in (8, 9, 10))),
}


@pytest.mark.slow
@pytest.mark.parametrize("output_stride", [16, 8])
@pytest.mark.parametrize("name", STAGES)
def test_convolutions_beyond_the_output_stride_are_dilated_and_have_no_stride(name, output_stride):
    model = kcv._without_values(lambda: build_backbone(f"keras_cv/{name}", output_stride=output_stride))
    seen = set()
    for layer in model.layers:
        if not isinstance(layer, (Conv2D, DepthwiseConv2D)):
            assert not isinstance(layer, (keras.layers.Conv2D, keras.layers.DepthwiseConv2D))
            continue
        stride = 16 * layer.name.startswith(STAGES[name][0]) + 32 * layer.name.startswith(STAGES[name][1])
        lost = max(1, stride // output_stride)
        if lost > 1:
            assert layer.strides == (1, 1), layer.name
        if layer.kernel_size != (1, 1):
            assert layer.dilation_rate == (lost, lost), layer.name
            seen.add(lost)
    assert seen == {16: {1, 2}, 8: {1, 2, 4}}[output_stride]

    forward = jax.eval_shape(lambda x: model(x), jax.ShapeDtypeStruct((1, 33, 65, 3), "float32"))
    for level, feature in forward.items():
        stride = min(2 ** int(level[1]), output_stride)
        assert feature.shape[1:3] == (math.ceil(33 / stride), math.ceil(65 / stride)), level


# --- What the graph is made of --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["densenet121", "mit_b0", "csp_darknet_tiny", "vgg16"])
def test_levels_of_the_families_that_cannot_be_dilated(name):
    model = kcv._without_values(lambda: build_backbone(f"keras_cv/{name}"))
    assert model.name == "backbone"
    assert model.input_shape == (None, None, None, 3)
    for height, width in [(64, 96), (33, 65)]:
        shape = jax.ShapeDtypeStruct((1, height, width, 3), "float32")
        for level, feature in jax.eval_shape(lambda x: model(x), shape).items():
            stride = 2 ** int(level[1])
            assert 0 <= math.ceil(height / stride) - feature.shape[1] <= height % 2, level
            assert 0 <= math.ceil(width / stride) - feature.shape[2] <= width % 2, level
    with pytest.raises(KsegError, match=f"keras_cv/{name} cannot have output_stride=16"):
        build_backbone(f"keras_cv/{name}", output_stride=16)


@pytest.mark.parametrize("name", SMALL)
def test_batch_norm_and_depthwise_convolutions_are_ours(name):
    model = converted(name)
    assert {layer.momentum for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)} <= {0.9}
    depthwise = [layer for layer in model.layers if isinstance(layer, keras.layers.DepthwiseConv2D)]
    assert all(type(layer) is DepthwiseConv2D for layer in depthwise)
    assert bool(depthwise) == (name in ("efficientnetv1", "efficientnetv2", "mobilenet_v3", "mit"))


def test_layer_names_and_random_weights_depend_on_the_model_and_the_seed_alone():
    def build():
        keras.utils.set_random_seed(3)
        family, config = SMALL["mobilenet_v3"]
        make = partial(kcv._keras_cv_class("mobilenet_v3_small"), include_rescaling=False, **config)
        return kcv.convert(make, family, copy_weights=False)

    first, second = build(), build()
    assert [layer.name for layer in first.layers] == [layer.name for layer in second.layers]
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert first.get_layer("Conv").kernel.numpy().std() > 0


def test_an_input_of_static_size_and_other_channels():
    family, config = SMALL["mobilenet_v3"]
    make = partial(kcv._keras_cv_class("mobilenet_v3_small"), include_rescaling=False, **config)
    model = kcv.convert(make, family, output_stride=16, input_shape=(32, 48, 4), copy_weights=False)
    assert model.input_shape == (None, 32, 48, 4)
    assert model.output["c1"].shape[:3] == (None, 16, 24)
    assert model.output["c5"].shape[:3] == (None, 2, 3)


def test_mit_drops_the_branches_of_single_images_as_often_as_keras_cv():
    layers = [layer for layer in converted("mit").layers if isinstance(layer, keras.layers.Dropout)]
    assert [round(layer.rate, 4) for layer in layers] == [rate for rate in (0.025, 0.05, 0.075, 0.1) for _ in range(2)]
    assert all(tuple(layer.noise_shape) == (None, 1, 1, 1) for layer in layers)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_saved_and_loaded(name, tmp_path):
    """The loaded model has the same weights and lowers to the same program, so it computes the same to the last bit."""
    model = converted(name, 16 if name in DILATED else 32)
    model.save(tmp_path / "backbone.keras")
    loaded = keras.saving.load_model(tmp_path / "backbone.keras")
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    (expected, _), (actual, _) = (compiled_forward(m, normalised(images(33, 65))) for m in (model, loaded))
    assert actual.as_text() == expected.as_text()


@pytest.mark.parametrize("name", SMALL)
def test_no_layer_is_keras_cvs(name):
    modules = {type(layer).__module__ for layer in converted(name).layers}
    ours = {"kseg.models.layers", "kseg.models.backbones.keras_cv_layers"}
    assert all(module in ours or module.startswith("keras.") for module in modules)


@pytest.mark.slow
def test_a_saved_model_loads_without_keras_cv_or_tensorflow(tmp_path):
    x = inputs = keras.Input((None, None, 8))
    for layer in (Focus(), TransposedRead(), keras.layers.Activation(gelu_tanh), DepthwiseConv2D(3)):
        x = layer(x)
    keras.Model(inputs, DotProductAttention(2)([x, x, x])).save(tmp_path / "model.keras")
    code = (
        "import sys, keras, kseg.models.backbones.keras_cv_layers\n"
        "keras.saving.load_model(sys.argv[1])\n"
        "assert not {'tensorflow', 'keras_cv'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "model.keras"], check=True, capture_output=True)


# --- Weights --------------------------------------------------------------------------------------------------------------------


def test_a_preset_that_cannot_be_fetched_is_one_line_that_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # nobody listens there: also a machine with a network fails, at once
    with pytest.raises(KsegError) as error:
        build_backbone("keras_cv/resnet50", weights="imagenet")
    message = str(error.value)
    assert message.startswith("backbone keras_cv/resnet50: cannot fetch the preset resnet50_imagenet (")
    assert "--backbone_weights=none" in message
    assert "\n" not in message
    assert str(tmp_path / "models/keras/resnetv1/keras/resnet50_imagenet") in message


def test_the_table_of_presets_is_keras_cvs():
    having = {name for name in tables.BACKBONES if f"{name}_imagenet" in kcv._keras_cv_class(name).presets_with_weights}
    assert having == tables.IMAGENET_PRESETS


def test_a_name_without_a_preset_lists_those_that_have_one():
    with pytest.raises(KsegError, match=r"keras_cv/resnet101 has no weights 'imagenet'.* pass none") as error:
        build_backbone("keras_cv/resnet101", weights="imagenet")
    having = str(error.value).rpartition(": ")[2].split(", ")
    assert having == [
        f"keras_cv/{name}"
        for name in (
            "csp_darknet_l", "csp_darknet_tiny", "densenet121", "densenet169", "densenet201", "efficientnetv2_b0",
            "efficientnetv2_b1", "efficientnetv2_b2", "efficientnetv2_s", "mit_b0", "mobilenet_v3_large", "mobilenet_v3_small",
            "resnet50", "resnet50_v2",
        )
    ]  # fmt: skip


@pytest.mark.slow
def test_other_weights_are_refused():
    with pytest.raises(KsegError, match="keras_cv/resnet50 has no weights 'noisy-student'; it has imagenet"):
        build_backbone("keras_cv/resnet50", weights="noisy-student")
