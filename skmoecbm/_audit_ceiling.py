"""The check of the ceiling: what the embeddings hold, whatever the concepts."""

import numpy as np
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    StratifiedGroupKFold,
    StratifiedKFold,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skmoecbm._audit_names import TRAINING_ROWS
from skmoecbm._audit_problem import show, words_of
from skmoecbm._audit_result import Check, Measure, not_made
from skmoecbm._metrics import group_of_rows
from skmoecbm.features import ExpertFeatures

__all__ = ["ceiling", "embedded", "fit_ceiling"]

_STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)


def embedded(X):
    """Return image embeddings of all experts side by side, or None where none has any.

    Experts without embeddings give their values. Absent rows are NaN.
    """
    if not isinstance(X, ExpertFeatures) or all(b.embeddings is None for b in X.blocks):
        return None
    return np.concatenate(
        [b.values() if b.embeddings is None else b.embeddings for b in X.blocks], axis=1
    ).astype(np.float64)


def ceiling(problem):
    """Compare with a logistic regression on the embeddings."""
    if problem.train is None:
        return not_made("ceiling", f"it needs training rows: {TRAINING_ROWS}.")
    train, test = embedded(problem.train.X), embedded(problem.X)
    if train is None:
        return not_made(
            "ceiling", "the features carry no image embeddings, only values of concepts."
        )
    model, notes = fit_ceiling(
        train,
        problem.train.y,
        problem.train.groups,
        problem.classifier.class_weight,
        problem.multilabel,
        problem.seed,
    )
    proba = model.predict_proba(test)
    found = problem.evaluate(proba)
    primary, second = problem.metrics
    gaps = {m: problem.scores.difference(found, m) for m in (*problem.metrics, "log_loss")}
    measures = [Measure(f"{m}, logistic regression", *found[m]) for m in problem.metrics]
    measures += [Measure(f"{m}, model less regression", *gap) for m, gap in gaps.items()]
    strength = _strength(model)
    measures.append(Measure("C of the regression", strength))
    gap = gaps[primary]
    lost = [
        words_of(m)
        for m in problem.metrics
        if gaps[m].high < 0 and gaps[m].value <= -problem.margin
    ]
    if lost:
        status = "concern"
        verdict = f"The model is below what the embeddings hold in {' and '.join(lost)}:"
    elif gap.low > -problem.margin:
        above = "The model is above the regression, so nothing is lost to the concepts:"
        same = "Nothing worth speaking of is lost to the concepts:"
        status, verdict = "good", above if gap.low > 0 else same
    else:
        status, verdict = "unclear", "Whether the concepts cost anything cannot be told:"
    verdict += (
        f" {words_of(primary)} is {problem.scores[primary].value:.3f}, and "
        f"{found[primary].value:.3f} for a logistic regression on all embeddings (difference "
        f"{show(gap)}; in {words_of(second)} {show(gaps[second])})."
    )
    notes += [
        f"expert {block.name!r} has no embeddings; its values stand in their place"
        for block in problem.X.blocks
        if block.embeddings is None
    ]
    return Check(
        "ceiling",
        status,
        verdict,
        tuple(measures),
        notes=tuple(notes),
    )


def fit_ceiling(X, y, groups, class_weight, multilabel, seed):
    """Return a fitted logistic regression, standardised, C by cross-validated log-loss.

    Parameters
    ----------
    X : ndarray of shape (n, d), float64
        NaN where an expert is absent: filled with the mean, and a column tells.
    y : array-like of shape (n,) or (n, K)
    groups : array-like of shape (n,) or None
        Rows of a group share a fold.
    class_weight : as the classifier's
    multilabel : bool
    seed : int

    Returns
    -------
    estimator, fitted, and a list of notes
    """
    notes = []
    if multilabel and isinstance(class_weight, dict):
        notes.append("the regression is without the class weights, a dict by label")
        class_weight = None
    regression = LogisticRegression(max_iter=300, tol=1e-3, class_weight=class_weight)
    prefix = "logisticregression__C"
    if multilabel:
        regression = OneVsRestClassifier(regression)
        prefix = "onevsrestclassifier__estimator__C"
        y = np.asarray(y)
    steps = [SimpleImputer(add_indicator=True)] if np.isnan(X).any() else []
    model = make_pipeline(*steps, StandardScaler(), regression)
    labels = None if multilabel else np.unique(y)
    splits = _splits(y, groups, multilabel, seed)
    if splits is None:
        notes.append("too few rows or groups of a class for folds: C = 1")
        return model.fit(X, y), notes

    def score(fitted, X, y):
        proba = fitted.predict_proba(X)
        if multilabel:
            p = np.clip(proba, 1e-15, 1 - 1e-15)
            return float(np.mean(np.where(y == 1, np.log(p), np.log1p(-p))))
        return -log_loss(y, proba, labels=labels)

    search = GridSearchCV(model, {prefix: list(_STRENGTHS)}, scoring=score, cv=splits)
    return search.fit(X, y), notes


def _strength(model):
    if hasattr(model, "best_params_"):
        return float(next(iter(model.best_params_.values())))
    return 1.0


def _splits(y, groups, multilabel, seed):
    """Return folds with every class on both sides, or None."""
    n = len(y)
    units = group_of_rows(groups, n)
    X = np.zeros((n, 1))
    if multilabel:
        n_folds = min(5, units.max() + 1)
        if n_folds < 2:
            return None
        if groups is None:
            return list(KFold(n_folds, shuffle=True, random_state=seed).split(X))
        return list(GroupKFold(n_folds).split(X, groups=units))
    y = np.asarray(y).ravel()
    rarest = min(len(np.unique(units[y == label])) for label in np.unique(y))
    n_folds = min(5, rarest)
    if n_folds < 2:
        return None
    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    folds = kind(n_folds, shuffle=True, random_state=seed)
    splits = list(folds.split(X, y, None if groups is None else units))
    whole = len(np.unique(y))
    return splits if all(len(np.unique(y[train])) == whole for train, _ in splits) else None
