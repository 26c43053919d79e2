"""Losses on logits [B, H, W, C] and integer labels [B, H, W].

Each loss is a pure function (cross_entropy, dice, ...) and a Keras loss (CrossEntropy, DiceLoss, ...) with the same parameters.
build_loss reads a weighted sum of them from a string, such as --loss.
"""

from kseg.losses.boundaries import boundary
from kseg.losses.build import build_loss
from kseg.losses.keras_losses import (
    LOSSES,
    BoundaryLoss,
    CrossEntropy,
    DiceLoss,
    FocalLoss,
    JaccardLoss,
    LovaszLoss,
    OhemCrossEntropy,
    SegmentationLoss,
    TverskyLoss,
    WeightedSum,
)
from kseg.losses.pixelwise import cross_entropy, focal, ohem
from kseg.losses.regions import dice, jaccard, lovasz, tversky

__all__ = [
    "LOSSES", "BoundaryLoss", "CrossEntropy", "DiceLoss", "FocalLoss", "JaccardLoss", "LovaszLoss", "OhemCrossEntropy",
    "SegmentationLoss", "TverskyLoss", "WeightedSum", "boundary", "build_loss", "cross_entropy", "dice", "focal", "jaccard",
    "lovasz", "ohem", "tversky",
]  # fmt: skip
