"""Temperatures: one per expert before mixing, one scale after pooling, both shrunk towards 1."""

import numpy as np
import torch
from scipy.special import log_softmax

from skmoecbm._labels import is_exclusive

__all__ = ["fit_inverse_temperature", "fit_inverse_temperatures", "log_losses", "stacked_losses"]

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
    logits = np.asarray(logits, dtype=np.float64)
    rows = logits.reshape(-1, *logits.shape[-2:])
    if len(rows) > 1:
        codes = codes[np.tile(np.arange(rows.shape[1]), len(rows))]
        weights = np.tile(weights, len(rows))
        # The prior weighs as much as the rows that came once.
        kappa = kappa * len(rows)
    stack = torch.from_numpy(np.ascontiguousarray(rows.reshape(-1, rows.shape[-1]).T))
    return float(fit_inverse_temperatures(stack[:, None], codes, weights[None], kappa=kappa)[0])


def fit_inverse_temperatures(logits, codes, weights, *, kappa=KAPPA):
    """Return the inverse temperature of each of F sets of logits and row weights, shape (F,).

    Parameters
    ----------
    logits : torch.Tensor of shape (K, F, n), float64
        Classes first: sums over them are then sums of whole arrays.
    codes
        As in `fit_inverse_temperature`.
    weights : ndarray of shape (F, n), float64
    kappa : float, default=3.0
        As in `fit_inverse_temperature`.
    """
    device, weights = logits.device, torch.as_tensor(weights, device=logits.device)
    if is_exclusive(codes):
        # The largest logit at 0: then exp never overflows, and softmax needs one pass.
        logits = logits - logits.amax(0)
        at = torch.as_tensor(codes, dtype=torch.int64, device=device)
        chosen = logits.gather(0, at.expand(1, logits.shape[1], -1))[0]
    else:
        # Each label is a row of two classes, of which the true one is at 0.
        signs = torch.as_tensor(1.0 - 2.0 * (codes.values > 0.5), device=device)
        wrong = (logits * signs.T[:, None]).transpose(0, 1).flatten(1)
        chosen = -wrong.clamp_min(0.0)
        logits = torch.stack([chosen, wrong + chosen])
        weights = (weights[:, None] * torch.as_tensor(codes.cells.T, device=device)).flatten(1)
    total = weights.sum(1)
    # Without a row the prior alone is left.
    share = weights / torch.where(total > 0, total, 1.0)[:, None]
    prior = (2.0 * kappa / torch.where(total > 0, total, 1.0)).cpu().numpy()
    chosen = (chosen * share).sum(1).cpu().numpy()

    def slopes(u):
        """Return the first and second derivatives of the objectives by u = log tau."""
        tau = np.exp(u)
        p = (logits * torch.as_tensor(tau, device=device)[:, None]).exp_()
        weight = p.sum(0)
        mean = p.mul_(logits).sum(0).div_(weight)
        variance = p.mul_(logits).sum(0).div_(weight).sub_(mean.square())
        first = tau * ((mean * share).sum(1).cpu().numpy() - chosen)
        second = first + tau**2 * (variance * share).sum(1).cpu().numpy() + prior
        return first + prior * u, second

    # Newton's method within a bracket; without a root it ends at one of the limits.
    u = np.zeros(len(prior))
    low, high = np.full(len(u), -_LOG_RANGE), np.full(len(u), _LOG_RANGE)
    done = np.zeros(len(u), dtype=bool)
    while not done.all():
        slope, curvature = slopes(u)
        done |= slope == 0
        low, high = np.where(slope < 0, u, low), np.where(slope < 0, high, u)
        steps = slope / np.where(curvature > 0, curvature, 1.0)
        trial = np.where(curvature > 0, u - steps, np.inf)
        inside = (low < trial) & (trial < high)
        trial = np.where(inside, trial, 0.5 * (low + high))
        # The error falls by squares: after such a step it is rounding.
        near = (inside & (np.abs(trial - u) < 1e-6)) | (high - low <= 1e-13)
        u = np.where(done, u, trial)
        done |= near
    return np.exp(u)


def stacked_losses(logits, codes):
    """Return the losses (n,) of logits (K, n) with the classes first; as `log_losses`."""
    if is_exclusive(codes):
        at = torch.as_tensor(codes, dtype=torch.int64, device=logits.device)
        losses = torch.logsumexp(logits, 0) - logits.gather(0, at[None])[0]
    else:
        values, cells = (
            torch.as_tensor(part.T, device=logits.device) for part in (codes.values, codes.cells)
        )
        losses = torch.nn.functional.softplus(logits) - values * logits
        losses = (losses * cells).mean(0)
    return losses.cpu().numpy()
