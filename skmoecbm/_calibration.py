"""Temperatures: one per expert before mixing, one scale after pooling, both shrunk towards 1."""

import numpy as np
from scipy.special import log_softmax

from skmoecbm._labels import is_exclusive

__all__ = ["fit_inverse_temperature", "log_losses"]

#: Strength of the prior on log T (MATHS section 2, kappa): its penalty is kappa (log T)**2 / n.
KAPPA = 3.0

_LOG_RANGE = 12.0


def log_losses(logits, codes):
    """Return -log softmax(logits)[codes] per row, or the mean of the labels' logistic losses.

    Parameters
    ----------
    logits : ndarray of shape (n, K), float64
        Class logits, K >= 2, or label logits.
    codes : ndarray of shape (n,), int, or LabelMatrix
        Index of the true class, or the true labels.

    Returns
    -------
    ndarray of shape (n,), float64, in nats.
    """
    if not is_exclusive(codes):
        losses = np.logaddexp(0.0, logits) - codes.values * logits
        return (codes.cells * losses).mean(axis=1)
    return -log_softmax(logits, axis=1)[np.arange(len(codes)), codes]


def fit_inverse_temperature(logits, codes, weights, *, kappa=KAPPA):
    """Return the inverse temperature tau that calibrates `tau * logits`, by MAP.

    Minimises the weighted mean cross-entropy plus ``kappa * log(tau)**2 / n`` with n the sum of
    the weights, so that few rows leave the logits as they are.

    Parameters
    ----------
    logits : ndarray of shape (..., n, K), float64
        Class logits, K >= 2. Leading axes are averaged: the same rows under several masks.
    codes : ndarray of shape (n,), int, or LabelMatrix
        Index of the true class; of labels each counts as a row of two classes.
    weights : ndarray of shape (n,), float64
        Row weights.
    kappa : float, default=3.0
        Strength of the prior.

    Returns
    -------
    float, positive

    References
    ----------
    Guo et al., On Calibration of Modern Neural Networks (2017), with a log-normal prior.
    """
    if not is_exclusive(codes):
        positive = codes.values > 0.5
        signed = np.where(positive, logits, -logits).reshape(*logits.shape[:-2], -1)
        logits = np.stack([np.zeros_like(signed), signed], axis=-1)
        weights = (weights[:, None] * codes.cells).ravel()
        codes = np.ones(len(weights), dtype=int)
    total = weights.sum()
    if total == 0:
        return 1.0  # no row: the prior alone
    share = weights / total
    # The largest logit at 0: then exp never overflows, and softmax needs one pass. Classes first:
    # sums over them are then sums of whole arrays.
    logits = logits - logits.max(axis=-1, keepdims=True)
    chosen = np.take_along_axis(
        logits, np.broadcast_to(codes[:, None], (*logits.shape[:-1], 1)), axis=-1
    )[..., 0]
    chosen = (chosen @ share).mean()
    logits = np.ascontiguousarray(np.moveaxis(logits, -1, 0))

    def slopes(u):
        """Return the first and second derivatives of the objective by u = log tau."""
        tau = np.exp(u)
        p = np.exp(tau * logits)
        weight = p.sum(axis=0)
        p *= logits
        mean = p.sum(axis=0) / weight
        p *= logits
        variance = p.sum(axis=0) / weight - mean**2
        first = tau * ((mean @ share).mean() - chosen)
        second = first + tau**2 * (variance @ share).mean() + 2.0 * kappa / total
        return first + 2.0 * kappa * u / total, second

    # Newton's method within a bracket; without a root it ends at one of the limits.
    u, low, high = 0.0, -_LOG_RANGE, _LOG_RANGE
    while high - low > 1e-13:
        slope, curvature = slopes(u)
        if slope == 0:
            break
        low, high = (u, high) if slope < 0 else (low, u)
        trial = u - slope / curvature if curvature > 0 else np.inf
        inside = low < trial < high
        step = abs(trial - u)
        u = trial if inside else 0.5 * (low + high)
        # The error falls by squares: after such a step it is rounding.
        if inside and step < 1e-9:
            break
    return float(np.exp(u))
