"""Labels, weights and groups as the fits want them, or a sentence that says what is wrong."""

import warnings

import numpy as np
import scipy.sparse
from sklearn.utils import check_array, column_or_1d
from sklearn.utils.multiclass import check_classification_targets

from skmoecbm._block_words import EXPERT, words_of
from skmoecbm._labels import LabelMatrix, is_exclusive
from skmoecbm._validation import parameter_error
from skmoecbm.exceptions import InputError, SkmoecbmWarning

__all__ = [
    "check_groups",
    "encode_labels",
    "indicator_of",
    "label_cells",
    "missing_labels",
    "number_groups",
    "row_weights",
]


def encode_labels(owner, y, n):
    """Return the sorted classes and the code of each row; for an indicator y, its labels.

    Returns
    -------
    classes : ndarray of shape (K,)
        Of an indicator: the column names of a DataFrame, else 0 to K - 1.
    codes : ndarray of shape (n,), int, or LabelMatrix

    Raises
    ------
    InputError
        If y is None, of another length, holds NaN or None, has fewer than two classes, or is 2-D
        and no indicator.
    """
    name, words = type(owner).__name__, words_of(owner)
    if y is None:
        raise InputError(
            f"{name} requires y to be passed, but the target y is None. Give one label per "
            f"{words.rows}."
        )
    shape = y.shape if hasattr(y, "shape") else np.asarray(y, dtype=object).shape
    if len(shape) == 2 and shape[1] > 1:
        return _encode_indicator(y, n, words)
    y = column_or_1d(y, warn=True)
    if len(y) != n:
        raise InputError(
            f"X has {n} rows and y has {len(y)} labels: inconsistent numbers of samples. "
            f"Give one label per {words.rows}."
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
            f"{classes.tolist()[0]!r}, in {n} row(s) (n_samples={n}). Add {words.more} of "
            "another class."
        )
    return classes, codes


