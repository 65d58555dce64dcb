"""What `evaluate` computes: checked labels and groups, resamples, metrics under row weights."""

import numpy as np
from sklearn.utils import check_random_state

from skmoecbm._targets import check_groups, missing_labels
from skmoecbm.exceptions import InputError

__all__ = [
    "N_BINS",
    "REDRAW_ROUNDS",
    "check_labels",
    "codes_of",
    "group_of_rows",
    "mean_defined",
    "measure",
    "resample",
    "resample_groups",
    "weighted_auroc",
]

REDRAW_ROUNDS = 50
N_BINS = 15


def check_labels(y, classes):
    """Return y as an object array of the classes' own values, or raise what is wrong with it."""
    y = np.asarray(y)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1 or len(y) == 0:
        raise InputError(
            f"y must have shape (n,) with one class per row and n > 0. Got shape {y.shape}."
        )
    missing = np.flatnonzero(missing_labels(y))
    if len(missing):
        raise InputError(
            f"y must not have missing labels. Row {missing[0]} has none ({len(missing):,} such "
            "rows); drop them or fill them in."
        )
    known = np.asarray(classes).tolist()
    unknown = sorted({str(label) for label in y.tolist() if label not in known})
    if unknown:
        more = ", ..." if len(unknown) > 10 else ""
        raise InputError(
            f"y has labels that the model does not know: {', '.join(unknown[:10])}{more}. Its "
            f"classes are {', '.join(map(str, known))}; drop those rows or map the labels."
        )
    return y.tolist()


def codes_of(labels, classes):
    """Return the position of each label among the classes, shape (n,), int."""
    positions = {label: k for k, label in enumerate(np.asarray(classes).tolist())}
    return np.array([positions[label] for label in labels])


def group_of_rows(groups, n):
    """Return the index of each row's group, shape (n,), dense from 0."""
    if groups is None:
        return np.arange(n)
    numbers = {}
    return np.array([numbers.setdefault(group, len(numbers)) for group in check_groups(groups, n)])


def resample(codes, present, group_of_row, n_bootstrap, random_state):
    """Return how often each group is drawn, (n_bootstrap, n_groups), and how many lack a class.

    Depends on labels, groups and seed alone, never on the scores: what makes two models' draws
    paired.
    """
    has_class = np.zeros((int(group_of_row.max()) + 1, len(present)))
    has_class[group_of_row, np.searchsorted(present, codes)] = 1
    return resample_groups(has_class, n_bootstrap, random_state)


def resample_groups(has_class, n_bootstrap, random_state):
    """Return what `resample` does for groups of which `has_class` (n_groups, C) tells the cases."""
    rng = check_random_state(random_state)
    n_groups = len(has_class)

    def draw(size):
        counts = np.zeros((size, n_groups), dtype=np.int32)
        for row in counts:
            row += np.bincount(rng.randint(n_groups, size=n_groups), minlength=n_groups)
        return counts

    weights = draw(n_bootstrap)
    lacking = np.arange(n_bootstrap)
    for attempt in range(REDRAW_ROUNDS + 1):
        lacking = lacking[(weights[lacking] @ has_class == 0).any(axis=1)]
        if len(lacking) == 0 or attempt == REDRAW_ROUNDS:
            break
        weights[lacking] = draw(len(lacking))
    return weights, len(lacking)


def measure(codes, proba, predicted, present, weights):
    """Return every metric under each row of weights (B, n): name -> (B,) or (B, present).

    `predicted` (n,) are the codes that accuracy and recall are about, the most probable if None.
    """
    weights = weights.astype(np.float64)
    rows = np.arange(len(codes))
    total = weights.sum(axis=1)
    correct = (proba.argmax(axis=1) == codes).astype(np.float64)
    right = correct if predicted is None else (predicted == codes).astype(np.float64)
    confidence = proba.max(axis=1)
    surprise = -np.log(np.clip(proba[rows, codes], np.finfo(np.float64).eps, 1.0))
    is_class = (codes[:, None] == present).astype(np.float64)
    # bins (j/15, (j+1)/15]: fixed edges, so a resample only reweighs the gaps of the bins
    bins = np.clip(np.ceil(confidence * N_BINS).astype(int) - 1, 0, N_BINS - 1)
    gaps = np.zeros((len(codes), N_BINS))
    gaps[rows, bins] = correct - confidence
    # as scikit-learn scales it: summed over classes, and half of that for two
    squares = ((proba - (codes[:, None] == np.arange(proba.shape[1]))) ** 2).sum(axis=1)
    squares = squares / 2 if proba.shape[1] == 2 else squares

    with np.errstate(invalid="ignore", divide="ignore"):
        recall = (weights @ (is_class * right[:, None])) / (weights @ is_class)
        auroc = np.stack(
            [weighted_auroc(codes == k, proba[:, k], weights) for k in present], axis=1
        )
    return {
        "accuracy": (weights @ right) / total,
        "balanced_accuracy": mean_defined(recall),
        "macro_auroc": mean_defined(auroc),
        "log_loss": (weights @ surprise) / total,
        "brier": (weights @ squares) / total,
        "ece": np.abs(weights @ gaps).sum(axis=1) / total,
        "recall": recall,
        "auroc": auroc,
    }


def weighted_auroc(positive, score, weights):
    """Return the AUROC under each row of weights (B, n): P(s⁺ > s⁻) + ½ P(s⁺ = s⁻), shape (B,)."""
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(score[order]) > 0])
    up = np.add.reduceat(weights[:, order] * positive[order], starts, axis=1)
    down = np.add.reduceat(weights[:, order] * ~positive[order], starts, axis=1)
    below = np.cumsum(down, axis=1) - down / 2
    return (up * below).sum(axis=1) / (up.sum(axis=1) * down.sum(axis=1))


def mean_defined(values):
    """Return the mean over the finite entries of each row (NaN where none is)."""
    defined = np.isfinite(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(defined, values, 0.0).sum(axis=1) / defined.sum(axis=1)
