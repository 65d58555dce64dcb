"""Where rows were sent, and what each modality did to their decision: a `RoutingExplanation`."""

import copy

import numpy as np

from skmoecbm._validation import check_number
from skmoecbm.exceptions import InputError
from skmoecbm.moe._routing_summary import summarise_routing

__all__ = ["RoutingExplanation", "explain_routing"]


class RoutingExplanation:
    """Which experts each row was sent to, and what its modalities did; made by `explain`.

    The decision of a mixture of networks is no sum over concepts, so this tells who took part,
    what each of them added, and what changes where a modality is taken away. `plot` draws rows.
    `summary` adds labels: routing by class against what chance would show, and the model without
    each expert and modality.

    Attributes
    ----------
    classes : list of length K
    columns : list of length K'
        The class that each logit speaks for: all, or of two classes the second.
    router_names : list of str, length R
        The modality that a router sees; "all" where one sees all of them.
    expert_names : list of str, length E'
        Of experts that are shared by routers, or of each modality's own.
    modality_names : list of str, length M
    weights : ndarray of shape (n, R, E), float64
        As of `routing_weights`.
    expert_weights : ndarray of shape (n, E'), float64
        Share of each expert in all that was sent, in [0, 1]; rows sum to 1, or 0 where nothing
        was sent.
    present : ndarray of shape (n, E'), bool
        Whether the row could be sent to the expert.
    modality_present : ndarray of shape (n, M), bool
    modality_effects : ndarray of shape (n, M, K'), float64
        Logits minus those without the modality. NaN where it is absent, or all that there is.
    expert_parts : ndarray of shape (n, E', K'), float64
        What each expert added to the logits; 0 of one that was not asked.
    modality_parts : ndarray of shape (n, M, K'), float64
        What each modality added beside the experts: by the linear part that sees its columns, or
        of streams by what they made together. Of an absent modality what its being absent says.
    constant : ndarray of shape (n, K'), float64
        What is said of every row; where a row has no modality at all, everything.
    logits : ndarray of shape (n, K'), float64
        Sum of the parts of experts and modalities and of the constant.
    probabilities : ndarray of shape (n, K), float64
    predicted : ndarray of shape (n,)
    thresholds : ndarray of shape (K,) or None
        Where a row may have several labels: from which probability on each is said.
    notices : tuple of str

    Examples
    --------
    >>> import numpy as np
    >>> from skmoecbm.moe import MiniBatches, SparseMoEClassifier
    >>> X = np.random.default_rng(0).standard_normal((60, 4))
    >>> settings = {"n_experts": 3, "expert_hidden": 4, "training": MiniBatches(max_epochs=2)}
    >>> clf = SparseMoEClassifier(modalities={"a": [0, 1], "b": [2, 3]}, **settings)
    >>> told = clf.fit(X, X[:, 0] > 0).explain(X[:5])
    >>> told.weights.shape, told.modality_effects.shape
    ((5, 1, 3), (5, 2, 1))
    >>> added = told.expert_parts.sum(axis=1) + told.modality_parts.sum(axis=1) + told.constant
    >>> bool(np.allclose(added, told.logits))
    True
    """

    def __init__(
        self,
        *,
        classes,
        router_names,
        expert_names,
        modality_names,
        weights,
        expert_weights,
        present,
        modality_present,
        modality_effects,
        expert_parts,
        modality_parts,
        constant,
        logits,
        probabilities,
        thresholds=None,
        notices=(),
        source=None,
    ):
        self.classes = np.asarray(classes).tolist()
        self.columns = self.classes if logits.shape[1] > 1 else self.classes[-1:]
        self.router_names = router_names
        self.expert_names = expert_names
        self.modality_names = modality_names
        self.weights = weights
        self.expert_weights = expert_weights
        self.present = present
        self.modality_present = modality_present
        self.modality_effects = modality_effects
        self.expert_parts = expert_parts
        self.modality_parts = modality_parts
        self.constant = constant
        self.logits = logits
        self.probabilities = probabilities
        self.predicted = np.asarray(classes)[probabilities.argmax(axis=1)]
        self.thresholds = thresholds
        self.notices = tuple(notices)
        self._source = source

    def __len__(self):
        """Return the number of rows."""
        return len(self.logits)

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
        """Tell whether routing differs by class, and what is lost without an expert or modality.

        Parameters
        ----------
        y : array-like of shape (n,), or indicator of shape (n, K), default=None
            True classes. None takes those that are predicted: then there is no loss to compare,
            and as routing takes part in the prediction the p-values are partly circular.
        groups : array-like of shape (n,), default=None
            Lesion, patient or study of each row: resampled and exchanged as a whole.
        n_bootstrap : int, default=1000
            Resamples of rows (of groups) for the intervals; 0 gives none.
        n_permutations : int, default=1000
            Exchanges of labels for the null of the heat map; 0 gives none.
        confidence : float in (0, 1), default=0.95
        random_state : int, RandomState instance or None, default=None

        Returns
        -------
        RoutingSummary

        Raises
        ------
        InputError
            If labels or groups do not fit the rows, or a number is out of range.
        """
        return summarise_routing(
            self,
            y,
            groups=groups,
            n_bootstrap=n_bootstrap,
            n_permutations=n_permutations,
            confidence=confidence,
            random_state=random_state,
        )

    def plot(self, rows=None, *, k=6, class_=None, max_rows=8, same_scale=True):
        """Draw each row: shares of its experts, what they and the linear part add, and the sum.

        Parameters
        ----------
        rows : int or list of int, default=None
            Positions of the rows to draw; None draws the first `max_rows`.
        k : int, default=6
            Experts shown per row, those that it was sent to most, and modalities; the others are
            drawn as one bar, so that what is shown still sums to the logit.
        class_ : label, default=None
            The class whose logit is shown; None takes each row's predicted class.
        max_rows : int, default=8
        same_scale : bool, default=True
            Whether bars of one length are the same in all rows of the picture.

        Returns
        -------
        matplotlib.figure.Figure
            Not tied to a window: save it with `savefig`, or let a notebook show it.

        Raises
        ------
        InputError
            If there is no such row or class, or a number is out of range.

        Examples
        --------
        >>> import numpy as np
        >>> from skmoecbm.moe import MiniBatches, SparseMoEClassifier
        >>> X = np.random.default_rng(0).standard_normal((60, 4))
        >>> settings = {"n_experts": 3, "expert_hidden": 4, "training": MiniBatches(max_epochs=2)}
        >>> clf = SparseMoEClassifier(**settings, random_state=0).fit(X, X[:, 0] > 0)
        >>> figure = clf.explain(X).plot([0, 3])
        >>> [text.get_text()[:5] for text in figure.texts if text.get_text().startswith("row")]
        ['row 0', 'row 3']
        """
        from skmoecbm.moe._routing_plot import plot_routing

        owner = "RoutingExplanation.plot"
        check_number(owner, "k", k, low=1, integer=True)
        check_number(owner, "max_rows", max_rows, low=1, integer=True)
        if rows is None:
            rows = range(min(len(self), max_rows))
        elif isinstance(rows, int | np.integer):
            rows = [rows]
        if not len(rows):
            raise InputError(
                "There is no row to draw. Name at least one of them, or give rows=None."
            )
        for row in rows:
            check_number(owner, "rows", row, low=0, high=len(self) - 1, integer=True)
        return plot_routing(self, [int(row) for row in rows], k, class_, same_scale)

    def to_frame(self):
        """Return a DataFrame, a line per (row, router, expert) that was chosen.

        Columns: `row`, `predicted`, `router`, `expert`, `weight`, in [0, 1].
        """
        import pandas as pd

        row, router, expert = np.nonzero(self.weights)
        names, n_experts = np.array(self.expert_names, dtype=object), self.weights.shape[2]
        own = len(names) > n_experts  # each router has its own
        return pd.DataFrame(
            {
                "row": row,
                "predicted": self.predicted[row],
                "router": np.array(self.router_names, dtype=object)[router],
                "expert": names[expert + router * n_experts * own],
                "weight": self.weights[row, router, expert],
            }
        )

    def __repr__(self):
        """Return whom the rows were sent to, and how much each modality moved them."""
        n = len(self)
        lines = [
            f"RoutingExplanation of {n:,} row{'s' * (n != 1)}: shares of {len(self.expert_names)} "
            f"experts by {len(self.router_names)} router{'s' * (len(self.router_names) != 1)}"
        ]
        order = np.argsort(-self.expert_weights.mean(axis=0), kind="stable")
        lines += [
            f"  {100 * self.expert_weights[:, e].mean():3.0f} %  {self.expert_names[e]}"
            for e in order[:8]
        ]
        effects = self.modality_effects
        for m, name in enumerate(self.modality_names):
            known = np.isfinite(effects[:, m, 0])
            if known.any():
                moved = np.abs(effects[known, m]).mean()
                lines.append(
                    f"  without {name} logits move by {moved:.2f} on average ({known.sum():,} rows)"
                )
        lines.append("summary(y) tells whether routing differs by class by more than chance")
        return "\n".join([*lines, *(f"Note: {text}" for text in self.notices)])


