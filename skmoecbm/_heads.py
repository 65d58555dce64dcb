"""The first stage: alpha, the association of each expert, and its out-of-fold logits."""

import warnings
from dataclasses import dataclass, replace

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning

from skmoecbm._association import AssociationProblem
from skmoecbm._constrained import solve_bounded, solve_softmax
from skmoecbm._row_blocks import CentredRows
from skmoecbm._similarities import FoldedSimilarities, Similarities, folding_pays
from skmoecbm._spanned import SpannedProblem
from skmoecbm._target import Target

__all__ = [
    "FALLBACK_ALPHA",
    "HeadFit",
    "Target",
    "expert_problem",
    "fit_head",
    "held_out_logits",
    "is_smooth",
    "out_of_fold",
    "own_targets",
    "solve",
    "two_columns",
    "warn_unconverged",
]

#: Used for `alpha=None` where no fold can be made: the middle of what the studies preferred.
FALLBACK_ALPHA = 10.0


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
    problem : AssociationProblem or None
        Kept for the folds, which begin with its similarities and curvature.
    start : tuple or None
        The solution as problems of the same kind on other rows may start from it.
    """

    association: np.ndarray
    intercept: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    prior: np.ndarray
    n_iter: int
    converged: bool
    problem: object = None
    start: tuple | None = None


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
    similarities = _similarities(expert, target, rows) if like is None else like.source
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
        # A copy, row after row: that of features is read-only, and may lie column after column.
        prior = np.array(prior, dtype=np.float64, order="C")
        prior = torch.as_tensor(prior, device=target.device)
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


def held_out_logits(problem, a, b, held_out):
    """Return each row's logits under the fold that held it out: (n, K), 0 where there is none."""
    return two_columns(problem.held_out_logits(a, b, held_out).cpu().numpy())


def fit_head(expert, target, head, prior, alpha, warm=None, *, keep=False):
    """Fit one expert on all its rows.

    Parameters
    ----------
    warm : tuple of slopes (K', m) and intercept (K',), default=None
        By similarity, not standardised: where to begin.
    keep : bool, default=False
        Whether `out_of_fold` is to follow, to which the problem is of use.
    """
    masks = np.ones((1, len(target.codes)), dtype=bool)
    problem = expert_problem(expert, target, head, prior, masks)
    start = None
    if warm is not None and head.activation != "softmax":
        start = problem.start_from(*warm)
    a, b, n_iter, converged = solve(problem, head, alpha, start)
    mean, scale, association, prior = problem.by_concept(a)
    intercept, done = b[0].cpu().numpy(), bool(converged.all())
    kept = (problem, problem.shared(a, b)) if keep else (None, None)
    return HeadFit(association, intercept, mean, scale, prior, n_iter, done, *kept)


def out_of_fold(expert, target, head, prior, alpha, folds, warm):
    """Return the logits (n, K) of each row under the fold that held it out, and convergence.

    Parameters
    ----------
    warm : HeadFit
        The fit on all rows, kept, from which the folds start.
    """
    problem = expert_problem(expert, target, head, prior, folds.train, like=warm.problem)
    start = None
    if head.activation != "softmax":
        problem.borrow(warm.problem)
        start = problem.start_from(*warm.start)
    a, b, _, converged = solve(problem, head, alpha, start)
    return held_out_logits(problem, a, b, folds.held_out), bool(converged.all())


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
