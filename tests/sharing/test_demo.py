"""kseg.demo: the server as the command starts it, over HTTP and in a browser, with valid and invalid requests."""

import base64
import http.client
import io
import json
import signal
import socket
import struct
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from browser import browser, visit
from PIL import Image
from small_model import strongest_channel

from kseg import demo
from kseg.config import TrainConfig
from kseg.data.dataset import Sample
from kseg.data.palette import hex_colors, palette
from kseg.inference.picture_predictor import PicturePredictor
from kseg.models.saving import save_model
from kseg.reports.examples import example_panels, side_by_side
from kseg.runtime.run_dir import RunDir
from kseg.sharing.demo_model import DemoModel
from kseg.sharing.demo_server import MAX_UPLOAD, DemoServer
from kseg.utils.errors import KsegError

NAMES = ("back & ground", "<b>red</b>", "green", "blue")


@pytest.fixture(scope="module")
def scene():
    """A picture of 80x60: dark, with a red, a green and a blue rectangle. Returns uint8 [60, 80, 3]."""
    picture = np.full((60, 80, 3), 20, "uint8")
    picture[10:50, 5:25, 0] = picture[10:50, 30:50, 1] = picture[10:30, 55:75, 2] = 230
    return picture


@pytest.fixture(scope="module")
def run(scene, tmp_path_factory):
    run = RunDir(tmp_path_factory.mktemp("runs") / "my run")
    run.create(TrainConfig(image_size=(120, 160)), [])
    save_model(strongest_channel(), run.model)
    run.evaluation.write_text(json.dumps({"class_names": NAMES}))
    run.figures.mkdir()
    sample = Sample(scene, np.zeros(scene.shape[:2], "uint8"), "scene")
    Image.fromarray(side_by_side(example_panels(sample, sample.label, 255))).save(run.figures / "median_1.png")
    return run


WITH_CTRL_C = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell starts without it
runpy.run_module("kseg.demo", run_name="__main__")
"""


@pytest.fixture(scope="module")
def url(run):
    """The address of the server as a user starts it. Checks that Ctrl-C stops it cleanly."""
    process = subprocess.Popen(
        [sys.executable, "-c", WITH_CTRL_C, f"--model={run.path}", "--port=0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    line = process.stdout.readline()
    assert line.startswith("open http://127.0.0.1:"), process.communicate()
    yield line.split()[1]
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "stopped\n")
    assert "Traceback" not in errors
    assert "error" not in errors


def ask(url, method="POST", path="/predict", body=None, headers=(), skip_length=False):
    """(status, headers, body), JSON already read."""
    connection = http.client.HTTPConnection(url.split("/")[2])
    connection.putrequest(method, path, skip_host="Host" in dict(headers))
    for name, value in {**({} if skip_length else {"Content-Length": str(len(body or b""))}), **dict(headers)}.items():
        connection.putheader(name, value)
    connection.endheaders(body)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    is_json = answer.headers["Content-Type"] == "application/json"
    return answer.status, answer.headers, json.loads(content) if is_json else content.decode()


def file(picture, kind="PNG", **options):
    content = io.BytesIO()
    Image.fromarray(picture).save(content, kind, **options)
    return content.getvalue()


def decode(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


# --- Over HTTP ------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_page_and_its_headers(url):
    status, headers, page = ask(url, "GET", "/")
    assert status == 200
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
    nonce = policy.partition("script-src 'nonce-")[2].partition("'")[0]
    assert page.count(f'nonce="{nonce}"') == 3
    assert nonce not in ask(url, "GET", "/")[2]
    assert "http:" not in page and "https:" not in page
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Server"].strip() == "kseg"


def test_a_picture_gives_its_classes(url, scene):
    turned = Image.Exif()
    turned[0x0112] = 6  # stored on its side
    sideways = np.rot90(scene, 1)
    for content in (file(scene), file(sideways, exif=turned), file(scene, "TIFF"), file(scene, "WEBP", lossless=True)):
        status, headers, answer = ask(url, body=content)
        assert status == 200
        label = decode(answer["label"])
        assert (label.shape, label.dtype) == ((60, 80), "uint8")
        for index, (y, x) in enumerate(((5, 5), (30, 15), (30, 40), (20, 65))):
            assert label[y, x] == index
        assert [(entry["index"], entry["name"]) for entry in answer["classes"]] == [(i, NAMES[i]) for i in (0, 1, 2, 3)]
        assert [entry["color"] for entry in answer["classes"]] == hex_colors(4)
        np.testing.assert_allclose(
            [entry["area"] for entry in answer["classes"]], 100 * np.bincount(label.ravel()) / label.size, rtol=1e-9
        )
        assert np.abs(decode(answer["image"]).astype(int) - scene).mean() < 6  # JPEG
    assert headers["Content-Security-Policy"] == "default-src 'none'"


def test_many_at_once_get_the_answers_of_one(url, scene):
    contents = [file(np.roll(scene, 7 * shift, axis=1)) for shift in range(8)]
    alone = [ask(url, body=content)[2] for content in contents]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda content: ask(url, body=content)[2], contents)) == alone


def bomb():
    """A PNG of 40000x40000 pixels by its header."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 40000, 40000, 8, 2, 0, 0, 0)) + chunk(b"IDAT", b"")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "this file: the file is empty."),
        (b"<script>alert(1)</script>", "this file: is not an image file of a known format"),
        (file(np.zeros((40, 40, 3), "uint8"), "JPEG")[:300], "this file: cannot be read as an image"),
        (file(np.zeros((40, 40), "uint16")), "is an image of mode I;16"),
        (bomb(), "this file: has more than 67108864 pixels and is not decoded"),
    ],
    ids=["empty", "text", "cut off", "16 bits", "bomb"],
)
def test_what_is_no_picture_gets_a_line(url, content, says):
    status, _, answer = ask(url, body=content)
    assert (status, list(answer)) == (422, ["error"])
    assert answer["error"].startswith(says) or says in answer["error"]
    assert "--" not in answer["error"] and "\n" not in answer["error"]


