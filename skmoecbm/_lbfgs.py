"""Limited-memory BFGS on a stack of independent problems.

The folds of a cross-validation are the same problem on other rows. Solved as one stack, each
step is one product with the shared matrix of similarities instead of one per fold.
"""

import torch

__all__ = ["minimize_stack"]

# Below this relative change the loss is rounding noise and says nothing about descent; the
# directional derivative decides instead (the approximate Wolfe rule of Hager and Zhang).
_LOSS_NOISE = 1e-12
# Problems that are done are dropped once no more than this part is left: dropping copies the rest.
_FEW_LEFT = 0.8


def minimize_stack(fun, start, *, max_iter, tol, memory=12, narrow=None, pairs=(), trail=None):
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
    narrow : callable or None, default=None
        Maps problem numbers (b,) to a `fun` for these alone: given, problems that are done drop
        out, and a search along the line that goes on for some costs only these.
    pairs : sequence, default=()
        Curvature pairs to begin with, of like problems at a like point.
    trail : list or None, default=None
        Left holding the pairs of the end.

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
    rows = torch.arange(len(x), device=x.device)
    best, converged = x.clone(), torch.zeros_like(rows, dtype=torch.bool)
    loss, gradient = fun(x)
    pairs = list(pairs)
    # Room for all pairs at once: pair by pair, freed and made anew among other tensors of their
    # size, they leave gaps in the memory that the C library keeps.
    room = None
    if trail is None and narrow is None:
        room = x.new_empty(min(memory, max_iter), 2, *x.shape)
    ended = [[] for _ in range(len(x) if trail is not None else 0)]
    stuck = torch.zeros_like(loss, dtype=torch.bool)
    lost = stuck.clone()
    n_iter = 0
    while n_iter < max_iter:
        active = (gradient.norm(dim=1) > tol) & ~stuck
        if not bool(active.any()):
            break
        if narrow is not None and active.sum() <= _FEW_LEFT * len(active):
            best[rows] = x
            converged[rows] = (gradient.norm(dim=1) <= tol) | (stuck & ~lost)
            _note(ended, rows, pairs, ~active)
            x, loss, gradient, stuck, lost, rows = (
                part[active] for part in (x, loss, gradient, stuck, lost, rows)
            )
            pairs = [tuple(part[active] for part in pair) for pair in pairs]
            fun, active = narrow(rows), active[active]
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

        def trial_at(points, pending, fun=fun, rows=rows):
            """Evaluate what is still pending; all of it where that is not cheaper."""
            if narrow is None or bool(pending.all()):
                return fun(points)
            losses = points.new_full((len(points),), torch.inf)
            gradients = torch.zeros_like(points)
            losses[pending], gradients[pending] = narrow(rows[pending])(points[pending])
            return losses, gradients

        new_x, new_loss, new_gradient, moved, seen = _line_search(
            trial_at, x, loss, gradient, direction, slope, step, active
        )
        stuck |= active & ~moved
        lost |= active & ~moved & ~seen
        # The place of the pair that is forgotten below.
        own = (None, None) if room is None else room[n_iter % len(room)]
        difference = torch.sub(new_x, x, out=own[0])
        change = torch.sub(new_gradient, gradient, out=own[1])
        curvature = (difference * change).sum(1)
        scale = difference.norm(dim=1) * change.norm(dim=1)
        useful = moved & (curvature > 1e-12 * scale)
        difference[~useful], change[~useful] = 0.0, 0.0
        inverse = torch.where(useful, 1.0 / torch.where(useful, curvature, 1.0), 0.0)
        pairs.append((difference, change, inverse))
        pairs = pairs[-memory:]
        x, loss, gradient = new_x, new_loss, new_gradient
        n_iter += 1
    best[rows] = x
    converged[rows] = (gradient.norm(dim=1) <= tol) | (stuck & ~lost)
    _note(ended, rows, pairs, torch.ones_like(stuck))
    if trail is not None:
        trail[:] = _aligned(ended, x)
    return best, n_iter, converged


def _note(ended, rows, pairs, which):
    """Write down the pairs of problems that are done; those of idle steps say nothing."""
    for i in torch.nonzero(which)[:, 0].tolist() if ended else ():
        own = [tuple(part[i] for part in pair) for pair in pairs]
        ended[int(rows[i])] = [pair for pair in own if pair[2] > 0]


def _aligned(ended, like):
    """Return pairs of each problem as pairs of all, the last of each beside each other."""
    nothing = like.new_zeros(like.shape[1])
    none = (nothing, nothing, like.new_zeros(()))
    longest = max(map(len, ended), default=0)
    padded = [[none] * (longest - len(own)) + own for own in ended]
    return [
        tuple(torch.stack([own[j][part] for own in padded]) for part in range(3))
        for j in range(longest)
    ]


def _two_loop(gradient, pairs):
    """Return minus the inverse-Hessian estimate times the gradient, per problem."""
    q = -gradient
    weights = []
    for difference, change, inverse in reversed(pairs):
        weight = inverse * (difference * q).sum(1)
        q -= weight[:, None] * change
        weights.append(weight)
    if pairs:
        difference, change, inverse = pairs[-1]
        squared = change.square().sum(1)
        scale = torch.where(inverse > 0, 1.0 / (inverse * squared.clamp_min(1e-300)), 1.0)
        q *= scale[:, None]
    for (difference, change, inverse), weight in zip(pairs, reversed(weights), strict=True):
        q += (weight - inverse * (change * q).sum(1))[:, None] * difference
    return q


def _line_search(trial_at, x, loss, gradient, direction, slope, step, active, max_halvings=30):
    """Backtrack each active problem until its loss falls enough.

    `trial_at` maps points and which problems still matter to losses and gradients.

    Returns the points, their losses and gradients, which problems moved, and which had a finite
    loss at any trial.
    """
    accepted = ~active
    seen = torch.zeros_like(active)
    new_x, new_loss, new_gradient = x, loss, gradient
    for _ in range(max_halvings):
        trial = x + step[:, None] * direction
        trial_loss, trial_gradient = trial_at(trial, ~accepted)
        seen |= torch.isfinite(trial_loss)
        enough = trial_loss <= loss + 1e-4 * step * slope
        noise = (trial_loss - loss).abs() <= _LOSS_NOISE * loss.abs().clamp_min(1e-3)
        flatter = (trial_gradient * direction).sum(1).abs() <= 0.9 * slope.abs()
        good = (enough | (noise & flatter)) & torch.isfinite(trial_loss)
        take = good & ~accepted
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
    return new_x, new_loss, new_gradient, moved, seen
