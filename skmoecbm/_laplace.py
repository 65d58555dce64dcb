"""Fitting a gate whose logits fall with the distance to one centre per expert."""

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from sklearn.cluster import kmeans_plusplus

from skmoecbm._calibration import log_losses
from skmoecbm._gating import GateState
from skmoecbm._lbfgs import minimize_stack
from skmoecbm._pooling import PooledLoss

__all__ = ["fit_laplace_gate"]

# No gap between two gate logits exceeds this at the start.
_FIRST_GAP = 0.1
# The fit rounds the tip of the distance off at this radius, in units of the standardised inputs,
# since a minimum often lies at a tip: on a row. Logits change by less than `scale` times this.
_ROUNDED = 1e-3


def fit_laplace_gate(
    inputs,
    logits,
    codes,
    shares,
    present,
    pool,
    penalty,
    *,
    scale,
    entropy=0.0,
    balance=0.0,
    max_iter=500,
    tol=1e-6,
    device="cpu",
    seed=None,
):
    """Fit gates with logits b_e - scale * ||x - W_e|| on several sets of row weights at once.

    The pooled cross-entropy plus ``penalty / n * sum_e (scale / r)**2 ||W_e||**2`` and a tenth of
    it on the biases, r the root mean square of ||x||: near the plain average, where all centres
    are the origin, this gate is a linear one of slopes ``scale / r * W_e``, shrunk as
    `fit_linear_gate` shrinks those.

    Parameters
    ----------
    inputs, logits, codes, shares, present, pool, penalty
        As in `fit_linear_gate`.
    scale : float
        The largest slope of a gate logit.
    entropy, balance, max_iter, tol, device
        As in `fit_linear_gate`.
    seed : int or None
        Draws the rows from which the centres start.

    Returns
    -------
    list of GateState, and the number of steps taken
    """
    n_folds, _, n_experts, _ = logits.shape
    n_inputs = inputs.shape[1]
    totals = shares.sum(1)
    shares = shares / totals[:, None]
    radius = np.sqrt(shares @ np.square(inputs).sum(1))
    radius = np.where(radius > 0, radius, 1.0)
    centres = np.stack(
        [
            _first_centres(inputs, fold, codes, share, present, seed)
            for fold, share in zip(logits, shares, strict=True)
        ]
    )
    spread = np.array([cdist(centre, centre).max() for centre in centres])
    shrink = _FIRST_GAP / np.maximum(scale * spread, _FIRST_GAP)
    centres = centres * shrink[:, None, None]
    start = np.concatenate(
        [centres * (scale / radius)[:, None, None], np.zeros((n_folds, n_experts, 1))], axis=2
    )

    def tensor(array, dtype=torch.float64):
        return torch.as_tensor(np.asarray(array), dtype=dtype, device=device)

    absent = ~tensor(present, torch.bool)
    objective = PooledLoss(tensor(logits), codes, tensor(shares), absent, pool, entropy, balance)
    strength = torch.full((n_inputs + 1,), float(penalty), dtype=torch.float64, device=device)
    strength[-1] *= 0.1
    strength = strength / tensor(totals)[:, None, None]
    rows, radius_ = scale * tensor(inputs), tensor(radius)[:, None, None]
    squares = rows.square().sum(1)[:, None]
    floor = (scale * _ROUNDED) ** 2

    def fun(flat):
        weights = flat.view(n_folds, n_experts, n_inputs + 1)
        centre, bias = radius_ * weights[..., :-1], weights[..., -1]
        square = squares - 2.0 * (rows @ centre.transpose(1, 2)) + centre.square().sum(-1)[:, None]
        distance = (square.clamp_min(0.0) + floor).sqrt()
        loss, slope = objective(bias[:, None] - distance)
        pull = slope / distance
        by_centre = pull.transpose(1, 2) @ rows - pull.sum(1)[..., None] * centre
        gradient = torch.cat([radius_ * by_centre, slope.sum(1)[..., None]], dim=-1)
        gradient = gradient + 2.0 * strength * weights
        return loss + (strength * weights.square()).sum((1, 2)), gradient.flatten(1)

    best, n_iter, _ = minimize_stack(fun, tensor(start).flatten(1), max_iter=max_iter, tol=tol)
    best = best.view(n_folds, n_experts, n_inputs + 1).cpu().numpy()
    states = []
    for found, r in zip(best, radius, strict=True):
        centre, bias = found[:, :-1] * (r / scale), found[:, -1]
        arrays = {"centre": centre, "bias": bias, "scale": np.array(float(scale))}
        states.append(GateState("laplace", arrays))
    return states, n_iter


def _first_centres(inputs, logits, codes, share, present, seed):
    """Draw one row per expert by k-means++ and give each to the expert that is better near it.

    Which rows are drawn depends on the rows alone, which expert gets which on the experts' losses:
    their order matters only where two of them tie.
    """
    n_experts, used = logits.shape[1], share > 0
    rows, share, present = inputs[used], share[used], present[used]
    drawn, _ = kmeans_plusplus(
        np.ascontiguousarray(rows),
        min(n_experts, len(rows)),
        sample_weight=share,
        random_state=0 if seed is None else seed,
    )
    drawn = np.resize(drawn, (n_experts, inputs.shape[1]))
    loss = np.stack([log_losses(logits[used, e], codes[used]) for e in range(n_experts)], axis=1)
    seen = present.sum(1, keepdims=True)
    mean = np.where(present, loss, 0.0).sum(1, keepdims=True) / np.maximum(seen, 1)
    excess = np.where(present, loss - mean, 0.0) * share[:, None]
    nearest = cdist(rows, drawn).argmin(1)
    cost = np.stack([excess[nearest == c].sum(0) for c in range(n_experts)])
    centres, experts = linear_sum_assignment(cost)
    first = np.empty_like(drawn)
    first[experts] = drawn[centres]
    return first
