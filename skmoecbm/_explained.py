"""What an explanation holds and how it is read: an `Explanation` of some rows."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from skmoecbm._class_names import did_you_mean
from skmoecbm._comparisons import Comparisons
from skmoecbm._explanation_tables import Contributions, long_table, summarise_rows, top_table
from skmoecbm._explanation_text import html_of, text_of
from skmoecbm._ranges import percentiles
from skmoecbm._validation import check_number
from skmoecbm.exceptions import InputError

__all__ = ["Explanation"]


class Explanation(Comparisons, Sequence):
    """Why each row was classified as it was; made by `explain`.

    For every row and class the contributions of all (expert, concept) pairs and the bias sum to
    the logit that `decision_function` gives, to 1e-10; for a mixture with ``pool="prob"``, whose
    logits are no sums, to the probability that `predict_proba` gives. `unit` says which.

    Two classes have one logit, positive towards `classes[1]`, so every array has one column;
    `for_class(classes[0])` turns the signs. Probabilities have a column for each class.

    Attributes
    ----------
    classes : list of length K
        Classes of the model.
    unit : {"logit", "probability"}
        What contributions are parts of. A part of a probability is what it gained while all
        concepts moved together from their training means (for ``activation="softmax"`` from 0) to
        what the image has, under the weights that the gate gave it.
    columns : list of length K'
        The class that each column of the arrays speaks for: all K, or one.
    expert_names : list of str, length E
    concept_names : list of list of str
        Concepts of each expert.
    gate : ndarray of shape (n, E), float64
        Gate weights G in [0, 1]; zero where an expert is absent.
    expert_weights : ndarray of shape (n, E), float64
        Share of each expert in the decision, G_e τ_e / Σ G τ, in [0, 1].
    expert_logits : ndarray of shape (n, E, K'), float64
        Logits S_e of each expert before weighting.
    present : ndarray of shape (n, E), bool
        Whether the expert saw the row.
    contributions : sequence of E arrays of shape (n, m_e, K'), float64
        What a concept adds, in `unit`; computed when an expert is asked for, by number or name.
    similarities : list of E arrays of shape (n, m_e), float64
        Cosine similarity in [-1, 1] of image and concept; NaN where the expert is absent.
    values : list of E arrays of shape (n, m_e), float64
        Similarities in standard deviations from the training mean; for ``activation="softmax"``
        as they came.
    percentiles : list of E arrays of shape (n, m_e), float64
        Where each similarity stands among those of the training images, in [0, 100]; NaN where the
        expert is absent or the training images are not known.
    bias : ndarray of shape (n, K'), float64
        What no concept carries: weighted intercepts and the shift of a `target_prevalence`, or the
        class prior where no expert saw the row. In probabilities that of an average image.
    logits : ndarray of shape (n, K'), float64
    totals : ndarray of shape (n, K'), float64
        What contributions and bias sum to: `logits`, or the probabilities of the columns.
    probabilities : ndarray of shape (n, K), float64
    predicted : ndarray of shape (n,), the most probable class of each row
    class_names : dict of label to str
        Names to show for classes, of the concept bank; those that are missing go by their label.
    thresholds : ndarray of shape (K,) or None
        Where a row may have several labels: from which probability on each is said.
    rows : ndarray of shape (n,), int, numbers in the call that made the explanation
    notices : tuple of str
        What must be said with the explanation, such as that the experts are demonstrations.
    """

    def __init__(
        self,
        parts,
        *,
        logits,
        probabilities,
        classes,
        offset=0.0,
        thresholds=None,
        of_class=None,
        images=None,
        value_range=None,
        notices=(),
        rows=None,
        unit="logit",
        totals=None,
        against=None,
        class_names=None,
        source=None,
    ):
        self._parts = tuple(parts)
        self.classes = np.asarray(classes).tolist()
        if of_class is None:
            self.columns = self.classes if logits.shape[1] > 1 else self.classes[-1:]
        else:
            self.columns = [of_class]
        self._of_class, self._offset = of_class, offset + np.zeros(logits.shape[1])
        self.against = against
        self.unit = unit
        self.thresholds = thresholds
        self.logits = logits
        self.totals = logits if totals is None else totals
        self.class_names = dict(class_names or {})
        self._source = source
        self.probabilities = np.asarray(probabilities, dtype=np.float64)
        self.predicted = np.asarray(classes)[self.probabilities.argmax(axis=1)]
        self.images = images
        self.value_range = value_range
        self.notices = tuple(notices)
        self.rows = np.arange(len(logits)) if rows is None else rows
        self.similarities = [part.similarities for part in self._parts]
        self.values = [part.values for part in self._parts]
        self.expert_names = [part.name for part in self._parts]
        self.concept_names = [list(part.concepts) for part in self._parts]
        self.gate = np.stack([part.gate for part in self._parts], axis=1)
        self.expert_weights = np.stack([part.share for part in self._parts], axis=1)
        self.expert_logits = np.stack([part.logits for part in self._parts], axis=1)
        self.present = np.stack(
            [~np.isnan(part.similarities).all(axis=1) for part in self._parts], axis=1
        )

        weighted = sum(part.added() for part in self._parts) + self._offset
        self.bias = np.where(self.present.any(axis=1)[:, None], weighted, self.totals)

    @cached_property
    def percentiles(self):
        """List of E arrays (n, m_e), in [0, 100]."""
        return [
            np.full(part.similarities.shape, np.nan)
            if part.quantiles is None
            else percentiles(part.similarities, part.quantiles)
            for part in self._parts
        ]

    @property
    def contributions(self):
        """Sequence of E arrays (n, m_e, K'), each computed when asked for."""
        return Contributions(self._parts)

    def __len__(self):
        """Return the number of rows."""
        return len(self.logits)

    def __getitem__(self, rows):
        """Return the explanation of some rows: an int, a slice, a list, or a mask."""
        if isinstance(rows, int | np.integer):
            if not -len(self) <= rows < len(self):
                raise IndexError(f"row {rows} of an explanation of {len(self)} rows")
            rows = [rows]
        asked = rows
        try:
            rows = np.arange(len(self))[rows]
            if rows.ndim != 1:
                raise IndexError
        except IndexError:
            got = getattr(asked, "shape", None) or (repr(asked)[:60])
            raise IndexError(
                f"Rows of an explanation of {len(self)} are taken by a number, a slice, a list of "
                f"numbers from 0 to {len(self) - 1}, or a mask of {len(self)} bools. Got {got}."
            ) from None
        return self._copy(
            [part.rows(rows) for part in self._parts],
            logits=self.logits[rows],
            totals=self.totals[rows],
            probabilities=self.probabilities[rows],
            images=None if self.images is None else [self.images[i] for i in rows],
            rows=self.rows[rows],
        )

    def for_class(self, class_):
        """Return the explanation of one class's logit: K' = 1, positive speaks for the class.

        Parameters
        ----------
        class_ : label
            One of `classes`.

        Returns
        -------
        Explanation

        Raises
        ------
        InputError
            If the class is unknown, or this explanation is already of another one of several.
        """
        column, sign = self._column(class_)
        mixture = np.zeros((len(self.columns), 1))
        mixture[column] = sign
        return self._copy(
            [part.combined(mixture) for part in self._parts],
            logits=self.logits @ mixture,
            totals=self.totals @ mixture,
            offset=self._offset @ mixture,
            of_class=self.classes[self.classes.index(class_)],
            against=self._of_class if class_ == self.against else self.against,
        )

    def top(self, k=10, row=None, class_=None):
        """Return the concepts that matter most.

        Parameters
        ----------
        k : int, default=10
        row : int, default=None
            Position of one row; None averages over all rows.
        class_ : label, default=None
            The class whose logit is explained; None takes each row's predicted class.

        Returns
        -------
        DataFrame
            The k largest by `magnitude`, with columns `concept`, `contribution` (mean, in `unit`),
            `magnitude` (mean absolute contribution), `expert`, `value` (mean of `values`),
            `similarity` (mean cosine similarity), `percentile` (mean), all three over the rows
            that the expert saw, and `unit`.

        Raises
        ------
        InputError
            If `k`, `row` or `class_` is not valid.
        """
        check_number("Explanation.top", "k", k, low=1, integer=True)
        return top_table(self if row is None else self[self._check_row(row)], k, class_)

    def to_frame(self, class_=None):
        """Return one line per (row, expert, concept), and one per row for the bias.

        Parameters
        ----------
        class_ : label, default=None
            The class whose logit is explained; None takes each row's predicted class.

        Returns
        -------
        DataFrame
            Columns `row`, `image` (the file's name, only where images were given as paths),
            `class`, `expert`, `concept`, `contribution`, `value`, `similarity`, `percentile`,
            `expert_weight`, `unit`. The bias has no expert and the concept `"(bias)"`.
            Contributions of a row sum to its logit, or to its probability, as `unit` says.
        """
        return long_table(self, class_)

    def to_dict(self, k=None):
        """Return the explanation as plain JSON types.

        Parameters
        ----------
        k : int, default=None
            Concepts listed per row, the largest contributions first; the others are summed under
            `rest`. None lists all.
        """
        return {
            "classes": self.classes,
            "columns": self.columns,
            "class_names": {str(label): name for label, name in self.class_names.items()},
            "unit": self.unit,
            "experts": [
                {"name": name, "concepts": len(names)}
                for name, names in zip(self.expert_names, self.concept_names, strict=True)
            ],
            "notices": list(self.notices),
            "rows": summarise_rows(self, k),
        }

    def plot(self, rows=None, *, k=10, class_=None, max_rows=8, same_scale=True):
        """Draw each row: image, weights of the experts, signed concept bars, and their sum.

        Parameters
        ----------
        rows : int or list of int, default=None
            Positions of the rows to draw; None draws the first `max_rows`.
        k : int, default=10
            Concepts shown per row, the largest contributions first; the others are drawn as one
            bar per expert, so that what is shown still sums to the logit.
        class_ : label, default=None
            The class whose logit is explained; None takes each row's predicted class.
        max_rows : int, default=8
        same_scale : bool, default=True
            Whether bars of one length are the same in all rows of the picture.

        Returns
        -------
        matplotlib.figure.Figure
            Not tied to a window: save it with `savefig`, or let a notebook show it.
        """
        from skmoecbm._explanation_plot import plot_explanation

        check_number("Explanation.plot", "k", k, low=1, integer=True)
        check_number("Explanation.plot", "max_rows", max_rows, low=1, integer=True)
        if not len(self):
            raise InputError("An explanation of no row has no picture. Explain some images.")
        if rows is None:
            rows = range(min(len(self), max_rows))
        elif isinstance(rows, int | np.integer):
            rows = [rows]
        if not len(rows):
            raise InputError(
                "There is no row to draw. Name at least one of them, or give rows=None."
            )
        shown = self[[self._check_row(row) for row in rows]]
        return plot_explanation(shown, k, class_, same_scale)

    def __repr__(self):
        """Return the first rows as text: experts, strongest concepts, rest and bias."""
        return text_of(self)

    def _repr_html_(self):
        return html_of(self)

    def _check_row(self, row):
        check_number("Explanation", "row", row, low=0, high=len(self) - 1, integer=True)
        return int(row)

    def _column(self, class_):
        """Return the column that speaks for a class and the sign to read it with."""
        if class_ in self.columns:
            return self.columns.index(class_), 1.0
        # Read backwards, a difference speaks for the other class. Of two classes the logit is
        # one; a probability or the logit of a label is none.
        others = [] if self.against is None else [self.against]
        if len(self.classes) == 2 and self.thresholds is None and self.unit == "logit":
            others = [label for label in self.classes if label not in self.columns]
        if class_ in others:
            return 0, -1.0
        there = [*self.columns, *others]
        meant = did_you_mean(class_, there, self.class_names)
        raise InputError(
            f"Class {class_!r} is not explained here. There are: {', '.join(map(repr, there))}."
            f"{meant}"
        )

    def _targets(self, class_):
        """Return per row the column, the sign and the class that its explanation is about."""
        class_ = self._of_class if class_ is None else class_
        labels = self.predicted.tolist() if class_ is None else [class_] * len(self)
        pairs = [self._column(label) for label in labels]
        columns = np.array([column for column, _ in pairs], dtype=int)
        return columns, np.array([sign for _, sign in pairs]), labels

    def _towards(self, expert, columns, signs):
        """Return contributions (n, m_e) of one expert to each row's own column."""
        return self._parts[expert].towards(columns, signs)

    def _copy(self, parts, **changes):
        fields = ("logits", "probabilities", "thresholds", "images", "value_range", "notices")
        fields += ("rows", "unit", "totals", "against", "class_names")
        kept = {name: getattr(self, name) for name in fields}
        kept.update(offset=self._offset, source=self._source, of_class=self._of_class)
        return Explanation(parts, **{"classes": self.classes, **kept, **changes})
