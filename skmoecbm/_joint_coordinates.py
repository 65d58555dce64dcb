"""Coordinates in which mini-batches move the linear associations of the joint recipe.

Concept similarities are so correlated that one direction may hold half of their variance and the
classes differ along directions of a millionth of it. A step of Adam is about as long along each
coordinate: along the concepts it is too long for the first of these directions and too short for
the others. Along the whitened directions it moves the logits equally.
"""

import torch

from skmoecbm._products import gram, product, widened

__all__ = ["Steps", "Stretch", "stretches"]

# A direction of its own for so many rows per number that is learned along it; what varies less
# than the last of these is not told from noise, and is stretched no further.
_ROWS_PER_NUMBER = 30
# Rows, evenly spaced, whose correlations are looked at. Only the coordinates depend on them.
_MOST_ROWS = 2048
# Of eigenvalues past this share of the rows a sample says little.
_SEEN = 1 / 8
# Steps of unit length along each of so many independent concepts; of more, logits would jump.
_STEP_VARIANCE = 100.0
# Up to this many concepts the stretch is one matrix.
_DENSE_SIZE = 2048


class Stretch:
    """The symmetric C = (V L V' + e)^(-1/2) of an expert's correlations V L V'.

    Symmetric, so that it depends on the correlations alone and not on which eigenvectors stand
    for eigenvalues that are alike; and the coordinates stay those of the concepts.

    Parameters
    ----------
    values : torch.Tensor of shape (n, m), float64
        Standardised similarities of training rows, 0 where absent.
    weights : torch.Tensor of shape (n,)
        Of the rows, 0 where absent.
    n_outputs : int
        Numbers that are learned per direction.
    least : float
        At least this stands beside the eigenvalues: the penalty in units of the loss's curvature.
    """

    def __init__(self, values, weights, n_outputs, least=0.0):
        n_directions = int((weights > 0).sum()) // (_ROWS_PER_NUMBER * n_outputs)
        step = -(-len(values) // _MOST_ROWS)
        values, weights = values[::step], weights[::step]
        z = values * (weights / weights.sum().clamp_min(1e-300)).sqrt()[:, None]
        if len(z) >= z.shape[1]:
            spectrum, basis = torch.linalg.eigh(gram(z))
        else:
            spectrum, left = torch.linalg.eigh(gram(z.T))
            basis = z.T @ left / spectrum.clamp_min(1e-300).sqrt()
        kept = spectrum > max(1e-10 * float(spectrum[-1]), 1e-300)
        spectrum, basis = spectrum[kept], basis[:, kept]
        n_directions = min(max(1, n_directions), max(1, int(_SEEN * len(z))), len(spectrum))
        floor, unit = 1.0, 1.0
        if n_directions:  # else nothing varies
            floor = max(float(spectrum[-n_directions]), least)
            # A step of many concepts moves the logits no further than a hundred single ones do.
            spread = min(float(spectrum.sum()), _STEP_VARIANCE)
            unit = (spread / float((spectrum / (spectrum + floor)).sum())) ** 0.5
        self._loose, stiff = unit * floor**-0.5, unit * (spectrum + floor).rsqrt()
        self._basis, self._along = basis, stiff - self._loose
        self._whole = None
        if len(basis) <= _DENSE_SIZE:
            identity = torch.eye(len(basis)).to(basis)
            self._whole = (basis * self._along) @ basis.T + self._loose * identity

    def __call__(self, rows):
        """Return rows @ C for rows (K', m)."""
        if self._whole is not None:
            return product(widened(rows.detach()), self._whole)[: len(rows)]
        return self._loose * rows + (rows @ self._basis * self._along) @ self._basis.T


def stretches(model, rows, l1):
    """Return the `Stretch` of each expert; None where it moves along the concepts themselves.

    Parameters
    ----------
    model : JointModel
    rows : JointRows
        Those that train.
    l1 : float
        The L1 penalty. It is about single concepts, and asks for their own coordinates.
    """
    if model.softmax or l1:
        return [None] * len(model.matrices)
    share = rows.shares[:, None] if rows.cells is None else rows.shares[:, None] * rows.cells
    frequency = (share * rows.labels).sum(0) / share.sum(0)
    # How the loss curves at the start, by the mixed logits, of which each expert has its part.
    curving = float((frequency * (1.0 - frequency)).mean()) / len(model.matrices) ** 2
    least = 2.0 * model.pull / max(curving, 1e-300)
    return [
        Stretch(values, rows.shares * rows.present[:, e], len(matrix), least)
        for e, (values, matrix) in enumerate(zip(rows.values, model.matrices, strict=True))
    ]


class Steps:
    """What an optimizer moves in the place of the associations: M in A = A0 + M C.

    Parameters
    ----------
    model : JointModel
        At its start A0.
    stretches : list of (Stretch or None)
        One per expert; None moves A itself.
    """

    def __init__(self, model, stretches):
        self._matrices, self._stretches = model.matrices, stretches
        self._starts = [matrix.detach().clone() for matrix in model.matrices]
        self.tensors = [
            matrix if stretch is None else torch.zeros_like(matrix).requires_grad_(True)
            for matrix, stretch in zip(model.matrices, stretches, strict=True)
        ]

    def take(self, gradients):
        """Set the gradients of `tensors` from those by the associations."""
        for tensor, gradient, stretch in zip(self.tensors, gradients, self._stretches, strict=True):
            own = gradient if stretch is None else stretch(gradient)
            tensor.grad = own.contiguous()

    def put(self):
        """Set the associations to where `tensors` have moved."""
        parts = zip(self._matrices, self.tensors, self._starts, self._stretches, strict=True)
        with torch.no_grad():
            for matrix, tensor, start, stretch in parts:
                if stretch is not None:
                    matrix.copy_(start + stretch(tensor))
