"""The loss of logits, and the floor of classes that no row has."""

import torch

__all__ = ["Anchor", "weigh_residuals"]


class Anchor:
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
        return Anchor(self.weight[folds], self.rate, self.exclusive)

    def curvature(self, fold, intercept):
        """Return the second derivatives by one fold's intercepts (K',), shape (K', K')."""
        if self.exclusive:
            p = torch.softmax(intercept, dim=0)
            return self.weight[fold, 0] * (torch.diag(p) - torch.outer(p, p))
        p = torch.sigmoid(intercept)
        return torch.diag(self.weight[fold] * p * (1 - p))


def weigh_residuals(logits, truth, share, cells, *, exclusive):
    """Put the weighted derivatives of the loss in the place of the logits; return the losses (F,).

    Parameters
    ----------
    logits : torch.Tensor of shape (F, K', r)
        Classes before rows: what is done for each row of few classes goes along all rows.
    truth : torch.Tensor
        The number of each row's class, (r,), or the targets (K', r) of logistic outputs.
    share : torch.Tensor of shape (F, r)
        Weights of the rows.
    cells : torch.Tensor of shape (K', r) or None
        Weights of the labels.
    exclusive : bool
        Whether the outputs share one softmax.
    """
    if exclusive:
        at = truth.expand(len(logits), 1, -1)
        logits -= logits.amax(1, keepdim=True)
        chosen = logits.gather(1, at)[:, 0]
        logits.exp_()
        total = logits.sum(1)
        losses = ((total.log() - chosen) * share).sum(1)
        logits *= (share / total)[:, None]
        logits.scatter_add_(1, at, -share[:, None])
        return losses
    share = share[:, None] if cells is None else share[:, None] * cells
    losses = ((torch.nn.functional.softplus(logits) - truth * logits) * share).sum((1, 2))
    logits.sigmoid_().sub_(truth).mul_(share)
    return losses
