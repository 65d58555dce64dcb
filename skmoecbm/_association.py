"""The association matrix: from similarities to the logits of one expert.

All folds of a cross-validation are solved as one stack of problems over one shared matrix of
similarities, in the eigenbasis of their correlations. MATHS: S = Z A' + b with Z standardised on
the training rows of each fold.
"""

import numpy as np
import torch

from skmoecbm._lbfgs import minimize_stack

__all__ = ["ALPHA_GRID", "AssociationProblem", "FoldedSimilarities", "Similarities", "moments"]

#: Penalties tried for `alpha=None`, strongest first so that each fit warm-starts the next.
ALPHA_GRID = (300.0, 100.0, 30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)


# The first round stops here: the rows that stay undecided are known by then.
_FIRST_ROUND = 1.5e-2
# Up to this many coefficients a Newton step is cheaper than the L-BFGS steps it saves.
_NEWTON_SIZE = 512


class Similarities:
    """Products with a matrix of similarities D that is held in memory.

    Parameters
    ----------
    values : array-like of shape (n, m), float
        Cosine similarities, each row an image and each column a concept.
    device : torch.device
        Where the products are computed, in float64.
    """

    def __init__(self, values, device):
        values = torch.as_tensor(np.asarray(values, dtype=np.float64), device=device)
        # Similarities of one concept crowd around a mean far from 0 (0.2 to 0.3 under CLIP);
        # moments about that mean keep their digits.
        self.offset = values.mean(0)
        self._centred = values - self.offset
        self.shape = tuple(values.shape)

    def times(self, matrix):
        """Return (D - offset) @ matrix' of shape (n, c) for a matrix (c, m)."""
        return self._centred @ matrix.T

    def transposed_times(self, rows):
        """Return rows' @ (D - offset) of shape (c, m) for rows (n, c)."""
        return rows.T @ self._centred

    def second_moments(self, weights):
        """Return the weighted means of (D - offset)**2, shape (f, m), for weights (f, n)."""
        return weights @ self._centred.square()

    def eigenbasis(self, weights, mean, scale):
        """Return eigenvectors (m, r) and eigenvalues (r,) of the correlations under `weights`."""
        z = (self._centred - mean) / scale * weights.sqrt()[:, None]
        n, m = self.shape
        if n >= m:
            return _leading(*torch.linalg.eigh(z.T @ z))
        values, left = _leading_pairs(torch.linalg.eigh(z @ z.T))
        return (z.T @ left) / values.sqrt(), values


class FoldedSimilarities:
    """The same products through D = X T', for more concepts than embedding dimensions.

    Parameters
    ----------
    embeddings : array-like of shape (n, d), float
        L2-normalised image embeddings.
    texts : array-like of shape (m, d), float
        L2-normalised concept embeddings.
    device : torch.device
        Where the products are computed, in float64.
    """

    def __init__(self, embeddings, texts, device):
        embeddings = torch.as_tensor(np.asarray(embeddings, dtype=np.float64), device=device)
        self._texts = torch.as_tensor(np.asarray(texts, dtype=np.float64), device=device)
        centre = embeddings.mean(0)
        self._centred = embeddings - centre
        self.offset = self._texts @ centre
        self.shape = (len(embeddings), len(self._texts))

    def times(self, matrix):
        """Return (D - offset) @ matrix' of shape (n, c) for a matrix (c, m)."""
        return self._centred @ (matrix @ self._texts).T

    def transposed_times(self, rows):
        """Return rows' @ (D - offset) of shape (c, m) for rows (n, c)."""
        return (rows.T @ self._centred) @ self._texts.T

    def second_moments(self, weights):
        """Return the weighted means of (D - offset)**2, shape (f, m), for weights (f, n)."""
        moment = torch.einsum("fn,nd,ne->fde", weights, self._centred, self._centred)
        return torch.einsum("md,fde,me->fm", self._texts, moment, self._texts)

    def eigenbasis(self, weights, mean, scale):
        """Return eigenvectors (m, r) and eigenvalues (r,) of the correlations under `weights`."""
        centre = weights @ self._centred
        x = (self._centred - centre) * weights.sqrt()[:, None]
        q, r = torch.linalg.qr(self._texts / scale[:, None])
        vectors, values = _leading(*torch.linalg.eigh(r @ (x.T @ x) @ r.T))
        return q @ vectors, values


def _leading(values, vectors):
    values, vectors = _leading_pairs((values, vectors))
    return vectors, values


def _leading_pairs(pair):
    """Drop the eigenvalues that are zero up to rounding."""
    values, vectors = pair
    kept = values > 1e-10 * values[-1].clamp_min(1e-300)
    return values[kept], vectors[:, kept]


