"""A pool of small feed-forward networks, each of which sees only the rows that are sent to it."""

import math

import torch
from torch import nn

__all__ = ["ExpertPool"]


class ExpertPool(nn.Module):
    """E networks of one hidden layer: W2 relu(W1 x + b1) + b2.

    Parameters
    ----------
    n_experts, width, hidden, out : int

    Attributes
    ----------
    w1 : (E, hidden, width); b1 : (E, hidden); w2 : (E, out, hidden); b2 : (E, out)
    """

    def __init__(self, n_experts, width, hidden, out):
        super().__init__()
        shapes = {
            "w1": (n_experts, hidden, width),
            "b1": (n_experts, hidden),
            "w2": (n_experts, out, hidden),
            "b2": (n_experts, out),
        }
        for name, shape in shapes.items():
            setattr(self, name, nn.Parameter(torch.zeros(shape, dtype=torch.float64)))

    @torch.no_grad()
    def start(self, generator, silent=False):
        """Draw the weights as torch's own layers do: uniform, by the width of what comes in.

        With `silent` all answers are 0 at first: experts add to what is there already.
        """
        for weight, bias in ((self.w1, self.b1), (self.w2, self.b2)):
            bound = 1.0 / math.sqrt(weight.shape[2])
            for tensor in (weight, bias):
                drawn = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
                tensor.copy_(bound * (2 * drawn - 1))
        if silent:
            self.w2.zero_()
            self.b2.zero_()

    def expert(self, e, x):
        """Return what expert e makes of rows (r, width), shape (r, out)."""
        hidden = torch.addmm(self.b1[e], x, self.w1[e].T).relu()
        return torch.addmm(self.b2[e], hidden, self.w2[e].T)

    def forward(self, x, weights):
        """Return the weighted sum of the experts' answers, (n, out).

        Rows are grouped by expert, so that each pays for those sent to it alone; there is no
        capacity, nothing is dropped.

        Parameters
        ----------
        x : tensor of shape (n, width)
        weights : tensor of shape (n, E)
            Zero where a row is not sent to the expert.
        """
        out = x.new_zeros(len(x), self.w2.shape[1])
        rows, experts = weights.detach().T.nonzero(as_tuple=True)[::-1]  # sorted by expert
        counts = torch.bincount(experts, minlength=weights.shape[1]).tolist()
        for e, mine in enumerate(rows.split(counts)):
            if len(mine):
                answer = self.expert(e, x.index_select(0, mine))
                out = out.index_add(0, mine, answer * weights[mine, e, None])
        return out

    def dense(self, x, weights):
        """Return the same, every expert asked about every row: the plain way, to test against."""
        answers = torch.stack([self.expert(e, x) for e in range(weights.shape[1])], dim=1)
        return (answers * weights[:, :, None]).sum(1)
