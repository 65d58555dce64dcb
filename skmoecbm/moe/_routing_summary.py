"""Routing by class against its null, and a model without each of its experts and modalities."""

import numpy as np
from sklearn.utils import check_random_state

from skmoecbm._gate_tests import permutation_test
from skmoecbm._metrics import check_labels, codes_of, group_of_rows, resample_groups
from skmoecbm._targets import indicator_of
from skmoecbm._validation import check_number
from skmoecbm.exceptions import InputError

__all__ = ["RoutingSummary", "chances_of", "mutual_information", "summarise_routing"]

_ALARM = 0.05
_SURE = 1e-15


class RoutingSummary:
    """Whether routing differs by class, and who is missed; made by `RoutingExplanation.summary`.

    Attributes
    ----------
    usage : DataFrame
        One line per (class, expert): `weight`, its mean share in [0, 1], with its interval `low`,
        `high`; `support`, rows; `difference` from what it is with exchanged labels; `p_value`,
        two-sided, of this cell alone; `p_adjusted` for all cells together.
    class_p_values : dict of label to float
        Smallest `p_adjusted` of the class's cells: whether its routing differs from others', for
        all classes together.
    p_overall : float
        How often exchanged labels make the largest difference of the table.
    mutual_information : float
        Of class and expert, in nats: 0 where routing tells nothing of the class. Never 0 by itself
        in a sample, so it stands beside `mutual_information_null`, its mean under exchanged labels,
        and `mutual_information_p`, how often they make as much.
    experts : DataFrame or None
        One line per expert: `log_loss` and `balanced_accuracy` of the model without it (its rows go
        to the next best experts, weights renormalised), `loss_increase` with its interval `low`,
        `high`, and `share` of all that was sent. None without `y`.
    modalities : DataFrame or None
        The same by modality, over the `support` rows that have it and another one. None without
        `y`, or of a single modality.
    log_loss, balanced_accuracy : float
        Of the whole model; NaN without `y`.
    supports : dict of label to int
    exchanged : float
        Share of the rows whose labels could be exchanged: within the same modalities missing.
    by_predicted : bool
    n, n_groups, n_bootstrap, n_permutations : int
    confidence : float
    notices : tuple of str

    Examples
    --------
    >>> import numpy as np
    >>> from skmoecbm.moe import MiniBatches, SparseMoEClassifier
    >>> X = np.random.default_rng(0).standard_normal((60, 4))
    >>> settings = {"n_experts": 3, "expert_hidden": 4, "training": MiniBatches(max_epochs=2)}
    >>> clf = SparseMoEClassifier(**settings, random_state=0).fit(X, X[:, 0] > 0)
    >>> found = clf.explain(X).summary(X[:, 1] > 0, n_permutations=99, random_state=0)
    >>> found.heat_map.shape, 0 < found.p_overall <= 1
    ((2, 3), True)
    """

    def __init__(
        self,
        *,
        usage,
        class_p_values,
        p_overall,
        mutual_information,
        mutual_information_null,
        mutual_information_p,
        experts,
        modalities,
        log_loss,
        balanced_accuracy,
        supports,
        exchanged,
        by_predicted,
        n,
        n_groups,
        n_bootstrap,
        n_permutations,
        confidence,
        notices=(),
    ):
        self.usage = usage
        self.class_p_values = class_p_values
        self.p_overall = p_overall
        self.mutual_information = mutual_information
        self.mutual_information_null = mutual_information_null
        self.mutual_information_p = mutual_information_p
        self.experts = experts
        self.modalities = modalities
        self.log_loss = log_loss
        self.balanced_accuracy = balanced_accuracy
        self.supports = supports
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
        """DataFrame of mean shares, a line per class and a column per expert."""
        table = self.usage.pivot(index="class", columns="expert", values="weight")
        # not .loc: labels that are True and False it takes for a mask
        return table.reindex(index=list(self.supports), columns=self.usage.expert.unique())

    def verdicts(self):
        """Return in words what chance makes of the heat map, a list of str."""
        if not np.isfinite(self.p_overall):
            return ["no labels were exchanged: nothing tells these shares from chance"]
        differ = "differs by class" if self.p_overall < _ALARM else "does not clearly differ"
        lines = [
            f"routing {differ}: p = {self.p_overall:.3g} of {self.n_permutations:,} exchanges of "
            f"labels ({100 * self.exchanged:.0f} % of rows could be exchanged)",
            f"class and expert share {self.mutual_information:.3f} nats, "
            f"{self.mutual_information_null:.3f} by chance (p = {self.mutual_information_p:.3g})",
        ]
        if self.by_predicted:
            lines.append(
                "classes are the predicted ones, and routing takes part in the prediction: "
                "p-values are partly circular; give y, the true classes"
            )
        return lines

    def __repr__(self):
        """Return shares by class, the verdict of the null, and who is missed most."""
        stars = {
            (row.label, row.expert): "*" * (row.p_adjusted < _ALARM)
            for row in self.usage.rename(columns={"class": "label"}).itertuples()
        }
        lines = [f"RoutingSummary of {self.n:,} rows, {len(self.supports)} classes"]
        for label, line in self.heat_map.iterrows():
            told = [
                f"{name} {100 * share:.0f} %{stars[label, name]}"
                for name, share in line.sort_values(ascending=False, kind="stable").items()
                if share >= 0.005
            ]
            lines.append(f"{label} ({self.supports[label]:,} rows): {', '.join(told[:6])}")
        lines += self.verdicts()
        if "*" in "".join(stars.values()):
            lines.append(f"* differs from other classes, p < {_ALARM} for all cells together")
        for what, table in (("expert", self.experts), ("modality", self.modalities)):
            if table is not None and len(table):
                worst = table.loc[table.loss_increase.idxmax()]
                lines.append(
                    f"most missed {what}: {worst[what]}, log-loss {self.log_loss:.3f} and "
                    f"{worst.loss_increase:+.3f} without it{_interval(worst)}"
                )
        return "\n".join([*lines, *(f"Note: {text}" for text in self.notices)])


