"""Dermoscopic structures and vessels, each painted by one function on the lesions that have it.

Every function takes ``(image, canvas, rows)``: the batch (n, 3, size, size), its `Canvas`, and the
indices of the lesions to paint. `DRAWERS` holds them in the order from the bottom layer to the top.
"""

import math

import torch

from skmoecbm.datasets._lesion_canvas import noise, paint, uniform

__all__ = ["DRAWERS"]


def _colour(generator, n, rgb, spread=0.05):
    """Return n colours about `rgb`, of shape (n, 3)."""
    shade = uniform(generator, -spread, spread, n, 1)
    return torch.tensor(rgb) + shade + uniform(generator, -spread / 2, spread / 2, n, 3)


def _step(field, threshold, gain):
    return ((field - threshold) * gain + 0.5).clamp_(0, 1)


def draw_network(image, canvas, rows):
    """Draw a honeycomb of dark lines with lighter holes: three plane waves at 60 degrees."""
    g, n = canvas.generator, len(rows)
    u, v = canvas.frame(rows)
    frequency = uniform(g, 17, 26, n, 1, 1)
    bend = noise(g, n, 5, canvas.size)[:, 0] * 0.6
    a, b = frequency * u + bend, frequency * (math.sqrt(0.75) * v) + bend
    field = torch.cos(a) + 2 * torch.cos(a / 2) * torch.cos(b)
    mask = canvas.mask[rows]
    strength = uniform(g, 0.65, 0.95, n, 1, 1)
    paint(image, rows, _step(field, 1.4, 0.8) * mask * 0.45, _colour(g, n, (0.85, 0.66, 0.50)))
    paint(
        image, rows, _step(-field, 0.15, 1.1) * mask * strength, _colour(g, n, (0.22, 0.13, 0.09))
    )


def draw_white_centre(image, canvas, rows):
    """Draw a soft white scar in the middle."""
    g, n = canvas.generator, len(rows)
    share = uniform(g, 0.40, 0.60, n, 1, 1)
    wobble = noise(g, n, 6, canvas.size)[:, 0] * 0.10
    inner = canvas.rho[rows] / canvas.outline[rows] + wobble
    alpha = ((share - inner) / 0.22 + 0.5).clamp_(0, 1) * uniform(g, 0.75, 0.95, n, 1, 1)
    paint(image, rows, alpha, _colour(g, n, (0.93, 0.87, 0.86)))


def draw_veil(image, canvas, rows):
    """Draw a structureless blue haze, whitish on top, over a part of the lesion."""
    g, n = canvas.generator, len(rows)
    field = noise(g, n, 3, canvas.size)[:, 0]
    whiteness = noise(g, n, 6, canvas.size)[:, 0].clamp_(-1, 1)[:, None] * 0.12
    alpha = _step(field, uniform(g, -0.45, 0.05, n, 1, 1), 1.6) * canvas.mask[rows]
    # A haze that chance put beside the lesion still has to be seen: it covers the centre.
    reach = uniform(g, 0.45, 0.75, n, 1, 1) * canvas.radius[rows][:, None, None]
    alpha = torch.maximum(
        alpha, ((reach - canvas.rho[rows]) / 0.2).clamp_(0, 1) * canvas.mask[rows]
    )
    colour = _colour(g, n, (0.52, 0.64, 0.88), 0.06)[:, :, None, None] + whiteness
    paint(image, rows, alpha * uniform(g, 0.65, 0.88, n, 1, 1), colour)


def draw_nests(image, canvas, rows):
    """Draw a few large blue-grey ovals with clear edges."""
    g, n = canvas.generator, len(rows)
    spacing = 0.20 + 0.26 * canvas.radius[rows]
    xy, kept = canvas.points(rows, spacing, side=5, keep=0.75, inside=0.80)
    width = spacing * uniform(g, 0.34, 0.60, n)
    height = spacing * uniform(g, 0.34, 0.60, n)
    alpha = _step(canvas.blobs(xy, kept, width, height), 0.5, 3.5)
    paint(image, rows, alpha * 0.9, _colour(g, n, (0.27, 0.31, 0.50)))


