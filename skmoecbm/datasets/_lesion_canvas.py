"""The canvas of the synthetic lesions: coordinates, outlines, noise, and how paint is laid."""

import functools
import math

import torch

__all__ = ["Canvas", "enlarge", "noise", "paint", "uniform"]

N_ANGLES = 256


def uniform(generator, low, high, *shape):
    """Return float32 numbers uniform in [low, high)."""
    return torch.rand(shape, generator=generator).mul_(high - low).add_(low)


@functools.cache
def _interpolation(cells, size):
    """Return the (size, cells) matrix of linear interpolation between cell centres."""
    place = ((torch.arange(size) + 0.5) * (cells / size) - 0.5).clamp(0, cells - 1)
    return (1 - (place[:, None] - torch.arange(cells)).abs()).clamp(min=0)


def enlarge(coarse, size):
    """Return (..., cells, cells) enlarged to (..., size, size) bilinearly.

    Two matrix products: five times faster on one core than torch's own interpolation.
    """
    matrix = _interpolation(coarse.shape[-1], size)
    return matrix @ (coarse @ matrix.T)


def noise(generator, n_samples, cells, size, n_channels=1):
    """Return smooth noise of shape (n_samples, n_channels, size, size), about N(0, 1) per cell."""
    return enlarge(torch.randn((n_samples, n_channels, cells, cells), generator=generator), size)


def paint(image, rows, alpha, colour):
    """Blend `colour` into ``image[rows]`` in place.

    Parameters
    ----------
    image : float32 tensor of shape (n, 3, size, size), values about [0, 1]
    rows : int64 tensor of shape (k,)
    alpha : float32 tensor of shape (k, size, size), opacity in [0, 1]
    colour : float32 tensor of shape (k, 3) or (k, 3, size, size)
    """
    if colour.ndim == 2:
        colour = colour[:, :, None, None]
    part = image[rows]
    image[rows] = torch.lerp(part, colour.expand_as(part), alpha[:, None])


