"""Configuration dataclasses: frozen, validated, convertible to flags and JSON. Imports neither Keras nor absl.

Each field has the help text and group of its flag (kseg.config.command_line). Configs may be nested; their flags stand beside
the outer one's.
"""

from kseg.config.convert import ConvertConfig
from kseg.config.data import MAX_PIXELS, TRAIN_PART, VAL_PART, DataConfig, DataOverrides
from kseg.config.export import ExportConfig
from kseg.config.fields import PYTHON, build, flag_lines, flatten, is_object, leaves
from kseg.config.inference import EvaluateConfig, TrainedConfig
from kseg.config.inspect_data import InspectConfig
from kseg.config.lr_finder import LrFinderConfig
from kseg.config.optimization import ObjectiveConfig, OptimizationConfig
from kseg.config.predict import VIDEO_CODECS, PredictConfig
from kseg.config.report import ReportConfig
from kseg.config.scale import OVERLAP, ScaleConfig
from kseg.config.share import DemoConfig, HubConfig
from kseg.config.train import (
    DebugConfig,
    DeviceConfig,
    PythonConfig,
    SelectionConfig,
    TrackingConfig,
    TrainConfig,
    better,
)
from kseg.config.write_shards import ShardsConfig

__all__ = [
    "MAX_PIXELS",
    "OVERLAP",
    "PYTHON",
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
    "PythonConfig",
    "ReportConfig",
    "ScaleConfig",
    "SelectionConfig",
    "ShardsConfig",
    "TrackingConfig",
    "TrainConfig",
    "TrainedConfig",
    "better",
    "build",
    "flag_lines",
    "flatten",
    "is_object",
    "leaves",
]
