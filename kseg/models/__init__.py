"""Models: build_model joins a backbone (backbones/) and a decoder (decoders/)."""

from kseg.models.backbones.registry import list_backbones
from kseg.models.build import build_backbone, build_model
from kseg.models.registry import list_models, register_model

__all__ = ["build_backbone", "build_model", "list_backbones", "list_models", "register_model"]
