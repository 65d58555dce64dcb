"""Folds for out-of-fold logits: which rows train, which are predicted."""

from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, check_cv

from skmoecbm._validation import parameter_error

__all__ = ["Folds", "make_folds"]


@dataclass
class Folds:
    """F folds over n rows.

    Attributes
    ----------
    train : ndarray of shape (F, n), bool
        Rows that each fold trains on.
    held_out : ndarray of shape (n,), int
        The fold that predicts each row; -1 for a row that no fold predicts.
    """

    train: np.ndarray
    held_out: np.ndarray

    def __len__(self):
        return len(self.train)


def make_folds(owner, cv, codes, weights, groups=None):
    """Return `Folds`, or None where the data allow none.

    Parameters
    ----------
    owner : estimator
        Named in errors.
    cv : int, splitter or iterable of (train, test)
        An integer asks for at most that many stratified folds, never more than the rows (or
        groups) of the rarest class. Rows of weight zero take no part in choosing them.
    codes : ndarray of shape (n,), int
        Class index per row.
    weights : ndarray of shape (n,)
        Row weights.
    groups : ndarray of shape (n,) or None
        Rows of one group never straddle folds.

    Raises
    ------
    InputError
        If `cv` is neither, or predicts a row twice.
    """
    n = len(codes)
    rows = np.arange(n)
    if isinstance(cv, (int, np.integer)) and not isinstance(cv, bool):
        if cv < 2:
            raise parameter_error(owner, "cv", "an integer of at least 2 or a splitter", cv)
        rows = np.flatnonzero(weights > 0)
        kept = codes[rows]
        if groups is None:
            limit = np.unique(kept, return_counts=True)[1].min()
        else:
            limit = min(len(np.unique(groups[rows][kept == c])) for c in np.unique(kept))
        n_splits = int(min(cv, limit))
        if n_splits < 2:
            return None
        splitter = (StratifiedKFold if groups is None else StratifiedGroupKFold)(n_splits)
    else:
        try:
            splitter = check_cv(cv, codes, classifier=True)
        except ValueError as error:
            expected = "an integer of at least 2, a splitter or an iterable of (train, test)"
            raise parameter_error(owner, "cv", expected, cv) from error
        kept = codes
    kept_groups = None if groups is None else groups[rows]
    train, held_out = [], np.full(n, -1)
    splits = splitter.split(np.zeros((len(rows), 1)), kept, kept_groups)
    for fold, (train_rows, test_rows) in enumerate(splits):
        test_rows = rows[test_rows]
        if (held_out[test_rows] >= 0).any():
            raise parameter_error(owner, "cv", "folds that hold out each row at most once", cv)
        mask = np.zeros(n, dtype=bool)
        mask[rows[train_rows]] = True
        train.append(mask)
        held_out[test_rows] = fold
    return Folds(np.array(train), held_out)
