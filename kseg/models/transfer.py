"""Transfers weights between models of one architecture that have other classes: classes of the same name keep their rows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from kseg.models.initializers import skip_random_init
from kseg.utils.errors import KsegError


@dataclass(frozen=True)
class Transfer:
    """The result of transfer_weights.

    copied: the number of weights that were copied as they are. head: the layers that have a row for each class, if they were made
    anew. kept, new: names of the target's classes that have the source's rows, and of those that have not. dropped: names of the
    source's classes that the target lacks. by_name: False if the source does not name its classes.
    """

    copied: int
    head: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    by_name: bool = True


def transfer_weights(
    source: keras.Model,
    target: keras.Model,
    source_classes: Sequence[str] | None,
    target_classes: Sequence[str],
    rebuild: Callable[[int], keras.Model],
) -> Transfer:
    """Copies the weights of a trained model to one of the same architecture, and the rows of the classes that both have.

    New classes keep the target's initial weights. Without the source's names, equal numbers of classes count as the same classes.
    source, target: from images to logits [B, H, W, classes]. rebuild: builds the target with another number of classes.

    Raises KsegError, without changing the target, if the architectures differ.
    """
    theirs, ours = ({weight.path: weight for weight in model.weights} for model in (source, target))
    their_count, count = source.output.shape[-1], len(target_classes)
    names = tuple(source_classes) if source_classes is not None and len(source_classes) == their_count else None
    if names is None:
        rows = {i: i for i in range(count)} if count == their_count else {}
    else:
        rows = {i: names.index(name) for i, name in enumerate(target_classes) if name in names}
    same = count == their_count and all(row == i for i, row in rows.items()) and len(rows) == count
    other, other_count = _shapes(theirs), their_count
    if not same and count == their_count:  # then only a third number of classes shows which axes are classes
        with skip_random_init():
            other, other_count = _shapes({weight.path: weight for weight in rebuild(count + 1).weights}), count + 1
    axes = {path: _class_axes(other.get(path, ()), shape, (other_count, count)) for path, shape in _shapes(ours).items()}
    layouts = [{(path, _without(shape, axes.get(path, ()))) for path, shape in _shapes(w).items()} for w in (theirs, ours)]
    if differing := sorted(layouts[0] ^ layouts[1]):
        raise KsegError(f"the weights are of another architecture than {target.name}: they differ in {differing[0][0]}")
    for path, weight in ours.items():
        weight.assign(_with_rows(weight, theirs[path], axes[path], rows) if axes[path] else theirs[path])
    return Transfer(
        copied=sum(not found for found in axes.values()),
        head=tuple(dict.fromkeys(path.rpartition("/")[0] for path, found in axes.items() if found)),
        kept=tuple(target_classes[i] for i in rows) if names is not None else (),
        new=tuple(name for i, name in enumerate(target_classes) if i not in rows),
        dropped=tuple(name for name in names or () if name not in target_classes),
        by_name=names is not None,
    )


def _shapes(weights: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {path: tuple(weight.shape) for path, weight in weights.items()}


def _class_axes(theirs: tuple[int, ...], ours: tuple[int, ...], counts: tuple[int, int]) -> tuple[int, ...]:
    """Returns the axes of a weight that are as long as each model has classes. counts: the two models', which differ."""
    if counts[0] == counts[1]:
        return ()
    return tuple(axis for axis, sizes in enumerate(zip(theirs, ours, strict=False)) if sizes == counts)


def _without(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(0 if axis in axes else size for axis, size in enumerate(shape))


def _with_rows(ours: Any, theirs: Any, axes: tuple[int, ...], rows: Mapping[int, int]) -> np.ndarray:
    """Returns our values with their rows. rows: their index by ours, along each of the axes."""
    values, source = (keras.ops.convert_to_numpy(weight) for weight in (ours, theirs))
    values = np.array(values)
    put = [np.fromiter(rows, int) if axis in axes else np.arange(size) for axis, size in enumerate(values.shape)]
    take = [np.fromiter(rows.values(), int) if axis in axes else np.arange(size) for axis, size in enumerate(values.shape)]
    values[np.ix_(*put)] = source[np.ix_(*take)]
    return values
