import keras
import numpy as np
import pytest

from kseg.metrics.confusion_matrix import ConfusionMatrix, _count_by_adding, _count_by_comparing, confusion_matrices
from kseg.metrics.scores import scores

pytestmark = pytest.mark.backends


def count_with_numpy(label, prediction, num_classes, ignore_index=255):
    """The definition: counts pixel by pixel."""
    matrix = np.zeros((num_classes, num_classes), "int64")
    for t, p in zip(label.ravel(), prediction.ravel(), strict=True):
        if t != ignore_index:
            matrix[t, p] += 1
    return matrix


@pytest.fixture
def split(rng):
    """Ten images with different class frequencies, which makes averaging go wrong; a tenth of the pixels is ignored."""
    label = (rng.integers(0, 5, (10, 12, 14)) * (np.arange(10)[:, None, None] % 3 > 0)).astype("uint8")
    logits = rng.normal(size=(10, 12, 14, 5)).astype("float32")
    logits[..., 0] += (label == 0) * 1.5
    label[rng.random(label.shape) < 0.1] = 255
    return label, logits


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 3, 8, 10])
def test_counts_do_not_depend_on_the_batch_size(split, batch_size):
    label, logits = split
    metric = ConfusionMatrix(5)
    for start in range(0, len(label), batch_size):
        metric.update_state(label[start : start + batch_size], logits[start : start + batch_size])
    expected = count_with_numpy(label, logits.argmax(-1), 5)
    np.testing.assert_array_equal(metric.confusion_matrix(), expected)
    assert float(metric.result()) == pytest.approx(scores(expected).mean_iou, rel=1e-6)


def test_counts_per_image(split):
    label, logits = split
    found = keras.ops.convert_to_numpy(confusion_matrices(label, logits.argmax(-1), 5))
    for i in range(len(label)):
        np.testing.assert_array_equal(found[i], count_with_numpy(label[i], logits[i].argmax(-1), 5))


def test_both_ways_to_count_agree(rng):
    """A GPU counts by comparing, a CPU by adding."""
    cell = rng.integers(0, 10, (3, 50)).astype("int32")
    expected = [np.bincount(row, minlength=10)[:9] for row in cell]
    for count in (_count_by_adding, _count_by_comparing):
        counts = keras.ops.convert_to_numpy(count(keras.ops.convert_to_tensor(cell), 9))
        assert counts.dtype == "int32"
        np.testing.assert_array_equal(counts, expected)


def test_counts_are_exact_past_2_to_the_31(rng):
    """4096 x 1024 pixels a step, 600 steps: 2.5e9 pixels in one cell, where int32 wraps and float32 stops counting at 2**24."""
    label = np.zeros((1, 4096, 1024), "uint8")
    label[0, 0, :3] = 1
    logits = np.zeros((1, 4096, 1024, 2), "float32")
    logits[..., 0] = 1
    metric = ConfusionMatrix(2)
    steps = 600
    metric.update_state(label, logits)
    # The remaining steps through the same variables: adding what one step counted, as update_state does after counting.
    once = metric.confusion_matrix()
    for _ in range(steps - 1):
        metric.add_counts(once.astype("int32"))
    expected = np.array([[4096 * 1024 - 3, 0], [3, 0]], "int64") * steps
    assert expected[0, 0] > 2**31
    np.testing.assert_array_equal(metric.confusion_matrix(), expected)
    assert float(metric.result()) == pytest.approx(scores(expected).mean_iou, rel=1e-6)


def test_reset():
    metric = ConfusionMatrix(2)
    metric.update_state(np.zeros((1, 4, 4), "uint8"), np.ones((1, 4, 4, 2), "float32"))
    metric.reset_state()
    assert metric.confusion_matrix().sum() == 0
    assert float(metric.result()) == 0.0


def test_scores_by_hand():
    #                  predicted 0  1  2  3
    matrix = np.array([[6, 2, 0, 0], [1, 3, 0, 0], [0, 0, 0, 0], [4, 0, 0, 0]])
    found = scores(matrix)
    np.testing.assert_allclose(found.iou, [6 / 13, 3 / 6, np.nan, 0 / 4])
    np.testing.assert_allclose(found.dice, [12 / 19, 6 / 9, np.nan, 0])
    assert found.mean_iou == pytest.approx(
        (6 / 13 + 3 / 6 + 0) / 3
    )  # class 2 is absent and left out, class 3 is missed and is not
    np.testing.assert_allclose(found.precision, [6 / 11, 3 / 5, np.nan, np.nan])
    np.testing.assert_allclose(found.recall, [6 / 8, 3 / 4, np.nan, 0])
    assert found.mean_precision == pytest.approx((6 / 11 + 3 / 5) / 2)  # class 3 is never predicted, and has no precision
    assert found.mean_class_accuracy == pytest.approx((6 / 8 + 3 / 4 + 0) / 3)
    assert found.frequency_weighted_iou == pytest.approx((8 * 6 / 13 + 4 * 3 / 6 + 0) / 16)
    assert found.pixel_accuracy == pytest.approx(9 / 16)
    assert found.constant_mean_iou == pytest.approx(8 / 16 / 3)


def test_a_class_that_is_only_predicted_counts():
    assert scores(np.array([[3, 1], [0, 0]])).mean_iou == pytest.approx((3 / 4 + 0) / 2)


def test_scores_of_nothing_are_nan():
    assert np.isnan(scores(np.zeros((3, 3), "int64")).mean_iou)


def test_the_mean_over_batches_is_another_number(split):
    """The mean of per-batch mIoUs, on the same predictions, is a different number."""
    label, logits = split
    matrices = [count_with_numpy(label[i : i + 1], logits[i : i + 1].argmax(-1), 5) for i in range(10)]
    averaged = np.mean([scores(matrix).mean_iou for matrix in matrices])
    assert abs(averaged - scores(np.sum(matrices, axis=0)).mean_iou) > 0.02


def test_metric_round_trips_through_its_config():
    metric = keras.metrics.deserialize(keras.metrics.serialize(ConfusionMatrix(7, ignore_index=254)))
    assert (metric.num_classes, metric.ignore_index, metric.name) == (7, 254, "mean_iou")
