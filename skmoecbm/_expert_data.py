"""One expert's rows, of which the similarities are computed when they are asked for."""

import numpy as np

__all__ = ["KEPT_NUMBERS", "ExpertData"]

#: More similarities than these (256 MB) are not made at once where tiles of them do.
KEPT_NUMBERS = 2**25
_TILE_ROWS, _TILE_NUMBERS = 2048, 2**22


class ExpertData:
    """One expert's rows.

    Parameters
    ----------
    name : str
    values : ndarray of shape (n, m), float64, or None
        Similarities; rows of an absent expert are NaN. None where `block` has embeddings, from
        which they are computed when they are asked for.
    present : ndarray of shape (n,), bool
    block : ExpertBlock or None
        Where X was an `ExpertFeatures`: what the priors and the folded products need.
    """

    def __init__(self, name, values, present, block=None):
        self.name, self.present, self.block = name, present, block
        self._values = values

    @property
    def shape(self):
        """Rows and concepts, (n, m)."""
        if self._values is not None:
            return self._values.shape
        return len(self.block), len(self.block.concepts)

    @property
    def values(self):
        """Similarities (n, m), float64; rows of an absent expert are NaN."""
        if self._values is None:
            self._values = self.block.values().astype(np.float64)
        return self._values

    @property
    def folds(self):
        """Whether there are embeddings behind the similarities."""
        return self.block is not None and self.block.embeddings is not None

    @property
    def is_large(self):
        """Whether the similarities are too many to be made at once, and have to come in tiles."""
        n, m = self.shape
        return self._values is None and n * m > KEPT_NUMBERS

    def tiles(self):
        """Yield slices of rows, slices of concepts and the similarities there, float64.

        All concepts of some rows come before the next rows.
        """
        for start in range(0, self.shape[0], _TILE_ROWS):
            rows = slice(start, min(start + _TILE_ROWS, self.shape[0]))
            for columns, values in self.columns(rows):
                yield rows, columns, values

    def columns(self, rows):
        """Yield slices of concepts with their similarities of some rows, float64.

        Parameters
        ----------
        rows : slice or ndarray of int
        """
        rows = np.arange(self.shape[0])[rows]
        size = max(1, _TILE_NUMBERS // len(rows))
        for first in range(0, self.shape[1], size):
            columns = slice(first, min(first + size, self.shape[1]))
            values = np.empty((len(rows), columns.stop - columns.start))
            for start in range(0, len(rows), _TILE_ROWS):  # widened, rows take more than values
                some = slice(start, start + _TILE_ROWS)
                values[some] = self.block.values(rows[some], columns)
            yield columns, values

    def copy(self):
        """Return the same rows, for another presence."""
        # Made once, for all who get a copy; very many are made where they are needed.
        values = None if self.is_large else self.values
        return ExpertData(self.name, values, self.present, self.block)

    def with_values(self, values):
        """Return the same rows with other similarities."""
        return ExpertData(self.name, values, self.present, self.block)

    def take(self, rows):
        """Return some rows, given by number."""
        block = None if self.block is None else self.block.take(rows)
        values = None if self._values is None else self._values[rows]
        return ExpertData(self.name, values, self.present[rows], block)
