"""The web server of kseg.demo. GET / returns the page, POST /predict the label map of an image."""

import contextlib
import errno
import ipaddress
import json
import secrets
import socket
import socketserver
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from kseg.config import DemoConfig
from kseg.data.dataset import BadSample
from kseg.data.image_io import read_image
from kseg.data.palette import hex_colors
from kseg.reports.html import template
from kseg.runtime.compilation_cache import enable_compilation_cache
from kseg.sharing.demo_model import DemoModel, open_demo_model
from kseg.utils.errors import KsegError
from kseg.utils.images import data_uri, encode

MAX_UPLOAD = 2**25
"""Largest upload in bytes."""
MAX_PIXELS = 2**26
"""Largest image in pixels."""
_MAX_DECODING = 2  # images decoded at the same time, which bounds memory
_TIMEOUT = 30  # seconds for any read from a browser


class DemoServer(ThreadingHTTPServer):
    """Serves one model. Raises KsegError if it cannot listen at the address."""

    daemon_threads = True

    def __init__(self, demo: DemoModel, host: str, port: int):
        try:
            family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
            self.address_family = family
            super().__init__(address[:2], _Handler)  # type: ignore[arg-type]
        except OSError as error:
            advice = "; --port=0 takes a free port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else ""
            raise KsegError(f"--host={host} --port={port}: cannot listen there ({error.strerror or error}){advice}") from None
        self.demo, self.decoding = demo, threading.BoundedSemaphore(_MAX_DECODING)
        self.local = ipaddress.ip_address(str(self.server_address[0])).is_loopback
        self.page = template("demo.html.jinja", Path(__file__).parent)

    def server_bind(self) -> None:
        """Binds without HTTPServer's DNS query for this machine's name."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    @property
    def url(self) -> str:
        """The address of the page on this machine."""
        host = str(self.server_address[0])
        name = "127.0.0.1" if host == "0.0.0.0" else "::1" if host == "::" else host
        return f"http://{f'[{name}]' if ':' in name else name}:{self.server_address[1]}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Prints an error as one line, and ignores browsers that disconnect."""
        error = sys.exception()
        if not isinstance(error, (ConnectionError, TimeoutError)):
            print(f"error: {type(error).__name__}: {error}", file=sys.stderr)


class _Handler(BaseHTTPRequestHandler):
    server: DemoServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "kseg", ""
    timeout = _TIMEOUT

    def do_GET(self) -> None:
        if not self._allowed():
            return
        if self.path != "/":
            self._refuse(HTTPStatus.NOT_FOUND, "not found; the page is at /")
            return
        demo, nonce = self.server.demo, secrets.token_urlsafe(16)
        example = None if demo.example is None else data_uri(encode(demo.example, "PNG"), "PNG")
        page = self.server.page.render(demo=demo, example=example, nonce=nonce, megabytes=MAX_UPLOAD >> 20)
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data:; connect-src 'self'; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        self._answer(HTTPStatus.OK, "text/html; charset=utf-8", page.encode("utf-8", "replace"), policy)

    def do_POST(self) -> None:
        if not self._allowed():
            return
        if self.path != "/predict":
            self._refuse(HTTPStatus.NOT_FOUND, "not found; send images to /predict")
            return
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or "Transfer-Encoding" in self.headers:
            self._refuse(HTTPStatus.LENGTH_REQUIRED, "the request has no valid Content-Length")
            return
        if int(length) > MAX_UPLOAD:
            self._refuse(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the file is larger than {MAX_UPLOAD >> 20} MB; send a smaller one"
            )
            self._discard(int(length))
            return
        content = self.rfile.read(int(length))
        try:
            with self.server.decoding:
                answer = describe(self.server.demo, read_image(content, "this file", max_pixels=MAX_PIXELS))
        except BadSample as error:
            reason = str(error).partition("; --max_pixels")[0].replace("--max_pixels=", "")  # the page has no flags
            self._refuse(HTTPStatus.UNPROCESSABLE_ENTITY, reason, close=False)
            return
        self._json(HTTPStatus.OK, answer)

    def _allowed(self) -> bool:
        """Refuses requests from pages of other sites, and returns False for them.

        Such a page could use a host name of its own that resolves to this machine (checked by Host), or send a form (checked by
        Origin).
        """
        host = self.headers.get("Host", "")
        origin = self.headers.get("Origin")
        if self.server.local and not _is_local(host):
            self._refuse(HTTPStatus.FORBIDDEN, "this server answers only to 127.0.0.1 and localhost")
        elif origin is not None and origin.partition("://")[2] != host:
            self._refuse(HTTPStatus.FORBIDDEN, "this server answers only its own page")
        else:
            return True
        return False

    def _refuse(self, status: HTTPStatus, reason: str, close: bool = True) -> None:
        """Answers {"error": reason}. close: end the connection without reading the rest of the request."""
        self.close_connection = self.close_connection or close
        self._json(status, {"error": reason})

    def _discard(self, length: int) -> None:
        """Reads and drops the request's body, up to a limit. Browsers read the answer only after sending it."""
        left = min(length, 4 * MAX_UPLOAD)
        while left > 0 and (part := self.rfile.read(min(left, 2**16))):
            left -= len(part)

    def _json(self, status: HTTPStatus, content: dict[str, Any]) -> None:
        self._answer(status, "application/json", json.dumps(content).encode() + b"\n", "default-src 'none'")

    def _answer(self, status: HTTPStatus, kind: str, content: bytes, policy: str) -> None:
        self.send_response(status)
        headers = {
            "Content-Type": kind,
            "Content-Length": str(len(content)),
            "Content-Security-Policy": policy,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cache-Control": "no-store",
        }
        if self.close_connection:
            headers["Connection"] = "close"
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answers what the standard library refuses (other methods, broken requests) as JSON too."""
        self.close_connection = True
        self._json(HTTPStatus(code), {"error": message or HTTPStatus(code).phrase})

    def log_message(self, *arguments: Any) -> None:
        """Prints no line for each request."""


def describe(demo: DemoModel, image: np.ndarray) -> dict[str, Any]:
    """Returns the answer of /predict for an image, uint8 [H, W, 3].

    size: [width, height] of the upload. image, label: data URIs of the same size, a JPEG and a grey PNG of class indices.
    classes: predicted classes, largest first, each with index, name, color (CSS) and area in per cent.
    """
    prediction = demo.predict(image)
    assert prediction.image is not None
    colors = dict(zip(demo.class_names, hex_colors(len(demo.class_names)), strict=True))
    return {
        "size": [image.shape[1], image.shape[0]],
        "image": data_uri(encode(prediction.image, "JPEG"), "JPEG"),
        "label": data_uri(encode(prediction.labels, "PNG"), "PNG"),
        "classes": [
            {"index": demo.class_names.index(name), "name": name, "color": colors[name], "area": 100 * share}
            for name, share in prediction.shares().items()
        ],
    }


def _is_local(host: str) -> bool:
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


def serve(config: DemoConfig) -> None:
    """Serves the page until Ctrl-C. Raises KsegError for what the user can fix."""
    enable_compilation_cache(config.compilation_cache)
    with DemoServer(open_demo_model(config), config.host, config.port) as server:
        warning = "" if server.local else "; everyone who can reach this machine can open it"
        print(f"open {server.url} in a browser{warning}; Ctrl-C stops the server", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
    print("stopped")
