"""How a concept's similarities are spread over the training rows: quantiles, and ranks in them."""

import numpy as np

__all__ = ["LEVELS", "concept_quantiles", "expert_quantiles", "percentiles", "values_at"]

#: Shares of the training rows at which quantiles are kept: 0, 0.01, ..., 1.
LEVELS = np.linspace(0.0, 1.0, 101)

_MOST_VALUES, _LEAST_ROWS = 2**26, 4096


def expert_quantiles(expert, counts):
    """Return the `concept_quantiles` of an expert.

    Of more than 2**26 similarities in all those of evenly spaced rows count, at least 4,096: a
    quantile is then that of a share known to about one percent, and the ends are those seen.

    Parameters
    ----------
    expert : ExpertData
        Of shape (n, m).
    counts : ndarray of shape (n,)

    Returns
    -------
    ndarray of shape (m, 101)
    """
    if not expert.is_large:
        return concept_quantiles(expert.values, counts)
    seen = np.flatnonzero(counts > 0)
    most = max(_LEAST_ROWS, _MOST_VALUES // expert.shape[1])
    if len(seen) > most:
        seen = seen[np.linspace(0, len(seen) - 1, most).round().astype(int)]
    found = [concept_quantiles(values, counts[seen]) for _, values in expert.columns(seen)]
    return np.concatenate(found)


def concept_quantiles(values, counts):
    """Return the quantiles of each concept over the training rows.

    The lowest value that at least a share of the rows does not exceed; a row of weight 2 is two
    rows, one of weight 0 is none.

    Parameters
    ----------
    values : ndarray of shape (n, m)
        NaN where a value is missing; such cells do not count.
    counts : ndarray of shape (n,)
        How often each row was seen, >= 0; 0 where the expert is absent.

    Returns
    -------
    ndarray of shape (m, 101), float32 if that holds every value exactly, else float64
        At `LEVELS`; the first is the smallest value and the last the largest. NaN for a concept
        without any value.
    """
    seen = counts > 0
    by_concept, counts = np.ascontiguousarray(values[seen].T), counts[seen]
    quantiles = np.full((len(by_concept), len(LEVELS)), np.nan)
    alike = np.all(counts == counts[:1])  # as they mostly are: no need to carry weights along
    if len(counts) and alike and not np.isnan(by_concept).any():
        narrow = by_concept.astype(np.float32)  # half as long to sort
        ordered = np.sort(narrow if np.array_equal(narrow, by_concept) else by_concept, axis=1)
        quantiles[:] = ordered[:, _reached(np.arange(1.0, len(counts) + 1))]
    else:
        for own, found in zip(by_concept, quantiles, strict=True):
            own, mass = own[~np.isnan(own)], counts[~np.isnan(own)]
            if not len(own):
                continue
            order = np.argsort(own, kind="stable")
            mass = np.arange(1.0, len(own) + 1) if alike else np.cumsum(mass[order])
            found[:] = own[order][_reached(mass)]
    # They are values of rows, and an encoder's are float32: half the size, nothing lost.
    narrow = quantiles.astype(np.float32)
    return narrow if np.array_equal(narrow, quantiles, equal_nan=True) else quantiles


def _reached(mass):
    """Return the numbers of the values at which rising sums reach the levels."""
    # Shares of a sum are rounded: what falls short by that alone is reached.
    return np.searchsorted(mass, LEVELS * mass[-1] * (1.0 - 1e-12))


def percentiles(values, quantiles):
    """Return where values stand among the training rows, in percent.

    Linear between the quantiles; 0 and 100 beyond the smallest and largest. A value that a whole
    range of quantiles shares stands in the middle of that range.

    Parameters
    ----------
    values : ndarray of shape (n, m)
    quantiles : ndarray of shape (m, 101)
        As of `concept_quantiles`.

    Returns
    -------
    ndarray of shape (n, m), float64, in [0, 100]; NaN where the value or the quantiles are.
    """
    found = np.full(np.shape(values), np.nan)
    for j, own in enumerate(quantiles):
        if np.isnan(own).any():
            continue
        distinct, first = np.unique(own, return_index=True)
        last = np.r_[first[1:], len(own)] - 1
        found[:, j] = np.interp(values[:, j], distinct, 50.0 * (LEVELS[first] + LEVELS[last]))
        found[values[:, j] < own[0], j] = 0.0
        found[values[:, j] > own[-1], j] = 100.0
    return np.where(np.isnan(values), np.nan, found)


def values_at(percents, quantiles):
    """Return the value of one concept at a percentile; the way back from `percentiles`.

    Parameters
    ----------
    percents : float or array, in [0, 100]
    quantiles : ndarray of shape (101,)
    """
    return np.interp(np.asarray(percents) / 100.0, LEVELS, quantiles)