def _encode_indicator(y, n, words=EXPERT):
    """Return the names of the columns of a 0/1 matrix, and it as a `LabelMatrix`."""
    names = np.asarray(getattr(y, "columns", np.arange(np.shape(y)[1])))
    if scipy.sparse.issparse(y):
        y = y.toarray()
    try:
        values = np.asarray(y, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(
            "A y of two dimensions must be an indicator: 1 where the row has the label of the "
            "column, else 0. Make one of lists of labels with scikit-learn's MultiLabelBinarizer."
        ) from error
    if len(values) != n:
        raise InputError(
            f"X has {n} rows and y has {len(values)}: inconsistent numbers of samples. Give one "
            f"row of labels per {words.rows}."
        )
    unknown = np.isnan(values).any(axis=1)
    if unknown.any():
        raise InputError(
            f"y contains NaN in {unknown.sum()} row(s): {np.flatnonzero(unknown)[:5].tolist()}. "
            "Drop these rows or decide on their labels."
        )
    odd = ~np.isin(values, (0.0, 1.0))
    if odd.any():
        row, column = np.argwhere(odd)[0]
        raise InputError(
            f"A y of two dimensions must hold 0 and 1 alone (one column per label). Row {row}, "
            f"column {names[column]!r}, holds {values[row, column]:g}."
        )
    if len(set(names.tolist())) < len(names):
        raise InputError(f"The columns of y must have distinct names. Got {names.tolist()[:20]}.")
    return names, LabelMatrix(values, np.ones_like(values))


def indicator_of(y, classes):
    """Return an indicator (n, L), float64, with its columns in the order of a model's labels.

    The columns of a DataFrame go by their names, those of anything else by their order.

    Raises
    ------
    InputError
        If y is no indicator, or its columns are not the labels.
    """
    shape = np.shape(y) if not hasattr(y, "shape") else y.shape
    names, labels = _encode_indicator(y, shape[0])
    known = np.asarray(classes).tolist()
    if hasattr(y, "columns"):
        wrong = sorted(map(str, {*names.tolist()} ^ {*known}))
        if wrong:
            raise InputError(
                f"The columns of y and the labels of the model differ in {', '.join(wrong[:10])}. "
                f"The labels are {', '.join(map(str, known[:20]))}; drop, add or rename columns."
            )
        return labels.values[:, [names.tolist().index(label) for label in known]]
    if labels.values.shape[1] != len(known):
        raise InputError(
            f"y must have a column for each of the {len(known)} labels of the model. Got "
            f"{labels.values.shape[1]} columns; give 0 and 1 for {', '.join(map(str, known[:20]))}."
        )
    return labels.values


def label_cells(owner, class_weight, classes, labels, weights):
    """Return the labels with cells weighted, and those without a case replaced by a constant.

    A label that no row of any weight has, or that all have, is nothing to learn from: its values
    become what one half of a further case would make of its frequency, so that its logit is that
    constant.

    Parameters
    ----------
    owner : estimator
    class_weight : "balanced", dict or None
        ``"balanced"``: with and without a label weigh the same in all. A dict: how much the rows
        with a label count beside those without.
    classes : ndarray of shape (L,)
    labels : LabelMatrix
    weights : ndarray of shape (n,)
        Row weights.
    """
    positive = weights @ labels.values
    negative = weights.sum() - positive
    has_cases = (positive > 0) & (negative > 0)
    if not has_cases.any():
        raise InputError(
            "No label of y is there in some rows and absent in others, so there is nothing to "
            "tell apart. Add images with and without each label, or weight to them."
        )
    values, cells = labels.values.copy(), labels.cells.copy()
    if isinstance(class_weight, str) and class_weight == "balanced":
        for with_it, count in ((values == 1, positive), (values == 0, negative)):
            factor = weights.sum() / (2.0 * np.where(has_cases, count, 1.0))
            cells *= np.where(with_it & has_cases, factor, 1.0)
    elif class_weight is not None:
        factor = _weight_of_class(owner, class_weight, classes)
        cells *= np.where(values == 1, factor, 1.0)
    if not has_cases.all():
        lost = [
            f"{name!r} ({'no' if count == 0 else 'every'} row has it)"
            for name, count in zip(classes.tolist(), positive, strict=True)
            if count == 0 or count == weights.sum()
        ]
        warnings.warn(
            f"{len(lost)} label(s) cannot be learned from these rows: {', '.join(lost[:5])}. Their "
            "probability is a constant near 0 or 1. Add images, or drop the columns.",
            SkmoecbmWarning,
            stacklevel=7,
        )
        frequency = (positive + 0.5) / (weights.sum() + 1.0)
        values = np.where(has_cases, values, frequency)
        cells = np.where(has_cases, cells, 1.0)
    return LabelMatrix(values, cells), has_cases


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
    if not is_exclusive(codes):
        if not weights.any():
            raise InputError("sample_weight is zero for every row. Give weight to some.")
        return weights
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
    else:
        per_class = _weight_of_class(owner, class_weight, classes)
    return weights * per_class[codes]


def _weight_of_class(owner, class_weight, classes):
    """Return the weight of each class that a dict gives, 1 where it is silent."""
    if not isinstance(class_weight, dict):
        raise parameter_error(owner, "class_weight", "'balanced', a dict or None", class_weight)
    unknown = [label for label in class_weight if label not in set(classes.tolist())]
    if unknown:
        raise InputError(
            f"class_weight names {unknown[:5]}, which are not in y. The classes are "
            f"{classes.tolist()[:20]}."
        )
    try:
        per_class = np.array([float(class_weight.get(label, 1.0)) for label in classes.tolist()])
    except (TypeError, ValueError) as error:
        raise parameter_error(
            owner, "class_weight", "made of finite numbers >= 0", class_weight
        ) from error
    if not np.isfinite(per_class).all() or (per_class < 0).any():
        raise parameter_error(owner, "class_weight", "made of finite numbers >= 0", class_weight)
    _check_classes_weigh("class_weight", classes, per_class)
    return per_class


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
