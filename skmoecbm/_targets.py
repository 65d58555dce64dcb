"""Labels, weights and groups as the fits want them, or a sentence that says what is wrong."""

import numpy as np
from sklearn.utils import check_array, column_or_1d
from sklearn.utils.multiclass import check_classification_targets

from skmoecbm._validation import parameter_error
from skmoecbm.exceptions import InputError

__all__ = ["check_groups", "encode_labels", "missing_labels", "number_groups", "row_weights"]


def encode_labels(owner, y, n):
    """Return the sorted classes and the code of each row.

    Raises
    ------
    InputError
        If y is None, of another length, holds NaN or None, or has fewer than two classes.
    """
    name = type(owner).__name__
    if y is None:
        raise InputError(
            f"{name} requires y to be passed, but the target y is None. Give one label per image."
        )
    y = column_or_1d(y, warn=True)
    if len(y) != n:
        raise InputError(
            f"X has {n} rows and y has {len(y)} labels: inconsistent numbers of samples. "
            "Give one label per image."
        )
    unknown = missing_labels(y)
    if unknown.any():
        rows = np.flatnonzero(unknown)[:5].tolist()
        raise InputError(
            f"y contains NaN or None in {unknown.sum()} row(s): {rows}. Drop these rows or label "
            "them."
        )
    check_classification_targets(y)
    try:
        classes, codes = np.unique(y, return_inverse=True)
    except TypeError as error:
        kinds = sorted({type(label).__name__ for label in y.tolist()})
        raise InputError(f"Labels must be of one type. Got {kinds}; use str or int.") from error
    if len(classes) < 2:
        raise InputError(
            f"{name} needs at least two classes to tell apart. Got 1 class, "
            f"{classes.tolist()[0]!r}, in {n} row(s) (n_samples={n}). Add images of another class."
        )
    return classes, codes


def row_weights(owner, sample_weight, class_weight, classes, codes):
    """Return the weight of each row, shape (n,), float64.

    ``"balanced"`` gives every class the same total, counting by `sample_weight`, so that a row
    of weight 2 still equals the row twice.

    Raises
    ------
    InputError
        For weights that are negative, not finite, of another length or leave one class, or class
        weights of unknown classes.
    """
    n = len(codes)
    if sample_weight is None:
        weights = np.ones(n)
    else:
        weights = check_array(
            sample_weight, ensure_2d=False, dtype=np.float64, input_name="sample_weight"
        )
        if weights.ndim == 0:
            weights = np.full(n, float(weights))
        if weights.shape != (n,) or (weights < 0).any():
            raise InputError(
                f"sample_weight must be {n} numbers of at least 0, one per row. Got shape "
                f"{weights.shape}{' with negative values' if (weights < 0).any() else ''}."
            )
    counts = np.bincount(codes, weights=weights, minlength=len(classes))
    if np.count_nonzero(counts) < 2:
        raise InputError(
            "sample_weight is zero for every row, or for all classes but one: there is at most 1 "
            "class to learn. Give weight to another class."
        )
    _check_classes_weigh("sample_weight", classes, counts)
    if class_weight is None:
        return weights
    if isinstance(class_weight, str) and class_weight == "balanced":
        per_class = counts.sum() / (len(counts) * counts)
    elif isinstance(class_weight, dict):
        unknown = [label for label in class_weight if label not in set(classes.tolist())]
        if unknown:
            raise InputError(
                f"class_weight names {unknown[:5]}, which are not in y. The classes are "
                f"{classes.tolist()[:20]}."
            )
        per_class = np.array([float(class_weight.get(label, 1.0)) for label in classes.tolist()])
        if not np.isfinite(per_class).all() or (per_class < 0).any():
            raise parameter_error(
                owner, "class_weight", "made of finite numbers >= 0", class_weight
            )
        _check_classes_weigh("class_weight", classes, per_class)
    else:
        raise parameter_error(owner, "class_weight", "'balanced', a dict or None", class_weight)
    return weights * per_class[codes]


def _check_classes_weigh(name, classes, weight_of_class):
    lost = classes[weight_of_class == 0].tolist()
    if lost:
        raise InputError(
            f"{name} is zero for all rows of class(es) {lost[:5]}, which then cannot be learned. "
            "Give them weight, or drop their rows from X and y."
        )


def missing_labels(labels):
    """Return which entries of a 1-D array are None, NaN, NaT or NA, shape (n,), bool."""
    if labels.dtype.kind != "O":
        return np.isnan(labels) if labels.dtype.kind in "fmM" else np.zeros(len(labels), bool)
    import pandas as pd

    return pd.isna(labels)


def check_groups(groups, n):
    """Return the groups of n rows as a list, or raise what is wrong with them.

    Raises
    ------
    InputError
        If there is not one group per row: rows whose group is unknown would pass for one group.
    """
    groups = np.asarray(groups)
    if groups.shape not in ((n,), (n, 1)):
        raise InputError(
            f"groups must have shape (n,) = ({n:,},), one per row. Got {groups.shape}."
        )
    groups = groups.reshape(n)
    missing = np.flatnonzero(missing_labels(groups))
    if len(missing):
        raise InputError(
            f"groups must not be missing. Row {missing[0]} has none ({len(missing):,} such rows); "
            "give rows that stand alone a group of their own."
        )
    return groups.tolist()


def number_groups(groups, n):
    """Return groups as small integers, shape (n,), or None; 1 and "1" are two groups."""
    if groups is None:
        return None
    groups = check_groups(groups, n)
    distinct = sorted(set(groups), key=lambda group: (str(group), type(group).__name__))
    numbers = {group: number for number, group in enumerate(distinct)}
    return np.array([numbers[group] for group in groups])
