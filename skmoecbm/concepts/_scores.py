"""How much a concept tells about a class: scores from labelled embeddings."""

import numpy as np
from scipy.linalg.blas import get_blas_funcs
from scipy.sparse import csr_array
from scipy.stats import rankdata

from skmoecbm.concepts._threads import map_threads
from skmoecbm.exceptions import InputError

__all__ = ["RELEVANCE", "LabelledEmbeddings"]

RELEVANCE = ("mi", "auroc", "welch", "similarity", "random")

# Similarities held at a time: of images, few enough for memory; of class means, for a core's cache.
_CHUNK = 2**24
_CACHED = 2**19

# A concept whose similarities spread less than this, in lengths of embedding times concept, is
# constant: float32 embeddings have errors of some 1e-7 of it, and a rank of errors is no score.
_CONSTANT = 1e-6


class LabelledEmbeddings:
    """Image embeddings and their classes, as the scores need them.

    Class means come first, then their product with the concepts: images enter once, whatever the
    number of concepts (MATHS section 4). Only `auroc` compares images one by one.

    Parameters
    ----------
    embeddings : array of shape (n, d)
        All-NaN rows (missing images) are left out with their labels.
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
        If lengths differ, a row is infinite or NaN in part, or fewer than two classes are left.
    """

    def __init__(self, embeddings, y, owner):
        X, y = np.asarray(embeddings, dtype=np.float64), np.asarray(y)
        if X.ndim != 2 or len(X) != len(y):
            raise InputError(
                f"{owner} needs one label per image, and embeddings of shape (n, d). Got {len(y)} "
                f"labels for {len(X)} images of shape {X.shape}."
            )
        seen = _seen_rows(X, owner)
        self.embeddings, y = X[seen], y[seen]
        if y.ndim == 1 and any(label is None or label != label for label in y.tolist()):
            raise InputError(f"{owner} needs a label for each image; y has missing ones.")
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
        # sparse: a full product would be the longest step where there are many classes
        self._class_sums = csr_array(self.members.T, dtype=np.float64)
        self._weigh(np.ones(len(self.embeddings)))

    def _weigh(self, weights):
        """Take the moments of the rows, each counted `weights` times."""
        X = self.embeddings
        total = weights.sum()
        self._centre = weights @ X / total
        self._counts = self._class_sums @ weights
        centred = X - self._centre
        weighted = centred * weights[:, None]
        with np.errstate(invalid="ignore"):  # a class without rows: NaN, and so its scores
            self._means = self._class_sums @ weighted / self._counts[:, None]
        # Lengths of the root R of the covariance RᵀR times a concept are spreads: squares would
        # lose half of the digits, which in float32 a concept of small spread needs.
        values, vectors = np.linalg.eigh(weighted.T @ centred / total)
        root = np.linalg.qr((vectors * np.sqrt(np.maximum(values, 0.0))).T, mode="r")
        self._root = np.asfortranarray(root)
        self._length = np.sqrt(weights @ np.einsum("nd,nd->n", X, X) / total)
        self._weights = weights

    def resampled(self, rng):
        """Return the same with its rows drawn with replacement."""
        copy = object.__new__(LabelledEmbeddings)
        copy.__dict__.update(self.__dict__)
        n = len(self.embeddings)
        copy._weigh(np.bincount(rng.randint(n, size=n), minlength=n).astype(np.float64))
        return copy

    def spread(self, texts):
        """Return the standard deviation of each concept's similarity over the rows, (m,).

        Exactly 0 where it is no more than rounding.
        """
        product = get_blas_funcs("trmm", (texts,))  # half the work of a full product
        root = self._root.astype(texts.dtype, copy=False)
        images = product(1.0, root, np.ascontiguousarray(texts).T).T
        spread = np.sqrt(np.einsum("md,md->m", images, images))
        lengths = np.sqrt(np.einsum("md,md->m", texts, texts))
        return np.where(spread > _CONSTANT * self._length * lengths, spread, 0.0)

    def score(self, kind, texts, column, rng, rows=None):
        """Return how much each concept tells about one class.

        Parameters
        ----------
        kind : {"mi", "auroc", "welch", "similarity", "random"}
        texts : ndarray of shape (m, d)
            L2-normalised concept embeddings. Products are in their precision, float32 or float64:
            a million of them in float64 would take twice the time and memory.
        column : int or None
            The class; None takes the best over all classes. Not read for "mi" and "random".
        rng : numpy.random.RandomState
            For "random".
        rows : ndarray of shape (k,), int, default=None
            Which of `texts` to score; None takes all.

        Returns
        -------
        ndarray of shape (k,), float64
            Of a concept with one similarity for all images: that of knowing nothing.
        """
        rows = np.arange(len(texts)) if rows is None else rows
        if kind == "random":
            return rng.random_sample(len(rows))
        out = np.empty(len(rows))
        if kind in ("auroc", "welch"):  # compare images one by one
            step = max(1, _CHUNK // len(self.embeddings))
        else:
            step = max(64, _CACHED // self.members.shape[1])

        def fill(start):
            part = slice(start, start + step)
            some = texts[rows[part]]
            spread = self.spread(some)
            score = getattr(self, f"_{kind}")(some, column, np.where(spread > 0, spread, np.inf))
            out[part] = np.where(spread > 0, score, 0.5 if kind == "auroc" else 0.0)

        starts = range(0, len(rows), step)
        if kind in ("auroc", "welch"):  # each part as large as memory allows: one by one
            for start in starts:
                fill(start)
        else:
            map_threads(fill, starts)
        return out

    def _mi(self, texts, column, spread):
        """Bits by which knowing the concept parts the classes: KL(P(class | concept) ‖ uniform)."""
        z = self._standardised_means(texts, spread)
        # log K - H(P), with H from one pass of exponentials
        z -= z.max(axis=0)
        share = np.exp(z)
        total = share.sum(axis=0)
        mean = np.einsum("km,km->m", share, z) / total
        return np.maximum((np.log(len(z)) + mean - np.log(total)) / np.log(2), 0.0)

    def _standardised_means(self, texts, spread):
        """Return the means of the classes that have rows, in standard deviations, (C, m)."""
        means = self._means[self._counts > 0].astype(texts.dtype, copy=False)
        return means @ (texts / spread[:, None].astype(texts.dtype)).T

    def _similarity(self, texts, column, spread):
        """Mean similarity of the class's images, in standard deviations over all images."""
        if column is None:
            return self._standardised_means(texts, spread).max(axis=0)
        return texts @ self._means[column].astype(texts.dtype, copy=False) / spread

    def _welch(self, texts, column, spread):
        """Welch's t of the class's images against the rest."""
        columns = range(len(self._counts)) if column is None else [column]
        total, n = spread**2, self._weights.sum()
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
            # without spread inside the two groups t would be infinite
            best = np.maximum(best, (mean - rest_mean) / np.maximum(error, _CONSTANT * spread))
        return best

    def _auroc(self, texts, column, spread):
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


def _seen_rows(X, owner):
    """Return which rows of embeddings are there; infinite or partly NaN ones are an error."""
    missing = np.isnan(X)
    seen = ~missing.all(axis=1)
    for bad, what in ((np.isinf(X), "infinite"), (missing & seen[:, None], "partly NaN")):
        rows = np.flatnonzero(bad.any(axis=1))
        if rows.size:
            listed = ", ".join(map(str, rows[:5])) + (", ..." if rows.size > 5 else "")
            raise InputError(
                f"{owner}: {rows.size} row(s) of the embeddings are {what} (rows {listed}). Embed "
                "these images again, or set the whole row to NaN: it then counts as missing."
            )
    return seen
