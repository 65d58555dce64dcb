"""Products with a matrix of similarities, held in memory or folded into its two factors."""

import numpy as np
import torch

from skmoecbm._products import gram, product, widened
from skmoecbm._row_blocks import HELD_NUMBERS, CentredRows, block_size

__all__ = ["FoldedSimilarities", "Similarities", "folding_pays", "moments"]

# A matrix of similarities larger than this (2 GB) in float64 is not made, whatever it would save.
_LARGEST_DENSE = 2**31


def folding_pays(n, m, d):
    """Return whether to work with X and T in the place of D = X T', (n, d), (m, d) and (n, m).

    A product with D costs n m multiplications for each column, one with X and then T costs
    n d + d m. Where that is less the descent is faster too: measured at K = 7 and d = 512 the two
    meet near m = d. Beyond a size at which D would fill the memory it is folded at any speed.
    """
    return n * m > n * d + d * m or 8 * n * m > _LARGEST_DENSE


class _Products:
    """Products with a matrix D of shape (n, m) about an offset, made a block of rows at a time.

    ``D - offset = R F'`` with rows R (n, rank) and factors F (m, rank): `fold` is a product with
    F, `unfold` one with F', and `blocks` yields R.
    """

    def times(self, matrix):
        """Return (D - offset) @ matrix' of shape (n, c) for a matrix (c, m)."""
        folded = widened(self.fold(matrix))
        out = folded.new_empty(self.shape[0], len(matrix))
        for rows, block in self.blocks(len(folded)):
            out[rows] = product(block, folded.T)[:, : len(matrix)]
        return out

    def transposed_times(self, weights):
        """Return weights' @ (D - offset) of shape (c, m) for weights (n, c)."""
        parts = (product(weights[rows].T, block) for rows, block in self.blocks())
        return self.unfold(sum(parts))

    def row_moments(self, weights, centre):
        """Return the second moments of R about `centre` under `weights` (n,), symmetric."""
        total = 0.0
        for rows, block in self.blocks():
            own = weights[rows]
            counted = own > 0
            if not bool(counted.all()):
                block, own = block[counted], own[counted]
            block = (block - centre) * own.sqrt()[:, None]
            total = total + gram(block)
        return total


class Similarities(_Products):
    """Products with a matrix of similarities D that is held in memory.

    Parameters
    ----------
    values : array-like of shape (n, m), float
        Cosine similarities, each row an image and each column a concept.
    device : torch.device
        Where the products are computed, in float64.
    used : ndarray of shape (n,), bool, or None
        Rows of any weight: values of the others may be anything and must not cost digits.
    """

    def __init__(self, values, device, used=None):
        values = torch.as_tensor(np.asarray(values, dtype=np.float64), device=device)
        # Similarities of one concept crowd around a mean far from 0 (0.2 to 0.3 under CLIP);
        # moments about that mean keep their digits.
        self.offset = (values if used is None else values[used]).mean(0)
        self._centred = values - self.offset
        self.shape = tuple(values.shape)
        self.rank = self.shape[1]

    def blocks(self, width=1):
        """Yield slices of rows with (D - offset) of these rows; see `CentredRows.blocks`."""
        size = block_size(max(width, self.shape[1]))
        for start in range(0, self.shape[0], size):
            rows = slice(start, min(start + size, self.shape[0]))
            yield rows, self._centred[rows]

    def fold(self, matrix):
        """Return the matrix as it is: the rows of `blocks` are those of D."""
        return matrix

    def unfold(self, sums):
        """Return the sums as they are."""
        return sums

    def left(self, rows):
        """Return the left factor L (r, p) of some rows: D - offset = L R."""
        return self._centred[rows]

    def narrow(self, columns):
        """Return R @ columns of shape (p, c) for columns (m, c); here R is the identity."""
        return columns

    def widen(self, columns):
        """Return R' @ columns of shape (m, c) for columns (p, c)."""
        return columns

    def second_moments(self, weights):
        """Return the weighted means of (D - offset)**2, shape (f, m), for weights (f, n)."""
        return sum(product(weights[:, rows], block.square()) for rows, block in self.blocks())

    def correlations(self, weights, mean, scale):
        """Return the second moments (m, m) about `mean` of D / scale, under `weights`."""
        return self.row_moments(weights, mean) / torch.outer(scale, scale)

    def eigenbasis(self, weights, mean, scale):
        """Return eigenvectors (m, r) and eigenvalues (r,) of the correlations under `weights`."""
        n, m = self.shape
        if n >= m:
            return _leading(*torch.linalg.eigh(self.correlations(weights, mean, scale)))
        z = (self._centred - mean) / scale * weights.sqrt()[:, None]
        values, left = _leading_pairs(torch.linalg.eigh(z @ z.T))
        return (z.T @ left) / values.sqrt(), values


