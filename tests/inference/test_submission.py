"""The leaderboard's CSV, written and read."""

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from kseg.inference.submission import read_submission, resize_prediction, write_submission
from kseg.utils.errors import KsegError


@pytest.mark.parametrize("shape", [(512, 512), (360, 480), (50, 41), (257, 255), (1, 1)])
def test_the_rule_is_that_of_pillow_and_of_nearest_exact(rng, shape):
    prediction = rng.integers(0, 255, shape)
    ours = resize_prediction(prediction)
    small = prediction.astype("uint8")
    np.testing.assert_array_equal(ours, np.asarray(Image.fromarray(small).resize((256, 256), Image.Resampling.NEAREST)))
    exact = torch.nn.functional.interpolate(torch.from_numpy(small)[None, None].float(), (256, 256), mode="nearest-exact")
    np.testing.assert_array_equal(ours, exact[0, 0].numpy())
    if shape == (512, 512):
        assert (ours != cv2.resize(small, (256, 256), interpolation=cv2.INTER_NEAREST)).any()


def test_what_is_written_is_read_back_in_order(rng, tmp_path):
    names = ["batch_01_vt/0002.jpg", 'odd, "name".jpg', "0001.jpg"]
    predictions = [rng.integers(0, 12, (300, 200 + i)) for i in range(3)]
    path = tmp_path / "s.csv"
    write_submission(path, zip(names, predictions, strict=True))
    rows = list(read_submission(path))
    assert [name for name, _ in rows] == names
    for (_, ids), prediction in zip(rows, predictions, strict=True):
        np.testing.assert_array_equal(ids, resize_prediction(prediction))
    lines = path.read_text().splitlines()
    assert lines[0] == "image_id,PredictionString"
    assert lines[1].split(",")[1].split(" ")[257] == str(resize_prediction(predictions[0])[1, 1])


def test_lines_are_written_as_predictions_come(tmp_path):
    path = tmp_path / "s.csv"

    def predictions():
        for i in range(3):
            if i == 2:
                assert path.stat().st_size > 100_000  # what came before is not waiting in memory
            yield f"{i}.jpg", np.full((8, 8), i)

    write_submission(path, predictions())
    assert len(list(read_submission(path))) == 3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("image,label\n", "line 1 is not"),
        ("image_id,PredictionString\na.jpg,0 1 2\n", "line 2 is not an image_id with 65536"),
        ("image_id,PredictionString\na.jpg," + " ".join(["x"] * 65536) + "\n", "line 2 is not"),
        ("image_id,PredictionString\na.jpg," + " ".join(["300"] * 65536) + "\n", "line 2 has class id 300"),
    ],
)
def test_what_is_no_submission_is_named(tmp_path, text, says):
    path = tmp_path / "s.csv"
    path.write_text(text)
    with pytest.raises(KsegError, match=says):
        list(read_submission(path))


def test_a_name_with_a_line_break_is_refused(tmp_path):
    with pytest.raises(KsegError, match="line break"):
        write_submission(tmp_path / "s.csv", [("a\nb.jpg", np.zeros((4, 4), int))])
