"""What a photograph adds to a lesion: skin, light, hair, dark corners, and the camera's faults."""

import math

import torch
import torch.nn.functional as F

from skmoecbm.datasets._lesion_canvas import noise, paint, uniform

__all__ = ["add_camera", "add_hair", "add_vignette", "draw_skin"]

SKIN = torch.tensor(
    [
        [0.90, 0.66, 0.62],
        [0.80, 0.70, 0.74],
        [0.92, 0.64, 0.50],
        [0.86, 0.77, 0.68],
        [0.74, 0.58, 0.50],
        [0.92, 0.58, 0.60],
    ]
)


def draw_skin(generator, n, size):
    """Return skin of shape (n, 3, size, size): a tone between six anchors, blotches and grain."""
    mix = torch.softmax(2.5 * torch.randn((n, len(SKIN)), generator=generator), dim=1)
    tone = (mix @ SKIN) * uniform(generator, 0.85, 1.08, n, 1)
    blotch = noise(generator, n, 6, size) * 0.025 + noise(generator, n, 20, size) * 0.02
    tint = torch.tensor([0.6, 1.1, 1.0]).view(1, 3, 1, 1)
    return tone[:, :, None, None] + blotch * tint


def add_hair(image, canvas, rows, count=6):
    """Draw dark bent hairs across the whole image: parabolas in turned frames."""
    g, n = canvas.generator, len(rows)
    x, y = canvas.axis[None, None, :], canvas.axis[None, :, None]
    nearest = torch.full((n, canvas.size, canvas.size), 9.0)
    lean = uniform(g, 0, math.pi, n, 1, 1)
    number = torch.randint(2, count + 1, (n, 1, 1), generator=g)
    for hair in range(count):
        turn = lean + uniform(g, -0.7, 0.7, n, 1, 1)
        cos, sin = torch.cos(turn), torch.sin(turn)
        u, v = x * cos + y * sin, y * cos - x * sin
        curve = uniform(g, -0.35, 0.35, n, 1, 1)
        offset = uniform(g, -0.8, 0.8, n, 1, 1) + 9.0 * (hair >= number)
        distance = (v - curve * u * u - offset).abs_()
        nearest = torch.minimum(nearest, distance)
    width = uniform(g, 0.016, 0.030, n, 1, 1).clamp(min=0.9 / canvas.size)
    alpha = (1.5 - nearest / width).clamp_(0, 1) * uniform(g, 0.75, 0.95, n, 1, 1)
    tone = uniform(g, 0.05, 0.20, n, 1) * torch.tensor([1.1, 0.85, 0.75])
    paint(image, rows, alpha, tone)


def add_vignette(image, canvas, rows):
    """Darken the corners as the rim of a dermatoscope does."""
    g, n = canvas.generator, len(rows)
    shift = uniform(g, -0.08, 0.08, n, 2)
    x = canvas.axis[None, None, :] - shift[:, 0, None, None]
    y = canvas.axis[None, :, None] - shift[:, 1, None, None]
    rim = uniform(g, 0.92, 1.12, n, 1, 1)
    soft = uniform(g, 0.04, 0.30, n, 1, 1)
    alpha = ((torch.sqrt(x * x + y * y) - rim) / soft + 0.5).clamp_(0, 1)
    tone = uniform(g, 0.0, 0.10, n, 1).expand(n, 3)
    paint(image, rows, alpha, tone)


def add_light(image, canvas, strength):
    """Vary exposure, white balance and the direction of the light, in place."""
    g, n = canvas.generator, len(image)
    gain = 1 + strength * uniform(g, -0.16, 0.10, n, 1)
    balance = 1 + strength * uniform(g, -0.07, 0.07, n, 3)
    slope = strength * uniform(g, -0.10, 0.10, n, 2)
    field = (
        1 + slope[:, 0, None, None] * canvas.axis + slope[:, 1, None, None] * canvas.axis[:, None]
    )
    image *= (gain * balance)[:, :, None, None] * field[:, None]


def _some(generator, n, share):
    return torch.nonzero(uniform(generator, 0, 1, n) < share)[:, 0]


