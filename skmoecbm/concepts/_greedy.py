"""Greedy choice under a submodular objective."""

import numpy as np

__all__ = ["greedy_cover"]

# Gains this close, relative to the larger, are a tie, which the lower index wins: the same text
# twice must not be told apart by the rounding of a matrix product.
_TIE = 1e-9
_BATCH = 16


def greedy_cover(similarity, relevance, coverage, n_picks, quotas=None, limits=None):
    """Return the picks of the greedy algorithm, in the order in which they were picked.

    It maximises ``sum(relevance[S]) + coverage * sum_i max(0, max_{j in S} similarity[i, j])``, a
    monotone submodular function where relevance is not negative: the greedy choice is within
    1 - 1/e of the best one. Gains can only fall as the choice grows, so a gain computed earlier
    bounds today's, and most need not be computed again (lazy greedy).

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
    Minoux, "Accelerated greedy algorithms for maximizing submodular set functions", 1978.
    """
    similarity = np.maximum(similarity, 0.0)
    best = np.zeros(len(similarity), dtype=similarity.dtype)
    bounds = relevance + coverage * similarity.sum(axis=1, dtype=np.float64)
    stale = np.zeros(len(similarity), dtype=bool)
    taken = None if quotas is None else np.zeros(quotas.shape[1], dtype=int)
    picks = []
    while len(picks) < min(n_picks, len(similarity)):
        top = bounds.max()
        if top == -np.inf:
            break
        ties = bounds >= top - _TIE * abs(top)
        if (ties & stale).any():
            # with them the next best by their bounds: one call of numpy costs as much for many
            many = len(bounds) > _BATCH
            near = bounds >= np.partition(bounds, -_BATCH)[-_BATCH] if many else True
            rows = np.flatnonzero((ties | near) & stale)
            gains = np.maximum(similarity[rows] - best, 0.0).sum(axis=1, dtype=np.float64)
            bounds[rows] = relevance[rows] + coverage * gains
            stale[rows] = False
            continue
        pick = int(ties.argmax())
        picks.append(pick)
        np.maximum(best, similarity[pick], out=best)
        bounds[pick] = -np.inf
        if quotas is not None:
            taken += quotas[pick]
            bounds[~(quotas & (taken < limits)).any(axis=1)] = -np.inf
        stale = bounds > -np.inf
    return np.array(picks, dtype=np.intp)
