"""A headless Chromium for the tests of pages: the fixture `browser` hands one out."""

import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def missing(reason):
    """Skip, or fail where the environment promises a browser and what it shows."""
    if os.environ.get("SKMOECBM_BROWSER") == "required":
        pytest.fail(f"SKMOECBM_BROWSER=required, but {reason}")
    pytest.skip(f"needs a browser: {reason}")


@contextmanager
def launched():
    """Start Chromium; skips the test, with the reason, where that cannot be."""
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        missing(f"none of {', '.join(_NAMES)} is installed")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("playwright is not installed: pip install '.[test]'")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=_ARGUMENTS)
        yield browser
        browser.close()


@dataclass
class Seen:
    """What a page did while it was open.

    Attributes
    ----------
    faults : list of str
        Errors and warnings of the console, and uncaught exceptions.
    requests : list of str
        Addresses asked for, but for the page itself and `data:`.
    dialogs : list of str
        Windows that a script opened.
    """

    faults: list = field(default_factory=list)
    requests: list = field(default_factory=list)
    dialogs: list = field(default_factory=list)


@contextmanager
def open_page(browser, url, **settings):
    """Yield (page, Seen) of an address; `settings` are those of a browser context.

    A test of a served page gives its `base_url` and looks at `requests` itself.
    """
    context = browser.new_context(**settings)
    page, seen = context.new_page(), Seen()

    def note(message):
        if message.type in ("error", "warning"):
            seen.faults.append(message.text)

    def close(dialog):
        seen.dialogs.append(dialog.message)
        dialog.dismiss()

    page.on("console", note)
    page.on("pageerror", lambda error: seen.faults.append(str(error)))
    page.on("dialog", close)
    page.on(
        "request",
        lambda request: (
            None
            if request.url == url or request.url.startswith("data:")
            else seen.requests.append(request.url)
        ),
    )
    page.goto(url)
    yield page, seen
    context.close()
