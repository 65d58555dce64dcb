"""The check of the split: what the rows judged on share with those learned from."""

import os

import numpy as np

from skmoecbm._audit_names import TRAINING_ROWS
from skmoecbm._audit_result import Check, Measure, not_made
from skmoecbm._leaks import find_leaks
from skmoecbm.exceptions import InputError
from skmoecbm.features import ExpertFeatures
from skmoecbm.images import image_keys

__all__ = ["leaks"]

_LISTED = 200


def leaks(problem):
    """Look for shared groups, identical images and near-duplicates."""
    train = problem.train
    if train is None:
        return not_made("leaks", f"it needs training rows: {TRAINING_ROWS}.")
    notes, groups = [], (train.groups, problem.groups)
    if any(side is None for side in groups):
        given = [w for w, g in zip(("train", "test"), groups, strict=True) if g is not None]
        only = f" (only the {given[0]} rows have them)" if given else ""
        notes.append(f"no groups on both sides{only}: a patient in both parts cannot be seen")
        groups = (None, None)
    features = (train.X, problem.X) if isinstance(problem.X, ExpertFeatures) else (None, None)
    if features[0] is not None and all(block.embeddings is None for block in problem.X.blocks):
        features = (None, None)
    if features[0] is None:
        notes.append("the features carry no embeddings: near-duplicates cannot be seen")
    keys = _keys(train.images), _keys(problem.images)
    if None in keys:
        keys = None
    if keys is None and features[0] is None and groups[0] is None:
        return not_made("leaks", "there are neither groups, nor images, nor embeddings.")
    report = find_leaks(*features, *groups, keys=keys, near=problem.near)
    n, counts = report.n_test, report.counts()
    words = {
        "group": "share a group with training rows",
        "identical": "are identical to one",
        "near": f"are near-duplicates (cosine from {problem.near:g}) of one",
    }
    measures = [Measure(f"test rows that {words[kind]}", count) for kind, count in counts.items()]
    leaking = report.leaking
    measures.append(Measure("share of test rows that leak", float(leaking.mean())))
    told = ", ".join(f"{count:,} {words[kind]}" for kind, count in counts.items() if count)
    if not leaking.any():
        looked = ", ".join({"group": "groups"}.get(kind, kind) for kind in report.looked_for)
        verdict = f"None of {n:,} test rows shares anything with the training (asked: {looked})."
        status = "good" if "group" in report.looked_for else "unclear"
    else:
        verdict = f"{int(leaking.sum()):,} of {n:,} test rows leak: {told}."
        status = "concern"
        more, sentence = _effect(problem, leaking)
        measures += more
        verdict += sentence
    rows = report.rows()
    if len(rows) > _LISTED:
        notes.append(f"{len(rows):,} findings; its table lists the first {_LISTED}")
    return Check(
        "leaks",
        status,
        verdict,
        tuple(measures),
        {"rows that leak": rows[:_LISTED]} if rows else {},
        tuple(notes),
    )


def _keys(images):
    """Return what is equal for equal images; None where there are none, or they are none."""
    if images is None:
        return None
    if all(isinstance(image, str) and not os.path.isfile(image) for image in images[:5]):
        return None  # texts
    try:
        return image_keys(images, value_range=(0, 1), on_error="missing", failures=[])
    except InputError:
        return None  # rows of a table, which are no images; their features are compared


def _effect(problem, leaking):
    """Return the scores of the rows that leak and of the others, and a sentence."""
    metric = problem.metrics[0] if problem.multilabel else "accuracy"
    measures = []
    parts = {"rows that leak": np.flatnonzero(leaking), "other rows": np.flatnonzero(~leaking)}
    for which, rows in parts.items():
        if len(rows):
            found = problem.evaluate(problem.proba[rows], rows)
            measures.append(Measure(f"{metric} of the {which}", *found[metric]))
            if metric == "accuracy":
                both = found["balanced_accuracy"]
                measures.append(Measure(f"balanced_accuracy of the {which}", *both))
    if not measures or len(parts["other rows"]) == 0:
        return measures, " No row is left that does not."
    by = {one.name: one for one in measures}
    leak, clean = (by[f"{metric} of the {which}"] for which in parts)
    return measures, (
        f" {metric.replace('_', ' ').capitalize()} is {leak.value:.3f} on these and "
        f"{clean.value:.3f} [{clean.low:.3f}, {clean.high:.3f}] on the others, whose classes may "
        "be others too: report the latter."
    )
