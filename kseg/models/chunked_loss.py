"""Computes loss and metrics in chunks of rows, so that full-size logits never exist as a whole.

Full-size logits take num_classes * 4 bytes per pixel; cross entropy and its gradient take two to three times that. With 150
classes this is more than the rest of the network. Here each chunk of rows is resized, reduced to sums and discarded. The backward
pass resizes it again.
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from kseg.models.layers import Resize
from kseg.models.ops.resize import interpolation, resize_by
from kseg.models.training_model import TrainingModel
from kseg.utils.errors import KsegError


@keras.saving.register_keras_serializable("kseg", name="Banded")  # the name in files of earlier versions
class ChunkedLoss(TrainingModel):
    """A model that outputs the decoder's small logits [B, h, w, C] and computes loss and metrics from full-size ones in chunks.

    Loss, gradients and metrics equal those of the full model to float32 rounding. The loss given to compile needs the method
    `terms` (kseg.CrossEntropy). JAX only. with_chunked_loss makes such a model; full_model makes the full model of it.
    """

    SETTINGS = {"bands": "chunks", "align_corners": "align_corners"}  # "bands" in files of earlier versions
    chunks = 1
    align_corners = True

    def full_model(self) -> keras.Model:
        """Returns the model for inference: the same layers, then the resize to the image's size."""
        resize = Resize(self.align_corners, dtype="float32", name="logits")
        return keras.Model(self.input, resize([self.output, self.input]), name=self.name)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        def sums(logits, label):
            terms, weights = self.loss.terms(label, logits)
            return ops.sum(weights * terms), ops.sum(weights)

        total, weight = self._map_chunks(sums, y, y_pred)
        total, weight = ops.sum(total), ops.sum(weight)
        return total / ops.where(weight > 0, weight, 1.0)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        def classes(logits, label):
            return ops.argmax(logits, axis=-1)

        rows = ops.moveaxis(self._map_chunks(classes, y, y_pred), 0, 1)  # [B, chunks, rows of a chunk, W]
        predicted = ops.reshape(rows, (y.shape[0], -1, y.shape[2]))[:, : y.shape[1]]
        return super().compute_metrics(x, y, predicted, sample_weight)

    def _map_chunks(self, function: Callable[[Any, Any], Any], label: Any, small: Any) -> Any:
        """Returns function(logits, label) of every chunk, stacked. label: [B, H, W]. small: the decoder's logits [B, h, w, C].

        function gets logits [B, R, W, C] and label [B, R, W]. Rows of the last chunk below the image are ignored pixels.
        """
        import jax

        height, width = label.shape[1:3]
        size = -(-height // self.chunks)
        beyond = size * self.chunks - height
        label = ops.pad(label, ((0, 0), (0, beyond), (0, 0)), constant_values=self.loss.ignore_index)
        label = ops.moveaxis(ops.reshape(label, (label.shape[0], self.chunks, size, width)), 1, 0)
        small = ops.cast(small, "float32")
        rows = interpolation(small.shape[1], height, self.align_corners, "float32")
        rows = ops.reshape(ops.pad(rows, ((0, beyond), (0, 0))), (self.chunks, size, -1))
        columns = interpolation(small.shape[2], width, self.align_corners, "float32")

        @jax.checkpoint  # the backward pass keeps a chunk's inputs only
        def chunk(small, some_rows, some_labels):
            return function(resize_by(some_rows, columns, small), some_labels)

        return jax.lax.map(lambda item: chunk(small, *item), (rows, label))


def with_chunked_loss(model: keras.Model, chunks: int) -> ChunkedLoss:
    """Returns a model with the same layers, except the last resize, that computes loss and metrics in `chunks` chunks.

    model: build_model's, without auxiliary head. Raises KsegError on another backend than JAX, and for a decoder whose logits
    have the image's size already, where chunks would save nothing.
    """
    if keras.backend.backend() != "jax":
        raise KsegError(f"--loss_chunks={chunks}: needs the JAX backend, and this is {keras.backend.backend()}; leave it out")
    resize = model.operations[-1]
    small, images = resize.input
    result = ChunkedLoss(images, small, name=model.name)
    if result.compute_output_shape((1, 64, 64, images.shape[-1]))[1:3] == (64, 64):
        raise KsegError(f"--loss_chunks={chunks}: the decoder of {model.name} ends at the image's size itself; leave it out")
    result.chunks, result.align_corners = chunks, resize.align_corners
    return result
