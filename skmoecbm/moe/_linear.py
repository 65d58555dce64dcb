"""The linear part of a sparse network, solved before the experts begin to learn."""

import torch

from skmoecbm._lbfgs import minimize_stack

__all__ = ["solve_linear"]

_STEPS = 200


def solve_linear(seen, rows, intercept, penalty=1.0):
    """Return the slopes and intercepts of a penalised logistic regression.

    Parameters
    ----------
    seen : tensor of shape (n, d), float64
        Standardised.
    rows : Rows
        n labelled rows with weights.
    intercept : tensor of shape (K',)
        Where intercepts begin; they are not penalised.
    penalty : float, default=1.0

    Returns
    -------
    slopes : tensor of shape (K', d)
    intercepts : tensor of shape (K',)

    Notes
    -----
    Minimised is the weighted mean loss plus penalty ||slopes||^2 / 2n, n the sum of the weights.
    """
    k, d = len(intercept), seen.shape[1]
    n = rows.share.sum()

    def loss_and_gradient(stack):
        with torch.enable_grad():
            found = stack[0].detach().reshape(k, d + 1).requires_grad_()
            logits = seen @ found[:, :d].T + found[:, d]
            loss = (rows.share * rows.losses(logits)).sum() / n
            loss = loss + penalty * found[:, :d].square().sum() / (2 * n)
            (gradient,) = torch.autograd.grad(loss, found)
        return loss.detach()[None], gradient.reshape(1, -1)

    start = torch.cat([seen.new_zeros(k, d), intercept[:, None]], dim=1)
    found, *_ = minimize_stack(loss_and_gradient, start.reshape(1, -1), max_iter=_STEPS, tol=1e-5)
    found = found.reshape(k, d + 1)
    return found[:, :d], found[:, d]
