"""The first stage: alpha, the association of each expert, and its out-of-fold logits."""

import functools
import warnings
from dataclasses import dataclass, replace

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning

from skmoecbm._association import ALPHA_GRID, AssociationProblem, FoldedSimilarities, Similarities
from skmoecbm._calibration import fit_inverse_temperature, log_losses
from skmoecbm._constrained import solve_bounded, solve_softmax
from skmoecbm._labels import is_exclusive

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
class Target:
    """The labels as the solvers want them.

    Attributes
    ----------
    codes : ndarray of shape (n,), int, or LabelMatrix
    n_classes : int
    weights : ndarray of shape (n,), float64
    device : torch.device
    """

    codes: object
    n_classes: int
    weights: np.ndarray
    device: torch.device

    @property
    def exclusive(self):
        """Whether each row has just one class."""
        return is_exclusive(self.codes)

    def matrix(self, rows=slice(None)):
        """One-hot rows, a single 0/1 column for two classes, or one for each label; float64."""
        if not self.exclusive:
            return torch.as_tensor(self.codes.values[rows], device=self.device)
        codes = torch.as_tensor(self.codes[rows], device=self.device)
        if self.n_classes == 2:
            return codes[:, None].double()
        return torch.nn.functional.one_hot(codes, self.n_classes).double()

    def cells(self, rows=slice(None)):
        """Weights of the cells of `matrix`, None where each row has just one class."""
        if self.exclusive:
            return None
        return torch.as_tensor(self.codes.cells[rows], device=self.device)

    @functools.cached_property
    def base_rate(self):
        """Weighted frequencies of the columns of `matrix`, whichever experts saw the rows."""
        weights = torch.as_tensor(self.weights, device=self.device)[:, None]
        if not self.exclusive:
            weights = weights * self.cells()
        return (weights * self.matrix()).sum(0) / weights.sum(0)


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
    """

    association: np.ndarray
    intercept: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    prior: np.ndarray
    n_iter: int
    converged: bool


def two_columns(logits):
    """Return logits with K >= 2 columns: a single column s becomes (0, s)."""
    if logits.shape[-1] > 1:
        return logits
    return np.concatenate([np.zeros_like(logits), logits], axis=-1)


def expert_problem(expert, target, head, prior, masks, rows=None, *, like=None):
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
    like : AssociationProblem or None
        Another one of the same expert and rows, whose similarities serve here too.
    """
    rows = np.arange(len(target.codes)) if rows is None else rows
    present = expert.present[rows]
    block = expert.block
    if like is not None:
        similarities = like.similarities
    elif block is not None and block.embeddings is not None and _fold_pays(block, len(rows)):
        embeddings = np.where(present[:, None], block.embeddings[rows], 0.0)
        similarities = FoldedSimilarities(embeddings, block.texts, target.device)
    else:
        values = expert.values[rows]
        used = present & (target.weights[rows] > 0)
        if not present.all():
            values = np.where(present[:, None], values, values[used].mean(0))
        similarities = Similarities(values, target.device, None if used.all() else used)
    weights = masks[:, rows] * (target.weights[rows] * present)
    weights = torch.as_tensor(weights, dtype=torch.float64, device=target.device)
    softmax = head.activation == "softmax"
    if prior is not None:
        prior = torch.as_tensor(prior, dtype=torch.float64, device=target.device)
        if not softmax and target.exclusive and target.n_classes == 2:
            # Each class speaks with one voice, however many concepts were written for it.
            prior = prior / prior.abs().sum(1, keepdim=True).clamp_min(1e-300)
            prior = prior[1:] - prior[:1]
    problem = AssociationProblem(
        similarities,
        target.matrix(rows),
        weights,
        prior=None if softmax else prior,
        prior_strength=head.prior_strength,
        standardize=not softmax,
        cells=target.cells(rows),
        # The softmax association has no intercept that could fall.
        base_rate=None if softmax else target.base_rate,
    )
    if softmax:
        shape = (len(masks), target.n_classes, similarities.shape[1])
        start = torch.zeros(shape, dtype=torch.float64, device=target.device)
        problem.matrix_prior = start if prior is None else start + head.prior_strength * prior
        problem.prior = problem.matrix_prior
        if target.n_classes == 2:
            problem.prior = problem.prior[:, 1:] - problem.prior[:, :1]
    return problem


def _fold_pays(block, n):
    """Whether X (A T)' costs less than materialised similarities: n m > n d + d m."""
    m, d = block.texts.shape
    return n * m > n * d + d * m


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
    if head.activation == "linear" and head.l1 == 0:
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
            logits.append(_pick_held_out(problem.logits(a, b), folds.held_out[rows]))
        losses.append(
            _average_loss(
                np.stack(logits, 1)[scored],
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
    warm = [problem.mean_slopes(*start) for problem, start in zip(problems, kept, strict=True)]
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


def _average_loss(logits, codes, weights, share, calibrated):
    """Log-loss of the average of the experts, with `share` (n, E) of each row."""
    for e in range(logits.shape[1]):
        own = weights * (share[:, e] > 0)
        if calibrated and own.sum() > 0:
            logits[:, e] *= fit_inverse_temperature(logits[:, e], codes, own)
    mixed = np.einsum("ne,nek->nk", share, logits)
    if calibrated:
        mixed *= fit_inverse_temperature(mixed, codes, weights)
    return float(log_losses(mixed, codes) @ weights / weights.sum())


def _pick_held_out(logits, held_out):
    """From logits (n, F, K') take each row's own held-out fold: (n, K), 0 where there is none."""
    logits = logits.cpu().numpy()
    picked = logits[np.arange(len(held_out)), np.maximum(held_out, 0)]
    return two_columns(np.where((held_out >= 0)[:, None], picked, 0.0))


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
        slopes, intercept = (part.to(target.device)[None] for part in warm)
        start = (slopes * problem.scale[:, None, :], intercept.clone())
    a, b, n_iter, converged = solve(problem, head, alpha, start)
    mean = problem.mean + problem.similarities.offset
    arrays = [x[0].cpu().numpy() for x in (a, b, mean, problem.scale, problem.prior)]
    return HeadFit(*arrays, n_iter, bool(converged.all()))


def out_of_fold(expert, target, head, prior, alpha, folds, warm):
    """Return the logits (n, K) of each row under the fold that held it out, and convergence.

    Parameters
    ----------
    warm : HeadFit
        The fit on all rows, from which the folds start.
    """
    problem = expert_problem(expert, target, head, prior, folds.train)
    start = None
    if head.activation != "softmax":
        device = target.device
        a = torch.as_tensor(warm.association, device=device) / torch.as_tensor(
            warm.scale, device=device
        )
        b = torch.as_tensor(warm.intercept, device=device)
        start = (a * problem.scale[:, None, :], b.expand(problem.shape[:2]).clone())
    a, b, _, converged = solve(problem, head, alpha, start)
    return _pick_held_out(problem.logits(a, b), folds.held_out), bool(converged.all())


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
