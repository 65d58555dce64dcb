"""The check of the concepts: against random directions, and against shuffled names."""

from dataclasses import replace

import numpy as np
from sklearn.utils import check_random_state

from skmoecbm._audit_names import TRAINING_ROWS
from skmoecbm._audit_problem import judge_gain, show, words_of
from skmoecbm._audit_result import Check, Measure, not_made
from skmoecbm._metrics import codes_of, mean_defined, weighted_auroc
from skmoecbm._priors import prior_direction
from skmoecbm._single import ConceptBottleneckClassifier
from skmoecbm._targets import indicator_of
from skmoecbm.features import ExpertFeatures

__all__ = ["concepts"]

_N_SHUFFLES = 99
_STATUS = {
    "better": "good",
    "little": "unclear",
    "none": "concern",
    "worse": "concern",
    "unclear": "unclear",
}


def concepts(problem):
    """Refit on random unit vectors, and on the same concepts with their names shuffled."""
    if problem.train is None:
        return not_made("concepts", f"refits need training rows: {TRAINING_ROWS}.")
    replaced = problem.replaceable
    if not replaced:
        return not_made(
            "concepts",
            "no expert carries the embeddings of its concepts (similarities alone, a plain array, "
            "or a frozen head), so there is nothing to put random directions into.",
        )
    own = problem.own
    others = problem.refits(problem.random_draws, prior=None)
    primary, second = problem.metrics
    gains = {metric: problem.mean_gain(own, others, metric) for metric in problem.metrics}
    measures = [Measure(f"{primary}, concepts", *own[primary])]
    measures.append(Measure(f"{primary}, random directions", _mean(others, primary)))
    measures.append(Measure(f"{second}, concepts", *own[second]))
    measures.append(Measure(f"{second}, random directions", _mean(others, second)))
    for metric in problem.metrics:
        told = judge_gain(gains[metric], problem.margin)
        measures.append(Measure(f"{metric}, gain over random", *gains[metric][:3], told))
    ahead = sum(own[primary].value > one[primary].value for one in others)
    judged = judge_gain(gains[primary], problem.margin)
    verdict = (
        f"{_random_words(judged, gains[primary], problem.margin)} With them {words_of(primary)}"
    )
    verdict += (
        f" is {own[primary].value:.3f}, with as many random directions {_mean(others, primary):.3f}"
        f" on average, and they were ahead of {ahead} of {len(others)} draws; in "
        f"{words_of(second)} they gain {show(gains[second])}."
    )
    notes = []
    for block in problem.X.blocks:
        if block.name not in replaced:
            notes.append(f"expert {block.name!r} has no concepts to exchange and stays as it is")
    drift = own[primary].value - problem.scores[primary].value
    if abs(drift) > 0.005:
        notes.append(
            f"refitted on these training rows the model has {words_of(primary)} "
            f"{own[primary].value:.3f}, the model given {problem.scores[primary].value:.3f}: it "
            "was fitted on other rows, with weights, or by chance. All gains are of the refit"
        )
    more, words, why_not = _shuffled(problem, own)
    if why_not:
        notes.append(f"names were not shuffled, because {why_not}")
    measures += more
    return Check(
        "concepts",
        _STATUS[judged],
        f"{verdict} {words}".strip(),
        tuple(measures),
        notes=tuple(notes),
    )


def _random_words(judged, gain, margin):
    lucky = f"a random bank gains up to {gain.luck:.3f} by luck"
    if np.isnan(gain.luck):
        lucky = "from one draw nobody can tell luck"
    if judged == "better":
        return f"The concepts are better than random directions here, by {show(gain)}."
    if judged == "little":
        return f"The concepts are better than random directions here, but by little: {show(gain)}."
    if judged == "none":
        return (
            f"These concepts are no better than random directions here ({show(gain)}; {lucky}, and "
            f"a gain of {margin:g} is ruled out)."
        )
    if judged == "worse":
        return f"These concepts are worse than random directions here ({show(gain)})."
    return (
        f"The concepts are not shown to be better than random directions: the gain is "
        f"{show(gain)}, {lucky}, and a gain of {margin:g} is not ruled out."
    )


