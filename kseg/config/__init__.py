"""What a run is told: frozen dataclasses, validated, JSON both ways. Knows neither absl nor Keras.

Every field carries its help text and group, from which kseg.flags makes the command line; a config may hold others, whose flags
stand beside its own.
"""

from kseg.config.data import MAX_PIXELS, TRAIN_PART, VAL_PART, DataConfig, DataOverrides
from kseg.config.fields import build, flatten, leaves
from kseg.config.find_rate import FindRateConfig
from kseg.config.report import ReportConfig
from kseg.config.tools import ConvertConfig, InspectConfig, ShardsConfig
from kseg.config.train import (
    DeviceConfig,
    ObjectiveConfig,
    OptimizationConfig,
    SelectionConfig,
    TrackingConfig,
    TrainConfig,
    TrialConfig,
    better,
)
from kseg.config.use import EvaluateConfig, ExportConfig, PredictConfig, TrainedConfig

__all__ = [
    "MAX_PIXELS",
    "TRAIN_PART",
    "VAL_PART",
    "ConvertConfig",
    "DataConfig",
    "DataOverrides",
    "DeviceConfig",
    "EvaluateConfig",
    "ExportConfig",
    "FindRateConfig",
    "InspectConfig",
    "ObjectiveConfig",
    "OptimizationConfig",
    "PredictConfig",
    "ReportConfig",
    "SelectionConfig",
    "ShardsConfig",
    "TrackingConfig",
    "TrainConfig",
    "TrainedConfig",
    "TrialConfig",
    "better",
    "build",
    "flatten",
    "leaves",
]
