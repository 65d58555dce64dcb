"""Pictures of the gate: how its weights are spread, and on which classes each expert is trusted."""

import numpy as np

from skmoecbm._display_parts import COLOURS, GREY, INK, axes_for, heat_map, label_of
from skmoecbm._metrics import check_labels
from skmoecbm.exceptions import InputError
from skmoecbm.explanation import explain

__all__ = ["ExpertUsageDisplay", "GateDisplay"]

_SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)


class GateDisplay:
    """How the weights of the experts are spread over images, class by class.

    A thin line from the 5th to the 95th percentile, a bar over the middle half, a dot at the
    median; the dashed line is where all experts weigh the same.

    Parameters
    ----------
    weights : ndarray of shape (n, E)
        Share of each expert in the decision, in [0, 1].
    present : ndarray of shape (n, E), bool
        Rows in which an expert is missing are left out: there the others' weights tell nothing.
    expert_names : list of str, length E
    classes : list of label, length n, or None
        Class of each row; None draws all rows together.
    order : list of label or None
        Classes from top to bottom; None is by name.

    Attributes
    ----------
    ax_ : matplotlib axes
    figure_ : matplotlib figure
    quantiles_ : ndarray of shape (C, E', 5)
        What is drawn, at the shares .05, .25, .5, .75, .95; of two experts only the first.
    supports_ : list of int, length C
        Rows drawn of each class.
    medians_ : list of PathCollection, one for each expert drawn
    boxes_ : list of BarContainer
    ranges_ : list of LineCollection

    Examples
    --------
    >>> import numpy as np
    >>> from skmoecbm import GateDisplay
    >>> weights = np.array([[0.2, 0.8], [0.4, 0.6], [0.5, 0.5]])
    >>> display = GateDisplay(weights, np.ones((3, 2), bool), ["a", "b"]).plot()
    >>> float(display.quantiles_[0, 0, 2])
    0.4
    """

    def __init__(self, weights, present, expert_names, *, classes=None, order=None):
        self.weights = weights
        self.present = present
        self.expert_names = expert_names
        self.classes = classes
        self.order = order

    @classmethod
    def from_explanation(cls, explanation, y=None, *, per_class=True, ax=None):
        """Draw the weights of an `Explanation`.

        Parameters
        ----------
        explanation : Explanation
            Of as many images as there are.
        y : array-like of shape (n,), default=None
            True classes; None takes those that are predicted.
        per_class : bool, default=True
            Whether there is a line per class, or one for all rows.
        ax : matplotlib axes, default=None

        Returns
        -------
        GateDisplay

        Raises
        ------
        InputError
            If `y` does not fit.
        """
        classes, order = None, None
        if per_class:
            order = explanation.classes
            classes = explanation.predicted.tolist() if y is None else check_labels(y, order)
            if len(classes) != len(explanation):
                raise InputError(
                    f"y must have one label per row, {len(explanation):,}. Got {len(classes):,}."
                )
        return cls(
            explanation.expert_weights,
            explanation.present,
            explanation.expert_names,
            classes=classes,
            order=order,
        ).plot(ax)

    @classmethod
    def from_estimator(cls, model, images, y=None, *, per_class=True, ax=None):
        """Explain images with a fitted model and draw its gate.

        Parameters
        ----------
        model, images
            As for `explain`, with its errors.
        y, per_class, ax
            As of `from_explanation`.

        Returns
        -------
        GateDisplay
        """
        return cls.from_explanation(explain(model, images), y, per_class=per_class, ax=ax)

    def plot(self, ax=None):
        """Draw the spread of the weights.

        Parameters
        ----------
        ax : matplotlib axes, default=None
            None makes a figure.

        Returns
        -------
        GateDisplay

        Raises
        ------
        InputError
            If no row has all experts.
        """
        # An expert that no row has, such as that of a view `without` it, is none of the picture.
        there = np.flatnonzero(self.present.any(axis=0))
        whole = self.present[:, there].all(axis=1) & bool(len(there))
        if not whole.any():
            raise InputError(
                "No row has all experts, so their weights are not comparable. Explain images that "
                "every expert has seen."
            )
        n_experts = len(there)
        shown = there[:1] if n_experts == 2 else there  # the other is the rest
        labels = ["all rows"] * len(whole) if self.classes is None else list(self.classes)
        found = {label for label, kept in zip(labels, whole, strict=True) if kept}
        order = sorted(found, key=str) if self.order is None else self.order
        order = ["all rows"] if self.classes is None else [c for c in order if c in found]
        rows = [whole & np.array([label == c for label in labels]) for c in order]
        self.supports_ = [int(mine.sum()) for mine in rows]
        self.quantiles_ = np.array(
            [[np.quantile(self.weights[mine, e], _SHARES) for e in shown] for mine in rows]
        )
        step = 0.7 / len(shown)
        ax = axes_for(ax, 6.5, 1.2 + len(order) * max(0.4, 0.22 * len(shown)))
        self.ax_, self.figure_ = ax, ax.figure
        self.medians_, self.boxes_, self.ranges_ = [], [], []
        for place, e in enumerate(shown):
            y = np.arange(len(order)) + (place - (len(shown) - 1) / 2) * step
            low, left, middle, right, high = self.quantiles_[:, place].T
            colour = COLOURS[e % len(COLOURS)]
            self.ranges_.append(ax.hlines(y, low, high, color=colour, linewidth=1.2))
            self.boxes_.append(
                ax.barh(
                    y,
                    right - left,
                    left=left,
                    height=0.75 * step,
                    color=colour,
                    alpha=0.75,
                    label=label_of(self.expert_names[e]),
                )
            )
            self.medians_.append(
                ax.scatter(middle, y, color="white", edgecolor=INK, s=28, zorder=3)
            )
        ax.axvline(1 / n_experts, color=GREY, linestyle="--", linewidth=0.9, zorder=0)
        names = [
            f"{label_of(c, 30)}  (n = {n:,})" for c, n in zip(order, self.supports_, strict=True)
        ]
        ax.set_yticks(np.arange(len(order)), names)
        ax.set_ylim(len(order) - 0.45, -0.55)
        ax.set_xlim(-0.02, 1.02)
        words = "share of each expert in the decision"
        if n_experts == 2:
            first, other = (label_of(self.expert_names[e], 30) for e in there)
            words = f"share of {first} in the decision; {other} has the rest"
        elif n_experts > 2:
            ax.legend(
                frameon=False, fontsize=8, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1)
            )
        ax.set_xlabel(words)
        if not whole.all():
            left_out = f"{(~whole).sum():,} of {len(whole):,} rows lack an expert: not drawn"
            ax.set_title(left_out, loc="right", size=8, color=GREY)
        ax.spines[["top", "right", "left"]].set_visible(False)
        return self