def _interval(row):
    return f" [{row.low:+.3f}, {row.high:+.3f}]" if np.isfinite(row.low) else ""


def mutual_information(shares, is_class):
    """Return the mutual information of class and expert, in nats.

    Parameters
    ----------
    shares : ndarray of shape (n, E)
        How much of each row went to each expert, in [0, 1].
    is_class : ndarray of shape (n, C), bool or float

    Returns
    -------
    float
        In [0, log(min(C, E))], of the joint distribution sum_i is_class[i, c] * shares[i, e].
    """
    joint = is_class.T.astype(np.float64) @ shares
    joint = joint / joint.sum()
    apart = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0)
    some = joint > 0
    return float((joint[some] * np.log(joint[some] / apart[some])).sum())


def summarise_routing(
    explanation, y, *, groups, n_bootstrap, n_permutations, confidence, random_state
):
    """Return the `RoutingSummary` of a `RoutingExplanation`; see its `summary`."""
    import pandas as pd

    owner = "RoutingExplanation.summary"
    check_number(owner, "n_bootstrap", n_bootstrap, low=0, integer=True)
    check_number(owner, "n_permutations", n_permutations, low=0, integer=True)
    check_number(owner, "confidence", confidence, low=0, high=1, low_open=True)
    rng = check_random_state(random_state)
    is_class = _is_class(explanation, y)
    group_of_row = group_of_rows(groups, len(explanation))
    n_groups = int(group_of_row.max()) + 1
    kept = np.flatnonzero(is_class.any(axis=0))
    labels = [explanation.classes[k] for k in kept]
    member = is_class[:, kept]
    has_class = np.zeros((n_groups, len(kept)))
    np.maximum.at(has_class, group_of_row, member)
    draws = resample_groups(has_class, n_bootstrap, rng)[0].astype(np.float64)
    tail = (1.0 - confidence) / 2.0

    def measured(values):
        """Return the mean over rows, leaving NaN out, and its interval: (3,)."""
        known = np.isfinite(values)
        sums = np.zeros((n_groups, 2))
        np.add.at(sums, group_of_row[known], np.c_[values[known], np.ones(known.sum())])
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = sums[:, 0].sum() / sums[:, 1].sum()
            drawn = draws @ sums
            drawn = drawn[:, 0] / drawn[:, 1]
        drawn = drawn[np.isfinite(drawn)]
        return [mean, *(np.quantile(drawn, [tail, 1 - tail]) if len(drawn) else [np.nan] * 2)]

    shares = np.where(explanation.present, explanation.expert_weights, 0.0)

    def information(order):
        return mutual_information(shares, member[order])

    found = permutation_test(
        explanation.expert_weights,
        explanation.present,
        member,
        group_of_row,
        n_permutations,
        rng,
        strata=explanation.modality_present,
        also=information,
    )
    usage = pd.DataFrame(
        [
            {"class": label, "expert": name, "support": int(rows.sum())}
            | dict(
                zip(
                    ("weight", "low", "high"),
                    measured(np.where(rows, explanation.expert_weights[:, e], np.nan)),
                    strict=True,
                )
            )
            for c, label in enumerate(labels)
            for e, name in enumerate(explanation.expert_names)
            for rows in [member[:, c] & explanation.present[:, e]]
        ]
    )
    for name in ("difference", "p_value", "p_adjusted"):
        usage[name] = found[name].ravel()
    seen, null = found["also"]
    tables = dict.fromkeys(("experts", "modalities"))
    scores = {"log_loss": float("nan"), "balanced_accuracy": float("nan")}
    if y is not None:
        tables, scores = _without(explanation, is_class, measured)
    lowest = np.where(np.isfinite(found["p_adjusted"]), found["p_adjusted"], np.inf).min(axis=1)
    tested = bool(len(null))
    return RoutingSummary(
        usage=usage,
        class_p_values=dict(
            zip(labels, np.where(np.isfinite(lowest), lowest, np.nan), strict=True)
        ),
        p_overall=found["p_overall"],
        mutual_information=seen,
        mutual_information_null=float(np.mean(null)) if tested else float("nan"),
        mutual_information_p=float((1 + (null >= seen - 1e-12).sum()) / (1 + len(null)))
        if tested
        else float("nan"),
        **tables,
        **scores,
        supports={label: int(n) for label, n in zip(labels, member.sum(axis=0), strict=True)},
        exchanged=found["exchanged"],
        by_predicted=y is None,
        n=len(explanation),
        n_groups=n_groups,
        n_bootstrap=int(n_bootstrap),
        n_permutations=int(n_permutations),
        confidence=float(confidence),
        notices=explanation.notices,
    )


