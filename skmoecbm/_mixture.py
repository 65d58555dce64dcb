"""The second stage: temperatures, gate and guard on out-of-fold expert logits."""

from dataclasses import dataclass, field, replace
from itertools import combinations
from math import comb

import numpy as np
import torch

from skmoecbm._calibrated import HeldOut, calibrated, mix_stack, pool_scales
from skmoecbm._calibration import fit_inverse_temperatures
from skmoecbm._gating import (
    GateState,
    fit_constant_gate,
    gate_weights,
    reads_inputs,
    routing_information,
)
from skmoecbm._labels import is_exclusive
from skmoecbm._pooling import by_class, pool_stack

__all__ = ["MixtureFit", "choose", "fit_mixture", "pooled_scale", "uniform_mixture"]

#: Below this many training rows no gate is told apart from the plain average.
MIN_ROWS = 16

_MAX_SUBSETS = 70
_KINDS = {"uniform", "constant", "linear", "mlp", "laplace", "gaussian"}


@dataclass
class MixtureFit:
    """What the second stage learned.

    Attributes
    ----------
    gate : GateState
    expert_scale : ndarray of shape (E,)
        Inverse temperature of each expert.
    pool_scale : ndarray of shape (E,)
        Post-pool inverse temperature by number of present experts; the first is 1.
    selected : str
        The candidate that the guard kept.
    fallback : str or None
        Why the gate asked for was not fitted.
    losses : dict of str to float
        Cross-fitted log-loss of each candidate, in nats.
    information : float
        Mutual information between row and expert, in nats.
    n_iter : int
    row_losses : ndarray of shape (n,) or None
        Cross-fitted losses of what was selected; None where nothing was compared.
    """

    gate: GateState
    expert_scale: np.ndarray
    pool_scale: np.ndarray
    selected: str
    fallback: str | None = None
    losses: dict = field(default_factory=dict)
    information: float = 0.0
    n_iter: int = 0
    row_losses: np.ndarray | None = None


def uniform_mixture(n_experts, reason):
    """Return the plain average, uncalibrated: what is left where nothing can be estimated."""
    ones = np.ones(n_experts)
    return MixtureFit(GateState("uniform"), ones, ones.copy(), "uniform", reason)


