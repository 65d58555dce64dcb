"""What a model does on many images: a `GlobalExplanation`."""

import copy
import html

import numpy as np

from skmoecbm._evaluation import plain
from skmoecbm._validation import check_number
from skmoecbm.exceptions import InputError

__all__ = ["GlobalExplanation"]

_SHOWN_CONCEPTS = 3
_ALARM = 0.05


class GlobalExplanation:
    """Which concepts carry which class, and which expert is trusted on which; see `summary`.

    Made by `global_explanation` or `Explanation.summary`. An expert counts only in the rows that
    it saw.

    Attributes
    ----------
    concepts : DataFrame
        One line per (class, expert, concept): `contribution`, the mean over the rows of the class
        of what the concept adds to that class (in `unit`), its interval `low`, `high`;
        `magnitude`, the mean absolute contribution, its interval `magnitude_low`,
        `magnitude_high`; `support`, rows of the class that the expert saw.
    usage : DataFrame
        One line per (class, expert): `weight`, the expert's mean share in the decision, in
        [0, 1], its interval `low`, `high`; `support`; `difference` from what it is with exchanged
        labels; `p_value`, two-sided, of this cell alone; `p_adjusted` for all cells together.
    frequency : DataFrame
        One line per expert: `spearman`, the rank correlation of its mean weight in a class with
        the frequency of the class (below 0: it speaks more on rare ones), and its `p_value` over
        all orders of the classes.
    supports : dict of label to int
        Rows of each class.
    unit : {"logit", "probability"}
    p_overall : float
        Of the whole class x expert table: how often exchanged labels make its largest difference.
    exchanged : float
        Share of the rows whose labels could be exchanged with those of other rows.
    by_predicted : bool
        Whether classes are those predicted, because no labels were given.
    n, n_groups, n_bootstrap, n_permutations : int
    confidence : float
    notices : tuple of str
    """

    def __init__(
        self,
        *,
        concepts,
        usage,
        frequency,
        supports,
        unit,
        p_overall,
        exchanged,
        by_predicted,
        n,
        n_groups,
        n_bootstrap,
        n_permutations,
        confidence,
        notices=(),
    ):
        self.concepts = concepts
        self.usage = usage
        self.frequency = frequency
        self.supports = supports
        self.unit = unit
        self.p_overall = p_overall
        self.exchanged = exchanged
        self.by_predicted = by_predicted
        self.n = n
        self.n_groups = n_groups
        self.n_bootstrap = n_bootstrap
        self.n_permutations = n_permutations
        self.confidence = confidence
        self.notices = tuple(notices)

    @property
    def heat_map(self):
        """DataFrame of mean weights, a line per class and a column per expert."""
        table = self.usage.pivot(index="class", columns="expert", values="weight")
        # not .loc: labels that are True and False it takes for a mask
        return table.reindex(index=list(self.supports), columns=self.usage.expert.unique())

    def top(self, k=10, class_=None):
        """Return the concepts of the largest mean absolute contribution.

        Parameters
        ----------
        k : int, default=10
            Of each class.
        class_ : label, default=None
            None takes every class.

        Returns
        -------
        DataFrame
            Lines of `concepts`, class by class, the largest `magnitude` first.
        """
        check_number("GlobalExplanation.top", "k", k, low=1, integer=True)
        concepts = (self if class_ is None else self.for_class(class_)).concepts
        place = {label: i for i, label in enumerate(self.supports)}
        ordered = concepts.assign(place=concepts["class"].map(place)).sort_values(
            ["place", "magnitude"], ascending=[True, False], kind="stable"
        )
        return ordered.groupby("place").head(k).drop(columns="place").reset_index(drop=True)

    def for_class(self, class_):
        """Return what is known of one class; p-values stay those of the whole table.

        Parameters
        ----------
        class_ : label

        Raises
        ------
        InputError
            If no row is of this class.
        """
        if class_ not in self.supports:
            raise InputError(
                f"No row is of class {class_!r}. There are: {', '.join(map(repr, self.supports))}."
            )
        one = copy.copy(self)
        one.supports = {class_: self.supports[class_]}
        for name in ("concepts", "usage"):
            table = getattr(self, name)
            setattr(one, name, table[table["class"] == class_].reset_index(drop=True))
        return one

    def to_frame(self):
        """Return `concepts` with a column `unit`."""
        return self.concepts.assign(unit=self.unit)

    def to_dict(self, k=None):
        """Return everything as plain JSON types, None where a number is not known.

        Parameters
        ----------
        k : int, default=None
            Concepts listed per class, as of `top`; None lists all.
        """
        concepts = self.concepts if k is None else self.top(k)
        scalars = ("unit", "p_overall", "exchanged", "by_predicted", "n", "n_groups")
        scalars += ("n_bootstrap", "n_permutations", "confidence")
        return {
            **{name: _json(getattr(self, name)) for name in scalars},
            "classes": [
                {"class": plain(label), "support": n} for label, n in self.supports.items()
            ],
            "concepts": _records(concepts),
            "usage": _records(self.usage),
            "frequency": _records(self.frequency),
            "notices": list(self.notices),
        }

    def __repr__(self):
        """Return the strongest concepts and the experts' weights, class by class."""
        lines = [self._headline()]
        for label in self.supports:
            lines.append(f"{label} ({self.supports[label]:,} rows): {', '.join(self._said(label))}")
            lines += [
                f"  {row.contribution:+6.2f}{_interval(row)}  {row.concept} ({row.expert})"
                for row in self.top(_SHOWN_CONCEPTS, label).itertuples()
            ]
        return "\n".join([*lines, *self._verdicts(), *(f"Note: {text}" for text in self.notices)])

    def _repr_html_(self):
        experts = self.usage.expert.unique().tolist()
        head = "".join(f"<th>{html.escape(name)}</th>" for name in experts)
        rows = [
            f"<tr><td>{html.escape(str(label))}</td><td>{n:,}</td>"
            + "".join(f"<td>{html.escape(text)}</td>" for text in self._said(label, named=False))
            + "<td>"
            + html.escape(
                "; ".join(
                    f"{row.concept} {row.contribution:+.2f}"
                    for row in self.top(_SHOWN_CONCEPTS, label).itertuples()
                )
            )
            + "</td></tr>"
            for label, n in self.supports.items()
        ]
        notes = [*self._verdicts(), *self.notices]
        return (
            f"<div><p>{html.escape(self._headline())}</p><table><thead><tr><th>class</th>"
            f"<th>rows</th>{head}<th>strongest concepts</th></tr></thead>"
            f"<tbody>{''.join(rows)}</tbody></table>"
            + "".join(f"<p>{html.escape(note)}</p>" for note in notes)
            + "</div>"
        )

    def _headline(self):
        which = "predicted classes" if self.by_predicted else "classes"
        groups = f" in {self.n_groups:,} groups" if self.n_groups < self.n else ""
        unit = {"logit": "logits", "probability": "probability"}[self.unit]
        between = f" with {100 * self.confidence:g} % intervals" if self.n_bootstrap else ""
        return (
            f"GlobalExplanation of {self.n:,} row{'s' * (self.n != 1)}{groups}, "
            f"{len(self.supports)} {which}: mean "
            f"contributions in {unit}{between} (the largest mean absolute ones first), weights of "
            "the experts"
        )

    def _said(self, label, named=True):
        """Return the weights of the experts in one class as words."""
        own = self.usage[self.usage["class"] == label]
        return [
            (f"{row.expert} " if named else "")
            + ("never there" if not row.support else f"{100 * row.weight:.0f} %")
            + ("*" if row.p_adjusted < _ALARM else "")
            for row in own.itertuples()
        ]

    def _verdicts(self):
        """Return in words whether weights differ by class, and with the classes' frequency."""
        lines = []
        if np.isfinite(self.p_overall):
            differ = "differ by class" if self.p_overall < _ALARM else "do not clearly differ"
            lines.append(
                f"weights {differ}: p = {self.p_overall:.3g} of {self.n_permutations:,} exchanges "
                f"of labels ({100 * self.exchanged:.0f} % of rows could be exchanged)"
            )
            if self.by_predicted:
                lines.append(
                    "classes are the predicted ones, and the gate takes part in the prediction: "
                    "p-values are partly circular; give y, the true classes"
                )
        if (self.usage.p_adjusted < _ALARM).any():
            lines.append(f"* differs from other classes, p < {_ALARM} for all cells together")
        for row in self.frequency.itertuples():
            if np.isfinite(row.spearman):
                lines.append(
                    f"{row.expert} and the frequency of the class: Spearman {row.spearman:+.2f}, "
                    f"p = {row.p_value:.2g} ({len(self.supports)} classes)"
                )
        return lines


def _interval(row):
    """Return the interval of a mean in words, "" where none was asked for."""
    return f" [{row.low:+.2f}, {row.high:+.2f}]" if np.isfinite(row.low) else ""


def _records(table):
    """Return a DataFrame as a list of dicts of plain JSON types."""
    return [{name: _json(value) for name, value in row.items()} for row in table.to_dict("records")]


def _json(value):
    value = plain(value)
    return None if isinstance(value, float) and not np.isfinite(value) else value
