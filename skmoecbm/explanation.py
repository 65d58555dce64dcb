"""Why a model decided as it did: contributions of concepts and experts that sum to the logit."""

import copy

import numpy as np

from skmoecbm._class_names import banks_of, names_of
from skmoecbm._explained import Explanation
from skmoecbm._global_explanation import GlobalExplanation
from skmoecbm._last_step import fitted_classifier
from skmoecbm._union import columns_seen
from skmoecbm.encoder import ConceptEncoder, ExpertUnion
from skmoecbm.exceptions import InputError
from skmoecbm.features import ExpertFeatures
from skmoecbm.images import as_image_list

__all__ = ["Explanation", "GlobalExplanation", "explain", "global_explanation"]


def explain(model, images):
    """Explain the predictions of a fitted model, exactly.

    Parameters
    ----------
    model : Pipeline or classifier
        A fitted pipeline that ends in a classifier of this package, or one of these alone.
    images : array-like of length n
        What the model's `predict` takes: images for a pipeline with encoders, features
        (`ExpertFeatures`, array, DataFrame) for a bare classifier.

    Returns
    -------
    Explanation
        Contributions of every (expert, concept) and a bias that sum to `decision_function`; of a
        mixture with ``pool="prob"`` to `predict_proba`. Of a `SparseMoEClassifier`, whose decision
        is no such sum, a `RoutingExplanation`: whom rows were sent to.

    Raises
    ------
    InputError
        If the model is not fitted, does not end in a classifier of this package, or is none; if
        features are given where the pipeline takes images.

    Notes
    -----
    Features that are given to a bare classifier are kept as they are, not copied: `what_if`, and
    texts and pictures that tell of it, ask the model again. Changed in place meanwhile, they would
    get another answer; give a copy where that may happen.

    References
    ----------
    S = τ Σ_e G_e τ_e (Z_e A_eᵀ + b_e), the mixture of concept bottlenecks; each expert as in Yang
    et al., "Language in a Bottle" (2023), eq. 5.

    Examples
    --------
    >>> import numpy as np
    >>> from skmoecbm.classifier import ConceptBottleneckClassifier
    >>> X = np.random.default_rng(0).normal(size=(60, 3))
    >>> model = ConceptBottleneckClassifier(alpha=1.0).fit(X, X[:, 0] > 0)
    >>> explanation = explain(model, X[:4])
    >>> total = sum(part.sum(axis=1) for part in explanation.contributions) + explanation.bias
    >>> bool(np.allclose(total[:, 0], model.decision_function(X[:4]), atol=1e-10))
    True
    """
    classifier, features, beside = read_images("explain", model, images)
    if not classifier._sums_concepts:
        explanation = classifier.explain(features)
        explanation.notices = tuple(beside.get("notices", ()))
        return explanation
    return explain_features(classifier, features, **beside)


def read_images(owner, model, images):
    """Return the classifier of a model, its features of the images, and what is shown with them.

    Parameters
    ----------
    owner : str
        The function that asks, for the error.
    model : Pipeline or classifier
    images : what its `predict` takes

    Returns
    -------
    classifier : ConceptBottleneckClassifier or GatedConceptBottleneckClassifier
    features : ExpertFeatures, DataFrame or array of shape (n, m)
    beside : dict
        The other arguments of `explain_features`.
    """
    model, classifier = fitted_classifier(owner, model, sums_concepts=owner != "explain")
    if classifier is model or len(model.steps) == 1:
        return classifier, images, {}
    banks = banks_of(model.steps[0][1])
    if banks and isinstance(images, ExpertFeatures):
        own = "model[-1].explain(features)"
        own = own if owner == "explain" else f"{owner}(model[-1], features, ...)"
        raise InputError(
            f"{owner} was given the features that this pipeline makes of images, where it takes "
            f"the images. Give the images, or the features to the classifier alone: {own}."
        )
    # what the encoders cannot take is refused here, before anything of it is kept
    features = model[:-1].transform(images)
    seen = _seen_by_encoders(model.steps[0][1], images)
    pictures, value_range = next(
        ((as_image_list(X), e.value_range) for e, X in seen if e.modality == "image"), (None, None)
    )
    notices = dict.fromkeys(e.notice_ for e, _ in seen if e.notice_)
    return (
        classifier,
        features,
        {
            "images": pictures,
            "value_range": value_range,
            "notices": notices,
            "class_names": names_of(classifier.classes_.tolist(), banks),
        },
    )


