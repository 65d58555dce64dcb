"""Training and test rows of a split, of a data set or of images and groups."""

from collections.abc import Mapping

import numpy as np

from skmoecbm.exceptions import InputError

__all__ = ["rows_of_split"]


def rows_of_split(data, groups, split, parts, other_groups=(None, None)):
    """Return training and test images with their groups, as `check_leak` takes them.

    Parameters
    ----------
    data : sequence of images, ExpertFeatures, or Bunch with `images`, `groups` and `splits`
    groups : array-like of shape (n,), default=None
    split : mapping of str to int array, pair of int arrays, str (of a Bunch), or None (its default)
    parts : pair of str, or None
    other_groups : pair
        What was given as groups of the parts, which a split does not need.

    Returns
    -------
    train, test, train_groups, test_groups

    Raises
    ------
    InputError
        If there is no such split or part, or a row that is not there.
    """
    if any(one is not None for one in other_groups):
        raise InputError(
            "With a split check_leak takes the groups of all rows as its second argument: "
            "check_leak(images, groups, split). Leave out train_groups and test_groups."
        )
    if hasattr(data, "images"):
        splits = data.get("splits")
        if splits is not None and (split is None or isinstance(split, str)):
            name = splits.default if split is None else split
            if name not in splits:
                raise InputError(splits.lack_of(name))
            split = splits.rows(name)  # without its warning: a leak is what is asked for
        groups = data.groups if groups is None else groups
        data = data.images
    n = len(data)
    chosen = _two_parts(split, parts)
    if groups is not None and len(groups) != n:
        raise InputError(
            f"check_leak got {n:,} images and {len(groups):,} groups. Give one group per image."
        )
    groups = None if groups is None else np.asarray(groups)
    sides = []
    for name, rows in chosen:
        rows = np.asarray(rows)
        if rows.ndim != 1 or (len(rows) and rows.dtype.kind not in "iu"):
            raise InputError(
                f"The part {name!r} of the split must be a list of row numbers. Got an array of "
                f"shape {rows.shape} and dtype {rows.dtype}; np.flatnonzero makes rows of a mask."
            )
        rows = rows.astype(np.intp)
        if len(rows) and (rows.min() < 0 or rows.max() >= n):
            raise InputError(
                f"The part {name!r} of the split has row {rows.max()}, but there are {n:,} images. "
                "Give the split of these images."
            )
        sides.append((_take(data, rows), None if groups is None else groups[rows]))
    (train, train_groups), (test, test_groups) = sides
    return train, test, train_groups, test_groups


def _two_parts(split, parts):
    """Return the names and rows of the two parts that are compared."""
    if isinstance(split, Mapping):
        if parts is None:
            parts = ("train", "val" if "test" not in split and "val" in split else "test")
        if lacking := [part for part in parts if part not in split]:
            raise InputError(
                f"The split has no part {lacking[0]!r}; it has "
                f"{', '.join(map(repr, split))}. Name two of them with parts=."
            )
        return [(part, split[part]) for part in parts]
    if isinstance(split, tuple | list) and len(split) == 2:
        return list(zip(("train", "test"), split, strict=True))
    raise InputError(
        "The 'split' parameter of check_leak must be a dict of rows by part, a pair (train, test) "
        "of rows, or the name of a split where a data set of skmoecbm.datasets is given. Got "
        f"{split!r:.200} instead."
    )


def _take(data, rows):
    if isinstance(data, list | tuple):
        return [data[row] for row in rows]
    return data.iloc[rows] if hasattr(data, "iloc") else data[rows]