def test_too_large_or_of_no_stated_length(url, scene):
    status, headers, answer = ask(url, body=bytes(MAX_UPLOAD + 1))
    assert (status, answer["error"]) == (413, "the file is larger than 32 MB; send a smaller one")
    assert headers["Connection"] == "close"
    for headers in ({}, {"Transfer-Encoding": "chunked"}, {"Content-Length": "-1"}, {"Content-Length": "9" * 30}):
        status, _, answer = ask(url, headers=headers, skip_length=True)
        assert (status, list(answer)) == (411 if headers.get("Content-Length") != "9" * 30 else 413, ["error"])
    assert ask(url, body=file(scene))[0] == 200


def test_nothing_else_is_there(url):
    for method, path, status in (
        ("GET", "/predict", 404), ("GET", "/../config.json", 404), ("GET", "//etc/passwd", 404), ("GET", "/?x", 404),
        ("POST", "/", 404), ("PUT", "/", 501), ("DELETE", "/predict", 501), ("OPTIONS", "/predict", 501),
    ):  # fmt: skip
        found, _, answer = ask(url, method, path)
        assert (found, list(answer)) == (status, ["error"]), (method, path)


def test_pages_of_other_sites_cannot_ask(url, scene):
    port = url.rpartition(":")[2].strip("/")
    for headers in (
        {"Host": "evil.example"}, {"Host": f"evil.example:{port}"}, {"Host": f"127.0.0.1.evil.example:{port}"}, {"Host": ""},
        {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Host": f"localhost:{port}", "Origin": f"http://127.0.0.1:{port}"},
    ):  # fmt: skip
        for method, path in (("GET", "/"), ("POST", "/predict")):
            assert ask(url, method, path, file(scene), headers)[0] == 403, headers
    for host in (f"localhost:{port}", "localhost", f"[::1]:{port}", f"127.0.0.1:{port}"):
        assert ask(url, body=file(scene), headers={"Host": host, "Origin": f"http://{host}"})[0] == 200


def test_a_browser_that_goes_away_disturbs_nobody(url, scene):
    port = int(url.rpartition(":")[2].strip("/"))
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 1000\r\n\r\nhalf".encode())
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"\x16\x03\x01 no HTTP at all\r\n\r\n")
        assert b"error" in connection.recv(4096)
    assert ask(url, body=file(scene))[0] == 200


# --- In a browser ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium():
    with browser() as opened:
        yield opened


DONE, FAILED = "body[data-state=done]", "body[data-state=error]"
OVERLAY = """([x, y]) => {
  const canvas = document.createElement("canvas"), overlay = document.getElementById("overlay");
  [canvas.width, canvas.height] = [overlay.width, overlay.height];
  const context = canvas.getContext("2d");
  context.drawImage(overlay, 0, 0);
  return Array.from(context.getImageData(x, y, 1, 1).data);
}"""


def legend(page):
    return page.evaluate("Array.from(document.querySelectorAll('#legend tr'), row => row.innerText.split(/\\s*\\n\\s*|\\t/))")


def drop(page, file):
    """Drops a file on the page, as dragged from a file manager."""
    box = page.locator("#drop").bounding_box()
    session = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(file)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "x": box["x"] + 20, "y": box["y"] + 20, "data": data})


