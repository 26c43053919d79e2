"""Checks of every sample: reported samples, remaining samples, and the Subset."""

import threading

import numpy as np
import pytest

from kseg.data.check import Subset, check_samples
from kseg.data.dataset import BadSample, Dataset, Sample
from kseg.utils.errors import KsegError


class Numbers:
    """Sample i is an image of value i; those in `bad` cannot be loaded."""

    class_names = ("a", "b")
    ignore_index = 255

    def __init__(self, count, bad=()):
        self.count, self.bad, self.loaded, self.threads = count, set(bad), [], set()

    def __len__(self):
        return self.count

    def load(self, index):
        self.loaded.append(index)
        self.threads.add(threading.get_ident())
        if index in self.bad:
            raise BadSample(f"{self.name(index)}: is bad.")
        return Sample(np.full((2, 3, 3), index % 256, np.uint8), np.zeros((2, 3), np.uint8), self.name(index))

    def name(self, index):
        return f"{index}.jpg"

    def size(self, index):
        return index, index + 1


def test_a_good_data_set_is_returned_itself_and_every_sample_is_loaded_once():
    dataset = Numbers(200)
    checked, messages = check_samples(dataset)
    assert checked is dataset
    assert messages == []
    assert sorted(dataset.loaded) == list(range(200))
    assert threading.get_ident() not in dataset.threads


def test_error_names_the_first_bad_sample_and_the_way_out():
    with pytest.raises(KsegError) as error:
        check_samples(Numbers(1000, bad=(999, 700, 31)), "error")
    assert str(error.value) == "31.jpg: is bad. Fix the file, or pass --on_bad_sample=skip."


def test_error_stops_early():
    dataset = Numbers(5000, bad=(5,))
    with pytest.raises(KsegError):
        check_samples(dataset)
    assert len(dataset.loaded) < 5000


def test_skip_leaves_the_bad_ones_out_and_lists_them_in_order():
    checked, messages = check_samples(Numbers(6, bad=(4, 1)), "skip")
    assert isinstance(checked, Dataset)
    assert messages == ["1.jpg: is bad.", "4.jpg: is bad."]
    assert len(checked) == 4
    assert [checked.name(i) for i in range(4)] == ["0.jpg", "2.jpg", "3.jpg", "5.jpg"]
    assert checked.size(1) == (2, 3)
    assert (checked.load(3).image == 5).all()
    assert (checked.class_names, checked.ignore_index) == (("a", "b"), 255)


def test_nothing_left():
    with pytest.raises(KsegError, match=r"^all 3 samples are bad; the first: 0.jpg: is bad. Fix the files.$"):
        check_samples(Numbers(3, bad=(0, 1, 2)), "skip")
    with pytest.raises(KsegError, match=r"^the data set has no samples"):
        check_samples(Numbers(0))


def test_unknown_choice():
    with pytest.raises(KsegError, match=r"^on_bad_sample is 'ignore'; choose error or skip.$"):
        check_samples(Numbers(1), "ignore")


def test_other_exceptions_are_not_swallowed(monkeypatch):
    dataset = Numbers(3)
    monkeypatch.setattr(dataset, "load", lambda index: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        check_samples(dataset, "skip")


def test_a_short_check_shows_no_bar_and_a_long_one_does(capsys, monkeypatch):
    check_samples(Numbers(50))
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("kseg.data.check._PROGRESS_AFTER", 0.0)
    check_samples(Numbers(50))
    captured = capsys.readouterr()
    assert "checking samples" in captured.err
    assert captured.out == ""
    check_samples(Numbers(50), progress=False)
    assert capsys.readouterr().err == ""


def test_subset():
    subset = Subset(Numbers(5), [3, 0, 3])
    assert [subset.name(i) for i in range(len(subset))] == ["3.jpg", "0.jpg", "3.jpg"]
    assert subset.load(-1).name == "3.jpg"
    with pytest.raises(IndexError):
        subset.load(3)
    for outside in (5, -1):
        with pytest.raises(IndexError):
            Subset(Numbers(5), [outside])
