"""The first stage: alpha, the association of each expert, and its out-of-fold logits."""

import warnings
from dataclasses import dataclass, replace

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning

from skmoecbm._association import ALPHA_GRID, AssociationProblem
from skmoecbm._calibration import fit_inverse_temperature, log_losses
from skmoecbm._constrained import solve_bounded, solve_softmax
from skmoecbm._row_blocks import CentredRows, block_size
from skmoecbm._similarities import FoldedSimilarities, Similarities, folding_pays
from skmoecbm._spanned import SpannedProblem
from skmoecbm._target import Target

__all__ = [
    "FALLBACK_ALPHA",
    "HeadFit",
    "Target",
    "expert_problem",
    "fit_head",
    "out_of_fold",
    "own_targets",
    "select_alpha",
    "two_columns",
    "warn_unconverged",
]

#: Used for `alpha=None` where no fold can be made: the middle of what the studies preferred.
FALLBACK_ALPHA = 10.0

_SELECTION_ROWS = 2000


@dataclass
class HeadFit:
    """One expert's solution, as numpy; leading axis F where several sets of weights were solved.

    Attributes
    ----------
    association : ndarray of shape (K', m)
    intercept : ndarray of shape (K',)
    mean, scale : ndarray of shape (m,)
    prior : ndarray of shape (K', m)
    n_iter : int
    converged : bool
    shared : tuple or None
        The solution as problems of the same kind on other rows may start from it.
    """

    association: np.ndarray
    intercept: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    prior: np.ndarray
    n_iter: int
    converged: bool
    shared: tuple | None = None


def two_columns(logits):
    """Return logits with K >= 2 columns: a single column s becomes (0, s)."""
    if logits.shape[-1] > 1:
        return logits
    return np.concatenate([np.zeros_like(logits), logits], axis=-1)


def expert_problem(expert, target, head, prior, masks, rows=None, *, spanned=True, like=None):
    """Return the `AssociationProblem` of one expert on several sets of rows.

    Parameters
    ----------
    expert : ExpertData
    target : Target
    head : ConceptBottleneckClassifier
        Its parameters.
    prior : ndarray of shape (K, m) or None
        Direction of A0, one row per class.
    masks : ndarray of shape (F, n), bool
        Training rows of each problem.
    rows : ndarray of int or None
        Only these rows of everything.
    spanned : bool, default=True
        Whether the problem may be one in the span of the concepts, which has no A.
    like : AssociationProblem or None
        Another one of the same expert and rows, whose similarities serve here too.
    """
    similarities = _similarities(expert, target, rows) if like is None else like.similarities
    rows = slice(None) if rows is None else rows
    weights = masks[:, rows] * (target.weights[rows] * expert.present[rows])
    weights = torch.as_tensor(weights, dtype=torch.float64, device=target.device)
    softmax = head.activation == "softmax"
    if prior is not None and not softmax and target.exclusive and target.n_classes == 2:
        # Each class speaks with one voice, however many concepts were written for it.
        prior = prior / np.maximum(np.abs(prior).sum(axis=1, keepdims=True), 1e-300)
        prior = prior[1:] - prior[:1]
    settings = {
        "cells": target.cells(rows),
        # The softmax association has no intercept that could fall.
        "base_rate": None if softmax else target.base_rate,
    }
    matrix = target.matrix(rows)
    if spanned and is_smooth(head) and isinstance(similarities, FoldedSimilarities):
        return SpannedProblem(similarities, matrix, weights, prior, head.prior_strength, **settings)
    if prior is not None:
        prior = torch.as_tensor(prior, dtype=torch.float64, device=target.device)
    problem = AssociationProblem(
        similarities,
        matrix,
        weights,
        prior=None if softmax else prior,
        prior_strength=head.prior_strength,
        standardize=not softmax,
        **settings,
    )
    if softmax:
        shape = (len(masks), target.n_classes, similarities.shape[1])
        start = torch.zeros(shape, dtype=torch.float64, device=target.device)
        problem.matrix_prior = start if prior is None else start + head.prior_strength * prior
        problem.prior = problem.matrix_prior
        if target.n_classes == 2:
            problem.prior = problem.prior[:, 1:] - problem.prior[:, :1]
    return problem


def _similarities(expert, target, rows):
    """Return the similarities of some rows, None for all, folded where that pays on all of them.

    So that all problems of an expert in one fit are of one kind, the fit on a few rows is too.
    """
    block, present = expert.block, expert.present
    if expert.folds:
        if folding_pays(len(present), *block.texts.shape):
            centred = CentredRows(block.embeddings, target.device, rows, present)
            return FoldedSimilarities(centred, block.texts, target.device)
    rows = slice(None) if rows is None else rows
    present, values = present[rows], expert.values[rows]
    used = present & (target.weights[rows] > 0)
    if not present.all():
        values = np.where(present[:, None], values, values[used].mean(0))
    return Similarities(values, target.device, None if used.all() else used)


