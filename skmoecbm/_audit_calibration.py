"""The check of probabilities: are they what they say, and for whom."""

from itertools import pairwise

import numpy as np
from scipy.stats import norm

from skmoecbm._audit_result import Check, Measure
from skmoecbm._evaluation import estimate
from skmoecbm._metrics import N_BINS, codes_of, group_of_rows
from skmoecbm._targets import indicator_of

__all__ = ["ECE_BY_CHANCE", "bands", "calibration"]

#: The measure of what chance alone makes of the calibration error.
ECE_BY_CHANCE = "ece to expect of perfect calibration (95 % below)"

_N_NULL = 200
_FEW = 20
# Where chance alone gives an error above this, a small error says nothing.
_WIDE = 0.1
_MOST_LEVELS = 12
_AGES = (0, 30, 50, 70)


def calibration(problem):
    """Measure calibration, and scores by subgroup where metadata is given."""
    confidence, right, groups = _sure(problem)
    scores = problem.scores
    null = _expected_ece(confidence, right.shape, groups, problem)
    limit = float(np.quantile(null, 0.95))
    weights = _weights(problem)
    gap = _mean(confidence - right, weights, problem)
    measures = [
        Measure("ece", *scores["ece"]),
        Measure(ECE_BY_CHANCE, limit),
        Measure("brier", *scores["brier"]),
        Measure("log_loss", *scores["log_loss"]),
        Measure("confidence less accuracy", *gap),
    ]
    found = scores["ece"].value
    off = gap.low > 0 or gap.high < 0
    sure = f"{'too sure' if gap.value > 0 else 'not sure enough'}, by {abs(gap.value):.3f}"
    if found <= limit:
        status = "good" if limit <= _WIDE else "unclear"
        verdict = (
            f"The calibration error, {found:.3f}, is no larger than chance gives a perfectly "
            f"calibrated model on these rows (95 % below {limit:.3f})."
        )
        if off:  # a bias that runs through all bins shows in the mean first
            status = "concern"
            verdict += f" Yet the model is {sure} on average."
        elif status == "unclear":
            verdict += " They are too few to see a smaller one."
    else:
        status = "concern"
        verdict = (
            f"The calibration error is {found:.3f}; of a perfectly calibrated model it would be "
            f"below {limit:.3f} in 95 % of such samples."
        )
        if off:
            verdict += f" The model is {sure} on average."
    tables = {"reliability": _bins(confidence, right, weights, problem)}
    notes = []
    if problem.multilabel:
        notes.append("bins and confidence are of each label's own probability, all labels together")
    if problem.metadata is None:
        notes.append("no metadata was given: subgroups were not looked at")
    else:
        rows = _subgroups(problem, weights)
        tables["subgroups"] = rows
        odd = [row for row in rows if row["differs"]]
        if odd:
            told = ", ".join(
                f"{row['column']} {row['level']} ({row['score']:.2f}, n = {row['n']:,})"
                for row in odd[:6]
            )
            verdict += (
                f" {rows[0]['metric'].replace('_', ' ').capitalize()} differs from that of the "
                f"other rows for: {told}."
            )
            status = "concern"
        elif rows:
            verdict += _none_differs(rows)
    return Check(
        "calibration",
        status,
        verdict,
        tuple(measures),
        tables,
        tuple(notes),
    )


def _sure(problem):
    """Return confidence and whether it was right, (n,) or (n, L), and the group of each row."""
    classes = problem.classifier.classes_
    groups = group_of_rows(problem.groups, len(problem.proba))
    if problem.multilabel:
        return problem.proba, indicator_of(problem.y, classes), groups
    codes = codes_of(np.asarray(problem.y).ravel().tolist(), classes)
    right = (problem.proba.argmax(axis=1) == codes).astype(float)
    return problem.proba.max(axis=1), right, groups


def _bin_of(confidence):
    """Return the bin (j/15, (j+1)/15] of each probability."""
    return np.clip(np.ceil(confidence * N_BINS).astype(int) - 1, 0, N_BINS - 1)


def _ece(confidence, right):
    """Return the calibration error, of labels the mean over them."""
    columns = confidence.reshape(len(confidence), -1), right.reshape(len(right), -1)
    errors = []
    for sure, was in zip(columns[0].T, columns[1].T, strict=True):
        gaps = np.bincount(_bin_of(sure), weights=was - sure, minlength=N_BINS)
        errors.append(np.abs(gaps).sum() / len(sure))
    return float(np.mean(errors))


def _expected_ece(confidence, shape, groups, problem):
    """Return the ECE of draws of outcomes from the probabilities themselves, (200,).

    Rows of a group share their chance: as alike as they can be, so that the limit is not too low.

    References
    ----------
    Broecker and Smith, "Increasing the Reliability of Reliability Diagrams" (2007): consistency
    resampling.
    """
    rng = np.random.default_rng(problem.seed)
    size = (groups.max() + 1, *shape[1:])
    draws = (rng.random(size)[groups] < confidence for _ in range(_N_NULL))
    return np.array([_ece(confidence, drawn.astype(float)) for drawn in draws])


def _weights(problem):
    """Return how often each row is drawn in each resample, (B, n)."""
    groups = group_of_rows(problem.groups, len(problem.proba))
    rng = np.random.default_rng(problem.seed)
    n_groups = groups.max() + 1
    counts = rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=problem.n_bootstrap)
    return counts[:, groups].astype(np.float64)


def _mean(values, weights, problem, rows=None):
    """Return the mean over some rows (and labels) with its interval over groups."""
    values = values.reshape(len(values), -1).mean(axis=1)
    inside = np.ones(len(values)) if rows is None else rows.astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        draws = (weights @ (values * inside)) / (weights @ inside)
    return estimate((values @ inside) / inside.sum(), draws, problem.confidence)


