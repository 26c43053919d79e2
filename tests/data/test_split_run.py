"""--val_fraction through a run directory: evaluate scores the images that the run validates on."""

import keras
import pytest

from kseg.config import DataConfig, EvaluateConfig, TrainConfig
from kseg.data import build_dataset
from kseg.inference.evaluate import evaluate
from kseg.inference.predictor import Predictor
from kseg.models.saving import save_model
from kseg.runtime.run_dir import RunDir


@pytest.mark.slow
def test_evaluate_scores_the_images_that_validated(tiny_coco, tmp_path):
    data = DataConfig(dataset="coco", data_dir=str(tiny_coco), val_fraction=0.3, split_seed=3)
    config = TrainConfig(data=data, image_size=(32, 32), batch_size=2)
    run = RunDir(tmp_path / "run")
    run.create(config, [])
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, keras.layers.Conv2D(4, 1)(keras.layers.Rescaling(1 / 255)(inputs)))
    save_model(model, run.model)
    held_out = build_dataset(data, config.val_split)
    expected = Predictor(model, held_out, image_size=(32, 32), batch_size=2).evaluate()
    evaluation, trained = evaluate(EvaluateConfig(model=str(run.path)))
    assert (trained.split, len(evaluation.matrices)) == ("train@val", 3)
    assert (evaluation.matrices == expected.matrices).all()
    whole, _ = evaluate(EvaluateConfig(model=str(run.path), split="val"))
    assert len(whole.matrices) == 5
