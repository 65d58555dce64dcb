"""What `reproduce`, `peers` and `derm7pt` share: draws, metrics, a table that grows."""

import csv
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skmoecbm._evaluate import evaluate_scores

__all__ = [
    "METRICS",
    "GrowingTable",
    "difference",
    "draw",
    "folds",
    "measured",
    "probe",
    "row_of",
]

METRICS = ("accuracy", "balanced_accuracy", "macro_auroc", "log_loss", "ece")


def draw(y, pool, shots, number):
    """Return the training rows of a draw: so many of each class, or all of the pool.

    The same number gives the same rows to every variant; draws of more shots hold those of fewer.
    """
    if shots.startswith("all"):
        return pool
    order = np.random.default_rng([7, number]).permutation(pool)
    return np.concatenate([order[y[order] == label][: int(shots)] for label in np.unique(y[pool])])


def measured(proba, classes, y, groups, n_bootstrap, seed=0):
    """Return the `Evaluation` of probabilities: resamples are the same for the same test rows."""
    return evaluate_scores(
        y, proba, classes, groups=groups, n_bootstrap=n_bootstrap, random_state=seed
    )


def row_of(evaluation):
    """Return metrics and their intervals as a flat dict."""
    row = {}
    for metric in METRICS:
        found = evaluation[metric]
        row[metric], row[f"{metric}_low"], row[f"{metric}_high"] = found
    return row


def difference(first, second, metrics):
    """Return paired differences of two evaluations, with standard errors over their resamples."""
    row = {}
    for metric in metrics:
        row[metric] = float(first[metric].value - second[metric].value)
        row[f"{metric}_se"] = float(np.nanstd(first.draws[metric] - second.draws[metric], ddof=1))
    return row


def folds(y, groups, most=5):
    """Return how many folds the rarest class (in groups) allows; below two there are none."""
    return min(most, *(len(set(groups[y == label])) for label in np.unique(y)))


def probe(y, groups, *, class_weight=None, grid=(1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0), **settings):
    """Return a logistic regression on standardised columns whose C is chosen on training folds.

    With one row of a class there are no folds: C stays 1.
    """
    model = make_pipeline(
        StandardScaler(), LogisticRegression(max_iter=2000, class_weight=class_weight, **settings)
    )
    n_folds = folds(y, groups)
    if n_folds < 2:
        return model
    splits = [
        (train, test)
        for train, test in StratifiedGroupKFold(n_folds, shuffle=True, random_state=0).split(
            y, y, groups
        )
        if len(np.unique(y[train])) == len(np.unique(y)) == len(np.unique(y[test]))
    ]
    if not splits:
        return model
    grid = {"logisticregression__C": list(grid)}
    return GridSearchCV(model, grid, scoring="neg_log_loss", cv=splits)


class GrowingTable:
    """A CSV file that grows by whole batches and knows which rows are there.

    Parameters
    ----------
    path : path
    columns : sequence of str
    key : sequence of str
        Columns that tell a row.
    """

    def __init__(self, path, columns, key):
        self.path, self.columns, self.key = Path(path), list(columns), list(key)
        self.done = set()
        if self.path.exists():
            with open(self.path, newline="", encoding="utf-8") as file:
                self.done = {self._key(row) for row in csv.DictReader(file)}

    def _key(self, row):
        return tuple(str(row[name]) for name in self.key)

    def __contains__(self, row):
        return self._key(row) in self.done

    def add(self, rows):
        """Write rows, each once, all in one go."""
        rows = [row for row in rows if row not in self]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = not self.path.exists()
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns, restval="", lineterminator="\n")
            if fresh:
                writer.writeheader()
            writer.writerows({k: _short(v) for k, v in row.items()} for row in rows)
        self.done.update(map(self._key, rows))

    def drop(self, row):
        """Remove the row of this key: what could not be run may be tried again."""
        with open(self.path, newline="", encoding="utf-8") as file:
            kept = [one for one in csv.DictReader(file) if self._key(one) != self._key(row)]
        self.path.unlink()
        self.done.clear()
        self.add(kept)

    def read(self):
        """Return the table as a DataFrame; shots are text."""
        return pd.read_csv(self.path, dtype={"shots": str}, keep_default_na=False, na_values=[""])


def _short(value):
    return f"{value:.4f}" if isinstance(value, float | np.floating) else value
