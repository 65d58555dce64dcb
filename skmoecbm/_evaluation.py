"""What `evaluate` returns: metrics with intervals, as a mapping, a table, JSON and text."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from skmoecbm.exceptions import InputError

__all__ = ["Estimate", "Evaluation", "estimate", "plain"]


class Estimate(NamedTuple):
    """A metric on the sample and the percentile interval of its resamples (NaN where undefined)."""

    value: float
    low: float
    high: float


class Evaluation(Mapping):
    """What `evaluate` measured: a mapping from metric to `Estimate`.

    Keys are `accuracy`, `balanced_accuracy`, `macro_auroc`, `log_loss`, `brier` and `ece`; where a
    row may have several labels `macro_auroc`, `micro_auroc`, `macro_average_precision`,
    `micro_average_precision`, `macro_f1`, `micro_f1`, `log_loss`, `brier` and `ece`.

    Attributes
    ----------
    classes : list
        The classes of the model.
    absent_classes : list
        Classes of the model that no row of `y` has (or labels that all have): they take no part
        in the macro averages.
    per_class : dict
        Class -> `{"support": int, "recall": Estimate, "auroc": Estimate}`, present classes only;
        of labels `auroc`, `average_precision` and `f1`.
    n, n_groups : int
        Rows and resampling units (groups, or rows where no groups were given).
    n_bootstrap : int
    confidence : float
    draws : dict of str to ndarray of shape (n_bootstrap,)
        Each summary metric on each resample, for paired comparisons.
    notes : list of str
        What a reader should know: absent classes, resamples that lack a class.
    """

    def __init__(
        self,
        metrics,
        per_class,
        draws,
        *,
        classes,
        absent_classes,
        n,
        n_groups,
        n_bootstrap,
        confidence,
        notes,
        resampling_key,
    ):
        self._metrics = metrics
        self.per_class = per_class
        self.draws = draws
        self.classes = classes
        self.absent_classes = absent_classes
        self.n = n
        self.n_groups = n_groups
        self.n_bootstrap = n_bootstrap
        self.confidence = confidence
        self.notes = notes
        self._resampling_key = resampling_key

    def __getitem__(self, metric):
        try:
            return self._metrics[metric]
        except KeyError:
            known = ", ".join(map(repr, self._metrics))
            raise KeyError(f"There is no metric {metric!r} here; there is {known}.") from None

    def __iter__(self):
        return iter(self._metrics)

    def __len__(self):
        return len(self._metrics)

    def difference(self, other, metric="macro_auroc"):
        """Return this evaluation's metric less another's, with a paired interval.

        Parameters
        ----------
        other : Evaluation
            Made on the same rows, labels and groups with the same integer `random_state`, so that
            both hold the same resamples.
        metric : str, default="macro_auroc"

        Returns
        -------
        Estimate
            Difference on the sample and the percentile interval of the resamples' differences.

        Raises
        ------
        InputError
            If the metric is unknown or the two do not share their resamples.
        """
        if metric not in self._metrics:
            raise InputError(f"Unknown metric {metric!r}. Known are {', '.join(self._metrics)}.")
        if self._resampling_key != other._resampling_key:
            raise InputError(
                "A paired difference needs the same resamples: evaluate both on the same y and "
                "groups, with the same n_bootstrap and the same integer random_state."
            )
        return estimate(
            self[metric].value - other[metric].value,
            self.draws[metric] - other.draws[metric],
            self.confidence,
        )

    def to_dict(self):
        """Return everything but the draws as plain JSON types (undefined numbers are None)."""
        return {
            "n": self.n,
            "n_groups": self.n_groups,
            "n_bootstrap": self.n_bootstrap,
            "confidence": self.confidence,
            "classes": [plain(label) for label in self.classes],
            "absent_classes": [plain(label) for label in self.absent_classes],
            "metrics": {name: _json_estimate(found) for name, found in self.items()},
            "per_class": [
                {
                    "class": plain(label),
                    "support": row["support"],
                    **{metric: _json_estimate(row[metric]) for metric in self._class_metrics},
                }
                for label, row in self.per_class.items()
            ],
            "notes": list(self.notes),
        }

    def to_frame(self):
        """Return a DataFrame: one row per metric, then recall, AUROC and the like of each class.

        Columns are `metric`, `class` (None for summaries), `support`, `value`, `low`, `high`.
        """
        import pandas as pd

        rows = [(name, None, self.n, *found) for name, found in self.items()]
        for metric in self._class_metrics:
            rows += [
                (metric, plain(label), row["support"], *row[metric])
                for label, row in self.per_class.items()
            ]
        frame = pd.DataFrame(rows, columns=["metric", "class", "support", "value", "low", "high"])
        return frame.assign(**{"class": pd.Series([row[1] for row in rows], dtype=object)})

    @property
    def _class_metrics(self):
        first = next(iter(self.per_class.values()), {})
        return [name for name in first if name != "support"]

    def __repr__(self):
        units = "rows" if self.n_groups == self.n else f"rows in {self.n_groups:,} groups"
        lines = [f"Evaluation on {self.n:,} {units}"]
        longest = max(18, *(len(name) for name in self))
        if self.n_bootstrap:
            lines[0] += (
                f", {100 * self.confidence:g} % intervals from {self.n_bootstrap:,} resamples"
            )
        lines += [
            f"  {name.replace('_', ' '):<{longest}} {_show(found)}" for name, found in self.items()
        ]
        if self.per_class:
            width = max(5, *(len(str(label)) for label in self.per_class))
            least = 22 if self.n_bootstrap else 6
            widths = {name: max(least, len(name)) for name in self._class_metrics}
            names = [f"{name.replace('_', ' '):<{size}}" for name, size in widths.items()]
            lines.append(f"  {'class':<{width}}  support  {'  '.join(names)}".rstrip())
            for label, row in self.per_class.items():
                cells = [f"{_show(row[name]):<{size}}" for name, size in widths.items()]
                start = f"  {label!s:<{width}}  {row['support']:>7,}  "
                lines.append((start + "  ".join(cells)).rstrip())
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])


def estimate(value, draws, confidence):
    """Return the value with the percentile interval of its finite draws."""
    draws = draws[np.isfinite(draws)]
    if len(draws) == 0:
        return Estimate(float(value), np.nan, np.nan)
    tail = 50 * (1 - confidence)
    low, high = np.percentile(draws, [tail, 100 - tail])
    return Estimate(float(value), float(low), float(high))


def plain(label):
    """Return a label as a plain Python value."""
    return label.item() if hasattr(label, "item") else label


def _json_estimate(found):
    return {
        name: float(value) if np.isfinite(value) else None
        for name, value in found._asdict().items()
    }


def _show(found):
    if not np.isfinite(found.value):
        return "undefined"
    if not np.isfinite(found.low):
        return f"{found.value:.3f}"
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"
