"""Labels of which a row may have several, as the fits want them."""

from dataclasses import dataclass

import numpy as np

__all__ = ["LabelMatrix", "is_exclusive", "label_log_odds"]


@dataclass
class LabelMatrix:
    """One column per label; stands where a single label has its codes.

    Attributes
    ----------
    values : ndarray of shape (n, L), float64
        1 where the row has the label, else 0; constant between them for a label that the training
        rows say nothing about.
    cells : ndarray of shape (n, L), float64
        How much each cell counts, beside the weight of its row.
    """

    values: np.ndarray
    cells: np.ndarray

    def __len__(self):
        return len(self.values)

    def __getitem__(self, rows):
        return LabelMatrix(self.values[rows], self.cells[rows])


def is_exclusive(codes):
    """Tell whether each row has just one class: codes (n,), not a `LabelMatrix`."""
    return not isinstance(codes, LabelMatrix)


def label_log_odds(labels, weights):
    """Return log(p / (1 - p)) of each label's weighted frequency p, shape (L,), always finite."""
    cells = labels.cells * weights[:, None]
    positive, total = (cells * labels.values).sum(0), cells.sum(0)
    frequency = np.clip(positive / np.where(total > 0, total, 1.0), 1e-12, 1 - 1e-12)
    return np.log(frequency) - np.log1p(-frequency)
