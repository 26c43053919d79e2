"""A real browser for tests: the system's Chromium, without a window and without network, driven by playwright.

with browser() as chromium, visit(chromium, path.as_uri(), phone=True) as seen:
    assert seen.problems == [] and seen.overflow() == 0
"""

import contextlib
import io
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE = 300_000
"""Milliseconds that anything may take: a busy machine is no failure."""


@dataclass
class Visit:
    """A page that is open. page: playwright's, to click, type and evaluate. problems: what went wrong so far, a line each: errors
    and warnings of its console, exceptions of its scripts, requests that failed or went to anywhere but the page's own host.
    """

    page: Page
    problems: list[str] = field(default_factory=list)

    def overflow(self) -> int:
        """CSS pixels that the page is wider than the screen: 0 if it does not scroll sideways."""
        return self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")

    def screenshot(self, whole: bool = True) -> np.ndarray:
        """What it looks like, uint8 [H, W, 3]; whole: all of its height, else what the screen shows."""
        return np.asarray(Image.open(io.BytesIO(self.page.screenshot(full_page=whole))).convert("RGB"))


def executable() -> str | None:
    """Chromium's file: $KSEG_BROWSER, or what PATH has."""
    return os.environ.get("KSEG_BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """The browser, which reaches this machine only. Skips the test where there is none."""
    if (path := executable()) is None:
        pytest.skip("no browser on PATH; install one (Debian: apt install chromium), or name it in KSEG_BROWSER")
    rules = "MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1"
    with sync_playwright() as playwright:
        arguments = ["--disable-quic", f"--host-resolver-rules={rules}"]
        opened = playwright.chromium.launch(executable_path=path, args=arguments, timeout=PATIENCE)
        try:
            yield opened
        finally:
            opened.close()


@contextlib.contextmanager
def visit(browser: Browser, url: str, *, phone: bool = False, dark: bool = False) -> Iterator[Visit]:
    """Opens a page, on a screen of 1280 x 900 or on a phone's of 390 x 844 CSS pixels, and waits until it is loaded."""
    size = {"width": 390, "height": 844} if phone else {"width": 1280, "height": 900}
    touch = {"is_mobile": True, "has_touch": True, "device_scale_factor": 2} if phone else {}
    context = browser.new_context(viewport=size, color_scheme="dark" if dark else "light", **touch)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    seen, home = Visit(page), urlsplit(url)[:2]

    def requested(request):
        place = urlsplit(request.url)
        if place.scheme not in ("data", "blob") and place[:2] != home:
            seen.problems.append(f"asks for {request.url}")

    page.on("request", requested)
    page.on("requestfailed", lambda request: seen.problems.append(f"did not get {request.url[:200]}: {request.failure}"))
    page.on("pageerror", lambda error: seen.problems.append(f"exception: {error}"))
    page.on(
        "console",
        lambda message: seen.problems.append(f"{message.type}: {message.text}") if message.type in ("error", "warning") else None,
    )
    try:
        page.goto(url)
        yield seen
    finally:
        context.close()