def draw_lacunae(image, canvas, rows):
    """Draw well-defined red to purple lagoons, parted by paler septa."""
    g, n = canvas.generator, len(rows)
    spacing = 0.17 + 0.20 * canvas.radius[rows]
    xy, kept = canvas.points(rows, spacing, side=7, keep=0.75, inside=0.92, jitter=0.16)
    field = canvas.blobs(xy, kept, spacing * uniform(g, 0.42, 0.50, n))
    paint(image, rows, _step(field, 0.32, 3.5) * 0.35, _colour(g, n, (0.93, 0.72, 0.74)))
    hue = uniform(g, 0, 1, n, 1)
    colour = _colour(g, n, (0.74, 0.07, 0.16)) * hue + _colour(g, n, (0.48, 0.05, 0.34)) * (1 - hue)
    paint(image, rows, _step(field, 0.58, 4.0) * 0.95, colour)


def draw_ulceration(image, canvas, rows):
    """Draw one raw, blood-red area with a dark crust at its edge."""
    g, n = canvas.generator, len(rows)
    radius = canvas.radius[rows]
    shift = uniform(g, -0.3, 0.3, n, 2) * radius[:, None]
    x = canvas.dx[rows] - shift[:, 0, None, None]
    y = canvas.dy[rows] - shift[:, 1, None, None]
    reach = (radius * uniform(g, 0.35, 0.55, n)).clamp(min=0.14)[:, None, None]
    field = torch.sqrt(x**2 + y**2) / reach + noise(g, n, 9, canvas.size)[:, 0] * 0.35
    paint(image, rows, _step(-field, -1.0, 3.5) * 0.95, _colour(g, n, (0.26, 0.07, 0.04)))
    wet = noise(g, n, 12, canvas.size)[:, 0].clamp_(0, 2)[:, None] * 0.18
    colour = _colour(g, n, (0.68, 0.16, 0.09))[:, :, None, None] + wet
    paint(image, rows, _step(-field, -0.72, 3.5) * 0.95, colour)


def draw_globules(image, canvas, rows):
    """Draw many small, round, brown to black globules."""
    g, n = canvas.generator, len(rows)
    spacing = uniform(g, 0.15, 0.20, n)
    xy, kept = canvas.points(rows, spacing, side=11, keep=0.8, jitter=0.2)
    field = canvas.blobs(xy, kept, spacing * uniform(g, 0.36, 0.44, n))
    paint(image, rows, _step(field, 0.30, 3.0) * 0.35, _colour(g, n, (0.78, 0.58, 0.42)))
    paint(image, rows, _step(field, 0.55, 3.5) * 0.95, _colour(g, n, (0.16, 0.09, 0.06)))


def draw_scale(image, canvas, rows):
    """Draw white flakes with sharp edges, also just beyond the border."""
    g, n = canvas.generator, len(rows)
    field = noise(g, n, 14, canvas.size)[:, 0] + 0.5 * noise(g, n, 26, canvas.size)[:, 0]
    near = ((canvas.outline[rows] * 1.15 - canvas.rho[rows]) / 0.08).clamp_(0, 1)
    alpha = _step(field, uniform(g, 0.45, 0.75, n, 1, 1), 3.0) * near
    paint(image, rows, alpha * uniform(g, 0.8, 0.98, n, 1, 1), _colour(g, n, (0.95, 0.93, 0.88)))


def draw_comedos(image, canvas, rows):
    """Draw a few round dark plugs in a yellowish ring."""
    g, n = canvas.generator, len(rows)
    spacing = 0.24 + 0.14 * canvas.radius[rows]
    xy, kept = canvas.points(rows, spacing, side=7, keep=0.6)
    field = canvas.blobs(xy, kept, uniform(g, 0.105, 0.135, n))
    paint(image, rows, _step(field, 0.40, 4.0) * 0.9, _colour(g, n, (0.78, 0.62, 0.26)))
    paint(image, rows, _step(field, 0.72, 5.0) * 0.95, _colour(g, n, (0.24, 0.15, 0.05)))


def draw_milia(image, canvas, rows):
    """Draw small bright white dots like pinheads."""
    g, n = canvas.generator, len(rows)
    spacing = uniform(g, 0.20, 0.28, n)
    xy, kept = canvas.points(rows, spacing, side=9, keep=0.6)
    field = canvas.blobs(xy, kept, uniform(g, 0.060, 0.078, n))
    paint(image, rows, _step(field, 0.5, 2.5) * 0.97, _colour(g, n, (0.99, 0.97, 0.88), 0.03))


