"""What the candidates of a mixture share: temperatures of the experts, and rows to compare on."""

from dataclasses import dataclass, field

import numpy as np

from skmoecbm._calibration import fit_inverse_temperatures, stacked_losses
from skmoecbm._gating import gate_weights
from skmoecbm._labels import is_exclusive
from skmoecbm._pooling import by_class, pool_stack

__all__ = ["Calibrated", "HeldOut", "calibrated", "mix_stack", "pool_scales"]


class HeldOut:
    """The rows that a fold holds out, as what is fitted on the others is compared on them."""

    def __init__(self, held_out, folds):
        number = np.full(int(held_out.max()) + 1, -1)
        number[folds] = np.arange(len(folds))
        self.n_rows = len(held_out)
        self.rows = np.flatnonzero(np.where(held_out >= 0, number[held_out], -1) >= 0)
        self.fold = number[held_out[self.rows]]

    def losses(self, mixed, scales, codes, present):
        """Return the losses (n,) of pooled logits (K, F, n); 0 for a row that no fold predicts.

        With the post-pool scales (F,) where several experts are present.
        """
        several = present[self.rows].sum(1) > 1
        scale = mixed.new_tensor(np.where(several, scales[self.fold], 1.0))
        losses = np.zeros(self.n_rows)
        own = mixed[:, self.fold, self.rows] * scale
        losses[self.rows] = stacked_losses(own, codes[self.rows])
        return losses


@dataclass
class Calibrated:
    """What candidates share: the experts' own temperatures on F sets of rows.

    Attributes
    ----------
    logits : torch.Tensor of shape (E, K, n)
    scales : ndarray of shape (F, E)
    mixed : torch.Tensor of shape (K, F, n)
        The average's logits, and its post-pool scales `base` (F,).
    material : ndarray of shape (F, n, E, K)
        What gates learn from.
    memory : dict
        Of the gates.
    """

    logits: object
    scales: np.ndarray
    mixed: object = None
    base: np.ndarray = None
    material: np.ndarray = None
    memory: dict = field(default_factory=dict)


def calibrated(uniform, data, trains, pool, calibrate, device):
    """Return the experts' temperatures on each row of weights `trains`, and their average's."""
    logits, codes, _, present, _ = data
    known = Calibrated(by_class(logits, device), np.ones((len(trains), logits.shape[1])))
    if calibrate:
        for e, own in enumerate(known.logits):
            stack = own[:, None].expand(-1, len(trains), -1)
            known.scales[:, e] = fit_inverse_temperatures(stack, codes, trains * present[:, e])
    known.mixed = mix_stack(uniform, known, data, pool)
    known.base = pool_scales(known.mixed, codes, trains, present, calibrate)
    # The gate learns at the average's own scale, else it would buy sharpness by leaning on
    # whichever expert is the surest.
    known.material = logits[None] * (known.scales * known.base[:, None])[:, None, :, None]
    return known


def mix_stack(states, known, data, pool):
    """Return the pooled logits (K, F, n) under one gate for each of F sets of temperatures."""
    _, codes, _, present, inputs = data
    weights = np.stack([gate_weights(state, inputs, present) for state in states])
    return pool_stack(weights, known.logits, known.scales, pool, exclusive=is_exclusive(codes))


def pool_scales(mixed, codes, trains, present, calibrate):
    """One post-pool scale per fold, from the rows that have more than one expert."""
    if not calibrate:
        return np.ones(len(trains))
    several = present.sum(1) > 1
    if not several.all():
        rows = np.flatnonzero(several & (trains > 0).any(0))
        mixed, codes, trains = mixed[:, :, rows], codes[rows], trains[:, rows]
    return fit_inverse_temperatures(mixed, codes, trains)
