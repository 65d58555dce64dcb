"""What came of an intervention: two explanations, and what lies between them."""

import numpy as np

from skmoecbm._validation import check_number

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
        Of the rows as they came, and with the concepts set; with ``pool="prob"`` in probabilities.
    predicted_before, predicted : ndarray of shape (n,), or (n, K) of several labels
        What the model predicts.
    changed : ndarray of shape (n,), bool
        Whether the prediction is another one.
    probabilities_before, probabilities, probability_change : ndarray of shape (n, K), float64
        Before, after, and after minus before.
    logits, logit_change : ndarray of shape (n, K'), float64
        The same for the decision function; two classes have one, positive towards `classes[1]`.
    gate_change : ndarray of shape (n, E), float64
        Exactly 0 with ``gate="fixed"``.
    changes : DataFrame
        What was set, a line for each expert's concept: `expert`, `concept`, `value` (similarity)
        and `percentile` of the training images, in [0, 100].
    """

    def __init__(self, before, after, *, predicted, cells, additive, gate_held, shown=None):
        import pandas as pd

        self._before, self._after = before, after
        self._shown = (before, after) if shown is None else shown
        self.classes = after.classes
        self.predicted_before, self.predicted = predicted
        differs = self.predicted_before != self.predicted
        self.changed = differs if differs.ndim == 1 else differs.any(axis=1)
        self.probabilities_before, self.probabilities = before.probabilities, after.probabilities
        self.probability_change = after.probabilities - before.probabilities
        self.logits, self.logit_change = after.logits, after.logits - before.logits
        self.gate_change = after.gate - before.gate
        lines = [(*cell.names, cell.value, cell.percentile) for cell in cells]
        self.changes = pd.DataFrame(lines, columns=["expert", "concept", "value", "percentile"])
        self._cells, self._additive, self._gate_held = cells, additive, gate_held

    @property
    def before(self):
        """Explanation of the rows as they came."""
        return self._shown[0]

    @property
    def after(self):
        """Explanation of the rows with the concepts set."""
        return self._shown[1]

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
            intervention, and where it was another one before, the difference of the two.

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
            `row`, `class`, `against` (the class whose logit is taken off, if any), `expert`,
            `concept`, contributions `before` and `after`, `change`, and `similarity_before`,
            `similarity`. The changes of a row sum to that of its logit, or of the difference.
        """
        return self._table(class_, np.arange(len(self)))

    def _table(self, class_, rows):
        import pandas as pd

        pairs = [(class_, None) if class_ is not None else self._decided(row) for row in rows]
        tables = [
            self._lines(*both, rows[[pair == both for pair in pairs]])
            for both in dict.fromkeys(pairs)
        ]
        return pd.concat(tables).sort_values("row", kind="stable", ignore_index=True)

    def _decided(self, row):
        """Return the class that one row is told for, and the one that it is told against."""
        old, new = (one.predicted.tolist()[row] for one in (self._before, self._after))
        # Of two classes the one logit is the difference; labels do not stand against each other.
        alone = old == new or len(self._after.columns) == 1 or self._after.thresholds is not None
        return new, None if alone else old

    def _lines(self, label, against, rows):
        """Return the lines of some rows for one class, or for one against another."""
        import pandas as pd

        def told(read):
            pair = [read(one.for_class(label)[rows]) for one in (self._before, self._after)]
            if against is None:
                return pair
            other = [read(one.for_class(against)[rows]) for one in (self._before, self._after)]
            return [mine - its for mine, its in zip(pair, other, strict=True)]

        def table(expert, concepts, before, after, seen_before, seen):
            n = len(concepts)
            columns = {"row": np.repeat(rows, n), "class": label, "against": against}
            columns |= {"expert": expert, "concept": concepts * len(rows)}
            columns = {
                name: value if name == "row" else pd.Series(value, np.arange(n * len(rows)), object)
                for name, value in columns.items()
            }
            numbers = {"before": before, "after": after, "change": after - before}
            numbers |= {"similarity_before": seen_before, "similarity": seen}
            return pd.DataFrame(columns | {name: np.ravel(own) for name, own in numbers.items()})

        tables = []
        for e, name in enumerate(self._after.expert_names):
            values = told(lambda one, e=e: one.contributions[e][:, :, 0])
            seen = [one.similarities[e][rows] for one in (self._before, self._after)]
            tables.append(table(name, list(self._after.concept_names[e]), *values, *seen))
        if self._additive:
            unseen = [np.full(len(rows), np.nan)] * 2
            tables.append(table(None, ["(bias)"], *told(lambda one: one.bias[:, 0]), *unseen))
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
                    "probabilities_before": self.probabilities_before[i].tolist(),
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
        told = [str(cell) for cell in self._cells]
        shown = "; ".join(told[:6]) + (f"; and {len(told) - 6} more" if len(told) > 6 else "")
        lines = [
            f"Intervention on {n:,} row{'s' * (n != 1)}, gate "
            f"{'held' if self._gate_held else 'looking again'}: {shown or 'nothing set'}",
            f"{int(self.changed.sum())} of {n:,} predictions changed",
        ]
        for i in range(min(n, 3)):
            new, old = self._after.predicted.tolist()[i], self._before.predicted.tolist()[i]
            shares = [
                f"p({label}) {self.probabilities_before[i, self.classes.index(label)]:.2f} -> "
                f"{self.probabilities[i, self.classes.index(label)]:.2f}"
                for label in dict.fromkeys((new, old))
            ]
            said = new if old == new else f"{old} -> {new}"
            lines.append(f"row {i}: {said}, {', '.join(shares)}")
            lines += [
                f"  {line.change:+6.2f}  {line.concept}"
                + ("" if line.concept == "(bias)" else f" ({line.expert})")
                for line in self.carried(4, row=i).itertuples()
            ]
        if n > 3:
            lines.append(f"... and {n - 3:,} more rows")
        return "\n".join([*lines, *(f"Note: {notice}" for notice in self._before.notices)])
