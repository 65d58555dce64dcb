"""Products with a matrix of similarities, held in memory or folded into its two factors."""

import numpy as np
import torch

__all__ = ["FoldedSimilarities", "Similarities", "moments"]


class Similarities:
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

    def times(self, matrix):
        """Return (D - offset) @ matrix' of shape (n, c) for a matrix (c, m)."""
        return self._centred @ matrix.T

    def transposed_times(self, rows):
        """Return rows' @ (D - offset) of shape (c, m) for rows (n, c)."""
        return rows.T @ self._centred

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
        return weights @ self._centred.square()

    def correlations(self, weights, mean, scale):
        """Return the second moments (m, m) about `mean` of D / scale, under `weights`."""
        z = (self._centred - mean) / scale * weights.sqrt()[:, None]
        return z.T @ z

    def eigenbasis(self, weights, mean, scale):
        """Return eigenvectors (m, r) and eigenvalues (r,) of the correlations under `weights`."""
        z = (self._centred - mean) / scale * weights.sqrt()[:, None]
        n, m = self.shape
        if n >= m:
            return _leading(*torch.linalg.eigh(z.T @ z))
        values, left = _leading_pairs(torch.linalg.eigh(z @ z.T))
        return (z.T @ left) / values.sqrt(), values


class FoldedSimilarities:
    """The same products through D = X T', for more concepts than embedding dimensions.

    Parameters
    ----------
    embeddings : array-like of shape (n, d), float
        L2-normalised image embeddings.
    texts : array-like of shape (m, d), float
        L2-normalised concept embeddings.
    device : torch.device
        Where the products are computed, in float64.
    """

    def __init__(self, embeddings, texts, device):
        embeddings = torch.as_tensor(np.asarray(embeddings, dtype=np.float64), device=device)
        self._texts = torch.as_tensor(np.asarray(texts, dtype=np.float64), device=device)
        centre = embeddings.mean(0)
        self._centred = embeddings - centre
        self.offset = self._texts @ centre
        self.shape = (len(embeddings), len(self._texts))

    def times(self, matrix):
        """Return (D - offset) @ matrix' of shape (n, c) for a matrix (c, m)."""
        return self._centred @ (matrix @ self._texts).T

    def transposed_times(self, rows):
        """Return rows' @ (D - offset) of shape (c, m) for rows (n, c)."""
        return (rows.T @ self._centred) @ self._texts.T

    def left(self, rows):
        """Return the left factor L (r, p) of some rows: D - offset = L R, R the texts."""
        return self._centred[rows]

    def narrow(self, columns):
        """Return R @ columns of shape (p, c) for columns (m, c)."""
        return self._texts.T @ columns

    def widen(self, columns):
        """Return R' @ columns of shape (m, c) for columns (p, c)."""
        return self._texts @ columns

    def second_moments(self, weights):
        """Return the weighted means of (D - offset)**2, shape (f, m), for weights (f, n)."""
        moment = torch.einsum("fn,nd,ne->fde", weights, self._centred, self._centred)
        return torch.einsum("md,fde,me->fm", self._texts, moment, self._texts)

    def correlations(self, weights, mean, scale):
        """Return the second moments (m, m) about `mean` of D / scale, under `weights`."""
        centre = weights @ self._centred
        x = (self._centred - centre) * weights.sqrt()[:, None]
        texts = self._texts / scale[:, None]
        return texts @ (x.T @ x) @ texts.T

    def eigenbasis(self, weights, mean, scale):
        """Return eigenvectors (m, r) and eigenvalues (r,) of the correlations under `weights`."""
        centre = weights @ self._centred
        x = (self._centred - centre) * weights.sqrt()[:, None]
        q, r = torch.linalg.qr(self._texts / scale[:, None])
        vectors, values = _leading(*torch.linalg.eigh(r @ (x.T @ x) @ r.T))
        return q @ vectors, values


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
    variance = (similarities.second_moments(share) - mean.square()).clamp_min(0.0)
    # Squared rounding of the means: below it a column is constant.
    constant = variance <= 1e-20 * (similarities.offset + mean).square().clamp_min(1e-12)
    scale = torch.where(constant, 0.0, variance.sqrt())
    floor = torch.stack(
        [row[row > 0].median() if bool((row > 0).any()) else row.new_tensor(1.0) for row in scale]
    )[:, None] / (1.0 + total / 4.0)
    scale = torch.where(constant, 1.0, torch.maximum(scale, floor))
    return mean, scale, constant
