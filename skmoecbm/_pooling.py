"""Pools: how experts' logits become one, and the loss of that as a function of the gate.

Logits always carry K >= 2 columns here: two classes are (0, s). Labels of which a row may have
several are K logistic outputs.
"""

import numpy as np
import torch
from scipy.special import log_expit, log_softmax, logsumexp

from skmoecbm._labels import is_exclusive

__all__ = ["PooledLoss", "entropy_and_slope", "pool_logits"]


def pool_logits(weights, logits, scale, pool, *, exclusive=True):
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
    exclusive : bool, default=True
        Whether each row has just one class; else ``"prob"`` averages each label's probability.

    Returns
    -------
    ndarray of shape (n, K)
    """
    scale = np.asarray(scale, dtype=np.float64)
    scale = scale[:, None] if scale.ndim else scale
    if pool == "prob":
        with np.errstate(divide="ignore"):
            log_weights = np.log(weights)[:, :, None]
        if exclusive:
            mixed = logsumexp(log_weights + log_softmax(logits, axis=2), axis=1)
        else:
            spoken_for, against = log_expit(logits), log_expit(-logits)
            mixed = logsumexp(log_weights + spoken_for, axis=1)
            with np.errstate(invalid="ignore"):  # a row without experts is set below
                mixed -= logsumexp(log_weights + against, axis=1)
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
        self.shares = shares
        # Experts first (E, 1, n) and (n,); None where all are present.
        self.absent = absent.T[:, None, :] if bool(absent.any()) else None
        self.empty = absent.all(1)
        self.exclusive = is_exclusive(codes)
        # "sum" is "logit" on logits multiplied by the number of present experts.
        factor = (~absent).sum(1).to(logits.dtype)[:, None, None] if pool == "sum" else 1.0
        self.logits = logits * factor
        if self.exclusive:
            codes = torch.as_tensor(codes, dtype=torch.int64, device=logits.device)
            at_label = codes[None, :, None, None].expand(len(shares), -1, logits.shape[2], 1)
            # Experts and classes first (E, K, F, n): sums over them are sums of whole arrays.
            self.by_class = self.logits.permute(2, 3, 0, 1).contiguous()
            self.at_label = self.logits.gather(3, at_label)[..., 0].permute(2, 0, 1).contiguous()
            if pool == "prob":
                self.log_likelihood = torch.log_softmax(logits, dim=-1).gather(3, at_label)
            self.cells = None
        else:
            self.labels = torch.as_tensor(codes.values, device=logits.device)
            self.cells = torch.as_tensor(codes.cells, device=logits.device) / logits.shape[3]
            signs = 2.0 * self.labels - 1.0
            self.log_likelihood = torch.nn.functional.logsigmoid(signs[:, None, :] * logits)

    def __call__(self, gate_logits):
        """Return losses (F,) and derivatives (F, n, E) for gate logits (F, n, E)."""
        masked = gate_logits.permute(2, 0, 1)  # experts first, as everything below
        if self.absent is not None:
            masked = masked.masked_fill(self.absent, -torch.inf).masked_fill(self.empty, 0.0)
        weights = torch.softmax(masked, dim=0)
        losses, by_weight = (self._of_probabilities if self.pool == "prob" else self._of_logits)(
            weights
        )
        loss = (losses * self.shares).sum(1)
        by_weight = by_weight * self.shares
        if self.balance:
            mean = torch.einsum("efn,fn->ef", weights, self.shares)
            log_mean = torch.log(mean.clamp_min(1e-300))
            loss = loss + self.balance * (mean * log_mean).sum(0)
            by_weight = by_weight + self.balance * self.shares * (log_mean[:, :, None] + 1.0)
        slope = weights * (by_weight - (weights * by_weight).sum(0))
        if self.entropy:
            last = (part.permute(1, 2, 0) for part in (masked, weights))
            entropy, entropy_slope = entropy_and_slope(*last)
            loss = loss - self.entropy * (entropy * self.shares).sum(1)
            slope = slope - self.entropy * entropy_slope.permute(2, 0, 1) * self.shares
        if self.absent is not None:
            slope = slope.masked_fill(self.absent, 0.0)
        return loss, slope.permute(1, 2, 0)

    def _of_probabilities(self, weights):
        """Return the losses (F, n) of averaged probabilities and their slopes (E, F, n)."""
        weights = weights.permute(1, 2, 0)
        mixed = torch.logsumexp(torch.log(weights)[..., None] + self.log_likelihood, dim=2)
        # d(-log P_y)/dG_e = -P_ey / P_y; times G_e it is minus the responsibility.
        slope = -torch.exp(self.log_likelihood - mixed[:, :, None, :])
        if self.cells is not None:
            mixed, slope = mixed * self.cells, slope * self.cells[:, None, :]
        return -mixed.sum(-1), slope.sum(-1).permute(2, 0, 1)

    def _of_logits(self, weights):
        """Return the losses (F, n) of averaged logits and their slopes (E, F, n) by the weights."""
        if self.exclusive:
            mixed = weights[0] * self.by_class[0]
            for weight, own in zip(weights[1:], self.by_class[1:], strict=True):
                mixed.addcmul_(weight, own)
            top = mixed.amax(0)
            p = mixed.sub_(top).exp_()
            total = p.sum(0)
            losses = total.log() + top - (weights * self.at_label).sum(0)
            p /= total
            slopes = torch.stack([(p * own).sum(0) for own in self.by_class])
            return losses, slopes - self.at_label
        mixed = torch.einsum("efn,fnek->fnk", weights, self.logits)
        losses = torch.nn.functional.softplus(mixed) - self.labels * mixed
        residual = (torch.sigmoid(mixed) - self.labels) * self.cells
        return (losses * self.cells).sum(-1), torch.einsum("fnk,fnek->efn", residual, self.logits)
