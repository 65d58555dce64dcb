"""One call that asks whether a model's concepts, gate, probabilities and split can be trusted."""

from dataclasses import replace

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from skmoecbm._audit_calibration import calibration
from skmoecbm._audit_ceiling import ceiling
from skmoecbm._audit_controls import concepts
from skmoecbm._audit_economy import economy
from skmoecbm._audit_gate import gate
from skmoecbm._audit_leaks import leaks
from skmoecbm._audit_names import CHECK_NAMES
from skmoecbm._audit_problem import Problem, Training, words_of
from skmoecbm._audit_result import Audit, Check, Measure, not_made
from skmoecbm._audit_words import language
from skmoecbm._base import ConceptClassifier
from skmoecbm._evaluate import is_indicator
from skmoecbm._last_step import best_of, refuse_networks
from skmoecbm._metrics import check_labels, group_of_rows
from skmoecbm._targets import indicator_of
from skmoecbm._validation import check_number, one_thread, parameter_error
from skmoecbm.encoder import ConceptEncoder, ExpertUnion
from skmoecbm.exceptions import InputError
from skmoecbm.features import ExpertFeatures
from skmoecbm.images import as_image_list

__all__ = ["CHECKS", "Audit", "Check", "Measure", "audit"]

CHECKS = dict(
    zip(
        CHECK_NAMES,
        (leaks, concepts, ceiling, economy, gate, calibration, language),
        strict=True,
    )
)

# Those that judge by how well classes are ranked.
_RANKED = ("concepts", "ceiling", "economy", "gate")


def audit(
    model,
    images,
    y,
    *,
    train=None,
    groups=None,
    metadata=None,
    checks=None,
    n_random=5,
    margin=0.02,
    near=0.99,
    n_bootstrap=500,
    confidence=0.95,
    random_state=0,
    n_jobs=None,
):
    """Ask whether a fitted model can be trusted, on labelled images that it was not fitted on.

    Seven checks: ``"leaks"`` (does the test share anything with the training?), ``"concepts"`` (are
    they better than random directions, and do their names matter?), ``"ceiling"`` (what do they
    cost against the embeddings?), ``"economy"`` (how few will do?), ``"gate"`` (does it gain on the
    average and the best expert?), ``"calibration"`` (by subgroup too), ``"language"`` (what the
    linter says of the concepts that carry the decisions). What cannot be checked is told, with the
    reason, as not made.

    Parameters
    ----------
    model : Pipeline or classifier
        Fitted; a pipeline that ends in a `ConceptBottleneckClassifier` or a
        `GatedConceptBottleneckClassifier`, or one of these alone.
    images : array-like of length n
        What the model's `predict` takes. Of a pipeline also the `ExpertFeatures` that its encoders
        made.
    y : array-like of shape (n,), or indicator of shape (n, K)
        True labels.
    train : tuple (images, y) or (images, y, groups), default=None
        What the model was fitted on, in the same form as `images`: refits learn from it. Without
        it four checks are not made, and the one of the gate only in part.
    groups : array-like of shape (n,), default=None
        Lesion, patient or study of each row; resampled together.
    metadata : DataFrame of n rows, default=None
        Columns to look at subgroups by: age, sex, site. Ages are cut at 30, 50 and 70 years, other
        numbers of more than eight values at their quartiles.
    checks : list of str, default=None
        Some of the names above; None makes all.
    n_random : int, default=5
        Draws of random directions, and of shuffled names.
    margin : float, default=0.02
        The smallest gain in macro-AUROC that is called one.
    near : float in (0, 1], default=0.99
        As in `skmoecbm.datasets.check_leak`.
    n_bootstrap : int, default=500
        Resamples of the groups, the same for all that is compared; 0 gives no intervals.
    confidence : float in (0, 1), default=0.95
    random_state : int, default=0
        Seed of resamples, random directions and folds.
    n_jobs : int or None, default=None
        Refits at the same time, in threads.

    Returns
    -------
    Audit

    Raises
    ------
    InputError
        If the model is none of these, a parameter is out of range, or lengths and labels do not
        fit.

    Notes
    -----
    Gains are differences on the same resamples of the groups; where several draws are compared
    with, each resample takes its own resample of them. A bank that is no better than random is not
    the average of random ones either, so a gain must also go beyond what one more draw might have
    (Student's t over the draws) to count; of one draw nobody can tell. A verdict is about these
    images and these training rows: more of them may turn it.

    References
    ----------
    Srivastava, Yan and Weng, "VLG-CBM: Training Concept Bottleneck Models with Vision-Language
    Guidance", NeurIPS 2024 (number of effective concepts, ANEC-5 and ANEC-avg, and random concepts
    that do as well as named ones). Broecker and Smith, "Increasing the Reliability of Reliability
    Diagrams", Weather and Forecasting 2007 (consistency resampling).

    Examples
    --------
    >>> import numpy as np
    >>> from skmoecbm import ConceptBottleneckClassifier, ExpertFeatures
    >>> rng = np.random.default_rng(0)
    >>> embeddings, concepts = rng.normal(size=(200, 8)), np.eye(2, 8)
    >>> y = np.where(embeddings[:, 0] > 0, "red", "blue")
    >>> X = ExpertFeatures.from_embeddings({"eye": (embeddings, concepts, ["red", "round"])})
    >>> model = ConceptBottleneckClassifier(alpha=1.0).fit(X[:100], y[:100])
    >>> result = audit(model, X[100:], y[100:], train=(X[:100], y[:100]), n_random=12)
    >>> result["concepts"].status
    'good'
    >>> result["gate"].verdict
    'Not made, because a ConceptBottleneckClassifier has one expert and no gate.'
    """
    check_number("audit", "n_random", n_random, low=1, integer=True)
    check_number("audit", "n_bootstrap", n_bootstrap, low=0, integer=True)
    check_number("audit", "margin", margin, low=0)
    check_number("audit", "near", near, low=0, high=1, low_open=True)
    check_number("audit", "confidence", confidence, low=0, high=1, low_open=True)
    check_number("audit", "random_state", random_state, low=0, high=2**32 - 2, integer=True)
    wanted = list(CHECKS) if checks is None else _names(checks)
    model = best_of(model)
    classifier = model.steps[-1][1] if isinstance(model, Pipeline) else model
    if not isinstance(classifier, ConceptClassifier):
        raise InputError(
            "audit needs a ConceptBottleneckClassifier, a GatedConceptBottleneckClassifier or a "
            f"pipeline that ends in one. Got {type(classifier).__name__}; use evaluate for its "
            "metrics."
        )
    check_is_fitted(classifier)
    refuse_networks("audit", classifier)
    if classifier.multilabel_ != is_indicator(y):
        kind = "an indicator (n, K)" if classifier.multilabel_ else "one class per row"
        raise InputError(f"y must be what the model was fitted on: {kind}.")
    y = _labels(y, classifier)
    encoders = _encoders(model)
    with one_thread():
        X, pictures = _features(model, images)
        _same_length("images", len(y), images=len(X), groups=groups, metadata=metadata)
        if metadata is not None and not hasattr(metadata, "columns"):
            raise parameter_error("audit", "metadata", "a DataFrame of n rows", metadata)
        problem = Problem(
            classifier=classifier,
            X=X,
            y=y,
            groups=groups,
            train=_training(model, classifier, train),
            images=pictures,
            metadata=metadata,
            banks={name: encoder.bank_ for name, encoder in encoders},
            n_random=n_random,
            n_bootstrap=n_bootstrap,
            confidence=confidence,
            margin=margin,
            near=near,
            seed=int(random_state),
            n_jobs=n_jobs,
        )
        done = [_made(name, problem) for name in wanted]
    return Audit(
        done,
        n=len(y),
        n_groups=int(group_of_rows(groups, len(y)).max()) + 1,
        n_train=None if problem.train is None else len(problem.train.y),
        confidence=float(confidence),
        n_bootstrap=int(n_bootstrap),
        notices=dict.fromkeys(e.notice_ for _, e in encoders if e.notice_),
    )


