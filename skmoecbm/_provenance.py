"""What a model learned from, as counts and one-way digests: nothing of a row can be had back."""

import hashlib

import numpy as np

from skmoecbm._labels import is_exclusive
from skmoecbm._parameters import pack_parameters
from skmoecbm.concepts import LintedConcepts, SubmodularSelector, TopKConcepts
from skmoecbm.exceptions import InputError

__all__ = [
    "classifier_training",
    "data_digests",
    "encoder_training",
    "selection_of",
    "with_refit",
]

_SELECTORS = {cls.__name__: cls for cls in (LintedConcepts, SubmodularSelector, TopKConcepts)}
_CHUNK = 2**17  # numbers hashed at a time: a megabyte, so that no second table is made


def data_digests(features, targets=None, sample_weight=None, groups=None):
    """Return the sha256, in hex, of what a fit saw, part by part; None for what was not given.

    All but that of the features are keyed with the features: labels of few rows and classes could
    else be found by trying. Groups count by who is with whom, whatever they are called.

    Parameters
    ----------
    features : list of ndarray of shape (n, m_e), float
        NaN is one value, whatever its bits; so is zero.
    targets : ndarray of shape (n,) or (n, L), default=None
        Codes of classes, or an indicator.
    sample_weight : ndarray of shape (n,), default=None
    groups : ndarray of shape (n,), int, default=None

    Returns
    -------
    dict of str to (str or None)
        `features`, `targets`, `sample_weight`, `groups`.
    """
    seen = hashlib.sha256()
    for table in features:
        _add(seen, table)
    key = seen.copy()
    seen.update(b"features")
    key.update(b"key of the other parts")

    def keyed(part):
        if part is None:
            return None
        digest = hashlib.sha256(key.digest())
        _add(digest, np.asarray(part))
        return digest.hexdigest()

    return {
        "features": seen.hexdigest(),
        "targets": keyed(targets),
        "sample_weight": keyed(sample_weight),
        "groups": keyed(None if groups is None else _by_first_row(groups)),
    }


def classifier_training(data, gate_values, codes, weights, counts, groups, n_classes):
    """Return the `training_summary_` of a classifier, of what is known before it is fitted.

    Parameters
    ----------
    data : list of ExpertData
    gate_values : ndarray of shape (n, g)
    codes : ndarray of shape (n,), int, or LabelMatrix
    weights : ndarray of shape (n,)
        Zero where a row takes no part.
    counts : ndarray of shape (n,) or None
        Sample weights; None where none were given.
    groups : ndarray of shape (n,), int, or None
    n_classes : int

    Returns
    -------
    dict
        As of `skmoecbm._schema_provenance.ClassifierTraining`; plain values alone.
    """
    used, seen = weights > 0, np.stack([expert.present for expert in data], axis=1)
    if is_exclusive(codes):
        per_class = np.bincount(codes[used], minlength=n_classes)
    else:
        per_class = (codes.values[used] > 0.5).sum(axis=0)
    return {
        "n_rows": len(codes),
        "n_used_rows": int(used.sum()),
        "n_missing_rows": int((~seen.any(axis=1)).sum()),
        "rows_per_class": per_class.tolist(),
        "rows_per_expert": {expert.name: int((used & expert.present).sum()) for expert in data},
        "sample_weight": counts is not None,
        "n_groups": None if groups is None else len(np.unique(groups)),
        "n_folds": 0,
        "no_folds": None,
        "joint": None,
        "device": "cpu",
        "dtype": "float64",
        "data_sha256": _digests_of(data, gate_values, codes, counts, groups),
        "refits": [],
    }


def with_refit(summary, data, gate_values, codes, weights, counts, experts):
    """Return a summary with a refit of some experts noted at its end."""
    refit = {
        "experts": sorted(experts),
        "n_rows": len(codes),
        "n_used_rows": int((weights > 0).sum()),
        "data_sha256": _digests_of(data, gate_values, codes, counts, None),
    }
    return {**summary, "refits": [*summary["refits"], refit]}


def selection_of(selector):
    """Return name and parameters of a selector as plain values; None where there is none.

    The parameters of one that is not of this package may hold anything, and are left out.
    """
    if selector is None:
        return None
    name, parameters = type(selector).__name__, None
    if _SELECTORS.get(name) is type(selector):
        try:
            parameters, _ = pack_parameters(selector, _SELECTORS)
        except InputError:  # a selector inside it that is not ours
            parameters = None
    return {"selector": name, "parameters": parameters}


def encoder_training(device, counts, selection=None, rows=None, y=None):
    """Return the `training_summary_` of an encoder.

    Parameters
    ----------
    device : str
        "cpu", "cuda" or "cuda:N".
    counts : tuple of int
        Concepts given, known to the backbone, and kept.
    selection : dict, default=None
        Name and parameters of the selector.
    rows : ndarray of shape (n, d), default=None
        Embeddings that the selector saw.
    y : array-like of shape (n,) or (n, L), default=None
        Labels that it saw.
    """
    targets = None
    if selection is not None and y is not None:
        labels = y.toarray() if hasattr(y, "toarray") else np.asarray(y)
        by_row = labels.ndim == 2
        targets = labels.astype(float) if by_row else np.unique(labels, return_inverse=True)[1]
    return {
        "device": device.partition(":")[0],
        "concepts": dict(zip(("given", "known", "kept"), counts, strict=True)),
        "selection": selection,
        "n_rows": None if selection is None else len(rows),
        "n_missing_rows": None if selection is None else int(np.isnan(rows).all(axis=1).sum()),
        "data_sha256": None if selection is None else data_digests([rows], targets),
    }


def _digests_of(data, gate_values, codes, counts, groups):
    tables = [table for expert in data for table in _tables_of(expert)]
    targets = codes if is_exclusive(codes) else codes.values
    return data_digests([*tables, gate_values], targets, counts, groups)


def _tables_of(expert):
    """Return an expert's similarities, or, of too many, the embeddings that they are made of."""
    if hasattr(expert, "tables"):  # a stream of tokens
        return expert.tables()
    if expert.is_large:
        return expert.block.embeddings, expert.block.texts
    return (expert.values,)


def _add(digest, table):
    """Hash shape and numbers of a table, the same on every machine."""
    kind = "<f8" if table.dtype.kind == "f" else "<i8"
    digest.update(repr((table.shape, kind)).encode())
    rows = max(1, _CHUNK // max(1, int(np.prod(table.shape[1:]))))
    for start in range(0, len(table), rows):
        # a copy, in rows: +0.0 makes one zero of two, and NaN has many bits
        chunk = np.add(table[start : start + rows], 0, order="C", dtype=kind)
        if kind == "<f8":
            chunk[np.isnan(chunk)] = np.nan
        digest.update(chunk)


def _by_first_row(groups):
    """Return the groups numbered as they first appear."""
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]
