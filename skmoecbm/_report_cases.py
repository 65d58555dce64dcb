"""Which cases a report shows, and the explanation of each as plain values."""

from dataclasses import dataclass

import numpy as np

from skmoecbm._explanation_tables import bias_decides, summarise_row

__all__ = ["Case", "choose_cases", "explain_case", "outcomes"]

_SEPARATING = 4


@dataclass(frozen=True)
class Case:
    """One row, and the class that it is shown for.

    Attributes
    ----------
    row : int
    class_ : int
        Position of the class that is explained: the predicted one, or the label in question.
    truth : int or None
        Position of the true class; of a label 1 or 0; None where it is not known.
    kind : {"right", "wrong", "certain", "uncertain"}
    """

    row: int
    class_: int
    truth: int | None
    kind: str


def outcomes(probabilities, thresholds, truth):
    """Return what could be shown: rows, classes, truths, whether right, and how certain.

    Parameters
    ----------
    probabilities : ndarray of shape (n, K)
    thresholds : ndarray of shape (K,) or None
        Where a row may have several labels.
    truth : ndarray of shape (n,), int, or (n, K) of 0 and 1; or None

    Returns
    -------
    dict of arrays of equal length
        `row`, `class_` and `group` (the class in whose turn it is chosen), `truth`, `right`
        (None without truths) and `certainty`, in [0, 1].
    """
    n, n_classes = probabilities.shape
    if thresholds is None:
        said = probabilities.argmax(axis=1)
        best = np.sort(probabilities, axis=1)
        return {
            "row": np.arange(n),
            "class_": said,
            "group": said if truth is None else truth,
            "truth": truth,
            "right": None if truth is None else said == truth,
            "certainty": best[:, -1] - best[:, -2],
        }
    row, label = np.divmod(np.arange(n * n_classes), n_classes)
    p, cut = probabilities[row, label], thresholds[label]
    said = p >= cut
    has = None if truth is None else truth[row, label].astype(int)
    # How far along the way from the threshold to 0 or 1: thresholds may lie anywhere.
    certainty = np.where(
        said, (p - cut) / np.maximum(1 - cut, 1e-12), 1 - p / np.maximum(cut, 1e-12)
    )
    # A label that is rightly not said is no case to look at: most are, of most rows.
    kept = said | (certainty < 0.5) if has is None else said | (has == 1) | (certainty < 0.5)
    found = {
        "row": row,
        "class_": label,
        "group": label,
        "truth": has,
        "right": None if has is None else said == (has == 1),
        "certainty": certainty,
    }
    return {name: None if x is None else x[kept] for name, x in found.items()}


def choose_cases(found, n_cases, seed):
    """Choose the most certain right and wrong cases and the most uncertain ones.

    Classes take turns, so that a frequent one does not fill the page; ties are broken by chance.

    Parameters
    ----------
    found : dict
        What `outcomes` returned.
    n_cases : int
        Cases of each kind, at most.
    seed : int

    Returns
    -------
    list of Case
        No (row, class) twice.
    """
    chance = np.random.default_rng(seed).permutation(len(found["row"]))
    right, certainty = found["right"], found["certainty"]
    everything = np.ones(len(certainty), dtype=bool)
    if right is None:
        wanted = [("certain", everything, -certainty), ("uncertain", everything, certainty)]
    else:
        wanted = [
            ("right", right, -certainty),
            ("wrong", ~right, -certainty),
            ("uncertain", everything, certainty),
        ]
    free, cases = everything.copy(), []
    for kind, those, keys in wanted:
        order = np.lexsort((chance, keys))
        order = order[(those & free)[order]]
        for i in _in_turns(order, found["group"])[:n_cases]:
            free[i] = False
            truth = None if found["truth"] is None else int(found["truth"][i])
            cases.append(Case(int(found["row"][i]), int(found["class_"][i]), truth, kind))
    return cases


def _in_turns(order, groups):
    """Return the order with the best of each group first, then the second best of each."""
    turns, seen = [], {}
    for i in order:
        turns.append(seen.get(groups[i], 0))
        seen[groups[i]] = turns[-1] + 1
    return order[np.argsort(turns, kind="stable")]


def explain_case(explanation, case, top):
    """Return why a case was decided as it was: concepts, their sum, and what stood against it.

    Parameters
    ----------
    explanation : Explanation
    case : Case
    top : int
        Concepts shown.

    Returns
    -------
    dict
        That of `summarise_row` for the class of the case; each contribution with `percentile`
        (None where not known), and `rival`: what separates the class from the true or next one.
    """
    row = explanation[case.row]
    classes = explanation.classes
    told = summarise_row(explanation, case.row, top, classes[case.class_])
    percentiles = row.percentiles
    for entry in told["contributions"]:
        e = row.expert_names.index(entry["expert"])
        found = percentiles[e][0, row.concept_names[e].index(entry["concept"])]
        entry["percentile"] = None if np.isnan(found) else float(found)
    told["rest"] = sum(expert["rest"] for expert in told["experts"])
    told["rest_concepts"] = sum(expert["rest_concepts"] for expert in told["experts"])
    told["total"] = told["bias"] + sum(expert["total"] for expert in told["experts"])
    told["bias_decides"] = bias_decides(told)
    told["ranking"] = [
        (classes[k], float(row.probabilities[0, k])) for k in np.argsort(-row.probabilities[0])
    ]
    told["rival"] = None
    if explanation.thresholds is None:
        others = [k for k in np.argsort(-row.probabilities[0]) if k != case.class_]
        wrong = case.truth is not None and case.truth != case.class_
        told["rival"] = _against(row, case.class_, case.truth if wrong else int(others[0]))
        told["rival"]["is_truth"] = wrong
        told["rival"]["runner_up"] = classes[others[0]]
    return told


def _against(row, one, other):
    """Return what separates two classes of one row: their logits' difference, part by part."""
    found = {
        "class": row.classes[other],
        "probability": float(row.probabilities[0, other]),
        "parts": None,
    }
    if len(row.columns) < 2:  # of two classes the logit is their difference already
        return found
    entries = []
    for e, name in enumerate(row.expert_names):
        mine = row.contributions[e][0]
        entries += [
            {"expert": name, "concept": concept, "difference": float(difference)}
            for concept, difference in zip(
                row.concept_names[e], mine[:, one] - mine[:, other], strict=True
            )
        ]
    entries.sort(key=lambda entry: -abs(entry["difference"]))
    shown, rest = entries[:_SEPARATING], entries[_SEPARATING:]
    bias = float(row.bias[0, one] - row.bias[0, other])
    return found | {
        "parts": shown,
        "rest": sum(entry["difference"] for entry in rest),
        "rest_concepts": len(rest),
        "bias": bias,
        "total": bias + sum(entry["difference"] for entry in entries),
    }