def _without(explanation, is_class, measured):
    """Return tables of the model without each expert and modality, and the whole model's scores."""
    import pandas as pd

    classifier, X = explanation._source
    whole = _losses(explanation.logits, is_class, explanation.thresholds)
    names = ("loss_increase", "low", "high")
    experts = []
    for e, name in enumerate(explanation.expert_names):
        logits = classifier._logits_without(X, expert=e)
        losses = _losses(logits, is_class, explanation.thresholds)
        experts.append(
            {
                "expert": name,
                "share": float(explanation.expert_weights[:, e].mean()),
                "log_loss": float(losses.mean()),
                "balanced_accuracy": _balanced(logits, is_class, explanation.thresholds),
            }
            | dict(zip(names, measured(losses - whole), strict=True))
        )
    modalities = []
    for m, name in enumerate(explanation.modality_names):
        told = np.isfinite(explanation.modality_effects[:, m, 0])
        if not told.any():
            continue
        logits = np.where(
            told[:, None], explanation.logits - explanation.modality_effects[:, m], 0.0
        )
        losses = np.where(told, _losses(logits, is_class, explanation.thresholds), np.nan)
        modalities.append(
            {
                "modality": name,
                "support": int(told.sum()),
                "log_loss": float(losses[told].mean()),
                "balanced_accuracy": _balanced(
                    logits[told], is_class[told], explanation.thresholds
                ),
            }
            | dict(zip(names, measured(losses - whole), strict=True))
        )
    several = len(explanation.modality_names) > 1
    return (
        {
            "experts": pd.DataFrame(experts),
            "modalities": pd.DataFrame(modalities) if several else None,
        },
        {
            "log_loss": float(whole.mean()),
            "balanced_accuracy": _balanced(explanation.logits, is_class, explanation.thresholds),
        },
    )


def chances_of(logits, thresholds):
    """Return probabilities (n, K) of logits (n, K')."""
    if thresholds is not None:
        return 1.0 / (1.0 + np.exp(-logits))
    logits = np.c_[np.zeros(len(logits)), logits] if logits.shape[1] == 1 else logits
    logits = logits - logits.max(axis=1, keepdims=True)
    chances = np.exp(logits)
    return chances / chances.sum(axis=1, keepdims=True)


def _losses(logits, is_class, thresholds):
    """Return the log-loss of each row, the mean over labels where it may have several."""
    chances = np.clip(chances_of(logits, thresholds), _SURE, 1.0)
    if thresholds is None:
        return -np.log(chances[is_class])
    others = np.clip(1.0 - chances, _SURE, 1.0)
    return -np.where(is_class, np.log(chances), np.log(others)).mean(axis=1)


def _balanced(logits, is_class, thresholds):
    """Return the mean recall over classes; of labels the mean of both recalls, over labels."""
    chances = chances_of(logits, thresholds)
    if thresholds is None:
        right = is_class[np.arange(len(chances)), chances.argmax(axis=1)]
        return float(np.mean([right[rows].mean() for rows in is_class.T if rows.any()]))
    said = chances >= thresholds
    found = [
        (said[rows, k].mean() + 1.0 - said[~rows, k].mean()) / 2.0
        for k, rows in enumerate(is_class.T)
        if rows.any() and not rows.all()
    ]
    return float(np.mean(found)) if found else float("nan")


def _is_class(explanation, y):
    """Return which rows belong to which class, (n, K), bool: of `y`, or as predicted."""
    n = len(explanation)
    given = n if y is None else y.shape[0] if hasattr(y, "shape") else len(y)
    if given != n:
        raise InputError(f"y must have one label per row of the explanation, {n:,}. Got {given:,}.")
    if explanation.thresholds is not None:
        if y is None:
            return explanation.probabilities >= explanation.thresholds
        return indicator_of(y, np.asarray(explanation.classes)) > 0
    labels = explanation.predicted if y is None else check_labels(y, explanation.classes)
    return codes_of(labels, explanation.classes)[:, None] == np.arange(len(explanation.classes))
