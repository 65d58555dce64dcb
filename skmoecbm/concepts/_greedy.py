"""Greedy choice under a submodular objective."""

from math import frexp

import numpy as np

__all__ = ["greedy_cover"]

# Gains this close, relative to the larger, are a tie, which the lower index wins: the same text
# twice must not be told apart by the rounding of a matrix product.
_TIE = 1e-9
# Rows of similarities worked on at a time: few enough for a core's cache.
_CHUNK = 128


def greedy_cover(similarity, relevance, coverage, n_picks, quotas=None, limits=None):
    """Return the picks of the greedy algorithm, in the order in which they were picked.

    It maximises ``sum(relevance[S]) + coverage * sum_i max(0, max_{j in S} similarity[i, j])``, a
    monotone submodular function where relevance is not negative: the greedy choice is within
    1 - 1/e of the best one (Nemhauser et al., 1978). What every candidate would still cover is
    kept up to date: a pick changes it only through the candidates that are closer to the pick
    than to those before, fewer with every step.

    Parameters
    ----------
    similarity : ndarray of shape (m, m)
        Symmetric; cosines between candidates.
    relevance : ndarray of shape (m,)
        At least 0.
    coverage : float
        At least 0.
    n_picks : int
    quotas : ndarray of shape (m, C), bool, default=None
        Which candidate counts against the quota of which class.
    limits : ndarray of shape (C,), int, default=None
        A candidate may be picked while one of its classes has fewer picks than this.

    Returns
    -------
    ndarray of int

    References
    ----------
    Nemhauser, Wolsey and Fisher, "An analysis of approximations for maximizing submodular set
    functions", 1978.
    """
    # In whole multiples of a unit far below any rounding, small enough in number that float64 sums
    # them exactly: what is taken away step by step then leaves what a new sum would give.
    covers = np.maximum(similarity, 0.0)
    unit = 2.0 ** (max(frexp(covers.max(initial=0.0) * len(covers))[1], 0) - 53)
    covers *= 1 / unit
    np.rint(covers, out=covers)
    left = covers.sum(axis=1, dtype=np.float64)
    best = np.zeros(len(covers), dtype=covers.dtype)
    relevance = np.array(relevance, dtype=np.float64)
    taken = None if quotas is None else np.zeros(quotas.shape[1], dtype=int)
    picks = []
    while len(picks) < min(n_picks, len(covers)):
        gains = relevance + coverage * unit * left
        top = gains[gains.argmax()]  # faster than max() on so few
        if top == -np.inf:
            break
        pick = int((gains >= top - _TIE * abs(top)).argmax())
        picks.append(pick)
        relevance[pick] = -np.inf
        if quotas is not None:
            taken += quotas[pick]
            relevance[~(quotas & (taken < limits)).any(axis=1)] = -np.inf
        closer = (covers[pick] > best).nonzero()[0]
        for start in range(0, len(closer), _CHUNK):
            part = closer[start : start + _CHUNK]
            old, new = best[part], covers[pick, part]
            lost = np.maximum(covers[part], old[:, None])
            np.minimum(lost, new[:, None], out=lost)
            left -= lost.sum(axis=0, dtype=np.float64) - old.sum(dtype=np.float64)
            best[part] = new
    return np.array(picks, dtype=np.intp)
