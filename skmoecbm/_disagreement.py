"""What the experts say, as inputs of a gate: how sure each is and how far from the others."""

import numpy as np
from scipy.special import log_expit, log_softmax

__all__ = ["N_MEASURES", "log_answers", "measure_answers"]

#: Numbers per expert.
N_MEASURES = 3


def log_answers(logits, exclusive):
    """Return an expert's log-probabilities of shape (n, Q, A), A answers to each of Q questions.

    Parameters
    ----------
    logits : ndarray of shape (n, K)
        Calibrated, two classes as (0, s).
    exclusive : bool
        Whether each row has just one class: one question of K answers. Else each of the K labels
        is a question answered by no or yes.
    """
    if exclusive:
        return log_softmax(logits, axis=1)[:, None, :]
    return np.stack([log_expit(-logits), log_expit(logits)], axis=-1)


def measure_answers(answers, present):
    """Return three numbers per expert that do not depend on how classes or experts are ordered.

    With p_e the probabilities of expert e and q their plain average over the experts that are
    present: the log of the largest of p_e [-log A, 0], its entropy [0, log A], and the divergence
    KL(p_e || q) [0, log E], in nats; each the mean over the questions. The last is what expert e
    adds to the disagreement of the ensemble, the mean of which is the Jensen-Shannon divergence.

    Parameters
    ----------
    answers : list of ndarray of shape (n, Q, A)
        From `log_answers`.
    present : ndarray of shape (n, E), bool
        Experts that count. Another's answers are in nobody's average.

    Returns
    -------
    list of ndarray of shape (n, 3)

    References
    ----------
    Lakshminarayanan et al., Simple and Scalable Predictive Uncertainty Estimation using Deep
    Ensembles (2017), for the disagreement sum_e KL(p_e || q); Lin, Divergence Measures Based on
    the Shannon Entropy (1991); Hendrycks and Gimpel, A Baseline for Detecting Misclassified and
    Out-of-Distribution Examples (2017), for the largest probability.
    """
    seen = present[:, :, None, None]
    probabilities = [np.exp(answer) for answer in answers]
    total = sum(np.where(seen[:, e], p, 0.0) for e, p in enumerate(probabilities))
    count = np.maximum(present.sum(1), 1)[:, None, None]
    consensus = np.log(np.maximum(total / count, 1e-300))
    measures = []
    for log_p, p in zip(answers, probabilities, strict=True):
        entropy = -(p * log_p).sum(2)
        divergence = (p * (log_p - consensus)).sum(2)
        measures.append(
            np.stack([part.mean(1) for part in (log_p.max(2), entropy, divergence)], axis=1)
        )
    return measures
