"""The loss of logits, and the floor of classes that no row has."""

import torch

__all__ = ["Anchor", "cross_entropy"]


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


def cross_entropy(logits, targets, exclusive, cells):
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
