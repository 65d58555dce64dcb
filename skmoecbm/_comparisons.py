"""Questions that an `Explanation` answers by comparing: with another class, with other experts."""

import numpy as np

from skmoecbm._class_names import did_you_mean
from skmoecbm._explanation_tables import image_names, summarise_row
from skmoecbm._validation import check_number
from skmoecbm._what_if import cases_of, rows_of
from skmoecbm.exceptions import InputError

__all__ = ["Comparisons"]


class Comparisons:
    """What `Explanation` has beside its own numbers."""

    @property
    def runner_up(self):
        """Second most probable class of each row, shape (n,); None where rows have labels."""
        if self.thresholds is not None:
            return None
        return self._rivals(self.predicted.tolist())

    def versus(self, class_, other):
        """Return the explanation of the difference between two classes.

        Parameters
        ----------
        class_, other : label
            Positive speaks for `class_` and against `other`.

        Returns
        -------
        Explanation
            K' = 1; contributions and bias sum exactly to the logit of `class_` minus that of
            `other` (with ``unit="probability"`` to the difference of the probabilities).

        Raises
        ------
        InputError
            If a class is unknown or both are the same.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from skmoecbm import ConceptBottleneckClassifier
        >>> X, y = load_iris(return_X_y=True)
        >>> explanation = ConceptBottleneckClassifier(alpha=1.0).fit(X, y).explain(X[:2])
        >>> between = explanation.versus(0, 1)
        >>> difference = explanation.logits[:, 0] - explanation.logits[:, 1]
        >>> bool(abs(between.logits[:, 0] - difference).max() < 1e-12)
        True
        """
        column, sign = self._column(class_)
        against, other_sign = self._column(other)
        if class_ == other:
            raise InputError(
                f"Two different classes are needed to compare. Got {class_!r} twice; name another."
            )
        mixture = np.zeros((len(self.columns), 1))
        if column == against:  # one logit of two classes is their difference already
            mixture[column] = sign
        else:
            mixture[column], mixture[against] = sign, -other_sign
        return self._copy(
            [part.combined(mixture) for part in self._parts],
            logits=self.logits @ mixture,
            totals=self.totals @ mixture,
            offset=self._offset @ mixture,
            of_class=self.classes[self.classes.index(class_)],
            against=self.classes[self.classes.index(other)],
        )

    def separating(self, k=5, *, class_=None, other=None):
        """Return the concepts that separate each row's class from another one.

        Parameters
        ----------
        k : int or None, default=5
            Concepts listed per row, those that separate most; the others are summed. None lists
            all.
        class_ : label, default=None
            None takes each row's predicted class.
        other : label, default=None
            None takes the most probable other class: of a predicted class its runner-up.

        Returns
        -------
        DataFrame
            Columns `row`, `concept`, `contribution`, `expert`, `value`, `percentile`, `class`,
            `other`, `unit`. Contributions of a row, with its lines `"(others)"` and
            `"(bias)"`, sum to the difference of the two logits (of the two probabilities with
            ``unit="probability"``).

        Raises
        ------
        InputError
            If a class is unknown, both are the same, or rows may have several labels, each of
            which is said or not on its own.
        """
        import pandas as pd

        if k is not None:
            check_number("Explanation.separating", "k", k, low=1, integer=True)
        if self.thresholds is not None:
            raise InputError(
                "Rows may have several labels here, so no label is chosen in the place of another. "
                "Use for_class(label) for what speaks for and against each."
            )
        labels = self.predicted.tolist() if class_ is None else [class_] * len(self)
        others = self._rivals(labels) if other is None else [other] * len(self)
        lines = []
        for i, (label, rival) in enumerate(zip(labels, others, strict=True)):
            summary = summarise_row(self[i].versus(label, rival), 0, k)
            named = {"row": summary["row"], "class": label, "other": rival}
            lines += [{**named, **entry} for entry in summary["contributions"]]
            rest = sum(expert["rest"] for expert in summary["experts"])
            if any(expert["rest_concepts"] for expert in summary["experts"]):
                lines.append({**named, "concept": "(others)", "contribution": rest})
            lines.append({**named, "concept": "(bias)", "contribution": summary["bias"]})
        columns = ["row", "concept", "contribution", "expert", "value", "percentile"]
        frame = pd.DataFrame(lines, columns=[*columns, "class", "other"])
        return frame.assign(unit=self.unit)

    def what_if(self, class_=None):
        """Return what the model would say if it listened to other experts.

        Parameters
        ----------
        class_ : label, default=None
            The class whose logit and probability are told; None takes each row's predicted class.

        Returns
        -------
        DataFrame
            One line per row and case: "as it is"; "without NAME", which is what
            ``model.without(NAME)`` says; "NAME alone", the gate at 1 for this expert; "plain
            average". So with two experts the gate stands at 0, 1/2 and 1. Columns `row`, `image`
            (only where images were given as paths), `case`, `class`, `logit`, `probability`,
            `change` (of the probability), `predicted` (what would be), and ``gate NAME`` of each
            expert. NaN, and no prediction, where the only expert of a case did not see the row.

        Raises
        ------
        InputError
            If the class is unknown, or the explanation was not made by `explain`.
        """
        import pandas as pd

        class_ = self._of_class if class_ is None else class_
        labels = self.predicted.tolist() if class_ is None else [class_] * len(self)
        for label in set(labels) - set(self.classes):
            meant = did_you_mean(label, self.classes, self.class_names)
            raise InputError(f"There is no class {label!r} here; there are {self.classes}.{meant}")
        codes = np.array([self.classes.index(label) for label in labels], dtype=int)
        own = np.arange(len(self))
        tables, cases = [], self.cases()
        for case in cases:
            probability = case.probabilities[own, codes]
            logit = case.logits[own, codes] if case.logits.shape[1] > 1 else case.logits[:, 0]
            if case.logits.shape[1] == 1:
                logit = np.where(codes == 1, logit, -logit)
            table = {
                "row": self.rows,
                "case": case.name,
                "class": np.array([*labels, None], dtype=object)[:-1],
                "logit": logit,
                "probability": probability,
                "change": probability - cases[0].probabilities[own, codes],
                "predicted": self._said(case.probabilities),
            }
            for e, name in enumerate(self.expert_names):
                table[f"gate {name}"] = case.gate[:, e]
            tables.append(pd.DataFrame(table))
        frame = pd.concat(tables, ignore_index=True)
        if (names := image_names(self)) is not None:
            frame.insert(1, "image", pd.Series(np.tile(names, len(tables)), dtype=object))
        return frame.sort_values("row", kind="stable", ignore_index=True)

    def summary(
        self,
        y=None,
        *,
        groups=None,
        n_bootstrap=1000,
        n_permutations=1000,
        confidence=0.95,
        random_state=None,
    ):
        """Return what the model does on these rows together, class by class.

        Parameters
        ----------
        y : array-like of shape (n,), or indicator of shape (n, K), default=None
            True classes; None takes those that are predicted. The gate takes part in the
            prediction, so that p-values are then partly circular.
        groups : array-like of shape (n,), default=None
            Lesion, patient or study of each row: resampled and exchanged as a whole.
        n_bootstrap : int, default=1000
            Resamples for the intervals; 0 gives none.
        n_permutations : int, default=1000
            Exchanges of labels for the p-values of the experts' weights; 0 gives none.
        confidence : float in (0, 1), default=0.95
        random_state : int, RandomState instance or None, default=None

        Returns
        -------
        GlobalExplanation

        Raises
        ------
        InputError
            If labels or groups do not fit the rows, or a parameter is out of range.
        """
        from skmoecbm._global import summarise_explanation

        return summarise_explanation(
            self,
            y,
            groups=groups,
            n_bootstrap=n_bootstrap,
            n_permutations=n_permutations,
            confidence=confidence,
            random_state=random_state,
        )

    def cases(self):
        """Return the list of `Case` that `what_if` tabulates.

        Raises
        ------
        InputError
            If the explanation was not made by `explain`.
        """
        if self._source is None:
            raise InputError(
                "What the model would say otherwise is not known here: this explanation was made "
                "without a model. Make it with explain(model, images)."
            )
        model, features = self._source
        return cases_of(model, rows_of(features, self.rows))

    def _rivals(self, labels):
        """Return the most probable other class of each row, an array of the classes' dtype."""
        left = self.probabilities.copy()
        codes = [self.classes.index(label) for label in labels]
        left[np.arange(len(left)), codes] = -1.0
        return np.asarray(self.classes)[left.argmax(axis=1)]

    def _said(self, probabilities):
        """Return the most probable class per row, an object array; labels joined by commas."""
        said = np.full(len(probabilities), None, dtype=object)
        for i, p in enumerate(probabilities):
            if np.isnan(p).any():
                continue
            if self.thresholds is None:
                said[i] = self.classes[int(p.argmax())]
            else:
                kept = zip(self.classes, p >= self.thresholds, strict=True)
                said[i] = ", ".join(str(label) for label, yes in kept if yes)
        return said
