"""The public names of kseg, for type checkers and IDEs; __init__.py loads them when they are first used."""

from kseg.api.fit_result import FitResult as FitResult
from kseg.api.load import load as load
from kseg.api.segmenter import Segmenter as Segmenter
from kseg.api.split import split as split
from kseg.data import build_dataset as build_dataset
from kseg.data.sources.arrays import ArrayDataset as ArrayDataset
from kseg.data.sources.coco import CocoDataset as CocoDataset
from kseg.data.sources.folder import FolderDataset as FolderDataset
from kseg.data.sources.tfds import TfdsDataset as TfdsDataset
from kseg.inference.prediction import Prediction as Prediction
from kseg.losses import BoundaryLoss as BoundaryLoss
from kseg.losses import CrossEntropy as CrossEntropy
from kseg.losses import DiceLoss as DiceLoss
from kseg.losses import FocalLoss as FocalLoss
from kseg.losses import JaccardLoss as JaccardLoss
from kseg.losses import LovaszLoss as LovaszLoss
from kseg.losses import OhemCrossEntropy as OhemCrossEntropy
from kseg.losses import TverskyLoss as TverskyLoss
from kseg.losses import WeightedSum as WeightedSum
from kseg.losses import build_loss as build_loss
from kseg.metrics.confusion_matrix import ConfusionMatrix as ConfusionMatrix
from kseg.metrics.evaluation import Evaluation as Evaluation
from kseg.models import build_backbone as build_backbone
from kseg.models import build_model as build_model
from kseg.models import list_backbones as list_backbones
from kseg.models import list_models as list_models
from kseg.models.functional import functionalize as functionalize
from kseg.models.pytorch.export import export_torch_weights as export_torch_weights
from kseg.models.pytorch.load import load_torch_weights as load_torch_weights
from kseg.models.reparameterize import reparameterize_model as reparameterize_model
from kseg.models.saving import load_model as load_model
from kseg.utils.errors import KsegError as KsegError

__version__: str
__all__: list[str]