@pytest.mark.browser
def test_a_person_tries_the_example_and_a_picture_of_their_own(url, chromium, tmp_path):
    with visit(chromium, url) as seen:
        page = seen.page
        assert page.title() == "strongest (my run)"
        assert page.locator("#result").is_hidden()
        page.click("#example")
        page.wait_for_selector(DONE)
        assert [row[0] for row in legend(page)] == list(NAMES)
        for place, index in {(2, 2): 0, (15, 30): 1, (40, 30): 2}.items():
            assert page.evaluate(OVERLAY, place) == [*palette(4)[index].tolist(), 255]
        page.click("#legend tr:nth-child(2) input")
        assert page.evaluate(OVERLAY, (15, 30)) == [0, 0, 0, 0]
        assert page.evaluate(OVERLAY, (40, 30))[3] == 255
        page.click("#all")
        page.click("#all")
        assert page.locator("#legend input:checked").count() == 4
        page.locator("#opacity").fill("20")
        assert page.evaluate("document.getElementById('overlay').style.opacity") == "0.2"

        Image.fromarray(np.full((50, 90, 3), (10, 10, 250), "uint8")).save(tmp_path / "blue.png")
        drop(page, tmp_path / "blue.png")
        page.wait_for_selector(f"{DONE} #status:has-text('90x50')")
        assert legend(page) == [["blue", "100.0%"]]
        page.hover("#stage")
        assert page.inner_text("#under") == "Under the pointer: blue"
        with page.expect_download() as download:
            page.click("#save")
        assert (np.asarray(Image.open(download.value.path())) == 3).all()
        mixed = np.array((10, 10, 250)) * 0.8 + palette(4)[3] * 0.2
        assert (np.abs(seen.screenshot() - mixed).max(-1) < 12).sum() > 10**5
        assert not seen.problems


@pytest.mark.browser
def test_what_goes_wrong_is_said_on_the_page(url, chromium, tmp_path):
    (tmp_path / "notes.txt").write_text("<b>not a picture</b>")
    with visit(chromium, f"{url}#example") as seen:
        page = seen.page
        page.wait_for_selector(DONE)
        page.set_input_files("#file", tmp_path / "notes.txt")
        page.wait_for_selector(FAILED)
        assert page.inner_text("#error").startswith("this file: is not an image file")
        assert page.locator("#result").is_hidden()
        assert len(seen.problems) == 1  # the browser notes the status
        page.evaluate(f"void send(new Blob([new Uint8Array({MAX_UPLOAD + 1})]))")
        assert page.inner_text("#error") == "The file has 33 MB, more than 32 MB."
        assert len(seen.problems) == 1


@pytest.mark.browser
def test_the_page_fits_a_phone(url, chromium):
    with visit(chromium, f"{url}#example", phone=True) as seen:
        seen.page.wait_for_selector(DONE)
        assert seen.overflow() == 0
        assert seen.page.locator("#stage").bounding_box()["width"] > 330
        assert seen.page.locator("#all").bounding_box()["height"] >= 36  # for a thumb
        assert not seen.problems


# --- Mistakes -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ([], "--model is missing"),
        (["--model=none"], "--model=none: no such file or folder"),
        (["--run_dir=r"], "--run_dir=r is now --model=r"),
        (["--model_file=f"], "--model_file=f is now --model=f"),
        (["--folder=f"], "--folder=f is now --model=f"),
        (["--model=hf://none"], "hf://none: no such folder, and not the name of a repository"),
        (["--model=unet"], "--model=unet: is an architecture"),
        (["--model={run}", "--port=70000"], "--port=70000: must be between 0 and 65535"),
        (["--model={run}", "--port={taken}"], r"--host=127.0.0.1 --port=\d+: cannot listen there .*--port=0 takes"),
        (["--model={run}", "--host=192.0.2.1"], r"--host=192\.0\.2\.1 --port=7860: cannot listen there"),
        (["--model={run}/model.keras"], "--image_size is missing: .*model.keras"),
    ],
)
def test_mistakes_are_one_line(flags, says, run):
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(KsegError, match=says) as error:
        demo.main(["kseg.demo", *(flag.format(run=run.path, taken=taken.getsockname()[1]) for flag in flags)])
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_an_address_for_others_answers_to_any_name():
    server = DemoServer(DemoModel(PicturePredictor(strongest_channel(), NAMES, (32, 32)), "title"), "0.0.0.0", 0)
    try:
        assert not server.local
        assert server.url.startswith("http://127.0.0.1:")
    finally:
        server.server_close()