class FoldedSimilarities(_Products):
    """The same products through D = X T', for many concepts or many rows.

    Neither D nor a copy of many rows of X is ever made.

    Parameters
    ----------
    embeddings : array-like of shape (n, d), float; or CentredRows
        L2-normalised image embeddings.
    texts : ndarray of shape (m, d), float; or torch.Tensor, float64
        L2-normalised concept embeddings.
    device : torch.device
        Where the products are computed, in float64.
    """

    def __init__(self, embeddings, texts, device):
        rows = embeddings
        self.rows = rows if isinstance(rows, CentredRows) else CentredRows(rows, device)
        self._texts, self._device, self._held = texts, device, None
        self.shape, self.rank = (self.rows.shape[0], len(texts)), self.rows.shape[1]
        if texts.shape[0] * texts.shape[1] <= HELD_NUMBERS:
            self._held = self._widened(slice(None))
        self.offset = torch.cat([part @ self.rows.mean for _, part in self.text_blocks()])
        self.blocks = self.rows.blocks

    def text_blocks(self, width=1):
        """Yield slices of the concepts with their texts in float64, a block at a time."""
        size = block_size(max(width, self.rows.shape[1]))
        for start in range(0, self.shape[1], size):
            part = slice(start, min(start + size, self.shape[1]))
            yield part, self._widened(part) if self._held is None else self._held[part]

    def _widened(self, part):
        if isinstance(self._texts, torch.Tensor):
            return self._texts[part]
        # A copy: theirs may be read-only, which torch does not know.
        return torch.as_tensor(np.array(self._texts[part], dtype=np.float64), device=self._device)

    def fold(self, matrix):
        """Return matrix @ T of shape (c, d) for a matrix (c, m)."""
        return sum(product(matrix[:, part], texts) for part, texts in self.text_blocks())

    def unfold(self, sums):
        """Return sums @ T' of shape (c, m) for sums (c, d)."""
        parts = [product(sums, texts.T) for _, texts in self.text_blocks()]
        return torch.cat(parts, dim=1)

    def left(self, rows):
        """Return the left factor L (r, p) of some rows: D - offset = L R, R the texts."""
        return self.rows.take(rows)

    def narrow(self, columns):
        """Return R @ columns of shape (p, c) for columns (m, c)."""
        return sum(product(texts.T, columns[part]) for part, texts in self.text_blocks())

    def widen(self, columns):
        """Return R' @ columns of shape (m, c) for columns (p, c)."""
        return torch.cat([product(texts, columns) for _, texts in self.text_blocks()])

    def second_moments(self, weights):
        """Return the weighted means of (D - offset)**2, shape (f, m), for weights (f, n)."""
        moments = [self.row_moments(own, 0.0) for own in weights]
        out = weights.new_empty(len(weights), self.shape[1])
        for part, texts in self.text_blocks():
            for own, moment in zip(out, moments, strict=True):
                own[part] = (product(texts, moment) * texts).sum(1)
        return out

    def correlations(self, weights, mean, scale):
        """Return the second moments (m, m) about `mean` of D / scale, under `weights`."""
        centre = sum(weights[rows] @ block for rows, block in self.blocks())
        texts = torch.cat([texts for _, texts in self.text_blocks()]) / scale[:, None]
        return product(product(texts, self.row_moments(weights, centre)), texts.T)

    def eigenbasis(self, weights, mean, scale):
        """Return eigenvectors (m, r) and eigenvalues (r,) of the correlations under `weights`."""
        return _leading(*torch.linalg.eigh(self.correlations(weights, mean, scale)))


def _leading(values, vectors):
    values, vectors = _leading_pairs((values, vectors))
    return vectors, values


def _leading_pairs(pair):
    """Drop the eigenvalues that are zero up to rounding."""
    values, vectors = pair
    kept = values > 1e-10 * values[-1].clamp_min(1e-300)
    return values[kept], vectors[:, kept]


def moments(similarities, weights):
    """Return weighted mean and deviation of each concept, and which are constant, per fold.

    Parameters
    ----------
    similarities : Similarities or FoldedSimilarities
        Of shape (n, m).
    weights : torch.Tensor of shape (f, n)
        Row weights of each fold, zero on its held-out rows.

    Returns
    -------
    mean : torch.Tensor of shape (f, m)
        About `similarities.offset`.
    scale : torch.Tensor of shape (f, m)
        Positive. A constant concept gets 1. With few rows a standard deviation may be tiny by
        chance and would blow up new images; a floor of median / (1 + n / 4) fades as rows come.
    constant : torch.Tensor of shape (f, m), bool
        Concepts that do not vary beyond rounding.
    """
    total = weights.sum(1, keepdim=True)
    share = weights / total
    mean = similarities.transposed_times(share.T)
    second = similarities.second_moments(share)
    variance = (second - mean.square()).clamp_min(0.0)
    # Below the rounding of the means, or of the difference, a column is constant.
    constant = variance <= 1e-20 * (similarities.offset + mean).square().clamp_min(1e-12)
    constant |= variance <= 1e-13 * second
    scale = torch.where(constant, 0.0, variance.sqrt())
    floor = torch.stack(
        [row[row > 0].median() if bool((row > 0).any()) else row.new_tensor(1.0) for row in scale]
    )[:, None] / (1.0 + total / 4.0)
    scale = torch.where(constant, 1.0, torch.maximum(scale, floor))
    return mean, scale, constant
