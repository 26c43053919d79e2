"""Loss and scores over bands of rows, so that logits of the image's size never exist as a whole.

They take num_classes * 4 bytes a pixel, cross entropy and its gradient two or three times that: of 150 classes more than the rest
of a network. Here a band of rows is resized, judged and forgotten, and resized again for its gradient.
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from kseg.models.layers import Resize
from kseg.models.ops.resize import interpolation, resize_by
from kseg.models.training_model import TrainingModel
from kseg.utils.errors import KsegError


@keras.saving.register_keras_serializable("kseg", name="Banded")  # the name that files of earlier versions have
class ChunkedLoss(TrainingModel):
    """A model whose output is logits at the decoder's own size, before the last resize. It trains and is judged on those of the
    labels' size, a band of rows at a time; loss, gradients and metrics are the whole model's to float32 rounding.

    The loss that compile is given must have `terms` (kseg.CrossEntropy). JAX only. Made by `banded`; `whole` is the way back.
    """

    SETTINGS = {"bands": "chunks", "align_corners": "align_corners"}  # "bands": its name in files of earlier versions
    chunks = 1
    align_corners = True

    def full_model(self) -> keras.Model:
        """The model to use: the same layers, and the resize to the image's size."""
        resize = Resize(self.align_corners, dtype="float32", name="logits")
        return keras.Model(self.input, resize([self.output, self.input]), name=self.name)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        def sums(logits, label):
            terms, weights = self.loss.terms(label, logits)
            return ops.sum(weights * terms), ops.sum(weights)

        total, weight = self._over_bands(sums, y, y_pred)
        total, weight = ops.sum(total), ops.sum(weight)
        return total / ops.where(weight > 0, weight, 1.0)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        def classes(logits, label):
            return ops.argmax(logits, axis=-1)

        rows = ops.moveaxis(self._over_bands(classes, y, y_pred), 0, 1)  # [B, bands, rows of a band, W]
        predicted = ops.reshape(rows, (y.shape[0], -1, y.shape[2]))[:, : y.shape[1]]
        return super().compute_metrics(x, y, predicted, sample_weight)

    def _over_bands(self, function: Callable[[Any, Any], Any], label: Any, small: Any) -> Any:
        """Returns function(logits, label) of every band, stacked: logits [B, R, W, C], label [B, R, W], ignored below the image.

        label: [B, H, W]. small: [B, h, w, C].
        """
        import jax

        height, width = label.shape[1:3]
        size = -(-height // self.chunks)
        beyond = size * self.chunks - height
        label = ops.pad(label, ((0, 0), (0, beyond), (0, 0)), constant_values=self.loss.ignore_index)
        label = ops.moveaxis(ops.reshape(label, (label.shape[0], self.chunks, size, width)), 1, 0)
        small = ops.cast(small, "float32")
        rows = interpolation(small.shape[1], height, self.align_corners, None, "float32")
        rows = ops.reshape(ops.pad(rows, ((0, beyond), (0, 0))), (self.chunks, size, -1))
        columns = interpolation(small.shape[2], width, self.align_corners, None, "float32")

        @jax.checkpoint  # what is kept of a band for its gradient is what it is made of
        def band(small, some_rows, some_labels):
            return function(resize_by(some_rows, columns, small), some_labels)

        return jax.lax.map(lambda item: band(small, *item), (rows, label))


def with_chunked_loss(model: keras.Model, bands: int) -> ChunkedLoss:
    """Returns the model, of the same layers but for its last resize, that computes its loss and its scores in so many bands.

    model: build_model's, of one head. Raises KsegError on another backend than JAX, and for a decoder that ends at the image's
    size itself, of which nothing would be saved.
    """
    if keras.backend.backend() != "jax":
        raise KsegError(f"--loss_chunks={bands}: needs the JAX backend, and this is {keras.backend.backend()}; leave it out")
    resize = model.output._keras_history.operation
    small, images = resize.input
    result = ChunkedLoss(images, small, name=model.name)
    if result.compute_output_shape((1, 64, 64, images.shape[-1]))[1:3] == (64, 64):
        raise KsegError(f"--loss_chunks={bands}: the decoder of {model.name} ends at the image's size itself; leave it out")
    result.chunks, result.align_corners = bands, resize.align_corners
    return result
