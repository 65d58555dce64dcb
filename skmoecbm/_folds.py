"""Folds for out-of-fold logits: which rows train, which are predicted."""

from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import (
    BaseCrossValidator,
    BaseShuffleSplit,
    GroupKFold,
    KFold,
    PredefinedSplit,
    StratifiedGroupKFold,
    StratifiedKFold,
    check_cv,
)

from skmoecbm._labels import is_exclusive
from skmoecbm._validation import parameter_error

__all__ = ["Folds", "make_folds"]

#: Shuffled draws tried for each number of folds where the plain ones lose a class.
_DRAWS = 10


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


def make_folds(owner, cv, codes, weights, groups=None, present=None):
    """Return `Folds` and None, or None and the reason why the data allow none.

    Every fold trains on rows of every class, for every expert that saw the class more than once:
    out-of-fold logits of a class that was never seen would pass for evidence about alpha,
    temperatures and gate. Of several labels a row the rare ones cannot all be everywhere; where no
    draw has them all, a fold that lacks one says its overall frequency.

    Parameters
    ----------
    owner : estimator
        Named in errors.
    cv : int, splitter or iterable of (train, test)
        An integer asks for at most that many stratified folds, never more than the rows (or
        groups) of the rarest class, and fewer where some fold would train without a class. Rows
        of weight zero take no part in choosing them, nor in what a splitter of scikit-learn sees.
    codes : ndarray of shape (n,), int, or LabelMatrix
        Class index per row, or its labels.
    weights : ndarray of shape (n,)
        Row weights.
    groups : ndarray of shape (n,) or None
        Rows of one group never straddle folds.
    present : ndarray of shape (n, E), bool, or None
        Which experts each row has; None is all.

    Raises
    ------
    InputError
        If `cv` is neither, or predicts a row twice.
    """
    used = weights > 0
    present = used[:, None] if present is None else present & used[:, None]
    units = np.arange(len(codes)) if groups is None else groups
    # What every fold must train on: rows of each class, of each expert, and of each class that an
    # expert saw in two units at least (the fold that holds out the only one must do without).
    cases = _cases(codes, used)
    cells = [case & seen for seen in present.T for case in cases]
    cells = [*present.T, *cases, *(cell for cell in cells if len(np.unique(units[cell])) > 1)]
    if isinstance(cv, (int, np.integer)) and not isinstance(cv, bool):
        if cv < 2:
            raise parameter_error(owner, "cv", "an integer of at least 2 or a splitter", cv)
        limit = _limit(codes, cases, units, used)
        if min(limit, *(len(np.unique(units[seen])) for seen in present.T)) < 2:
            return None, _too_little(owner, codes, cases, units, groups is not None)
        if not is_exclusive(codes):
            drawn = _label_folds(owner, cv, min(cv, limit), used, codes, groups, cells)
            if not _all_trained(drawn, present.T):
                return None, "no folds were found that all train every expert"
            return drawn, None
        for n_splits in range(int(min(cv, limit)), 1, -1):
            for splitter in _splitters(n_splits, groups is not None):
                folds = _split(owner, cv, splitter, np.flatnonzero(used), codes, groups)
                if _all_trained(folds, cells):
                    return folds, None
        return None, "no two folds were found that both train on every class of every expert"
    try:
        splitter = check_cv(cv, codes if is_exclusive(codes) else codes.values, classifier=True)
    except ValueError as error:
        expected = "an integer of at least 2, a splitter or an iterable of (train, test)"
        raise parameter_error(owner, "cv", expected, cv) from error
    # Where folds are given row by row, their numbers are those of all rows.
    by_rule = isinstance(cv, (BaseCrossValidator, BaseShuffleSplit))
    by_rule = by_rule and not isinstance(cv, PredefinedSplit)
    rows = np.flatnonzero(used) if by_rule else np.arange(len(codes))
    folds = _split(owner, cv, splitter, rows, codes, groups)
    if not _all_trained(folds, cells if is_exclusive(codes) else present.T):
        return None, "a fold of cv trains without a class, or without an expert's part of one"
    return folds, None


def _cases(codes, used):
    """Return the used rows (n,) of each class, or those with and those without each label."""
    if is_exclusive(codes):
        return [used & (codes == c) for c in np.unique(codes[used])]
    has = codes.values > 0.5
    return [used & rows for label in has.T for rows in (label, ~label)]


def _limit(codes, cases, units, used):
    """Return the largest number of folds that the rarest class, or the rows, allow."""
    counted = cases if is_exclusive(codes) else [used]
    return min(len(np.unique(units[case])) for case in counted)


def _too_little(owner, codes, cases, units, grouped):
    """Return in words which class leaves no two folds."""
    what = "one group" if grouped else "one row"
    if is_exclusive(codes) and hasattr(owner, "classes_"):
        present = owner.classes_[np.unique(codes[np.any(cases, axis=0)])].tolist()
        rare = [
            c for c, case in zip(present, cases, strict=True) if len(np.unique(units[case])) < 2
        ]
        if rare:
            return f"class {rare[0]!r} has {what} only, which is too little for two folds"
    return f"the rows, or what an expert saw, are of {what} only: too little for two folds"


def _label_folds(owner, cv, n_splits, used, codes, groups, cells):
    """Return the first draw of folds that train on every label with and without it, or the first.

    Drawn, not cut in order: rows of one label often stand together.
    """
    kind, first = KFold if groups is None else GroupKFold, None
    for seed in range(_DRAWS):
        splitter = kind(int(n_splits), shuffle=True, random_state=seed)
        folds = _split(owner, cv, splitter, np.flatnonzero(used), codes, groups)
        if _all_trained(folds, cells):
            return folds
        first = folds if first is None else first
    return first


def _splitters(n_splits, grouped):
    """Yield the plain stratified folds, then other draws for where these lose a class."""
    yield (StratifiedGroupKFold if grouped else StratifiedKFold)(n_splits)
    # Stratified group folds are greedy: shuffled, they are mostly the same again.
    kind = GroupKFold if grouped else StratifiedKFold
    for seed in range(_DRAWS):
        yield kind(n_splits, shuffle=True, random_state=seed)


def _split(owner, cv, splitter, rows, codes, groups):
    """Return the folds that a splitter makes of some rows."""
    train, held_out = [], np.full(len(codes), -1)
    groups = None if groups is None else groups[rows]
    labels = codes[rows] if is_exclusive(codes) else codes.values[rows].astype(int)
    splits = splitter.split(np.zeros((len(rows), 1)), labels, groups)
    for fold, (train_rows, test_rows) in enumerate(splits):
        test_rows = rows[test_rows] if len(test_rows) else rows[:0]
        if (held_out[test_rows] >= 0).any():
            raise parameter_error(owner, "cv", "folds that hold out each row at most once", cv)
        mask = np.zeros(len(codes), dtype=bool)
        mask[rows[train_rows]] = True
        train.append(mask)
        held_out[test_rows] = fold
    if not (held_out >= 0).any():
        raise parameter_error(owner, "cv", "folds that hold out at least one row", cv)
    return Folds(np.array(train), held_out)


def _all_trained(folds, cells):
    return all((folds.train & cell).any(axis=1).all() for cell in cells)