def global_explanation(
    model,
    images,
    y=None,
    *,
    groups=None,
    n_bootstrap=1000,
    n_permutations=1000,
    confidence=0.95,
    random_state=None,
):
    """Tell what a fitted model does on many images: concepts per class, and whom it trusts where.

    Parameters
    ----------
    model : Pipeline or classifier
        As for `explain`.
    images : array-like of length n
        As for `explain`; best images that the model was not fitted on.
    y : array-like of shape (n,), or indicator of shape (n, K), default=None
        True classes; None takes those that are predicted. The gate takes part in the prediction,
        so that p-values are then partly circular.
    groups : array-like of shape (n,), default=None
        Lesion, patient or study of each row: resampled and exchanged as a whole.
    n_bootstrap : int, default=1000
        Resamples of rows (of groups) for the intervals; 0 gives none.
    n_permutations : int, default=1000
        Exchanges of labels for the p-values of the experts' weights; 0 gives none.
    confidence : float in (0, 1), default=0.95
    random_state : int, RandomState instance or None, default=None

    Returns
    -------
    GlobalExplanation

    Raises
    ------
    InputError
        As `explain`, and if labels or groups do not fit the rows.

    References
    ----------
    Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13; Westfall and Young,
    Resampling-Based Multiple Testing (1993), the single-step maxT procedure.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skmoecbm import GatedConceptBottleneckClassifier
    >>> X, y = load_wine(return_X_y=True)
    >>> experts = [("left", slice(0, 6)), ("right", slice(6, 13))]
    >>> model = GatedConceptBottleneckClassifier(experts=experts, gate="uniform").fit(X, y)
    >>> found = global_explanation(model, X, y, n_bootstrap=50, n_permutations=50, random_state=0)
    >>> found.heat_map.shape, list(found.supports)
    ((3, 2), [0, 1, 2])
    >>> len(found.top(2))  # of each class
    6
    """
    return explain(model, images).summary(
        y,
        groups=groups,
        n_bootstrap=n_bootstrap,
        n_permutations=n_permutations,
        confidence=confidence,
        random_state=random_state,
    )


def explain_features(
    classifier, features, *, images=None, value_range=None, notices=(), class_names=None
):
    """Explain a fitted classifier of this package on features; the inside of `explain`."""
    parts = classifier._additive_parts(features)
    logits = np.asarray(classifier.decision_function(features), dtype=np.float64)
    logits = logits.reshape(len(logits), -1)
    probabilities = classifier.predict_proba(features)
    sums = {"logits": logits, "offset": classifier._constant_logits()}
    if getattr(classifier, "pool", "logit") == "prob":
        if logits.shape[1] < probabilities.shape[1]:
            logits = np.c_[-logits, logits]
        sums = {"logits": logits, "totals": probabilities, "unit": "probability"}
    return Explanation(
        parts,
        **sums,
        thresholds=classifier._thresholds(),
        probabilities=probabilities,
        classes=classifier.classes_,
        images=images,
        value_range=value_range,
        notices=notices,
        class_names=class_names,
        # a shallow copy: another fit of the classifier is none of this explanation's business
        source=(copy.copy(classifier), features),
    )


def _seen_by_encoders(step, X):
    """Return (fitted `ConceptEncoder`, what it sees of X) of a pipeline step, if it has any."""
    seen = [(step, X)]
    if isinstance(step, ExpertUnion):
        seen = [(encoder, part) for _, encoder, part in columns_seen(step, X)]
    return [pair for pair in seen if isinstance(pair[0], ConceptEncoder)]
