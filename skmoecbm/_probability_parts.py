"""What concepts add to a probability, for a mixture that averages probabilities.

A softmax is no sum over concepts. What is one, exactly, is its integral along a path: all concepts
move together, on a straight line, from their training means to what the image has, the gate's
weights staying as they are, and each concept gets what the probability gained while it moved.
"""

from dataclasses import replace

import numpy as np
from scipy.special import expit, log_expit, log_softmax, logsumexp, softmax

__all__ = ["in_probabilities"]

# Gauss-Legendre with 16 nodes on pieces on which logits move by at most 4: the nearest pole of a
# softmax lies pi / (how far logits move) off the line, so that the error is below 1e-15.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)
_PIECE = 4.0
_CHUNK = 4_000_000  # numbers held at once


def in_probabilities(parts, expert_scale, scale, shift, *, exclusive):
    """Return the parts with contributions that sum to probabilities.

    Parameters
    ----------
    parts : list of E AdditivePart
        As for a pool of logits; of two classes with one column.
    expert_scale : ndarray of shape (E,)
        Inverse temperatures tau_e.
    scale : ndarray of shape (n,)
        Post-pool scale.
    shift : ndarray of shape (K,)
        What a `target_prevalence` adds to the mixed log-probabilities.
    exclusive : bool
        Whether each row has just one class.

    Returns
    -------
    list of AdditivePart
        With K columns, `slopes` and `constant`.

    References
    ----------
    Aumann and Shapley, Values of Non-Atomic Games (1974); Sundararajan et al., Axiomatic
    Attribution for Deep Networks (2017), eq. 1, here with a sum that is exact to rounding.
    """
    own = [_all_columns(part) if exclusive else part for part in parts]
    present = np.stack([~np.isnan(part.similarities).all(axis=1) for part in parts], axis=1)
    gate = np.stack([part.gate for part in parts], axis=1)
    start = np.stack([part.intercept for part in own]) * expert_scale[:, None]
    start = present[:, :, None] * start
    move = np.stack(
        [t * (part.values @ part.association.T) for part, t in zip(own, expert_scale, strict=True)],
        axis=1,
    )
    slopes, constant = _mean_slopes(start, move, gate, scale, shift, exclusive)
    return [
        replace(
            part,
            weight=present[:, e].astype(np.float64),
            slopes=expert_scale[e] * slopes[:, e],
            constant=constant[:, e],
            # Of two classes each has its own logit here, one the negative of the other.
            logits=np.c_[-logit.logits, logit.logits]
            if part.association.shape != logit.association.shape
            else logit.logits,
        )
        for e, (part, logit) in enumerate(zip(own, parts, strict=True))
    ]


def _all_columns(part):
    """Return a part of two classes with the logits (0, s) in the place of s."""
    if len(part.association) > 1:
        return part
    return replace(
        part,
        association=np.concatenate([np.zeros_like(part.association), part.association]),
        intercept=np.concatenate([np.zeros(1), part.intercept]),
    )


def _mean_slopes(start, move, gate, scale, shift, exclusive):
    """Return the mean slopes (n, E, K, K) along the line, and each expert's share at its start."""
    n, n_experts, n_classes = start.shape
    slopes = np.zeros((n, n_experts, n_classes, n_classes))
    spread = (move.max(axis=2) - move.min(axis=2)) if exclusive else 2 * np.abs(move).max(axis=2)
    moved = spread.sum(axis=1) * np.maximum(scale, 1.0)
    pieces = 2 ** np.ceil(np.log2(np.maximum(moved / _PIECE, 1.0))).astype(int)
    with np.errstate(divide="ignore"):
        log_gate = np.log(gate)[:, :, None]
    size = max(1, _CHUNK // slopes[0].size)  # points at once
    for number in np.unique(pieces):
        same = np.flatnonzero(pieces == number)
        edges = np.arange(number) / number
        times = (edges[:, None] + (_NODES + 1) / (2 * number)).ravel()
        weights = np.tile(_WEIGHTS / (2 * number), number)
        n_rows = max(1, size // len(times))
        for first in range(0, len(same), n_rows):
            rows = same[first : first + n_rows]
            for begin in range(0, len(times), size):
                some = slice(begin, begin + size)
                points = np.repeat(rows, len(times[some]))
                at = start[points] + np.tile(times[some], len(rows))[:, None, None] * move[points]
                at = (at, log_gate[points], scale[points, None], shift)
                found = (_slopes if exclusive else _label_slopes)(*at)
                found = found.reshape(len(rows), len(times[some]), *slopes.shape[1:])
                slopes[rows] += np.einsum("t,rtekc->rekc", weights[some], found)
    return slopes, _shares(start, log_gate, scale[:, None], shift, exclusive)


def _slopes(logits, log_gate, scale, shift):
    """Return d p_k / d logit_ec, shape (n, E, K, K), of p = softmax(scale log(G p_e) + shift)."""
    own, mixed, share = _mixed(logits, log_gate)
    p = softmax(scale * mixed + shift, axis=1)
    pi = np.exp(own)
    spoken = share * p[:, None, :]
    total = spoken.sum(axis=2)[:, :, None]
    # p_k (r_ek [k = c] - r_ek pi_ec - p_c r_ec + pi_ec sum_l p_l r_el), r the responsibilities
    inner = -share[:, :, :, None] * pi[:, :, None, :] - spoken[:, :, None, :]
    inner += (pi * total)[:, :, None, :]
    diagonal = np.arange(logits.shape[2])
    inner[:, :, diagonal, diagonal] += share
    return scale[:, :, None, None] * p[:, None, :, None] * inner


def _label_slopes(logits, log_gate, scale, shift):
    """Return the same for labels that exclude nothing: each depends on its own logits alone."""
    for_, against = log_expit(logits), log_expit(-logits)
    with np.errstate(invalid="ignore"):
        up, down = logsumexp(log_gate + for_, axis=1), logsumexp(log_gate + against, axis=1)
        p = expit(scale * (up - down) + shift)
        inner = np.exp(log_gate + for_ + against - (up + down)[:, None, :])
    own = np.nan_to_num(scale[:, None] * (p * (1 - p))[:, None, :] * inner)
    return own[:, :, :, None] * np.eye(logits.shape[2])


def _mixed(logits, log_gate):
    """Return log p_e, log sum_e G_e p_e and the responsibilities G_e p_e / sum; 0 without any."""
    own = log_softmax(logits, axis=2)
    with np.errstate(invalid="ignore"):
        mixed = logsumexp(log_gate + own, axis=1)
        share = np.exp(log_gate + own - mixed[:, None, :])
    return own, np.where(np.isfinite(mixed), mixed, 0.0), np.nan_to_num(share)


def _shares(logits, log_gate, scale, shift, exclusive):
    """Return how much of the probability each expert speaks for, shape (n, E, K)."""
    if exclusive:
        _, mixed, share = _mixed(logits, log_gate)
        return share * softmax(scale * mixed + shift, axis=1)[:, None, :]
    with np.errstate(invalid="ignore"):
        up = logsumexp(log_gate + log_expit(logits), axis=1)
        down = logsumexp(log_gate + log_expit(-logits), axis=1)
        share = np.exp(log_gate + log_expit(logits) - up[:, None, :])
        return np.nan_to_num(share * expit(scale * (up - down) + shift)[:, None, :])
