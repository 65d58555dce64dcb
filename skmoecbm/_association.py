"""The association matrix: from similarities to the logits of one expert.

S = Z A' + b with Z standardised on the training rows of each fold. All folds of a cross-validation
are solved as one stack of problems over one shared matrix of similarities.
"""

import torch

from skmoecbm._curvature import Curvature
from skmoecbm._lbfgs import minimize_stack
from skmoecbm._similarities import FoldedSimilarities, Similarities, moments

__all__ = ["ALPHA_GRID", "AssociationProblem", "FoldedSimilarities", "Similarities", "moments"]

#: Penalties tried for `alpha=None`, strongest first so that each fit warm-starts the next.
ALPHA_GRID = (300.0, 100.0, 30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)

# The first round stops here: the rows that stay undecided are known by then.
_FIRST_ROUND = 1.5e-2
# A search step that took longer than this has left the region its coordinates were made for.
_MANY_STEPS = 12
# Up to this many coefficients a Newton step is cheaper than the L-BFGS steps it saves. A search,
# which is content with far less, is finished so only where the steps cost next to nothing.
_NEWTON_SIZE = 512
_NEWTON_SEARCH_SIZE = 128
# A gradient this small after Newton's steps is an optimum, whatever the descent before them said.
_POLISHED = 1e-9


