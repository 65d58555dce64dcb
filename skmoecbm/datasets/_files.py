"""Images below a folder, and what is said of those that are not there."""

import filecmp
import os
import warnings
from pathlib import Path

import numpy as np

from skmoecbm._folder import IMAGE_SUFFIXES
from skmoecbm._label_table import list_some, rows_have
from skmoecbm._validation import check_choice
from skmoecbm.exceptions import InputError, SkmoecbmWarning

__all__ = ["ON_MISSING", "existing_root", "images_below", "keep_present", "readable", "walk"]

ON_MISSING = ("raise", "warn", "ignore")


def existing_root(root, name, wanted):
    """Return the folder of a data set, or say what it should hold.

    Parameters
    ----------
    root : path-like
    name : str
        The data set.
    wanted : str
        What the folder holds, in words.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise InputError(f"The folder of {name}, {str(root)!r}, {what}. It should hold {wanted}.")
    return root


def walk(root, enters=lambda name: True, depth=None):
    """Yield every folder from `root` down with the names of its files, in alphabetical order.

    Hidden files and folders are left out. Links are followed last, and no folder comes twice: a
    link to a folder above is no endless way, and one to a folder beside does not take its place.

    Parameters
    ----------
    root : path-like
    enters : callable
        Of a folder's name: whether it is looked into.
    depth : int, default=None
        How many levels below `root` are looked into; None is all.
    """
    seen, tops = set(), [root]
    base = len(Path(root).parts)
    for top in tops:  # grows by the links that are met
        for folder, inner, files in os.walk(top, followlinks=True):
            place = os.stat(folder)
            if (place.st_dev, place.st_ino) in seen and place.st_ino:
                inner.clear()
                continue
            seen.add((place.st_dev, place.st_ino))
            at_the_end = depth is not None and len(Path(folder).parts) - base >= depth
            inner[:] = [] if at_the_end else sorted(n for n in inner if n[0] != "." and enters(n))
            links = [name for name in inner if os.path.islink(os.path.join(folder, name))]
            tops += [os.path.join(folder, name) for name in links]
            inner[:] = [name for name in inner if name not in links]
            yield folder, sorted(name for name in files if name[0] != ".")


def images_below(root, *, skip=()):
    """Return name without ending -> path of every image below a folder.

    Parameters
    ----------
    root : path-like
    skip : collection of str, default=()
        Names of folders that are not looked into, in lower case: masks, for instance.

    Returns
    -------
    dict of str to str

    Raises
    ------
    InputError
        If two images of one name differ: it is not clear then which one is meant. Copies are
        common (archives hold a folder twice), and the first in alphabetical order is taken.
    """
    found, skip = {}, {name.lower() for name in skip}
    for folder, files in walk(root, lambda name: name.lower() not in skip):
        for file in files:
            stem, ending = os.path.splitext(file)
            if ending.lower() not in IMAGE_SUFFIXES:
                continue
            path = os.path.join(folder, file)
            known = found.setdefault(stem, path)
            if known != path and not _is_copy(known, path):
                raise InputError(
                    f"Two different images are called {stem!r}: {known!r} and {path!r}. Give the "
                    "folder that holds the right ones only."
                )
    return found


def _is_copy(one, other):
    """Tell whether two files are one file, or hold the same bytes."""
    try:
        # Sizes are compared first, then bytes up to the first that differs: uncompressed films of
        # one machine are all of one size.
        return os.path.samefile(one, other) or filecmp.cmp(one, other, shallow=False)
    except OSError as error:
        raise InputError(
            f"Two images have one name, and it cannot be read whether they are the same: {error}. "
            "Remove one of them."
        ) from error


def keep_present(paths, ids, *, name, root, on_missing, remedy):
    """Return which rows have an image, shape (n,), bool; tell of the others.

    Parameters
    ----------
    paths : sequence of str or None, length n
        None where no file was found.
    ids : sequence of str, length n
    name : str
        The data set.
    root : path-like
    on_missing : {"raise", "warn", "ignore"}
    remedy : str
        A sentence on how to complete the folder.

    Raises
    ------
    InputError
        If images are missing and `on_missing` is "raise", or none is there.
    """
    check_choice(name, "on_missing", on_missing, ON_MISSING)
    here = np.array([path is not None for path in paths], dtype=bool)
    gone = np.flatnonzero(~here)
    if not len(gone):
        return here
    told = (
        f"{len(gone):,} of the {len(here):,} images that the table of {name} names "
        f"{'is' if len(gone) == 1 else 'are'} not in "
        f"{str(root)!r}; the first is {str(ids[gone[0]])!r}."
    )
    if len(gone) == len(here):
        raise InputError(f"{told} {remedy}")
    if on_missing == "raise":
        raise InputError(f"{told} {remedy} on_missing='warn' leaves these rows out.")
    if on_missing == "warn":
        warnings.warn(f"{told} These rows are left out.", SkmoecbmWarning, stacklevel=3)
    return here


def readable(codes, names, *, name, column, ids):
    """Return the readable name of each code, str ndarray of shape (n,).

    Parameters
    ----------
    codes : sequence of str, length n
    names : dict of str to str
        Code -> name. Names pass as they are.
    name, column : str
        The data set and the column of its table, for the error.
    ids : sequence of str, length n

    Raises
    ------
    InputError
        If a code is not known, with the first image that has it.
    """
    known = {**{label: label for label in names.values()}, **names}
    codes = [str(code).strip() for code in codes]
    unknown = [row for row, code in enumerate(codes) if code not in known]
    if unknown:
        row = unknown[0]
        raise InputError(
            f"In column {column!r} of {name} {rows_have(len(unknown))} something else than "
            f"{list_some(names, 20)}; the first is {str(ids[row])!r} with {codes[row]!r}. Correct "
            "the table, or leave these rows out of it."
        )
    return np.array([known[code] for code in codes])
