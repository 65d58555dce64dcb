"""Tables of what a model does on many images: concepts per class, and who is trusted where."""

import numpy as np
from sklearn.utils import check_random_state

from skmoecbm._gate_tests import frequency_trend, permutation_test
from skmoecbm._global_explanation import GlobalExplanation
from skmoecbm._metrics import check_labels, codes_of, group_of_rows, resample_groups
from skmoecbm._targets import indicator_of
from skmoecbm._validation import check_number
from skmoecbm.exceptions import InputError

__all__ = ["summarise_explanation"]


def summarise_explanation(
    explanation, y, *, groups, n_bootstrap, n_permutations, confidence, random_state
):
    """Return the `GlobalExplanation` of an `Explanation`; see its `summary`."""
    import pandas as pd

    owner = "Explanation.summary"
    check_number(owner, "n_bootstrap", n_bootstrap, low=0, integer=True)
    check_number(owner, "n_permutations", n_permutations, low=0, integer=True)
    check_number(owner, "confidence", confidence, low=0, high=1, low_open=True)
    rng = check_random_state(random_state)
    is_class = _classes_of_rows(explanation, y)
    group_of_row = group_of_rows(groups, len(explanation))
    n_groups = int(group_of_row.max()) + 1
    kept = np.flatnonzero(is_class.any(axis=0))
    has_class = np.zeros((n_groups, len(kept)))
    np.maximum.at(has_class, group_of_row, is_class[:, kept])
    draws, _ = resample_groups(has_class, n_bootstrap, rng)
    draws = draws.astype(np.float64)
    tail = (1.0 - confidence) / 2.0

    def measured(values, rows):
        """Mean over rows and its interval, each (3, m): value, low, high."""
        sums = np.zeros((n_groups, values.shape[1] + 1))
        np.add.at(sums, group_of_row[rows], np.c_[values, np.ones(len(values))])
        used = sums[:, -1] > 0
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = values.sum(axis=0) / len(values)
            drawn = draws[:, used] @ sums[used]
            drawn = drawn[:, :-1] / drawn[:, -1:]
        drawn = drawn[np.isfinite(drawn).all(axis=1)]
        if not len(drawn):
            return np.stack([mean, np.full(len(mean), np.nan), np.full(len(mean), np.nan)])
        return np.stack([mean, *np.quantile(drawn, [tail, 1.0 - tail], axis=0)])

    concepts, usage = [], []
    for k in kept:
        label = explanation.classes[k]
        column, sign = explanation._column(label)
        for e, name in enumerate(explanation.expert_names):
            rows = np.flatnonzero(is_class[:, k] & explanation.present[:, e])
            part = explanation._parts[e].rows(rows)
            added = part.towards(np.full(len(rows), column), sign)
            mean, size = measured(added, rows), measured(np.abs(added), rows)
            concepts.append(
                pd.DataFrame(
                    {
                        "class": pd.Series([label] * added.shape[1], dtype=object),
                        "expert": name,
                        "concept": explanation.concept_names[e],
                        "contribution": mean[0],
                        "low": mean[1],
                        "high": mean[2],
                        "magnitude": size[0],
                        "magnitude_low": size[1],
                        "magnitude_high": size[2],
                        "support": len(rows),
                    }
                )
            )
            weight = measured(explanation.expert_weights[rows][:, [e]], rows)[:, 0]
            usage.append(
                {"class": label, "expert": name, "support": len(rows)}
                | dict(zip(("weight", "low", "high"), weight.tolist(), strict=True))
            )
    usage = pd.DataFrame(usage)
    found = permutation_test(
        explanation.expert_weights,
        explanation.present,
        is_class[:, kept],
        group_of_row,
        n_permutations,
        rng,
    )
    for name in ("difference", "p_value", "p_adjusted"):
        usage[name] = found[name].ravel()
    supports = is_class[:, kept].sum(axis=0)
    trend = []
    for e, name in enumerate(explanation.expert_names):
        weights = usage.weight.to_numpy(dtype=float).reshape(len(kept), -1)[:, e]
        rho, p = frequency_trend(weights, supports, rng)
        trend.append({"expert": name, "spearman": rho, "p_value": p})
    return GlobalExplanation(
        concepts=pd.concat(concepts, ignore_index=True),
        usage=usage,
        frequency=pd.DataFrame(trend),
        supports={explanation.classes[k]: int(s) for k, s in zip(kept, supports, strict=True)},
        unit=explanation.unit,
        p_overall=found["p_overall"],
        exchanged=found["exchanged"],
        by_predicted=y is None,
        n=len(explanation),
        n_groups=n_groups,
        n_bootstrap=int(n_bootstrap),
        n_permutations=int(n_permutations),
        confidence=float(confidence),
        notices=explanation.notices,
    )


def _classes_of_rows(explanation, y):
    """Return which rows belong to which class, (n, K), bool: of `y`, or as predicted."""
    n = len(explanation)
    if n == 0:
        raise InputError("An explanation of no row has nothing to sum up. Explain some images.")
    if explanation._of_class is not None:
        raise InputError(
            "This is the explanation of one class alone. Take the summary of the whole, then "
            "for_class of it."
        )
    given = n if y is None else y.shape[0] if hasattr(y, "shape") else len(y)
    if given != n:
        raise InputError(f"y must have one label per row of the explanation, {n:,}. Got {given:,}.")
    if explanation.thresholds is not None:
        if y is None:
            return explanation.probabilities >= explanation.thresholds
        return indicator_of(y, np.asarray(explanation.classes)) > 0
    labels = explanation.predicted if y is None else check_labels(y, explanation.classes)
    codes = codes_of(labels, explanation.classes)
    return codes[:, None] == np.arange(len(explanation.classes))
