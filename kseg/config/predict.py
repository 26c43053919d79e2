"""Options of kseg.predict."""

from dataclasses import dataclass
from typing import ClassVar

from kseg.config.fields import check_at_least, field
from kseg.config.inference import TrainedConfig
from kseg.utils.errors import KsegError, suggest

VIDEO_CODECS = {".mp4": "mp4v", ".avi": "MJPG", ".mkv": "mp4v"}
"""Suffixes of the videos that can be written, and the codec of each."""
OUTPUTS = ("labels", "overlays", "probabilities", "results", "coco", "label_studio", "submission")
"""Values of --write."""


@dataclass(frozen=True)
class PredictConfig(TrainedConfig):
    """Options of kseg.predict: what to predict, and what to write."""

    POSITIONAL: ClassVar[str] = "input"

    input: tuple[str, ...] = field(
        (),
        "Predict these instead of a split: image files, folders with all below them, patterns such as 'photos/**/*.jpg'; also "
        "as plain arguments. Files that cannot be read are left out and listed.",
        "input",
        value="FILE,DIR,...",
    )
    video: str | None = field(None, "Predict the frames of this video instead of a split.", "input", value="FILE")
    every: int = field(1, "Of a video, predict every Nth frame.", "input")
    output: str = field("predictions", "Folder to write to.", "output", value="DIR")
    write: tuple[str, ...] = field(
        ("labels", "overlays"),
        "What to write: labels (palette PNGs with class ids, at each image's own size), overlays (images with the classes' "
        "colours; of a video, a video), probabilities (NumPy float16 [H, W, classes]), results (results.json: COCO results with "
        "RLE masks), coco (coco.json: COCO annotations with polygons), label_studio (label_studio.json: tasks to correct), "
        "submission (submission.csv: the leaderboard's 256x256 class ids).",
        "output",
    )
    workers: int | None = field(None, "Threads that read images; default: one per core.", "devices")
    video_format: str = field("mp4", "File format of a video's overlays.", "output", tuple(s[1:] for s in VIDEO_CODECS))

    def __post_init__(self):
        super().__post_init__()
        if not self.output:
            raise KsegError("--output= is empty: name a folder")
        if not self.write:
            raise KsegError(f"--write= is empty: name one or more of {', '.join(OUTPUTS)}")
        for name in self.write:
            if name not in OUTPUTS:
                raise KsegError(f"--write={name}: must be one of {', '.join(OUTPUTS)}{suggest(name, OUTPUTS)}")
        check_at_least(self, 1, "every")
        if self.input and self.video:
            raise KsegError(f"--video={self.video}: cannot be combined with --input={self.input[0]}; leave one out")
        if self.split is not None and (self.input or self.video):
            other = f"--input={self.input[0]}" if self.input else f"--video={self.video}"
            raise KsegError(f"--split={self.split}: cannot be combined with {other}; leave one out")
        if self.video is None:
            for name, default in (("every", 1), ("video_format", "mp4")):
                if getattr(self, name) != default:
                    raise KsegError(f"--{name}={getattr(self, name)}: needs --video=FILE")
            return
        for name in ("submission", "results", "coco", "label_studio"):
            if name in self.write:
                raise KsegError(f"--write={name}: lists images, not a video's frames; leave it out")
