"""The classifier at the end of a pipeline, and the same pipeline with another one there."""

import copy

from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from skmoecbm._base import ConceptClassifier
from skmoecbm.exceptions import InputError

__all__ = ["features_for", "fitted_classifier", "with_classifier"]


def fitted_classifier(owner, model):
    """Return a model, of a search its best one, and the fitted classifier that it ends in.

    Raises
    ------
    InputError
        If it ends in a classifier that is not of this package; names the function `owner`.
    """
    model = getattr(model, "best_estimator_", model)
    classifier = model.steps[-1][1] if isinstance(model, Pipeline) else model
    if not isinstance(classifier, ConceptClassifier):
        raise InputError(
            f"{owner} needs a ConceptBottleneckClassifier, a GatedConceptBottleneckClassifier or a "
            f"pipeline that ends in one. Got {type(classifier).__name__} at the end, whose "
            "decision is not a sum over concepts."
        )
    check_is_fitted(classifier)
    return model, classifier


def with_classifier(model, classifier):
    """Return a model that ends in another classifier and shares everything before it."""
    if not isinstance(model, Pipeline):
        return classifier
    pipeline = copy.copy(model)
    pipeline.steps = [*model.steps[:-1], (model.steps[-1][0], classifier)]
    return pipeline


def features_for(model, X):
    """Return what the steps before the classifier make of X."""
    if isinstance(model, Pipeline) and len(model.steps) > 1:
        return model[:-1].transform(X)
    return X
