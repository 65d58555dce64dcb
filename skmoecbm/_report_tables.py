"""What a report says of all rows at once: weights of the experts, concepts of each class."""

import numpy as np

__all__ = ["concepts_by_class", "members", "weights_by_class"]

_LEVELS = (5, 25, 50, 75, 95)


def members(explanation, truth):
    """Return which rows are of each class, bool (n, K): truly, or without truths as predicted.

    Parameters
    ----------
    explanation : Explanation of n rows
    truth : ndarray of shape (n,), int, or (n, K) of 0 and 1; or None
    """
    n_classes = len(explanation.classes)
    if truth is None:
        if explanation.thresholds is not None:
            return explanation.probabilities >= explanation.thresholds
        truth = explanation.probabilities.argmax(axis=1)
    return truth == 1 if truth.ndim == 2 else np.eye(n_classes, dtype=bool)[truth]


def weights_by_class(explanation, rows_of):
    """Return how much each expert has a say, over all rows and over those of each class.

    Parameters
    ----------
    explanation : Explanation of n rows
    rows_of : ndarray of shape (n, K), bool

    Returns
    -------
    list of dict
        `class` (None for all rows), `n`, and `experts`: of each `n` rows that it saw, the `mean`
        weight in [0, 1] and `quantiles` at 5, 25, 50, 75 and 95 % (None without rows).
    """
    seen = explanation.present.any(axis=1)
    sets = [(None, seen), *zip(explanation.classes, (rows_of & seen[:, None]).T, strict=True)]
    found = []
    for label, rows in sets:
        experts = []
        for name, weights, present in zip(
            explanation.expert_names,
            explanation.expert_weights[rows].T,
            explanation.present[rows].T,
            strict=True,
        ):
            there = len(weights) > 0
            experts.append(
                {
                    "name": name,
                    "n": int(present.sum()),
                    "mean": float(weights.mean()) if there else None,
                    "quantiles": np.percentile(weights, _LEVELS).tolist() if there else None,
                }
            )
        found.append({"class": label, "n": int(rows.sum()), "experts": experts})
    return found


def concepts_by_class(explanation, rows_of, top):
    """Return what speaks for and against each class in its own rows, and in all others.

    Parameters
    ----------
    explanation : Explanation of n rows
    rows_of : ndarray of shape (n, K), bool
    top : int

    Returns
    -------
    list of dict
        `class`, `n`, `concepts`: the `top` largest mean contributions to the logit of the class
        over its rows (`mean`), beside that over all other rows (`elsewhere`, None without any),
        each with `expert` and `concept`; `rest`, `rest_concepts`, `bias`, and the sum `total`.
    """
    seen = explanation.present.any(axis=1)
    names = [
        (name, concept)
        for name, concepts in zip(explanation.expert_names, explanation.concept_names, strict=True)
        for concept in concepts
    ]
    found = []
    for label, rows in zip(explanation.classes, (rows_of & seen[:, None]).T, strict=True):
        told = {"class": label, "n": int(rows.sum()), "concepts": []}
        found.append(told)
        if not rows.any():
            continue
        one = explanation.for_class(label)
        others = seen & ~rows
        here, elsewhere = [], []
        for contributions in one.contributions:
            here.append(contributions[rows, :, 0].mean(axis=0))
            if others.any():
                elsewhere.append(contributions[others, :, 0].mean(axis=0))
        here = np.concatenate(here)
        elsewhere = np.concatenate(elsewhere) if elsewhere else None
        order = np.argsort(-np.abs(here), kind="stable")
        told["concepts"] = [
            {
                "expert": names[j][0],
                "concept": names[j][1],
                "mean": float(here[j]),
                "elsewhere": None if elsewhere is None else float(elsewhere[j]),
            }
            for j in order[:top]
        ]
        told["rest"] = float(here[order[top:]].sum())
        told["rest_concepts"] = len(order[top:])
        told["bias"] = float(one.bias[rows, 0].mean())
        told["total"] = float(here.sum()) + told["bias"]
    return found
