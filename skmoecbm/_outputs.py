"""What the command line writes: checked before the work, made when there is something to write."""

import csv
import os
import sys
from contextlib import contextmanager
from pathlib import Path

from skmoecbm.exceptions import InputError

__all__ = [
    "csv_writer",
    "draw_explanations",
    "keep_inputs",
    "open_output",
    "output_path",
    "picture_paths",
]


def output_path(path, *, folder=False, option="--out"):
    """Return the path of an output if it can be written, so that a typo costs no hour of encoding.

    Nothing is made: where the work fails, no empty folder is left behind.
    """
    path = Path(path)
    try:
        if not folder and path.is_dir():
            raise InputError(f"{option} {str(path)!r} is a folder. Name a file in it.")
        there = next(place for place in (path, *path.parents) if place.exists())
        wants_folder = folder or there != path
        if wants_folder and not there.is_dir():
            reason = f"{str(there)!r} is a file"
        elif not os.access(there, os.W_OK | (os.X_OK if wants_folder else 0)):
            reason = f"you may not write to {str(there)!r}"
        else:
            return path
    except OSError as error:
        reason = error.strerror
    raise InputError(f"Nothing can be written to {str(path)!r}: {reason}. Give another {option}.")


def keep_inputs(outputs, inputs, *, option="--out"):
    """Raise `InputError` where an output would take the place of a file that is read."""
    inputs = {os.path.realpath(path) for path in inputs}
    for path in outputs:
        if os.path.realpath(path) in inputs:
            raise InputError(
                f"{option} would write over {str(path)!r}, which this command reads. Give another "
                f"{option}."
            )


def open_output(path):
    """Open a file to write text to, in a folder that is made if it is not there."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("w", newline="", encoding="utf-8")


@contextmanager
def csv_writer(out):
    """Yield a CSV writer to the file `out`, or to standard output where it is "-"."""
    if out == "-":
        yield csv.writer(sys.stdout, lineterminator="\n")
    else:
        with open_output(out) as file:
            yield csv.writer(file, lineterminator="\n")


def picture_paths(out, n):
    """Return the paths of the pictures of n images, a list of Path.

    ``name.png`` of several images becomes ``name-1.png``, ``name-2.png``, ...
    """
    out = Path(out)
    return [out] if n == 1 else [out.with_stem(f"{out.stem}-{row + 1}") for row in range(n)]


def draw_explanations(explanation, paths, *, top=8):
    """Write one picture for each row.

    Parameters
    ----------
    explanation : Explanation of n rows
    paths : list of n Path
    top : int, default=8
        Concepts shown, the strongest first.
    """
    for row, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        explanation.plot(row, k=top).savefig(path, dpi=110)
