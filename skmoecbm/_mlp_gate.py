"""Fitting a gate that is a small network."""

import numpy as np
import torch

from skmoecbm._gating import GateState
from skmoecbm._pooling import PooledLoss

__all__ = ["first_layer", "fit_mlp_gate"]


def first_layer(hidden, inputs, weights, generator):
    """Draw the first layer, shape (hidden, q), so that the order of the inputs does not matter.

    Experts bring inputs of their own, and their order must not: an input gets its numbers by how
    its values are spread, not by where it stands.

    Parameters
    ----------
    hidden : int
    inputs : ndarray of shape (n, q)
    weights : ndarray of shape (n,)
    generator : torch.Generator
    """
    width = inputs.shape[1]
    drawn = torch.randn(hidden, width, generator=generator, dtype=torch.float64)
    share = weights / weights.sum()
    spread = share @ inputs**3 + np.pi * (share @ np.abs(inputs)) + share @ inputs
    first = torch.empty_like(drawn)
    first[:, torch.as_tensor(np.argsort(np.round(spread, 9), kind="stable"))] = drawn
    return first / max(width, 1) ** 0.5


def fit_mlp_gate(
    inputs,
    logits,
    codes,
    shares,
    present,
    pool,
    *,
    hidden,
    learning_rate,
    weight_decay,
    entropy=0.0,
    balance=0.0,
    max_iter=300,
    device="cpu",
    seed=None,
):
    """Fit one network per row of `shares`, all from the same start, by AdamW on all rows at once.

    Parameters
    ----------
    inputs, logits, codes, shares, present, pool, entropy, balance, device
        As in `fit_linear_gate`.
    hidden, learning_rate, weight_decay, max_iter
        As in `MLPGate`.
    seed : int or None
        Draws the first layer; the last is zero.

    Returns
    -------
    list of GateState, and the number of steps taken
    """

    def tensor(array, dtype=torch.float64):
        return torch.as_tensor(np.asarray(array), dtype=dtype, device=device)

    shares = np.asarray(shares, dtype=np.float64)
    inputs = tensor(inputs)
    centred = inputs - inputs.mean(1, keepdim=True)
    normed = centred / torch.sqrt(centred.square().mean(1, keepdim=True) + 1e-5)
    absent = ~tensor(present, torch.bool)
    n_experts = logits.shape[2]
    states = []
    for fold_logits, share in zip(logits, shares, strict=True):
        generator = torch.Generator().manual_seed(0 if seed is None else seed)
        first = tensor(first_layer(hidden, inputs.cpu().numpy(), shares.sum(0), generator))
        shapes = {
            "hidden_bias": (hidden,),
            "out_weight": (n_experts, hidden),
            "out_bias": (n_experts,),
        }
        layers = {"hidden_weight": first.requires_grad_(True)}
        for name, shape in shapes.items():
            layers[name] = tensor(np.zeros(shape)).requires_grad_(True)
        share = tensor(share)[None]
        objective = PooledLoss(
            tensor(fold_logits)[None],
            codes,
            share / share.sum(),
            absent,
            pool,
            entropy,
            balance,
        )
        optimizer = torch.optim.AdamW(layers.values(), lr=learning_rate, weight_decay=weight_decay)
        for _ in range(max_iter):
            optimizer.zero_grad()
            middle = normed @ layers["hidden_weight"].T + layers["hidden_bias"]
            middle = torch.nn.functional.leaky_relu(middle, 0.01)
            output = middle @ layers["out_weight"].T + layers["out_bias"]
            _, slope = objective(output.detach()[None])
            output.backward(slope[0])
            optimizer.step()
        arrays = {name: layer.detach().cpu().numpy() for name, layer in layers.items()}
        states.append(GateState("mlp", arrays))
    return states, max_iter
