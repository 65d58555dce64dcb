"""Do the concepts matter? Random directions, shuffled names, and what the embeddings hold."""

from dataclasses import replace

import numpy as np
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    StratifiedGroupKFold,
    StratifiedKFold,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state

from skmoecbm._audit_problem import judge_gain, show
from skmoecbm._audit_result import Check, Measure, not_made
from skmoecbm._metrics import codes_of, group_of_rows, mean_defined, weighted_auroc
from skmoecbm._priors import prior_direction
from skmoecbm._single import ConceptBottleneckClassifier
from skmoecbm._targets import indicator_of
from skmoecbm.features import ExpertFeatures

__all__ = ["ceiling", "concepts", "embedded"]

_N_SHUFFLES = 99
_STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)
_STATUS = {
    "better": "good",
    "little": "unclear",
    "none": "concern",
    "worse": "concern",
    "unclear": "unclear",
}


def concepts(problem):
    """Refit on random unit vectors, and on the same concepts with their names shuffled."""
    name, question = "concepts", "Are these concepts better than random directions?"
    if problem.train is None:
        return not_made(name, question, "refits need training rows: pass train=(images, y).")
    replaced = problem.replaceable
    if not replaced:
        return not_made(
            name,
            question,
            "no expert carries the embeddings of its concepts (similarities alone, a plain array, "
            "or a frozen head), so there is nothing to put random directions into.",
        )
    own = problem.own
    others = []
    for train, test in problem.random_draws:
        others.append(problem.evaluate(problem.refit(train, prior=None).predict_proba(test)))
    primary, second = problem.metrics
    gains = {metric: problem.mean_gain(own, others, metric) for metric in problem.metrics}
    measures = [Measure(f"{primary}, concepts", *own[primary])]
    measures.append(Measure(f"{primary}, random directions", _mean(others, primary)))
    measures.append(Measure(f"{second}, concepts", *own[second]))
    measures.append(Measure(f"{second}, random directions", _mean(others, second)))
    for metric in problem.metrics:
        told = judge_gain(gains[metric], problem.margin)
        measures.append(Measure(f"{metric}, gain over random", *gains[metric], told))
    ahead = sum(own[primary].value > one[primary].value for one in others)
    judged = judge_gain(gains[primary], problem.margin)
    verdict = f"{_random_words(judged, gains[primary], problem.margin)} With them {_words(primary)}"
    verdict += (
        f" is {own[primary].value:.3f}, with as many random directions {_mean(others, primary):.3f}"
        f" on average, and they were ahead of {ahead} of {len(others)} draws; in {_words(second)} "
        f"they gain {show(gains[second])}."
    )
    notes = []
    for block in problem.X.blocks:
        if block.name not in replaced:
            notes.append(f"expert {block.name!r} has no concepts to exchange and stays as it is")
    drift = own[primary].value - problem.scores[primary].value
    if abs(drift) > 0.005:
        notes.append(
            f"refitted on these training rows the model has {_words(primary)} "
            f"{own[primary].value:.3f}, the model given {problem.scores[primary].value:.3f}: it "
            "was fitted on other rows, with weights, or by chance. All gains are of the refit"
        )
    more, words, why_not = _shuffled(problem, own)
    if why_not:
        notes.append(f"names were not shuffled, because {why_not}")
    measures += more
    return Check(
        name,
        question,
        _STATUS[judged],
        f"{verdict} {words}".strip(),
        tuple(measures),
        notes=tuple(notes + problem.take_notes()),
    )


def _random_words(judged, gain, margin):
    if judged == "better":
        return f"The concepts are better than random directions here, by {show(gain)}."
    if judged == "little":
        return f"The concepts are better than random directions here, but by little: {show(gain)}."
    if judged == "none":
        return (
            f"These concepts are no better than random directions here ({show(gain)}; a gain of "
            f"{margin:g} is ruled out)."
        )
    if judged == "worse":
        return f"These concepts are worse than random directions here ({show(gain)})."
    return (
        f"The concepts are not shown to be better than random directions: the gain is "
        f"{show(gain)}, and these rows are too few to say more."
    )


def _words(metric):
    return metric.replace("_", " ").replace("auroc", "AUROC")


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
    others = []
    for _ in range(problem.n_random):
        train = ExpertFeatures(_renamed(block, rng) for block in problem.train.X.blocks)
        others.append(problem.evaluate(problem.refit(train).predict_proba(problem.X)))
    measures = []
    for metric in problem.metrics:
        gain = problem.mean_gain(own, others, metric)
        told = judge_gain(gain, problem.margin)
        measures.append(Measure(f"{metric}, gain over shuffled names", *gain, told))
    true, null = _prior_alone(problem, rng)
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


def embedded(X):
    """Return image embeddings of all experts side by side, or None where none has any.

    Experts without embeddings give their values. Absent rows are NaN.
    """
    if not isinstance(X, ExpertFeatures) or all(b.embeddings is None for b in X.blocks):
        return None
    return np.concatenate(
        [b.values() if b.embeddings is None else b.embeddings for b in X.blocks], axis=1
    ).astype(np.float64)