def moments(similarities, weights):
    """Return weighted mean and standard deviation of each concept, per fold.

    Parameters
    ----------
    similarities : Similarities or FoldedSimilarities
        Of shape (n, m).
    weights : torch.Tensor of shape (f, n)
        Row weights of each fold, zero on its held-out rows.

    Returns
    -------
    mean : torch.Tensor of shape (f, m)
        About `similarities.offset`.
    scale : torch.Tensor of shape (f, m)
        Positive. A constant concept gets 1. With few rows a standard deviation may be tiny by
        chance and would blow up new images; a floor of median / (1 + n / 4) fades as rows come.
    """
    total = weights.sum(1, keepdim=True)
    share = weights / total
    mean = similarities.transposed_times(share.T)
    variance = (similarities.second_moments(share) - mean.square()).clamp_min(0.0)
    # Squared rounding of the means: below it a column is constant.
    constant = variance <= 1e-20 * (similarities.offset + mean).square().clamp_min(1e-12)
    scale = torch.where(constant, 0.0, variance.sqrt())
    floor = torch.stack(
        [row[row > 0].median() if bool((row > 0).any()) else row.new_tensor(1.0) for row in scale]
    )[:, None] / (1.0 + total / 4.0)
    scale = torch.where(constant, 1.0, torch.maximum(scale, floor))
    return mean, scale


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

    Attributes
    ----------
    mean, scale : torch.Tensor of shape (F, m)
        Of the similarities about `similarities.offset`.
    prior : torch.Tensor of shape (F, K', m)
        A0, scaled.
    basis : tuple of eigenvectors (m, r) and eigenvalues (r,), or None
        Coordinates in which the loss is nearly a sphere; only speed depends on them, so a problem
        on nearly the same rows may lend its own.
    """

    def __init__(
        self, similarities, targets, weights, prior=None, prior_strength=1.0, standardize=True
    ):
        self.similarities = similarities
        self.targets = targets
        self.totals = weights.sum(1)
        self._share = weights / self.totals[:, None]
        n_folds, n_outputs, n_concepts = len(weights), targets.shape[1], similarities.shape[1]
        self.shape = (n_folds, n_outputs, n_concepts)
        self.basis = None
        if standardize:
            self.mean, self.scale = moments(similarities, weights)
            self.prior = self._scaled_prior(prior, prior_strength)
        else:
            self.mean = -similarities.offset.expand(n_folds, -1)
            self.scale = torch.ones_like(self.mean)
            self.prior = torch.zeros(self.shape, dtype=torch.float64, device=self.mean.device)

    def _scaled_prior(self, prior, strength):
        if prior is None:
            return torch.zeros(self.shape, dtype=torch.float64, device=self.mean.device)
        prior = prior / prior.abs().sum(1, keepdim=True).clamp_min(1e-300)
        prior = prior.expand(self.shape)
        intercept = torch.zeros(self.shape[:2], dtype=torch.float64, device=prior.device)
        spread = self.logits(prior, intercept)
        deviation = torch.einsum("nfk,fn->f", spread.square(), self._share) / self.shape[1]
        return prior * (strength / deviation.sqrt().clamp_min(1e-300))[:, None, None]

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
        log_loss, residual = _cross_entropy(logits, self.targets)
        data_loss = torch.einsum("nf,fn->f", log_loss, self._share)
        residual = residual * self._share.T[:, :, None]
        summed = residual.sum(0)
        product = self.similarities.transposed_times(residual.reshape(len(residual), -1))
        product = product.view(self.shape) - summed[:, :, None] * self.mean[:, None, :]
        away = association - self.prior
        pull = (alpha / self.totals)[:, None, None]
        loss = data_loss + 0.5 * (pull * away.square()).sum((1, 2))
        return loss, product / self.scale[:, None, :] + pull * away, summed

    def solve(self, alpha, *, start=None, max_iter=300, tol=1e-4):
        """Return association (F, K', m), intercept (F, K'), steps and convergence.

        Two rounds of preconditioned L-BFGS, the second in the basis of the rows that the first
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
        """
        association, intercept = start if start is not None else self.origin()
        n_iter = 0
        # A warm start knows its undecided rows already; else a first round finds them.
        rounds = [tol] if start is not None or tol >= _FIRST_ROUND else [_FIRST_ROUND, tol]
        for round_tol in rounds:
            fresh = self.basis is None or round_tol != rounds[0]
            association, intercept, steps, converged = self._descend(
                alpha, association, intercept, max_iter - n_iter, round_tol, fresh
            )
            n_iter += steps
            if n_iter >= max_iter:
                break
        if self.shape[1] * (self.shape[2] + 1) <= _NEWTON_SIZE and tol < _FIRST_ROUND:
            association, intercept, steps = self._polish(alpha, association, intercept)
            n_iter += steps
        return association, intercept, n_iter, converged

    def _descend(self, alpha, association, intercept, max_iter, tol, fresh):
        """One round of L-BFGS in coordinates where the loss is nearly a sphere."""
        p = self._probabilities(association, intercept)
        undecided = p * (1 - p)
        curvature = torch.einsum("nfk,fn->fk", undecided, self._share).clamp_min(1e-6)
        if fresh:
            self.basis = self._undecided_basis(undecided)
        basis, spectrum = self.basis
        penalty = alpha / self.totals
        stiff = (curvature[:, :, None] * spectrum + penalty[:, None, None]).rsqrt()
        loose = penalty.rsqrt()[:, None, None]
        weak = curvature.rsqrt()

        def stretch(coordinates):
            """Multiply by the symmetric square root of the inverse curvature."""
            inside = coordinates @ basis
            return loose * coordinates + ((stiff - loose) * inside) @ basis.T

        def unpack(flat):
            flat = flat.view(self.shape[0], self.shape[1], self.shape[2] + 1)
            return association + stretch(flat[:, :, :-1]), intercept + weak * flat[:, :, -1]

        def fun(flat):
            loss, slope, slope_intercept = self.loss_and_gradient(*unpack(flat), alpha)
            whole = torch.cat([stretch(slope), (weak * slope_intercept)[:, :, None]], dim=2)
            return loss, whole.flatten(1)

        origin = association.new_zeros(self.shape[0], self.shape[1] * (self.shape[2] + 1))
        best, n_iter, converged = minimize_stack(fun, origin, max_iter=max_iter, tol=tol)
        return *unpack(best), n_iter, converged

    def _undecided_basis(self, undecided):
        """Eigenbasis of the correlations among the rows whose class is still open."""
        rows = torch.einsum("nfk,fn->n", undecided, self._share)
        rows = (rows / rows.sum() + 1e-9 * self._share.mean(0)) / (1.0 + 1e-9)
        mean = self.similarities.transposed_times(rows[:, None])[0]
        return self.similarities.eigenbasis(rows, mean, self.scale.mean(0))

    def _polish(self, alpha, association, intercept, max_steps=12):
        """Newton's method from a point near the optimum, as long as the gradient shrinks."""
        n_folds, n_outputs, n_concepts = self.shape
        identity = torch.eye(n_concepts, dtype=torch.float64, device=self.mean.device)
        centred = self.similarities.times(identity)
        size = n_concepts + 1
        # K >= 3: adding a constant to all intercepts changes nothing; this term fixes it.
        shift = torch.zeros(n_outputs, size, dtype=torch.float64, device=self.mean.device)
        shift[:, -1] = 1.0 if n_outputs > 1 else 0.0
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
                hessian = self._hessian(f, z, p[:, f], alpha) + shift
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
        return association, intercept, steps

    def _hessian(self, fold, z, p, alpha):
        """Return the second derivatives of one fold's loss, square of size K' (m + 1)."""
        rows = self._share[fold][:, None] * p
        blocks = []
        for k in range(p.shape[1]):
            outer = -rows * p[:, [k]]
            outer[:, k] += rows[:, k]
            blocks.append(z.T @ (outer[:, :, None] * z[:, None, :]).flatten(1))
        hessian = torch.cat(blocks)
        ridge = hessian.new_full((p.shape[1], z.shape[1]), float(alpha / self.totals[fold]))
        ridge[:, -1] = 0.0
        return hessian + torch.diag(ridge.flatten())

    def mean_slopes(self, association, intercept):
        """Return slopes by similarity (K', m) and centred intercepts (K',), averaged over folds.

        A solution in the coordinates that problems on other rows share.
        """
        return (association / self.scale[:, None, :]).mean(0), intercept.mean(0)

    def origin(self):
        """Return the prior, with the intercepts of the class frequencies."""
        frequency = (self._share @ self.targets).clamp(1e-6, 1 - 1e-6)
        if self.shape[1] == 1:
            intercept = torch.log(frequency) - torch.log1p(-frequency)
        else:
            intercept = torch.log(frequency)
            intercept = intercept - intercept.mean(1, keepdim=True)
        return self.prior.clone(), intercept

    def _probabilities(self, association, intercept):
        logits = self.logits(association, intercept)
        if self.shape[1] == 1:
            return torch.sigmoid(logits)
        return torch.softmax(logits, dim=2)


def _cross_entropy(logits, targets):
    """Return the loss (n, F) and its derivative (n, F, K') of logits (n, F, K')."""
    targets = targets[:, None, :]
    if logits.shape[2] == 1:
        loss = torch.nn.functional.softplus(logits) - targets * logits
        return loss[:, :, 0], torch.sigmoid(logits) - targets
    log_p = torch.log_softmax(logits, dim=2)
    return -(targets * log_p).sum(2), log_p.exp() - targets
