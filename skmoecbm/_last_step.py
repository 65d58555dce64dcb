"""The classifier at the end of a pipeline, and the same pipeline with another one there."""

import copy

from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from skmoecbm._base import ConceptClassifier
from skmoecbm.exceptions import InputError

__all__ = ["best_of", "features_for", "fitted_classifier", "refuse_networks", "with_classifier"]


def best_of(model):
    """Return a model as it stands; of a search, or a pipeline that ends in one, the best model."""
    model = getattr(model, "best_estimator_", model)
    if isinstance(model, Pipeline) and hasattr(model.steps[-1][1], "best_estimator_"):
        return with_classifier(model, model.steps[-1][1].best_estimator_)
    return model


def fitted_classifier(owner, model, *, sums_concepts=False):
    """Return a model, of a search its best one, and the fitted classifier that it ends in.

    With `sums_concepts` its decision is to be a sum over concepts.

    Raises
    ------
    InputError
        If it ends in a classifier that is not of this package, or of another kind; names the
        function `owner`.
    """
    model = best_of(model)
    classifier = model.steps[-1][1] if isinstance(model, Pipeline) else model
    if not isinstance(classifier, ConceptClassifier):
        raise InputError(
            f"{owner} needs a ConceptBottleneckClassifier, a GatedConceptBottleneckClassifier or a "
            f"pipeline that ends in one. Got {type(classifier).__name__} at the end, whose "
            "decision is not a sum over concepts."
        )
    check_is_fitted(classifier)
    if sums_concepts:
        refuse_networks(owner, classifier)
    return model, classifier


def refuse_networks(owner, classifier):
    """Raise `InputError` for a fitted classifier whose decision is no sum over concepts."""
    if not getattr(classifier, "_sums_concepts", True):
        raise InputError(
            f"{owner} reads decisions as sums over concepts, and those of a "
            f"{type(classifier).__name__} come out of networks. Use explain, which tells whom rows "
            "are sent to, or a GatedConceptBottleneckClassifier."
        )


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
