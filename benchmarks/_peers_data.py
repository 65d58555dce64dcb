"""What every peer is given: concept scores, embeddings, the parts, and annotations if there are."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks import derm7pt
from benchmarks._experiment_data import read
from skmoecbm import ExpertFeatures

__all__ = ["NAMES", "Problem", "read_problem"]

NAMES = ("retinamnist", "derm7pt", "ham10000")
# Annotations that fewer training rows have, or lack, teach no direction.
LEAST = 10


@dataclass
class Problem:
    """One data set for all peers.

    Attributes
    ----------
    name, note : str
    X : ExpertFeatures of n rows
        Ours; `scores` are its columns as one array.
    embeddings : ndarray of shape (n, d)
        Of all image encoders side by side.
    y, groups : ndarray of shape (n,)
    train, test : ndarray of int
    words : bool
        Whether concepts were written for the classes.
    prior : str or None
        The language prior of our heads.
    attributes : ndarray of shape (n, A)
        Human annotations, 0 or 1, NaN where a row was not annotated; A may be 0.
    """

    name: str
    note: str
    X: ExpertFeatures
    embeddings: np.ndarray
    y: np.ndarray
    groups: np.ndarray
    train: np.ndarray
    test: np.ndarray
    words: bool = False
    prior: str | None = None
    attributes: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))

    @property
    def scores(self):
        """Return the similarities of all experts, float64."""
        return np.asarray(self.X, dtype=np.float64)

    @property
    def columns(self):
        """Return the columns of each expert in `scores`."""
        ends = np.cumsum([len(block.concepts) for block in self.X.blocks])
        starts = np.r_[0, ends[:-1]]
        names = self.X.expert_names
        return {n: np.arange(a, b) for n, a, b in zip(names, starts, ends, strict=True)}

    @property
    def incidence(self):
        """Return whether a concept was written for a class, (m, K) by sorted class, or None."""
        if not self.words:
            return None
        parts = []
        for block in self.X.blocks:
            keys = list(block.class_keys)
            parts.append(block.incidence[:, [keys.index(label) for label in np.unique(self.y)]])
        return np.concatenate(parts)


def read_problem(name, data, *, backbones, store):
    """Return the `Problem` of one of `NAMES`; `data` is the folder of the real data sets."""
    if name == "derm7pt":
        return _derm7pt(data)
    split = {"ham10000": "lesion", "retinamnist": "official"}[name]
    found = read(name, split, data, backbones=backbones, store=store)
    embeddings = np.hstack([np.asarray(block.embeddings) for block in found.X.blocks])
    attributes = np.zeros((len(found.y), 0))
    if name == "ham10000":
        attributes = _dermoscopic(Path(data) / "ham10000", found.train)
    return Problem(
        f"{name}, {split}",
        found.note,
        found.X,
        embeddings.astype(np.float64),
        found.y,
        found.groups,
        found.train,
        found.test,
        found.words,
        "class" if found.words else None,
        attributes,
    )


def _derm7pt(data):
    found = derm7pt.read(data)
    stored = np.load(Path(data) / "embeddings" / "derm7pt_monet.npz")
    columns = [
        stored[name] == value
        for name in stored.files
        if name.startswith("attr_") and name != "attr_diagnosis"
        for value in np.unique(stored[name])
    ]
    return Problem(
        "derm7pt, official",
        "MONET; the two experts are its ten concepts and its 49 phrases",
        found.features("concepts", "phrases"),
        found.X.astype(np.float64),
        found.y,
        found.groups,
        found.train,
        found.test,
        attributes=_taught(np.stack(columns, axis=1).astype(float), found.train),
    )


def _dermoscopic(folder, train):
    images = pd.read_csv(folder / "metadata.csv")["image_id"]
    table = pd.read_csv(folder / "dermoscopic_concepts.csv")
    values = table.set_index("image_id").select_dtypes("number")
    values = values[[c for c in values if set(values[c].dropna().unique()) <= {0, 1}]]
    values = values[~values.index.duplicated()].reindex(images)
    return _taught(values.to_numpy(dtype=float), train)


def _taught(values, train):
    counts = np.stack([(values[train] == one).sum(axis=0) for one in (0, 1)])
    return values[:, counts.min(axis=0) >= LEAST]
