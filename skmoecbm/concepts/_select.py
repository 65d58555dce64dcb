"""Which concepts to keep."""

import numpy as np
from scipy.special import log_softmax
from sklearn.base import BaseEstimator

from skmoecbm._validation import check_number, parameter_error
from skmoecbm.exceptions import InputError

__all__ = ["TopKConcepts"]


class TopKConcepts(BaseEstimator):
    """Keep the concepts whose similarity tells classes apart best.

    The score of a concept is the divergence of P(class | concept) from uniform, with P the softmax
    over classes of the class means of its similarity, each in units of the similarity's standard
    deviation over images. Unlike LaBo's score it is defined for similarities of any sign, and
    neither adding a constant to a concept's similarities nor scaling them changes it.

    Parameters
    ----------
    k : int, default=25
        How many to keep.
    per_class : bool, default=True
        Keep k for each class, among the concepts written for it; k in all where the bank has no
        classes, or if False.

    Attributes
    ----------
    scores_ : ndarray of shape (m,), float64
        Divergence in nats, in [0, log C].
    support_ : ndarray of int
        The concepts kept, ascending.

    References
    ----------
    Yang et al., "Language in a Bottle", CVPR 2023, equation 3 (the score this one replaces).

    Examples
    --------
    >>> import numpy as np
    >>> from skmoecbm.concepts import TopKConcepts
    >>> X = np.array([[1.0, 0.1], [1.0, -0.1], [-1.0, 0.1], [-1.0, -0.1]])
    >>> TopKConcepts(1).fit(X, ["a", "a", "b", "b"], np.eye(2)).support_
    array([0])
    """

    def __init__(self, k=25, *, per_class=True):
        self.k = k
        self.per_class = per_class

    def fit(self, embeddings, y, concept_embeddings, incidence=None):
        """Score the concepts and choose.

        Parameters
        ----------
        embeddings : array of shape (n, d)
            L2-normalised image embeddings; all-NaN rows are left out.
        y : array of shape (n,)
            Class labels.
        concept_embeddings : array of shape (m, d)
            L2-normalised concept embeddings.
        incidence : array of shape (m, C), bool, default=None
            Whether a concept was written for a class.

        Returns
        -------
        self

        Raises
        ------
        InputError
            If a parameter is bad, lengths differ, or fewer than two classes are left.
        """
        check_number(self, "k", self.k, low=1, integer=True)
        if not isinstance(self.per_class, bool | np.bool_):
            raise parameter_error(self, "per_class", "True or False", self.per_class)
        X = np.asarray(embeddings, dtype=np.float64)
        T = np.asarray(concept_embeddings, dtype=np.float64)
        y = np.asarray(y)
        if len(X) != len(y):
            raise InputError(
                f"Selecting concepts needs one label per image. Got {len(y)} labels "
                f"for {len(X)} images."
            )
        seen = ~np.isnan(X).any(axis=1)
        X, y = X[seen], y[seen]
        classes, codes = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise InputError(
                f"Selecting concepts needs images of at least two classes. Got {len(classes)}."
            )
        # the class means first, then the product; the spread of X t is that of tᵀ Cov t
        members = np.eye(len(classes))[codes]
        centre = X.mean(axis=0)
        means = (members.T @ (X - centre)) / members.sum(axis=0)[:, None]
        covariance = (X - centre).T @ (X - centre) / len(X)
        spread = np.sqrt(np.maximum(np.einsum("md,md->m", T @ covariance, T), 0.0))
        dead = spread <= 1e-9
        z = (means @ T.T) / np.where(dead, np.inf, spread)
        log_p = log_softmax(z, axis=0)
        self.scores_ = np.log(len(classes)) + np.sum(np.exp(log_p) * log_p, axis=0)
        self.scores_[dead] = 0.0

        groups = [np.arange(len(T))]
        if self.per_class and incidence is not None and np.asarray(incidence).any():
            groups = [np.flatnonzero(column) for column in np.asarray(incidence).T]
        best = [
            group[np.argsort(-self.scores_[group], kind="stable")][: self.k] for group in groups
        ]
        self.support_ = np.unique(np.concatenate(best))
        return self
