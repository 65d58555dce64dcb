"""Pools: how experts' logits become one, and the loss of that as a function of the gate.

Logits always carry K >= 2 columns here: two classes are (0, s). Labels of which a row may have
several are K logistic outputs.
"""

from copy import copy

import numpy as np
import torch
from scipy.special import log_expit, log_softmax, logsumexp

from skmoecbm._labels import is_exclusive

__all__ = ["PooledLoss", "by_class", "entropy_and_slope", "pool_logits", "pool_stack"]


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


def by_class(logits, device="cpu"):
    """Return logits (n, E, K) as a tensor (E, K, n): sums over classes are of whole arrays."""
    return torch.as_tensor(np.ascontiguousarray(logits.transpose(1, 2, 0)), device=device)


def pool_stack(weights, logits, scales, pool, *, exclusive=True):
    """Mix the experts' logits under F gates and sets of temperatures; see `pool_logits`.

    Parameters
    ----------
    weights : ndarray of shape (F, n, E)
    logits : torch.Tensor of shape (E, K, n)
        As `by_class` gives them.
    scales : ndarray of shape (F, E)
        Inverse temperatures of the experts.

    Returns
    -------
    torch.Tensor of shape (K, F, n)
    """
    if pool == "prob":
        own = logits.permute(2, 0, 1).cpu().numpy()
        mixed = [
            pool_logits(gate, own * scale[:, None], 1.0, pool, exclusive=exclusive)
            for gate, scale in zip(weights, scales, strict=True)
        ]
        return torch.as_tensor(np.stack(mixed), device=logits.device).permute(2, 0, 1).contiguous()
    factors = weights * scales[:, None]
    if pool == "sum":
        factors = factors * (weights > 0).sum(2, keepdims=True)
    factors = np.ascontiguousarray(factors.transpose(2, 0, 1))
    factors = torch.as_tensor(factors, device=logits.device)
    mixed = factors[0] * logits[0][:, None]
    for factor, own in zip(factors[1:], logits[1:], strict=True):
        mixed.addcmul_(factor, own[:, None])
    return mixed


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


def _softmax(logits):
    """Return the softmax over the first axis; of two it is a sigmoid, which is faster."""
    if len(logits) != 2:
        return torch.softmax(logits, dim=0)
    gap = logits[0] - logits[1]
    return torch.stack([torch.sigmoid(gap), torch.sigmoid(-gap)])


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
            if pool == "prob":
                self.log_likelihood = torch.log_softmax(logits, dim=-1).gather(3, at_label)
            else:
                self._against_first(codes)
            self.cells = None
        else:
            self.labels = torch.as_tensor(codes.values, device=logits.device)
            self.cells = torch.as_tensor(codes.cells, device=logits.device) / logits.shape[3]
            signs = 2.0 * self.labels - 1.0
            self.log_likelihood = torch.nn.functional.logsigmoid(signs[:, None, :] * logits)

    def _against_first(self, codes):
        """Keep what the first expert says, and how the others differ from it.

        Experts and classes first (E, K, F, n). The weights of a row add up to 1, so these mix as
        the logits do, with one product less. Each row's largest logit is at 0: a mixture of such
        ones never overflows.
        """
        own = self.logits.permute(2, 3, 0, 1).contiguous()
        own -= own.amax(1, keepdim=True)
        own[1:] -= own[:1].clone()
        self._own = own
        self._at_label = own.gather(1, codes.expand(len(own), 1, own.shape[2], -1))[:, 0]

    def with_bonus(self, entropy, balance):
        """Return the same loss with other bonuses."""
        other = copy(self)
        other.entropy, other.balance = entropy, balance
        return other

    def __call__(self, gate_logits):
        """Return losses (F,) and derivatives (F, n, E) for gate logits (F, n, E)."""
        masked = gate_logits.permute(2, 0, 1)  # experts first, as everything below
        if self.absent is not None:
            masked = masked.masked_fill(self.absent, -torch.inf).masked_fill(self.empty, 0.0)
        weights = _softmax(masked)
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
            mixed, at_label = self._own[0], self._at_label[0]
            others = zip(weights[1:], self._own[1:], self._at_label[1:], strict=True)
            for weight, own, its in others:
                mixed = torch.addcmul(mixed, weight, own)
                at_label = torch.addcmul(at_label, weight, its)
            p = mixed.exp()
            total = p.sum(0)
            if not bool((total > 1e-290).all()):  # experts that are sure of different classes
                return self._of_far_logits(weights)
            slopes = torch.zeros_like(weights)
            for slope, own, its in zip(slopes[1:], self._own[1:], self._at_label[1:], strict=True):
                for its_p, its_own in zip(p, own, strict=True):
                    slope.addcmul_(its_p, its_own)
                slope.div_(total).sub_(its)
            return total.log_().sub_(at_label), slopes
        mixed = torch.einsum("efn,fnek->fnk", weights, self.logits)
        losses = torch.nn.functional.softplus(mixed) - self.labels * mixed
        residual = (torch.sigmoid(mixed) - self.labels) * self.cells
        return (losses * self.cells).sum(-1), torch.einsum("fnk,fnek->efn", residual, self.logits)

    def _of_far_logits(self, weights):
        """Do the same where no class of a row is near the largest logit of all experts."""
        mixed = self._own[0] + (weights[1:, None] * self._own[1:]).sum(0)
        p = torch.softmax(mixed, dim=0)
        losses = torch.logsumexp(mixed, 0) - self._at_label[0]
        losses = losses - (weights[1:] * self._at_label[1:]).sum(0)
        slopes = torch.zeros_like(weights)
        slopes[1:] = (p * self._own[1:]).sum(1) - self._at_label[1:]
        return losses, slopes
