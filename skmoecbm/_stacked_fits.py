"""The first stage of many settings at once: fits on all rows, and out-of-fold logits.

The associations of one expert under all settings are one `MemberStack`. What it learned of the
curvature, and where it ended, starts the next set of rows (the next fold of a search).
"""

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import torch

from skmoecbm._curvature import Curvature
from skmoecbm._heads import HeadFit, expert_problem, two_columns
from skmoecbm._member_stack import MemberStack, Metric
from skmoecbm._target import Target

__all__ = ["Memory", "Request", "fit_stacked", "is_stackable"]

# The fits stop here, as a part of where a fit by itself would: what is compared is to differ by
# less than what it stands for.
_STRICTER = 0.3
# Newton's steps finish small problems one by one; here they go on to this gradient.
_SMALL = 512
_SMALL_TOL = 1e-9
_FIRST_ROUND = 1.5e-2
# Two settings share a matrix where no class has this many times the undecided rows under one.
_ALIKE = 1.5
# Numbers of the solutions that one expert keeps (128 MB).
_KNOWN_NUMBERS = 2**24
# What the number of all rows weighs where solutions are mixed.
_IN_ALL = 3.0
# What keeps the parts small in a mixture of known solutions.
_SMOOTH = 1e-3
# Numbers of the coefficients in one stack; its descent keeps some thirty copies.
_STACK_NUMBERS = 2**20
# Numbers in the factors that one expert keeps (256 MB).
_FACTOR_NUMBERS = 2**25


@dataclass
class Request:
    """One setting of one expert, to be fitted on all rows and on folds.

    Attributes
    ----------
    head : ConceptBottleneckClassifier
    target : Target
    direction : ndarray of shape (K, m) or None
    alpha : float
    key : hashable
        Names the setting in a `Memory`.
    """

    head: object
    target: Target
    direction: np.ndarray | None
    alpha: float
    key: object


@dataclass
class Solution:
    """Where a fit on some rows ended.

    Attributes
    ----------
    share : ndarray of shape (N,)
        What each row weighed, of all that any fit has.
    slopes : torch.Tensor of shape (K', m)
        By similarity.
    intercept : torch.Tensor of shape (K',)
        Where all similarities are 0.
    """

    share: np.ndarray
    slopes: torch.Tensor
    intercept: torch.Tensor


@dataclass
class Memory:
    """What the fits of one expert leave for those on other rows.

    Attributes
    ----------
    metrics : list of Metric
    which : dict of key to int
        The metric of each setting.
    known : dict of key to list of Solution
    rows : ndarray of int
        Which rows the next fits have, of all those that any have.
    factors : dict
        Of `MemberStack.solve`.
    trails : dict of tuple of keys to list
        Curvature pairs of the last fits on all rows of these settings.
    """

    metrics: list = field(default_factory=list)
    which: dict = field(default_factory=dict)
    known: dict = field(default_factory=dict)
    rows: np.ndarray | None = None
    factors: dict = field(default_factory=dict)
    trails: dict = field(default_factory=dict)

    def bound(self, numbers):
        """Forget factors of so many numbers each where all would take too much memory."""
        if len(self.factors) * numbers > _FACTOR_NUMBERS:
            self.factors.clear()


def is_stackable(head):
    """Tell whether a head's association is smooth and convex, as a stack needs it."""
    return getattr(head, "activation", None) == "linear" and head.l1 == 0


