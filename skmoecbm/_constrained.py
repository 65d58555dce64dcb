"""Associations that the fast solver cannot do: L1, non-negative, and the original softmax."""

import numpy as np
import torch
from scipy.optimize import minimize

__all__ = ["hundred_cosines", "solve_bounded", "solve_softmax"]


def solve_bounded(
    problem, alpha, l1, *, nonnegative, signs=None, start=None, max_iter=300, tol=1e-4
):
    """Solve with an L1 penalty on A, with A >= 0, or with signs that A must have, by L-BFGS-B.

    A is written as P - N with both parts at least 0 (only P for `nonnegative`), which makes the
    L1 norm linear. All folds go in as one separable problem. Of two classes A is one row, the
    difference of two: non-negative, P and N are these two, so that concepts may speak for either
    class, each pulled towards its own part of A0.

    Parameters
    ----------
    problem : AssociationProblem
    alpha : float
        Weight of ``alpha / (2 n) * ||A - A0||**2``.
    l1 : float
        Weight of ``l1 / n * ||A||_1``.
    nonnegative : bool
        Whether A >= 0; with one row, both parts of the difference that it is.
    signs : tuple of ndarray of shape (K', m), bool, or None
        Where A may be positive, and where negative; None is everywhere.
    start : tuple of association and intercept, default=None
    max_iter, tol : int, float
        Steps, and the largest projected gradient at the end.

    Returns
    -------
    association (F, K', m), intercept (F, K'), steps, convergence (F,)
    """
    association, intercept = start if start is not None else problem.origin()
    size, device = association.numel(), association.device
    per_row = (1.0 / problem.totals)[:, None, None].expand(problem.shape).reshape(-1).cpu().numpy()
    two_rows = nonnegative and problem.shape[1] == 1
    signed = signs is not None and l1 == 0 and not nonnegative  # smooth: A need not be split
    n_parts = 2 if two_rows or not (nonnegative or signed) else 1
    rate = np.tile(per_row, n_parts)
    signs = (True, True) if signs is None else signs
    rises, falls = (np.broadcast_to(part, problem.shape).reshape(-1) for part in signs)
    highs = np.where(np.concatenate([rises, falls][:n_parts]), np.inf, 0.0)
    lows = np.where(falls, -np.inf, 0.0) if signed else np.zeros(n_parts * size)

    def split(matrix):
        flat = matrix.reshape(-1).cpu().numpy()
        return flat if signed else np.concatenate([flat.clip(0), (-flat).clip(0)][:n_parts])

    target = split(problem.prior)

    def unpack(flat):
        positive = flat[:size]
        negative = 0.0 if n_parts == 1 else flat[size : 2 * size]
        a = torch.as_tensor(positive - negative, device=device).view(problem.shape)
        b = torch.as_tensor(flat[n_parts * size :], device=device).view(problem.shape[:2])
        return a, b

    def fun(flat):
        loss, slope, slope_intercept = problem.loss_and_gradient(
            *unpack(flat), 0.0 if two_rows else alpha
        )
        slope = slope.reshape(-1).cpu().numpy()
        slope = np.concatenate([slope, -slope][:n_parts]) + l1 * rate
        parts = flat[: n_parts * size]
        total = float(loss.sum()) + l1 * float(rate @ parts)
        if two_rows:
            away = parts - target
            total += 0.5 * alpha * float(rate @ away**2)
            slope = slope + alpha * rate * away
        return total, np.concatenate([slope, slope_intercept.reshape(-1).cpu().numpy()])

    first = np.clip(split(association), lows, highs)
    free = np.full(intercept.numel(), np.inf)
    found = minimize(
        fun,
        np.concatenate([first, intercept.reshape(-1).cpu().numpy()]),
        jac=True,
        method="L-BFGS-B",
        bounds=np.stack([np.r_[lows, -free], np.r_[highs, free]], axis=1),
        options={"maxiter": 10 * max_iter, "maxfun": 20 * max_iter, "gtol": tol * 1e-2, "ftol": 0},
    )
    # A line search that gave up may have met the limit of float64 or a wall of NaN: look.
    slope, parts = found.jac[: n_parts * size], found.x[: n_parts * size]
    slope = np.where(parts <= lows, np.minimum(slope, 0), slope)
    slope = np.where(parts >= highs, np.maximum(slope, 0), slope)
    slope = slope.reshape(n_parts, problem.shape[0], -1)
    rest = found.jac[n_parts * size :].reshape(problem.shape[0], -1)
    left = np.maximum(np.abs(slope).max((0, 2)), np.abs(rest).max(1))
    converged = torch.as_tensor((left <= tol * 0.1) | (found.status == 0))
    return *unpack(found.x), int(found.nit), converged


def solve_softmax(problem, alpha, *, start=None, max_iter=300, tol=1e-4):
    """Fit the original association: W = softmax over concepts of each row of A.

    Logits are ``100 * D W'`` without intercept. Not convex, and L-BFGS stalls on it: Adam on
    all rows, the step shrinking to zero along a cosine.

    Parameters
    ----------
    problem : AssociationProblem
        Made with ``standardize=False``; its prior is where A starts.
    alpha : float
        Weight of ``alpha / (2 n) * ||A - A0||**2``.
    start : ndarray, default=None
        A of another fit, to begin from.
    max_iter, tol : int, float
        Steps, all of which are taken, and the norm of the gradient by A, or the distance of the
        loss from its optimum in nats, that counts as converged.

    Returns
    -------
    association (F, K', m) = 100 W (for two classes the difference of the two rows), intercept,
    steps, convergence, and A itself

    References
    ----------
    Yang et al., Language in a Bottle (LaBo), CVPR 2023, equation 6.
    """
    prior = problem.matrix_prior
    matrix = (prior if start is None else start).clone().requires_grad_(True)
    optimizer = torch.optim.Adam([matrix], lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max_iter)
    pull = (alpha / problem.totals)[:, None, None]

    def differentiate():
        optimizer.zero_grad()
        association, intercept = hundred_cosines(matrix)
        _, slope, _ = problem.loss_and_gradient(association.detach(), intercept, 0.0)
        # The chain rule by hand: the loss knows its own gradient by the association.
        surrogate = (association * slope).sum() + 0.5 * (pull * (matrix - prior).square()).sum()
        surrogate.backward()

    for _ in range(max_iter):
        differentiate()
        optimizer.step()
        schedule.step()
    differentiate()
    slope = matrix.grad.flatten(1).norm(dim=1)
    # With a pull, half the squared slope over it bounds how far the loss may still fall.
    converged = (slope <= tol) | (slope.square() * problem.totals / (2.0 * alpha) <= tol)
    matrix = matrix.detach()
    association, intercept = hundred_cosines(matrix)
    return association, intercept, max_iter, converged, matrix


def hundred_cosines(matrix):
    """Return ``100 softmax(A)`` of matrices (F, K, m), two rows as their difference; and zeros."""
    weights = 100.0 * torch.softmax(matrix, dim=2)
    if weights.shape[1] == 2:
        weights = weights[:, 1:] - weights[:, :1]
    intercept = torch.zeros(weights.shape[:2], dtype=weights.dtype, device=weights.device)
    return weights, intercept
