"""The tests' browser reports problems of a page."""

import pytest
from browser import browser, visit

pytestmark = pytest.mark.browser
HEAD = '<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>t</title>'


@pytest.fixture(scope="module")
def chromium():
    with browser() as opened:
        yield opened


def test_a_good_page_has_no_problems(chromium, tmp_path):
    page = tmp_path / "good.html"
    page.write_text(HEAD + '<body style="background:#00f"><p>words that wrap, ' + "many of them " * 40)
    for phone in (False, True):
        with visit(chromium, page.as_uri(), phone=phone) as seen:
            assert seen.problems == []
            assert seen.overflow() == 0
            assert seen.page.viewport_size["width"] == (390 if phone else 1280)
            assert (seen.screenshot(whole=False)[-1, -1] == (0, 0, 255)).all()


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("<script>console.error('lost')</script>", "error: lost"),
        ("<script>undefinedFunction()</script>", "exception: undefinedFunction is not defined"),
        ('<img src="http://127.0.0.1:9/a.png">', "asks for http://127.0.0.1:9/a.png"),
        ('<meta http-equiv="Content-Security-Policy" content="script-src \'none\'"><script>1</script>', "error: "),
    ],
)
def test_what_is_wrong_is_seen(chromium, tmp_path, body, problem):
    (tmp_path / "bad.html").write_text(HEAD + body)
    with visit(chromium, (tmp_path / "bad.html").as_uri()) as seen:
        assert any(line.startswith(problem) for line in seen.problems), seen.problems


def test_a_page_wider_than_a_phone_is_seen(chromium, tmp_path):
    (tmp_path / "wide.html").write_text(HEAD + '<div style="width:600px">wide</div>')
    with visit(chromium, (tmp_path / "wide.html").as_uri(), phone=True) as seen:
        assert seen.overflow() >= 600 - 390