def fit_mixture(
    logits,
    codes,
    weights,
    present,
    inputs,
    held_out,
    *,
    names,
    gate,
    pool,
    calibrate,
    guard,
    groups=None,
    counts=None,
    masked_inputs=None,
    device="cpu",
    seed=None,
    shared=None,
):
    """Fit temperatures and gate on out-of-fold logits, and let the guard choose.

    Parameters
    ----------
    logits : ndarray of shape (n, E, K)
        Out-of-fold expert logits; anything finite where absent.
    codes : ndarray of shape (n,), int, or LabelMatrix
    weights : ndarray of shape (n,)
        Row weights, zero where no fold predicted the row.
    present : ndarray of shape (n, E), bool
    inputs : ndarray of shape (n, q)
        Standardised gate inputs.
    held_out : ndarray of shape (n,), int
        Fold of each row; the guard's comparison is cross-fitted over them.
    names : list of str
        Expert names.
    gate : gate object
        With `kind` and `fit_states(...)`.
    pool : {"logit", "prob", "sum"}
    calibrate, guard : bool
    groups : ndarray of shape (n,) or None
        Clusters for the guard's standard errors.
    counts : ndarray of shape (n,) or None
        How often each row was seen (its sample weight, where `weights` holds class weights too).
    masked_inputs : callable or None
        Maps row numbers (r,) and a mask of experts (r, E) to the gate inputs (r, q) that these
        rows would have with only those experts; None where presence changes no input.
    device : str or torch.device
    seed : int or None
    shared : dict or None
        Filled with the candidates that no gate changes, for another gate on the same rows.

    Returns
    -------
    MixtureFit
    """
    data = (logits, codes, weights, present, inputs)
    settings = {"pool": pool, "calibrate": calibrate, "device": device, "seed": seed}
    candidates = _candidates(gate, names, guard)
    losses, rows, selected = {}, {}, candidates[-1][0]
    # Of a gate that reads inputs, so are the losses of all others what they are without it.
    shared = {} if shared is None else shared.setdefault((pool, bool(calibrate)), {})
    folds = [f for f in np.unique(held_out[weights > 0]) if f >= 0]
    fallback = None
    if len(candidates) > 1 and len(folds) < 2:
        selected, fallback = candidates[0][0], "one fold alone holds rows out; the guard needs two"
    elif len(candidates) > 1:
        trains = np.stack([weights * (held_out != f) for f in folds])
        new = [c for c in candidates if c[0] not in shared]
        judged = HeldOut(held_out, folds)
        _, found = _fit_candidates(new, data, trains, judged, shared=shared, **settings)
        for name, candidate in candidates:
            if name in shared:
                rows[name] = shared[name]
            else:
                rows[name] = found[name]
                if _is_fixed(candidate):
                    shared[name] = rows[name]
            losses[name] = float(rows[name] @ weights / weights.sum())
        selected = choose(rows, weights, groups, counts) if guard else selected
    ((_, candidate),) = [c for c in candidates if c[0] == selected]
    known = ("fit", selected)
    fit = shared.get(known) if _is_fixed(candidate) else None
    if fit is None:
        chosen = [(selected, candidate)]
        fits, _ = _fit_candidates(chosen, data, weights[None], shared=shared, **settings)
        (fit,) = fits[selected]
        if calibrate:
            fit.pool_scale = _scales_by_count(fit, data, pool, names, masked_inputs, device)
        kept = present.any(1)
        mixing = gate_weights(fit.gate, inputs[kept], present[kept])
        fit.information = routing_information(mixing, weights[kept])
        if _is_fixed(candidate):
            shared[known] = fit
    outcome = {"losses": losses, "selected": selected, "fallback": fallback}
    return replace(fit, **outcome, row_losses=rows.get(selected))


def _is_fixed(candidate):
    """Tell whether a candidate is the same whatever gate was asked for."""
    return isinstance(candidate, GateState) or candidate == "constant"


def _candidates(gate, names, guard):
    """List the candidates in an order that matters: each must beat the one before it."""
    learned = (gate.kind, gate)
    if gate.kind == "uniform" or not guard:
        return [learned]
    fixed = [("uniform", GateState("uniform")), ("constant", "constant")]
    while _KINDS & set(names):
        names = [f"expert {name}" for name in names]  # none may pass for a gate
    fixed += [(name, GateState("expert", {"index": np.array(e)})) for e, name in enumerate(names)]
    return fixed if gate.kind == "constant" else [*fixed, learned]


def _fit_candidates(
    candidates, data, trains, judged=None, *, pool, calibrate, device, seed, shared=None
):
    """Fit each candidate on each row of weights `trains` (F, n).

    Returns a list of fits per name, and per name the losses of the rows that `judged` tells.
    `shared` holds what is `Calibrated`, by the number of folds.
    """
    logits, codes, _, present, inputs = data
    n_folds, n_experts = len(trains), logits.shape[1]
    uniform = [GateState("uniform")] * n_folds
    shared = {} if shared is None else shared
    if n_folds not in shared:
        shared[n_folds] = calibrated(uniform, data, trains, pool, calibrate, device)
    known = shared[n_folds]
    fits, losses = {}, {}
    for name, candidate in candidates:
        n_iter = 0
        if isinstance(candidate, GateState):
            states = [candidate] * n_folds
        elif candidate == "constant" or candidate.kind == "constant":
            states, n_iter = fit_constant_gate(
                known.material, codes, trains, present, pool, device=device, memory=known.memory
            )
        elif candidate.kind == "uniform":
            states = uniform
        else:
            states, n_iter = candidate.fit_states(
                inputs,
                known.material,
                codes,
                trains,
                present,
                pool,
                device=device,
                seed=seed,
                memory=known.memory,
            )
        if states is uniform or states[0].kind == "uniform":
            mixed, after = known.mixed, known.base
        else:
            mixed = mix_stack(states, known, data, pool)
            after = pool_scales(mixed, codes, trains, present, calibrate)
        fits[name] = [
            MixtureFit(
                state,
                known.scales[f],
                np.r_[1.0, np.full(n_experts - 1, after[f])],
                name,
                n_iter=n_iter,
            )
            for f, state in enumerate(states)
        ]
        if judged is not None:
            losses[name] = judged.losses(mixed, after, codes, present)
    return fits, losses


