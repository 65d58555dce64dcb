"""What `evaluate` computes where a row may have several labels."""

import numpy as np

from skmoecbm._metrics import N_BINS, mean_defined, weighted_auroc

__all__ = ["measure_labels", "weighted_average_precision"]


def measure_labels(truth, proba, predicted, kept, weights):
    """Return every metric under each row of weights.

    Parameters
    ----------
    truth, predicted : ndarray of shape (n, L), float64, 0 or 1
    proba : ndarray of shape (n, L), float64 in [0, 1]
    kept : ndarray of int, the labels that some rows have and some have not
        Those of ranks and F1; log-loss, Brier score and ECE are over all labels.
    weights : ndarray of shape (B, n)

    Returns
    -------
    dict of str to ndarray of shape (B,), or (B, len(kept)) for the metrics of each label
    """
    weights = weights.astype(np.float64)
    total = weights.sum(axis=1)
    eps = np.finfo(np.float64).eps
    said = np.clip(np.where(truth == 1, proba, 1 - proba), eps, 1.0)
    # bins (j/15, (j+1)/15] of each label's own probability
    bins = np.clip(np.ceil(proba * N_BINS).astype(int) - 1, 0, N_BINS - 1)
    gaps = np.zeros((*truth.shape, N_BINS))
    np.put_along_axis(gaps, bins[:, :, None], (truth - proba)[:, :, None], axis=2)
    summed = np.abs(weights @ gaps.reshape(len(truth), -1)) / total[:, None]

    truth_kept, proba_kept = truth[:, kept], proba[:, kept]
    cells = np.repeat(weights, len(kept), axis=1)
    positive = weights @ truth_kept
    hits = weights @ (truth_kept * predicted[:, kept])
    named = weights @ predicted[:, kept]
    columns = list(zip(truth_kept.T == 1, proba_kept.T, strict=True))
    flat = (truth_kept.ravel() == 1, proba_kept.ravel(), cells)
    with np.errstate(invalid="ignore", divide="ignore"):
        auroc, precision = (
            np.stack([metric(*column, weights) for column in columns], axis=1)
            if columns
            else np.empty((len(weights), 0))
            for metric in (weighted_auroc, weighted_average_precision)
        )
        # a resample that has no case of a label tells nothing about its F1
        f1 = np.where(positive > 0, 2 * hits / (positive + named), np.nan)
        micro = 2 * hits.sum(1) / (positive.sum(1) + named.sum(1))
        return {
            "macro_auroc": mean_defined(auroc),
            "micro_auroc": weighted_auroc(*flat) if columns else np.full(len(weights), np.nan),
            "macro_average_precision": mean_defined(precision),
            "micro_average_precision": (
                weighted_average_precision(*flat) if columns else np.full(len(weights), np.nan)
            ),
            "macro_f1": mean_defined(f1),
            "micro_f1": micro,
            "log_loss": (weights @ -np.log(said).mean(axis=1)) / total,
            "brier": (weights @ ((truth - proba) ** 2).mean(axis=1)) / total,
            "ece": summed.sum(axis=1) / truth.shape[1],
            "auroc": auroc,
            "average_precision": precision,
            "f1": f1,
        }


def weighted_average_precision(positive, score, weights):
    """Return sum over distinct scores of (gain in recall) x precision, each row of weights; (B,).

    Equal scores stand at one place, as in scikit-learn's `average_precision_score`.
    """
    order = np.argsort(-score, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(score[order]) < 0])
    gains = np.add.reduceat(weights[:, order] * positive[order], starts, axis=1)
    seen = np.cumsum(np.add.reduceat(weights[:, order], starts, axis=1), axis=1)
    hits = np.cumsum(gains, axis=1)
    precision = np.divide(hits, seen, out=np.zeros_like(hits), where=seen > 0)
    return (gains * precision).sum(axis=1) / hits[:, -1]
