"""A table of image paths and labels, as people keep it: CSV, Excel or a DataFrame."""

import os
from pathlib import Path

import numpy as np

from skmoecbm._label_table import list_some, read_table, rows_have
from skmoecbm.datasets._tables import column_of
from skmoecbm.datasets._xlsx import read_xlsx
from skmoecbm.exceptions import InputError

__all__ = ["frame_of", "named_column", "paths_of", "possible_groups", "target_of"]

_IMAGE = ("path", "image", "image_path", "file", "filename", "file_name", "image_id", "img", "name")
_GROUPS = ("patient", "subject", "person", "mrn", "lesion")  # the widest first
_TARGET = ("label", "target", "class", "diagnosis", "dx", "finding", "y")


def frame_of(labels):
    """Return the table as a DataFrame whose cells are text, or as they are in one that is given.

    Parameters
    ----------
    labels : path-like or DataFrame
        A CSV file (commas, semicolons or tabs, UTF-8) or an Excel file (.xlsx, first sheet).
    """
    import pandas as pd

    if hasattr(labels, "iloc") and hasattr(labels, "columns"):
        frame = labels.reset_index(drop=True)
    elif isinstance(labels, str | os.PathLike):
        path = Path(labels).expanduser()
        if path.suffix.lower() == ".xlsx":
            rows = [row for row in read_xlsx(path) if any(cell.strip() for cell in row)]
            width = max(map(len, rows), default=0)
            rows = [row + [""] * (width - len(row)) for row in rows]
            columns, rows = (rows[0], rows[1:]) if rows else ([], [])
        elif path.suffix.lower() in (".xls", ".ods", ".numbers"):
            raise InputError(f"{path.name!r} cannot be read. Save the table as .xlsx or .csv.")
        else:
            table = read_table(path)
            columns, rows = table.columns, table.rows
        frame = pd.DataFrame(rows, columns=[column.strip() for column in columns], dtype=object)
    else:
        raise InputError(
            f"`labels` must be a path or a DataFrame. Got {type(labels).__name__}; a list of "
            "labels goes with paths into pandas.DataFrame({'path': ..., 'label': ...})."
        )
    twice = frame.columns[frame.columns.duplicated()]
    if len(twice):
        raise InputError(f"The table has several columns {str(twice[0])!r}. Rename them.")
    if not len(frame):
        raise InputError("The table has no rows. Give a header and a row per image.")
    return frame


def named_column(frame, name, parameter):
    """Return a column that must be there, as text; empty where a cell is missing."""
    if name not in frame.columns:
        raise InputError(
            f"The table has no column {str(name)!r}, which {parameter}= names. Its columns are "
            f"{list_some(frame.columns, 20)}."
        )
    column = frame[name]
    return column.astype(object).where(column.notna(), "").astype(str).str.strip().tolist()


def paths_of(frame, image, root, below):
    """Return where the image of each row is (None where nowhere), and how the table calls it.

    Parameters
    ----------
    frame : DataFrame
    image : str or None
        The column; None looks for one of the usual names.
    root : Path
    below : function
        Without arguments: name without ending -> path of every image below `root`. Called only if
        cells are no paths.
    """
    if image is None:
        image = column_of(map(str, frame.columns), _IMAGE)
        if image is None:
            raise InputError(
                "The table has no column that looks like the images ("
                f"{', '.join(_IMAGE)}). Name it with image=; its columns are "
                f"{list_some(frame.columns, 20)}."
            )
    names = named_column(frame, image, "image")
    if "" in names:
        raise InputError(
            f"{rows_have(names.count(''))} no image; the first is row {names.index('') + 1:,} "
            f"below the header. Fill in column {image!r}, or remove these rows."
        )
    paths = [path if os.path.isfile(path := os.path.join(root, name)) else None for name in names]
    if None in paths:
        known = below()
        stems = [os.path.basename(name.replace("\\", "/")) for name in names]
        found = [known.get(stem) or known.get(os.path.splitext(stem)[0]) for stem in stems]
        whose = {}  # normal path -> how the table calls it
        for path, name in zip(paths, names, strict=True):
            if path is not None:
                whose.setdefault(os.path.normpath(path), name)
        for row, (path, other, name) in enumerate(zip(paths, found, names, strict=True)):
            # b/1.png that is not there is not a/1.png, which another row names
            if path is not None or other is None:
                continue
            if whose.setdefault(os.path.normpath(other), name) == name:
                paths[row] = other
    return paths, names


def possible_groups(frame, taken=()):
    """Return a column that seems to tell whose each image is, and of what; else None, None.

    "Patient_ID", "lesion_id" and "subject" are such: names are compared by their letters.
    One in which all rows differ keeps nothing together.

    Parameters
    ----------
    frame : DataFrame
    taken : collection of str, default=()
        Columns that tell something else.
    """
    for word in _GROUPS:
        for column in frame.columns:
            letters = "".join(letter for letter in str(column).lower() if letter.isalpha())
            if column not in taken and letters in (word, f"{word}id", f"{word}number", f"{word}no"):
                known = frame[column].replace("", np.nan).dropna()
                if known.duplicated().any():
                    return column, "patient" if word == "mrn" else word
    return None, None


def target_of(frame, target, names):
    """Return labels (n,) of str and their names, or an indicator (n, L) and those of its columns.

    Parameters
    ----------
    frame : DataFrame of n rows
    target : str, list of str, or None
        A column of labels; columns of 0 and 1; None looks for a column of labels.
    names : list of str, length n
        What the images are called, for errors.
    """
    import pandas as pd

    if target is None:
        target = column_of(map(str, frame.columns), _TARGET)
        if target is None:
            raise InputError(
                "The table has no column that looks like the labels ("
                f"{', '.join(_TARGET)}). Name it, or several of 0 and 1, with target=; its columns "
                f"are {list_some(frame.columns, 20)}."
            )
    if isinstance(target, str):
        labels = named_column(frame, target, "target")
        if "" in labels:
            raise InputError(
                f"{rows_have(labels.count(''))} no label; the first is "
                f"{names[labels.index('')]!r}. Fill in column {target!r}, or remove these rows."
            )
        return np.array(labels), sorted(set(labels))
    target = list(target)
    columns = [named_column(frame, name, "target") for name in target]
    spelled = {"true": "1", "false": "0"}
    columns = [[spelled.get(cell.lower(), cell) for cell in column] for column in columns]
    values = np.column_stack(
        [pd.to_numeric(pd.Series(column, dtype=object), errors="coerce") for column in columns]
    ).astype(np.float64)
    empty = np.array([[cell == "" for cell in column] for column in columns]).T
    odd = ~np.isin(values, (0.0, 1.0)) & ~empty
    if odd.any():
        row, column = np.argwhere(odd)[0]
        raise InputError(
            f"Columns of labels hold 0 and 1, or nothing where it is not known. {names[row]!r} has "
            f"{columns[column][row]!r} in {target[column]!r}."
        )
    return (values if empty.any() else values.astype(np.int64)), [str(name) for name in target]
