"""Metrics of a fitted classifier with percentile intervals from a bootstrap over groups."""

import hashlib
import os
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from skmoecbm._metrics import REDRAW_ROUNDS, check_labels, group_of_rows, measure, resample
from skmoecbm._validation import check_number
from skmoecbm.exceptions import InputError

__all__ = ["Estimate", "Evaluation", "evaluate", "evaluate_scores"]

_CHUNK_NUMBERS = 8_000_000  # resamples x rows handled at once: 64 MB of float64
_SUMMARY = ("accuracy", "balanced_accuracy", "macro_auroc", "log_loss", "ece")


class Estimate(NamedTuple):
    """A metric on the sample and the percentile interval of its resamples (NaN where undefined)."""

    value: float
    low: float
    high: float


class Evaluation(Mapping):
    """What `evaluate` measured: a mapping from metric to `Estimate`.

    Keys are `accuracy`, `balanced_accuracy`, `macro_auroc`, `log_loss` and `ece`.

    Attributes
    ----------
    classes : list
        The classes of the model.
    absent_classes : list
        Classes of the model that no row of `y` has: they take no part in the macro averages.
    per_class : dict
        Class -> `{"support": int, "recall": Estimate, "auroc": Estimate}`, present classes only.
    n, n_groups : int
        Rows and resampling units (groups, or rows where no groups were given).
    n_bootstrap : int
    confidence : float
    draws : dict of str to ndarray of shape (n_bootstrap,)
        Each summary metric on each resample, for paired comparisons.
    notes : list of str
        What a reader should know: absent classes, resamples that lack a class.
    """

    def __init__(
        self,
        metrics,
        per_class,
        draws,
        *,
        classes,
        absent_classes,
        n,
        n_groups,
        n_bootstrap,
        confidence,
        notes,
        resampling_key,
    ):
        self._metrics = metrics
        self.per_class = per_class
        self.draws = draws
        self.classes = classes
        self.absent_classes = absent_classes
        self.n = n
        self.n_groups = n_groups
        self.n_bootstrap = n_bootstrap
        self.confidence = confidence
        self.notes = notes
        self._resampling_key = resampling_key

    def __getitem__(self, metric):
        return self._metrics[metric]

    def __iter__(self):
        return iter(self._metrics)

    def __len__(self):
        return len(self._metrics)

    def difference(self, other, metric="macro_auroc"):
        """Return this evaluation's metric less another's, with a paired interval.

        Parameters
        ----------
        other : Evaluation
            Made on the same rows, labels and groups with the same integer `random_state`, so that
            both hold the same resamples.
        metric : str, default="macro_auroc"

        Returns
        -------
        Estimate
            Difference on the sample and the percentile interval of the resamples' differences.

        Raises
        ------
        InputError
            If the metric is unknown or the two do not share their resamples.
        """
        if metric not in self._metrics:
            raise InputError(f"Unknown metric {metric!r}. Known are {', '.join(self._metrics)}.")
        if self._resampling_key != other._resampling_key:
            raise InputError(
                "A paired difference needs the same resamples: evaluate both on the same y and "
                "groups, with the same n_bootstrap and the same integer random_state."
            )
        return _estimate(
            self[metric].value - other[metric].value,
            self.draws[metric] - other.draws[metric],
            self.confidence,
        )

    def to_dict(self):
        """Return everything but the draws as plain JSON types (undefined numbers are None)."""
        return {
            "n": self.n,
            "n_groups": self.n_groups,
            "n_bootstrap": self.n_bootstrap,
            "confidence": self.confidence,
            "classes": [_plain(label) for label in self.classes],
            "absent_classes": [_plain(label) for label in self.absent_classes],
            "metrics": {name: _json_estimate(estimate) for name, estimate in self.items()},
            "per_class": [
                {
                    "class": _plain(label),
                    "support": row["support"],
                    "recall": _json_estimate(row["recall"]),
                    "auroc": _json_estimate(row["auroc"]),
                }
                for label, row in self.per_class.items()
            ],
            "notes": list(self.notes),
        }

    def to_frame(self):
        """Return a DataFrame: one row per metric, then recall and AUROC of each class.

        Columns are `metric`, `class` (None for summaries), `support`, `value`, `low`, `high`.
        """
        import pandas as pd

        rows = [(name, None, self.n, *estimate) for name, estimate in self.items()]
        for metric in ("recall", "auroc"):
            rows += [
                (metric, _plain(label), row["support"], *row[metric])
                for label, row in self.per_class.items()
            ]
        frame = pd.DataFrame(rows, columns=["metric", "class", "support", "value", "low", "high"])
        return frame.assign(**{"class": pd.Series([row[1] for row in rows], dtype=object)})

    def __repr__(self):
        units = "rows" if self.n_groups == self.n else f"rows in {self.n_groups:,} groups"
        lines = [f"Evaluation on {self.n:,} {units}"]
        if self.n_bootstrap:
            lines[0] += (
                f", {100 * self.confidence:g} % intervals from {self.n_bootstrap:,} resamples"
            )
        lines += [f"  {name.replace('_', ' '):<18} {_show(value)}" for name, value in self.items()]
        width = max(5, *(len(str(label)) for label in self.per_class))
        interval = 24 if self.n_bootstrap else 6
        lines.append(f"  {'class':<{width}}  support  {'recall':<{interval}}  auroc")
        lines += [
            f"  {label!s:<{width}}  {row['support']:>7,}  {_show(row['recall']):<{interval}}  "
            f"{_show(row['auroc'])}"
            for label, row in self.per_class.items()
        ]
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])


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
    y : array-like of shape (n,)
        True classes, each one of `model.classes_`.
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
        Accuracy, balanced accuracy (mean recall), macro-AUROC (one-vs-rest), log-loss in nats and
        the expected calibration error of the predicted class (15 bins of equal width), all over
        the classes that `y` has; recall and AUROC of each class.

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
        groups=groups,
        n_bootstrap=n_bootstrap,
        confidence=confidence,
        random_state=random_state,
    )


