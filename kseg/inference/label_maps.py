"""Turns pictures into label maps at their own size, by a network for one size and programs of fixed shapes.

One path for every command: LabelMapper here resizes pictures to the network's size; kseg.inference.sliding_window predicts
window by window. Compiled programs depend on the network's size and on a tile's, not on the pictures' sizes.
"""

import abc
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from kseg.data.dataset import IGNORE_INDEX
from kseg.inference.compiled import compile_model
from kseg.metrics.confusion_matrix import confusion_matrices
from kseg.models.ops.resize import resize_tile
from kseg.runtime.distribution import device_count, on_each_device, shard
from kseg.runtime.out_of_memory import is_out_of_memory
from kseg.utils.errors import KsegError

TILE = 256
"""Side of the tiles that label maps of pictures of any size are made of."""
LARGEST_TILE = 512
"""Largest side of the tiles for pictures of a known size."""

Size = tuple[int, int]
"""(height, width)."""


@dataclass(frozen=True)
class Outputs:
    """What is computed beside the labels.

    confidence: the probability of each predicted class. probabilities: those of all classes. matrix: the confusion matrix with
    a given label map.
    """

    confidence: bool = False
    probabilities: bool = False
    matrix: bool = False


@dataclass(frozen=True)
class LabelMap:
    """The labels of one picture, uint8 [H, W], and what Outputs asked for, else None.

    confidence: float32 [H, W]. probabilities: float16 [H, W, C]. matrix: confusion matrix, int32 [C, C].
    """

    labels: np.ndarray
    confidence: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    matrix: np.ndarray | None = None