def _ruler(image, canvas, rows):
    """Dark tick marks along one edge."""
    g, n = canvas.generator, len(rows)
    first, second = canvas.axis[None, None, :], canvas.axis[None, :, None]
    swap = uniform(g, 0, 1, n, 1, 1) < 0.5
    along, across = torch.where(swap, first, second), torch.where(swap, second, first)
    across = across * torch.where(uniform(g, 0, 1, n, 1, 1) < 0.5, -1.0, 1.0)
    pitch = uniform(g, 20, 36, n, 1, 1)
    tick = ((torch.cos(pitch * along + uniform(g, 0, 6.3, n, 1, 1)) - 0.72) * 5).clamp_(0, 1)
    edge = ((across - uniform(g, 0.70, 0.88, n, 1, 1)) / 0.03).clamp_(0, 1)
    paint(image, rows, tick * edge * 0.8, uniform(g, 0.0, 0.25, n, 1).expand(n, 3))


def _bubbles(image, canvas, rows):
    """Bright rings of air in the contact gel, and glints."""
    g, n = canvas.generator, len(rows)
    xy = uniform(g, -1, 1, n, 3, 2)
    radius = uniform(g, 0.06, 0.22, n, 3)
    ring = torch.zeros(n, canvas.size, canvas.size)
    for k in range(3):
        x = canvas.axis[None, None, :] - xy[:, k, 0, None, None]
        y = canvas.axis[None, :, None] - xy[:, k, 1, None, None]
        gap = (torch.sqrt(x * x + y * y) - radius[:, k, None, None]).abs_()
        ring = torch.maximum(ring, (1.2 - gap / 0.03).clamp_(0, 1))
    paint(image, rows, ring * uniform(g, 0.3, 0.8, n, 1, 1), torch.full((n, 3), 0.97))


def _blur(image, generator):
    """Blend each image with a blurred copy of itself."""
    n = len(image)
    kernel = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    soft = F.pad(image, (2, 2, 2, 2), mode="replicate").flatten(0, 1)[:, None]
    soft = F.conv2d(F.conv2d(soft, kernel.view(1, 1, 1, 5)), kernel.view(1, 1, 5, 1))
    soft = soft.view_as(image)
    # Negative amounts sharpen, as cameras do.
    return torch.lerp(image, soft, uniform(generator, -0.5, 1.0, n, 1, 1, 1))


def _jpeg(image, generator):
    """Round the coefficients of 8 x 8 cosine blocks, the part of JPEG that shows."""
    n, _, size, _ = image.shape
    blocks = size // 8
    side = blocks * 8
    k = torch.arange(8.0)
    basis = torch.cos((k[None] + 0.5) * k[:, None] * math.pi / 8) / 2
    basis[0] /= math.sqrt(2)
    tiles = image[:, :, :side, :side].reshape(n, 3, blocks, 8, blocks, 8).transpose(3, 4)
    step = uniform(generator, 0.02, 0.10, n, 1, 1, 1, 1, 1) * (1 + 0.5 * (k[:, None] + k[None]))
    coefficients = torch.round((basis @ tiles @ basis.T) / step) * step
    out = (basis.T @ coefficients @ basis).transpose(3, 4).reshape(n, 3, side, side)
    image = image.clone()
    image[:, :, :side, :side] = out
    return image


def add_camera(image, canvas, photographic):
    """Return the batch as a camera would: light and grain; with `photographic` the faults as well.

    Parameters
    ----------
    image : float32 tensor of shape (n, 3, size, size)
    canvas : Canvas
    photographic : bool
        Add ruler marks, gel bubbles, contrast, blur or sharpening, and JPEG blocks.
    """
    g, n = canvas.generator, len(image)
    if photographic:
        for draw, share in ((_ruler, 0.10), (_bubbles, 0.12)):
            rows = _some(g, n, share)
            if len(rows):
                draw(image, canvas, rows)
    add_light(image, canvas, 2.0 if photographic else 1.0)
    if photographic:
        mean = image.mean((1, 2, 3), keepdim=True)
        image = mean + (image - mean) * uniform(g, 0.6, 1.25, n, 1, 1, 1)
        rows = _some(g, n, 0.6)
        if len(rows):
            image[rows] = _blur(image[rows], g)
        rows = _some(g, n, 0.3)
        if len(rows):
            image[rows] = _jpeg(image[rows], g)
    # Grain of brightness, the same in the three channels: a third of the random numbers.
    grain = torch.randn((n, 1, canvas.size, canvas.size), generator=g)
    return image.add_(grain.mul_(uniform(g, 0.005, 0.03, n, 1, 1, 1))).clamp_(0, 1)
