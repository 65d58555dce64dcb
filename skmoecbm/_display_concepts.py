"""The picture of what concepts add to a decision."""

import numpy as np

from skmoecbm._display_parts import COLOURS, GREY, INK, axes_for, label_of, signed
from skmoecbm._explanation_tables import image_name
from skmoecbm._explanation_text import shown_class
from skmoecbm._global_explanation import GlobalExplanation
from skmoecbm._validation import check_number
from skmoecbm.exceptions import InputError
from skmoecbm.explanation import Explanation, explain

__all__ = ["ConceptContributionDisplay"]

_REACH = 4.0  # times the longest bar of a concept that bars of sums may be drawn


class ConceptContributionDisplay:
    """Bars of what concepts add to a decision, or on average to many.

    Parameters
    ----------
    concepts, experts : list of str, length k
        The concepts shown, the largest first, and whose they are.
    contributions : ndarray of shape (k,)
    expert_names : list of str
        All experts of the model, so that each has its own colour in every picture.
    low, high : ndarray of shape (k,) or None
        Ends of their intervals.
    unit : {"logit", "probability"}
    class_ : label or None
        What positive contributions speak for; None is each row's predicted class.
    rest : float or None
        Sum of all other concepts.
    n_rest : int
        How many they are.
    bias, total : float or None
        Bias, and the sum of everything.
    n_rows : int
    title : str

    Attributes
    ----------
    ax_ : matplotlib axes
    figure_ : matplotlib figure
    bars_ : dict of str to BarContainer
        The bars of each expert, and those of "others", "bias" and "sum".
    errors_ : ErrorbarContainer or None

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skmoecbm import ConceptBottleneckClassifier, ConceptContributionDisplay
    >>> X, y = load_wine(return_X_y=True)
    >>> model = ConceptBottleneckClassifier(alpha=1.0).fit(X, y)
    >>> display = ConceptContributionDisplay.from_estimator(model, X[:1], k=3)
    >>> len(display.contributions), display.n_rest
    (3, 10)
    """

    def __init__(
        self,
        concepts,
        experts,
        contributions,
        *,
        expert_names=None,
        low=None,
        high=None,
        unit="logit",
        class_=None,
        rest=None,
        n_rest=0,
        bias=None,
        total=None,
        n_rows=1,
        title="",
    ):
        self.concepts = concepts
        self.experts = experts
        self.contributions = contributions
        self.expert_names = list(dict.fromkeys(experts)) if expert_names is None else expert_names
        self.low = low
        self.high = high
        self.unit = unit
        self.class_ = class_
        self.rest = rest
        self.n_rest = n_rest
        self.bias = bias
        self.total = total
        self.n_rows = n_rows
        self.title = title

    @classmethod
    def from_explanation(cls, explanation, *, row=None, class_=None, k=12, ax=None):
        """Draw an `Explanation`, one row of it or the mean of all, or a `GlobalExplanation`.

        Parameters
        ----------
        explanation : Explanation or GlobalExplanation
            The latter has intervals, and needs `class_`.
        row : int, default=None
            Position of one row; None averages over all.
        class_ : label, default=None
            None takes each row's predicted class.
        k : int, default=12
            Concepts shown, the largest mean absolute contributions; the others are one bar.
        ax : matplotlib axes, default=None

        Returns
        -------
        ConceptContributionDisplay
        """
        check_number("ConceptContributionDisplay", "k", k, low=1, integer=True)
        if isinstance(explanation, GlobalExplanation):
            return cls._from_global(explanation, class_, k).plot(ax)
        if not isinstance(explanation, Explanation):
            raise InputError(
                f"A {type(explanation).__name__} has no contributions of concepts to draw. Draw "
                "whom rows are sent to with ExpertUsageDisplay."
            )
        own = explanation if row is None else explanation[row]
        if not len(own):
            raise InputError("An explanation of no row has no bars. Explain some images.")
        table = own.top(sum(map(len, own.concept_names)), class_=class_)
        columns, signs, labels = own._targets(class_)
        at = np.arange(len(own)), columns
        which = labels[0] if len(set(labels)) == 1 else None
        about = "predicted class" if which is None else shown_class(own, which)
        title = f"{about}, mean of {len(own):,} rows"
        if len(own) == 1:
            p = own.probabilities[0, own.classes.index(which)]
            title = f"{about}, probability {p:.2f}"
            picture = None if own.images is None else image_name(own.images[0])
            title = f"{picture or f'row {own.rows[0]}'}\n{title}"
        return cls(
            table.concept[:k].tolist(),
            table.expert[:k].tolist(),
            table.contribution[:k].to_numpy(),
            expert_names=own.expert_names,
            unit=own.unit,
            class_=which,
            rest=float(table.contribution[k:].sum()),
            n_rest=max(len(table) - k, 0),
            bias=float((signs * own.bias[at]).mean()),
            total=float((signs * own.totals[at]).mean()),
            n_rows=len(own),
            title=title,
        ).plot(ax)

    @classmethod
    def _from_global(cls, found, class_, k):
        if class_ is None:
            raise InputError(
                "A GlobalExplanation is drawn class by class: give class_, one of "
                f"{', '.join(map(repr, found.supports))}."
            )
        table, own = found.top(k, class_), found.for_class(class_).concepts
        return cls(
            table.concept.tolist(),
            table.expert.tolist(),
            table.contribution.to_numpy(),
            expert_names=found.usage.expert.unique().tolist(),
            low=table.low.to_numpy(),
            high=table.high.to_numpy(),
            unit=found.unit,
            class_=class_,
            rest=float(np.nansum(own.contribution) - np.nansum(table.contribution)),
            n_rest=len(own) - len(table),
            n_rows=found.supports[class_],
            title=f"{class_}, mean of {found.supports[class_]:,} rows, "
            f"{100 * found.confidence:g} % intervals",
        )

    @classmethod
    def from_estimator(cls, model, images, *, row=None, class_=None, k=12, ax=None):
        """Explain images with a fitted model and draw the explanation.

        Parameters
        ----------
        model, images
            As for `explain`, with its errors.
        row, class_, k, ax
            As of `from_explanation`.

        Returns
        -------
        ConceptContributionDisplay
        """
        return cls.from_explanation(explain(model, images), row=row, class_=class_, k=k, ax=ax)

    def plot(self, ax=None):
        """Draw the bars.

        Parameters
        ----------
        ax : matplotlib axes, default=None
            None makes a figure.

        Returns
        -------
        ConceptContributionDisplay
        """
        extra = [("others", self.rest, f"{self.n_rest:,} others")] if self.n_rest else []
        extra += [("bias", self.bias, "bias")] if self.bias is not None else []
        extra += [("sum", self.total, f"sum = {self.unit}")] if self.total is not None else []
        n, several = len(self.concepts), len(set(self.experts)) > 1
        ax = axes_for(ax, 7.5, 1.3 + 0.26 * (n + len(extra)))
        self.ax_, self.figure_, self.bars_, self.errors_ = ax, ax.figure, {}, None
        own = np.asarray(self.experts)
        for number, name in enumerate(self.expert_names):
            rows = np.flatnonzero(own == name)
            if not len(rows):
                continue
            colour = COLOURS[number % len(COLOURS)]
            self.bars_[name] = ax.barh(
                rows, self.contributions[rows], color=colour, label=label_of(name)
            )
        if self.low is not None and np.isfinite(self.low).all():
            error = np.abs(np.stack([self.low, self.high]) - self.contributions)
            self.errors_ = ax.errorbar(
                self.contributions, np.arange(n), xerr=error, fmt="none", ecolor=INK, capsize=2
            )
        for i, (kind, value, _) in enumerate(extra):
            colour = INK if kind == "sum" else GREY
            self.bars_[kind] = ax.barh(n + i, value, color=colour, alpha=0.9 if i == 2 else 0.5)
        edges = self.contributions.copy()
        if self.errors_ is not None:
            edges = np.where(edges >= 0, self.high, self.low)
        sums = np.array([value for _, value, _ in extra])
        # Where the sums would leave nothing of the concepts to see, they run out of the picture.
        reach = _REACH * max(np.abs(edges).max(), 1e-12)
        low = min(0.0, edges.min(), *np.maximum(sums, -reach))
        high = max(0.0, edges.max(), *np.minimum(sums, reach))
        span = high - low
        ax.set_xlim(low - 0.18 * span * (low < 0), high + 0.18 * span)
        values = np.concatenate([self.contributions, sums])
        for i, (value, edge) in enumerate(zip(values, np.r_[edges, sums], strict=True)):
            cut = abs(edge) > reach
            style = {"xytext": (4 if value >= 0 else -4, 0), "textcoords": "offset points"}
            words = f"{signed(value)} →" if cut and value > 0 else signed(value)
            ax.annotate(
                f"← {words}" if cut and value < 0 else words,
                (np.clip(edge, -reach, reach) if not cut else np.sign(value) * 0.86 * reach, i),
                va="center",
                ha="left" if value >= 0 else "right",
                size=8,
                color="white" if cut and i == len(values) - 1 else INK,
                **style,
            )
        ax.set_yticks(
            np.arange(n + len(extra)),
            [*map(label_of, self.concepts), *(text for _, _, text in extra)],
        )
        ax.invert_yaxis()
        ax.axvline(0, color=INK, linewidth=0.8)
        units = {"logit": "logits (log-odds)", "probability": "parts of the probability"}
        speaks = "the predicted class" if self.class_ is None else label_of(self.class_, 30)
        words = f"{units[self.unit]}, positive for {speaks}"
        if self.n_rows > 1:
            words += "\nin the order of mean absolute contributions"
        ax.set_xlabel(words)
        title = "\n".join(label_of(line, 64) for line in self.title.split("\n"))
        ax.set_title(title, loc="left", size=10)
        ax.spines[["top", "right", "left"]].set_visible(False)
        if several:
            ax.legend(frameon=False, fontsize=8)
        return self