class AssociationProblem:
    """One expert on F sets of row weights: F association matrices, solved together.

    Parameters
    ----------
    similarities : Similarities or FoldedSimilarities
        Of shape (n, m).
    targets : torch.Tensor of shape (n, K'), float64
        One-hot rows; a single 0/1 column for two classes, which makes the loss logistic.
    weights : torch.Tensor of shape (F, n)
        Row weights, zero on the held-out rows of a fold.
    prior : torch.Tensor of shape (K', m) or None
        Direction of the language prior, before scaling.
    prior_strength : float
        Standard deviation of Z A0' over training rows and classes.
    standardize : bool, default=True
        Whether Z is D standardised, or D itself (the softmax association).
    cells : torch.Tensor of shape (n, K') or None
        Given, the columns of `targets` are labels of which a row may have several: the loss is
        logistic in each, summed over them with these weights.
    base_rate : torch.Tensor of shape (K',) or None
        Frequencies of the classes, or labels, over all experts. Where the rows of a problem lack a
        class, one row more, of average similarities and these frequencies, keeps its log odds from
        falling without end: a floor.

    Attributes
    ----------
    mean, scale : torch.Tensor of shape (F, m)
        Of the similarities about `similarities.offset`.
    prior : torch.Tensor of shape (F, K', m)
        A0, scaled.
    curvature : Curvature or None
        Made by the first solve; only speed depends on it, so a problem on nearly the same rows
        may lend its own.
    """

    def __init__(
        self,
        similarities,
        targets,
        weights,
        prior=None,
        prior_strength=1.0,
        standardize=True,
        *,
        cells=None,
        base_rate=None,
    ):
        self.similarities = similarities
        self.targets, self.cells = targets, cells
        # Whether the outputs share one softmax; else each is logistic.
        self.exclusive = cells is None and targets.shape[1] > 1
        self.totals = weights.sum(1)
        self._share = weights / self.totals[:, None]
        self._anchor = _Anchor.needed(self, base_rate) if base_rate is not None else None
        n_folds, n_outputs, n_concepts = len(weights), targets.shape[1], similarities.shape[1]
        self.shape = (n_folds, n_outputs, n_concepts)
        self.curvature, self._steps = None, 0
        if standardize:
            self.mean, self.scale, constant = moments(similarities, weights)
            self.prior = self._scaled_prior(prior, prior_strength, constant)
        else:
            self.mean = -similarities.offset.expand(n_folds, -1)
            self.scale = torch.ones_like(self.mean)
            self.prior = torch.zeros(self.shape, dtype=torch.float64, device=self.mean.device)

    def _scaled_prior(self, prior, strength, constant):
        if prior is None:
            return torch.zeros(self.shape, dtype=torch.float64, device=self.mean.device)
        prior = prior / prior.abs().sum(1, keepdim=True).clamp_min(1e-300)
        # Of a concept that never varied the training rows say nothing, its unit included.
        prior = torch.where(constant[:, None, :], 0.0, prior)
        intercept = torch.zeros(self.shape[:2], dtype=torch.float64, device=prior.device)
        spread = self.logits(prior, intercept)
        deviation = torch.einsum("nfk,fn->f", spread.square(), self._share) / self.shape[1]
        deviation = deviation.sqrt()
        # Rounding is no evidence either: blown up to the strength asked for it would be ruinous.
        spoken = deviation > 1e-8 * prior.abs().amax((1, 2))
        factor = torch.where(spoken, strength / torch.where(spoken, deviation, 1.0), 0.0)
        return prior * factor[:, None, None]

    def logits(self, association, intercept):
        """Return S of shape (n, F, K') for association (F, K', m) and intercept (F, K')."""
        slopes = association / self.scale[:, None, :]
        shift = intercept - torch.einsum("fkm,fm->fk", slopes, self.mean)
        product = self.similarities.times(slopes.reshape(-1, self.shape[2]))
        return product.view(-1, *self.shape[:2]) + shift

    def loss_and_gradient(self, association, intercept, alpha):
        """Return the penalised loss (F,) and its gradients by association and intercept.

        mean CE(S) + alpha / (2 n) * ||A - A0||**2 (MATHS section 1), n the sum of weights.
        """
        logits = self.logits(association, intercept)
        log_loss, residual = _cross_entropy(logits, self.targets, self.exclusive, self.cells)
        data_loss = torch.einsum("nf,fn->f", log_loss, self._share)
        residual = residual * self._share.T[:, :, None]
        summed = residual.sum(0)
        product = self.similarities.transposed_times(residual.reshape(len(residual), -1))
        product = product.view(self.shape) - summed[:, :, None] * self.mean[:, None, :]
        away = association - self.prior
        pull = (alpha / self.totals)[:, None, None]
        loss = data_loss + 0.5 * (pull * away.square()).sum((1, 2))
        if self._anchor is not None:
            anchor_loss, anchor_slope = self._anchor.loss_and_slope(intercept)
            loss, summed = loss + anchor_loss, summed + anchor_slope
        return loss, product / self.scale[:, None, :] + pull * away, summed

    def solve(self, alpha, *, start=None, max_iter=300, tol=1e-4, search=False):
        """Return association (F, K', m), intercept (F, K'), steps and convergence.

        Preconditioned L-BFGS, a cold start in two rounds, the second for the rows that the first
        left undecided; small problems are then finished by Newton steps to the limit of float64.

        Parameters
        ----------
        alpha : float
            Positive strength of the pull towards the prior.
        start : tuple of association and intercept, default=None
            Where to begin; the prior and the log odds of the classes otherwise.
        max_iter, tol : int, float
            As in `minimize_stack`, the gradient measured in the preconditioned coordinates,
            where half its squared norm estimates the distance of the loss from its optimum.
        search : bool, default=False
            Whether the solution is only to be compared with others.
        """
        association, intercept = start if start is not None else self.origin()
        n_iter = 0
        # A warm start knows its undecided rows already; else a first round finds them.
        rounds = [tol] if start is not None or tol >= _FIRST_ROUND else [_FIRST_ROUND, tol]
        for number, round_tol in enumerate(rounds):
            if self.curvature is None or number > 0 or self._steps > _MANY_STEPS:
                self.curvature = self._curvature_at(
                    association, intercept, own=number > 0 or start is not None
                )
            association, intercept, self._steps, converged = self._descend(
                alpha, association, intercept, max_iter - n_iter, round_tol
            )
            n_iter += self._steps
            converged = converged & (round_tol == tol)
            if n_iter >= max_iter:
                break
        small = _NEWTON_SEARCH_SIZE if search else _NEWTON_SIZE
        if self.shape[1] * (self.shape[2] + 1) <= small and tol < _FIRST_ROUND:
            association, intercept, steps, left = self._polish(alpha, association, intercept)
            n_iter += steps
            converged = converged | (left <= _POLISHED)
        if self.exclusive:
            # A constant on all classes changes nothing; centred, a bias reads the same each time.
            intercept = intercept - intercept.mean(1, keepdim=True)
        return association, intercept, n_iter, converged

    def _curvature_at(self, association, intercept, *, own):
        p = self._probabilities(association, intercept)
        undecided = p * (1 - p) if self.cells is None else p * (1 - p) * self.cells[:, None, :]
        return Curvature(self.similarities, undecided, self._share, self.scale.mean(0), own=own)

    def _descend(self, alpha, association, intercept, max_iter, tol):
        """One round of L-BFGS in coordinates where the loss is nearly a sphere."""
        forward, backward = self.curvature.coordinates(alpha / self.totals.mean())
        weak = self.curvature.size.rsqrt()
        association = association - self._common(association - self.prior)
        ratio = (self.scale / self.scale.mean(0))[:, None, :]
        # The intercepts follow the slopes so that the undecided rows keep their mean logit.
        centre = (self.curvature.centre - self.mean[:, None, :]) / self.scale[:, None, :]

        def unpack(flat):
            flat = flat.view(self.shape[0], self.shape[1], self.shape[2] + 1)
            move = forward(flat[:, :, :-1]) * ratio
            move = move - self._common(move)
            shift = weak * flat[:, :, -1] - (move * centre).sum(2)
            return association + move, intercept + shift

        def fun(flat):
            loss, slope, slope_intercept = self.loss_and_gradient(*unpack(flat), alpha)
            slope = slope - slope_intercept[:, :, None] * centre
            slope = backward((slope - self._common(slope)) * ratio)
            whole = torch.cat([slope, (weak * slope_intercept)[:, :, None]], dim=2)
            return loss, whole.flatten(1)

        origin = association.new_zeros(self.shape[0], self.shape[1] * (self.shape[2] + 1))
        best, n_iter, converged = minimize_stack(fun, origin, max_iter=max_iter, tol=tol)
        return *unpack(best), n_iter, converged

    def _common(self, rows):
        """Return the part of A that all classes share, to be taken out.

        It cancels in the softmax, so only the weak pull towards the prior sees it; left in, it
        would be the one direction along which the descent crawls.
        """
        return rows.mean(1, keepdim=True) if self.exclusive else torch.zeros_like(rows)

    def _polish(self, alpha, association, intercept, max_steps=12):
        """Newton's method from a point near the optimum, as long as the gradient shrinks."""
        n_folds, n_outputs, n_concepts = self.shape
        identity = torch.eye(n_concepts, dtype=torch.float64, device=self.mean.device)
        centred = self.similarities.times(identity)
        size = n_concepts + 1
        # Under a softmax adding a constant to all intercepts changes nothing; this term fixes it.
        shift = torch.zeros(n_outputs, size, dtype=torch.float64, device=self.mean.device)
        shift[:, -1] = 1.0 if self.exclusive else 0.0
        shift = torch.outer(shift.flatten(), shift.flatten())

        def gradient_at(a, b):
            _, slope, slope_intercept = self.loss_and_gradient(a, b, alpha)
            return torch.cat([slope, slope_intercept[:, :, None]], dim=2).flatten(1)

        gradient = gradient_at(association, intercept)
        steps = 0
        for _ in range(max_steps):
            if bool((gradient.norm(dim=1) < 1e-14).all()):
                break
            p = self._probabilities(association, intercept)
            updates = []
            for f in range(n_folds):
                z = (centred - self.mean[f]) / self.scale[f]
                z = torch.cat([z, torch.ones_like(z[:, :1])], dim=1)
                hessian = self._hessian(f, z, p[:, f], intercept[f], alpha) + shift
                solved, info = torch.linalg.solve_ex(hessian, gradient[f])
                updates.append(torch.where(info == 0, solved, torch.zeros_like(solved)))
            update = torch.stack(updates).view(n_folds, n_outputs, size)
            trial = association - update[:, :, :-1], intercept - update[:, :, -1]
            trial_gradient = gradient_at(*trial)
            # Near rounding the norm creeps instead of falling by squares: enough.
            better = trial_gradient.norm(dim=1) < 0.5 * gradient.norm(dim=1)
            if not bool(better.any()):
                break
            keep = better[:, None]
            association = torch.where(keep[:, :, None], trial[0], association)
            intercept = torch.where(keep, trial[1], intercept)
            gradient = torch.where(keep, trial_gradient, gradient)
            steps += 1
        return association, intercept, steps, gradient.norm(dim=1)

    def _hessian(self, fold, z, p, intercept, alpha):
        """Return the second derivatives of one fold's loss, square of size K' (m + 1)."""
        rows = self._share[fold][:, None] * p
        if self.cells is not None:
            rows = rows * self.cells
        blocks = []
        for k in range(p.shape[1]):
            outer = -rows * p[:, [k]] if self.exclusive else torch.zeros_like(rows)
            outer[:, k] += rows[:, k] if self.exclusive else rows[:, k] * (1 - p[:, k])
            blocks.append(z.T @ (outer[:, :, None] * z[:, None, :]).flatten(1))
        hessian = torch.cat(blocks)
        ridge = hessian.new_full((p.shape[1], z.shape[1]), float(alpha / self.totals[fold]))
        ridge[:, -1] = 0.0
        hessian = hessian + torch.diag(ridge.flatten())
        if self._anchor is not None:
            biases = torch.arange(z.shape[1] - 1, len(hessian), z.shape[1], device=z.device)
            hessian[biases[:, None], biases] += self._anchor.curvature(fold, intercept)
        return hessian

    def mean_slopes(self, association, intercept):
        """Return slopes by similarity (K', m) and centred intercepts (K',), averaged over folds.

        A solution in the coordinates that problems on other rows share.
        """
        return (association / self.scale[:, None, :]).mean(0), intercept.mean(0)

    def origin(self):
        """Return the prior, with the intercepts of the class frequencies."""
        if self.cells is None:
            frequency = self._share @ self.targets
        else:
            counted = (self._share @ self.cells).clamp_min(1e-300)
            frequency = (self._share @ (self.cells * self.targets)) / counted
        frequency = frequency.clamp(1e-6, 1 - 1e-6)
        if self.exclusive:
            intercept = torch.log(frequency)
            intercept = intercept - intercept.mean(1, keepdim=True)
        else:
            intercept = torch.log(frequency) - torch.log1p(-frequency)
        return self.prior.clone(), intercept

    def _probabilities(self, association, intercept):
        logits = self.logits(association, intercept)
        return torch.softmax(logits, dim=2) if self.exclusive else torch.sigmoid(logits)

    def lacking(self):
        """Return which outputs lack a case in the rows of a problem, (F, K'), bool.

        Under a softmax one class without a row concerns all: they share the intercepts' level.
        """
        cells = torch.ones_like(self.targets) if self.cells is None else self.cells
        positive = self._share @ (cells * self.targets)
        if self.exclusive:
            return (positive <= 0).any(1, keepdim=True).expand(-1, self.targets.shape[1])
        return (positive <= 0) | (self._share @ (cells * (1 - self.targets)) <= 0)


