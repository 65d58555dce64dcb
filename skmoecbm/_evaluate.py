"""Metrics of a fitted classifier with percentile intervals from a bootstrap over groups."""

import hashlib
import os

import numpy as np

from skmoecbm._base import ConceptClassifier
from skmoecbm._evaluation import Estimate, Evaluation, estimate, plain
from skmoecbm._label_metrics import measure_labels
from skmoecbm._metrics import (
    REDRAW_ROUNDS,
    check_labels,
    codes_of,
    group_of_rows,
    measure,
    resample,
    resample_groups,
)
from skmoecbm._targets import indicator_of
from skmoecbm._validation import check_number
from skmoecbm.exceptions import InputError

__all__ = ["Estimate", "Evaluation", "evaluate", "evaluate_scores"]

_CHUNK_NUMBERS = 8_000_000  # resamples x rows handled at once: 64 MB of float64


def evaluate(
    model, images, y, *, groups=None, n_bootstrap=1000, confidence=0.95, random_state=None
):
    """Measure a fitted model on labelled images, with intervals that respect groups.

    Parameters
    ----------
    model : estimator
        Fitted, with `predict_proba` and `classes_`: a pipeline or a bare classifier.
    images : array-like of length n
        Whatever the model's `predict_proba` takes.
    y : array-like of shape (n,), or indicator of shape (n, K), dense or sparse
        True classes, each one of `model.classes_`; or 1 where the row has the label of the column.
        The columns of a DataFrame go by their names, others by the order of `model.classes_`.
    groups : array-like of shape (n,), default=None
        Lesion, patient or study of each row. Rows of a group are resampled together, since they
        are not independent; None resamples rows.
    n_bootstrap : int, default=1000
        Resamples; 0 gives no intervals.
    confidence : float in (0, 1), default=0.95
        Coverage of the percentile intervals.
    random_state : int, RandomState instance or None, default=None
        The same integer gives the same resamples for any model, so differences are paired.

    Returns
    -------
    Evaluation
        Accuracy, balanced accuracy (mean recall), macro-AUROC (one-vs-rest), log-loss in nats,
        Brier score (in [0, 2], of two classes in [0, 1]) and the expected calibration error of
        the predicted class (15 bins of equal width), all over the classes that `y` has; recall
        and AUROC of each class.

        Of an indicator: AUROC, average precision and F1 (of what `predict` says), their mean over
        labels (macro) and over all cells at once (micro); log-loss, Brier score (in [0, 1]) and
        calibration error, each of a label's own probability, as means over labels. Labels that no
        row has, or all have, take part in these three alone; `notes` name them.

    Raises
    ------
    InputError
        If lengths differ, labels are missing or unknown to the model, or a parameter is out of
        range.

    Notes
    -----
    A resample that lacks a class of the sample is drawn again, up to 50 times; one that still
    lacks it averages over the classes that it has, and the result's `notes` say how many did.

    References
    ----------
    Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13 (percentile
    interval). Guo et al., "On Calibration of Modern Neural Networks" (2017), eq. 3 (ECE).

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> model = LogisticRegression(max_iter=1000).fit(X, y)
    >>> result = evaluate(model, X, y, n_bootstrap=100, random_state=0)
    >>> round(result["accuracy"].value, 2)
    0.97
    """
    if not hasattr(model, "predict_proba") or not hasattr(model, "classes_"):
        raise InputError(
            "evaluate needs a fitted classifier with predict_proba and classes_. Got "
            f"{type(model).__name__}; call fit first, or pass the pipeline that ends in one."
        )
    last = model.steps[-1][1] if hasattr(model, "steps") else model
    own = isinstance(last, ConceptClassifier) and not is_indicator(y)
    if getattr(last, "multilabel_", is_indicator(y)) != is_indicator(y):
        wanted = "an indicator" if last.multilabel_ else "one class per row"
        raise InputError(
            f"y must be what the model was fitted on: {wanted}. Got shape {_shape(y)}."
        )
    if is_indicator(y):
        y = indicator_of(y, model.classes_)
    else:
        y = check_labels(y, model.classes_)
    if isinstance(images, str | os.PathLike):
        raise InputError(
            f"images must be a list of images, not one path. Got {str(images)!r}; list the files "
            "of a folder first."
        )
    if len(images) != len(y):
        raise InputError(
            f"images and y must have the same length. Got {len(images):,} images and {len(y):,} "
            "labels; give one label per image, in the same order."
        )
    return evaluate_scores(
        y,
        model.predict_proba(images),
        model.classes_,
        # Of this package's own the most probable class; a threshold around it may say otherwise.
        predicted=None if own else model.predict(images),
        groups=groups,
        n_bootstrap=n_bootstrap,
        confidence=confidence,
        random_state=random_state,
    )