def best_tile(height: int, width: int) -> Size:
    """Returns a tile, of at most LARGEST_TILE pixels a side, of which pictures of this size need few, and waste little."""
    return -(-height // -(-height // LARGEST_TILE)), -(-width // -(-width // LARGEST_TILE))


class LabelMapper(abc.ABC):
    """Maps pictures to label maps. If memory runs out, the batch size is halved, with a line on stderr, and the work continues.

    Under data_parallel (kseg.runtime.distribution) each device of this process predicts its share of a batch; build the model and
    the mapper, and call it, in that scope.

    Args:
        network: images [B, h, w, 3] to logits [B, h, w, C], or to probabilities.
        batch_size: pictures, or windows, per step.
    """

    what = "images"

    def __init__(self, network: keras.Model, batch_size: int):
        self.network, self.batch_size = network, batch_size
        self._programs: dict[Any, Callable[[Any], Any]] = {}

    @property
    def num_classes(self) -> int:
        return self.network.output.shape[-1]

    @abc.abstractmethod
    def __call__(
        self,
        images: Sequence[np.ndarray],
        sizes: Sequence[Size],
        outputs: Outputs,
        labels: Sequence[np.ndarray] | None = None,
        batch_size: int | None = None,
    ) -> Iterator[LabelMap]:
        """Yields the label map of each picture.

        images: uint8, of the size that the network takes, or for windows the pictures' own. sizes: of the label maps.
        labels: true label maps, uint8 [H, W], for Outputs.matrix. batch_size: at most so many per step, the last of them padded.
        """

    def program(self, key: Any, build: Callable[[], keras.Model]) -> Callable[[Any], Any]:
        """Returns the compiled model that `build` makes; of one key, always the same."""
        if key not in self._programs:
            self._programs[key] = compile_model(build())
        return self._programs[key]

    def run_network(self, images: np.ndarray) -> Any:
        """Returns scores, on the device, for images uint8 [B, h, w, 3]."""
        if (run := getattr(self.network, "run", None)) is not None:  # an exported model
            return shard([run(images)])[0]

        def build() -> keras.Model:
            return keras.Model(self.network.input, self.network.output)

        return self.program(("network", len(images)), build)(shard([images])[0])

    def halve(self, error: Exception, step: int, network_size: Size, size: Size, flag: str) -> None:
        """Halves the batch size if an error is about memory; raises it if not, or if batches of `step` cannot be smaller."""
        if not is_out_of_memory(error):
            raise error
        fewer = step // 2 // device_count() * device_count()
        if not fewer:
            what = self.what if step > 1 else self.what[:-1]
            raise KsegError(
                f"memory ran out with {step} {what} of {_text(network_size)} per step, for an image of {_text(size)}; pass a "
                f"smaller --{flag}, or shrink the image"
            ) from error
        print(f"memory ran out with {step} {self.what} per step; continuing with {fewer}", file=sys.stderr, flush=True)
        self.batch_size = fewer


class ResizedLabelMapper(LabelMapper):
    """Maps pictures that were resized to the network's input size. Its scores are resized to each picture's own size.

    probabilities: the network returns probabilities, not logits. tile: (height, width) of the tiles that label maps are made of;
    one program makes them all.
    """

    def __init__(self, network: keras.Model, batch_size: int, *, probabilities: bool = False, tile: Size = (TILE, TILE)):
        super().__init__(network, batch_size)
        self._probabilities, self._tile = probabilities, tile

    def __call__(
        self,
        images: Sequence[np.ndarray],
        sizes: Sequence[Size],
        outputs: Outputs,
        labels: Sequence[np.ndarray] | None = None,
        batch_size: int | None = None,
    ) -> Iterator[LabelMap]:
        done = 0
        while done < len(images):
            step = min(batch_size or self.batch_size, self.batch_size)
            part = slice(done, done + step)
            try:
                maps = self._predict(step, images[part], sizes[part], outputs, None if labels is None else labels[part])
            except Exception as error:
                self.halve(error, step, images[0].shape[:2], max(sizes[part], key=np.prod), "image_size")
                continue
            yield from maps
            done += step

    def _predict(
        self,
        step: int,
        images: Sequence[np.ndarray],
        sizes: Sequence[Size],
        outputs: Outputs,
        labels: Sequence[np.ndarray] | None,
    ) -> list[LabelMap]:
        batch = np.zeros((step, *images[0].shape), "uint8")
        batch[: len(images)] = images
        padded_sizes = np.ones((step, 2), "int32")
        padded_sizes[: len(images)] = sizes
        scores = self.run_network(batch)
        corners = [[*tiles(size, self._tile)] for size in sizes]
        maps = [MapInParts(size, self.num_classes, outputs) for size in sizes]
        for number in range(max(map(len, corners))):
            # Pictures that have no further tile start beyond their end, which computes nothing.
            starts = padded_sizes.copy()
            for place, own in enumerate(corners):
                if number < len(own):
                    starts[place] = own[number]
            values = [scores, *shard([padded_sizes, starts])]
            if labels is not None:
                values += shard([self._label_tiles(labels, starts)])
            results = self._tile_program(scores.shape, outputs)(values)
            results = results if isinstance(results, list | tuple) else [results]  # Keras returns a single one as it is
            results = [ops.convert_to_numpy(result) for result in results]
            for place, own in enumerate(corners):
                if number < len(own):
                    maps[place].add(own[number], [result[place] for result in results])
        return [found.finished() for found in maps]

    def _label_tiles(self, labels: Sequence[np.ndarray], starts: np.ndarray) -> np.ndarray:
        found = np.full((len(starts), *self._tile), IGNORE_INDEX, "uint8")
        for label, (top, left), tile in zip(labels, starts, found, strict=False):
            part = label[top : top + self._tile[0], left : left + self._tile[1]]
            tile[: part.shape[0], : part.shape[1]] = part
        return found

    def _tile_program(self, scores: tuple[int, ...], outputs: Outputs) -> Callable[[Any], Any]:
        def build() -> keras.Model:
            batch = scores[0]
            inputs = [keras.Input(scores[1:], batch_size=batch), *(keras.Input((2,), batch, dtype="int32") for _ in range(2))]
            if outputs.matrix:
                inputs.append(keras.Input(self._tile, batch, dtype="uint8"))
            return keras.Model(inputs, _LabelTile(self._tile, outputs, self._probabilities)(inputs))

        return self.program((tuple(scores), outputs), build)


class _LabelTile(keras.layers.Layer):
    """Maps (scores [B, h, w, C], size [B, 2], start [B, 2]) to a tile of each label map, uint8 [B, *tile], and to other outputs.

    With outputs.matrix there is a fourth input, the tile of the true label map. Where start is beyond the size, nothing is
    computed.
    """

    def __init__(self, tile: Size, outputs: Outputs, probabilities: bool):
        super().__init__(dtype="float32")
        self.tile, self.outputs, self.probabilities = tile, outputs, probabilities

    def call(self, inputs):
        return on_each_device(self._predict)(*inputs)

    def _predict(self, scores, size, start, label=None):
        def predict(values):
            scores, size, start = values

            def resized():
                return label_outputs(resize_tile(scores, size, start, self.tile), self.outputs, self.probabilities)

            def nothing():
                return tuple(ops.zeros(*spec) for spec in output_specs(self.tile, scores.shape[-1], self.outputs))

            return ops.cond(ops.all(start < size), resized, nothing)

        maps = ops.map(predict, (scores, size, start))
        return (*maps, confusion_matrices(label, maps[0], scores.shape[-1])) if self.outputs.matrix else maps

    def compute_output_spec(self, inputs):
        batch, *_, classes = inputs[0].shape
        specs = output_specs(self.tile, classes, self.outputs)
        found = [keras.KerasTensor((batch, *shape), dtype) for shape, dtype in specs]
        return (*found, keras.KerasTensor((batch, classes, classes), "int32")) if self.outputs.matrix else tuple(found)


def label_outputs(scores: Any, outputs: Outputs, probabilities: bool) -> tuple[Any, ...]:
    """Returns labels uint8 [..., H, W], and the confidence and probabilities that are asked for, of scores [..., H, W, C].

    probabilities: scores are proportional to probabilities, 0 where there are none; else logits.
    """
    found = [ops.cast(ops.argmax(scores, axis=-1), "uint8")]
    if outputs.confidence:
        if probabilities:
            found.append(ops.divide_no_nan(ops.max(scores, axis=-1), ops.sum(scores, axis=-1)))
        else:
            found.append(ops.max(ops.softmax(scores), axis=-1))
    if outputs.probabilities:
        total = ops.sum(scores, axis=-1, keepdims=True)
        every = ops.divide_no_nan(scores, total) if probabilities else ops.softmax(scores)
        found.append(ops.cast(every, "float16"))
    return tuple(found)


def output_specs(size: Size, num_classes: int, outputs: Outputs) -> list[tuple[tuple[int, ...], str]]:
    """Returns (shape, dtype) of each output of label_outputs."""
    specs: list[tuple[tuple[int, ...], str]] = [(size, "uint8")]
    if outputs.confidence:
        specs.append((size, "float32"))
    if outputs.probabilities:
        specs.append(((*size, num_classes), "float16"))
    return specs


class MapInParts:
    """A label map that is put together of rectangles."""

    def __init__(self, size: Size, num_classes: int, outputs: Outputs):
        self._outputs = outputs
        self._maps = [np.empty(shape, dtype) for shape, dtype in output_specs(size, num_classes, outputs)]
        self._matrix = np.zeros((num_classes, num_classes), "int32") if outputs.matrix else None

    def add(self, corner: Size, results: Sequence[np.ndarray], rows: int | None = None) -> None:
        """Adds outputs of label_outputs from (row, column) `corner` on, and with Outputs.matrix the counts.

        What is beyond the size, or beyond the first `rows` rows, is left out.
        """
        top, left = corner
        for whole, part in zip(self._maps, results, strict=False):
            place = whole[top : top + (part.shape[0] if rows is None else rows), left : left + part.shape[1]]
            place[:] = part[: place.shape[0], : place.shape[1]]
        if self._matrix is not None:
            self._matrix += results[-1]

    def finished(self) -> LabelMap:
        labels, *others = self._maps
        names = [name for name in ("confidence", "probabilities") if getattr(self._outputs, name)]
        return LabelMap(labels, matrix=self._matrix, **dict(zip(names, others, strict=True)))


def tiles(size: Size, tile: Size) -> Iterator[Size]:
    """Yields the first (row, column) of each tile that a picture of this size needs."""
    for top in range(0, size[0], tile[0]):
        for left in range(0, size[1], tile[1]):
            yield top, left


def _text(size: Sequence[int]) -> str:
    return f"{size[0]}x{size[1]}"
