"""Labels, weights and groups as the fits want them, or a sentence that says what is wrong."""

import numpy as np
from sklearn.utils import check_array, check_consistent_length, column_or_1d
from sklearn.utils.multiclass import check_classification_targets

from skmoecbm._validation import parameter_error
from skmoecbm.exceptions import InputError

__all__ = ["check_groups", "encode_labels", "row_weights"]


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
    unknown = np.array([label is None or label != label for label in y.tolist()], dtype=bool)
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
    if class_weight is None:
        return weights
    if isinstance(class_weight, str) and class_weight == "balanced":
        per_class = counts.sum() / (np.count_nonzero(counts) * np.where(counts > 0, counts, 1.0))
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
    else:
        raise parameter_error(owner, "class_weight", "'balanced', a dict or None", class_weight)
    return weights * per_class[codes]


def check_groups(groups, n):
    """Return groups as an array of length n of small integers, or None."""
    if groups is None:
        return None
    groups = column_or_1d(groups)
    check_consistent_length(groups, np.empty(n))
    return np.unique(groups.astype(str), return_inverse=True)[1]
