"""How strange a class is to a row, and from which strangeness on it is left out of a set."""

from dataclasses import dataclass

import numpy as np

__all__ = ["METHODS", "TIE", "SetCalibration", "conformal_threshold", "nonconformity"]

METHODS = ("lac", "aps")

# Scores that differ by less are equal, in favour of the larger set.
TIE = 1e-12


@dataclass(frozen=True)
class SetCalibration:
    """What `calibrate_sets` keeps of the calibration rows: no ids, and not their order.

    Attributes
    ----------
    method : {"lac", "aps"}
    class_conditional : bool
    scores : ndarray of shape (n,), float64 in [0, 1]
        Nonconformity of each row's true class, ascending (within each class).
    weights : ndarray of shape (n,), float64 in (0, 1]
        Those of a group sum to 1, with `class_conditional` those of a group and a class.
    codes : ndarray of shape (n,), int64
        The class of each score, for `class_conditional`; else all 0.
    shift : ndarray of shape (K,), float64
        What the `target_prevalence` of that time adds to the logits.
    """

    method: str
    class_conditional: bool
    scores: np.ndarray
    weights: np.ndarray
    codes: np.ndarray
    shift: np.ndarray

    def thresholds(self, coverage):
        """Return the largest score that each class may have, and how many groups say so.

        Returns
        -------
        thresholds : ndarray of shape (K,), float64
            Infinite where there are too few groups for the coverage.
        n_groups : ndarray of shape (K,), int64
        """
        n_classes = len(self.shift)
        found, n_groups = np.empty(n_classes), np.empty(n_classes, dtype=np.int64)
        for k in range(n_classes):
            mine = self.codes == (k if self.class_conditional else 0)
            found[k] = conformal_threshold(self.scores[mine], self.weights[mine], coverage)
            n_groups[k] = round(self.weights[mine].sum())
        return found, n_groups

    def first_to_enter(self, proba):
        """Return the class, shape (n,), that a growing coverage puts into the set first.

        That of the largest conformal p-value; of equal ones the most probable.
        """
        scores = nonconformity(proba, self.method)
        p_values = np.ones_like(proba)
        for k in range(proba.shape[1]):
            mine = self.codes == (k if self.class_conditional else 0)
            below = np.r_[0.0, np.cumsum(self.weights[mine])]
            place = np.searchsorted(self.scores[mine], scores[:, k] - TIE)
            p_values[:, k] -= below[place] / (round(below[-1]) + 1)
        p_values = p_values.round(9)
        return np.lexsort((proba, p_values), axis=1)[:, -1]


def nonconformity(proba, method):
    """Return how strange each class is to each row, (n, K), float64 in [0, 1].

    Parameters
    ----------
    proba : ndarray of shape (n, K), float64
        Rows sum to 1.
    method : {"lac", "aps"}
        ``"lac"``: 1 - p. ``"aps"``: the sum of all larger p of the row: 0 for the largest, equal
        for equal ones.
    """
    if method == "lac":
        return 1.0 - proba
    n_classes = proba.shape[1]
    order = np.argsort(-proba, axis=1, kind="stable")
    ordered = np.take_along_axis(proba, order, axis=1)
    above = np.cumsum(ordered, axis=1) - ordered
    # Of classes that tie the first in order tells the sum above them all.
    is_first = np.diff(ordered, axis=1, prepend=np.inf) < 0
    first = np.maximum.accumulate(np.where(is_first, np.arange(n_classes), 0), axis=1)
    scores = np.empty_like(proba)
    np.put_along_axis(scores, order, np.take_along_axis(above, first, axis=1), axis=1)
    return np.clip(scores, 0.0, 1.0)


def conformal_threshold(scores, weights, coverage):
    """Return the least score up to which there is a weight of coverage * (G + 1).

    With weights of 1 that is the ceil(coverage * (n + 1))-th smallest of n scores.

    Parameters
    ----------
    scores : ndarray of shape (n,), float64
    weights : ndarray of shape (n,), float64
        Those of each group sum to 1; G is the number of groups, the sum of all.
    coverage : float in (0, 1)

    Returns
    -------
    float
        Infinite where G groups are too few for the coverage.
    """
    order = np.argsort(scores, kind="stable")
    below = np.cumsum(weights[order])
    # The subtrahend: sums such as 1/3 + 1/3 + 1/3 must not fall short by a rounding.
    wanted = coverage * (round(weights.sum()) + 1) - 1e-9
    place = np.searchsorted(below, wanted)
    return float(scores[order[place]]) if place < len(scores) else np.inf
