"""Routers: from inputs to scores of experts, and from scores to the few that a row goes to."""

import torch
from torch import nn
from torch.nn.functional import softplus

__all__ = ["GATINGS", "Router", "add_noise", "distances", "route"]

GATINGS = ("softmax", "laplace", "gaussian")

# Below this a distance has no direction, and the root would have an infinite slope.
_TINY = 1e-24


def distances(x, centres):
    """Return Euclidean distances (n, E) whose gradient is finite, and 0 where x is a centre.

    Taken of the differences themselves: the shorter form with a product loses everything where x is
    far from the origin.
    """
    squares = (x[:, None, :] - centres[None]).square().sum(-1)
    return squares.clamp_min(_TINY).sqrt()


def add_noise(logits, deviation, generator):
    """Return logits (n, E) with Gaussian noise of deviations (n, E): noisy top-k, training only."""
    noise = torch.randn(logits.shape, generator=generator, dtype=logits.dtype)
    return logits + noise.to(logits.device) * deviation


def route(logits, k):
    """Return the weights of the experts that each row goes to, zero for all others.

    Parameters
    ----------
    logits : tensor of shape (n, E)
    k : int, 1 to E

    Returns
    -------
    weights : tensor of shape (n, E)
        For k > 1 softmax probabilities renormalised over the chosen. For k = 1 the probability
        itself: renormalised it would be the constant 1, and the router would learn nothing.
    probabilities : tensor of shape (n, E)
        Of all experts.

    Notes
    -----
    Of experts with equal logits the first ones are chosen. A row's weights depend on no other row.
    """
    probabilities = logits.softmax(1)
    if k == logits.shape[1]:
        return probabilities, probabilities
    # torch.topk promises no order among equals; a stable sort does.
    order = logits.detach().sort(dim=1, descending=True, stable=True).indices[:, :k]
    chosen = torch.zeros_like(logits, dtype=torch.bool).scatter(1, order, True)
    if k == 1:
        return probabilities * chosen, probabilities
    return logits.masked_fill(~chosen, -torch.inf).softmax(1), probabilities


class Router(nn.Module):
    """Scores of E experts for inputs of width d.

    Parameters
    ----------
    width, n_experts : int
    gating : {"softmax", "laplace", "gaussian"}
        W x + b; beta - s ||x - W||, whose gaps between experts are bounded however far x is; or
        beta - s ||x - W||^2, which is an affine softmax gate in another dress.
    noisy : bool
        Whether there is a layer that learns how much noise a row gets in training.

    References
    ----------
    Shazeer et al. (2017), "Outrageously large neural networks", equation 4 (noise). Han et al.
    (2024), "FuseMoE", section 3 (Laplace gate; printed there with a squared distance).
    """

    def __init__(self, width, n_experts, gating, noisy=False):
        super().__init__()
        self.gating = gating
        self.centres = nn.Parameter(torch.zeros(n_experts, width, dtype=torch.float64))
        self.bias = nn.Parameter(torch.zeros(n_experts, dtype=torch.float64))
        if gating != "softmax":
            self.log_sharpness = nn.Parameter(torch.zeros((), dtype=torch.float64))
        if noisy:
            self.noise = nn.Parameter(torch.zeros(n_experts, width, dtype=torch.float64))

    @torch.no_grad()
    def start(self, centres, sharpness):
        """Begin at centres (E, d) of clusters: each expert is for the rows near its own."""
        if self.gating == "softmax":  # -s/2 ||x - c||^2 without what all experts share
            self.centres.copy_(sharpness * centres)
            self.bias.copy_(-0.5 * sharpness * centres.square().sum(1))
            return
        self.centres.copy_(centres)
        self.log_sharpness.fill_(float(torch.log(torch.as_tensor(sharpness))))

    def forward(self, x):
        """Return logits (n, E)."""
        if self.gating == "softmax":
            return x @ self.centres.T + self.bias
        far = distances(x, self.centres)
        if self.gating == "gaussian":
            far = far.square()
        return self.bias - self.log_sharpness.exp() * far

    def deviation(self, x):
        """Return how much noise each logit gets, (n, E)."""
        return softplus(x @ self.noise.T)
