"""Patches and words of which only one together with the other tells the class."""

import numpy as np

from skmoecbm.moe import TokenFeatures

FINDINGS = 4


def asked_finding(n, seed, noise=0.3):
    """Return tokens of n rows, and labels.

    An image has a patch for each of four findings, in any order, of which two are positive; the
    report has three words, of which one names a finding. The class is that finding's value: neither
    the image nor the report tells anything of it, and no mean of patches tells which one is
    positive.
    """
    fixed = np.random.default_rng(5)
    keys = 2 * np.linalg.qr(fixed.standard_normal((8, 8)))[0][:FINDINGS]
    names = 2 * np.linalg.qr(fixed.standard_normal((8, 8)))[0][:FINDINGS]
    rng = np.random.default_rng(seed)
    order = rng.permuted(np.tile(np.arange(FINDINGS), (n, 1)), axis=1)
    values = rng.permuted(np.tile([1.0, 1.0, -1.0, -1.0], (n, 1)), axis=1)
    patches = np.zeros((n, 1 + FINDINGS, 9))
    patches[:, 1:, :8], patches[:, 1:, 8] = keys[order], values
    asked = rng.integers(0, FINDINGS, n)
    words = np.zeros((n, 4, 8))
    words[np.arange(n), rng.integers(1, 4, n)] = names[asked]
    patches += noise * rng.standard_normal(patches.shape)
    words += noise * rng.standard_normal(words.shape)
    y = (values[order == asked[:, None]] > 0).astype(int)
    return TokenFeatures({"image": patches, "text": words}), y


def two_parts(n, seed, missing=0.0, zeros=False):
    """Return tokens and one of three classes, of which image and report each tell a part.

    Parameters
    ----------
    missing : float
        Share of reports that are missing.
    zeros : bool
        Whether zero vectors stand in their place.
    """
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    centres = np.random.default_rng(3).standard_normal((2, 3, 5))
    patches = centres[0][y][:, None] + 3.0 * rng.standard_normal((n, 6, 5))
    words = [
        centres[1][label] + 2.5 * rng.standard_normal((length, 5))
        for label, length in zip(y, rng.integers(2, 7, n), strict=True)
    ]
    for i in np.flatnonzero(rng.random(n) < missing):
        words[i] = np.zeros((4, 5)) if zeros else None
    return TokenFeatures({"image": patches, "text": words}), y
