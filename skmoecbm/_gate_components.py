"""Principal components of similarities that are too many to be made at once."""

import numpy as np
import torch
from scipy.linalg import eigh

from skmoecbm._row_blocks import CentredRows
from skmoecbm._similarities import FoldedSimilarities
from skmoecbm._spanned import span

__all__ = ["folded", "folded_components", "folded_moments", "tiled_scores"]

_CPU = torch.device("cpu")


def folded(expert):
    """Return the folded similarities of an expert with embeddings."""
    rows = CentredRows(expert.block.embeddings, _CPU, None, expert.present)
    return FoldedSimilarities(rows, expert.block.texts, _CPU)


def folded_moments(similarities, weights):
    """Return weighted mean and deviation (m,) of each concept, 1 where it does not vary."""
    share = torch.as_tensor(weights / weights.sum())
    mean = similarities.transposed_times(share[:, None])[0]
    variance = similarities.second_moments(share[None])[0] - mean.square()
    mean = (mean + similarities.offset).numpy()
    scale = np.sqrt(np.maximum(variance.numpy(), 0.0))
    return mean, np.where(scale > 1e-10 * np.maximum(np.abs(mean), 1e-6), scale, 1.0)


def folded_components(parts, means, scales, present, weights, n_components):
    """Return the leading principal axes of all standardised similarities side by side.

    The similarities of an expert lie in the span of its embeddings' dimensions, z = y Q' with
    orthonormal Q, so the axes of all are those of the y, mapped by Q.

    Parameters
    ----------
    parts : list of FoldedSimilarities
    means, scales : list of ndarray of shape (m_e,)
    present : ndarray of shape (n, E), bool
        An absent expert counts as average.
    weights : ndarray of shape (n,)
    n_components : int

    Returns
    -------
    axes : ndarray of shape (q, sum of m_e)
        Of unit length; of `n_components` those of an eigenvalue that is not rounding.
    values : ndarray of shape (q,)
        Variances along them, largest first.
    """
    spans = [span(part, torch.as_tensor(own)) for part, own in zip(parts, scales, strict=True)]
    middles = [
        (torch.as_tensor(mean) - part.offset) / torch.as_tensor(scale)
        for part, mean, scale in zip(parts, means, scales, strict=True)
    ]
    # The mean of y is that of z, mapped back: z's mean is 0 of the rows that are there.
    shifts = []
    for part, middle, scale, (_, back) in zip(parts, middles, scales, spans, strict=True):
        scaled = middle / torch.as_tensor(scale)
        shifts.append(sum(scaled[own] @ texts for own, texts in part.text_blocks()) @ back)
    share = torch.as_tensor(weights / weights.sum())
    seen = torch.as_tensor(present)
    gram = 0.0
    # Blocks of one length for all, whose widths may differ.
    width = max(sum(len(basis) for basis, _ in spans), *(part.rows.shape[1] for part in parts))
    for blocks in zip(*(part.blocks(width) for part in parts), strict=True):
        rows = blocks[0][0]
        y = [
            (block @ basis.T - shift) * seen[rows, e : e + 1]
            for e, ((_, block), (basis, _), shift) in enumerate(
                zip(blocks, spans, shifts, strict=True)
            )
        ]
        y = torch.cat(y, dim=1) * share[rows].sqrt()[:, None]
        gram = gram + y.T @ y
    kept = min(n_components, len(gram), len(weights))
    values, vectors = eigh(gram.numpy(), subset_by_index=[len(gram) - kept, len(gram) - 1])
    values, vectors = values[::-1], vectors[:, ::-1]
    real = values > 1e-8 * max(values[0], 1e-300)
    values, vectors, start, axes = values[real], vectors[:, real], 0, []
    for part, scale, (basis, back) in zip(parts, scales, spans, strict=True):
        own = back @ torch.as_tensor(np.ascontiguousarray(vectors[start : start + len(basis)]))
        start += len(basis)
        scale = torch.as_tensor(scale)
        axes.append(
            torch.cat([(texts @ own) / scale[mine, None] for mine, texts in part.text_blocks()])
        )
    return torch.cat(axes).T.numpy(), values


def tiled_scores(expert, present, mean, scale, components):
    """Return the scores (n, q) of an expert's similarities on components (q, m), 0 where absent."""
    scores = np.zeros((expert.shape[0], len(components)))
    for rows, concepts, values in expert.tiles():
        z = (values - mean[concepts]) / scale[concepts]
        scores[rows] += np.where(present[rows, None], z, 0.0) @ components[:, concepts].T
    return scores
