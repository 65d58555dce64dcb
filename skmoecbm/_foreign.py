"""Experts with a head of another kind: any classifier of scikit-learn as one voice of many."""

import numpy as np
from scipy.special import log_softmax
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted, has_fit_parameter

from skmoecbm._heads import two_columns
from skmoecbm.exceptions import InputError

__all__ = ["ForeignHead", "fit_foreign", "foreign_out_of_fold", "inner", "takes_weights"]


class ForeignHead:
    """A fitted classifier that is not of this package, seen as one expert.

    Its `decision_function` counts as logits, or else the logarithms of `predict_proba`. A class
    that it never saw gets the probability of one half of a further row.

    Attributes
    ----------
    estimator : fitted classifier
    concept_names_ : list of str
        What its contributions are named after: its columns if it is linear, else its outputs.
    association_ : ndarray of shape (K', m)
    intercept_ : ndarray of shape (K',)
        With the values that `_logits` returns they give the logits: the coefficients of a linear
        classifier, else the identity on the logits themselves.
    """

    def __init__(self, name, estimator, classes, exclusive, floor, columns, constant=None):
        self.name, self.estimator = name, estimator
        self.classes, self.exclusive, self.floor = classes, exclusive, floor
        # Labels that no row it learned from has (0), or all have (1): what a classifier makes of
        # them is its own affair, here they are one half of a further row.
        self.constant = np.full(len(classes), np.nan) if constant is None else constant
        self._order = self._column_order(columns)
        coefficients = self._coefficients(len(columns))
        if coefficients is not None:
            self.concept_names_ = list(columns)
            self.association_, self.intercept_ = coefficients
        else:
            outputs = classes[1:] if self._n_outputs == 1 else classes
            kind = type(inner(estimator)).__name__
            self.concept_names_ = [f"{kind}: {label}" for label in outputs]
            self.association_ = np.eye(self._n_outputs)
            self.intercept_ = np.zeros(self._n_outputs)
        self.is_linear = coefficients is not None
        self.n_iter_ = 0

    def _column_order(self, columns):
        """Return how the columns of a classifier that knows names are to be ordered, or None."""
        names = getattr(inner(self.estimator), "feature_names_in_", None)
        if names is None:
            return None
        if all(column == f"x{column[1:]}" and column[1:].isdigit() for column in columns):
            columns = list(names)  # a plain array has no names; its order must do
        if sorted(names) != sorted(columns):
            raise InputError(
                f"The head of expert {self.name!r} was trained on columns {list(names)[:10]}; the "
                f"expert has {list(columns)[:10]}. Give the expert the columns of its head."
            )
        return [list(columns).index(name) for name in names]

    def _ask(self, method, X):
        """Call a method of the classifier with the rows as it knows them."""
        if self._order is not None:
            import pandas as pd

            names = inner(self.estimator).feature_names_in_
            X = pd.DataFrame(X[:, self._order], columns=names)
        return getattr(self.estimator, method)(X)

    @property
    def _n_outputs(self):
        return 1 if self.exclusive and len(self.classes) == 2 else len(self.classes)

    def _coefficients(self, n_columns):
        """Return (association, intercept) of a classifier that is linear in its columns."""
        own = inner(self.estimator)
        if not (hasattr(own, "coef_") and hasattr(own, "decision_function")):
            return None
        if not np.isnan(self.constant).all():
            return None
        association = np.asarray(own.coef_, dtype=np.float64)
        if self._order is not None and association.ndim == 2:
            association = association[:, np.argsort(self._order)]
        intercept = np.broadcast_to(np.asarray(own.intercept_, np.float64), len(association))
        same = list(getattr(own, "classes_", ())) == list(self.classes)
        if not same or association.shape != (self._n_outputs, n_columns):
            return None
        # Not all that has coefficients decides by them alone (a kernel, a clipped output).
        trial = np.random.default_rng(0).normal(size=(8, n_columns))
        told = np.asarray(self._ask("decision_function", trial)).reshape(8, -1)
        if not np.allclose(told, trial @ association.T + intercept, rtol=1e-9, atol=1e-9):
            return None
        return association, intercept.copy()

    def _logits(self, expert):
        """Return what its contributions are made of (n, m) and logits (n, K'), 0 where absent."""
        values = np.zeros((len(expert.present), len(self.concept_names_)))
        logits = np.zeros((len(expert.present), self._n_outputs))
        rows = expert.present
        if rows.any():
            seen = expert.values[rows]
            logits[rows] = self.class_logits(seen)
            values[rows] = seen if self.is_linear else logits[rows]
        return values, logits

    def class_logits(self, X):
        """Return logits (n, K') of rows (n, m), finite for every class."""
        if self.exclusive:
            return self._exclusive_logits(X)
        own = self.estimator
        if hasattr(own, "decision_function"):
            logits = np.asarray(self._ask("decision_function", X), dtype=np.float64)
        else:
            found = self._ask("predict_proba", X)
            if isinstance(found, list):  # one array per label, (n, classes of the label)
                classes = own.classes_
                found = np.stack(
                    [
                        p[:, list(c).index(1)] if 1 in c else np.zeros(len(p))
                        for p, c in zip(found, classes, strict=True)
                    ],
                    axis=1,
                )
            p = np.clip(np.asarray(found, dtype=np.float64), self.floor, 1 - self.floor)
            logits = np.log(p) - np.log1p(-p)
        if logits.shape != (len(X), len(self.classes)):
            raise InputError(
                f"The head of expert {self.name!r} gave outputs of shape {logits.shape} for "
                f"{len(X)} rows and {len(self.classes)} labels. Give a classifier of many labels, "
                "such as OneVsRestClassifier(...)."
            )
        sure = (2 * self.constant - 1) * (np.log1p(-self.floor) - np.log(self.floor))
        return self._finite(np.where(np.isnan(self.constant), logits, sure))

    def _exclusive_logits(self, X):
        own = self.estimator
        known = list(own.classes_)
        scores = None
        if hasattr(own, "decision_function"):
            scores = two_columns(
                np.asarray(self._ask("decision_function", X), dtype=np.float64).reshape(len(X), -1)
            )
        # Scores of pairs: of three classes there are three, and they are no logits of classes.
        last = inner(_last_step(inner(own))[1])
        pairs = getattr(last, "decision_function_shape", None) == "ovo" and len(known) > 2
        if scores is None or scores.shape[1] != len(known) or pairs:
            if not hasattr(own, "predict_proba"):
                raise InputError(
                    f"The head of expert {self.name!r} gives {scores.shape[1]} scores for "
                    f"{len(known)} classes; one each is needed (of an SVC: "
                    "decision_function_shape='ovr')."
                )
            p = np.asarray(self._ask("predict_proba", X), dtype=np.float64)
            scores = np.log(np.maximum(p, self.floor))
        if known == list(self.classes):
            logits = scores
        else:
            # Classes that it never saw: each gets the floor, the others share the rest.
            mine = [k for k, label in enumerate(self.classes) if label in set(known)]
            columns = [known.index(self.classes[k]) for k in mine]
            logits = np.full((len(X), len(self.classes)), np.log(self.floor))
            rest = 1.0 - self.floor * (len(self.classes) - len(mine))
            logits[:, mine] = log_softmax(scores[:, columns], axis=1) + np.log(rest)
        return self._finite(logits[:, 1:] - logits[:, :1] if self._n_outputs == 1 else logits)

    def _finite(self, logits):
        if not np.isfinite(logits).all():
            row = int(np.flatnonzero(~np.isfinite(logits).all(axis=1))[0])
            raise InputError(
                f"The head of expert {self.name!r} gave a NaN or infinite score for row {row} of "
                "those that it sees. Mend the head, or give it columns that it can take."
            )
        return logits


