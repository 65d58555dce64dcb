"""Picture of calibration: how often a model is right where it says how sure it is."""

import numpy as np

from skmoecbm._display_parts import COLOURS, GREY, axes_for, label_of
from skmoecbm._metrics import N_BINS, check_labels, codes_of
from skmoecbm._targets import indicator_of
from skmoecbm._validation import check_choice, check_number
from skmoecbm.exceptions import InputError

__all__ = ["ReliabilityDisplay"]

_Z = 1.959963984540054  # of a 95 % interval


class ReliabilityDisplay:
    """Observed frequency against predicted probability, with 95 % intervals and counts.

    Parameters
    ----------
    predicted : ndarray of shape (b,)
        Mean predicted probability of each bin that has rows.
    observed : ndarray of shape (b,)
        Frequency in it.
    low, high : ndarray of shape (b,)
        Wilson's interval of the frequency.
    counts : ndarray of shape (b,), int
    edges : ndarray of shape (b + 1 or more,)
        Of all bins.
    ece : float
        Expected calibration error: mean of ``|observed - predicted|``, weighted by counts.
    about : str
        Whose probability it is.
    name : str or None
        For the legend, where several are drawn into the same axes.

    Attributes
    ----------
    ax_ : matplotlib axes
    figure_ : matplotlib figure
    errors_ : ErrorbarContainer
        Points and intervals.
    counts_ : BarContainer
        How many rows each bin has, as heights up to a fifth of the picture.

    References
    ----------
    Guo et al., On Calibration of Modern Neural Networks (2017), eq. 3; Wilson, Probable Inference
    (1927).

    Examples
    --------
    >>> from skmoecbm import ReliabilityDisplay
    >>> display = ReliabilityDisplay.from_predictions([0, 1, 1, 1], [0.1, 0.9, 0.9, 0.2], n_bins=2)
    >>> display.counts.tolist(), display.observed.tolist()
    ([2, 2], [0.5, 1.0])
    """

    def __init__(self, predicted, observed, low, high, counts, edges, *, ece, about, name=None):
        self.predicted = predicted
        self.observed = observed
        self.low = low
        self.high = high
        self.counts = counts
        self.edges = edges
        self.ece = ece
        self.about = about
        self.name = name

    @classmethod
    def from_predictions(
        cls,
        y,
        proba,
        *,
        classes=None,
        class_=None,
        n_bins=N_BINS,
        strategy="uniform",
        name=None,
        ax=None,
    ):
        """Draw probabilities against labels.

        Parameters
        ----------
        y : array-like of shape (n,), or indicator of shape (n, K)
            True classes; 0 and 1 where `proba` has one column.
        proba : array-like of shape (n, K) or (n,)
            Probabilities in [0, 1], columns in the order of `classes`.
        classes : array-like of shape (K,), default=None
            None is 0, 1, ...
        class_ : label, default=None
            The probability of this class. None: of the class that is predicted, of an indicator
            of all labels together.
        n_bins : int, default=15
        strategy : {"uniform", "quantile"}, default="uniform"
            Bins of the same width, with which the error is that of `evaluate`, or of the same
            number of rows.
        name : str, default=None
            For the legend.
        ax : matplotlib axes, default=None

        Returns
        -------
        ReliabilityDisplay

        Raises
        ------
        InputError
            If shapes or labels do not fit, or a parameter is out of range.
        """
        owner = "ReliabilityDisplay"
        check_number(owner, "n_bins", n_bins, low=1, integer=True)
        check_choice(owner, "strategy", strategy, ("uniform", "quantile"))
        sure, right, about = _said(y, np.asarray(proba, dtype=np.float64), classes, class_)
        edges = np.linspace(0, 1, n_bins + 1)
        if strategy == "quantile":
            inner = np.unique(np.quantile(sure, edges))[1:-1]
            edges = np.unique(np.r_[0.0, inner, 1.0])
        # bins (a, b], the first with its lower end
        bins = np.clip(np.searchsorted(edges, sure, side="left") - 1, 0, max(len(edges) - 2, 0))
        counts = np.bincount(bins, minlength=len(edges) - 1)
        used = counts > 0
        n = counts[used]
        predicted = np.bincount(bins, sure, len(edges) - 1)[used] / n
        observed = np.bincount(bins, right, len(edges) - 1)[used] / n
        middle = (observed + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
        reach = np.sqrt(observed * (1 - observed) / n + _Z**2 / (4 * n**2)) * _Z / (1 + _Z**2 / n)
        return cls(
            predicted,
            observed,
            middle - reach,
            middle + reach,
            n,
            edges,
            ece=float(np.abs(observed - predicted) @ n / n.sum()),
            about=about,
            name=name,
        ).plot(ax)

    @classmethod
    def from_estimator(
        cls, model, images, y, *, class_=None, n_bins=N_BINS, strategy="uniform", name=None, ax=None
    ):
        """Draw the probabilities of a fitted model.

        Parameters
        ----------
        model : fitted classifier or Pipeline
            With `predict_proba` and `classes_`.
        images : what its `predict_proba` takes, of length n
        y, class_, n_bins, strategy, name, ax
            As of `from_predictions`, with its errors.

        Returns
        -------
        ReliabilityDisplay
        """
        return cls.from_predictions(
            y,
            model.predict_proba(images),
            classes=model.classes_,
            class_=class_,
            n_bins=n_bins,
            strategy=strategy,
            name=name,
            ax=ax,
        )

    @classmethod
    def from_explanation(
        cls, explanation, y, *, class_=None, n_bins=N_BINS, strategy="uniform", name=None, ax=None
    ):
        """Draw the probabilities of an `Explanation`.

        Parameters
        ----------
        explanation : Explanation
            Of n rows.
        y, class_, n_bins, strategy, name, ax
            As of `from_predictions`, with its errors.

        Returns
        -------
        ReliabilityDisplay
        """
        return cls.from_predictions(
            y,
            explanation.probabilities,
            classes=explanation.classes,
            class_=class_,
            n_bins=n_bins,
            strategy=strategy,
            name=name,
            ax=ax,
        )

    def plot(self, ax=None):
        """Draw points, intervals and counts; another display may use the same axes.

        Parameters
        ----------
        ax : matplotlib axes, default=None
            None makes a figure.

        Returns
        -------
        ReliabilityDisplay
        """
        ax = axes_for(ax, 4.8, 4.6)
        self.ax_, self.figure_ = ax, ax.figure
        before = sum(container.get_label() == "counts" for container in ax.containers)
        colour = COLOURS[before % len(COLOURS)]
        if not before:
            ax.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=0.9, zorder=0)
        words = "" if self.name is None else f"{label_of(self.name)}: "
        self.errors_ = ax.errorbar(
            self.predicted,
            self.observed,
            yerr=np.maximum(np.stack([self.observed - self.low, self.high - self.observed]), 0.0),
            fmt="osD^v"[before % 5] + "-",
            color=colour,
            linewidth=1.2,
            markersize=5,
            capsize=2,
            label=f"{words}calibration error {self.ece:.3f}, {self.counts.sum():,} rows",
        )
        width = 0.7 / (len(self.edges) - 1)
        self.counts_ = ax.bar(
            self.predicted,
            0.2 * self.counts / self.counts.max(),
            width=width,
            color=colour,
            alpha=0.25,
            label="counts",
            zorder=0,
        )
        most = f"{self.counts.max():,} rows"
        if not before:
            ax.annotate(f"bars: rows in each bin, at most {most}", (0.99, 0.21), ha="right", size=7)
        # points at 0 and 1 are whole
        ax.set_xlim(-0.03, 1.03)
        ax.set_ylim(-0.03, 1.03)
        ax.set_xlabel(f"predicted probability of {label_of(self.about, 40)}")
        ax.set_ylabel("observed frequency")
        lines = [c for c in ax.containers if c.get_label() != "counts"]
        ax.legend(handles=lines, frameon=False, fontsize=8, loc="upper left")
        ax.spines[["top", "right"]].set_visible(False)
        return self


