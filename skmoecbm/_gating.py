"""Gates: from a row's gate inputs to one weight per expert.

A gate weight is zero where the expert is absent; the others renormalise.
"""

from dataclasses import dataclass, field

import numpy as np
import torch

from skmoecbm._lbfgs import minimize_stack
from skmoecbm._pooling import PooledLoss
from skmoecbm._products import product

__all__ = [
    "GateState",
    "fit_constant_gate",
    "fit_linear_gate",
    "gate_weights",
    "reads_inputs",
    "routing_information",
    "with_top_k",
]


@dataclass
class GateState:
    """What a fitted gate is: its kind and its numbers.

    Attributes
    ----------
    kind : {"uniform", "expert", "constant", "linear", "gaussian", "laplace", "mlp"}
    arrays : dict of str to ndarray
        "expert": index (); "constant": bias (E,); "linear" and "gaussian": slope (E, q) and
        bias (E,); "laplace": centre (E, q), bias (E,) and scale (); "mlp": hidden_weight (h, q),
        hidden_bias (h,), out_weight (E, h), out_bias (E,). Those that read inputs may have
        top_k () beside: how many experts at most have a say.
    """

    kind: str
    arrays: dict = field(default_factory=dict)


def reads_inputs(state):
    """Tell whether a gate looks at the row."""
    return state.kind not in ("uniform", "expert", "constant")


def with_top_k(states, top_k):
    """Return gates of which only the `top_k` strongest experts of a row have a say; None is all."""
    if top_k is None:
        return states
    number = np.array(top_k, dtype=np.int64)
    return [GateState(state.kind, {**state.arrays, "top_k": number}) for state in states]


def gate_logits(state, inputs, n_experts):
    """Return the gate's logits of shape (n, E); minus infinity rules an expert out."""
    n, arrays = len(inputs), state.arrays
    if state.kind == "uniform":
        return np.zeros((n, n_experts))
    if state.kind == "expert":
        logits = np.full((n, n_experts), -np.inf)
        logits[:, int(arrays["index"])] = 0.0
        return logits
    if state.kind == "constant":
        return np.tile(arrays["bias"], (n, 1))
    if state.kind == "laplace":
        distances = [np.linalg.norm(inputs - centre, axis=1) for centre in arrays["centre"]]
        return arrays["bias"] - arrays["scale"] * np.stack(distances, axis=1)
    if state.kind in ("linear", "gaussian"):
        return inputs @ arrays["slope"].T + arrays["bias"]
    centred = inputs - inputs.mean(1, keepdims=True)
    normed = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5)
    hidden = normed @ arrays["hidden_weight"].T + arrays["hidden_bias"]
    hidden = np.where(hidden > 0, hidden, 0.01 * hidden)
    return hidden @ arrays["out_weight"].T + arrays["out_bias"]


def gate_weights(state, inputs, present):
    """Return gate weights G of shape (n, E), rows summing to 1 over the present experts.

    With a top_k, over the strongest of the present; of equally strong ones over the first.

    Parameters
    ----------
    state : GateState
        The fitted gate.
    inputs : ndarray of shape (n, q), float64
        Standardised gate inputs.
    present : ndarray of shape (n, E), bool
        Which experts each row has. A row with none gets all zeros; a row whose present experts
        the gate gives nothing shares equally among them.
    """
    # Experts first: the largest of a few numbers, and their sum, are then those of whole arrays.
    masked = gate_logits(state, inputs, present.shape[1]).T
    complete = present.all() and state.kind != "expert"
    if not complete:
        masked = np.where(present.T, masked, -np.inf)
        silent = np.isneginf(masked).all(0)
        masked[:, silent] = np.where(present[silent].T, 0.0, -np.inf)
    if "top_k" in state.arrays:
        masked = _strongest(masked.T, int(state.arrays["top_k"])).T
    top = masked.max(0)
    weights = np.exp(masked - (top if complete else np.where(np.isfinite(top), top, 0.0)))
    total = weights.sum(0)
    weights /= total if complete else np.where(total > 0, total, 1.0)
    return np.ascontiguousarray(weights.T)


def _strongest(logits, k):
    """Rule out all but the k largest logits of each row; of equal ones the first are kept."""
    with np.errstate(invalid="ignore"):
        behind = logits.max(1, keepdims=True) - logits
    # Rounded, since what is equal but for the rounding of a product is to be equal in every batch.
    behind = np.round(np.where(np.isneginf(logits), np.inf, behind), 9)
    kept = np.zeros(logits.shape, dtype=bool)
    np.put_along_axis(kept, np.argsort(behind, axis=1, kind="stable")[:, :k], True, axis=1)
    return np.where(kept, logits, -np.inf)