class _Anchor:
    """One row more of average similarities and average labels, where a problem lacks a class."""

    def __init__(self, weight, rate, exclusive):
        self.weight, self.rate, self.exclusive = weight, rate, exclusive

    @classmethod
    def needed(cls, problem, rate):
        """Return the anchor of a problem, or None where no output lacks a case."""
        lacking = problem.lacking()
        if not bool(lacking.any()):
            return None
        return cls(lacking / problem.totals[:, None], rate, problem.exclusive)

    def loss_and_slope(self, intercept):
        """Return the loss (F,) and its derivative by the intercepts (F, K')."""
        if self.exclusive:
            log_p = torch.log_softmax(intercept, dim=1)
            loss, slope = -self.rate * log_p, log_p.exp() - self.rate
        else:
            loss = torch.nn.functional.softplus(intercept) - self.rate * intercept
            slope = torch.sigmoid(intercept) - self.rate
        return (self.weight * loss).sum(1), self.weight * slope

    def of(self, folds):
        """Return the anchor of some folds, given by number, which may come twice."""
        return _Anchor(self.weight[folds], self.rate, self.exclusive)

    def curvature(self, fold, intercept):
        """Return the second derivatives by one fold's intercepts (K',), shape (K', K')."""
        if self.exclusive:
            p = torch.softmax(intercept, dim=0)
            return self.weight[fold, 0] * (torch.diag(p) - torch.outer(p, p))
        p = torch.sigmoid(intercept)
        return torch.diag(self.weight[fold] * p * (1 - p))


def _cross_entropy(logits, targets, exclusive, cells):
    """Return the loss (n, F) and its derivative (n, F, K') of logits (n, F, K')."""
    targets = targets[:, None, :]
    if exclusive:
        log_p = torch.log_softmax(logits, dim=2)
        return -(targets * log_p).sum(2), log_p.exp() - targets
    loss = torch.nn.functional.softplus(logits) - targets * logits
    residual = torch.sigmoid(logits) - targets
    if cells is not None:
        loss, residual = loss * cells[:, None, :], residual * cells[:, None, :]
    return loss.sum(2), residual
