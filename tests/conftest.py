"""Fixtures of the tests; what isolates them from the world is in `conftest.py` at the root."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# No test is about time: a busy machine must not fail one.
settings.register_profile("no-clock", deadline=None)
settings.load_profile("no-clock")


@pytest.fixture(scope="session")
def data_dir():
    """Folder of the real data sets; the test skips where `SKMOECBM_TEST_DATA` is unset."""
    name = os.environ.get("SKMOECBM_TEST_DATA")
    if not name:
        pytest.skip("needs real data: SKMOECBM_TEST_DATA names no folder")
    folder = Path(name).resolve()
    if not folder.is_dir():
        pytest.fail(f"SKMOECBM_TEST_DATA={name!r} is not a folder")
    return folder


@pytest.fixture(autouse=True)
def _close_figures():
    """Close what a test drew, so that figures do not pile up in memory."""
    yield
    import sys

    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is not None:
        pyplot.close("all")


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium; the test skips without one, unless SKMOECBM_BROWSER=required."""
    from tests.browser import launched

    with launched() as started:
        yield started
