"""What holds for every registered model and backbone, cheaply: names, docs and errors."""

import keras
import pytest

from kseg.models.backbones.registry import BACKBONES, list_backbones
from kseg.models.build import build_model
from kseg.models.registry import MODELS, list_models
from kseg.utils.errors import KsegError


@pytest.mark.parametrize("name", list_models())
def test_a_model_is_documented_and_has_a_backbone_that_fits(name):
    entry = MODELS[name]
    assert entry.build.__doc__
    assert entry.info["backbone"] in BACKBONES
    assert entry.info["output_stride"] in BACKBONES[entry.info["backbone"]].info["output_strides"]


@pytest.mark.parametrize("name", list_backbones())
def test_a_backbone_refuses_a_stride_it_has_not(name):
    with pytest.raises(KsegError, match=f"backbone {name} cannot have output_stride=64"):
        build_model("deeplabv3plus", num_classes=2, backbone=name, output_stride=64)


def test_every_model_and_backbone_of_the_diary_is_there():
    assert {"fcn16s", "segnet", "deeplabv3", "deeplabv3plus", "unet", "deeplabv3_resnet50", "deeplabv3_resnet101"} <= set(
        list_models()
    )
    wanted = {"vgg16", "vgg16_bn", "resnet50", "resnet101", "resnext50_32x4d", "se_resnext50_32x4d"}
    assert wanted | {"timm-efficientnet-b0", "timm-efficientnet-b4", "tf_efficientnet_b0"} <= set(list_backbones())


SIZES = ((32, 32), (33, 47), (64, 97))
LIGHT = {"segnet": "vgg11_bn"} | {f"fcn{stride}s": "vgg11" for stride in (8, 16, 32)}


def traced_logits(policy, name, sizes=SIZES, **options):
    """Shapes and dtypes of the logits at some sizes, with nothing computed: weights and maps are only traced."""
    import jax

    def forward():
        model = build_model(name, num_classes=3, **options)
        return [model(jax.numpy.zeros((2, *size, 3), "uint8"), training=True) for size in sizes]

    keras.config.set_dtype_policy(policy)
    try:
        return [(x.shape, str(x.dtype)) for x in jax.eval_shape(forward)]
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="traced by JAX")
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("name", list_models())
def test_a_model_gives_float32_logits_of_the_images_size(name, policy):
    found = traced_logits(policy, name, backbone=LIGHT.get(name))
    assert found == [((2, *size, 3), "float32") for size in SIZES]


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="traced by JAX")
@pytest.mark.parametrize("name", list_backbones())
def test_every_backbone_carries_a_decoder_at_odd_sizes_in_mixed_precision(name):
    stride = 32 if 32 in BACKBONES[name].info["output_strides"] else 8
    found = traced_logits("mixed_bfloat16", "deeplabv3plus", [(33, 47)], backbone=name, output_stride=stride)
    assert found == [((2, 33, 47, 3), "float32")]