def ceiling(problem):
    """Compare with a logistic regression on the embeddings."""
    name, question = "ceiling", "What do the concepts cost, against the embeddings themselves?"
    if problem.train is None:
        return not_made(name, question, "it needs training rows: pass train=(images, y).")
    train, test = embedded(problem.train.X), embedded(problem.X)
    if train is None:
        return not_made(
            name, question, "the features carry no image embeddings, only values of concepts."
        )
    model, notes = fit_ceiling(
        train,
        problem.train.y,
        problem.train.groups,
        problem.classifier.class_weight,
        problem.multilabel,
        problem.seed,
    )
    proba = model.predict_proba(test)
    found = problem.evaluate(proba)
    primary, second = problem.metrics
    gaps = {m: problem.scores.difference(found, m) for m in (*problem.metrics, "log_loss")}
    measures = [Measure(f"{m}, logistic regression", *found[m]) for m in problem.metrics]
    judged = judge_gain(gaps[primary], problem.margin)
    measures += [Measure(f"{m}, model less regression", *gap) for m, gap in gaps.items()]
    strength = _strength(model)
    measures.append(Measure("C of the regression", strength))
    gap = gaps[primary]
    if gap.high < 0:
        near = gap.value > -problem.margin
        status = "unclear" if near else "concern"
        verdict = f"The model is {'a little ' if near else ''}below what the embeddings hold:"
    elif gap.low > -problem.margin:
        status, verdict = "good", "Nothing worth speaking of is lost to the concepts:"
    else:
        status, verdict = "unclear", "Whether the concepts cost anything cannot be told:"
    verdict += (
        f" {_words(primary)} is {problem.scores[primary].value:.3f}, and "
        f"{found[primary].value:.3f} for a logistic regression on all embeddings (difference "
        f"{show(gap)}; in {_words(second)} {show(gaps[second])})."
    )
    if judged in ("better", "little"):
        verdict = verdict.replace("Nothing worth", "The model is above the regression; nothing")
    notes += [
        f"expert {block.name!r} has no embeddings; its values stand in their place"
        for block in problem.X.blocks
        if block.embeddings is None
    ]
    return Check(
        name,
        question,
        status,
        verdict,
        tuple(measures),
        notes=tuple(notes + problem.take_notes()),
    )


def fit_ceiling(X, y, groups, class_weight, multilabel, seed):
    """Return a fitted logistic regression, standardised, C by cross-validated log-loss.

    Parameters
    ----------
    X : ndarray of shape (n, d), float64
        NaN where an expert is absent: filled with the mean, and a column tells.
    y : array-like of shape (n,) or (n, K)
    groups : array-like of shape (n,) or None
        Rows of a group share a fold.
    class_weight : as the classifier's
    multilabel : bool
    seed : int

    Returns
    -------
    estimator, fitted, and a list of notes
    """
    notes = []
    if multilabel and isinstance(class_weight, dict):
        notes.append("the regression is without the class weights, a dict by label")
        class_weight = None
    regression = LogisticRegression(max_iter=300, tol=1e-3, class_weight=class_weight)
    prefix = "logisticregression__C"
    if multilabel:
        regression = OneVsRestClassifier(regression)
        prefix = "onevsrestclassifier__estimator__C"
        y = np.asarray(y)
    steps = [SimpleImputer(add_indicator=True)] if np.isnan(X).any() else []
    model = make_pipeline(*steps, StandardScaler(), regression)
    labels = None if multilabel else np.unique(y)
    splits = _splits(y, groups, multilabel, seed)
    if splits is None:
        notes.append("too few rows or groups of a class for folds: C = 1")
        return model.fit(X, y), notes

    def score(fitted, X, y):
        proba = fitted.predict_proba(X)
        if multilabel:
            p = np.clip(proba, 1e-15, 1 - 1e-15)
            return float(np.mean(np.where(y == 1, np.log(p), np.log1p(-p))))
        return -log_loss(y, proba, labels=labels)

    search = GridSearchCV(model, {prefix: list(_STRENGTHS)}, scoring=score, cv=splits)
    return search.fit(X, y), notes


def _strength(model):
    if hasattr(model, "best_params_"):
        return float(next(iter(model.best_params_.values())))
    return 1.0


def _splits(y, groups, multilabel, seed):
    """Return folds with every class on both sides, or None."""
    n = len(y)
    units = group_of_rows(groups, n)
    X = np.zeros((n, 1))
    if multilabel:
        n_folds = min(5, units.max() + 1)
        if n_folds < 2:
            return None
        plain = KFold(n_folds, shuffle=True, random_state=seed)
        return list((plain if groups is None else GroupKFold(n_folds)).split(X, groups=units))
    y = np.asarray(y).ravel()
    rarest = min(len(np.unique(units[y == label])) for label in np.unique(y))
    n_folds = min(5, rarest)
    if n_folds < 2:
        return None
    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    splits = list(kind(n_folds, shuffle=True, random_state=seed).split(X, y, units))
    whole = len(np.unique(y))
    return splits if all(len(np.unique(y[train])) == whole for train, _ in splits) else None
