"""keras-cv's backbones under keras_cv/<name>, built without a network, dilated on request, for images of any size.

A name is built from keras-cv's base class and the published configuration (keras_cv_tables), then made anew as a graph of plain
Keras layers (keras_cv_graph), which differs from keras-cv's model in this:

- The input is normalised with the ImageNet mean and std, not 0..255.
- output_stride 16 or 8 trades the last strides for dilation: at 16 the convolutions of stride 32 get dilation 2; at 8 those of
  stride 16 get 2 and those of stride 32 get 4; the convolution that gives up its stride counts with those after it, as in smp.
  keras-cv's ResNet V2 strides in the last block of a stage: the blocks before it work at, and are dilated for, the stride before.
- Batch norm has momentum 0.9, PyTorch's default. keras-cv leaves 0.99, and 0.999 in MobileNet: in a run of a few hundred steps
  the moving statistics would then stay near their initial values, and inference would be wrong while training looks right.
- Odd sizes: every strided convolution is padded as "same" for the true size, MiT keeps maps of true height and width, and
  CSPDarkNet's Focus pads a row or column. DenseNet's and VGG's 2x2 pooling still rounds down.
- Depthwise and 1x1 convolutions are kseg's (kseg.models.layers).

keras-cv imports TensorFlow. It is imported when a backbone is built, not before, and a saved model loads without it:
`keras.saving.load_model` needs kseg.models.backbones.keras_cv_layers imported, nothing more.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from kseg.models.backbones.keras_cv_tables import BACKBONES, Family
from kseg.models.backbones.registry import register_backbone
from kseg.utils.errors import KsegError


def build(name: str, *, output_stride: int, input_shape: tuple[int | None, int | None, int], pretrained: bool = False) -> Any:
    """Builds the backbone `name` (without "keras_cv/"). See kseg.models.build.build_backbone.

    pretrained: keras-cv's ImageNet preset, which Kaggle serves, not random weights. The presets were trained on images in 0..1,
    so the backbone then undoes the normalisation in its first layer.
    Raises KsegError for a name that has no preset, or a preset that cannot be fetched.
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
    """Returns the backbone made of make(), a model of the family's keras-cv class.

    copy_weights: take over the model's weights, which see images in 0..1; otherwise the backbone's own are new.
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
    """Returns a model from the input of keras-cv's to its features by level."""
    import keras

    layers = {level: layer or model.pyramid_level_inputs[f"P{level[1:]}"] for level, layer in family.levels.items()}
    return keras.Model(model.input, {level: model.get_layer(layer).output for level, layer in layers.items()})


def _without_values(build: Callable[[], Any]) -> Any:
    """Returns build(), whose variables have shapes but on JAX no values: initialising what is thrown away takes longest."""
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
    if preset not in presets:
        having = [other for other in sorted(BACKBONES) if f"{other}_imagenet" in _keras_cv_class(other).presets_with_weights]
        raise KsegError(
            f"backbone keras_cv/{name} has no imagenet weights; use --backbone_weights=none, or one of those that have them: "
            f"{', '.join(f'keras_cv/{other}' for other in having)}"
        )
    try:
        return _keras_cv_class(name).from_preset(preset, load_weights=True)
    except Exception as error:  # what can go wrong is up to kagglehub, requests, h5py and Keras
        cause: BaseException = error
        while cause.__context__:
            cause = cause.__context__
        reason = " ".join(f"{type(error).__name__}: {cause}".split())
        raise KsegError(
            f"backbone keras_cv/{name}: cannot fetch the preset {preset} ({reason[:160]}); use --backbone_weights=none, or fetch "
            f"it on a machine with a network and copy its {_cache_folder(presets[preset]['kaggle_handle'])} here"
        ) from error


def _cache_folder(kaggle_handle: str) -> Path:
    """Returns the folder in which kagglehub keeps all versions of kaggle://<owner>/<model>/<framework>/<variation>/<version>."""
    root = Path(os.environ.get("KAGGLEHUB_CACHE") or Path.home() / ".cache" / "kagglehub")
    return root.joinpath("models", *kaggle_handle.removeprefix("kaggle://").split("/")[:-1])


for _name, (_family, _) in BACKBONES.items():
    register_backbone(
        f"keras_cv/{_name}",
        partial(build, _name),
        output_strides=_family.output_strides,
        presets={"imagenet": partial(build, _name, pretrained=True)},
    )
