"""Options of kseg.write_shards."""

import dataclasses
import re
from dataclasses import dataclass

from kseg.config.data import DataConfig
from kseg.config.fields import field
from kseg.utils.errors import KsegError


@dataclass(frozen=True)
class ShardsConfig:
    """A data set to write as shards."""

    output: str | None = field(None, "Folder to write the data set into.", "output", value="DIR")
    name: str = field("kseg_data", "Name of the data set, for --tfds_name: lower-case letters, digits and _.", "output")
    splits: tuple[str, ...] = field(("train", "val"), "Splits to write, separated by commas.", "output")
    data: DataConfig = dataclasses.field(default_factory=DataConfig)

    def __post_init__(self):
        if self.output is None:
            raise KsegError("--output is missing: name the folder to write the data set into")
        if not re.fullmatch("[a-z][a-z0-9_]*", self.name):
            raise KsegError(f"--name={self.name}: must start with a lower-case letter, then have lower-case letters, digits or _")
        if not self.splits or not all(re.fullmatch("[a-zA-Z_][a-zA-Z0-9_]*", split) for split in self.splits):
            raise KsegError(f"--splits={','.join(self.splits)}: names of splits may have letters, digits and _")
