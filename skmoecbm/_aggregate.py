"""From several images of one lesion or patient to one row of probabilities."""

import numpy as np
from scipy.special import expit, softmax

from skmoecbm._targets import check_groups
from skmoecbm._validation import check_choice
from skmoecbm.exceptions import InputError

__all__ = ["aggregate_predictions"]

# A probability of exactly 0 on one image would else forbid the class for the whole group.
_FLOOR = 1e-12


def aggregate_predictions(proba, groups, *, pool="mean", multilabel=False):
    """Pool the probabilities of the images of each group (lesion, patient, study) into one row.

    Parameters
    ----------
    proba : array-like of shape (n, K)
        Probabilities in [0, 1], as `predict_proba` returns them.
    groups : array-like of shape (n,)
        The lesion, patient or study of each row.
    pool : {"mean", "geometric", "max"}, default="mean"
        ``"mean"``: mean of the probabilities. ``"geometric"``: mean of their logarithms, scaled to
        sum to 1 again (of labels: mean of the log odds); an image that is sure counts for more.
        ``"max"``: the largest, for labels alone: a finding on one film is a finding of the patient.
    multilabel : bool, default=False
        Whether a row may have several labels, so that its probabilities do not sum to 1.

    Returns
    -------
    pooled : ndarray of shape (G, K), float64
        In [0, 1]; rows sum to 1 unless `multilabel`.
    keys : ndarray of shape (G,)
        The group of each row, in the order in which groups first appear.

    Raises
    ------
    InputError
        If lengths differ, groups are missing, or the numbers are no such probabilities.

    Examples
    --------
    >>> proba = [[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]]
    >>> pooled, keys = aggregate_predictions(proba, ["b", "a", "b"])
    >>> keys.tolist(), pooled.round(2).tolist()
    (['b', 'a'], [[0.7, 0.3], [0.2, 0.8]])
    """
    check_choice("aggregate_predictions", "pool", pool, ("mean", "geometric", "max"))
    proba = np.asarray(proba, dtype=np.float64)
    if proba.ndim != 2 or len(proba) == 0:
        raise InputError(
            f"proba must have shape (n, K) with n > 0, one row per image. Got {proba.shape}."
        )
    bad = np.flatnonzero(~((proba >= 0) & (proba <= 1)).all(axis=1))
    if len(bad):
        raise InputError(
            f"proba must lie in [0, 1]. Row {bad[0]} does not ({len(bad):,} such rows); pass what "
            "predict_proba returns, and drop rows that it cannot score."
        )
    off = np.flatnonzero(np.abs(proba.sum(axis=1) - 1) > 1e-6)
    if len(off) and not multilabel:
        raise InputError(
            f"The probabilities of row {off[0]} sum to {proba[off[0]].sum():g} ({len(off):,} such "
            "rows). Pass multilabel=True where a row may have several labels."
        )
    if pool == "max" and not multilabel:
        raise InputError(
            "pool='max' is for labels of which a row may have several: the largest probabilities "
            "of classes that exclude each other do not sum to 1. Use 'mean' or 'geometric'."
        )
    listed = check_groups(groups, len(proba))
    numbers = {}
    group_of_row = np.array([numbers.setdefault(group, len(numbers)) for group in listed])
    first = np.unique(group_of_row, return_index=True)[1]
    keys = np.asarray(groups).reshape(len(proba))[first]
    if pool == "max":
        pooled = np.zeros((len(keys), proba.shape[1]))
        np.maximum.at(pooled, group_of_row, proba)
        return pooled, keys
    sizes = np.bincount(group_of_row)[:, None]

    def mean(values):
        total = np.zeros((len(keys), proba.shape[1]))
        np.add.at(total, group_of_row, values)
        return total / sizes

    if pool == "mean":
        return mean(proba), keys
    logs = np.log(np.maximum(proba, _FLOOR))
    if multilabel:
        return expit(mean(logs - np.log(np.maximum(1 - proba, _FLOOR)))), keys
    return softmax(mean(logs), axis=1), keys