def evaluate_scores(
    y, proba, classes, *, groups=None, n_bootstrap=1000, confidence=0.95, random_state=None
):
    """Measure class probabilities against labels; `evaluate` without the model.

    Parameters
    ----------
    y : array-like of shape (n,)
        True classes.
    proba : array-like of shape (n, K)
        Probabilities in [0, 1], columns in the order of `classes`.
    classes : array-like of shape (K,)
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
    y = check_labels(y, classes)
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
    codes = np.array([{label: k for k, label in enumerate(classes.tolist())}[v] for v in y])
    present = np.unique(codes)
    absent = [classes[k] for k in range(len(classes)) if k not in present]

    weights, n_lacking = resample(codes, present, group_of_row, n_bootstrap, random_state)
    sample = measure(codes, proba, present, np.ones((1, len(y))))
    size = max(1, _CHUNK_NUMBERS // len(y))
    chunks = [
        measure(codes, proba, present, weights[start : start + size][:, group_of_row])
        for start in range(0, n_bootstrap, size)
    ]
    draws = {
        name: np.concatenate([np.empty((0, *v.shape[1:])), *(c[name] for c in chunks)])
        for name, v in sample.items()
    }

    notes = []
    if absent:
        notes.append(
            f"no row of y has {', '.join(map(str, absent))}: left out of the macro averages"
        )
    if len(present) == 1:
        notes.append("y has one class only: AUROC is undefined")
    if n_lacking:
        notes.append(
            f"{n_lacking:,} of {n_bootstrap:,} resamples lack a class after {REDRAW_ROUNDS} more "
            "draws: their macro averages are over the classes they have"
        )
    key = hashlib.sha256()
    for part in (codes, group_of_row, weights):
        key.update(np.ascontiguousarray(part).tobytes())
    return Evaluation(
        {m: _estimate(sample[m][0], draws[m], confidence) for m in _SUMMARY},
        {
            _plain(classes[k]): {
                "support": int((codes == k).sum()),
                "recall": _estimate(sample["recall"][0, j], draws["recall"][:, j], confidence),
                "auroc": _estimate(sample["auroc"][0, j], draws["auroc"][:, j], confidence),
            }
            for j, k in enumerate(present)
        },
        {name: draws[name] for name in _SUMMARY},
        classes=classes.tolist(),
        absent_classes=[_plain(label) for label in absent],
        n=len(y),
        n_groups=int(group_of_row.max()) + 1,
        n_bootstrap=int(n_bootstrap),
        confidence=float(confidence),
        notes=notes,
        resampling_key=key.hexdigest(),
    )


def _estimate(value, draws, confidence):
    """Return the value with the percentile interval of its finite draws."""
    draws = draws[np.isfinite(draws)]
    if len(draws) == 0:
        return Estimate(float(value), np.nan, np.nan)
    tail = 50 * (1 - confidence)
    low, high = np.percentile(draws, [tail, 100 - tail])
    return Estimate(float(value), float(low), float(high))


def _plain(label):
    return label.item() if hasattr(label, "item") else label


def _json_estimate(estimate):
    return {
        name: float(value) if np.isfinite(value) else None
        for name, value in estimate._asdict().items()
    }


def _show(estimate):
    if not np.isfinite(estimate.value):
        return "undefined"
    if not np.isfinite(estimate.low):
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"
