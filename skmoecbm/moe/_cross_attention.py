"""Attention of one stream's tokens to another's, and where tokens stand."""

import math

import torch

__all__ = ["attend", "sinusoids"]


def attend(queries, keys, there):
    """Return how each query looks at the keys, (n, T_q, T_k): softmax(q k' / sqrt(d)).

    Parameters
    ----------
    queries : tensor of shape (n, T_q, d)
    keys : tensor of shape (n, T_k, d)
    there : tensor of shape (n, T_k), bool
        Keys that are not have the weight 0 exactly; in a row without keys all weights are 0.

    Notes
    -----
    Of one key the weight is 1 whatever is asked, and the gradient to the query is zero.

    References
    ----------
    Vaswani et al. (2017), "Attention is all you need", equation 1.

    Examples
    --------
    >>> import torch
    >>> q, k = torch.tensor([[[1.0]]]), torch.tensor([[[0.0], [0.0], [9.0]]])
    >>> attend(q, k, torch.tensor([[True, True, False]]))
    tensor([[[0.5000, 0.5000, 0.0000]]])
    """
    scores = queries @ keys.transpose(1, 2) / math.sqrt(keys.shape[2])
    # A row without keys would divide 0 by 0: there the softmax is over anything, and then 0.
    some = there | ~there.any(1, keepdim=True)
    weights = scores.masked_fill(~some[:, None], -torch.inf).softmax(2)
    return weights * there[:, None]


def sinusoids(positions, width, dtype=torch.float64):
    """Return sines and cosines of positions at falling frequencies, (..., width), in [-1, 1].

    Nothing is learned by position, so that a report may be longer than any in training.

    Parameters
    ----------
    positions : tensor of int
    width : int
    dtype : torch.dtype

    References
    ----------
    Vaswani et al. (2017), "Attention is all you need", section 3.5.
    """
    pairs = (width + 1) // 2
    rates = torch.arange(pairs, dtype=torch.float64, device=positions.device) / max(pairs, 1)
    angles = positions[..., None].double() * 10000.0**-rates
    waves = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)
    return waves[..., :width].to(dtype)