def is_smooth(head):
    """Return whether a head's objective is smooth and free: linear without L1."""
    return head.activation == "linear" and head.l1 == 0


def solve(problem, head, alpha, start=None, *, search=False):
    """Solve with the solver that the head's activation asks for.

    `head.tol` is a distance of the mean loss from its optimum, in nats; half the squared norm of
    the preconditioned gradient estimates it. A search over alpha stops there, a fit that is kept
    goes on to a hundredth of it.
    """
    tol = (2.0 * head.tol * (1.0 if search else 0.01)) ** 0.5
    if head.activation == "softmax":
        *solution, _ = solve_softmax(problem, alpha, max_iter=head.max_iter, tol=head.tol)
        return solution
    if is_smooth(head):
        return problem.solve(alpha, start=start, max_iter=head.max_iter, tol=tol, search=search)
    return solve_bounded(
        problem,
        alpha,
        head.l1,
        nonnegative=head.activation == "nonnegative",
        start=start,
        max_iter=head.max_iter,
        tol=tol,
    )


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
    starts = [None] * len(experts)
    total = counted[rows][scored].sum()
    alphas, losses, settled, kept = [], [], [], None
    for alpha in ALPHA_GRID:
        logits, complete = [], True
        for e, problem in enumerate(problems):
            a, b, _, done = solve(problem, heads[e], alpha, starts[e], search=True)
            starts[e] = (a, b)
            complete = complete and bool(done.all())
            logits.append(_held_out(problem, a, b, folds.held_out[rows]))
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


def own_targets(target, shares):
    """Return the target of each expert, rows weighted by its share.

    Parameters
    ----------
    shares : ndarray of shape (n, E)
        How much of a row is an expert's: 1 is as much as the plain average gives it.
    """
    targets = [replace(target, weights=target.weights * own) for own in shares.T]
    for own in targets:
        # A class of which an expert has no row keeps the floor of its overall frequency.
        vars(own)["base_rate"] = target.base_rate
    return targets


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


def _held_out(problem, a, b, held_out):
    """Return each row's logits under the fold that held it out: (n, K), 0 where there is none."""
    return two_columns(problem.held_out_logits(a, b, held_out).cpu().numpy())


def fit_head(expert, target, head, prior, alpha, warm=None):
    """Fit one expert on all its rows.

    Parameters
    ----------
    warm : tuple of slopes (K', m) and intercept (K',), default=None
        By similarity, not standardised: where to begin.
    """
    masks = np.ones((1, len(target.codes)), dtype=bool)
    problem = expert_problem(expert, target, head, prior, masks)
    start = None
    if warm is not None and head.activation != "softmax":
        start = problem.start_from(*warm)
    a, b, n_iter, converged = solve(problem, head, alpha, start)
    mean, scale, association, prior = problem.by_concept(a)
    intercept, shared = b[0].cpu().numpy(), problem.shared(a, b)
    done = bool(converged.all())
    return HeadFit(association, intercept, mean, scale, prior, n_iter, done, shared)


def out_of_fold(expert, target, head, prior, alpha, folds, warm):
    """Return the logits (n, K) of each row under the fold that held it out, and convergence.

    Parameters
    ----------
    warm : HeadFit
        The fit on all rows, from which the folds start.
    """
    problem = expert_problem(expert, target, head, prior, folds.train)
    start = problem.start_from(*warm.shared) if head.activation != "softmax" else None
    a, b, _, converged = solve(problem, head, alpha, start)
    return _held_out(problem, a, b, folds.held_out), bool(converged.all())


def warn_unconverged(head, search, fits, folds=()):
    """Say in one warning which fits stopped short.

    Parameters
    ----------
    search : bool
        Whether the fits that chose alpha converged.
    fits, folds : dict of str to bool
        Whether the fit of each expert converged, on all rows and on the folds.
    """
    short = [] if search else ["the search for alpha"]
    short += [f"expert {name!r} on all rows" for name, done in fits.items() if not done]
    short += [f"expert {name!r} on folds" for name, done in dict(folds).items() if not done]
    if short:
        warnings.warn(
            f"Associations did not converge in {head.max_iter} steps: {', '.join(short)}. "
            "Increase max_iter or alpha.",
            ConvergenceWarning,
            stacklevel=5,
        )
