"""Finds the model that --model names: a run directory, a .keras file, a model folder, an export, or a repository of the Hub."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import keras

from kseg.config import TrainConfig
from kseg.inference.exported import ONLY_RUNS, ExportedFolder, is_exported, read_exported
from kseg.models.auxiliary_head import inference_model
from kseg.models.credits import NO_CREDITS, Credits
from kseg.models.foreign import foreign_file, foreign_folder
from kseg.models.model_folder import ModelFolder, find_model_folder, is_model_folder
from kseg.models.model_info import CONFIG, ModelInfo, read_file_info
from kseg.models.options import options_text
from kseg.models.pretrained import weight_credits
from kseg.models.registry import MODELS
from kseg.models.saving import load_model
from kseg.runtime.run_dir import RunDir
from kseg.utils.errors import KsegError
from kseg.utils.files import read_json

EXPECTED = "a run directory, a .keras file, a model folder, or hf://owner/name"


@dataclass(frozen=True)
class Source:
    """A trained model that was found, but not loaded yet.

    name: as the user gave it. flag: the flag that named it. path: the .keras file, or the model folder (of a repository, its
    place in the Hub's cache). run, config: of a run directory, else None. folder: of a model folder, else None. info: the
    description of a model folder, or of a .keras file that has one.
    """

    name: str
    flag: str
    kind: Literal["run", "file", "folder", "exported"]
    path: Path
    run: RunDir | None = None
    config: TrainConfig | None = None
    folder: ModelFolder | None = None
    info: ModelInfo | None = None
    exported: ExportedFolder | None = None

    @property
    def shown(self) -> str:
        """The model's file or folder, for messages."""
        return self.name if self.kind in ("folder", "exported") else str(self.path)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The classes that it was trained on; None if the source does not record them."""
        if self.exported is not None:
            return self.exported.class_names
        if self.folder is not None and "class_names" in self.folder.unrecorded:
            return None
        if self.info is not None:
            return self.info.class_names
        return self.run.read_class_names() if self.run is not None else None

    @property
    def image_size(self) -> tuple[int, int] | None:
        """(height, width) that it was trained at; None if the source does not record it."""
        if self.exported is not None:
            height, width = self.exported.size
            return self.exported.trained_at if height is None or width is None else (height, width)
        if self.folder is not None and "image_size" in self.folder.unrecorded:
            return None
        if self.info is not None:
            return self.info.image_size
        return self.config.image_size if self.config is not None else None

    @property
    def window(self) -> tuple[int, int] | None:
        """(height, width) of the windows that it was validated on; None if images were resized, or the source does not say."""
        if self.info is not None:
            return self.info.window
        return self.config.scale.val_window if self.config is not None else None

    @property
    def model_options(self) -> str | None:
        """The options of the model, as --model_options; None if they are its defaults, or not recorded."""
        if self.info is not None:
            return options_text(self.info.options) or None
        return self.config.model_options if self.config is not None else None

    @property
    def credits(self) -> Credits:
        """The base model and the licence of what starts from it, or of the run's own start."""
        if self.folder is not None:
            return self.folder.credits
        if self.run is not None and self.config is not None:
            return run_credits(self.run, self.config)
        return NO_CREDITS if self.info is None else self.info.credits

    def load(self, *, channels: int | None = 3) -> keras.Model:
        """Loads the model, images [B, H, W, 3] to logits [B, H, W, C]; other heads are dropped.

        channels: that its images must have; None: any number. Raises KsegError if the file cannot be loaded or holds another kind
        of model.
        """
        if self.exported is not None:
            model = self.exported.load()
        else:
            model = inference_model(load_model(self.path)) if self.folder is None else self.folder.load().model
        shapes = [getattr(value, "shape", ()) for value in (model.input, model.output)]
        if any(len(shape) != 4 for shape in shapes) or channels not in (None, model.input.shape[-1]):
            raise KsegError(f"{self.shown}: is no segmentation model, which maps images [B, H, W, 3] to logits [B, H, W, C]")
        return model


def run_credits(run: RunDir, config: TrainConfig) -> Credits:
    """Returns the base model of a run, and its licence: of the whole model or the backbone's weights that it started from."""
    stored = read_json(run.initial_weights)
    try:
        if (found := Credits.of(stored)) != NO_CREDITS:
            return found
    except KsegError:  # of a damaged file
        return NO_CREDITS
    return weight_credits(str(config.backbone), config.backbone_weights)


def find_source(name: str, flag: str = "--model", *, exported: bool = False) -> Source:
    """Finds what `name` stands for, without loading the model; of a repository of the Hub, downloads its config.json.

    flag: what the user gave `name` by, for messages. exported: also open what kseg.export wrote. Raises KsegError if it is no
    trained model.
    """
    path = Path(name)
    try:
        if name.startswith("hf://"):
            folder = find_model_folder(name)
            return Source(name, flag, "folder", folder.files.path, folder=folder, info=folder.info)
        if path.is_dir() and is_exported(path):
            if not exported:
                raise KsegError(f"{flag}={name}: {ONLY_RUNS}")
            return Source(name, flag, "exported", path, exported=read_exported(path))
        if path.is_dir():
            if what := foreign_folder(path):
                raise KsegError(f"{flag}={name}: {what}")
            if not (path / CONFIG).exists():
                raise KsegError(f"{flag}={name}: is neither a run directory nor a model folder (it has no {CONFIG})")
            if is_model_folder(path):
                folder = find_model_folder(path)
                return Source(name, flag, "folder", path, folder=folder, info=folder.info)
            run = RunDir(path)
            config = run.read_config()
            return Source(name, flag, "run", run.newest_model(), run=run, config=config)
    except KsegError as error:
        raise KsegError(str(error).replace("--run_dir=", f"{flag}=", 1)) from None
    if path.exists():
        if what := foreign_file(path):
            raise KsegError(f"{flag}={name}: {what}")
        return Source(name, flag, "file", path, info=read_file_info(path))
    if name in MODELS:
        raise KsegError(f"{flag}={name}: is an architecture; name a trained model: {EXPECTED}")
    raise KsegError(f"{flag}={name}: no such file or folder; name a trained model: {EXPECTED}")