def explain_routing(classifier, X, *, notices=()):
    """Return the `RoutingExplanation` of rows by a fitted sparse classifier."""
    routing = classifier._routing(X)
    weights, seen = routing["weights"], routing["seen"]
    n, _, n_experts = weights.shape
    if n == 0:
        raise InputError("There is no row to explain. Give at least one.")
    if len(routing["expert_names"]) > n_experts:  # each modality has experts of its own
        sent = weights.reshape(n, -1)
        present = np.repeat(seen, n_experts, axis=1)
    else:
        sent = weights.sum(axis=1)
        present = np.repeat(seen.any(axis=1)[:, None], n_experts, axis=1)
    total = sent.sum(axis=1, keepdims=True)
    there = routing["modality_present"]
    logits = classifier._logits_without(X)
    effects = np.full((n, there.shape[1], logits.shape[1]), np.nan)
    if there.shape[1] > 1:
        for m in range(there.shape[1]):
            told = there[:, m] & (there.sum(axis=1) > 1)
            if told.any():
                change = logits - classifier._logits_without(X, modality=m)
                effects[told, m] = change[told]
    some = there.any(axis=1)[:, None]
    of_experts, of_modalities = classifier._addends(X)
    constant = classifier.weights_["intercept"] + classifier._constant_logits()
    return RoutingExplanation(
        classes=classifier.classes_,
        router_names=routing["router_names"],
        expert_names=routing["expert_names"],
        modality_names=list(classifier.modality_names_),
        weights=weights,
        expert_weights=sent / np.where(total > 0, total, 1.0),
        present=present,
        modality_present=there,
        modality_effects=effects,
        expert_parts=np.where(some[:, :, None], of_experts, 0.0),
        modality_parts=np.where(some[:, :, None], of_modalities, 0.0),
        constant=np.where(some, constant, logits),
        logits=logits,
        probabilities=classifier.predict_proba(X),
        thresholds=classifier._thresholds(),
        notices=notices,
        # a shallow copy: another fit of the classifier is none of this explanation's business
        source=(copy.copy(classifier), X),
    )