class ExpertUsageDisplay:
    """Heat map of the mean share of each expert in the decisions on each class.

    Parameters
    ----------
    weights : ndarray of shape (C, E)
        Mean shares, in [0, 1]; NaN where no row of the class has the expert.
    classes : list of label, length C
    expert_names : list of str, length E
    supports : list of int, length C
        Rows of each class.
    p_adjusted : ndarray of shape (C, E) or None
        Of a permutation of the labels, corrected for all cells; below .05 a cell has a star.
    p_overall : float or None
        Of the table as a whole; None says on the picture that chance may make such shares.
    information : (float, float, float) or None
        Mutual information of class and expert in nats, its mean under exchanged labels, and p.

    Attributes
    ----------
    ax_ : matplotlib axes
    figure_ : matplotlib figure
    image_ : AxesImage
    texts_ : list of Text

    Examples
    --------
    >>> import numpy as np
    >>> from skmoecbm import ExpertUsageDisplay
    >>> weights = np.array([[0.4, 0.6], [0.7, 0.3]])
    >>> display = ExpertUsageDisplay(weights, ["nv", "mel"], ["clip", "biomedclip"], [50, 9]).plot()
    >>> display.texts_[0].get_text()
    '0.40'
    """

    def __init__(
        self,
        weights,
        classes,
        expert_names,
        supports,
        *,
        p_adjusted=None,
        p_overall=None,
        information=None,
    ):
        self.weights = weights
        self.classes = classes
        self.expert_names = expert_names
        self.supports = supports
        self.p_adjusted = p_adjusted
        self.p_overall = p_overall
        self.information = information

    @classmethod
    def from_explanation(
        cls, explanation, y=None, *, groups=None, n_permutations=1000, random_state=None, ax=None
    ):
        """Draw the weights of an explanation, or of its summary.

        Parameters
        ----------
        explanation : Explanation, RoutingExplanation, GlobalExplanation or RoutingSummary
            With the latter two, all that follows but `ax` has been said already.
        y : array-like of shape (n,), or indicator of shape (n, K), default=None
            True classes; None takes those that are predicted.
        groups : array-like of shape (n,), default=None
            Lesion or patient of each row: their labels are exchanged as a whole.
        n_permutations : int, default=1000
            Exchanges of labels behind the stars; 0 draws none.
        random_state : int, RandomState instance or None, default=None
        ax : matplotlib axes, default=None

        Returns
        -------
        ExpertUsageDisplay
        """
        found = explanation
        if not hasattr(found, "heat_map"):
            found = explanation.summary(
                y,
                groups=groups,
                n_bootstrap=0,
                n_permutations=n_permutations,
                random_state=random_state,
            )
        table = found.heat_map
        adjusted = found.usage.p_adjusted.to_numpy(dtype=float).reshape(table.shape)
        tested = bool(np.isfinite(found.p_overall))
        names = ("mutual_information", "mutual_information_null", "mutual_information_p")
        told = tuple(getattr(found, name, float("nan")) for name in names)
        return cls(
            table.to_numpy(dtype=float),
            list(found.supports),
            table.columns.tolist(),
            list(found.supports.values()),
            p_adjusted=adjusted if tested else None,
            p_overall=found.p_overall if tested else None,
            information=told if np.isfinite(told).all() else None,
        ).plot(ax)

    @classmethod
    def from_estimator(
        cls, model, images, y=None, *, groups=None, n_permutations=1000, random_state=None, ax=None
    ):
        """Explain images with a fitted model and draw whom it trusts.

        Parameters
        ----------
        model, images
            As for `explain`, with its errors.
        y, groups, n_permutations, random_state, ax
            As of `from_explanation`.

        Returns
        -------
        ExpertUsageDisplay
        """
        return cls.from_explanation(
            explain(model, images),
            y,
            groups=groups,
            n_permutations=n_permutations,
            random_state=random_state,
            ax=ax,
        )

    def plot(self, ax=None):
        """Draw the heat map.

        Parameters
        ----------
        ax : matplotlib axes, default=None
            None makes a figure.

        Returns
        -------
        ExpertUsageDisplay
        """
        n, n_experts = self.weights.shape
        ax = axes_for(ax, min(3.6 + 1.1 * n_experts, 18.0), max(1.7 + 0.34 * n, 3.2))
        self.ax_, self.figure_ = ax, ax.figure
        stars = np.zeros((n, n_experts), bool)
        if self.p_adjusted is not None:
            stars = np.nan_to_num(self.p_adjusted, nan=1.0) < 0.05
        words = [
            [
                "none" if np.isnan(w) else f"{w:.2f}{'*' * bool(star)}"
                for w, star in zip(line, own, strict=True)
            ]
            for line, own in zip(self.weights, stars, strict=True)
        ]
        # around equal shares, as far as the weights go, but never so near that noise looks large
        equal, known = 1 / n_experts, self.weights[np.isfinite(self.weights)]
        reach = max([0.1, *np.abs(known - equal)])
        low, high = max(equal - reach, 0.0), min(equal + reach, 1.0)
        self.image_, self.texts_ = heat_map(
            ax, self.weights, words, cmap="cividis", low=low, high=high, size=9
        )
        turn = any(len(name) > 12 for name in self.expert_names)
        ax.set_xticks(
            np.arange(n_experts),
            [label_of(name, 24) for name in self.expert_names],
            rotation=20 if turn else 0,
            ha="right" if turn else "center",
        )
        names = zip(self.classes, self.supports, strict=True)
        ax.set_yticks(np.arange(n), [f"{label_of(c, 30)}  (n = {m:,})" for c, m in names])
        if self.p_overall is None:
            told = ["not compared with exchanged labels: chance may make such shares"]
        else:
            told = [
                f"differs by class: p = {self.p_overall:.3g}",
                "* p < .05 for all cells together",
            ]
        if self.information is not None:
            seen, null, p = self.information
            told.insert(
                1, f"class and expert share {seen:.2f} nats, {null:.2f} by chance, p = {p:.3g}"
            )
        ax.set_title("\n".join(told), loc="right", size=8, color=GREY)
        what = "the decision" if self.information is None else "what is sent"
        ax.figure.colorbar(self.image_, ax=ax).set_label(f"mean share in {what}")
        return self
