"""The choice of alpha: out-of-fold log-loss along a grid, strongest penalty first."""

import numpy as np

from skmoecbm._association import ALPHA_GRID
from skmoecbm._calibration import fit_inverse_temperature, log_losses
from skmoecbm._heads import expert_problem, held_out_logits, is_smooth, own_targets, solve
from skmoecbm._row_blocks import block_size

__all__ = ["select_alpha"]

_SELECTION_ROWS = 2000


def select_alpha(experts, heads, priors, target, folds, shares=None, *, calibrated=True):
    """Return alpha = exp(sum p log alpha), the path of losses, starts, and whether it converged.

    The starts are one for each expert's fit. With `shares` (n, E) as of `own_targets` each expert
    learns from the rows that are its own, the average is weighted by them, and a row counts as
    much as it is these experts'.

    p = softmax(-n * loss), the loss being the out-of-fold log-loss of the plain average of the
    experts on at most 2,000 rows: an average over the grid that few rows leave wide, where the
    best of a cross-validation would jump. It is calibrated where the model that is fitted will
    be: an expert alone is not, and what it says too surely a larger alpha must mend.
    """
    seen = np.stack([expert.present for expert in experts], axis=1)
    rows = _selection_rows(target, seen, folds)
    masks = folds.train
    scored = (folds.held_out[rows] >= 0) & (target.weights[rows] > 0)
    share = seen / np.maximum(seen.sum(1, keepdims=True), 1)
    targets, counted = [target] * len(experts), target.weights
    if shares is not None:
        known = shares.sum(1, keepdims=True)
        counted = target.weights * (known[:, 0] / np.maximum(seen.sum(1), 1))
        share = np.where(known > 0, shares / np.where(known > 0, known, 1.0), share)
        targets = own_targets(target, shares)
    problems = [
        expert_problem(expert, own, head, prior, masks, rows)
        for expert, own, head, prior in zip(experts, targets, heads, priors, strict=True)
    ]
    starts, trails = [None] * len(experts), [[] for _ in experts]
    total = counted[rows][scored].sum()
    alphas, losses, settled, kept = [], [], [], None
    for alpha in ALPHA_GRID:
        logits, complete = [], True
        for e, problem in enumerate(problems):
            start = _further(trails[e], np.log(alpha)) if is_smooth(heads[e]) else starts[e]
            a, b, _, done = solve(problem, heads[e], alpha, start, search=True)
            starts[e], trails[e] = (a, b), [*trails[e][-1:], (np.log(alpha), a, b)]
            complete = complete and bool(done.all())
            logits.append(held_out_logits(problem, a, b, folds.held_out[rows]))
        losses.append(
            _average_loss(
                _stacked(logits, scored),
                target.codes[rows][scored],
                counted[rows][scored],
                share[rows][scored],
                calibrated,
            )
        )
        alphas.append(alpha)
        settled.append(complete)
        if losses[-1] == min(losses):
            kept = list(starts)
        # Beyond here the weights are below exp(-15) and would not change alpha.
        if len(losses) > 1 and losses[-1] > losses[-2]:
            if total * (losses[-1] - min(losses)) > 15.0:
                break
    # Labels add up as rows do; their losses here are means over labels.
    total *= 1 if target.exclusive else target.n_classes
    evidence = -total * np.array(losses)
    p = np.exp(evidence - evidence.max())
    p /= p.sum()
    alpha = float(np.exp(p @ np.log(alphas)))
    warm = [problem.shared(*start) for problem, start in zip(problems, kept, strict=True)]
    path = {"alpha": alphas, "log_loss": [float(loss) for loss in losses]}
    # What was cut short matters where it has a say.
    return alpha, path, warm, bool(np.all(settled, where=p > 0.01))


def _further(trail, at):
    """Return where the path of solutions leads: on the line through its last two.

    Along the logarithm of alpha the solutions change smoothly; from here the descent takes half
    the steps that it takes from the last one.
    """
    if len(trail) < 2:
        return trail[-1][1:] if trail else None
    (before, *first), (now, *last) = trail
    part = (at - now) / (now - before)
    return tuple(b + part * (b - a) for a, b in zip(first, last, strict=True))


def _selection_rows(target, present, folds):
    """At most about 2,000 rows, evenly spaced within each class; all of what is rare.

    What is left of each class is never less than 20 rows of each expert, nor less than one in the
    training part of a fold, and of each fold never less than 20 held-out rows, where there are as
    many.
    """
    used = np.flatnonzero(target.weights > 0)
    if len(used) <= _SELECTION_ROWS:
        return used
    kept = np.zeros(len(target.weights), dtype=bool)

    def keep_at_least(quota, rows):
        quota = min(quota, len(rows))
        if kept[rows].sum() < quota:
            kept[rows[np.linspace(0, len(rows) - 1, quota).round().astype(int)]] = True

    if target.exclusive:
        has = target.codes[used][:, None] == np.arange(target.n_classes)
    else:
        has = target.codes.values[used] > 0.5
    present, train = present[used], folds.train[:, used]
    if not target.exclusive:  # rows without any label tell something too
        keep_at_least(_SELECTION_ROWS, used)
    for mine in has.T:
        rows = used[mine]
        keep_at_least(max(int(np.ceil(_SELECTION_ROWS * len(rows) / len(used))), 20), rows)
    for c, e in np.ndindex(target.n_classes, present.shape[1]):
        mine = has[:, c] & present[:, e]
        keep_at_least(20, used[mine])
        for trained in train:
            keep_at_least(1, used[mine & trained])
    for fold in range(len(folds)):
        keep_at_least(20, used[folds.held_out[used] == fold])
    return np.flatnonzero(kept)


def _stacked(logits, rows):
    """Return the logits (n, E, K) of some rows, given by a mask."""
    stacked = np.stack(logits, 1) if len(logits) > 1 else logits[0][:, None]
    return stacked if rows.all() else stacked[rows]


def _average_loss(logits, codes, weights, share, calibrated):
    """Log-loss of the average of the experts, with `share` (n, E) of each row."""
    for e in range(logits.shape[1]):
        own = weights * (share[:, e] > 0)
        if calibrated and own.sum() > 0:
            logits[:, e] *= fit_inverse_temperature(logits[:, e], codes, own)
    if calibrated:
        mixed = np.einsum("ne,nek->nk", share, logits)
        mixed *= fit_inverse_temperature(mixed, codes, weights)
        return float(log_losses(mixed, codes) @ weights / weights.sum())
    total, size = 0.0, block_size(logits.shape[2])
    for rows in (slice(a, a + size) for a in range(0, len(logits), size)):
        mixed = np.einsum("ne,nek->nk", share[rows], logits[rows])
        total += log_losses(mixed, codes[rows]) @ weights[rows]
    return float(total / weights.sum())
