"""The association matrix: from similarities to the logits of one expert.

S = Z A' + b with Z standardised on the training rows of each fold. All folds of a cross-validation
are solved as one stack of problems over one shared matrix of similarities.
"""

import torch

from skmoecbm._allocator import return_freed_memory
from skmoecbm._class_losses import Anchor, weigh_residuals
from skmoecbm._curvature import Curvature
from skmoecbm._lbfgs import minimize_stack
from skmoecbm._newton import POLISHED, polish
from skmoecbm._products import product, widened
from skmoecbm._row_blocks import block_size
from skmoecbm._similarities import moments
from skmoecbm._target import class_codes

__all__ = ["ALPHA_GRID", "AssociationProblem"]

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
# How often a descent goes on in new coordinates because rows were decided on the way.
_RENEWALS = 4
# Steps of more numbers than these (4 MB) leave gaps in memory that are given back.
_LARGE_STEP = 2**19
# Numbers that the pairs of L-BFGS may hold (256 MB).
_PAIR_NUMBERS = 2**25


class AssociationProblem:
    """One expert on F sets of row weights: F association matrices, solved together.

    Parameters
    ----------
    similarities : Similarities or FoldedSimilarities
        Of shape (n, m).
    targets : torch.Tensor or OneHot of shape (n, K'), float64
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
        self.similarities = self.source = similarities
        self.targets, self.cells = targets, cells
        # Whether the outputs share one softmax; else each is logistic.
        self.exclusive = cells is None and targets.shape[1] > 1
        self.totals = weights.sum(1)
        self.share = weights / self.totals[:, None]
        self.anchor = Anchor.needed(self, base_rate) if base_rate is not None else None
        n_folds, n_outputs, n_concepts = len(weights), targets.shape[1], similarities.shape[1]
        self.shape = (n_folds, n_outputs, n_concepts)
        self.curvature, self._steps, self._codes = None, 0, None
        # What the penalty measures distances by, (F, m, m), where that is not the identity.
        self.metric = None
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
        return prior * self._prior_factor(prior, strength, prior.abs().amax((1, 2)))[:, None, None]

    def _prior_factor(self, prior, strength, largest):
        """Return what to multiply a prior (F, K', m) by, (F,), for logits of a given deviation."""
        intercept = torch.zeros(self.shape[:2], dtype=torch.float64, device=prior.device)
        deviation = torch.zeros(self.shape[0], dtype=torch.float64, device=prior.device)
        for rows, _, logits, _ in self.pieces(prior, intercept):
            deviation += (logits.square().sum(1) * self.share[:, rows]).sum(1)
        deviation = (deviation / self.shape[1]).sqrt()
        # Rounding is no evidence either: blown up to the strength asked for it would be ruinous.
        spoken = deviation > 1e-8 * largest
        return torch.where(spoken, strength / torch.where(spoken, deviation, 1.0), 0.0)

    def pieces(self, association, intercept):
        """Yield rows, their factors and their logits (F, K', r), a block of rows at a time.

        The last is what the logits are the first rows of, a matrix with zeros after them.
        """
        slopes = association / self.scale[:, None, :]
        shift = intercept - (slopes * self.mean[:, None, :]).sum(2)
        folded = widened(self.similarities.fold(slopes.reshape(-1, self.shape[2])))
        shift, n = widened(shift.flatten())[:, None], shift.numel()
        for rows, block in self.similarities.blocks(len(folded)):
            whole = product(folded, block.T).add_(shift)
            yield rows, block, whole[:n].view(*self.shape[:2], -1), whole

    def logits(self, association, intercept):
        """Return S of shape (n, F, K') for association (F, K', m) and intercept (F, K')."""
        parts = [logits for _, _, logits, _ in self.pieces(association, intercept)]
        return torch.cat(parts, dim=2).permute(2, 0, 1)

    def held_out_logits(self, association, intercept, held_out):
        """Return the logits (n, K') of each row under its own fold, a number, or 0 where it is -1.

        Those of the other folds are never kept: for a thousand classes they are the largest part.
        """
        held_out = torch.as_tensor(held_out, device=intercept.device)
        out = intercept.new_zeros(len(held_out), self.shape[1])
        for rows, _, logits, _ in self.pieces(association, intercept):
            fold = held_out[rows]
            own = logits[fold.clamp_min(0), :, torch.arange(len(fold), device=fold.device)]
            out[rows] = torch.where((fold >= 0)[:, None], own, 0.0)
        return out

    def loss_and_gradient(self, association, intercept, alpha):
        """Return the penalised loss (F,) and its gradients by association and intercept.

        mean CE(S) + alpha / (2 n) * ||A - A0||**2 (MATHS section 1), n the sum of weights.
        """
        data_loss, summed, sums = 0.0, 0.0, 0.0
        for rows, block, logits, whole in self.pieces(association, intercept):
            cells = None if self.cells is None else self.cells[rows].T
            data_loss = data_loss + weigh_residuals(
                logits, self._truth(rows), self.share[:, rows], cells, exclusive=self.exclusive
            )
            summed = summed + logits.sum(2)
            sums = sums + product(whole, block)
        sums = self.similarities.unfold(sums[: summed.numel()]).view(self.shape)
        slope = (sums - summed[:, :, None] * self.mean[:, None, :]) / self.scale[:, None, :]
        away = association - self.prior
        drawn = away if self.metric is None else away @ self.metric
        pull = (alpha / self.totals)[:, None, None]
        loss = data_loss + 0.5 * (pull * away * drawn).sum((1, 2))
        if self.anchor is not None:
            anchor_loss, anchor_slope = self.anchor.loss_and_slope(intercept)
            loss, summed = loss + anchor_loss, summed + anchor_slope
        return loss, slope + pull * drawn, summed

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
        # The undecided rows may be known from another solution; else a first round finds them.
        known = self.curvature is not None or tol >= _FIRST_ROUND
        rounds = [tol] if known else [_FIRST_ROUND, tol]
        for number, round_tol in enumerate(rounds):
            if self.curvature is None or number > 0 or self._steps > _MANY_STEPS:
                # Along a path of penalties one eigenbasis for all is cheaper than its factors.
                own = (number > 0 or self.curvature is not None) and not search
                self.curvature = self._curvature_at(association, intercept, own=own)
            association, intercept, self._steps, converged = self._descend(
                alpha, association, intercept, max_iter - n_iter, round_tol
            )
            n_iter += self._steps
            converged = converged & (round_tol == tol)
            if n_iter >= max_iter:
                break
        small = _NEWTON_SEARCH_SIZE if search else _NEWTON_SIZE
        by_newton = self.shape[1] * (self.shape[2] + 1) <= small and tol < _FIRST_ROUND
        for _ in range(0 if search or by_newton else _RENEWALS):
            if n_iter >= max_iter or not self._has_sharpened(association, intercept):
                break
            self.curvature = self._curvature_at(association, intercept, own=True)
            association, intercept, self._steps, converged = self._descend(
                alpha, association, intercept, max_iter - n_iter, tol
            )
            n_iter += self._steps
        if by_newton:
            association, intercept, steps, left = polish(self, alpha, association, intercept)
            n_iter += steps
            converged = converged | (left <= POLISHED)
        if self.exclusive:
            # A constant on all classes changes nothing; centred, a bias reads the same each time.
            intercept = intercept - intercept.mean(1, keepdim=True)
        return association, intercept, n_iter, converged

    def _has_sharpened(self, association, intercept):
        """Return whether some class is much less undecided than where the curvature is from.

        The gradient then looks smaller in its coordinates than it is.
        """
        _, size = self._undecided(association, intercept, own=False)
        return bool((self.curvature.size > 2.0 * size).any())

    def _curvature_at(self, association, intercept, *, own):
        own = own and Curvature.has_room(*self.shape[1:])
        undecided, size = self._undecided(association, intercept, own=own)
        return Curvature(self.similarities, undecided, size, self.scale.mean(0))

    def _undecided(self, association, intercept, *, own):
        """Return p (1 - p) times the rows' weights and its sums (K',).

        The former by class (n, K'), or summed over them (n, 1), as blocks of rows.
        """
        n_outputs = self.shape[1]
        size = 0.0
        # Filled, not gathered: between large pieces small ones that stay keep their room taken.
        undecided = self.share.new_empty(self.share.shape[1], n_outputs if own else 1)
        for rows, _, logits, _ in self.pieces(association, intercept):
            p = torch.softmax(logits, dim=1) if self.exclusive else torch.sigmoid(logits)
            p = torch.addcmul(p, p, p, value=-1.0)
            if self.cells is not None:
                p *= self.cells[rows].T
            share = self.share[:, rows]
            each = p.mul_(share[:, None]).mean(0).T
            each += 1e-9 * share.mean(0)[:, None]
            size = size + each.sum(0)
            undecided[rows] = each if own else each.sum(1, keepdim=True)
        return undecided, size

    def _descend(self, alpha, association, intercept, max_iter, tol):
        """One round of L-BFGS in coordinates where the loss is nearly a sphere."""
        forward, backward = self.curvature.coordinates(alpha / self.totals.mean())
        weak = self.curvature.size.rsqrt()
        association = association - self._common(association - self.prior)
        ratio = (self.scale / self.curvature.scale)[:, None, :]
        # The intercepts follow the slopes so that the undecided rows keep their mean logit.
        centre = (self.curvature.centre - self.mean[:, None, :]) / self.scale[:, None, :]

        def unpack(flat):
            flat = flat.view(self.shape[0], self.shape[1], self.shape[2] + 1)
            move = forward(flat[:, :, :-1]) * ratio
            move = move - self._common(move)
            shift = weak * flat[:, :, -1] - (move * centre).sum(2)
            return association + move, intercept + shift

        def fun(flat):
            if flat.numel() > _LARGE_STEP:
                return_freed_memory()
            loss, slope, slope_intercept = self.loss_and_gradient(*unpack(flat), alpha)
            slope = slope - slope_intercept[:, :, None] * centre
            slope = backward((slope - self._common(slope)) * ratio)
            whole = torch.cat([slope, (weak * slope_intercept)[:, :, None]], dim=2)
            return loss, whole.flatten(1)

        origin = association.new_zeros(self.shape[0], self.shape[1] * (self.shape[2] + 1))
        # Of a thousand classes on five folds a pair of steps takes 60 MB.
        memory = max(4, min(12, _PAIR_NUMBERS // (2 * origin.numel())))
        settings = {"max_iter": max_iter, "tol": tol, "memory": memory}
        best, n_iter, converged = minimize_stack(fun, origin, **settings)
        return *unpack(best), n_iter, converged

    def _common(self, rows):
        """Return the part of A that all classes share, to be taken out.

        It cancels in the softmax, so only the weak pull towards the prior sees it; left in, it
        would be the one direction along which the descent crawls.
        """
        return rows.mean(1, keepdim=True) if self.exclusive else torch.zeros_like(rows)

    def borrow(self, other):
        """Take over how the loss curves from a problem on nearly the same rows."""
        self.curvature = other.curvature

    def shared(self, association, intercept):
        """Return slopes by similarity (K', m) and centred intercepts (K',), averaged over folds.

        A solution in the coordinates that problems of this kind on other rows share.
        """
        return (association / self.scale[:, None, :]).mean(0), intercept.mean(0)

    def start_from(self, slopes, intercept):
        """Return where to begin, from what another problem's `shared` gave."""
        slopes, intercept = slopes.to(self.mean.device), intercept.to(self.mean.device)
        return slopes * self.scale[:, None, :], intercept.expand(self.shape[:2]).clone()

    def by_concept(self, association):
        """Return mean, scale (m,), association and prior (K', m) of the only fold, as numpy."""
        mean = self.mean + self.similarities.offset
        parts = (mean, self.scale, association, self.prior)
        return [part[0].cpu().numpy() for part in parts]

    def origin(self):
        """Return the prior, with the intercepts of the class frequencies."""
        if self.cells is None:
            frequency = self._mass()
        else:
            counted = (self.share @ self.cells).clamp_min(1e-300)
            frequency = (self.share @ (self.cells * self.targets)) / counted
        frequency = frequency.clamp(1e-6, 1 - 1e-6)
        if self.exclusive:
            intercept = torch.log(frequency)
            intercept = intercept - intercept.mean(1, keepdim=True)
        else:
            intercept = torch.log(frequency) - torch.log1p(-frequency)
        return self.prior.clone(), intercept

    def lacking(self):
        """Return which outputs lack a case in the rows of a problem, (F, K'), bool.

        Under a softmax one class without a row concerns all: they share the intercepts' level.
        """
        if self.exclusive:
            return (self._mass() <= 0).any(1, keepdim=True).expand(-1, self.targets.shape[1])
        cells = torch.ones_like(self.targets) if self.cells is None else self.cells
        positive = self.share @ (cells * self.targets)
        return (positive <= 0) | (self.share @ (cells * (1 - self.targets)) <= 0)

    def _truth(self, rows):
        """Return what `weigh_residuals` compares the logits of some rows with."""
        if not self.exclusive:
            return self.targets[rows].T
        if self._codes is None:
            self._codes = class_codes(self.targets)
        return self._codes[rows]

    def _mass(self):
        """Return the share of the row weights that each class has, (F, K')."""
        sizes = range(0, len(self.targets), block_size(self.targets.shape[1]))
        parts = (slice(a, a + block_size(self.targets.shape[1])) for a in sizes)
        return sum(self.share[:, rows] @ self.targets[rows] for rows in parts)
