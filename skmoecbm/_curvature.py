"""Coordinates in which the loss of an association is nearly a sphere.

A logistic loss curves along the concepts as the correlations among its undecided rows do:
H_k = sum_i p_ik (1 - p_ik) z_i z_i' + alpha / n for class k. Concept similarities are so strongly
correlated (one eigenvalue in the hundreds) that plain descent crawls; in the coordinates here a
few dozen steps do. Only speed depends on them, never the solution.
"""

import torch

from skmoecbm._products import inverse_triangles, product

__all__ = ["Curvature"]

# Up to this many numbers (128 MB) and concepts each class has a matrix of its own; beyond, all
# share one eigenbasis.
_OWN_NUMBERS = 2**24
_DENSE_SIZE = 2048
# Rows that make up this much of all undecidedness tell how the loss curves.
_MASS = 0.95


class Curvature:
    """How the loss curves around a point.

    Parameters
    ----------
    similarities : Similarities or FoldedSimilarities
        Of shape (n, m).
    undecided : torch.Tensor of shape (n, K') or (n, 1)
        p (1 - p) of each row at the point, by its share, for each class or summed over them: then
        the eigenbasis of one matrix serves all classes, up to its size, and all penalties.
    size : torch.Tensor of shape (K',)
        The sums of p (1 - p) by class.
    scale : torch.Tensor of shape (m,)
        Standard deviations of the similarities. All folds share the coordinates D / scale: with
        their own scales, a hundredth apart, the small eigenvalues of one would drown in the large
        ones of another.
    """

    def __init__(self, similarities, undecided, size, scale):
        n_outputs, n_concepts = len(size), similarities.shape[1]
        self.size, self.scale = size, scale
        shared = undecided.shape[1] == 1 and n_outputs > 1
        self._thin = shared or not self.has_room(n_outputs, n_concepts)
        weights = _heaviest(undecided / undecided.sum(0), n_concepts)
        centres = similarities.transposed_times(weights)
        self.centre = centres.expand(n_outputs, -1)
        if self._thin:
            self._basis = similarities.eigenbasis(weights[:, 0], centres[0], scale)
            return
        grams = [
            similarities.correlations(w, c, scale) for w, c in zip(weights.T, centres, strict=True)
        ]
        self._grams = torch.stack(grams) * self.size[:, None, None]

    @staticmethod
    def has_room(n_outputs, n_concepts):
        """Return whether each class can have a matrix of its own."""
        return n_concepts <= _DENSE_SIZE and n_outputs * n_concepts**2 <= _OWN_NUMBERS

    def coordinates(self, penalty):
        """Return a function from coordinates (F, K', m) to steps of A, and its transpose.

        Parameters
        ----------
        penalty : torch.Tensor, scalar
            alpha / n.
        """
        if self._thin:
            basis, spectrum = self._basis
            stiff = (self.size[:, None] * spectrum + penalty).rsqrt()
            loose = penalty.rsqrt()

            def stretch(rows):
                """Multiply by the symmetric square root of the inverse curvature."""
                along = product(rows.flatten(0, -2), basis).view(*rows.shape[:-1], -1)
                along = ((stiff - loose) * along).flatten(0, -2)
                return loose * rows + product(along, basis.T).view_as(rows)

            return stretch, stretch
        identity = torch.eye(self._grams.shape[-1]).to(self._grams)
        lower = torch.linalg.cholesky(self._grams + penalty * identity)
        inverse = inverse_triangles(lower)

        def forward(rows):
            return _by_class(rows, inverse)

        def backward(rows):
            return _by_class(rows, inverse.transpose(1, 2))

        return forward, backward


def _by_class(rows, matrices):
    """Return rows (F, K', m) times the matrix (m, m) of each class."""
    parts = [product(own, matrix) for own, matrix in zip(rows.unbind(1), matrices, strict=True)]
    return torch.stack(parts, dim=1)


def _heaviest(weights, n_least):
    """Return weights (n, k), the rows that weigh least left out of each column.

    A few decided rows in a hundred of a rare class change how its loss curves by as little as they
    weigh, and most of the products are theirs.
    """
    if len(weights) <= 2 * n_least:
        return weights
    ordered, rows = weights.sort(0, descending=True)
    kept = ordered.cumsum(0) - ordered < _MASS
    kept[:n_least] = True
    weights = torch.zeros_like(weights).scatter_(0, rows, torch.where(kept, ordered, 0.0))
    return weights / weights.sum(0)