def _said(y, proba, classes, class_):
    """Return how sure was said (n,), whether it was right (n,), and of what."""
    if proba.ndim not in (1, 2) or not len(proba):
        raise InputError(
            f"proba must have shape (n, K) or (n,) with at least one row. Got shape {proba.shape}."
        )
    if not np.isfinite(proba).all():
        raise InputError("proba must be finite; drop the rows that the model cannot score.")
    if proba.ndim == 1:
        labels = np.asarray(y)
        if labels.shape != proba.shape or not np.isin(labels, (0, 1)).all():
            raise InputError(
                "With one probability per row y must be 0 or 1 for each. Give proba of shape "
                "(n, K) and classes for other labels."
            )
        return proba, labels.astype(np.float64), "1"
    classes = np.arange(proba.shape[1]) if classes is None else np.asarray(classes)
    shape = y.shape if hasattr(y, "shape") else np.asarray(y, dtype=object).shape
    several = len(shape) == 2 and shape[1] > 1
    if proba.shape != (shape[0], len(classes)):
        raise InputError(
            f"proba must have shape (n, K) = ({shape[0]:,}, {len(classes)}), one row per label "
            f"and one column per class. Got {proba.shape}."
        )
    known = classes.tolist()
    if class_ is not None and class_ not in known:
        raise InputError(f"There is no class {class_!r}; there are {known}.")
    if several:
        truth = indicator_of(y, classes) > 0
        if class_ is None:
            return proba.ravel(), truth.ravel().astype(float), "each label"
        column = known.index(class_)
        return proba[:, column], truth[:, column].astype(float), str(class_)
    codes = codes_of(check_labels(y, classes), classes)
    if class_ is None:
        right = proba.argmax(axis=1) == codes
        return proba.max(axis=1), right.astype(float), "the predicted class"
    column = known.index(class_)
    return proba[:, column], (codes == column).astype(float), str(class_)
