"""Why a model decided as it did: contributions of concepts and experts that sum to the logit."""

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from skmoecbm._explained import Explanation
from skmoecbm._union import columns_seen
from skmoecbm.encoder import ConceptEncoder, ExpertUnion
from skmoecbm.exceptions import InputError
from skmoecbm.images import as_image_list

__all__ = ["Explanation", "explain"]


def explain(model, images):
    """Explain the predictions of a fitted model, exactly.

    Parameters
    ----------
    model : Pipeline or classifier
        A fitted pipeline that ends in a `ConceptBottleneckClassifier` or a
        `GatedConceptBottleneckClassifier`, or one of these alone.
    images : array-like of length n
        What the model's `predict` takes: images for a pipeline with encoders, features
        (`ExpertFeatures`, array, DataFrame) for a bare classifier.

    Returns
    -------
    Explanation
        Contributions of every (expert, concept) and a bias that sum to `decision_function`.

    Raises
    ------
    InputError
        If the model is not fitted, does not end in a classifier of this package, or is none.

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
        `images`, `value_range` and `notices` for `explain_features`.
    """
    model = getattr(model, "best_estimator_", model)
    classifier = model.steps[-1][1] if isinstance(model, Pipeline) else model
    if not hasattr(classifier, "_additive_parts"):
        raise InputError(
            f"{owner} needs a ConceptBottleneckClassifier, a GatedConceptBottleneckClassifier or a "
            f"pipeline that ends in one. Got {type(classifier).__name__} at the end, whose "
            "decision is not a sum over concepts."
        )
    check_is_fitted(classifier)
    if classifier is model or len(model.steps) == 1:
        return classifier, images, {}
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
        },
    )


def explain_features(classifier, features, *, images=None, value_range=None, notices=()):
    """Explain a fitted classifier of this package on features; the inside of `explain`."""
    parts = classifier._additive_parts(features)
    logits = np.asarray(classifier.decision_function(features), dtype=np.float64)
    return Explanation(
        parts,
        logits=logits.reshape(len(logits), -1),
        offset=classifier._constant_logits(),
        thresholds=classifier._thresholds(),
        probabilities=classifier.predict_proba(features),
        classes=classifier.classes_,
        images=images,
        value_range=value_range,
        notices=notices,
    )


def _seen_by_encoders(step, X):
    """Return (fitted `ConceptEncoder`, what it sees of X) of a pipeline step, if it has any."""
    seen = [(step, X)]
    if isinstance(step, ExpertUnion):
        seen = [(encoder, part) for _, encoder, part in columns_seen(step, X)]
    return [pair for pair in seen if isinstance(pair[0], ConceptEncoder)]
