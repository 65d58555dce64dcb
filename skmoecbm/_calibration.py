"""Temperatures: one per expert before mixing, one scale after pooling, both shrunk towards 1."""

import numpy as np
from scipy.optimize import brentq
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
    # The largest logit at 0: then exp never overflows, and softmax needs one pass.
    logits = logits - logits.max(axis=-1, keepdims=True)
    chosen = np.take_along_axis(
        logits, np.broadcast_to(codes[:, None], (*logits.shape[:-1], 1)), axis=-1
    )[..., 0]
    chosen = (chosen @ share).mean()

    def slope(u):
        """Return the derivative of the objective by u = log tau."""
        tau = np.exp(u)
        p = np.exp(tau * logits)
        mean = np.einsum("...k,...k->...", p, logits) / p.sum(axis=-1)
        return tau * ((mean @ share).mean() - chosen) + 2.0 * kappa * u / total

    if slope(-_LOG_RANGE) >= 0:
        return float(np.exp(-_LOG_RANGE))
    if slope(_LOG_RANGE) <= 0:
        return float(np.exp(_LOG_RANGE))
    # The answer is near 1 almost always: a narrow bracket first saves half the evaluations.
    low, high = (-2.0, 2.0) if slope(-2.0) < 0 < slope(2.0) else (-_LOG_RANGE, _LOG_RANGE)
    return float(np.exp(brentq(slope, low, high, xtol=1e-12, rtol=1e-14)))
