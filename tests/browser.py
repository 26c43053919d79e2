"""Drives the system's Chromium with playwright, headless and without network.

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
"""Timeout of every action in milliseconds, long enough for a busy machine."""


@dataclass
class Visit:
    """An open page. page: playwright's page object. problems: one line each for console errors and warnings, script exceptions,
    failed requests, and requests to other hosts.
    """

    page: Page
    problems: list[str] = field(default_factory=list)

    def overflow(self) -> int:
        """Returns how many CSS pixels the page is wider than the screen; 0 if it does not scroll sideways."""
        return self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")

    def screenshot(self, whole: bool = True) -> np.ndarray:
        """Returns a screenshot, uint8 [H, W, 3]. whole: the full page, otherwise the visible part."""
        return np.asarray(Image.open(io.BytesIO(self.page.screenshot(full_page=whole))).convert("RGB"))


def executable() -> str | None:
    """Returns Chromium's path: $KSEG_BROWSER, or one found on PATH."""
    return os.environ.get("KSEG_BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """Opens a browser that reaches only this machine. Skips the test if none is installed."""
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
    """Opens a page on a screen of 1280 x 900 CSS pixels, or a phone of 390 x 844, and waits until it is loaded."""
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