def _scales_by_count(fit, data, pool, names, masked_inputs, device):
    """Fit the post-pool scale for each number of present experts.

    From the rows that have so many, and from complete rows with experts masked, each row counting
    once. A number that no row can tell about keeps the scale of all rows with several experts.
    """
    logits, codes, weights, present, inputs = data
    n_experts = logits.shape[1]
    stack = by_class(logits, device)
    used, counts = weights > 0, present.sum(1)
    complete = np.flatnonzero(used & (counts == n_experts))
    scales = np.ones(n_experts)

    def mix(rows, mask, own):
        anew = not own and masked_inputs is not None and reads_inputs(fit.gate)
        seen = masked_inputs(rows, mask) if anew else inputs[rows]
        weights = gate_weights(fit.gate, seen, mask)[None]
        scales, exclusive = fit.expert_scale[None], is_exclusive(codes)
        return pool_stack(weights, stack[:, :, rows], scales, pool, exclusive=exclusive)

    for count in range(2, n_experts + 1):
        own = np.flatnonzero(used & (counts == count))
        mixed, rows, share = [mix(own, present[own], True)], [own], [weights[own]]
        subsets = _subsets(names, count) if count < n_experts and len(complete) else []
        for subset in subsets:
            mask = np.zeros((len(complete), n_experts), dtype=bool)
            mask[:, subset] = True
            mixed.append(mix(complete, mask, False))
            rows.append(complete)
            share.append(weights[complete] / len(subsets))
        rows, share = np.concatenate(rows), np.concatenate(share)[None]
        scales[count - 1] = (
            fit_inverse_temperatures(torch.cat(mixed, dim=2), codes[rows], share)[0]
            if len(rows)
            else fit.pool_scale[count - 1]
        )
    return scales


def _subsets(names, count):
    """Return the sets of so many experts, or a draw of them; the order of experts is no matter."""
    n_experts = len(names)
    if comb(n_experts, count) <= _MAX_SUBSETS:
        return [list(subset) for subset in combinations(range(n_experts), count)]
    by_name, rng = np.argsort(names), np.random.default_rng(0)
    drawn = (rng.choice(n_experts, count, replace=False) for _ in range(_MAX_SUBSETS))
    return [by_name[subset] for subset in drawn]


def pooled_scale(pool_scale, present):
    """Return the post-pool scale of each row, shape (n,), by its number of present experts."""
    return pool_scale[np.maximum(present.sum(1), 1) - 1]


def choose(rows, weights, groups=None, counts=None):
    """Return the candidate that the guard keeps, of those in `rows` (name -> losses (n,)).

    The first one, until a later one gains more than two standard errors on the current. The gain
    is the mean of the paired per-row differences, its standard error weighted and, where groups
    are given, clustered by group (MATHS section 2). A row seen twice is two rows, whereas a class
    weight of two makes one row count double: few rows of a rare class stay few.
    """
    kept = weights > 0
    counts = np.ones(len(weights)) if counts is None else counts
    names = list(rows)
    current = names[0]
    share = weights / weights.sum()
    for name in names[1:]:
        gain = rows[current] - rows[name]
        mean = gain @ share
        scores = (share * (gain - mean))[kept]
        if groups is None:
            n = counts[kept].sum()
            squares = (scores**2 / counts[kept]).sum()
        else:
            clusters = np.unique(groups[kept], return_inverse=True)[1]
            n = clusters.max() + 1
            squares = (np.bincount(clusters, weights=scores) ** 2).sum()
        error = np.sqrt(squares * n / max(n - 1, 1))
        if mean > 2.0 * error:
            current = name
    return current
