"""Pools: how experts' logits become one, and the loss of that as a function of the gate.

Logits always carry K >= 2 columns here: two classes are (0, s).
"""

import numpy as np
import torch
from scipy.special import log_softmax, logsumexp

__all__ = ["PooledLoss", "entropy_and_slope", "pool_logits"]


def pool_logits(weights, logits, scale, pool):
    """Mix the experts' logits.

    Parameters
    ----------
    weights : ndarray of shape (n, E)
        Gate weights, zero for an absent expert.
    logits : ndarray of shape (n, E, K)
        Calibrated expert logits; zero (not NaN) where absent.
    scale : float or ndarray of shape (n,)
        Post-pool inverse temperature.
    pool : {"logit", "prob", "sum"}
        ``"logit"``: sum of G_e S_e. ``"prob"``: log of the sum of G_e softmax(S_e).
        ``"sum"``: as ``"logit"`` times the number of experts with a weight, so that agreeing
        experts add up their evidence.

    Returns
    -------
    ndarray of shape (n, K)
    """
    scale = np.asarray(scale, dtype=np.float64)
    scale = scale[:, None] if scale.ndim else scale
    if pool == "prob":
        with np.errstate(divide="ignore"):
            log_weights = np.log(weights)[:, :, None]
        mixed = logsumexp(log_weights + log_softmax(logits, axis=2), axis=1)
        mixed[weights.sum(1) == 0] = 0.0
        return scale * mixed
    mixed = np.einsum("ne,nek->nk", weights, logits)
    if pool == "sum":
        mixed *= (weights > 0).sum(1, keepdims=True)
    return scale * mixed


def entropy_and_slope(logits, weights):
    """Return the entropy H of softmax(logits) per row and its derivative by the logits.

    H = logsumexp(h) - sum G h is stable however sure the gate is; dH/dh_e = -G_e (h_e - sum G h).
    For two experts with logits (0, a) this is softplus(a) - a sigmoid(a) and -a g (1 - g)
    (MATHS section 2).

    Parameters
    ----------
    logits, weights : torch.Tensor of shape (..., E)
        Gate logits, minus infinity where absent, and their softmax.
    """
    finite = torch.where(torch.isfinite(logits), logits, torch.zeros_like(logits))
    mean = (weights * finite).sum(-1, keepdim=True)
    entropy = torch.logsumexp(logits, -1) - mean[..., 0]
    return entropy, -weights * (finite - mean)


class PooledLoss:
    """The pooled cross-entropy as a function of the gate's logits, with its derivative.

    Parameters are tensors as in `fit_linear_gate`; `shares` sum to 1 per problem.
    """

    def __init__(self, logits, codes, shares, absent, pool, entropy=0.0, balance=0.0):
        self.pool, self.entropy, self.balance = pool, entropy, balance
        self.shares, self.absent = shares, absent
        self.codes = codes[None, :, None].expand(len(shares), -1, 1)
        self.empty = absent.all(1)
        log_p = torch.log_softmax(logits, dim=-1)
        # "sum" is "logit" on logits multiplied by the number of present experts.
        factor = (~absent).sum(1).to(logits.dtype)[:, None, None] if pool == "sum" else 1.0
        self.logits = log_p if pool == "prob" else logits * factor

    def __call__(self, gate_logits):
        """Return losses (F,) and derivatives (F, n, E) for gate logits (F, n, E)."""
        masked = gate_logits.masked_fill(self.absent, -torch.inf)
        masked = torch.where(self.empty[:, None], torch.zeros_like(masked), masked)
        weights = torch.softmax(masked, dim=-1)
        if self.pool == "prob":
            mixed = torch.logsumexp(torch.log(weights)[..., None] + self.logits, dim=2)
            losses = -mixed.gather(2, self.codes)[..., 0]
            # d(-log P_y)/dG_e = -P_ey / P_y; times G_e it is minus the responsibility.
            at_label = self.logits.gather(
                3, self.codes[:, :, None, :].expand(-1, -1, self.logits.shape[2], 1)
            )[..., 0]
            by_weight = -torch.exp(at_label + losses[..., None])
        else:
            mixed = torch.einsum("fne,fnek->fnk", weights, self.logits)
            log_p = torch.log_softmax(mixed, dim=-1)
            losses = -log_p.gather(2, self.codes)[..., 0]
            residual = log_p.exp()
            residual = residual.scatter_add(2, self.codes, -torch.ones_like(losses)[..., None])
            by_weight = torch.einsum("fnk,fnek->fne", residual, self.logits)
        loss = (losses * self.shares).sum(1)
        by_weight = by_weight * self.shares[..., None]
        if self.balance:
            mean = torch.einsum("fne,fn->fe", weights, self.shares)
            log_mean = torch.log(mean.clamp_min(1e-300))
            loss = loss + self.balance * (mean * log_mean).sum(1)
            by_weight = by_weight + self.balance * self.shares[..., None] * (
                log_mean[:, None, :] + 1.0
            )
        slope = weights * (by_weight - (weights * by_weight).sum(2, keepdim=True))
        if self.entropy:
            entropy, entropy_slope = entropy_and_slope(masked, weights)
            loss = loss - self.entropy * (entropy * self.shares).sum(1)
            slope = slope - self.entropy * entropy_slope * self.shares[..., None]
        return loss, slope.masked_fill(self.absent, 0.0)
