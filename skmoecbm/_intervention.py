"""What came of an intervention: two explanations, and what lies between them."""

import numpy as np

from skmoecbm._validation import check_number
from skmoecbm.exceptions import InputError

__all__ = ["Intervention"]


class Intervention:
    """The decision with some concepts set to other values, beside the one without.

    Made by `intervene`. For every row and class the changes of all contributions and of the bias
    sum to the change of the logit, to 1e-10. With ``pool="prob"``, whose logits are no sum, they
    are changes of each expert's own calibrated logits, and there is no bias.

    Attributes
    ----------
    classes : list of length K
    before, after : Explanation
        Of the rows as they came, and with the concepts set.
    predicted_before, predicted : ndarray of shape (n,), or (n, K) of several labels
        What the model predicts.
    changed : ndarray of shape (n,), bool
        Whether the prediction is another one.
    probabilities, probability_change : ndarray of shape (n, K), float64
        After, and after minus before.
    logits, logit_change : ndarray of shape (n, K'), float64
        The same for the decision function; two classes have one, positive towards `classes[1]`.
    gate_change : ndarray of shape (n, E), float64
        Exactly 0 with ``gate="fixed"``.
    changes : DataFrame
        What was set, a line for each expert's concept: `expert`, `concept`, `value` (similarity)
        and `percentile` of the training images, in [0, 100].
    """

    def __init__(self, before, after, *, predicted, cells, additive, gate_held):
        import pandas as pd

        self._before, self._after = before, after
        self.classes = after.classes
        self.predicted_before, self.predicted = predicted
        differs = self.predicted_before != self.predicted
        self.changed = differs if differs.ndim == 1 else differs.any(axis=1)
        self.probabilities = after.probabilities
        self.probability_change = after.probabilities - before.probabilities
        self.logits, self.logit_change = after.logits, after.logits - before.logits
        self.gate_change = after.gate - before.gate
        lines = [(*cell.names, cell.value, cell.percentile) for cell in cells]
        self.changes = pd.DataFrame(lines, columns=["expert", "concept", "value", "percentile"])
        self._additive, self._gate_held = additive, gate_held

    @property
    def before(self):
        """Explanation of the rows as they came."""
        return self._explanation(self._before)

    @property
    def after(self):
        """Explanation of the rows with the concepts set."""
        return self._explanation(self._after)

    def _explanation(self, explanation):
        if not self._additive:
            raise InputError(
                "Logits of pool='prob' are no sum over concepts, so there is no explanation to "
                "show. carried() and to_frame() tell what changed in each expert's own logits."
            )
        return explanation

    def __len__(self):
        """Return the number of rows."""
        return len(self._after)

    def carried(self, k=10, row=None, class_=None):
        """Return the concepts that carried the change, the largest first.

        Parameters
        ----------
        k : int, default=10
        row : int, default=None
            One row; None averages over all.
        class_ : label, default=None
            The class whose logit is told; None takes each row's most probable class after the
            intervention.

        Returns
        -------
        DataFrame
            `expert`, `concept`, contributions `before` and `after` and their `change`, in logits,
            means over the rows; concepts whose contribution did not change are left out. The bias
            has no expert and the concept "(bias)".

        Raises
        ------
        InputError
            If `k`, `row` or `class_` is not valid.
        """
        check_number("Intervention.carried", "k", k, low=1, integer=True)
        rows = np.arange(len(self))
        if row is not None:
            check_number("Intervention", "row", row, low=0, high=len(self) - 1, integer=True)
            rows = rows[[row]]
        frame = self._table(class_, rows)
        frame = frame.assign(size=frame["change"].abs())
        means = frame.groupby(["expert", "concept"], dropna=False, sort=False)[
            ["before", "after", "change", "size"]
        ].mean()
        means = means[means["size"] > 0].sort_values("size", ascending=False, kind="stable")
        return means.drop(columns="size").reset_index()[:k]

    def to_frame(self, class_=None):
        """Return one line per row and (expert, concept), and one per row for the bias.

        Parameters
        ----------
        class_ : label, default=None
            As in `carried`.

        Returns
        -------
        DataFrame
            `row`, `class`, `expert`, `concept`, contributions `before` and `after`, `change`, and
            `similarity_before`, `similarity`. The changes of a row sum to that of its logit.
        """
        return self._table(class_, np.arange(len(self)))

    def _table(self, class_, rows):
        import pandas as pd

        told = self._after.predicted.tolist()
        labels = [told[row] if class_ is None else class_ for row in rows]
        tables = [
            self._lines(label, rows[[one == label for one in labels]])
            for label in dict.fromkeys(labels)
        ]
        return pd.concat(tables).sort_values("row", kind="stable", ignore_index=True)

    def _lines(self, label, rows):
        """Return the lines of some rows for one class."""
        import pandas as pd

        pair = [one.for_class(label)[rows] for one in (self._before, self._after)]
        tables = []
        for e, name in enumerate(self._after.expert_names):
            concepts = self._after.concept_names[e]
            before, after = (one.contributions[e][:, :, 0].ravel() for one in pair)
            tables.append(
                pd.DataFrame(
                    {
                        "row": np.repeat(rows, len(concepts)),
                        "class": pd.Series([label] * len(before), dtype=object),
                        "expert": pd.Series([name] * len(before), dtype=object),
                        "concept": list(concepts) * len(rows),
                        "before": before,
                        "after": after,
                        "change": after - before,
                        "similarity_before": pair[0].similarities[e].ravel(),
                        "similarity": pair[1].similarities[e].ravel(),
                    }
                )
            )
        if self._additive:
            before, after = (one.bias[:, 0] for one in pair)
            bias = {
                "row": rows,
                "class": pd.Series([label] * len(rows), dtype=object),
                "expert": pd.Series([None] * len(rows), dtype=object),
                "concept": "(bias)",
                "before": before,
                "after": after,
                "change": after - before,
                "similarity_before": np.nan,
                "similarity": np.nan,
            }
            tables.append(pd.DataFrame(bias))
        return pd.concat(tables)

    def to_dict(self):
        """Return the intervention as plain JSON types, with what carried each row's change."""
        return {
            "classes": self.classes,
            "gate": "fixed" if self._gate_held else "follow",
            "changes": [
                {**line, "percentile": None if np.isnan(line["percentile"]) else line["percentile"]}
                for line in self.changes.to_dict("records")
            ],
            "rows": [
                {
                    "predicted_before": self.predicted_before.tolist()[i],
                    "predicted": self.predicted.tolist()[i],
                    "changed": bool(self.changed[i]),
                    "probabilities_before": self._before.probabilities[i].tolist(),
                    "probabilities": self.probabilities[i].tolist(),
                    "logits_before": self._before.logits[i].tolist(),
                    "logits": self.logits[i].tolist(),
                    "carried": [
                        {name: None if value != value else value for name, value in line.items()}
                        for line in self.carried(row=i).to_dict("records")
                    ],
                }
                for i in range(len(self))
            ],
        }

    def __repr__(self):
        """Return what was set, what became of the first rows, and what carried it."""
        n = len(self)
        told = [
            f"{line.concept} ({line.expert}) at {line.value:.3g}"
            + ("" if np.isnan(line.percentile) else f", percentile {line.percentile:.0f}")
            for line in self.changes.itertuples()
        ]
        shown = "; ".join(told[:6]) + (f"; and {len(told) - 6} more" if len(told) > 6 else "")
        lines = [
            f"Intervention on {n:,} row{'s' * (n != 1)}, gate "
            f"{'held' if self._gate_held else 'looking again'}: {shown or 'nothing set'}",
            f"{int(self.changed.sum())} of {n:,} predictions changed",
        ]
        for i in range(min(n, 3)):
            label = self._after.predicted.tolist()[i]
            k = self.classes.index(label)
            was = self._before.predicted.tolist()[i]
            lines.append(
                f"row {i}: {was if was == label else f'{was} -> {label}'}, "
                f"p({label}) {self._before.probabilities[i, k]:.2f} -> "
                f"{self.probabilities[i, k]:.2f}"
            )
            lines += [
                f"  {line.change:+6.2f}  {line.concept}"
                + ("" if line.concept == "(bias)" else f" ({line.expert})")
                for line in self.carried(4, row=i).itertuples()
            ]
        if n > 3:
            lines.append(f"... and {n - 3:,} more rows")
        return "\n".join([*lines, *(f"Note: {notice}" for notice in self._after.notices)])
