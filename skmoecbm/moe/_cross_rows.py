"""Streams of tokens as tensors: standardised, padded, some rows at a time."""

import numpy as np
import torch

from skmoecbm.moe._cross_streams import ColumnStream

__all__ = ["StreamRows", "moments", "pieces", "scaled_rows"]

# Numbers that a forward pass may hold at a time: 64 MB of float64.
_AT_ONCE = 2**23


class StreamRows:
    """Rows of a stream that become standardised tensors when they are needed.

    Parameters
    ----------
    stream : TokenStream or ColumnStream
    mean, scale : ndarray of shape (d,)
    device : torch.device
    """

    def __init__(self, stream, mean, scale, device):
        self.stream, self.mean, self.scale, self.device = stream, mean, scale, device

    def __len__(self):
        """Return the number of rows."""
        return len(self.stream)

    def __getitem__(self, rows):
        """Return some rows."""
        rows = rows.cpu().numpy() if isinstance(rows, torch.Tensor) else rows
        return StreamRows(self.stream.take(rows), self.mean, self.scale, self.device)

    def padded(self):
        """Return tokens (b, T, d), or (b, m) of columns, and which are real, (b, T), bool.

        float64 where the tokens are, else float32; zero where no token is.
        """
        tokens, mask = self.stream.padded()
        dtype = np.float64 if tokens.dtype == np.float64 else np.float32
        # In the tokens' own precision: float64 of all of them would be most of the work.
        z = (tokens - self.mean.astype(dtype)) / self.scale.astype(dtype)
        z = np.where(mask if z.ndim == 2 else mask[:, :, None], z, dtype(0))
        return torch.as_tensor(z, device=self.device), torch.as_tensor(mask, device=self.device)


def scaled_rows(model, streams, device):
    """Return streams whose rows become standardised tensors, and who is present, (n, M).

    Parameters
    ----------
    model : CrossModalMoEClassifier
        With `token_means_` and `token_scales_`.
    streams : iterable of TokenStream or ColumnStream
    device : torch.device
    """
    streams = list(streams)
    scales = zip(streams, model.token_means_, model.token_scales_, strict=True)
    rows = [StreamRows(stream, mean, scale, device) for stream, mean, scale in scales]
    present = np.stack([stream.present for stream in streams], axis=1)
    return rows, torch.as_tensor(present, device=device)


def pieces(x, present, width):
    """Yield some rows at a time, so many that their tokens fit into memory.

    Parameters
    ----------
    x : list of StreamRows
    present : tensor of shape (n, M), bool
    width : int
        What tokens are projected to.
    """
    longest = [int(rows.stream.lengths.max(initial=0)) for rows in x]
    numbers = sum(
        tokens * (1 if isinstance(rows.stream, ColumnStream) else rows.stream.width)
        + tokens * 4 * width
        for tokens, rows in zip(longest, x, strict=True)
    )
    numbers += longest[0] * longest[-1]
    step = max(1, _AT_ONCE // max(numbers, 1))
    for start in range(0, len(present), step):
        some = slice(start, start + step)
        yield [rows[some] for rows in x], present[some]


def moments(stream, weights):
    """Return mean and deviation of the numbers of a stream's tokens, each (d,), float64.

    A row counts by its weight, however many tokens it has; a number that does not vary has the
    deviation 1.

    Parameters
    ----------
    stream : TokenStream or ColumnStream
    weights : ndarray of shape (n,)
    """
    weights = weights * stream.present
    if not weights.any():  # its only rows are held out
        weights = stream.present.astype(float)
    weights = weights / weights.sum()
    if isinstance(stream, ColumnStream):

        def parts():
            yield weights, np.where(stream.present[:, None], stream.values, 0.0)
    else:
        by_token = np.repeat(weights / np.maximum(stream.lengths, 1), stream.lengths)

        def parts():
            at = 0
            for chunk in stream.chunks():
                yield by_token[at : at + len(chunk)], chunk.astype(np.float64, copy=False)
                at += len(chunk)

    mean = sum(w @ values for w, values in parts())
    scale = np.sqrt(sum(w @ np.square(values - mean) for w, values in parts()))
    return mean, np.where(scale > 1e-12 * (1 + np.abs(mean)), scale, 1.0)
