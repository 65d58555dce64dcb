"""The association in the span of the concepts: as many coordinates as embedding dimensions.

S depends on A only through the slopes W = A diag(1 / scale) T in the space of embeddings, which
have d columns however many concepts there are. Let M = diag(1 / scale) T. Of all A with the same
slopes the penalty wants the one whose A - A0 lies in the span of the columns of M: what is
orthogonal to it changes no logit and costs alpha / (2 n) times its square. So A = A0 + (C - C0) Q'
with M = Q B and orthonormal Q (m, r), and with the r "concepts" X B' of scale 1 the problem is

    mean CE(X B' C' + b) + alpha / (2 n) * ||C - C0||**2,    C0 = A0 Q,

the same as before, exactly, at a cost and memory that do not depend on m.
"""

import mmap
from contextlib import suppress

import numpy as np
import torch

from skmoecbm._allocator import return_freed_memory
from skmoecbm._association import AssociationProblem
from skmoecbm._similarities import FoldedSimilarities, moments

__all__ = ["SpannedProblem", "span", "untouched_zeros"]

# Directions that texts span less than this, of the largest, are the rounding of float32 texts.
_RANK = 1e-10
# Numbers of a prior that are scaled at a time where nothing else is done with them.
_BLOCK_NUMBERS = 2**18
# Associations of more numbers than this (128 MB) are kept as float32.
_WIDE_NUMBERS = 2**24


