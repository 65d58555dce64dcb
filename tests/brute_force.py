"""Formulas of the classifiers written out a second time, slowly, in numpy: the tests' oracles."""

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp, softmax

from skmoecbm import ExpertFeatures


def make_table(n=120, sizes=(4, 5), n_classes=3, noise=1.0, seed=0):
    """Return X (n, sum of sizes) and y (n,): every block of columns tells part of the class."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % n_classes
    blocks = []
    for m in sizes:
        pattern = rng.normal(size=(n_classes, m))
        blocks.append(0.2 + 0.05 * (pattern[y] + noise * rng.normal(size=(n, m))))
    order = rng.permutation(n)
    return np.concatenate(blocks, axis=1)[order], y[order]


def make_blocks(n=120, sizes=(6, 5), width=16, n_classes=3, noise=1.0, seed=0, classes=False):
    """Return `ExpertFeatures` of embeddings and labels 0 ... n_classes - 1.

    With `classes` every concept was written for one class, in turns.
    """
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % n_classes)
    experts, incidence = {}, {}
    for e, m in enumerate(sizes):
        centres = rng.normal(size=(n_classes, width))
        texts = centres[np.arange(m) % n_classes] + 0.5 * rng.normal(size=(m, width))
        images = centres[y] + noise * rng.normal(size=(n, width)) + 2.0
        name = "abcdef"[e]
        experts[name] = (images, texts, [f"concept {j}" for j in range(m)])
        incidence[name] = np.eye(n_classes, dtype=bool)[np.arange(m) % n_classes]
    keys = [str(c) for c in range(n_classes)]
    extra = {"incidence": incidence, "class_keys": keys} if classes else {}
    return ExpertFeatures.from_embeddings(experts, **extra), y


def standardised(D, weights=None):
    """Return (D - mean) / sd with weighted moments, and both of them."""
    mean = np.average(D, axis=0, weights=weights)
    scale = np.sqrt(np.average((D - mean) ** 2, axis=0, weights=weights))
    return (D - mean) / scale, mean, scale


def two_columns(logits):
    """Return (n, K) logits with K >= 2: two classes are (0, s)."""
    logits = np.asarray(logits, dtype=float)
    logits = logits.reshape(len(logits), -1)
    return np.c_[np.zeros(len(logits)), logits] if logits.shape[1] == 1 else logits


def losses(logits, y):
    """Return the cross-entropy of each row, in nats."""
    full = two_columns(logits)
    return logsumexp(full, axis=1) - full[np.arange(len(y)), y]


def association_gradient(Z, y, A, b, A0, alpha, weights=None):
    """Return the gradients by A and b of mean CE + alpha / (2 n) ||A - A0||^2, and the loss."""
    weights = np.ones(len(y)) if weights is None else weights
    n = weights.sum()
    S = Z @ A.T + b
    P, Y = softmax(two_columns(S), axis=1), np.eye(max(2, A.shape[0]))[y]
    residual = (P - Y) * (weights / n)[:, None]
    residual = residual[:, -1:] if A.shape[0] == 1 else residual
    loss = losses(S, y) @ weights / n + alpha / (2 * n) * ((A - A0) ** 2).sum()
    return residual.T @ Z + alpha / n * (A - A0), residual.sum(axis=0), loss


def pooled(G, S, pool):
    """Return log-probabilities up to a constant, (n, K), of experts S (n, E, K) under G (n, E)."""
    out = np.zeros((S.shape[0], S.shape[2]))
    for e in range(S.shape[1]):
        out += G[:, [e]] * (softmax(S[:, e], axis=1) if pool == "prob" else S[:, e])
    if pool == "sum":
        out *= (G > 0).sum(axis=1)[:, None]
    return np.log(out) if pool == "prob" else out


def entropy(p):
    """Return -sum p log p along the last axis, with 0 log 0 = 0."""
    p = np.asarray(p, dtype=float)
    return -np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0).sum(axis=-1)


def best_scale(logits, y, weights=None, kappa=3.0):
    """Return the inverse temperature that minimises CE + kappa (log tau)^2 / n."""
    weights = np.ones(len(y)) if weights is None else weights

    def objective(u):
        penalty = kappa * u**2 / weights.sum()
        return losses(np.exp(u) * logits, y) @ weights / weights.sum() + penalty

    return float(np.exp(minimize_scalar(objective, bounds=(-8, 8), method="bounded").x))
