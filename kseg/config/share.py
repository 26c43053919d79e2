"""Options of kseg.hub and kseg.demo."""

import re
from dataclasses import dataclass

from kseg.config.fields import REPOSITORY, check_not_empty, compilation_cache_field, field, parse_size
from kseg.config.inference import MODEL_SOURCE
from kseg.utils.errors import KsegError


@dataclass(frozen=True)
class HubConfig:
    """A trained model to share, and the text of its model card."""

    model: str | None = field(
        None,
        "Run directory to share, a model of smp or transformers, or a model folder to upload with --push.",
        "model",
        value="DIR",
    )
    output: str | None = field(None, "Folder to write: weights, config.json, README.md and figures.", "output", value="DIR")
    overwrite: bool = field(False, "Replace an earlier model folder in --output.", "output")
    push: str | None = field(None, "Upload the folder to this repository of the Hub.", "output", value="OWNER/NAME")
    private: bool = field(True, "Make a new repository private; --noprivate makes it public.", "output")
    license: str | None = field(None, "Licence on the card, by the Hub's identifier, e.g. apache-2.0.", "card")
    data_name: str | None = field(None, "Name of the data set on the card; default: the name of its folder.", "card")
    pictures: bool = field(True, "Show validation images with labels and predictions on the card.", "card")

    def __post_init__(self):
        check_not_empty(self, "model", "output", "push", "license", "data_name")
        if self.model is None:
            raise KsegError("--model is missing: name a run directory, or a model folder to upload with --push=owner/name")
        if self.output is None and self.push is None:
            raise KsegError("--output is missing: name the folder to write, or upload a model folder with --push=owner/name")
        if self.push is not None and not re.fullmatch(REPOSITORY, self.push):
            raise KsegError(f"--push={self.push}: expected owner/name, of letters, digits, '.', '_' and '-'")


@dataclass(frozen=True)
class DemoConfig:
    """A trained model to try in a browser, and the address of its page."""

    model: str | None = field(None, f"Trained model: {MODEL_SOURCE}.", "model", value="SOURCE")
    image_size: tuple[int, int] | None = field(
        None, "Size that images are resized to: 256, or 192x256 (height x width); default: the size of training.", "model"
    )
    host: str = field("127.0.0.1", "Address to listen on; by default only this machine can open the page.", "server")
    port: int = field(7860, "Port to listen on; 0: any free port.", "server")
    compilation_cache: str = compilation_cache_field()

    def __post_init__(self):
        check_not_empty(self, "model", "host")
        if self.model is None:
            raise KsegError(f"--model is missing: name {MODEL_SOURCE}")
        if self.image_size is not None:
            object.__setattr__(self, "image_size", parse_size(self.image_size))
        if not 0 <= self.port < 65536:
            raise KsegError(f"--port={self.port}: must be between 0 and 65535")
