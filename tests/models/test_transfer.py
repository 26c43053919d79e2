"""Weights between models of one architecture with other classes."""

import keras
import numpy as np
import pytest
from tiny_model import random_model

from kseg.models.build import build_model
from kseg.models.registry import list_models
from kseg.models.transfer import Transfer, transfer_weights
from kseg.utils.errors import KsegError

OLD = ("sky", "road", "car", "tree")
HEADS = {
    "fcn16s": {"decoder_score_fr", "decoder_upscore2", "decoder_score_pool4"},
    "fcn8s": {"decoder_score_fr", "decoder_upscore2", "decoder_score_pool4", "decoder_upscore_pool4", "decoder_score_pool3"},
    "fcn32s": {"decoder_score_fr"},
    "fcn_resnet50": {"classifier_4"},
    "fcn_resnet101": {"classifier_4"},
    "deeplabv3_resnet50": {"classifier_4"},
    "deeplabv3_resnet101": {"classifier_4"},
}


def moved(name, new, old=OLD, **arguments):
    """Returns (source, target as it was initialized, target, Transfer)."""
    source = random_model(name, len(old), **arguments)
    target = build_model(name, num_classes=len(new), **arguments)
    before = {weight.path: keras.ops.convert_to_numpy(weight) for weight in target.weights}
    transfer = transfer_weights(source, target, old, new, lambda count: build_model(name, num_classes=count, **arguments))
    return values(source), before, values(target), transfer


def values(model):
    return {weight.path: keras.ops.convert_to_numpy(weight) for weight in model.weights}


@pytest.mark.parametrize("name", [name for name in list_models() if not name.startswith("test_")])
def test_classes_of_the_same_name_keep_their_rows_in_every_model(name):
    new = ("bus", "car", "sky")
    options = {"fc_filters": 8} if name in ("fcn32s", "fcn16s", "fcn8s") else {}
    source, before, after, transfer = moved(name, new, backbone="vgg11" if name == "segnet" else "test_levels", **options)
    assert set(transfer.head) == HEADS.get(name, {"segmentation_head_0"})
    assert (transfer.kept, transfer.new, transfer.dropped) == (("car", "sky"), ("bus",), ("road", "tree"))
    old_rows, new_rows = [2, 0], [1, 2]
    for path, array in after.items():
        layer = path.rpartition("/")[0]
        if layer not in transfer.head:
            np.testing.assert_array_equal(array, source[path])
        elif "upscore" in layer:  # a kernel [4, 4, classes, classes]
            np.testing.assert_array_equal(array[:, :, new_rows][..., new_rows], source[path][:, :, old_rows][..., old_rows])
            np.testing.assert_array_equal(array[:, :, 0], before[path][:, :, 0])
        else:
            np.testing.assert_array_equal(array[..., new_rows], source[path][..., old_rows])
            np.testing.assert_array_equal(array[..., 0], before[path][..., 0])
    assert transfer.copied == sum(path.rpartition("/")[0] not in transfer.head for path in after)


@pytest.mark.parametrize(
    ("new", "rows"),
    [
        (("car", "tree", "sky", "road"), [2, 3, 0, 1]),
        (("sky", "road", "bus", "tree"), [0, 1, None, 3]),
        (("sky", "road", "car", "tree", "bus", "dog"), [0, 1, 2, 3, None, None]),
        (("a", "b", "c", "d"), [None] * 4),
        (("car",), [2]),
    ],
)
def test_rows_follow_names(new, rows):
    source, before, after, transfer = moved("test_tiny", new)
    for kind in ("kernel", "bias"):
        path = f"segmentation_head_0/{kind}"
        for row, old in enumerate(rows):
            expected = before[path][..., row] if old is None else source[path][..., old]
            np.testing.assert_array_equal(after[path][..., row], expected)
    assert transfer.new == tuple(name for name, old in zip(new, rows, strict=True) if old is None)
    assert transfer.head == ("segmentation_head_0",)


def test_the_same_classes_are_a_plain_copy():
    source, _, after, transfer = moved("test_tiny", OLD)
    assert all((after[path] == source[path]).all() for path in after)
    assert transfer == Transfer(len(after), kept=OLD)


@pytest.mark.parametrize(("new", "head"), [(OLD[:3], ("segmentation_head_0",)), (("a", "b", "c", "d"), ())])
def test_without_names_only_as_many_classes_are_the_same(new, head):
    source, target = random_model("test_tiny", 4), build_model("test_tiny", num_classes=len(new))
    transfer = transfer_weights(source, target, None, new, lambda count: build_model("test_tiny", num_classes=count))
    assert (transfer.head, transfer.kept, transfer.by_name) == (head, (), False)
    assert transfer.new == (new if head else ())


def test_a_width_like_the_number_of_classes_is_no_head():
    """test_tiny's layers have 8 filters: as many as the source has classes."""
    old = tuple("abcdefgh")
    _, _, _, transfer = moved("test_tiny", (*old[:7], "new"), old)
    assert transfer.head == ("segmentation_head_0",)


@pytest.mark.parametrize("new", [OLD, OLD[:2]])
def test_another_architecture_is_refused_and_nothing_changes(new):
    source, target = random_model("test_tiny", 4), build_model("test_conv", num_classes=len(new))
    before = values(target)
    with pytest.raises(KsegError, match="are of another architecture than test_conv: they differ in"):
        transfer_weights(source, target, OLD, new, lambda count: build_model("test_conv", num_classes=count))
    assert all((array == before[path]).all() for path, array in values(target).items())
