"""One expert under many settings and on many sets of rows: all associations as one batch.

Settings of a search differ in the penalty and the prior, folds in the weights of the rows; the
similarities are the same for all. A step of all of them is one pass over the rows, in which each
row meets only the members that learn from it.
"""

from dataclasses import dataclass

import numpy as np
import torch

from skmoecbm._lbfgs import minimize_stack
from skmoecbm._products import product as product_of
from skmoecbm._row_blocks import HELD_NUMBERS

__all__ = ["MemberStack", "Metric"]

# Numbers in the logits of one chunk of rows: few enough to stay in the processor's cache.
_CHUNK_NUMBERS = 2**19


@dataclass
class Metric:
    """A `Curvature` and what its coordinates refer to.

    Attributes
    ----------
    curvature : Curvature
    centre : torch.Tensor of shape (K', m)
        Of the undecided rows, as similarities.
    scale : torch.Tensor of shape (m,)
    """

    curvature: object
    centre: torch.Tensor
    scale: torch.Tensor


class MemberStack:
    """M associations of one expert, each a set of row weights with an alpha and a prior.

    Parameters
    ----------
    problems : list of AssociationProblem
        On the same similarities and targets; each has a set of rows, or several, and the
        direction of a prior at the strength 1.
    members : list of (problem, set, alpha, strength)
        Numbers of the problem and of the set within it, and what the member makes of them.
    """

    def __init__(self, problems, members):
        first = problems[0]
        self.similarities, self.targets, self.cells = (
            first.similarities,
            first.targets,
            first.cells,
        )
        self.exclusive = first.exclusive
        starts = np.cumsum([0, *(problem.shape[0] for problem in problems)])
        device = first.mean.device
        at, sets, alphas, strengths = zip(*members, strict=True)
        self._set = torch.as_tensor(starts[list(at)] + np.array(sets), device=device)
        self._alpha = torch.as_tensor(alphas, dtype=torch.float64, device=device)
        self._mean, self._scale, self._totals, prior = (
            torch.cat([getattr(problem, name) for problem in problems])
            for name in ("mean", "scale", "totals", "prior")
        )
        self._share = torch.cat([problem.share for problem in problems])
        strengths = torch.as_tensor(strengths, dtype=torch.float64, device=device)
        self.prior = prior[self._set] * strengths[:, None, None]
        self.pull = self._alpha / self._totals[self._set]
        self._anchors = [
            (start, problem.anchor)
            for start, problem in zip(starts, problems, strict=False)
            if problem.anchor is not None
        ]
        self._problems, self._starts = problems, starts
        self.shape = (len(members), *first.shape[1:])
        self._blocks = self._cut_rows()

    def _cut_rows(self):
        """Return blocks of rows from which the same sets learn: rows, targets, left, shares."""
        used = (self._share > 0).cpu().numpy()
        packed = np.ascontiguousarray(np.packbits(used, axis=0).T)
        keys = packed.view(np.dtype((np.void, packed.shape[1]))).ravel()
        _, pattern = np.unique(keys, return_inverse=True)
        blocks = []
        for number in range(pattern.max() + 1):
            rows = np.flatnonzero(pattern == number)
            sets = used[:, rows[0]]
            if not sets.any():
                continue
            rows = torch.as_tensor(rows, device=self._share.device)
            # Of very many rows the left factor is read when it is needed, not kept a second time.
            small = len(rows) * self.similarities.rank <= HELD_NUMBERS
            left = self.similarities.left(rows) if small else rows
            target = self.targets[rows]
            if self.exclusive:
                target = target.argmax(1)
            cells = None if self.cells is None else self.cells[rows]
            share = self._share[:, rows].T.contiguous()
            blocks.append((left, target, cells, share, torch.as_tensor(sets, device=rows.device)))
        return blocks

    def origin(self):
        """Return the priors, with the intercepts of the class frequencies; (M, K', m), (M, K')."""
        intercepts = torch.cat([problem.origin()[1] for problem in self._problems])
        return self.prior.clone(), intercepts[self._set]

    def to_slopes(self, association):
        """Return slopes by similarity (M, K', m), which sets of rows share."""
        return association / self._scale[self._set][:, None, :]

    def to_association(self, slopes):
        """Return associations of slopes by similarity (M, K', m)."""
        return slopes * self._scale[self._set][:, None, :]

    def _wide(self, association, intercept, members):
        """Return what the rows are multiplied by (p, K', M), and the shifts (K', M)."""
        own = self._set[members]
        slopes = association / self._scale[own][:, None, :]
        shift = intercept - torch.einsum("fkm,fm->fk", slopes, self._mean[own])
        wide = self.similarities.narrow(slopes.permute(2, 1, 0).reshape(self.shape[2], -1))
        return wide.reshape(-1, self.shape[1], len(own)), shift.T.contiguous()

    def logits(self, association, intercept, members, left):
        """Return logits (r, K', M) of rows given by the left factor of their similarities."""
        wide, shift = self._wide(association, intercept, members)
        found = torch.addmm(shift.reshape(-1), left, wide.reshape(len(wide), -1))
        return found.view(len(left), *shift.shape)

    def loss_and_gradient(self, association, intercept, members):
        """Return the penalised losses (M,) and gradients of some members, given by number."""
        n_outputs, own = self.shape[1], self._set[members]
        wide, shift = self._wide(association, intercept, members)
        loss = wide.new_zeros(len(own))
        product, summed = torch.zeros_like(wide), torch.zeros_like(shift)
        for left, target, cells, share, learns in self._blocks:
            columns = torch.nonzero(learns[own])[:, 0]
            if not len(columns):
                continue
            every = len(columns) == len(own)
            its_wide = wide if every else wide[:, :, columns]
            its_shift = (shift if every else shift[:, columns]).reshape(-1)
            its_wide = its_wide.reshape(len(wide), -1)
            its_share = share[:, own[columns]]
            its_product = torch.zeros_like(its_wide)
            its_sum = torch.zeros_like(its_shift)
            its_loss = wide.new_zeros(len(columns))
            size = max(64, _CHUNK_NUMBERS // its_wide.shape[1])
            for rows in (slice(r, r + size) for r in range(0, len(left), size)):
                part = left[rows]
                part = self.similarities.left(part) if left.ndim == 1 else part
                logits = product_of(part, its_wide).add_(its_shift)
                logits = logits.view(len(logits), n_outputs, len(columns))
                cell = None if cells is None else cells[rows]
                losses, residual = _cross_entropy(
                    logits, target[rows], cell, its_share[rows], self.exclusive
                )
                residual = residual.view(len(residual), -1)
                its_product += product_of(part.T, residual)
                its_sum += residual.sum(0)
                its_loss += losses
            its_product = its_product.view(len(wide), n_outputs, -1)
            its_sum = its_sum.view(n_outputs, -1)
            if every:
                product, summed, loss = product + its_product, summed + its_sum, loss + its_loss
            else:
                product.index_add_(2, columns, its_product)
                summed.index_add_(1, columns, its_sum)
                loss.index_add_(0, columns, its_loss)
        product = self.similarities.widen(product.reshape(len(product), -1))
        product = product.reshape(-1, n_outputs, len(own)).permute(2, 1, 0)
        summed = summed.T
        slope = (product - summed[:, :, None] * self._mean[own][:, None, :]) / self._scale[own][
            :, None, :
        ]
        away = association - self.prior[members]
        pull = self.pull[members][:, None, None]
        loss = loss + 0.5 * (pull * away.square()).sum((1, 2))
        anchor_loss, anchor_slope = self._anchor(intercept, own)
        return loss + anchor_loss, slope + pull * away, summed + anchor_slope

    def _anchor(self, intercept, own):
        """Return the loss and slope of the rows more where a set lacks a class."""
        loss, slope = intercept.new_zeros(len(own)), torch.zeros_like(intercept)
        for start, anchor in self._anchors:
            mine = torch.nonzero((own >= start) & (own < start + len(anchor.weight)))[:, 0]
            if len(mine):
                part = anchor.of(own[mine] - start)
                loss[mine], slope[mine] = part.loss_and_slope(intercept[mine])
        return loss, slope

    def undecided(self, association, intercept, members):
        """Return p (1 - p) times the row's share, summed over members: (n, K'), and its sums.

        The sums, of shape (M, K'), are each member's own.
        """
        weights = self._share.new_zeros(len(self.targets), self.shape[1])
        sizes = self._share.new_zeros(len(members), self.shape[1])
        every = torch.arange(len(self.targets), device=weights.device)
        for rows in every.split(2048):
            logits = self.logits(association, intercept, members, self.similarities.left(rows))
            p = torch.softmax(logits, dim=1) if self.exclusive else torch.sigmoid(logits)
            spread = p * (1 - p) * self._share[self._set[members]][:, rows].T[:, None, :]
            if self.cells is not None:
                spread = spread * self.cells[rows][:, :, None]
            weights[rows] = spread.sum(2)
            sizes += spread.sum(0).T
        return weights, sizes

    def share_of(self, members):
        """Return the row weights (M, n) of members, summing to 1."""
        return self._share[self._set[members]]

    def scale_of(self, members):
        """Return the mean scale (m,) of the similarities over members."""
        return self._scale[self._set[members]].mean(0)

    def solve(self, start, metrics, which, *, max_iter, tol, factors=None, pairs=(), trail=None):
        """Return associations (M, K', m), intercepts (M, K'), steps and convergence.

        Parameters
        ----------
        start : tuple of associations and intercepts
        metrics : list of Metric
        which : sequence of int, length M
            The metric of each member.
        max_iter, tol : int, float
            As in `AssociationProblem.solve`.
        factors : dict or None
            Coordinates by metric and alpha, kept from one call to the next.
        pairs, trail : sequence, list or None
            Of `minimize_stack`; those of another call with the same metrics serve here.
        """
        association, intercept = start
        association = association - self._common(association - self.prior)
        factors = {} if factors is None else factors
        seen, of_member = {}, []
        for metric, alpha, pull in zip(which, self._alpha.tolist(), self.pull, strict=True):
            # Folds of a setting differ by a few rows: one factor serves them all.
            key = (metric, alpha)
            if key not in factors:
                factors[key] = metrics[metric].curvature.coordinates(pull)
            of_member.append(seen.setdefault(key, len(seen)))
        used = [factors[key] for key in seen]
        of_member = torch.as_tensor(of_member, device=association.device)
        scale = self._scale[self._set]
        ratio = (scale / torch.stack([metrics[i].scale for i in which]))[:, None, :]
        centre = torch.stack([metrics[i].centre for i in which]) - self.similarities.offset
        centre = (centre - self._mean[self._set][:, None, :]) / scale[:, None, :]
        weak = torch.stack([metrics[i].curvature.size for i in which]).rsqrt()
        shape = (self.shape[1], self.shape[2] + 1)

        def at(members):
            """Return the objective of some members."""
            groups = [
                (used[g], torch.nonzero(of_member[members] == g)[:, 0])
                for g in torch.unique(of_member[members]).tolist()
            ]
            its_ratio, its_centre, its_weak = ratio[members], centre[members], weak[members]
            base, base_intercept = association[members], intercept[members]

            def unpack(flat):
                flat = flat.view(len(members), *shape)
                move = torch.empty_like(base)
                for (forward, _), mine in groups:
                    move[mine] = forward(flat[mine, :, :-1])
                move = move * its_ratio
                move = move - self._common(move)
                shift = its_weak * flat[:, :, -1] - (move * its_centre).sum(2)
                return base + move, base_intercept + shift

            def fun(flat):
                loss, slope, slope_intercept = self.loss_and_gradient(*unpack(flat), members)
                slope = slope - slope_intercept[:, :, None] * its_centre
                slope = (slope - self._common(slope)) * its_ratio
                for (_, backward), mine in groups:
                    slope[mine] = backward(slope[mine])
                whole = torch.cat([slope, (its_weak * slope_intercept)[:, :, None]], dim=2)
                return loss, whole.flatten(1)

            return fun, unpack

        everyone = torch.arange(self.shape[0], device=association.device)
        origin = association.new_zeros(self.shape[0], shape[0] * shape[1])
        fun, unpack = at(everyone)
        best, steps, converged = minimize_stack(
            fun,
            origin,
            max_iter=max_iter,
            tol=tol,
            narrow=lambda members: at(members)[0],
            pairs=pairs,
            trail=trail,
        )
        association, intercept = unpack(best)
        if self.exclusive:
            intercept = intercept - intercept.mean(1, keepdim=True)
        return association, intercept, steps, converged

    def _common(self, rows):
        """Return the part of A that all classes share; see `AssociationProblem`."""
        return rows.mean(1, keepdim=True) if self.exclusive else torch.zeros_like(rows)


def _cross_entropy(logits, target, cells, share, exclusive):
    """Return weighted losses summed over rows (M,) and residuals (r, K', M); logits are used up."""
    if exclusive:
        at = target[:, None, None].expand(-1, 1, logits.shape[2])
        logits -= logits.amax(1, keepdim=True)
        chosen = logits.gather(1, at)[:, 0]
        p = logits.exp_()
        total = p.sum(1)
        losses = ((total.log() - chosen) * share).sum(0)
        p *= (share / total)[:, None, :]
        p.scatter_add_(1, at, -share[:, None, :])
        return losses, p
    target, share = target[:, :, None], share[:, None, :]
    if cells is not None:
        share = share * cells[:, :, None]
    losses = torch.nn.functional.softplus(logits) - target * logits
    return (losses * share).sum((0, 1)), (torch.sigmoid(logits) - target) * share
