"""kseg.predict on videos that OpenCV wrote: each frame against the plain prediction of it, and files that are no videos."""

import http.server
import shutil
import threading

import cv2
import numpy as np
import pytest
from PIL import Image
from random_run import NAMES, random_run

from kseg import predict
from kseg.data.palette import overlay
from kseg.inference.picture_predictor import PicturePredictor
from kseg.inference.video import Video, video_file
from kseg.models.saving import load_model
from kseg.utils.errors import KsegError


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return random_run(tmp_path_factory.mktemp("runs") / "run", "/nowhere")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """(an AVI of 7 frames of 50x66 at 10 a second, its frames as they are read back: the codec loses some)."""
    path = tmp_path_factory.mktemp("clips") / "clip.avi"
    coarse = np.random.default_rng(5).integers(0, 256, (5, 12, 3)).astype("uint8")
    with video_file(path, (50, 66), 10.0) as add:
        for number in range(7):
            add(cv2.resize(np.roll(coarse, number, axis=1), (66, 50), interpolation=cv2.INTER_CUBIC))
    frames = [frame for _, frame in Video(path).frames()]
    assert len(frames) == 7
    return path, frames


def call(run, *flags):
    predict.main(["kseg.predict", f"--model={run.path}", *map(str, flags)])


@pytest.mark.parametrize(("flags", "suffix"), [(["--video_format=avi"], ".avi"), ([], ".mp4")])
def test_every_frame_is_predicted(run, clip, tmp_path, flags, suffix, capsys):
    path, frames = clip
    written = tmp_path / f"overlays{suffix}"
    call(run, f"--video={path}", f"--output={tmp_path}", *flags)
    assert capsys.readouterr().out == f"predicted 7 frames of {path}: {tmp_path / 'labels'}, {written}\n"
    predictor = PicturePredictor(load_model(run.model), NAMES, (32, 40), batch_size=2)
    video = Video(written)
    assert video.size == (50, 66) and video.fps == 10 and video.expected == 7
    for (number, shown), prediction in zip(video.frames(), predictor.predict(frames), strict=True):
        label = prediction.labels
        with Image.open(tmp_path / f"labels/frame_{number:06d}.png") as picture:
            np.testing.assert_array_equal(np.asarray(picture), label)
        assert len(np.unique(label)) > 1
        assert np.abs(shown.astype(int) - overlay(frames[number], label)).mean() < 15  # the codec blurs colours' edges
    assert sorted(file.name for file in tmp_path.iterdir()) == ["labels", f"overlays{suffix}"]


def test_no_more_than_a_batch_of_frames_is_held(run, clip):
    _, frames = clip
    predictor = PicturePredictor(load_model(run.model), NAMES, (32, 40), batch_size=2)
    taken = []
    found = predictor.predict(taken.append(frame) or frame for frame in frames)
    for given, _ in enumerate(found, 1):
        assert given <= len(taken) <= given + 1
    assert given == 7


def test_some_frames_and_odd_sides(run, clip, tmp_path):
    _, frames = clip
    odd = tmp_path / "odd.avi"
    with video_file(odd, (49, 65), 12.0) as add:
        for frame in frames:
            add(frame[:49, :65])
    video = Video(odd)
    assert video.size == (50, 66)  # the last row and column twice
    for (_, frame), expected in zip(video.frames(), frames, strict=True):
        assert np.abs(frame[:49, :65].astype(int) - expected[:49, :65]).mean() < 5
        assert np.abs(frame[-1].astype(int) - frame[-2]).mean() < 5
    flags = [f"--output={tmp_path}", "--write=overlays,probabilities", "--video_format=mkv"]
    call(run, f"--video={odd}", "--every=3", *flags)
    names = sorted(file.name for file in (tmp_path / "probabilities").iterdir())
    assert names == [f"frame_{number:06d}.npy" for number in (0, 3, 6)]
    assert Video(tmp_path / "overlays.mkv").fps == 4
    assert len([*Video(tmp_path / "overlays.mkv").frames()]) == 3


def test_a_video_cut_short_is_predicted_as_far_as_it_goes(run, clip, tmp_path, capsys):
    path, _ = clip
    whole = path.read_bytes()
    short = tmp_path / "short.avi"
    short.write_bytes(whole[: len(whole) * 6 // 10])
    call(run, f"--video={short}", f"--output={tmp_path}", "--write=labels")
    said = capsys.readouterr()
    assert "ended after" in said.err and "of 7 frames; it may be damaged" in said.err
    assert 1 <= len(list((tmp_path / "labels").iterdir())) < 7


def test_what_is_no_video_is_one_line(run, clip, tmp_path, capfd):
    path, _ = clip
    (tmp_path / "text.mp4").write_text("no video" * 100)
    (tmp_path / "cut.mp4").write_bytes(path.read_bytes()[:300])
    shutil.copy(path, tmp_path / "overlays.mp4")
    before = sorted(tmp_path.rglob("*"))
    for flags, says in (
        ([f"--video={tmp_path}/none.mp4"], "none.mp4: no such file"),
        ([f"--video={tmp_path}"], "is no file"),
        ([f"--video={tmp_path}/text.mp4"], "text.mp4: is not a video that OpenCV's FFmpeg reads"),
        ([f"--video={path}", "--max_pixels=1000"], "its frames of 50x66 have more pixels than --max_pixels"),
        ([f"--video={tmp_path}/overlays.mp4"], "would write over the input"),
        ([f"--video={path}", "--video_format=gif"], "--video_format=gif: value should be one of"),
        ([f"--video={path}", "--write=results"], "--write=results: lists images, not a video's frames"),
        (["--every=2"], "--every=2: needs --video=FILE"),
    ):
        with pytest.raises(KsegError) as error:
            call(run, f"--output={tmp_path}", *flags)
        assert says in str(error.value)
        assert "\n" not in str(error.value)
    assert "moov" not in capfd.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_playlist_fetches_nothing(tmp_path):
    """A file that says where a video is would have FFmpeg ask any server for it."""
    asked = []

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

    with http.server.HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for name, text in (
            ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n"),
            ("list.ffconcat", "ffconcat version 1.0\nfile {}\n"),
        ):
            (tmp_path / name).write_text(text.format(f"http://127.0.0.1:{server.server_port}/clip.ts"))
            with pytest.raises(KsegError, match="is not a video"):
                Video(tmp_path / name)
        server.shutdown()
    assert not asked