class Canvas:
    """Coordinates and outline of each lesion of a batch.

    Parameters
    ----------
    generator : torch.Generator
    size : int
        Side of the square images in pixels; coordinates run over [-1, 1].
    asymmetric, irregular, blurred, large : bool tensors of shape (n,)

    Attributes
    ----------
    radius : float32 tensor of shape (n,)
        Mean radius of the lesion.
    rho, outline : float32 tensors of shape (n, size, size)
        Distance to the centre, and the outline's radius in that direction.
    mask : float32 tensor of shape (n, size, size)
        Opacity of the lesion in [0, 1].
    shade : float32 tensor of shape (n, size, size)
        Brightness of the lesion: 1, and less on one side of an asymmetric one.
    """

    def __init__(self, generator, size, asymmetric, irregular, blurred, large):
        n = len(large)
        self.generator, self.size = generator, size
        axis = torch.linspace(-1, 1, size)
        self.axis = axis
        self.radius = torch.where(
            large, uniform(generator, 0.78, 1.00, n), uniform(generator, 0.42, 0.60, n)
        )
        wander = (0.95 - self.radius).clamp(0.08, 0.25)[:, None]
        self.centre = uniform(generator, -1, 1, n, 2) * wander
        self.dx = axis[None, None, :] - self.centre[:, 0, None, None]
        self.dy = axis[None, :, None] - self.centre[:, 1, None, None]
        self.rho = torch.sqrt(self.dx**2 + self.dy**2)
        angle = torch.atan2(self.dy.expand_as(self.rho), self.dx.expand_as(self.rho))
        self.angle_index = (
            ((angle + math.pi) * (N_ANGLES / (2 * math.pi))).long().clamp_(0, N_ANGLES - 1)
        )
        self.angles = (torch.arange(N_ANGLES) + 0.5) * (2 * math.pi / N_ANGLES) - math.pi
        self.table = self._outline(asymmetric, irregular)
        self.outline = self.lookup(self.table)
        softness = torch.where(
            blurred, uniform(generator, 0.35, 0.60, n), uniform(generator, 0.02, 0.07, n)
        )
        softness = softness * (0.4 + 0.8 * self.radius)
        depth = self.outline - self.rho
        self.mask = (depth / softness[:, None, None] + 0.5).clamp_(0, 1)
        self.mask = self.mask * self.mask * (3 - 2 * self.mask)
        heading = self.heading[:, :, None]
        side = (self.dx * heading.cos() + self.dy * heading.sin()) / self.radius[:, None, None]
        self.shade = 1 - 0.35 * asymmetric[:, None, None] * (0.5 + 1.5 * side).clamp_(0, 1)

    def _outline(self, asymmetric, irregular):
        n, generator = len(asymmetric), self.generator
        orders = torch.arange(1, 13)
        high = orders >= 5
        # Symmetric lesions are ellipses (order 2).
        amplitude = torch.zeros(n, 12)
        amplitude[:, 1] = uniform(generator, 0.0, 0.12, n)
        ragged = uniform(generator, 0.04, 0.11, n, int(high.sum())) * irregular[:, None]
        amplitude[:, high] += ragged + 0.006
        phase = uniform(generator, 0, 2 * math.pi, n, 12)
        waves = torch.cos(orders[None, :, None] * self.angles[None, None] + phase[:, :, None])
        bend = torch.bmm(amplitude[:, None], waves)[:, 0]
        # Asymmetric ones bulge or are dented on one side: three orders in step make a drop (+) or a
        # bean (-). Order 1 alone would only move the lesion.
        self.heading = uniform(generator, 0, 2 * math.pi, n, 1)
        toward = self.angles[None] - self.heading
        lobe = 0.5 * toward.cos() + 0.4 * (2 * toward).cos() + 0.3 * (3 * toward).cos()
        sign = torch.where(uniform(generator, 0, 1, n, 1) < 0.5, -1.0, 1.0)
        bend += sign * uniform(generator, 0.45, 0.75, n, 1) * lobe * asymmetric[:, None]
        return self.radius[:, None] * (1 + bend).clamp(0.3, 1.7)

    def lookup(self, table, rows=None):
        """Return ``table[i, angle]`` at each pixel of the images in `rows`."""
        index = self.angle_index if rows is None else self.angle_index[rows]
        flat = torch.gather(table, 1, index.flatten(1))
        return flat.view(-1, self.size, self.size)

    def frame(self, rows):
        """Return the pixel coordinates about each lesion's centre, turned by a random angle."""
        turn = uniform(self.generator, 0, math.pi, len(rows), 1, 1)
        dx, dy = self.dx[rows], self.dy[rows]
        cos, sin = torch.cos(turn), torch.sin(turn)
        return dx * cos + dy * sin, dy * cos - dx * sin

    def points(self, rows, spacing, *, side=9, keep=1.0, inside=0.88, jitter=0.28):
        """Scatter points on a jittered, turned grid inside each lesion.

        Returns
        -------
        xy : float32 tensor of shape (k, n_points, 2)
        kept : float32 tensor of shape (k, n_points)
            1 for a point inside ``inside * outline`` that chance kept, else 0. At least one point
            is kept in each lesion: the one nearest to its centre.
        """
        k, generator = len(rows), self.generator
        steps = torch.arange(side) - (side - 1) / 2
        grid = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1).view(1, -1, 2)
        grid = grid + uniform(generator, -jitter, jitter, k, side * side, 2)
        grid = grid * spacing[:, None, None]
        turn = uniform(generator, 0, math.pi, k, 1)
        x = grid[..., 0] * torch.cos(turn) - grid[..., 1] * torch.sin(turn)
        y = grid[..., 0] * torch.sin(turn) + grid[..., 1] * torch.cos(turn)
        index = ((torch.atan2(y, x) + math.pi) * (N_ANGLES / (2 * math.pi))).long()
        limit = torch.gather(self.table[rows], 1, index.clamp_(0, N_ANGLES - 1)) * inside
        distance = torch.sqrt(x**2 + y**2)
        kept = (distance < limit) & (uniform(generator, 0, 1, k, side * side) < keep)
        kept[torch.arange(k), distance.argmin(1)] = True
        xy = torch.stack([x, y], -1) + self.centre[rows][:, None]
        first = kept.float().argsort(dim=1, descending=True)[:, : int(kept.sum(1).max())]
        return torch.take_along_dim(xy, first[..., None], 1), torch.gather(kept, 1, first).float()

    def blobs(self, xy, weight, width, height=None):
        """Return the sum of Gaussian bumps at `xy`, of shape (k, size, size).

        A bump is separable, so the sum over points is one batched matrix product; cut at 0.5 it
        is a disc of radius ``0.83 * width``.
        """
        height = width if height is None else height
        gx = torch.exp(-(((self.axis - xy[..., 0, None]) / width[:, None, None]) ** 2))
        gy = torch.exp(-(((self.axis - xy[..., 1, None]) / height[:, None, None]) ** 2))
        return torch.bmm((gy * weight[..., None]).transpose(1, 2), gx)