def inner(estimator):
    """Return the estimator that a `FrozenEstimator` holds, or itself."""
    return estimator.estimator if isinstance(estimator, FrozenEstimator) else estimator


def fit_foreign(name, template, expert, target, classes, columns, train=None):
    """Fit a clone of a classifier on one expert's rows.

    Parameters
    ----------
    name : str
    template : classifier
        A `FrozenEstimator` is used as it is.
    expert : ExpertData
    target : Target
    classes : ndarray of shape (K,)
    columns : list of str
    train : ndarray of shape (n,), bool, or None
        Only these rows; None is all.

    Returns
    -------
    ForeignHead, or None where the rows hold one class alone

    Raises
    ------
    InputError
        If row weights differ and the classifier takes none, or a frozen one is not fitted or
        knows none of the classes.
    """
    rows = expert.present & (target.weights > 0)
    rows = rows if train is None else rows & train
    weights = target.weights[rows]
    floor = 0.5 / (rows.sum() + 1.0)
    if isinstance(template, FrozenEstimator):
        check_is_fitted(template.estimator)
        fitted = template
        known = np.asarray(fitted.classes_).tolist() if target.exclusive else classes.tolist()
        if not set(classes.tolist()) & set(known):
            raise InputError(
                f"The frozen head of expert {name!r} knows the classes {known[:10]} and y has "
                f"{classes.tolist()[:10]}; none is the same. Use the labels it was trained with."
            )
    else:
        labels = classes[target.codes[rows]] if target.exclusive else _indicator(target, rows)
        if target.exclusive and len(np.unique(labels)) < 2:
            return None
        settings = {}
        if not target.exclusive and not (target.codes.cells[rows] == 1).all():
            raise InputError(
                f"class_weight counts labels differently within a row, and the head of expert "
                f"{name!r}, {type(template).__name__}, can only weigh whole rows. Leave out "
                "class_weight, and set it in the head."
            )
        if not np.all(weights == weights[0]):
            settings[_weight_parameter(name, template)] = weights
        fitted = clone(template).fit(expert.values[rows], labels, **settings)
    constant = None
    if not target.exclusive:
        seen = _indicator(target, rows)
        constant = np.where(seen.min(axis=0) == seen.max(axis=0), seen[0], np.nan)
    if isinstance(template, FrozenEstimator):
        constant = None  # it has seen other rows
    return ForeignHead(name, fitted, classes, target.exclusive, floor, columns, constant)


