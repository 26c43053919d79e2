"""Losses on logits [B, H, W, C] and integer labels [B, H, W].

The pure functions (cross_entropy, dice, ...) take arrays; the classes (CrossEntropy, DiceLoss, ...) are the same as Keras losses;
build_loss reads a sum of them from a string, as --loss does.
"""

from kseg.losses.boundaries import boundary
from kseg.losses.expression import build_loss
from kseg.losses.objects import (
    LOSSES,
    BoundaryLoss,
    CrossEntropy,
    DiceLoss,
    FocalLoss,
    JaccardLoss,
    LovaszLoss,
    OhemCrossEntropy,
    TverskyLoss,
    WeightedSum,
)
from kseg.losses.pixels import cross_entropy, focal, ohem
from kseg.losses.regions import dice, jaccard, lovasz, tversky

__all__ = [
    "LOSSES", "BoundaryLoss", "CrossEntropy", "DiceLoss", "FocalLoss", "JaccardLoss", "LovaszLoss", "OhemCrossEntropy",
    "TverskyLoss", "WeightedSum", "boundary", "build_loss", "cross_entropy", "dice", "focal", "jaccard", "lovasz", "ohem",
    "tversky",
]  # fmt: skip
