"""Training rows as tensors: modalities, presence, labels, weights, and the loss of each."""

import torch

__all__ = ["Rows"]


class Rows:
    """Rows as tensors: modalities, presence, labels, weights."""

    def __init__(self, x, present, target):
        self.x, self.present = x, present
        device = present.device
        self.exclusive = target.exclusive
        self.cells = None
        if self.exclusive:
            self.labels = torch.as_tensor(target.codes, device=device)
        else:
            self.labels = torch.as_tensor(target.codes.values, device=device)
            self.cells = torch.as_tensor(target.codes.cells, device=device)
        self.share = torch.as_tensor(target.weights, device=device)

    def take(self, rows):
        """Return some rows, given by number."""
        rows = torch.as_tensor(rows, device=self.present.device)
        other = object.__new__(Rows)
        other.exclusive = self.exclusive
        other.x = [part[rows] for part in self.x]
        for name in ("present", "labels", "share", "cells"):
            value = getattr(self, name)
            setattr(other, name, None if value is None else value[rows])
        return other

    def losses(self, logits):
        """Return the loss of each row, (n,)."""
        functional = torch.nn.functional
        if not self.exclusive:
            losses = functional.binary_cross_entropy_with_logits(
                logits, self.labels, reduction="none"
            )
            return (losses * self.cells).sum(1)
        if logits.shape[1] == 1:
            return functional.binary_cross_entropy_with_logits(
                logits[:, 0], self.labels.double(), reduction="none"
            )
        return functional.cross_entropy(logits, self.labels, reduction="none")
