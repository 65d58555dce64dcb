"""From which probability on a row has a label: thresholds tuned on held-out predictions."""

import copy
import warnings

import numpy as np
from sklearn.base import clone
from sklearn.pipeline import Pipeline

from skmoecbm._folds import make_folds
from skmoecbm._labels import LabelMatrix
from skmoecbm._last_step import fitted_classifier, with_classifier
from skmoecbm._targets import indicator_of, number_groups, row_weights
from skmoecbm._validation import check_choice
from skmoecbm.exceptions import InputError, SkmoecbmWarning

__all__ = ["best_threshold", "tune_thresholds"]

# Scores that differ by less are equal: rounding must not choose a threshold.
_TIE = 1e-12


def tune_thresholds(model, X, y, *, criterion="f1", cv=5, groups=None, sample_weight=None):
    """Choose for each label the probability from which on `predict` says that a row has it.

    The probabilities that decide are held out: clones of the whole model are fitted on folds, so
    that neither experts nor gate have seen the rows that they are asked about.

    Parameters
    ----------
    model : classifier or Pipeline
        Fitted on an indicator y; of this package, or a pipeline (or a search) that ends in one.
    X : array-like of length n
        What the model was fitted on, or takes: images, features, a table.
    y : indicator of shape (n, K), dense or sparse
    criterion : {"f1", "youden"}, default="f1"
        ``"f1"``: the harmonic mean of precision and recall. ``"youden"``: sensitivity plus
        specificity less 1, which does not depend on how frequent the label is.
    cv : int, splitter, iterable or "prefit", default=5
        Folds of X and y. ``"prefit"``: X and y are rows that `model` has not seen, and its own
        probabilities decide; nothing is fitted. The only way for a model that `edit` returned.
    groups : array-like of shape (n,), default=None
        Rows of one group never straddle folds.
    sample_weight : array-like of shape (n,), default=None

    Returns
    -------
    model of the same kind
        It shares what `model` learned and has `thresholds_`, shape (K,), on the classifier;
        `model` itself is left as it was. Saved and loaded with it, forgotten by a new `fit`.

    Raises
    ------
    InputError
        If the model is of another kind, or not of many labels, or the data do not fit it.

    Warns
    -----
    SkmoecbmWarning
        Names the labels that keep 0.5: no held-out row has them, or every one, or all that have
        them are in one fold, or (``"youden"``) no threshold is better than chance.

    Notes
    -----
    A threshold stands half way between two held-out probabilities that are next to each other; of
    equally good ones the one nearest 0.5 is taken, of two equally near the lower. It is compared
    with what `predict_proba` returns, so a `target_prevalence` is set before tuning. For two
    classes that exclude each other use scikit-learn's `TunedThresholdClassifierCV`.

    References
    ----------
    Youden, Index for Rating Diagnostic Tests (1950). Lipton, Elkan and Naryanaswamy, Optimal
    Thresholding of Classifiers to Maximize F1 Measure (2014).

    Examples
    --------
    >>> import numpy as np
    >>> from skmoecbm import ConceptBottleneckClassifier, tune_thresholds
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(200, 4))
    >>> y = (X[:, :2] + rng.normal(size=(200, 2)) > 1.5).astype(int)
    >>> clf = ConceptBottleneckClassifier(alpha=1.0).fit(X, y)
    >>> tuned = tune_thresholds(clf, X, y)
    >>> bool((tuned.thresholds_ < 0.5).all())
    True
    """
    model, classifier = fitted_classifier("tune_thresholds", model)
    if not classifier.multilabel_:
        raise InputError(
            "tune_thresholds is for models of many labels, and this one gives each row one class. "
            "For two classes use scikit-learn's TunedThresholdClassifierCV; for more, class_weight."
        )
    check_choice("tune_thresholds", "criterion", criterion, ("f1", "youden"))
    truth = indicator_of(y, classifier.classes_)
    n = X.shape[0] if hasattr(X, "shape") else len(X)
    if n != len(truth):
        raise InputError(f"X has {n:,} rows and y has {len(truth):,}. Give one row of labels each.")
    labels = LabelMatrix(truth, np.ones_like(truth))
    weights = row_weights(classifier, sample_weight, None, classifier.classes_, labels)
    learned = np.ones(truth.shape, dtype=bool)
    if isinstance(cv, str) and cv == "prefit":
        proba, held_out = model.predict_proba(X), weights > 0
    elif hasattr(classifier, "edit_log_"):
        raise InputError(
            "This model was edited, and folds are fitted anew, without the edits: their thresholds "
            "would be those of another model. Use cv='prefit' and rows that the model has not seen."
        )
    else:
        numbers = number_groups(groups, n)
        folds, reason = make_folds("tune_thresholds", cv, labels, weights, numbers)
        if folds is None:
            raise InputError(
                f"No held-out probabilities can be had: {reason}. Give more rows, or cv='prefit' "
                "and rows that the model has not seen."
            )
        proba, held_out = np.zeros_like(truth), (folds.held_out >= 0) & (weights > 0)
        for fold, train in enumerate(folds.train):
            rows = np.flatnonzero(folds.held_out == fold)
            train = np.flatnonzero(train & (weights > 0))
            proba[rows] = _fold_proba(model, X, truth, weights, numbers, train, rows)
            # Of a label without a case in its training part a fold says a constant near 0 or 1.
            learned[rows] = (truth[train].min(axis=0) == 0) & (truth[train].max(axis=0) == 1)
    thresholds, kept = np.full(len(classifier.classes_), 0.5), []
    for k, label in enumerate(classifier.classes_.tolist()):
        told = held_out & learned[:, k]
        found, reason = best_threshold(truth[told, k], proba[told, k], weights[told], criterion)
        if reason == "no row has it" and truth[held_out, k].any():
            reason = "the rows that have it are in one fold, and no fold learned it from others"
        if reason is None:
            thresholds[k] = found
        else:
            kept.append(f"{label!r} ({reason})")
    if kept:
        more = ", ..." if len(kept) > 10 else ""
        warnings.warn(
            f"{len(kept)} label(s) keep the threshold 0.5: {', '.join(kept[:10])}{more}. Give "
            "images with and without them, or set thresholds_ by hand.",
            SkmoecbmWarning,
            stacklevel=2,
        )
    tuned = copy.copy(classifier)
    tuned.thresholds_ = thresholds
    return with_classifier(model, tuned)