def _bins(confidence, right, weights, problem):
    """Return one row per reliability bin that has rows."""
    bins, rows = _bin_of(confidence), []
    for j in range(N_BINS):
        inside = (bins == j).reshape(len(bins), -1)
        if not inside.any():
            continue
        hits = (inside * right.reshape(inside.shape)).sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            draws = (weights @ hits) / (weights @ inside.sum(axis=1))
        share = estimate(hits.sum() / inside.sum(), draws, problem.confidence)
        rows.append(
            {
                "from": j / N_BINS,
                "to": (j + 1) / N_BINS,
                "n": int(inside.sum()),
                "confidence": float(confidence.reshape(inside.shape)[inside].mean()),
                "accuracy": share.value,
                "low": share.low,
                "high": share.high,
            }
        )
    return rows


def bands(name, values):
    """Return the level of each row of a column of metadata, ndarray of str.

    Ages and other numbers of more than eight values are cut into bands (ages at 30, 50 and 70,
    others at their quartiles); the rarest levels beyond twelve are put together.

    Parameters
    ----------
    name : str
    values : Series of length n
    """
    import pandas as pd

    missing = values.isna().to_numpy()
    if pd.api.types.is_numeric_dtype(values) and values.nunique() > 8:
        numbers = values.to_numpy(dtype=float, na_value=np.nan)
        is_age = "age" in str(name).lower().replace("_", " ").split()
        cuts = _AGES[1:] if is_age else np.unique(np.nanquantile(numbers, [0.25, 0.5, 0.75]))
        names = [f"< {cuts[0]:g}"]
        names += [f"{a:g} to < {b:g}" for a, b in pairwise(cuts)]
        names.append(f">= {cuts[-1]:g}")
        places = np.searchsorted(cuts, numbers, side="right")
        levels = np.array(names, dtype=object)[np.where(missing, 0, places)]
    else:
        levels = values.astype(object).map(str).to_numpy(dtype=object)
        common = pd.Series(levels[~missing]).value_counts().index[:_MOST_LEVELS]
        levels = np.where(np.isin(levels, common.to_numpy()), levels, "(others)")
    return np.where(missing, "(missing)", levels)


def _in_order(levels, values):
    """Return the levels: bands of numbers from the lowest, others by name, what is missing last."""
    import pandas as pd

    if pd.api.types.is_numeric_dtype(values):
        first = values.groupby(levels).min()
        return first.sort_values(na_position="last").index.tolist()
    return sorted(set(levels), key=lambda level: (level.startswith("("), level))


def _subgroups(problem, weights):
    """Return one row per level of each column of the metadata."""
    confidence, right, groups = _sure(problem)
    score = right
    metric = "accuracy"
    if problem.multilabel:
        metric = "share of labels right"
        score = (right == (confidence >= 0.5)).astype(float)
    flat = score.reshape(len(score), -1).mean(axis=1)
    shares = problem.classifier.gate_weights(problem.X) if problem.is_mixture else None
    rows, deviations = [], []
    for name in problem.metadata.columns:
        levels = bands(name, problem.metadata[name])
        for level in _in_order(levels, problem.metadata[name]):
            inside = levels == level
            n = int(inside.sum())
            found = _mean(score, weights, problem, inside)
            gap = _mean(confidence - right, weights, problem, inside)
            row = {
                "column": str(name),
                "level": str(level),
                "n": n,
                "groups": len(np.unique(groups[inside])),
                "metric": metric,
                "score": found.value,
                "low": found.low,
                "high": found.high,
                "ece": _ece(confidence[inside], right[inside]),
                "confidence less accuracy": gap.value,
                "gap low": gap.low,
                "gap high": gap.high,
            }
            if shares is not None:
                for expert, column in zip(problem.classifier.expert_names_, shares.T, strict=True):
                    row[f"gate {expert}"] = float(column[inside].mean())
            rows.append(row)
            deviations.append(_deviation(flat, inside, groups, weights))
    # Bonferroni over all levels looked at.
    limit = norm.isf(0.025 / max(len(rows), 1))
    for row, deviation in zip(rows, deviations, strict=True):
        row["differs"] = None if deviation is None else bool(abs(deviation) > limit)
    return rows


def _none_differs(rows):
    """Return the sentence for levels of which none differs: how many could be compared at all."""
    compared = sum(row["differs"] is not None for row in rows)
    if not compared:
        return f" No subgroup could be compared: it takes resamples, and {_FEW} groups each side."
    return (
        f" Of {len(rows):,} subgroups {compared:,} could be compared ({_FEW} groups each side); "
        "none differs from the other rows in accuracy by more than chance."
    )


def _deviation(score, inside, groups, weights):
    """Return the difference to the other rows in standard errors.

    None where it cannot be judged: few groups on either side are shown, and nobody accused. The
    spread of one lone row is not seen by resampling it.
    """
    sides = [len(np.unique(groups[rows])) for rows in (inside, ~inside)]
    if min(sides) < _FEW or len(weights) < 2:
        return None
    with np.errstate(invalid="ignore", divide="ignore"):
        mine = (weights @ (score * inside)) / (weights @ inside.astype(float))
        rest = (weights @ (score * ~inside)) / (weights @ (~inside).astype(float))
    # Twenty rows that all are right have no spread of their own: that of all rows is the least.
    pooled = score.std() * np.sqrt(1 / inside.sum() + 1 / (~inside).sum())
    error = max(np.nanstd(mine - rest), pooled)
    difference = score[inside].mean() - score[~inside].mean()
    return float(difference / error) if error > 0 else 0.0