def _indicator(target, rows):
    return (target.codes.values[rows] > 0.5).astype(int)


def _last_step(template):
    return template.steps[-1] if isinstance(template, Pipeline) else (None, template)


def takes_weights(template):
    """Tell whether fitting a classifier again with row weights would change it."""
    last = _last_step(template)[1]
    return not isinstance(last, FrozenEstimator) and has_fit_parameter(last, "sample_weight")


def _weight_parameter(name, template):
    """Return the fit parameter that takes the row weights."""
    last = _last_step(template)
    if has_fit_parameter(last[1], "sample_weight"):
        return "sample_weight" if last[0] is None else f"{last[0]}__sample_weight"
    raise InputError(
        f"Rows have different weights (sample_weight or class_weight), and the head of expert "
        f"{name!r}, {type(last[1]).__name__}, takes none. Use a head with sample_weight in fit, or "
        "no weights."
    )


def foreign_out_of_fold(name, template, expert, target, classes, columns, folds):
    """Return logits (n, K) of each row under a clone that the fold which holds it out trained.

    A frozen classifier was trained elsewhere: it is asked as it is.
    """
    logits = np.zeros((len(target.codes), len(classes)))
    for fold, train in enumerate(folds.train):
        held_out = (folds.held_out == fold) & expert.present
        if not held_out.any():
            continue
        head = fit_foreign(name, template, expert, target, classes, columns, train)
        if head is not None:
            logits[held_out] = two_columns(head.class_logits(expert.values[held_out]))
    return logits
