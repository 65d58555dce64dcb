"""Rows of embeddings about their mean, in float64, a block of rows at a time."""

import numpy as np
import torch

__all__ = ["HELD_NUMBERS", "CentredRows", "block_size"]

# Numbers that each of the temporaries of one block may hold, 8 MB of them: smaller blocks pay in
# calls, larger ones fall out of the caches and, ten or so at a time, into the peak of memory.
_BLOCK_NUMBERS = 2**20
_LEAST_ROWS = 256

#: Rows of up to this many numbers (256 MB in float64) are centred and widened once and kept; beyond
#: it, each time anew from where they lie, block by block.
HELD_NUMBERS = 2**25


def block_size(width):
    """Return how many rows a block has where its widest temporary is `width` numbers wide."""
    return max(_LEAST_ROWS, _BLOCK_NUMBERS // max(width, 1))


class CentredRows:
    """Embeddings minus their mean, as blocks of rows.

    The embeddings stay where they are, a memory map on the disk too: no copy of all rows is made
    unless they are few.

    Parameters
    ----------
    embeddings : array-like of shape (N, d), float
    device : torch.device
        Where the blocks are wanted, in float64.
    rows : ndarray of int, or None
        Only these; None is all.
    present : ndarray of shape (N,), bool, or None
        False for rows to be taken as the mean, whatever they hold; None is all.

    Attributes
    ----------
    mean : torch.Tensor of shape (d,)
        Of the present rows.
    shape : tuple (n, d)
    """

    def __init__(self, embeddings, device, rows=None, present=None):
        embeddings = np.asanyarray(embeddings)
        if rows is not None and len(rows) < len(embeddings):
            embeddings = embeddings[rows]
            present = None if present is None else np.asarray(present)[rows]
        self._source, self._device = embeddings, device
        self._present = None if present is None or present.all() else np.asarray(present)
        self.shape, self._held = embeddings.shape, None
        self.mean = torch.zeros(self.shape[1], dtype=torch.float64, device=device)
        total = sum(block.sum(0) for _, block in self.blocks())
        count = self.shape[0] if self._present is None else int(self._present.sum())
        self.mean = total / max(count, 1)
        if self.shape[0] * self.shape[1] <= HELD_NUMBERS:
            self._held = self._read(slice(0, self.shape[0]))

    def _read(self, rows):
        # A copy, also of float64: it is changed below.
        block = np.array(self._source[rows], dtype=np.float64)
        block = torch.as_tensor(block, device=self._device).sub_(self.mean)
        if self._present is not None:
            block[torch.as_tensor(~self._present[rows], device=self._device)] = 0.0
        return block

    def take(self, rows):
        """Return some rows about the mean, given by a tensor of numbers."""
        return self._read(rows.cpu().numpy()) if self._held is None else self._held[rows]

    def blocks(self, width=1):
        """Yield slices of the rows with these rows, (c, d).

        Parameters
        ----------
        width : int, default=1
            Numbers per row of what is made from a block, beside the d of the row itself.
        """
        n, d = self.shape
        size = block_size(max(width, d))
        for start in range(0, n, size):
            rows = slice(start, min(start + size, n))
            yield rows, self._read(rows) if self._held is None else self._held[rows]