def evaluate_scores(
    y,
    proba,
    classes,
    *,
    predicted=None,
    groups=None,
    n_bootstrap=1000,
    confidence=0.95,
    random_state=None,
):
    """Measure class probabilities against labels; `evaluate` without the model.

    Parameters
    ----------
    y : array-like of shape (n,), or indicator of shape (n, K)
        True classes.
    proba : array-like of shape (n, K)
        Probabilities in [0, 1], columns in the order of `classes`.
    classes : array-like of shape (K,)
    predicted : array-like of shape (n,), or (n, K) of an indicator, default=None
        What the model says; None is the most probable class, or each label from 0.5 on.
    groups, n_bootstrap, confidence, random_state
        As in `evaluate`.

    Returns
    -------
    Evaluation

    Raises
    ------
    InputError
        As `evaluate`, and if `proba` has another shape or holds NaN.

    Examples
    --------
    >>> result = evaluate_scores(["a", "b", "b"], [[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], ["a", "b"],
    ...                          n_bootstrap=0)
    >>> result["balanced_accuracy"].value, result["macro_auroc"].value
    (0.75, 1.0)
    """
    check_number("evaluate", "n_bootstrap", n_bootstrap, low=0, integer=True)
    check_number("evaluate", "confidence", confidence, low=0, high=1, low_open=True)
    classes = np.asarray(classes)
    several = is_indicator(y)
    y = indicator_of(y, classes) if several else check_labels(y, classes)
    proba = np.asarray(proba, dtype=np.float64)
    if proba.shape != (len(y), len(classes)):
        raise InputError(
            f"proba must have shape (n, K) = ({len(y):,}, {len(classes)}), one row per label and "
            f"one column per class. Got {proba.shape}."
        )
    bad = np.flatnonzero(~np.isfinite(proba).all(axis=1))
    if len(bad):
        raise InputError(
            f"proba must be finite. Row {bad[0]} is not ({len(bad):,} such rows); drop the rows "
            "that the model cannot score."
        )
    group_of_row = group_of_rows(groups, len(y))
    if several:
        predicted = proba >= 0.5 if predicted is None else indicator_of(predicted, classes)
        measured = (y, proba, predicted.astype(np.float64))
        function, truth, supports = measure_labels, y, y.sum(axis=0).astype(int)
        kept = np.flatnonzero((y.min(axis=0) == 0) & (y.max(axis=0) == 1))
        cases = np.concatenate([y[:, kept] == 1, y[:, kept] == 0], axis=1)
        has_case = np.zeros((group_of_row.max() + 1, cases.shape[1]))
        np.maximum.at(has_case, group_of_row, cases)
        weights, n_lacking = resample_groups(has_case, n_bootstrap, random_state)
    else:
        truth = codes_of(y, classes)
        if predicted is not None:
            predicted = codes_of(check_labels(predicted, classes), classes)
        measured, function = (truth, proba, predicted), measure
        supports, kept = np.bincount(truth, minlength=len(classes)), np.unique(truth)
        weights, n_lacking = resample(truth, kept, group_of_row, n_bootstrap, random_state)
    sample = function(*measured, kept, np.ones((1, len(y))))
    size = max(1, _CHUNK_NUMBERS // truth.size)
    chunks = [
        function(*measured, kept, weights[start : start + size][:, group_of_row])
        for start in range(0, n_bootstrap, size)
    ]
    draws = {
        name: np.concatenate([np.empty((0, *v.shape[1:])), *(c[name] for c in chunks)])
        for name, v in sample.items()
    }
    key = hashlib.sha256()
    for part in (truth, group_of_row, weights):
        key.update(np.ascontiguousarray(part).tobytes())
    of_class = [name for name, v in sample.items() if v.ndim == 2]
    summary = [name for name in sample if name not in of_class]
    absent = [k for k in range(len(classes)) if k not in kept]
    return Evaluation(
        {m: estimate(sample[m][0], draws[m], confidence) for m in summary},
        {
            plain(classes[k]): {
                "support": int(supports[k]),
                **{m: estimate(sample[m][0, j], draws[m][:, j], confidence) for m in of_class},
            }
            for j, k in enumerate(kept)
        },
        {name: draws[name] for name in summary},
        classes=classes.tolist(),
        absent_classes=[plain(classes[k]) for k in absent],
        n=len(y),
        n_groups=int(group_of_row.max()) + 1,
        n_bootstrap=int(n_bootstrap),
        confidence=float(confidence),
        notes=_notes(classes, supports, absent, kept, several, n_lacking, n_bootstrap),
        resampling_key=key.hexdigest(),
    )


def _notes(classes, supports, absent, kept, several, n_lacking, n_bootstrap):
    """Return what a reader should know beside the numbers."""
    notes = []
    never = [str(classes[k]) for k in absent if supports[k] == 0]
    always = [str(classes[k]) for k in absent if supports[k] > 0]
    places = "AUROC, average precision and F1" if several else "the macro averages"
    out = f"left out of {places}"
    if never:
        notes.append(f"no row of y has {', '.join(never)}: {out}")
    if always:
        notes.append(f"every row of y has {', '.join(always)}: {out}")
    if len(kept) == 1 and not several:
        notes.append("y has one class only: AUROC is undefined")
    if n_lacking:
        lacked = "a label with or without a case" if several else "a class"
        rest = "labels" if several else "classes"
        notes.append(
            f"{n_lacking:,} of {n_bootstrap:,} resamples lack {lacked} after {REDRAW_ROUNDS} more "
            f"draws: their macro averages are over the {rest} they have"
        )
    return notes


def is_indicator(y):
    """Tell whether y has several columns, one per label."""
    shape = _shape(y)
    return len(shape) == 2 and shape[1] > 1


def _shape(y):
    return y.shape if hasattr(y, "shape") else np.asarray(y, dtype=object).shape
