"""Attention of points in time to measurements at other times, per variable."""

import math

import torch
from torch import nn

__all__ = ["TimeAttention", "time_features"]

# exp of more than this is told from it by nobody who counts measurements.
_MANY = 30.0


def time_features(times, frequencies, phases, amplitudes):
    """Return features (..., F) of times: amplitude * sin(frequency * time + phase)."""
    return amplitudes * torch.sin(times[..., None] * frequencies + phases)


class TimeAttention(nn.Module):
    """What was measured near each of G points in time, and how much there was, per variable.

    Heads differ in how near "near" is. All parameters start at fixed sinusoids, whose products are
    a bump of the time that lies between; learning moves them on from there.

    Parameters
    ----------
    n_points, n_frequencies : int
    sharpness : tuple of float, length H

    Attributes
    ----------
    frequencies, phases : (F,), of sin(frequency * time + phase)
    bilinear : (H, F + 1, F + 1)
        Scores are features(point) @ bilinear @ features(time); the last feature is the time itself.
    offsets : (H,), the score at which a measurement counts as one that was made there

    References
    ----------
    Shukla and Marlin (2021), "Multi-time attention networks for irregularly sampled time series",
    equations 1 to 4.
    """

    def __init__(self, n_points, n_frequencies, sharpness):
        super().__init__()
        self.sharpness = tuple(sharpness)
        n_features = 1 + 2 * n_frequencies
        # The products of these features of two times are 1 where the times are the same.
        # Waves of one, two, three... half turns from the first to the last time, so that the two
        # ends are not neighbours; weighed so that their sum is (all but) a Gaussian bump.
        turns = torch.arange(1, n_frequencies + 1, dtype=torch.float64)
        weights = torch.exp(-0.5 * (3.0 * turns / n_frequencies) ** 2)
        half = weights.new_tensor([0.5])
        shares = torch.cat([half, weights, weights]) / (0.5 + weights.sum())
        grid = torch.linspace(0.0, 1.0, n_points, dtype=torch.float64)
        self.register_buffer("amplitudes", shares.sqrt(), persistent=False)
        self.register_buffer("points", grid, persistent=False)
        zero = turns.new_zeros(1)
        start = math.pi * torch.cat([zero, turns, turns])
        self.frequencies = nn.Parameter(start)
        quarter = torch.full_like(turns, 0.5 * math.pi)
        self.phases = nn.Parameter(torch.cat([zero + 0.5 * math.pi, quarter, 0 * turns]))
        heads = torch.tensor(self.sharpness, dtype=torch.float64)
        square = torch.zeros(len(heads), n_features + 1, n_features + 1, dtype=torch.float64)
        square[:, :-1, :-1] = heads[:, None, None] * torch.eye(n_features, dtype=torch.float64)
        self.bilinear = nn.Parameter(square)
        self.offsets = nn.Parameter(heads.clone())

    def _features(self, times):
        """Return features (..., F + 1) of times; the last is the time itself."""
        waves = time_features(times, self.frequencies, self.phases, self.amplitudes)
        return torch.cat([waves, times[..., None]], dim=-1)

    def forward(self, times, values, mask):
        """Return what was measured around each point, and how much.

        Parameters
        ----------
        times : tensor of shape (n, L)
            0 is the first point, 1 the last; times beyond are as near to an end as can be.
        values : tensor of shape (n, L, V)
            Anything finite where not measured.
        mask : bool tensor of shape (n, L, V)

        Returns
        -------
        tensor of shape (n, H, G, V, 2)
            The mean of the values, weighed by the attention, 0 where nothing was measured; and in
            [0, 1] how much was measured there.
        """
        points = self._features(self.points) @ self.bilinear  # (H, G, F + 1)
        keys = self._features(times.clamp(0.0, 1.0))
        scores = torch.einsum("hgf,nlf->nhgl", points, keys)
        means, amounts = [], []
        for v in range(values.shape[2]):
            there = mask[:, None, None, :, v]
            mine = scores.masked_fill(~there, -torch.inf)
            some = there.any(-1, keepdim=True)
            # Where there is nothing at all a softmax would be 0 / 0, with a NaN for a slope.
            weights = torch.where(some, mine, 0.0).softmax(-1)
            found = torch.where(mask[:, :, v], values[:, :, v], 0.0)
            means.append(torch.einsum("nhgl,nl->nhg", weights * there, found))
            near = torch.exp((scores - self.offsets[:, None, None]).clamp_max(_MANY))
            amounts.append(1.0 - torch.exp(-(near * there).sum(-1)))
        return torch.stack([torch.stack(means, -1), torch.stack(amounts, -1)], dim=-1)
