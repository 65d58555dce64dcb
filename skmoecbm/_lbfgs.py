"""Limited-memory BFGS on a stack of independent problems.

The folds of a cross-validation are the same problem on other rows. Solved as one stack, each
step is one product with the shared matrix of similarities instead of one per fold.
"""

import torch

__all__ = ["minimize_stack"]

# Below this relative change the loss is rounding noise and says nothing about descent; the
# directional derivative decides instead (the approximate Wolfe rule of Hager and Zhang).
_LOSS_NOISE = 1e-12


def minimize_stack(fun, start, *, max_iter, tol, memory=12):
    """Minimise B smooth functions at once.

    Parameters
    ----------
    fun : callable
        Maps (B, P) float64 to the losses (B,) and their gradients (B, P). The b-th loss may
        depend only on the b-th row.
    start : torch.Tensor of shape (B, P), float64
        Where to begin.
    max_iter : int
        The largest number of steps.
    tol : float
        A problem is done when the Euclidean norm of its gradient is at most `tol`.
    memory : int, default=12
        Number of curvature pairs kept.

    Returns
    -------
    x : torch.Tensor of shape (B, P)
        The best points found.
    n_iter : int
        Steps taken.
    converged : torch.Tensor of shape (B,), bool
        Which problems reached `tol`, or the limit of what float64 can resolve; not those whose
        loss was not finite wherever the last search looked.

    References
    ----------
    Nocedal and Wright, Numerical Optimization (2006), algorithm 7.5.
    """
    x = start.clone()
    loss, gradient = fun(x)
    pairs = []
    stuck = torch.zeros_like(loss, dtype=torch.bool)
    lost = stuck.clone()
    n_iter = 0
    while n_iter < max_iter:
        active = (gradient.norm(dim=1) > tol) & ~stuck
        if not bool(active.any()):
            break
        direction = _two_loop(gradient, pairs)
        slope = (direction * gradient).sum(1)
        # A direction that does not descend (after a non-convex stretch) restarts from steepest.
        bad = slope >= 0
        direction = torch.where(bad[:, None], -gradient, direction)
        slope = torch.where(bad, -gradient.square().sum(1), slope)
        step = torch.ones_like(loss)
        if not pairs:
            step = 1.0 / gradient.norm(dim=1).clamp_min(1.0)
        step = torch.where(active, step, 0.0)
        new_x, new_loss, new_gradient, moved, seen = _line_search(
            fun, x, loss, direction, slope, step, active
        )
        stuck |= active & ~moved
        lost |= active & ~moved & ~seen
        difference, change = new_x - x, new_gradient - gradient
        curvature = (difference * change).sum(1)
        scale = difference.norm(dim=1) * change.norm(dim=1)
        useful = moved & (curvature > 1e-12 * scale)
        pairs.append(
            (
                torch.where(useful[:, None], difference, 0.0),
                torch.where(useful[:, None], change, 0.0),
                torch.where(useful, 1.0 / torch.where(useful, curvature, 1.0), 0.0),
            )
        )
        pairs = pairs[-memory:]
        x, loss, gradient = new_x, new_loss, new_gradient
        n_iter += 1
    converged = (gradient.norm(dim=1) <= tol) | (stuck & ~lost)
    return x, n_iter, converged


def _two_loop(gradient, pairs):
    """Return minus the inverse-Hessian estimate times the gradient, per problem."""
    q = -gradient
    weights = []
    for difference, change, inverse in reversed(pairs):
        weight = inverse * (difference * q).sum(1)
        q = q - weight[:, None] * change
        weights.append(weight)
    if pairs:
        difference, change, inverse = pairs[-1]
        squared = change.square().sum(1)
        scale = torch.where(inverse > 0, 1.0 / (inverse * squared.clamp_min(1e-300)), 1.0)
        q = q * scale[:, None]
    for (difference, change, inverse), weight in zip(pairs, reversed(weights), strict=True):
        q = q + (weight - inverse * (change * q).sum(1))[:, None] * difference
    return q


def _line_search(fun, x, loss, direction, slope, step, active, max_halvings=30):
    """Backtrack each active problem until its loss falls enough.

    Returns the points, their losses and gradients, which problems moved, and which had a finite
    loss at any trial.
    """
    accepted = ~active
    seen = torch.zeros_like(active)
    new_x, new_loss, new_gradient = x, loss, None
    for _ in range(max_halvings):
        trial = x + step[:, None] * direction
        trial_loss, trial_gradient = fun(trial)
        seen |= torch.isfinite(trial_loss)
        enough = trial_loss <= loss + 1e-4 * step * slope
        noise = (trial_loss - loss).abs() <= _LOSS_NOISE * loss.abs().clamp_min(1e-3)
        flatter = (trial_gradient * direction).sum(1).abs() <= 0.9 * slope.abs()
        good = (enough | (noise & flatter)) & torch.isfinite(trial_loss)
        take = good & ~accepted
        if new_gradient is None:
            new_gradient = trial_gradient
        new_x = torch.where(take[:, None], trial, new_x)
        new_loss = torch.where(take, trial_loss, new_loss)
        new_gradient = torch.where(take[:, None], trial_gradient, new_gradient)
        accepted = accepted | good
        if bool(accepted.all()):
            break
        # Quadratic interpolation, kept within [0.1, 0.5] of the last step.
        gap = 2.0 * (trial_loss - loss - step * slope)
        guess = -slope * step.square() / torch.where(gap > 0, gap, 1.0)
        guess = torch.where((gap > 0) & torch.isfinite(guess), guess, 0.5 * step)
        shorter = torch.minimum(torch.maximum(guess, 0.1 * step), 0.5 * step)
        step = torch.where(accepted, step, shorter)
    moved = accepted & active
    rejected = active & ~accepted
    if bool(rejected.any()):
        _, old_gradient = fun(x)
        new_gradient = torch.where(rejected[:, None], old_gradient, new_gradient)
    return new_x, new_loss, new_gradient, moved, seen
