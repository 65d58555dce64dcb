"""How much a concept tells about a class: scores from labelled embeddings."""

import numpy as np
from scipy.stats import rankdata

from skmoecbm.exceptions import InputError

__all__ = ["RELEVANCE", "LabelledEmbeddings"]

RELEVANCE = ("mi", "auroc", "welch", "similarity", "random")

# At most this many similarities are held at a time.
_CHUNK = 2**24


class LabelledEmbeddings:
    """Image embeddings and their classes, as the scores need them.

    Class means come first, then their product with the concepts: images enter once, whatever the
    number of concepts (MATHS section 4). Only `auroc` compares images one by one.

    Parameters
    ----------
    embeddings : array of shape (n, d)
        All-NaN rows are left out.
    y : array of shape (n,), or of shape (n, C) and 0/1
        Labels, or the indicator matrix of a multi-label problem.
    owner : str
        Who asks, for the errors.

    Attributes
    ----------
    labels : ndarray of shape (C,)
        The classes; column numbers for an indicator matrix.
    members : ndarray of shape (n, C), bool
        Which row is of which class.

    Raises
    ------
    InputError
        If lengths differ, or fewer than two classes are left.
    """

    def __init__(self, embeddings, y, owner):
        X, y = np.asarray(embeddings, dtype=np.float64), np.asarray(y)
        if y.ndim == 1 and any(label is None or label != label for label in y.tolist()):
            raise InputError(f"{owner} needs a label for each image; y has missing ones.")
        if len(X) != len(y):
            raise InputError(
                f"{owner} needs one label per image. Got {len(y)} labels for {len(X)} images."
            )
        seen = ~np.isnan(X).any(axis=1)
        self.embeddings, y = X[seen], y[seen]
        self.indicator = y.ndim == 2
        if self.indicator:
            if not np.isin(y, [0, 1]).all():
                raise InputError(f"{owner}: a 2-D y must be an indicator matrix of 0 and 1.")
            self.labels, self.members = np.arange(y.shape[1]), y.astype(bool)
        else:
            self.labels, codes = np.unique(y, return_inverse=True)
            self.members = codes[:, None] == np.arange(len(self.labels))
        if len(self.labels) < 2:
            raise InputError(
                f"{owner} needs images of at least two classes. Got {len(self.labels)}."
            )
        self._weigh(np.ones(len(self.embeddings)))

    def _weigh(self, weights):
        """Take the moments of the rows, each counted `weights` times."""
        X, members = self.embeddings, self.members * weights[:, None]
        total = weights.sum()
        self._centre = weights @ X / total
        self._counts = members.sum(axis=0)
        with np.errstate(invalid="ignore"):  # a class without rows: NaN, and so its scores
            self._means = members.T @ X / self._counts[:, None] - self._centre
        centred = X - self._centre
        self._covariance = (centred * weights[:, None]).T @ centred / total
        self._weights = weights

    def resampled(self, rng):
        """Return the same with its rows drawn with replacement."""
        copy = object.__new__(LabelledEmbeddings)
        copy.__dict__.update(self.__dict__)
        n = len(self.embeddings)
        copy._weigh(np.bincount(rng.randint(n, size=n), minlength=n).astype(np.float64))
        return copy

    def spread(self, texts):
        """Return the standard deviation of each concept's similarity over the rows, (m,)."""
        covariance = self._covariance.astype(texts.dtype, copy=False)
        variance = np.einsum("md,md->m", texts @ covariance, texts)
        return np.sqrt(np.maximum(variance, 0.0))

    def score(self, kind, texts, column, rng):
        """Return how much each concept tells about one class.

        Parameters
        ----------
        kind : {"mi", "auroc", "welch", "similarity", "random"}
        texts : ndarray of shape (m, d)
            L2-normalised concept embeddings. Products are in their precision, float32 or float64:
            a million of them in float64 would take twice the time and memory.
        column : int or None
            The class; None takes the best over all classes.
        rng : numpy.random.RandomState
            For "random".

        Returns
        -------
        ndarray of shape (m,), float64
            Of a concept with one similarity for all images: that of knowing nothing.
        """
        if kind == "random":
            return rng.random_sample(len(texts))
        out = np.empty(len(texts))
        one_by_one = kind in ("auroc", "welch")
        rows = len(self.embeddings) if one_by_one else max(self.members.shape[1], 64)
        step = max(1, _CHUNK // rows)
        for start in range(0, len(texts), step):
            part = slice(start, start + step)
            out[part] = getattr(self, f"_{kind}")(texts[part], column)
        return out

    def _standardised(self, texts):
        """Return class means in standard deviations, (C, m), and which concepts are constant."""
        spread = self.spread(texts)
        dead = spread <= 1e-9
        means = self._means.astype(texts.dtype, copy=False)
        return (means @ texts.T) / np.where(dead, np.inf, spread), dead

    def _mi(self, texts, column):
        """Bits by which knowing the concept parts the classes: KL(P(class | concept) ‖ uniform)."""
        z, dead = self._standardised(texts)
        z = z[self._counts > 0]
        # log K - H(P), with H from one pass of exponentials: the largest part of the time
        z -= z.max(axis=0)
        share = np.exp(z)
        total = share.sum(axis=0)
        mean = np.einsum("km,km->m", share, z) / total
        bits = (np.log(len(z)) + mean - np.log(total)) / np.log(2)
        return np.where(dead, 0.0, np.maximum(bits, 0.0))

    def _similarity(self, texts, column):
        """Mean similarity of the class's images, in standard deviations over all images."""
        if column is None:
            return np.nanmax(self._standardised(texts)[0], axis=0)
        spread = self.spread(texts)
        mean = texts @ self._means[column].astype(texts.dtype, copy=False)
        return np.where(spread > 1e-9, mean / np.maximum(spread, 1e-9), 0.0)

    def _welch(self, texts, column):
        """Welch's t of the class's images against the rest."""
        columns = range(len(self._counts)) if column is None else [column]
        total, n = self.spread(texts) ** 2, self._weights.sum()
        best = np.full(len(texts), -np.inf)
        for k in columns:
            rows = self.members[:, k] & (self._weights > 0)
            own, rest = self._counts[k], n - self._counts[k]
            if min(own, rest) < 2:
                best = np.maximum(best, 0.0)
                continue
            mean = self._means[k] @ texts.T
            D = (self.embeddings[rows] - self._centre) @ texts.T
            squares = self._weights[rows] @ D**2
            rest_mean = -own * mean / rest  # all means are about the overall mean
            own_var = np.maximum(squares - own * mean**2, 0.0) / (own - 1)
            rest_var = np.maximum(n * total - squares - rest * rest_mean**2, 0.0) / (rest - 1)
            error = np.sqrt(own_var / own + rest_var / rest)
            t = np.divide(mean - rest_mean, error, out=np.zeros_like(mean), where=error > 1e-12)
            best = np.maximum(best, t)
        return best

    def _auroc(self, texts, column):
        """Chance that an image of the class has a higher similarity than one of the rest."""
        columns = range(len(self._counts)) if column is None else [column]
        rows = np.repeat(np.arange(len(self._weights)), self._weights.astype(int))
        ranks = rankdata(self.embeddings[rows] @ texts.T, axis=0)
        best = np.zeros(len(texts))
        for k in columns:
            own = self.members[rows, k]
            a, b = own.sum(), len(own) - own.sum()
            if not a or not b:
                best = np.maximum(best, 0.5)
                continue
            area = (ranks[own].sum(axis=0) - a * (a + 1) / 2) / (a * b)
            best = np.maximum(best, area)
        return best
