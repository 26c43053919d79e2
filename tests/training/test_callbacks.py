"""The order of a run's callbacks, and the names under which checkpoints keep their state."""

from kseg.config import DataConfig, OptimizationConfig, SelectionConfig, TrackingConfig, TrainConfig
from kseg.data import build_dataset
from kseg.runtime.run_dir import RunDir
from kseg.runtime.signals import StopRequest
from kseg.training.callbacks import build_callbacks
from kseg.training.run_data import RunData

ORDER = [
    "TrainState", "Progress", "ReleaseFreedMemory", "FreezeBackbone", "AverageWeights", "TimeEstimate", "StopOnNonFinite",
    "WarnOnUnlabelledBatches", "WarnOnPlateau", "MetricsLog", "TensorBoard", "EarlyStopping", "Checkpoint",
]  # fmt: skip


def test_the_order_and_the_names_of_states(tiny_coco, tmp_path):
    config = TrainConfig(
        optimization=OptimizationConfig(ema=0.9, freeze_backbone_epochs=1),
        selection=SelectionConfig(early_stopping=2),
        tracking=TrackingConfig(tensorboard=True),
    )
    val = build_dataset(DataConfig(dataset="coco", data_dir=str(tiny_coco)), "val")
    data = RunData(train=val, val=val, skipped=[], class_weights=None)
    callbacks = build_callbacks(config, RunDir(tmp_path), data, StopRequest(), steps=3, resume_from=None)
    assert [type(callback).__name__ for callback in callbacks.in_order] == ORDER
    assert callbacks.in_order[0] is callbacks.train_state and callbacks.in_order[-1] is callbacks.checkpoint
    assert list(callbacks.checkpoint.stateful) == ["AverageWeights", "WarnOfStillLoss", "EarlyStopping", "Checkpoint"]