def _made(name, problem):
    """Make one check; what it cannot do with these data is its verdict, not the audit's end."""
    try:
        with problem.quietly():
            primary = problem.metrics[0]
            if name in _RANKED and not np.isfinite(problem.scores[primary].value):
                return not_made(
                    name,
                    f"{words_of(primary)} is undefined on these rows: of no class are there both "
                    "rows that are of it and rows that are not.",
                )
            check = CHECKS[name](problem)
    except InputError as error:
        problem.take_notes()
        return not_made(name, f"it failed: {error}")
    return replace(check, notes=(*check.notes, *problem.take_notes()))


def _names(checks):
    names = [checks] if isinstance(checks, str) else list(checks)
    unknown = [name for name in names if name not in CHECKS]
    if unknown or not names:
        raise parameter_error("audit", "checks", f"made of {', '.join(CHECKS)}", checks)
    return [name for name in CHECKS if name in names]


def _labels(y, classifier):
    if classifier.multilabel_:
        return indicator_of(y, classifier.classes_)
    return np.array(check_labels(y, classifier.classes_), dtype=classifier.classes_.dtype)


def _encoders(model):
    """Return (name, fitted encoder) of each expert of a pipeline that has concepts."""
    if not isinstance(model, Pipeline):
        return []
    first = model.steps[0][1]
    if isinstance(first, ExpertUnion):
        return [pair for pair in first.experts_ if isinstance(pair[1], ConceptEncoder)]
    if isinstance(first, ConceptEncoder):
        return [(first._expert_name(), first)]
    return []


def _features(model, images):
    """Return the features of images, and the images where they are a list of such."""
    if not isinstance(model, Pipeline) or isinstance(images, ExpertFeatures):
        return images, None
    if len(model.steps) == 1:
        return images, None
    X = model[:-1].transform(images)
    return X, None if hasattr(images, "columns") else as_image_list(images)


def _training(model, classifier, train):
    if train is None:
        return None
    if not isinstance(train, tuple) or len(train) not in (2, 3):
        wanted = "a tuple (images, y) or (images, y, groups)"
        raise parameter_error("audit", "train", wanted, type(train).__name__)
    images, y, *rest = train
    groups = rest[0] if rest else None
    X, pictures = _features(model, images)
    if classifier.multilabel_ and is_indicator(y):
        import pandas as pd

        # a refit must call its labels as the model does
        y = pd.DataFrame(indicator_of(y, classifier.classes_), columns=classifier.classes_)
    _same_length("train", len(X), y=y, groups=groups)
    return Training(X, y, groups, pictures)


def _same_length(where, n, **parts):
    for name, part in parts.items():
        length = part if isinstance(part, int) else None if part is None else len(part)
        if length is not None and length != n:
            raise InputError(
                f"audit: {where} of {n:,} rows came with {length:,} {name}; give one per row, in "
                "the same order."
            )
