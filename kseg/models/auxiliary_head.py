"""Deep supervision: trains a model with an auxiliary head, and drops the head for inference."""

import keras

from kseg.models.chunked_loss import ChunkedLoss
from kseg.models.training_model import TrainingModel


@keras.saving.register_keras_serializable("kseg")
class DeeplySupervised(TrainingModel):
    """A model of {"logits": ..., "auxiliary": ...} that trains on the losses of both heads and is evaluated on its logits.

    fit minimises loss(label, logits) + auxiliary_weight * loss(label, auxiliary), with the loss given to compile, and logs this
    sum as "loss". Metrics and val_loss are of the logits, under the names of a model with one head. Made by deeply_supervised.
    """

    SETTINGS = {"auxiliary_weight": "auxiliary_weight"}
    auxiliary_weight = 0.0

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss = super().compute_loss(x, y, y_pred["logits"], sample_weight, training)
        if training and self.auxiliary_weight:
            loss = loss + self.auxiliary_weight * self.loss(y, y_pred["auxiliary"], sample_weight)
        return loss

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        return super().compute_metrics(x, y, y_pred["logits"], sample_weight)


def deeply_supervised(model: keras.Model, auxiliary_weight: float) -> DeeplySupervised:
    """Returns a model with the same layers that trains on both heads. model: build_model's with auxiliary=True."""
    supervised = DeeplySupervised(model.input, model.output, name=model.name)
    supervised.auxiliary_weight = auxiliary_weight
    return supervised


def inference_model(model: keras.Model, *, classification: bool = False) -> keras.Model:
    """Returns the model from images to logits, with the same layers.

    Drops an auxiliary and a classification head, and adds the last resize to a ChunkedLoss. Any other model is returned as it is.
    classification: keep a classification head: the result then returns {"logits": ..., "classification": ...}.
    """
    if isinstance(model, ChunkedLoss):
        return model.full_model()
    if not isinstance(model.output, dict):
        return model
    if classification and "classification" in model.output:
        kept = {head: model.output[head] for head in ("logits", "classification")}
        return keras.Model(model.input, kept, name=model.name)
    return keras.Model(model.input, model.output["logits"], name=model.name)
