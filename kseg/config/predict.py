"""What predict is told: pictures of a split, of files or of a video, and what to write of them."""

from dataclasses import dataclass
from pathlib import Path

from kseg.config.fields import check_at_least, field
from kseg.config.inference import TrainedConfig
from kseg.utils.errors import KsegError

VIDEO_CODECS = {".mp4": "mp4v", ".avi": "MJPG", ".mkv": "mp4v"}
"""Suffixes of --overlay_video, and the codec that each is written with."""
_OUTPUTS = ("submission", "results", "labels_dir", "overlays_dir", "probabilities_dir", "overlay_video")


@dataclass(frozen=True)
class PredictConfig(TrainedConfig):
    """What to predict, and what to write."""

    input: tuple[str, ...] = field(
        (),
        "Predict these instead of a split, separated by commas: image files, folders with all below them, patterns such as "
        "'photos/**/*.jpg'. No data set is needed; files that cannot be read are left out and listed.",
        "run",
    )
    video: str | None = field(None, "Predict the frames of this video instead of a split.", "run")
    every: int = field(1, "Of a video, predict every so many frames.", "run")
    submission: str | None = field(None, "Write the leaderboard's CSV to this file: 256x256 class ids an image.", "output")
    results: str | None = field(
        None, "Write COCO results to this JSON file: a mask (RLE) and its score for each class in an image.", "output"
    )
    labels_dir: str | None = field(None, "Write label maps here: palette PNGs at each picture's own size.", "output")
    overlays_dir: str | None = field(None, "Write pictures with the classes' colours over them here: JPEG.", "output")
    probabilities_dir: str | None = field(
        None, "Write all classes' probabilities here: NumPy .npz at each picture's own size, float16.", "output"
    )
    overlay_video: str | None = field(
        None, f"Write the video with the classes' colours over it: {', '.join(VIDEO_CODECS)}.", "output"
    )

    def __post_init__(self):
        super().__post_init__()
        if not any(getattr(self, name) for name in _OUTPUTS):
            raise KsegError(
                "nothing to write: pass --submission=FILE, --results=FILE, --labels_dir=DIR, --overlays_dir=DIR, "
                "--probabilities_dir=DIR, or with a video --overlay_video=FILE"
            )
        check_at_least(self, 1, "every")
        if self.input and self.video:
            raise KsegError(f"--video={self.video}: is predicted alone; leave --input out")
        if self.split is not None and (self.input or self.video):
            raise KsegError(f"--split={self.split}: {'--input' if self.input else '--video'} is used instead; leave one out")
        if self.video is None:
            if self.overlay_video or self.every != 1:
                flag = "overlay_video" if self.overlay_video else "every"
                raise KsegError(f"--{flag}={getattr(self, flag)}: needs --video=FILE")
            return
        for name in ("submission", "results"):
            if getattr(self, name):
                raise KsegError(f"--{name}={getattr(self, name)}: lists images, not a video's frames; leave it out")
        if self.overlay_video and Path(self.overlay_video).suffix.lower() not in VIDEO_CODECS:
            raise KsegError(f"--overlay_video={self.overlay_video}: must end in {', '.join(VIDEO_CODECS)}")
