"""Named splits of a data set: those with a trap say so when they are asked for."""

import warnings
from collections.abc import Mapping

import numpy as np
from sklearn.model_selection import StratifiedKFold

from skmoecbm._label_table import list_some
from skmoecbm._validation import parameter_error
from skmoecbm.exceptions import InputError, SkmoecbmWarning

__all__ = [
    "PARTS",
    "Splits",
    "chosen_rows",
    "group_split",
    "rows_left",
    "split_of_column",
    "strange_parts",
]

PARTS = ("train", "val", "test")
_TEST_FOLDS = 5  # one of them is tested on: a fifth of the rows
_VAL_FOLDS = 8  # one of the rest: a tenth of all rows
_FEWEST_GROUPS = 10
_MOST_ROWS = 4  # from which number on groups count as equally large
_EMPTY = ("", "nan", "none", "<na>")
_SPELLINGS = {"valid": "val", "validation": "val", "dev": "val", "training": "train"}


class Splits(Mapping):
    """Named splits, each a dict of part -> rows; one with a trap warns when it is taken.

    Parameters
    ----------
    splits : dict of str to dict of str to int ndarray
        Name -> part ("train", "val", "test") -> rows of the data set, ascending.
    traps : dict of str to str, default=None
        Name -> what a user of that split must know.
    default : str, default=None
        The split that is meant where none is named; the first one.
    absent : dict of str to str, default=None
        Name of a split that could be there -> how to get it.

    Examples
    --------
    >>> import numpy as np
    >>> from skmoecbm.datasets._splits import Splits
    >>> splits = Splits({"group": {"train": np.array([0, 2]), "test": np.array([1])}})
    >>> splits
    {'group': {'train': 2, 'test': 1}}
    >>> splits["group"]["test"]
    array([1])
    """

    def __init__(self, splits, traps=None, default=None, absent=None):
        self._splits = dict(splits)
        self.traps = dict(traps or {})
        self.default = next(iter(self._splits), None) if default is None else default
        self.absent = dict(absent or {})

    def __getitem__(self, name):
        """Return part -> rows, and warn of what is known against the split."""
        if name not in self._splits:
            raise KeyError(self.lack_of(name))
        self.warn_of(name, stacklevel=3)
        return self._splits[name]

    def warn_of(self, name, *, stacklevel):
        """Warn of what is known against a split, at the line of who asked for it."""
        if name in self.traps:
            warnings.warn(self.traps[name], SkmoecbmWarning, stacklevel=stacklevel)

    def add_traps(self, traps):
        """Let splits warn of more: `traps`, dict of str to str, goes behind what is known."""
        for name, told in traps.items():
            self.traps[name] = f"{self.traps[name]} {told}" if name in self.traps else told

    def rows(self, name):
        """Return part -> rows without a warning: to look at a split, not to learn on it."""
        return self._splits[name]

    def lack_of(self, name):
        """Return the sentences that say that there is no such split."""
        listed = ", ".join(map(repr, self._splits))
        remedy = f" {self.absent[name]}" if name in self.absent else ""
        return f"There is no split {name!r}; there is {listed}.{remedy}"

    def __contains__(self, name):
        """Tell whether there is such a split; to ask for one is not to use it."""
        return name in self._splits

    def __iter__(self):
        """Iterate over the names."""
        return iter(self._splits)

    def __len__(self):
        """Return how many splits there are."""
        return len(self._splits)

    def sizes(self):
        """Return name -> part -> number of rows; nothing warns of being counted."""
        return {
            name: {part: len(rows) for part, rows in parts.items()}
            for name, parts in self._splits.items()
        }

    def __repr__(self):
        """Return the number of rows of each part."""
        return repr(self.sizes())


def group_split(ids, target, groups, *, seed=0):
    """Divide rows into train, val and test (70, 10 and 20 in 100) so that no group is in two.

    Groups are divided by scikit-learn's `StratifiedKFold`, stratified by their rarest class or
    label and the number of their rows. `StratifiedGroupKFold`, which weighs one group at a time,
    balances rare classes a little better and takes seconds for ten thousand images. What part a row
    falls into depends on the ids, classes and groups, not on the order of rows.

    Parameters
    ----------
    ids : array-like of str, shape (n,)
        The name of each image.
    target : array-like of shape (n,), or indicator of shape (n, n_labels)
    groups : array-like of shape (n,)
        Lesion or patient.
    seed : int, default=0

    Returns
    -------
    dict of str to int ndarray
        Rows of "train", "val" and "test", ascending.

    Raises
    ------
    InputError
        If there are too few groups.
    """
    order = np.argsort(np.asarray(ids, dtype=str), kind="stable")
    _, first, group = np.unique(np.asarray(groups)[order], return_index=True, return_inverse=True)
    n_groups = len(first)
    if n_groups < _FEWEST_GROUPS:
        raise InputError(
            f"A split by groups needs at least {_FEWEST_GROUPS} groups. There are {n_groups}; give "
            "more images, or divide them yourself."
        )
    rarest = np.full(n_groups, np.iinfo(np.int64).max)
    np.minimum.at(rarest, group, _rank(np.asarray(target)[order]))
    n_rows = np.bincount(group)
    strata = rarest * (_MOST_ROWS + 1) + np.minimum(n_rows, _MOST_ROWS)
    # groups in the order of their first image, not of their names: these may be numbers or text
    here = np.argsort(first, kind="stable")
    rest, test = _one_fold(here, strata, _TEST_FOLDS, seed)
    train, val = _one_fold(rest, strata, _VAL_FOLDS, seed)
    return {
        part: np.sort(order[np.isin(group, chosen)])
        for part, chosen in zip(PARTS, (train, val, test), strict=True)
    }


