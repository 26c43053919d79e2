"""The flags of kseg.train that say what a model is."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from kseg.config.fields import check_architecture
from kseg.models.backbones.registry import check_backbone, find_backbone
from kseg.models.options import read_options
from kseg.models.registry import MODELS


@dataclass(frozen=True)
class Architecture:
    """An architecture, as flags of kseg.train. Raises KsegError for one that cannot be built."""

    model: str
    backbone: str | None = None
    backbone_weights: str = "none"
    output_stride: int | None = None
    model_options: str | None = None
    init: str | None = None

    def __post_init__(self):
        check_architecture(self.model, "; kseg.load opens a trained one")
        defaults = MODELS[self.model].info
        output_stride = self.output_stride or defaults["output_stride"]
        if self.backbone is not None:
            object.__setattr__(self, "backbone", find_backbone(self.backbone, output_stride))
        check_backbone(self.backbone or defaults["backbone"], output_stride)
        read_options(self.model, self.model_options)

    def flags(self) -> dict[str, Any]:
        """Returns the values by flag, without those that are None."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def trained(self) -> "Architecture":
        """Returns the same for a model that has its weights already."""
        return dataclasses.replace(self, backbone_weights="none", init=None)