def _fold_proba(model, X, truth, weights, groups, train, rows):
    """Return what a clone that is fitted on some rows says of others, (len(rows), K)."""
    import pandas as pd

    last = model.steps[-1][1] if isinstance(model, Pipeline) else model
    # A frame, so that priors find the labels by their names.
    labels = pd.DataFrame(truth[train].astype(int), columns=last.classes_.tolist())
    before, fitted = None, clone(last)
    seen, asked = _take(X, train), _take(X, rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SkmoecbmWarning)  # `fit` said it of all rows
        if last is not model and len(model.steps) > 1:
            before = clone(model[:-1])
            seen = before.fit_transform(seen, labels)
            asked = before.transform(asked)
        own = None if groups is None else groups[train]
        fitted.fit(seen, labels, sample_weight=weights[train], groups=own)
        for masked in ("masked_experts_", "masked_modalities_", "masked_streams_"):
            if hasattr(last, masked):
                setattr(fitted, masked, getattr(last, masked))
        return fitted.predict_proba(asked)


def _take(X, rows):
    if hasattr(X, "iloc"):
        return X.iloc[rows]
    return X[rows] if hasattr(X, "shape") else [X[row] for row in rows]


def best_threshold(truth, proba, weights, criterion):
    """Return the best threshold of one label, and None; or None and why there is none.

    Parameters
    ----------
    truth : ndarray of shape (n,), 0 or 1
    proba : ndarray of shape (n,), float64 in [0, 1]
    weights : ndarray of shape (n,), positive
    criterion : {"f1", "youden"}
    """
    if not truth.any():
        return None, "no row has it"
    if truth.all():
        return None, "every row has it"
    order = np.argsort(-proba, kind="stable")
    scores = proba[order]
    # Where the next probability is another one: rows that tie are never parted.
    ends = np.flatnonzero(np.r_[np.diff(scores) < 0, True])
    hits = np.cumsum((weights * truth)[order])[ends]
    wrong = np.cumsum((weights * (1 - truth))[order])[ends]
    positive, negative = hits[-1], wrong[-1]
    if criterion == "f1":
        gain = 2 * hits / (hits + wrong + positive)
    else:
        gain = hits / positive - wrong / negative
        if gain.max() <= _TIE:
            return None, "no threshold is better than chance"
    above, below = scores[ends], np.r_[scores[ends[:-1] + 1], 0.0]
    cuts = (above + below) / 2
    cuts = np.where(cuts > below, cuts, above)  # next to each other in float64
    best = np.flatnonzero(gain >= gain.max() - _TIE)
    chosen = best[np.lexsort((cuts[best], np.abs(cuts[best] - 0.5)))[0]]
    return float(cuts[chosen]), None