def fit_stacked(expert, requests, folds, memory=None):
    """Fit one expert under many settings on all its rows, then on the folds from there.

    Parameters
    ----------
    expert : ExpertData
    requests : list of Request
        With heads of which `is_stackable` is true.
    folds : Folds or None
        None, or where there is one expert alone, leaves the folds out.
    memory : Memory or None
        Of the same expert and settings on other rows; filled for the next.

    Returns
    -------
    list of (HeadFit, logits, done), one for each request
        `logits` (n, K) are out-of-fold, 0 for rows that no fold holds out; `done` tells whether
        the folds converged.
    """
    memory = Memory() if memory is None else memory
    if memory.rows is None:
        memory.rows = np.arange(len(requests[0].target.codes))
    found, batches, like = [None] * len(requests), {}, None
    for i, request in enumerate(requests):
        # Members of one stack stop at the same gradient.
        head = request.head
        batches.setdefault((head.tol, head.max_iter, _outputs(request.target)), []).append(i)
    for (tol, max_iter, n_outputs), numbers in batches.items():
        n_folds = 1 if folds is None else 1 + len(folds)
        coefficients = n_outputs * (expert.shape[1] + 1)
        size = max(1, _STACK_NUMBERS // (coefficients * n_folds))
        tol = (2.0 * tol * 0.01) ** 0.5 * _STRICTER
        tol = min(tol, _SMALL_TOL) if coefficients <= _SMALL else tol
        for start in range(0, len(numbers), size):
            part = numbers[start : start + size]
            fits, like = _fit_batch(
                expert, [requests[i] for i in part], folds, memory, tol, max_iter, like
            )
            for i, fit in zip(part, fits, strict=True):
                found[i] = fit
    return found


def _outputs(target):
    return 1 if target.exclusive and target.n_classes == 2 else target.n_classes


def _fit_batch(expert, requests, folds, memory, tol, max_iter, like):
    n = len(requests[0].target.codes)
    masks = np.ones((1, n), dtype=bool)
    if folds is not None:
        masks = np.concatenate([masks, folds.train])
    problems, numbers, at = [], {}, []
    for request in requests:
        key = (id(request.target), id(request.direction))
        if key not in numbers:
            numbers[key] = len(problems)
            plain = SimpleNamespace(activation="linear", prior_strength=1.0)
            settings = {"spanned": False, "like": like}
            like = expert_problem(
                expert, request.target, plain, request.direction, masks, **settings
            )
            problems.append(like)
        at.append(numbers[key])
    strengths = [request.head.prior_strength for request in requests]
    alphas = [request.alpha for request in requests]
    settings = list(zip(at, alphas, strengths, strict=True))
    full = MemberStack(problems, [(p, 0, alpha, strength) for p, alpha, strength in settings])
    a, b, steps, done = _solve_full(full, requests, memory, tol, max_iter)
    fits = _head_fits(full, a, b, steps, done)
    if folds is None:
        empty = np.zeros((n, requests[0].target.n_classes))
        return [(fit, empty, True) for fit in fits], like
    members = [(p, 1 + f, al, s) for f in range(len(folds)) for p, al, s in settings]
    stack = MemberStack(problems, members)
    _remember(full, a, b, requests, memory)
    start, _ = _starts(stack, list(requests) * len(folds), memory)
    which = [memory.which[request.key] for request in requests] * len(folds)
    # What the fits on all rows learned of the curvature holds for their folds.
    trail = memory.trails[tuple(request.key for request in requests)]
    trail = [tuple(part.repeat(len(folds), *[1] * (part.ndim - 1)) for part in p) for p in trail]
    fold_a, fold_b, _, fold_done = stack.solve(
        start,
        memory.metrics,
        which,
        max_iter=max_iter,
        # They are what a gate learns from; no fit by itself goes further.
        tol=tol / _STRICTER if tol > _SMALL_TOL else tol,
        factors=memory.factors,
        pairs=trail,
    )
    memory.bound(stack.shape[1] * stack.shape[2] ** 2)
    _remember(stack, fold_a, fold_b, list(requests) * len(folds), memory)
    logits = _held_out(stack, fold_a, fold_b, folds.held_out, len(requests))
    fold_done = fold_done.view(len(folds), -1).all(0).tolist()
    return list(zip(fits, logits, fold_done, strict=True)), like


def _solve_full(stack, requests, memory, tol, max_iter):
    """Solve on all rows: from other rows' solutions, or from the prior in two rounds."""
    (a, b), known = _starts(stack, requests, memory)
    steps = 0
    if not all(known):
        everyone = torch.arange(len(requests), device=stack.prior.device)
        origin = stack.origin()
        metric = _metric(stack, *origin, everyone, own=False)
        rough = max(tol, _FIRST_ROUND)
        first_a, first_b, steps, done = stack.solve(
            origin, [metric], [0] * len(requests), max_iter=max_iter, tol=rough
        )
        new = ~torch.as_tensor(known, device=a.device)
        a[new], b[new] = first_a[new], first_b[new]
        del metric
    _assign_metrics(stack, a, b, requests, memory)
    trail = memory.trails.setdefault(tuple(request.key for request in requests), [])
    which = [memory.which[request.key] for request in requests]
    a, b, more, done = stack.solve(
        (a, b),
        memory.metrics,
        which,
        max_iter=max(max_iter - steps, 1),
        tol=tol,
        factors=memory.factors,
        pairs=list(trail),
        trail=trail,
    )
    return a, b, steps + more, done


def _remember(stack, a, b, requests, memory):
    """Keep where the fits of a stack ended."""
    rows, n_rows = memory.rows, 1 + int(memory.rows.max())
    shares = {}
    for i, own in enumerate(stack._set.tolist()):
        if own not in shares:
            shares[own] = np.zeros(n_rows)
            shares[own][rows] = (stack._share[own] * stack._totals[own]).cpu().numpy()
        slopes = a[i] / stack._scale[own]
        level = b[i] - slopes @ (stack._mean[own] + stack.similarities.offset)
        known = memory.known.setdefault(requests[i].key, [])
        known.append(Solution(shares[own], slopes, level))
        del known[: -max(1, _KNOWN_NUMBERS // (slopes.numel() * len(memory.known)))]


def _starts(stack, requests, memory):
    """Return where to begin on each set of rows, and of which members anything is known.

    A solution changes smoothly with the weights of the rows, nearly as a linear function of them.
    So of the sets on which it is known, each with a solution, the mixture whose weights are
    nearest is a mixture of solutions near to the one sought.
    """
    a, b = stack.origin()
    mixtures, found = {}, []
    for i, (request, own) in enumerate(zip(requests, stack._set.tolist(), strict=True)):
        known = memory.known.get(request.key, ())
        found.append(bool(known))
        if not known:
            continue
        key = (own, *(id(solution.share) for solution in known))
        if key not in mixtures:
            wanted = np.zeros(1 + int(memory.rows.max()))
            wanted[memory.rows] = (stack._share[own] * stack._totals[own]).cpu().numpy()
            mixtures[key] = _nearest(wanted, [solution.share for solution in known])
        parts = mixtures[key].tolist()
        slopes = sum(part * solution.slopes for part, solution in zip(parts, known, strict=True))
        level = sum(part * solution.intercept for part, solution in zip(parts, known, strict=True))
        a[i] = slopes * stack._scale[own]
        b[i] = level + slopes @ (stack._mean[own] + stack.similarities.offset)
    return (a, b), found


def _nearest(wanted, known):
    """Return the parts, adding up to 1, in which row weights mixed are nearest to those wanted."""
    n_rows = max(len(wanted), *map(len, known))
    rows = np.stack([np.pad(own, (0, n_rows - len(own))) for own in known])
    wanted = np.pad(wanted, (0, n_rows - len(wanted)))
    # As much as each row counts how many there are in all, against which the penalty stands.
    rows, wanted = (
        np.c_[part, _IN_ALL * part.sum(-1, keepdims=True) / n_rows**0.5]
        for part in (rows, wanted[None])
    )
    away, wanted = rows[1:] - rows[0], wanted[0]
    gram = away @ away.T
    # Each solution is a little off, which large parts of either sign would add up.
    gram[np.diag_indices(len(gram))] += _SMOOTH * (wanted @ wanted)
    parts = np.linalg.solve(gram, away @ (wanted - rows[0]))
    return np.r_[1.0 - parts.sum(), parts]


def _assign_metrics(stack, a, b, requests, memory):
    """Give each setting a matrix: one that a like setting has, or a new one."""
    new = [i for i, request in enumerate(requests) if request.key not in memory.which]
    if not new:
        return
    everyone = torch.arange(len(requests), device=a.device)
    sizes = [stack.undecided(a[[i]], b[[i]], everyone[[i]])[1][0] for i in new]
    order = sorted(range(len(new)), key=lambda j: float(sizes[j].sum()))
    groups = []
    for j in order:
        for group in groups:
            ratio = sizes[j] / sizes[group[0]]
            if float(torch.maximum(ratio, 1 / ratio).max()) < _ALIKE:
                group.append(j)
                break
        else:
            groups.append([j])
    for group in groups:
        members = everyone[[new[j] for j in group]]
        middle = members[[len(members) // 2]]
        memory.metrics.append(_metric(stack, a[middle], b[middle], middle, own=True))
        for j in group:
            memory.which[requests[new[j]].key] = len(memory.metrics) - 1


def _metric(stack, a, b, members, *, own):
    """Return how the loss curves at the mean of some members."""
    undecided, _ = stack.undecided(a, b, members)
    undecided = undecided / len(members) + 1e-9 / len(undecided)
    size, scale = undecided.sum(0), stack.scale_of(members)
    if not (own and Curvature.has_room(*stack.shape[1:])):
        undecided = undecided.sum(1, keepdim=True)
    curvature = Curvature(stack.similarities, undecided, size, scale)
    return Metric(curvature, curvature.centre + stack.similarities.offset, scale)


def _head_fits(stack, a, b, steps, done):
    mean = stack._mean[stack._set] + stack.similarities.offset
    parts = [part.cpu().numpy() for part in (a, b, mean, stack._scale[stack._set], stack.prior)]
    return [HeadFit(*(part[i] for part in parts), steps, bool(done[i])) for i in range(len(a))]


def _held_out(stack, a, b, held_out, n_settings):
    """Return each setting's logits (n, K) of each row under the fold that held it out."""
    found = np.zeros((n_settings, len(held_out), stack.shape[1]))
    for fold in range(len(a) // n_settings):
        rows = np.flatnonzero(held_out == fold)
        left = stack.similarities.left(torch.as_tensor(rows, device=a.device))
        mine = slice(fold * n_settings, (fold + 1) * n_settings)
        members = torch.arange(mine.start, mine.stop, device=a.device)
        logits = stack.logits(a[mine], b[mine], members, left)
        found[:, rows] = logits.permute(2, 0, 1).cpu().numpy()
    return [two_columns(own) for own in found]