class SpannedProblem(AssociationProblem):
    """An `AssociationProblem` on folded similarities, solved for C in the place of A.

    Several sets of row weights share B, made of their mean scale. Where a scale is its own the
    penalty is, by the same argument, the squared distance in the metric (P' M' M P)^-1, with P the
    pseudo-inverse of B and M of that scale.

    Parameters
    ----------
    similarities : FoldedSimilarities
        Of shape (n, m).
    targets, weights, prior, prior_strength, cells, base_rate
        As of `AssociationProblem`; `prior` an array or tensor.

    Attributes
    ----------
    mean, scale, prior
        Of the r coordinates; `by_concept` gives those of the concepts.
    """

    def __init__(
        self,
        similarities,
        targets,
        weights,
        prior=None,
        prior_strength=1.0,
        *,
        cells=None,
        base_rate=None,
    ):
        self._mean, self._scale, self._constant = moments(similarities, weights)
        self._basis, self._back = span(similarities, self._scale.mean(0))
        rows = FoldedSimilarities(similarities.rows, self._basis, self._scale.device)
        super().__init__(
            rows, targets, weights, standardize=False, cells=cells, base_rate=base_rate
        )
        self.source = similarities
        self.mean = rows.transposed_times(self.share.T)
        self._direction, self._factor = None, None
        if len(weights) > 1:
            self.metric = self._metrics()
        if prior is not None:
            self._take_prior(prior, prior_strength)

    def _metrics(self):
        """Return the metric of each set of weights, (F, r, r)."""
        gram = 0.0
        for part, texts in self.source.text_blocks():
            back = texts @ self._back
            rows = [back / own[part, None] for own in self._scale]
            gram = gram + torch.stack([own.T @ own for own in rows])
        return torch.linalg.inv(gram)

    def _take_prior(self, prior, strength):
        """Project A0 / scale on the texts, some concepts at a time, and scale it."""
        self._direction, self._sums = prior, self._scale.new_empty(self.shape[1], 1)
        for rows in self._few_classes():
            own = self._direction_of(rows, slice(None))
            self._sums[rows] = torch.linalg.vector_norm(own, 1, dim=1, keepdim=True)
        self._sums.clamp_min_(1e-300)
        slopes, largest = 0.0, self._scale.new_zeros(self.shape[0])
        for part, texts in self.source.text_blocks(self.shape[0] * self.shape[1]):
            own = self._prior_of(slice(None), part)
            highest = torch.maximum(own.amax((1, 2)), -own.amin((1, 2)))
            largest = torch.maximum(largest, highest)
            slopes = slopes + (own / self._scale[:, None, part]) @ texts
        coordinates = slopes @ self._back
        self._factor = self._prior_factor(coordinates, strength, largest)
        self.prior = coordinates * self._factor[:, None, None]

    def _few_classes(self):
        """Yield slices of the classes, whose temporaries are small beside what is made of them."""
        size = max(1, _BLOCK_NUMBERS // self.source.shape[1])
        for start in range(0, self.shape[1], size):
            yield slice(start, start + size)

    def _direction_of(self, rows, part):
        own = self._direction[rows, part]
        if not isinstance(own, torch.Tensor):
            own = torch.as_tensor(np.array(own))  # a copy: theirs may be read-only
        return own.to(self._scale)

    def _prior_of(self, rows, part):
        """Return the prior (F, k, p) of some classes and concepts before it is scaled."""
        own = self._direction_of(rows, part) / self._sums[rows]
        return torch.where(self._constant[:, None, part], 0.0, own)

    def borrow(self, other):
        """Take nothing over: the coordinates of two problems differ."""

    def shared(self, association, intercept):
        """Return slopes by dimension (K', d) and intercepts (K',), averaged over folds."""
        return (association @ self._basis).mean(0), intercept.mean(0)

    def start_from(self, slopes, intercept):
        """Return where to begin, from what another spanned problem's `shared` gave."""
        slopes, intercept = slopes.to(self.mean.device), intercept.to(self.mean.device)
        start = (slopes @ self._back).expand(self.shape).clone()
        return start, intercept.expand(self.shape[:2]).clone()

    def by_concept(self, association):
        """Return mean, scale (m,), association and prior (K', m) of the only fold, as numpy."""
        shape = (self.shape[1], self.source.shape[1])
        # Of very many coefficients float32 keeps what the similarities have of digits.
        kind = np.float32 if shape[0] * shape[1] > _WIDE_NUMBERS else np.float64
        # Zeros take no memory until they are written: those of a prior that says nothing, and of
        # classes that a concept was not written for, are left alone.
        found, prior = np.empty(shape, dtype=kind), untouched_zeros(shape, kind)
        slopes = (association - self.prior)[0] @ self._back.T
        if kind is np.float32:
            return_freed_memory()
        for part, texts in self.source.text_blocks(shape[0]):
            found[:, part] = (slopes @ (texts / self._scale[0, part, None]).T).cpu().numpy()
        if self._direction is not None:
            for rows in self._few_classes():
                direction = self._prior_of(rows, slice(None))
                written = (direction[0] * self._factor[0]).cpu().numpy()
                at = np.nonzero(written)
                prior[rows][at] = written[at]
                found[rows][at] += written[at]
        mean = (self._mean + self.source.offset)[0].cpu().numpy()
        return mean, self._scale[0].cpu().numpy(), found, prior


def untouched_zeros(shape, dtype):
    """Return zeros of which only the pages that are written take memory.

    Those of numpy come in pages of 2 MB where the system has them, and a number in each row of a
    large matrix would fetch them all.
    """
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if not hasattr(mmap, "MADV_NOHUGEPAGE") or not size:
        return np.zeros(shape, dtype=dtype)
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # of a kernel that has no large pages
        pages.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(pages, dtype=dtype).reshape(shape)


def span(similarities, scale):
    """Return B of shape (r, d) with (T / scale)' (T / scale) = B' B, and its pseudo-inverse (d, r).

    Through QR decompositions of blocks: the Gram matrix would square how ill-conditioned texts are.
    """
    upper = None
    for part, texts in similarities.text_blocks():
        texts = texts / scale[part, None]
        stacked = texts if upper is None else torch.cat([upper, texts])
        upper = torch.linalg.qr(stacked, mode="r").R
    _, values, axes = torch.linalg.svd(upper, full_matrices=False)
    kept = values > _RANK * values[0]
    values, axes = values[kept], axes[kept]
    return values[:, None] * axes, (axes / values[:, None]).T
