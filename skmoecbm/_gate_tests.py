"""Whether experts are trusted more on some classes: a permutation null, and class frequencies."""

import itertools
from collections import defaultdict

import numpy as np
from scipy.stats import rankdata

__all__ = ["frequency_trend", "permutation_test"]

_EXACT_CLASSES = 7  # 5,040 orders; of more classes as many are drawn
_DRAWN_ORDERS = 10_000


def permutation_test(
    weights, present, is_class, group_of_row, n_permutations, rng, *, strata=None, also=None
):
    """Test whether the mean weight of an expert depends on the class, each cell and all at once.

    Labels are exchanged between whole groups of the same size and with the same experts missing,
    so that neither lesions with many images nor missing experts pass for trust.

    Parameters
    ----------
    weights : ndarray of shape (n, E)
    present : ndarray of shape (n, E), bool
        Only rows that have the expert count.
    is_class : ndarray of shape (n, C), bool
    group_of_row : ndarray of shape (n,), int
    n_permutations : int
    rng : RandomState
    strata : ndarray of shape (n, M), bool, default=None
        Labels are exchanged between rows that are alike in these; None is `present`.
    also : callable, default=None
        A statistic more: from the row whose label each row gets, (n,), to a float.

    Returns
    -------
    dict
        `difference` (C, E): mean weight of the class minus what it is with exchanged labels, on
        average; `p_value` (C, E), two-sided; `p_adjusted` (C, E), corrected for all cells;
        `p_overall`, float; `exchanged`: share of the rows whose labels could be exchanged. NaN
        where a cell has no row, or no permutation was asked for. If it was asked for, `also`: the
        statistic as seen, and of each exchange.

    References
    ----------
    Westfall and Young, Resampling-Based Multiple Testing (1993), the single-step maxT procedure;
    Phipson and Smyth, Permutation p-values should never be zero (2010).
    """
    labels, own = is_class.astype(np.float64), np.where(present, weights, 0.0)
    there = present.astype(np.float64)

    def means(order):
        with np.errstate(invalid="ignore", divide="ignore"):
            return (labels[order].T @ own) / (labels[order].T @ there)

    blocks = _exchangeable(present if strata is None else strata, group_of_row)
    as_seen = np.arange(len(own))
    seen, null, more = means(as_seen), [], []
    for _ in range(n_permutations):
        order = np.arange(len(own))
        for rows in blocks:
            order[rows.ravel()] = rows[rng.permutation(len(rows))].ravel()
        null.append(means(order))
        if also is not None:
            more.append(also(order))
    movable = sum(rows.size for rows in blocks if len(rows) > 1)
    found = {"exchanged": movable / len(own)}
    if also is not None:
        found["also"] = (also(as_seen), np.array(more))
    if not null:
        empty = np.full(seen.shape, np.nan)
        return {**found, "difference": empty, "p_value": empty, "p_adjusted": empty} | {
            "p_overall": float("nan")
        }
    null = np.stack(null)
    difference = seen - null.mean(axis=0)
    # What was seen is one of the orders that could have been: left out of centre and scale it
    # would lie further from them than any drawn one, and small p-values come too often.
    orders = np.concatenate([seen[None], null])
    centre, spread = orders.mean(axis=0), orders.std(axis=0)
    # One scale for all cells, so that a rare class, whose mean jumps most, hides no other.
    spread = np.where(spread > 1e-12, spread, np.inf)
    z, drawn = np.abs(seen - centre) / spread, np.abs(null - centre) / spread
    known = np.isfinite(seen)
    largest = np.where(known, np.nan_to_num(drawn), 0.0).max(axis=(1, 2))

    def p_of(reached):
        return (1.0 + reached.sum(axis=0)) / (1.0 + n_permutations)

    rounding = 1e-9
    return {
        **found,
        "difference": difference,
        "p_value": np.where(known, p_of(drawn >= z - rounding), np.nan),
        "p_adjusted": np.where(known, p_of(largest[:, None, None] >= z - rounding), np.nan),
        "p_overall": float(p_of(largest >= z[known].max() - rounding))
        if known.any()
        else float("nan"),
    }


def _exchangeable(present, group_of_row):
    """Return arrays (n_groups, size) of rows: any two groups of one array may swap their labels."""
    pattern = np.unique(present, axis=0, return_inverse=True)[1].ravel()
    order = np.lexsort((pattern, group_of_row))
    starts = np.flatnonzero(np.r_[True, np.diff(group_of_row[order]) > 0])
    alike = defaultdict(list)
    for rows in np.split(order, starts[1:]):
        alike[tuple(pattern[rows])].append(rows)
    return [np.stack(groups) for groups in alike.values()]


def frequency_trend(weights, supports, rng):
    """Return Spearman's rank correlation of class weights with class frequencies, and its p.

    Parameters
    ----------
    weights : ndarray of shape (C,)
        Mean weight of one expert in each class; NaN where unknown.
    supports : ndarray of shape (C,)
        Rows of each class.
    rng : RandomState

    Returns
    -------
    tuple of float
        rho in [-1, 1], below 0 where the expert speaks more on rare classes, and its two-sided
        p-value over the orders of the classes, all of them up to 7. NaN below three classes or
        where all weights are the same.
    """
    known = np.isfinite(weights) & (supports > 0)
    if known.sum() < 3:
        return float("nan"), float("nan")
    ranks = [rankdata(part[known]) for part in (np.round(weights, 12), supports)]
    ranks = [part - part.mean() for part in ranks]
    scale = np.sqrt((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum())
    if scale == 0:
        return float("nan"), float("nan")
    rho = float(ranks[0] @ ranks[1] / scale)
    if known.sum() <= _EXACT_CLASSES:
        orders = np.array(list(itertools.permutations(range(known.sum()))))
        drawn, seen = ranks[0][orders] @ ranks[1] / scale, 0
    else:
        orders = np.stack([rng.permutation(known.sum()) for _ in range(_DRAWN_ORDERS)])
        drawn, seen = ranks[0][orders] @ ranks[1] / scale, 1
    reached = (np.abs(drawn) >= abs(rho) - 1e-9).sum()
    return rho, float((seen + reached) / (seen + len(drawn)))