def draw_dotted_vessels(image, canvas, rows):
    """Draw tiny bright red dots, evenly spread."""
    g, n = canvas.generator, len(rows)
    spacing = uniform(g, 0.17, 0.24, n)
    xy, kept = canvas.points(rows, spacing, side=10, keep=0.85)
    field = canvas.blobs(xy, kept, uniform(g, 0.052, 0.068, n))
    paint(image, rows, _step(field, 0.5, 2.5) * 0.95, _colour(g, n, (0.90, 0.08, 0.10)))


def draw_arborizing(image, canvas, rows):
    """Draw bright red vessels: a bent trunk with branches that thin out."""
    g, n = canvas.generator, len(rows)
    radius = canvas.radius[rows][:, None]
    steps = torch.linspace(-1, 1, 28)
    heading = uniform(g, 0, 2 * math.pi, n, 1)
    bend = uniform(g, -0.9, 0.9, n, 1)
    angle = heading + bend * steps
    stride = radius * (2.1 / 28)
    trunk = torch.stack([torch.cos(angle), torch.sin(angle)], -1).cumsum(1) * stride[..., None]
    trunk = trunk - trunk.mean(1, keepdim=True) + canvas.centre[rows][:, None]
    layers = [(trunk, uniform(g, 0.032, 0.042, n))]
    side = torch.where(uniform(g, 0, 1, n, 1) < 0.5, -1.0, 1.0)
    for start in (5, 11, 17, 22):
        out = angle[:, start : start + 1] + side * uniform(g, 0.6, 1.1, n, 1)
        curve = out + uniform(g, -0.9, 0.9, n, 1) * torch.linspace(0, 1, 14)
        branch = torch.stack([torch.cos(curve), torch.sin(curve)], -1).cumsum(1) * stride[..., None]
        layers.append((branch + trunk[:, start : start + 1], uniform(g, 0.024, 0.030, n)))
        side = -side
    field = torch.zeros(n, canvas.size, canvas.size)
    for xy, width in layers:
        line = canvas.blobs(xy, torch.ones(xy.shape[:2]), width.clamp(min=1.5 / canvas.size))
        field = torch.maximum(field, line)
    near = ((canvas.outline[rows] * 1.1 - canvas.rho[rows]) / 0.08).clamp_(0, 1)
    paint(image, rows, _step(field, 0.6, 1.8) * near * 0.95, _colour(g, n, (0.80, 0.05, 0.08)))


def draw_streaks(image, canvas, rows):
    """Draw thin dark spokes that leave the border over a part of the circumference."""
    g, n = canvas.generator, len(rows)
    count = torch.randint(15, 24, (n, 1), generator=g)
    angles = canvas.angles[None] + uniform(g, 0, 2 * math.pi, n, 1)
    spoke = torch.cos(count * angles).clamp(min=0) ** 2
    arc = (torch.cos(angles + uniform(g, 0, 6.3, n, 1)) + uniform(g, 0.1, 1.0, n, 1)).clamp(0, 0.5)
    length = uniform(g, 0.16, 0.26, n, 1) * (0.6 + 0.6 * canvas.radius[rows][:, None])
    tip = canvas.lookup(canvas.table[rows] + length * spoke * arc * 2, rows)
    rho, outline = canvas.rho[rows], canvas.outline[rows]
    spokes = canvas.lookup(((spoke - 0.35) * 2.5).clamp(0, 1) * (arc > 0.1), rows)
    alpha = _step(tip - rho, 0.0, 22) * ((rho / outline - 0.72) * 8).clamp_(0, 1) * spokes
    paint(image, rows, alpha * 0.95, _colour(g, n, (0.13, 0.08, 0.07)))


DRAWERS = {
    "pigment network": draw_network,
    "blue-white veil": draw_veil,
    "ovoid nests": draw_nests,
    "lacunae": draw_lacunae,
    "ulceration": draw_ulceration,
    "white center": draw_white_centre,
    "globules": draw_globules,
    "scale": draw_scale,
    "streaks": draw_streaks,
    "comedo-like openings": draw_comedos,
    "milia-like cysts": draw_milia,
    "arborizing vessels": draw_arborizing,
    "dotted vessels": draw_dotted_vessels,
}
