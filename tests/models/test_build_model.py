"""What build_model adds to a decoder: normalisation, float32 logits; a saved model; mistakes."""

import keras
import numpy as np
import pytest
import tiny_model  # noqa: F401  (registers test_conv)

import kseg
from kseg.models.build import build_model
from kseg.models.layers import Normalize
from kseg.utils.errors import KsegError


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(1)
    return build_model("test_conv", num_classes=5)


@pytest.fixture
def image(rng):
    return rng.integers(0, 256, (1, 33, 48, 3)).astype("uint8")


def test_uint8_and_float_images_are_the_same_to_it(model, image):
    np.testing.assert_array_equal(model.predict_on_batch(image), model.predict_on_batch(image.astype("float32")))


def test_the_model_normalises_and_none_leaves_it_to_the_caller(model, image):
    bare = build_model("test_conv", num_classes=5, normalization=None)
    bare.set_weights(model.get_weights())
    mean, std = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))
    normalised = ((image / 255.0 - mean) / std).astype("float32")
    np.testing.assert_allclose(bare.predict_on_batch(normalised), model.predict_on_batch(image), rtol=1e-3, atol=1e-4)
    assert not any(isinstance(layer, Normalize) for layer in bare.layers)


def test_another_mean_and_std():
    layer = build_model("test_conv", num_classes=2, normalization=((0.5,) * 3, (0.25,) * 3)).get_layer("normalize")
    np.testing.assert_allclose(keras.ops.convert_to_numpy(layer(np.full((1, 1, 1, 3), 255, "uint8"))), np.full((1, 1, 1, 3), 2.0))


def test_mixed_precision_leaves_the_logits_float32(image):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = build_model("test_conv", num_classes=3)
    finally:
        keras.config.set_dtype_policy("float32")
    assert model.get_layer("segmentation_head_0").compute_dtype == "bfloat16"
    logits = model.predict_on_batch(image)
    assert logits.dtype == "float32"
    assert np.isfinite(logits).all()


def test_saved_and_loaded_it_is_the_same_model(model, image, tmp_path):
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        kseg.load_model(tmp_path / "model.keras").predict_on_batch(image), model.predict_on_batch(image)
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "deeplabv3+"}, r"unknown model 'deeplabv3\+'; did you mean deeplabv3"),
        ({"backbone": "resnet19"}, "unknown backbone 'resnet19'; did you mean resnet1"),
        ({"num_classes": 0}, "num_classes must be at least 1, not 0"),
        (
            {"output_stride": 4},
            "backbone keras_cv/resnet18 cannot have output_stride=4 .* use output_stride=8, 16, 32",
        ),
        (
            {"name": "fcn_resnet50", "output_stride": 16},
            "resnet50 cannot have output_stride=16 .* use output_stride=8",
        ),
        (
            {"backbone": "vgg16", "output_stride": 16},
            r"vgg16 cannot have output_stride=16 \(its layers cannot be dilated\)",
        ),
        ({"input_shape": (31, 64, 3)}, "height and width must be at least 32"),
        ({"normalization": "imagnet", "backbone": "resnet18"}, "unknown normalization 'imagnet'"),
    ],
)
def test_what_cannot_be_built_says_why(options, message):
    with pytest.raises(KsegError, match=message):
        build_model(**{"name": "deeplabv3plus", "num_classes": 2, **options})


def test_importing_kseg_is_light():
    """Neither `import kseg` nor models, losses and metrics import TensorFlow, keras-cv, torch or albumentations."""
    import subprocess
    import sys

    code = """if True:
        import sys
        for name in ("tensorflow", "keras_cv", "torch", "albumentations"):
            sys.modules[name] = None  # an import of it fails
        import kseg
        assert "keras" not in sys.modules
        import kseg.models, kseg.losses, kseg.metrics.confusion_matrix
        kseg.ConfusionMatrix(2)
        kseg.CrossEntropy()
    """
    subprocess.run([sys.executable, "-c", code], check=True)
