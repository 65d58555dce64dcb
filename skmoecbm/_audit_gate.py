"""Is the gate worth having? Against the plain average, and against each expert alone."""

import numpy as np

from skmoecbm._audit_names import TRAINING_ROWS
from skmoecbm._audit_problem import judge_gain, show, words_of
from skmoecbm._audit_result import Check, Measure, not_made

__all__ = ["gate"]

_COLLAPSED = 0.95


def gate(problem):
    """Compare the mixture with the plain average and with each expert alone."""
    model = problem.classifier
    if not problem.is_mixture:
        return not_made("gate", f"a {type(model).__name__} has one expert and no gate.")
    masked = getattr(model, "masked_experts_", ())
    experts = [e for e in model.expert_names_ if e not in masked]
    if len(experts) < 2:
        return not_made("gate", f"the mixture has one expert, {experts[0]!r}.")
    primary = problem.metrics[0]
    notes = []
    measures, words, status = [], [], "unclear"
    if problem.train is not None:
        ours = problem.own
        average = problem.refit(problem.train.X, gate="uniform")
    else:
        ours, average = problem.scores, None
        notes.append("no training rows were given, so nothing was refitted")
    if average is None and getattr(model, "specialized_", False):
        why = (
            "its experts were fitted for this gate, and alone they are not what they would be: "
            f"it needs training rows, {TRAINING_ROWS}."
        )
        return not_made("gate", why)
    base = average if average is not None else model
    singles = {
        e: problem.evaluate(_alone(base, e, experts).predict_proba(problem.X)) for e in experts
    }
    best = max(singles, key=lambda e: singles[e][primary].value)
    measures += [Measure(f"{primary}, {e} alone", *found[primary]) for e, found in singles.items()]
    gains = {}
    if average is not None:
        mean = problem.evaluate(average.predict_proba(problem.X))
        measures.append(Measure(f"{primary}, plain average", *mean[primary]))
        gains["the plain average"] = {m: ours.difference(mean, m) for m in _metrics(problem)}
    gains[f"{best} alone"] = {m: ours.difference(singles[best], m) for m in _metrics(problem)}
    judged = []
    for other, gain in gains.items():
        for metric, found in gain.items():
            sign = -1 if metric == "log_loss" else 1  # a loss that falls is a gain
            told = judge_gain(_turned(found, sign), problem.margin)
            title = f"{metric}, mixture less {other}"
            measures.append(Measure(title, *found, told))
            if metric == primary:
                judged.append(told)
                words.append(f"{show(found)} on {other}")
    selected = getattr(model, "selected_", "")
    usage, said = model.gate_weights(problem.X), model.expert_weights(problem.X)
    seen = usage.sum(axis=1) > 0
    shares = said[seen].mean(axis=0)
    for what, weights in (("gate weight of {}", usage), ("share of {} in the decisions", said)):
        for expert, column in zip(model.expert_names_, weights[seen].T, strict=True):
            low, high = np.quantile(column, [0.05, 0.95])
            title = f"{what.format(expert)}: mean [5 %, 95 % of rows]"
            measures.append(Measure(title, float(column.mean()), float(low), float(high)))
    effective = float(np.exp(-(shares[shares > 0] * np.log(shares[shares > 0])).sum()))
    measures.append(Measure("experts in use (exp of the entropy of mean shares)", effective))
    information = float(getattr(model, "routing_information_", np.nan))
    measures.append(Measure("routing information, nats", information))
    collapsed = shares.max() > _COLLAPSED
    averaged = selected == "uniform"
    if averaged:  # the refit is the average itself: what is left to ask is the best expert
        judged = judged[-1:]
    verdict = (
        f"The guard kept {selected!r}. Gains in {words_of(primary)}: "
        f"{'; '.join(words)} (the best single expert by these very rows)."
    )
    if collapsed:
        top = model.expert_names_[int(shares.argmax())]
        verdict += f" One expert decides alone: {top!r} has {shares.max():.0%} of the say."
        status = "concern"
    elif "worse" in judged:
        verdict += " One of these alone would have done better here."
        status = "concern"
    elif all(told in ("better", "little") for told in judged):
        verdict += " The mixture pays." if not averaged else " Having several experts pays."
        status = "good"
    else:
        verdict += " A gain on all of these is not shown."
    if averaged:
        verdict += " The mixture is their plain average: there is no gate to gain by."
    return Check(
        "gate",
        status,
        verdict,
        tuple(measures),
        notes=tuple(notes),
    )


def _metrics(problem):
    return (*problem.metrics, "log_loss")


def _turned(found, sign):
    if sign > 0:
        return found
    return found._replace(value=-found.value, low=-found.high, high=-found.low)


def _alone(model, expert, experts):
    for other in experts:
        model = model if other == expert else model.without(other)
    return model