def _rank(target):
    """Return how frequent the rarest class of each row is among all, 0 the rarest, shape (n,)."""
    if target.ndim == 1:
        _, codes = np.unique(target, return_inverse=True)
        target = np.eye(codes.max() + 1, dtype=bool)[codes]
    held = np.nan_to_num(target.astype(float)) > 0
    rank = np.empty(held.shape[1], dtype=np.int64)
    rank[np.argsort(held.sum(axis=0), kind="stable")] = np.arange(held.shape[1])
    return np.where(held, rank, held.shape[1]).min(axis=1)


def _one_fold(groups, strata, n_splits, seed):
    """Return the groups outside and inside of one of `n_splits` folds."""
    folds = StratifiedKFold(n_splits, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # a stratum of fewer groups than folds is divided as well as it goes
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        outside, inside = next(folds.split(groups, _merged(strata[groups], n_splits)))
    return groups[outside], groups[inside]


def _merged(strata, fewest):
    """Return strata of which the small ones were put together, since one must have enough."""
    values, place, counts = np.unique(strata, return_inverse=True, return_counts=True)
    return np.where(counts[place] < fewest, -1, values[place])


def split_of_column(column):
    """Return the split that a column of a table names: part -> rows.

    Parameters
    ----------
    column : sequence of str, length n
        "train", "val" (or "valid", "validation") or "test"; what is empty is in no part.

    Returns
    -------
    dict of str to int ndarray
    """
    words = np.array(_words(column), dtype=str)
    parts = {part: np.flatnonzero(words == part) for part in PARTS}
    return {part: rows for part, rows in parts.items() if len(rows)}


def strange_parts(column, name):
    """Return a sentence about cells of a split's column that name no part, or None.

    Parameters
    ----------
    column : sequence of str, length n
    name : str
        What the column is called.
    """
    words = _words(column)
    strange = [
        str(cell)
        for cell, word in zip(column, words, strict=True)
        if word not in PARTS and word not in _EMPTY
    ]
    if not strange:
        return None
    return (
        f"{len(strange):,} rows are in no part of the split of column {name!r}, which says "
        f"{list_some(sorted(set(strange)))} there instead of {', '.join(map(repr, PARTS))}."
    )


def _words(column):
    spelled = (str(cell).strip().lower() for cell in column)
    return [_SPELLINGS.get(word, word) for word in spelled]


def rows_left(parts, here):
    """Return part -> rows after rows were left out; `here`, bool (n,), tells which stay."""
    new = np.cumsum(here) - 1
    return {part: new[rows[here[rows]]] for part, rows in parts.items()}


def chosen_rows(rows, n):
    """Return the rows that a list, mask or slice chooses of `n`, as numpy would; none is negative.

    Parameters
    ----------
    rows : array-like of int, shape (k,), or of bool, shape (n,); or slice
    n : int

    Returns
    -------
    intp ndarray of shape (k,)

    Raises
    ------
    InputError
        If it chooses none, or a row that is not there.
    """
    if isinstance(rows, slice):
        try:
            return np.arange(n)[rows]
        except TypeError as error:
            raise parameter_error("take", "rows", "a slice of integers", rows) from error
    try:
        chosen = np.asarray(rows)
    except ValueError:  # lists of unequal lengths
        chosen = np.empty((), dtype=object)
    if chosen.dtype == object and chosen.ndim == 1:  # as of pandas' own types
        chosen = np.array(chosen.tolist())
    if chosen.ndim != 1 or (chosen.dtype.kind not in "biu" and len(chosen)):
        wanted = "a list of numbers of rows, a mask of True and False, or a slice"
        one = " (one row is [row])" if chosen.ndim == 0 and chosen.dtype.kind in "iu" else ""
        raise parameter_error("take", "rows", wanted + one, rows)
    if chosen.dtype == bool:
        if len(chosen) != n:
            wanted = f"a mask with an entry for each of the {n:,} rows"
            raise parameter_error("take", "rows", f"{wanted}, not {len(chosen):,}", rows)
        return np.flatnonzero(chosen)
    outside = (chosen < -n) | (chosen >= n) if len(chosen) else chosen
    if len(outside) and outside.any():
        first = int(chosen[outside][0])
        wanted = f"rows of the {n:,} there are (from {-n:,} to {n - 1:,})" if n else "empty"
        raise parameter_error("take", "rows", wanted, first)
    chosen = chosen.astype(np.intp)
    return np.where(chosen < 0, chosen + n, chosen)
