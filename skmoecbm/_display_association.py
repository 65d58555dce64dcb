"""The picture of what concepts would add to any decision: the association of a fitted model."""

import numpy as np

from skmoecbm._display_parts import axes_for, heat_map, label_of, signed
from skmoecbm._last_step import fitted_classifier
from skmoecbm._validation import check_number
from skmoecbm.exceptions import InputError

__all__ = ["AssociationDisplay"]

_SD = "standard deviation"
_WRITTEN = 60  # concepts of an association up to which numbers stand in the cells


class AssociationDisplay:
    """Heat map of what each concept speaks for: classes by concepts.

    Parameters
    ----------
    association : ndarray of shape (k, K')
        Logits that one `unit` more of a concept adds where its expert decides alone.
    concepts : list of str, length k
    columns : list of label, length K'
        Of two classes only the second.
    n_concepts : int
        How many the model has.
    left_out : float
        Largest absolute association of a concept that is not shown; 0 if all are.
    unit : str
        A standard deviation, or what the experts that standardise nothing (``activation="softmax"``
        and heads of another kind) count in.

    Attributes
    ----------
    ax_ : matplotlib axes
    figure_ : matplotlib figure
    image_ : AxesImage
    texts_ : list of Text

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skmoecbm import AssociationDisplay, ConceptBottleneckClassifier
    >>> X, y = load_wine(return_X_y=True)
    >>> model = ConceptBottleneckClassifier(alpha=1.0).fit(X, y)
    >>> AssociationDisplay.from_estimator(model, k=5).association.shape
    (5, 3)
    """

    def __init__(self, association, concepts, columns, *, n_concepts, left_out=0.0, unit=_SD):
        self.association = association
        self.concepts = concepts
        self.columns = columns
        self.n_concepts = n_concepts
        self.left_out = left_out
        self.unit = unit

    @classmethod
    def from_estimator(cls, model, *, expert=None, k=30, ax=None):
        """Draw the associations of a fitted model.

        Parameters
        ----------
        model : Pipeline or classifier
            As for `explain`.
        expert : str, default=None
            Only this expert; None takes all, each concept with the name of its expert.
        k : int or None, default=30
            Concepts shown, the strongest for any class; None shows all.
        ax : matplotlib axes, default=None

        Returns
        -------
        AssociationDisplay

        Raises
        ------
        InputError
            If there is no such expert, or the model is not one of this package.
        """
        if k is not None:
            check_number("AssociationDisplay", "k", k, low=1, integer=True)
        _, classifier = fitted_classifier("AssociationDisplay", model, sums_concepts=True)
        heads = getattr(classifier, "heads_", [classifier])
        names = getattr(classifier, "expert_names_", [getattr(classifier, "expert_name_", None)])
        if expert is not None and expert not in names:
            raise InputError(f"There is no expert {expert!r}; there are {list(names)}.")
        scales = getattr(classifier, "expert_scale_", np.ones(len(heads)))
        kept = [e for e, name in enumerate(names) if expert in (None, name)]
        table = np.concatenate([scales[e] * heads[e].association_.T for e in kept])
        concepts = [
            f"{concept} ({names[e]})" if len(kept) > 1 else str(concept)
            for e in kept
            for concept in heads[e].concept_names_
        ]
        strength = np.abs(table).max(axis=1)
        shown = np.argsort(-strength, kind="stable")[:k]
        # those that speak for the same class stand together, the strongest first
        shown = shown[np.lexsort((-table[shown].max(axis=1), table[shown].argmax(axis=1)))]
        rest = np.delete(strength, shown)
        classes = classifier.classes_.tolist()
        return cls(
            table[shown],
            [concepts[j] for j in shown],
            classes if table.shape[1] > 1 else classes[-1:],
            n_concepts=len(table),
            left_out=float(rest.max()) if len(rest) else 0.0,
            unit=_unit_of([heads[e] for e in kept]),
        ).plot(ax)

    def plot(self, ax=None):
        """Draw the heat map.

        Parameters
        ----------
        ax : matplotlib axes, default=None
            None makes a figure, as high as the concepts need.

        Returns
        -------
        AssociationDisplay
        """
        n, n_columns = self.association.shape
        ax = axes_for(ax, max(6.6, 4.6 + 0.6 * n_columns), 1.5 + 0.22 * n)  # the title's width
        self.ax_, self.figure_ = ax, ax.figure
        high = float(np.abs(self.association).max()) or 1.0
        words = [
            [signed(value) if n <= _WRITTEN else "" for value in line] for line in self.association
        ]
        self.image_, self.texts_ = heat_map(
            ax, self.association, words, cmap="RdBu", low=-high, high=high, size=7.5
        )
        turn = any(len(str(label)) > 6 for label in self.columns)
        ax.set_xticks(
            np.arange(n_columns),
            [label_of(label, 24) for label in self.columns],
            rotation=40 if turn else 0,
            ha="right" if turn else "center",
        )
        size = 8 if n <= _WRITTEN else 6
        ax.set_yticks(np.arange(n), [label_of(name, 52) for name in self.concepts], size=size)
        title = f"all {n:,} concepts"
        if n < self.n_concepts:
            title = (
                f"{n:,} of {self.n_concepts:,} concepts, the strongest; of the others none is "
                f"beyond ±{self.left_out:.2f}"
            )
        ax.set_title(title, loc="right", size=9)
        bar = ax.figure.colorbar(self.image_, ax=ax, shrink=min(1.0, 3 / (0.22 * n + 0.5)))
        bar.set_label(f"logits per {self.unit}")
        return self


def _unit_of(heads):
    """Return what one more of a concept is, for heads that standardise and heads that do not."""
    raw = {getattr(head, "activation", "softmax") == "softmax" for head in heads}
    if len(raw) > 1:
        return f"{_SD}, or unit of value where nothing is standardised"
    return "unit of similarity, which is not standardised" if True in raw else _SD
