"""What hub and demo are told: a trained model to share, or to try in a browser."""

import re
from dataclasses import dataclass

from kseg.config.fields import REPOSITORY, check_not_empty, compilation_cache_field, field, parse_size
from kseg.utils.errors import KsegError


@dataclass(frozen=True)
class HubConfig:
    """A run to share, and what its model card says."""

    run_dir: str | None = field(None, "Run directory of kseg.train; may be left out to push a folder that is there.", "run")
    folder: str | None = field(None, "Folder to write: config.json, model.safetensors, README.md, figures/.", "output")
    overwrite: bool = field(False, "Replace an earlier model folder that --folder names, if there is one.", "output")
    push: str | None = field(None, "Also upload the folder to this repository of the Hub: owner/name.", "output")
    private: bool = field(True, "Only you may see a repository that --push makes; --noprivate shows it to everyone.", "output")
    license: str | None = field(None, "Licence that the card states, by the Hub's identifier, e.g. apache-2.0.", "card")
    data_name: str | None = field(None, "What the card calls the data; default: the name of the data's folder.", "card")
    pictures: bool = field(True, "Put images of the validation split, with labels and predictions, on the card.", "card")

    def __post_init__(self):
        check_not_empty(self, "run_dir", "folder", "push", "license", "data_name")
        if self.folder is None:
            raise KsegError("--folder is missing: name the folder to write, or the one to push")
        if self.run_dir is None and self.push is None:
            raise KsegError("--run_dir is missing: name the run directory of a training run (or --push=owner/name a folder)")
        if self.push is not None and not re.fullmatch(REPOSITORY, self.push):
            raise KsegError(f"--push={self.push}: expected owner/name, of letters, digits, '.', '_' and '-'")


@dataclass(frozen=True)
class DemoConfig:
    """A model to try in a browser, and where."""

    run_dir: str | None = field(None, "Run directory of kseg.train.", "model")
    model_file: str | None = field(None, "A .keras file instead of a run.", "model")
    folder: str | None = field(None, "A folder of kseg.hub instead of a run, or owner/name of one on the Hub.", "model")
    image_size: tuple[int, int] | None = field(
        None, "Size that images are resized to for the model: 256, or 192x256 (height x width); default: the run's.", "model"
    )
    host: str = field("127.0.0.1", "Address to listen at; by default only this machine can open the page.", "server")
    port: int = field(7860, "Port to listen at; 0: any that is free.", "server")
    compilation_cache: str = compilation_cache_field()

    def __post_init__(self):
        given = [name for name in ("run_dir", "model_file", "folder") if getattr(self, name) is not None]
        check_not_empty(self, *given, "host")
        if not given:
            raise KsegError("--run_dir is missing: name the run directory of a training run, or --model_file or --folder")
        if len(given) > 1:
            raise KsegError(f"--{given[0]} and --{given[1]} are two models; pass one")
        if self.image_size is not None:
            object.__setattr__(self, "image_size", parse_size(self.image_size))
        if not 0 <= self.port < 65536:
            raise KsegError(f"--port={self.port}: must be between 0 and 65535")
