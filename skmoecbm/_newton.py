"""Newton's method on associations of few coefficients, to the limit of float64."""

import torch

__all__ = ["POLISHED", "hessians", "polish"]

#: A gradient this small after Newton's steps is an optimum, whatever the descent before them said.
POLISHED = 1e-9


def polish(problem, alpha, association, intercept, max_steps=12):
    """Newton's method from a point near the optimum, as long as the gradient shrinks."""
    n_folds, n_outputs, n_concepts = problem.shape
    size = n_concepts + 1
    # Under a softmax adding a constant to all intercepts changes nothing; this term fixes it.
    shift = torch.zeros(n_outputs, size, dtype=torch.float64, device=problem.mean.device)
    shift[:, -1] = 1.0 if problem.exclusive else 0.0
    shift = torch.outer(shift.flatten(), shift.flatten())

    def gradient_at(a, b):
        _, slope, slope_intercept = problem.loss_and_gradient(a, b, alpha)
        return torch.cat([slope, slope_intercept[:, :, None]], dim=2).flatten(1)

    gradient = gradient_at(association, intercept)
    steps = 0
    for _ in range(max_steps):
        if bool((gradient.norm(dim=1) < 1e-14).all()):
            break
        curved = hessians(problem, association, intercept, alpha) + shift
        solved, info = torch.linalg.solve_ex(curved, gradient)
        update = torch.where(info[:, None] == 0, solved, torch.zeros_like(solved))
        update = update.view(n_folds, n_outputs, size)
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


def hessians(problem, association, intercept, alpha):
    """Return the second derivatives of each fold's loss, (F, P, P) with P = K' (m + 1)."""
    n_folds, n_outputs, n_concepts = problem.shape
    size = n_concepts + 1
    found = association.new_zeros(n_folds, n_outputs, size, n_outputs * size)
    for rows, block, logits, _ in problem.pieces(association, intercept):
        p = torch.softmax(logits, dim=1) if problem.exclusive else torch.sigmoid(logits)
        p = p.permute(2, 0, 1)
        centred = problem.similarities.unfold(block)
        for f, own in enumerate(found):
            z = (centred - problem.mean[f]) / problem.scale[f]
            z = torch.cat([z, torch.ones_like(z[:, :1])], dim=1)
            mass = problem.share[f, rows][:, None] * p[:, f]
            mass = mass if problem.cells is None else mass * problem.cells[rows]
            for k in range(n_outputs):
                outer = -mass * p[:, f, [k]] if problem.exclusive else torch.zeros_like(mass)
                outer[:, k] += mass[:, k] * (1.0 if problem.exclusive else 1 - p[:, f, k])
                own[k] += z.T @ (outer[:, :, None] * z[:, None, :]).flatten(1)
    found = found.flatten(1, 2)
    for f, own in enumerate(found):
        ridge = association.new_zeros(size, size)
        ridge[:-1, :-1] = torch.eye(n_concepts) if problem.metric is None else problem.metric[f]
        each = torch.eye(n_outputs, dtype=torch.float64, device=own.device)
        own += float(alpha / problem.totals[f]) * torch.kron(each, ridge)
        if problem.anchor is not None:
            biases = torch.arange(n_concepts, len(own), size, device=own.device)
            own[biases[:, None], biases] += problem.anchor.curvature(f, intercept[f])
    return found
