"""Tables that come with images: found below a folder, read as text, their columns by any name."""

import os
from pathlib import Path

from skmoecbm._label_table import list_some
from skmoecbm.datasets._files import walk
from skmoecbm.exceptions import InputError

__all__ = ["column_of", "find_table", "read_frame", "tables_below"]

_ENDINGS = (".csv", ".tab", ".tsv", ".txt", "")


def tables_below(root, depth=3):
    """Return the paths of what may be tables below a folder, the nearest first."""
    found = [
        Path(folder) / file
        for folder, files in walk(root, depth=depth)
        for file in files
        if os.path.splitext(file)[1].lower() in _ENDINGS
    ]
    return sorted(found, key=lambda path: len(path.parts))


def find_table(tables, columns, *, known=(), name=""):
    """Return the table whose header has all of some columns, or None.

    Parameters
    ----------
    tables : sequence of Path
    columns : sequence of str or tuple of str
        Names, or other spellings of one.
    known : sequence of str, default=()
        How the table's own file name begins, the best first: it is taken before others.
    name : str
        The data set, for the error.

    Raises
    ------
    InputError
        If several tables would do.
    """
    fit = [path for path in tables if _has_columns(path, columns)]
    for start in known:
        named = [path for path in fit if path.name.lower().startswith(start.lower())]
        if named:
            fit = named[:1]
            break
    if len(fit) > 1:
        raise InputError(
            f"Several tables could be that of {name}: {list_some(fit, 4)}. Leave one of them in "
            f"the folder{', or call it ' + repr(known[0] + '.csv') if known else ''}."
        )
    return fit[0] if fit else None


def _has_columns(path, columns):
    try:
        with open(path, encoding="utf-8-sig") as file:
            header = _cells(file.readline(65536))
    except (OSError, UnicodeDecodeError):
        return False  # no text, so no table
    return all(column_of(header, column) is not None for column in columns)


def _cells(line):
    separator = "\t" if "\t" in line else ","
    return [cell.strip().strip('"') for cell in line.rstrip("\r\n").split(separator)]


def column_of(columns, names):
    """Return the column that is called one of `names` in upper or lower case, or None."""
    names = (names,) if isinstance(names, str) else names
    known = {column.lower(): column for column in columns}
    return next((known[name.lower()] for name in names if name.lower() in known), None)


def read_frame(path, *, name, columns=()):
    """Return a table as a DataFrame; text stays text, what is empty is missing.

    Parameters
    ----------
    path : path-like
        Cells are divided by commas or tabs.
    name : str
        The data set, for errors.
    columns : sequence of str, default=()
        Which must be there.

    Raises
    ------
    InputError
        If it cannot be read, is empty, or lacks a column.
    """
    import pandas as pd

    try:
        with open(path, encoding="utf-8-sig") as file:
            separator = "\t" if "\t" in file.readline(65536) else ","
        frame = pd.read_csv(path, sep=separator, encoding="utf-8-sig")
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise InputError(
            f"The table {str(path)!r} of {name} cannot be read: {error}. Get it anew."
        ) from error
    if lacking := [column for column in columns if column not in frame.columns]:
        raise InputError(
            f"The table {str(path)!r} of {name} has no column {lacking[0]!r}; it has "
            f"{list_some(frame.columns, 20)}. Get it anew."
        )
    if not len(frame):
        raise InputError(f"The table {str(path)!r} of {name} has no rows. Get it anew.")
    return frame