def _mean(evaluations, metric):
    return float(np.mean([one[metric].value for one in evaluations]))


def _shuffled(problem, own):
    """Return measures, words, and why names could not be shuffled (or None)."""
    heads = [h for h in problem.heads if isinstance(h, ConceptBottleneckClassifier)]
    used = {head.prior_used_ for head in heads} - {None}
    if not used:
        return [], "", "the model has no language prior: no name has a say in it"
    if "array" in used:
        return [], "", "the prior is an array of yours, which has no names"
    rng = check_random_state(problem.seed + 1)
    blocks = problem.train.X.blocks
    renamed = [
        ExpertFeatures(_renamed(block, rng) for block in blocks) for _ in range(problem.n_random)
    ]
    others = problem.refits([(train, problem.X) for train in renamed])
    measures = []
    for metric in problem.metrics:
        gain = problem.mean_gain(own, others, metric)
        told = judge_gain(gain, problem.margin)
        measures.append(Measure(f"{metric}, gain over shuffled names", *gain[:3], told))
    true, null = _prior_alone(problem, rng)
    if np.isnan(true):
        return measures, "", None
    p_value = (1 + np.sum(null >= true)) / (1 + len(null))
    measures += [
        Measure("macro_auroc, names alone", true),
        Measure("macro_auroc, shuffled names alone", float(null.mean())),
        Measure("p-value of the names", float(p_value)),
    ]
    fate = (
        "they mean something to the experts"
        if p_value <= 0.05
        else "that cannot be told from chance"
    )
    words = (
        f"By the names alone, before any training label, AUROC is {true:.3f}, and "
        f"{null.mean():.3f} with the names shuffled (p = {p_value:.2g}): {fate}. With labels, right"
        f" names gain {show(measures[0])} on shuffled ones."
    )
    return measures, words, None


def _renamed(block, rng):
    """Return a block whose concepts have changed places in all that is known of their names."""
    order = rng.permutation(len(block.concepts))
    changed = {
        part: getattr(block, part)[order]
        for part in ("incidence", "answers")
        if getattr(block, part) is not None
    }
    if block.class_embeddings is not None:
        changed["class_embeddings"] = rng.permutation(block.class_embeddings)
    return replace(block, **changed)


def _prior_alone(problem, rng):
    """Return the macro-AUROC of Z A0' without training, and that of shuffled names."""
    classifier = problem.classifier
    data, _ = classifier._read(problem.X)
    priors = classifier.prior_used_
    parts = []
    for expert, head in zip(data, problem.heads, strict=True):
        prior = priors[expert.name] if problem.is_mixture else priors
        if prior is None or expert.block is None:
            continue
        z = np.where(expert.present[:, None], (expert.values - head.mean_) / head.scale_, 0.0)
        parts.append((expert.block, prior, z))
    if problem.multilabel:
        truth = indicator_of(problem.y, classifier.classes_) == 1
    else:
        codes = codes_of(np.asarray(problem.y).ravel().tolist(), classifier.classes_)
        truth = codes[:, None] == np.arange(len(classifier.classes_))

    def score(shuffle):
        total = 0.0
        for block, prior, z in parts:
            block, m = _renamed(block, rng) if shuffle else block, len(block.concepts)
            direction, _ = prior_direction(classifier, prior, block, classifier.classes_, m)
            if direction is None:
                continue
            length = np.abs(direction).sum(axis=1, keepdims=True)
            logits = z @ (direction / np.where(length > 0, length, 1.0)).T
            total = total + logits / max(logits.std(), 1e-12)
        if np.ndim(total) == 0:
            return np.nan
        return macro_auroc(truth, total)

    return score(False), np.array([score(True) for _ in range(_N_SHUFFLES)])


def macro_auroc(truth, scores):
    """Return the mean AUROC over the columns that have both kinds of rows."""
    both = truth.any(axis=0) & ~truth.all(axis=0)
    ones = np.ones((1, len(truth)))
    aurocs = [weighted_auroc(truth[:, k], scores[:, k], ones)[0] for k in np.flatnonzero(both)]
    return float(mean_defined(np.array([aurocs]))[0])
