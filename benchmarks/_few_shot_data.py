"""The data sets of the few-shot benchmark: real skin and eyes, drawn lesions, halves of digits."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.datasets import load_digits

from skmoecbm import ConceptEncoder, ExpertFeatures, ExpertUnion, load_concepts
from skmoecbm.datasets import make_lesions

__all__ = ["NAMES", "Problem", "read"]

NAMES = ("ham10000", "retinamnist", "lesions", "digits-both", "digits-varies", "digits-useless")


@dataclass
class Problem:
    """One data set, cut into a pool to draw from and rows to judge on.

    Attributes
    ----------
    X : ExpertFeatures of n rows
    y : ndarray of shape (n,)
    pool, test : ndarray of int
    groups : ndarray of shape (n,)
        Lesions; else each row is its own.
    head : dict
        Parameters of the associations.
    words : bool
        Whether the concepts are words of the classes, so that the original's softmax has a start.
    ordinal : bool
        Whether labels are grades.
    """

    X: ExpertFeatures
    y: np.ndarray
    pool: np.ndarray
    test: np.ndarray
    groups: np.ndarray
    head: dict = field(default_factory=dict)
    words: bool = False
    ordinal: bool = False


def read(name, data):
    """Return the `Problem` called `name`; `data` is the folder of the real data sets."""
    if name == "ham10000":
        return _ham10000(Path(data) / "ham10000")
    if name == "retinamnist":
        return _retinamnist(Path(data) / "medmnist" / "retinamnist.npz")
    if name == "lesions":
        drawn = make_lesions(4500, random_state=11)
        return _in_order(_encoded(drawn.images), drawn.target, 3000, words=True)
    return _digits(name.partition("-")[2])


def _encoded(images):
    bank = load_concepts("lesions")
    experts = [(name, ConceptEncoder(name, bank)) for name in ("demo-general", "demo-structures")]
    return ExpertUnion(experts).fit_transform(images)


def _in_order(X, y, n_pool, **settings):
    rows = np.arange(len(y))
    return Problem(X, np.asarray(y), rows[:n_pool], rows[n_pool:], rows, **settings)


def _ham10000(folder):
    table = pd.read_csv(folder / "metadata.csv")
    files = {path.stem: path for path in sorted(folder.rglob("*.jpg"))}
    X = _encoded([files[name] for name in table["image_id"]])
    part = table["split_lesion"].to_numpy()
    return Problem(
        X,
        table["dx"].to_numpy(dtype=str),
        np.flatnonzero(part == "train"),
        np.flatnonzero(part == "val"),
        pd.factorize(table["lesion_id"])[0],
        words=True,
    )


def _retinamnist(path):
    parts = np.load(path)
    images = np.concatenate([parts["train_images"], parts["test_images"]])
    y = np.concatenate([parts["train_labels"], parts["test_labels"]]).ravel().astype(int)
    # The demo experts know no word of the eye: theirs serve as generic directions.
    return _in_order(
        _encoded(list(images)), y, len(parts["train_labels"]), head={"prior": None}, ordinal=True
    )


def _digits(regime):
    """Each expert sees half of a digit; in some regimes a half is covered by noise."""
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    images, y = digits.images[order].copy(), digits.target[order]
    rng = np.random.default_rng(1)
    noise = rng.uniform(0, 16, images.shape)
    covered = np.zeros((len(y), 2), dtype=bool)
    if regime == "useless":
        covered[:, 1] = True
    elif regime == "varies":
        covered[np.arange(len(y)), rng.integers(0, 2, len(y))] = True
    experts = {}
    for e, name in enumerate(("left", "right")):
        half = np.s_[:, :, 4 * e : 4 * e + 4]
        values = np.where(covered[:, e, None, None], noise[half], images[half]).reshape(len(y), -1)
        experts[name] = (values / 16.0, [f"pixel {j}" for j in range(32)])
    X = ExpertFeatures.from_similarities(experts)
    return _in_order(X, y, 1197, head={"prior": None})