def routing_information(weights, row_weights):
    """Return H(mean G) - mean H(G) in nats: how much the row tells about the expert."""
    share = row_weights / row_weights.sum()

    def entropy(p):
        return -np.where(p > 0, p * np.log(np.where(p > 0, p, 1.0)), 0.0).sum(-1)

    return float(max(entropy(share @ weights) - share @ entropy(weights), 0.0))


def fit_constant_gate(logits, codes, shares, present, pool, **settings):
    """Fit one weight per expert, the same for all rows; see `fit_linear_gate`."""
    inputs = np.zeros((len(codes), 0))
    _, bias, n_iter = _fit_affine(
        inputs, logits, codes, shares, present, pool, 0.0, bias_penalty=0.0, **settings
    )
    return [GateState("constant", {"bias": b}) for b in bias], n_iter


def fit_linear_gate(inputs, logits, codes, shares, present, pool, penalty, **settings):
    """Fit softmax gates with logits W x + c on several sets of row weights at once.

    The pooled cross-entropy plus ``penalty / n * sum_e ||w_e||**2`` and a tenth of it on the
    biases, minus ``entropy * mean H(G_i)`` and ``balance * H(mean G_i)``. Symmetric in the
    experts; starts at equal weights.

    Parameters
    ----------
    inputs : ndarray of shape (n, q) or (F, n, q)
        Standardised gate inputs.
    logits : ndarray of shape (F, n, E, K)
        Calibrated out-of-fold logits, already times the post-pool scale.
    codes : ndarray of shape (n,), int
    shares : ndarray of shape (F, n)
        Row weights of each problem, zero on its held-out rows.
    present : ndarray of shape (n, E), bool
    pool : {"logit", "prob", "sum"}
    penalty : float
    **settings
        entropy, balance, max_iter, tol, device; memory, a dict that carries from one gate to the
        next, on the same rows and logits, what both need.

    Returns
    -------
    list of GateState, and the number of steps taken
    """
    slope, bias, n_iter = _fit_affine(
        inputs, logits, codes, shares, present, pool, penalty, **settings
    )
    states = [
        GateState("linear", {"slope": s, "bias": b}) for s, b in zip(slope, bias, strict=True)
    ]
    return states, n_iter


def _fit_affine(
    inputs,
    logits,
    codes,
    shares,
    present,
    pool,
    penalty,
    *,
    bias_penalty=0.1,
    entropy=0.0,
    balance=0.0,
    max_iter=500,
    tol=1e-7,
    device="cpu",
    start=None,
    memory=None,
):
    n_folds, _, n_experts, _ = logits.shape
    n_inputs = inputs.shape[-1]
    memory = {} if memory is None else memory
    inputs, shares = (
        torch.as_tensor(part, dtype=torch.float64, device=device) for part in (inputs, shares)
    )
    totals = shares.sum(1)
    if "objective" not in memory:
        logits = torch.as_tensor(logits, dtype=torch.float64, device=device)
        absent = ~torch.as_tensor(present, device=device)
        objective = PooledLoss(logits, codes, shares / totals[:, None], absent, pool)
        memory["objective"] = objective
    objective = memory["objective"].with_bonus(entropy, balance)
    ones = torch.ones(*inputs.shape[:-1], 1, dtype=torch.float64, device=device)
    design = torch.cat([inputs, ones], dim=-1)
    strength = torch.full((n_inputs + 1,), float(penalty), dtype=torch.float64, device=device)
    strength[-1] *= bias_penalty
    strength = strength / totals[:, None, None]

    def fun(flat):
        weights = flat.view(n_folds, n_experts, n_inputs + 1)
        loss, slope = objective(_times(design, weights))
        gradient = _transposed_times(design, slope) + 2.0 * strength * weights
        return loss + (strength * weights.square()).sum((1, 2)), gradient.flatten(1)

    origin = torch.zeros(n_folds, n_experts * (n_inputs + 1), dtype=torch.float64, device=device)
    if start is not None:
        origin = torch.as_tensor(start, dtype=torch.float64, device=device).reshape(origin.shape)
    best, n_iter, _ = minimize_stack(fun, origin, max_iter=max_iter, tol=tol)
    best = best.view(n_folds, n_experts, n_inputs + 1).cpu().numpy()
    return best[:, :, :-1], best[:, :, -1], n_iter


def _times(design, weights):
    """Return design @ weights' of shape (F, n, E); where the folds share a design, in one go."""
    if design.ndim == 3:
        return design @ weights.transpose(1, 2)
    return product(weights.flatten(0, 1), design.T).view(*weights.shape[:2], -1).transpose(1, 2)


def _transposed_times(design, slopes):
    """Return slopes' @ design of shape (F, E, q) for slopes (F, n, E)."""
    slopes = slopes.transpose(1, 2)
    if design.ndim == 3:
        return slopes @ design
    return product(slopes.flatten(0, 1), design).view(*slopes.shape[:2], -1)
