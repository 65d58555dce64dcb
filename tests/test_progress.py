"""Progress: a bar where it is watched, lines where it is kept."""

import io
import re
import sys

import pytest

from skmoecbm import _progress
from skmoecbm._progress import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""
    now = [100.0]
    monkeypatch.setattr(_progress.time, "monotonic", lambda: now[0])
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    return now


def work(clock, steps, seconds):
    with progress(steps, unit="image", name="clip", verbose=True) as bar:
        for _ in range(steps):
            clock[0] += seconds
            bar.update(1)


def test_a_log_has_one_plain_line_where_the_work_is_short(clock, capsys):
    work(clock, 100, 0.125)
    assert capsys.readouterr().err == "clip: 100/100 images in 12.5 s\n"


def test_a_log_of_long_work_has_a_line_now_and_then(clock, capsys):
    work(clock, 1000, 0.25)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "clip: 121/1,000 images in 30.2 s"
    assert lines[-1] == "clip: 1,000/1,000 images in 250.0 s"
    assert len(lines) == 9


def test_what_was_done_before_an_error_is_told(clock, capsys):
    with pytest.raises(KeyError), progress(7, unit="text", name="clip", verbose=True) as bar:
        bar.update(3)
        raise KeyError
    assert capsys.readouterr().err == "clip: 3/7 texts in 0.0 s\n"


@pytest.mark.parametrize("place", ["terminal", "notebook"])
def test_a_terminal_and_a_notebook_have_a_bar(clock, monkeypatch, place):
    stream = Terminal() if place == "terminal" else io.StringIO()
    if place == "notebook":
        monkeypatch.setitem(sys.modules, "ipykernel", sys)
    monkeypatch.setattr(sys, "stderr", stream)
    with progress(3, unit="image", name="clip", verbose=True) as bar:
        bar.update(3)
    assert "\r" in stream.getvalue() and re.search(r"clip: 100%.*3/3", stream.getvalue())


@pytest.mark.parametrize(("total", "verbose"), [(0, True), (5, False)])
@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_nothing_is_shown_unasked_or_without_work(clock, monkeypatch, total, verbose, stream):
    stream = stream()
    monkeypatch.setattr(sys, "stderr", stream)
    with progress(total, unit="image", name="clip", verbose=verbose) as bar:
        bar.update(total)
    assert stream.getvalue() == ""
