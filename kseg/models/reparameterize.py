"""Turns networks that were trained with parallel branches into the form for prediction, which computes the same in less time."""

import keras

from kseg.models.auxiliary_head import inference_model
from kseg.models.backbone import Backbone
from kseg.models.backbones.mobileone import fused_form
from kseg.models.build import precision
from kseg.models.pytorch.export import export_torch_weights
from kseg.models.pytorch.load import load_torch_weights


def reparameterize_model(model: keras.Model) -> keras.Model:
    """Returns a model that computes the same with one convolution for each sum of branches of its MobileOne (arXiv:2206.04040).

    model: a model, or a backbone alone. It is not changed. One without MobileOne, or with its fused form, is returned as it is.
    The result has no auxiliary head, and the outputs differ by rounding alone. It is for prediction: it has no batch norm in the
    backbone. It equals a model on the backbone of the same name with `_fused`.
    """
    if isinstance(model, Backbone):
        return _fused_backbone(model) or model
    model = inference_model(model)
    fused = {layer.name: _fused_backbone(layer) for layer in model.layers if isinstance(layer, Backbone)}
    if not any(fused.values()):
        return model
    clone = keras.models.clone_model(model, clone_function=lambda layer: fused.get(layer.name) or _clone(layer))
    for layer in clone.layers:
        if layer.name not in fused:
            layer.set_weights(model.get_layer(layer.name).get_weights())
    return clone


def _clone(layer: keras.Layer) -> keras.Layer:
    return layer.__class__.from_config(layer.get_config())


def _fused_backbone(backbone: Backbone) -> Backbone | None:
    """Returns the fused form with the same weights; None if the backbone has no branches."""
    with precision(backbone.layers[1].dtype_policy.name):
        network = fused_form(backbone)
    if network is None:
        return None
    fused = Backbone(network.inputs[0], network.output, name=backbone.name).up_to(max(backbone.output))
    if backbone.registered_name is not None:
        fused.registered_name = f"{backbone.registered_name}_fused"
    load_torch_weights(fused, export_torch_weights(backbone))
    return fused
