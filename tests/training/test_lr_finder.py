"""The learning-rate finder."""

import re

import numpy as np
import pytest
from PIL import Image
from tiny_model import flags

from kseg import find_lr
from kseg.config import LrFinderConfig
from kseg.training.lr_finder import LrFinderResult, moving_average
from kseg.utils.errors import KsegError


def test_a_suggestion(tiny_coco, tmp_path, capsys):
    picture = tmp_path / "rates.png"
    arguments = flags(tiny_coco, tmp_path / "run", "--augment=light", f"--output={picture}", "--lr_steps=40", "--lr_max=1000")
    find_lr.main(arguments)
    last = capsys.readouterr().out.splitlines()[-1]
    suggestion, lowest = map(
        float, re.match(r"--learning_rate=(\S+) \(where the loss falls fastest; it is lowest at (\S+)\)", last).groups()
    )
    assert 1e-6 < suggestion < lowest < 1000
    assert last.endswith(f", {picture}")
    with Image.open(picture) as drawn:
        assert drawn.size == (1008, 576)
    assert not (tmp_path / "run").exists()


def test_it_stops_where_the_loss_diverges(tiny_coco, tmp_path, monkeypatch):
    found = {}
    monkeypatch.setattr("kseg.training.lr_finder.write_picture", lambda path, what: found.update(what=what))
    more = ("--lr_steps=60", "--lr_min=1e-3", "--lr_max=1e30", f"--output={tmp_path / 'x.png'}")
    find_lr.main(flags(tiny_coco, tmp_path / "run", *more))
    found = found["what"]
    assert 5 < len(found.losses) < 60 and np.isfinite(found.losses).all()
    np.testing.assert_allclose(found.rates[1] / found.rates[0], 1e33 ** (1 / 59))


def test_the_steepest_descent():
    rates = np.logspace(-6, 0, 121)
    losses = 1 / (1 + (rates / 1e-3)) + 10 * np.maximum(np.log10(rates) + 1, 0)  # fall around 1e-3, diverge from 0.1 on
    found = LrFinderResult(rates, losses)
    assert found.suggestion == pytest.approx(1e-3, rel=0.3)
    assert 0.01 < rates[found.lowest] < 0.1
    assert LrFinderResult(rates, 1 + rates).suggestion is None
    assert "no suggestion: the loss does not fall between 1e-06 and 1" in LrFinderResult(rates, 1 + rates).summary()


def test_the_moving_average():
    np.testing.assert_allclose(moving_average(np.full(30, 3.0)), 3.0)
    np.testing.assert_allclose(moving_average(np.array([1.0, 2.0])), [1.0, (0.9 * 1 + 2) / 1.9])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"lr_min": 0.0}, "--lr_min=0.0: must be more than 0"),
        ({"lr_min": 2.0}, "less than --lr_max=1.0"),
        ({"lr_steps": 3}, "--lr_steps=3: must be at least 10"),
    ],
)
def test_misuse(more, message):
    with pytest.raises(KsegError, match=message):
        LrFinderConfig(**more)


def test_a_picture_that_cannot_be_written(tiny_coco, tmp_path):
    with pytest.raises(KsegError, match=r"--output=.*: the folder .*nowhere does not exist"):
        find_lr.main(flags(tiny_coco, tmp_path / "run", f"--output={tmp_path}/nowhere/x.png"))
