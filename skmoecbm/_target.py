"""The labels as the solvers want them."""

import functools
from dataclasses import dataclass

import numpy as np
import torch

from skmoecbm._labels import is_exclusive
from skmoecbm._row_blocks import block_size

__all__ = ["OneHot", "Target", "class_codes"]


class OneHot:
    """One-hot rows that are made where they are needed: of a thousand classes all are too many.

    Parameters
    ----------
    codes : torch.Tensor of shape (n,), int64
    n_classes : int

    Attributes
    ----------
    codes, shape
    """

    def __init__(self, codes, n_classes):
        self.codes, self.shape = codes, (len(codes), n_classes)

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        """Return some rows, given by a slice, as a dense tensor in float64."""
        return torch.nn.functional.one_hot(self.codes[rows], self.shape[1]).double()


def class_codes(one_hot):
    """Return the number of each row's class, (n,), of one-hot rows (n, K) or an `OneHot`."""
    return one_hot.codes if isinstance(one_hot, OneHot) else one_hot.argmax(1)


@dataclass
class Target:
    """The labels as the solvers want them.

    Attributes
    ----------
    codes : ndarray of shape (n,), int, or LabelMatrix
    n_classes : int
    weights : ndarray of shape (n,), float64
    device : torch.device
    """

    codes: object
    n_classes: int
    weights: np.ndarray
    device: torch.device

    @property
    def exclusive(self):
        """Whether each row has just one class."""
        return is_exclusive(self.codes)

    def matrix(self, rows=slice(None)):
        """One-hot rows, a single 0/1 column for two classes, or one for each label; float64.

        Of many classes an `OneHot`.
        """
        if not self.exclusive:
            return torch.as_tensor(self.codes.values[rows], device=self.device)
        codes = torch.as_tensor(self.codes[rows], device=self.device)
        if self.n_classes == 2:
            return codes[:, None].double()
        one_hot = OneHot(codes, self.n_classes)
        return one_hot[:] if len(codes) <= block_size(self.n_classes) else one_hot

    def cells(self, rows=slice(None)):
        """Weights of the cells of `matrix`, None where each row has just one class."""
        if self.exclusive:
            return None
        return torch.as_tensor(self.codes.cells[rows], device=self.device)

    @functools.cached_property
    def base_rate(self):
        """Weighted frequencies of the columns of `matrix`, whichever experts saw the rows."""
        weights = torch.as_tensor(self.weights, device=self.device)
        if self.exclusive:
            codes = torch.as_tensor(self.codes, device=self.device)
            mass = torch.bincount(codes, weights, minlength=self.n_classes) / weights.sum()
            return mass[1:] if self.n_classes == 2 else mass
        weights = weights[:, None] * self.cells()
        return (weights * self.matrix()).sum(0) / weights.sum(0)
