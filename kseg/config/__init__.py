"""What a run is told: frozen dataclasses, validated, JSON both ways. Knows neither absl nor Keras.

Every field carries its help text and group, from which kseg.config.command_line makes the command line; a config may hold others, whose flags
stand beside its own.
"""

from kseg.config.data import MAX_PIXELS, TRAIN_PART, VAL_PART, DataConfig, DataOverrides
from kseg.config.export import ExportConfig
from kseg.config.fields import build, flag_lines, flatten, leaves
from kseg.config.inference import EvaluateConfig, TrainedConfig
from kseg.config.lr_finder import LrFinderConfig
from kseg.config.predict import VIDEO_CODECS, PredictConfig
from kseg.config.report import ReportConfig
from kseg.config.share import DemoConfig, HubConfig
from kseg.config.tools import ConvertConfig, InspectConfig, ShardsConfig
from kseg.config.train import (
    DebugConfig,
    DeviceConfig,
    ObjectiveConfig,
    OptimizationConfig,
    SelectionConfig,
    TrackingConfig,
    TrainConfig,
    better,
)

__all__ = [
    "MAX_PIXELS",
    "TRAIN_PART",
    "VAL_PART",
    "VIDEO_CODECS",
    "ConvertConfig",
    "DataConfig",
    "DataOverrides",
    "DebugConfig",
    "DemoConfig",
    "DeviceConfig",
    "EvaluateConfig",
    "ExportConfig",
    "HubConfig",
    "InspectConfig",
    "LrFinderConfig",
    "ObjectiveConfig",
    "OptimizationConfig",
    "PredictConfig",
    "ReportConfig",
    "SelectionConfig",
    "ShardsConfig",
    "TrackingConfig",
    "TrainConfig",
    "TrainedConfig",
    "better",
    "build",
    "flag_lines",
    "flatten",
    "leaves",
]
