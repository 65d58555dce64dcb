"""A table of image paths and labels, as people keep it: CSV, Excel or a DataFrame."""

import filecmp
import os
import posixpath
import re
from bisect import bisect_left
from pathlib import Path

import numpy as np

from skmoecbm._folder import IMAGE_SUFFIXES
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
        Without arguments: the path of every image below `root`. Called only if cells are no paths.

    Raises
    ------
    InputError
        If there is no such column, a cell is empty, or several images that differ fit a cell.
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
        paths = _found_below(paths, names, below())
    return paths, names


def _found_below(paths, names, images):
    """Return paths with those of images that are called as the cells say, where it is certain."""
    known = sorted((_steps(os.path.abspath(path)), path) for path in images)
    owner, found = {}, []  # owner: image -> how well it fits, and the cells that fit it so
    for path, name in zip(paths, names, strict=True):
        fit, guessed = (10**6, 0), False
        if path is None:
            path, fit, guessed = _best_match(name, known)
        found.append((path, guessed, name))
        if path is not None:
            place = os.path.abspath(path)
            best, cells = owner.get(place, ((0, 0), set()))
            if fit >= best:
                owner[place] = (fit, {name} if fit > best else cells | {name})
    # where two cells lead to one image, a guess is no better than a guess: one is another's image
    return [
        None if guessed and owner[os.path.abspath(path)][1] != {name} else path
        for path, guessed, name in found
    ]


def _steps(path):
    """Return the steps of a path from its end, the name of the file without ending first."""
    *folders, file = [step for step in path.replace("\\", "/").split("/") if step]
    return (os.path.splitext(file)[0], *reversed(folders))


def _best_match(name, known):
    """Return the image a cell means or None, how well it fits, and whether it is a guess.

    A cell's folders must be the image's own, all of them; only of an absolute path, which begins on
    another machine, the last ones are enough. An image of the same name elsewhere may well be
    another patient's.
    """
    plain = posixpath.normpath(name.replace("\\", "/"))
    foreign = bool(re.match(r"/|[A-Za-z][A-Za-z0-9+.-]*:", plain))
    steps = [step for step in plain.split("/") if step]
    if not steps or steps[0] == "..":
        return None, (0, 0), False
    if foreign and steps[0].endswith(":"):
        steps = steps[1:]
    needed = 2 if foreign else len(steps)
    if len(steps) < needed:
        return None, (0, 0), False
    file, folders = steps[-1], tuple(reversed(steps[:-1]))
    stem, ending = os.path.splitext(file)
    stems = {file, stem} if ending.lower() in IMAGE_SUFFIXES else {file}
    best, matches = (0, 0), []
    for wanted in [(stem, *folders) for stem in sorted(stems)]:
        length = _longest(known, wanted)
        if length < needed:
            continue
        shared = wanted[:length]
        for place in range(bisect_left(known, (shared,)), len(known)):
            there, path = known[place]
            if there[:length] != shared:
                break
            base = os.path.basename(path)
            fit = (length, 3 if base == file else 2 if there[0] == file else 1)
            if fit > best:
                best, matches = fit, []
            if fit == best:
                matches.append(path)
    for other in matches[1:]:
        if not filecmp.cmp(matches[0], other, shallow=False):
            raise InputError(
                f"The table's {name!r} may be {matches[0]!r} or {other!r}, which differ. Write "
                "paths below the folder into the table."
            )
    return (matches[0] if matches else None), best, foreign or best[1] == 1


def _longest(known, wanted):
    """Return how many first steps of `wanted` an image has, at most."""
    place = bisect_left(known, (wanted,))  # those beside it in the alphabet share the most
    longest = 0
    for there, _ in known[max(place - 1, 0) : place + 1]:
        same = [one == other for one, other in zip(there, wanted, strict=False)]
        longest = max(longest, same.index(False) if False in same else len(same))
    return longest


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
