"""What scikit-learn asks of a classifier, with no expected failure."""

import numpy as np
import pytest
from sklearn.base import is_classifier
from sklearn.utils.estimator_checks import parametrize_with_checks

from skmoecbm import (
    ConceptBottleneckClassifier,
    GatedConceptBottleneckClassifier,
    GatedConceptBottleneckClassifierCV,
)

# The checks hand over plain arrays, which is what this warning is about.
pytestmark = pytest.mark.filterwarnings(
    "ignore:X is a plain array:skmoecbm.exceptions.SkmoecbmWarning"
)


class TwoExperts(GatedConceptBottleneckClassifier):
    """A mixture whatever the container: the first half of the columns and the rest."""

    def _start_fit(self, X, y, sample_weight, groups, class_weight, experts, columns, **settings):
        shape = X.shape if hasattr(X, "shape") else np.asarray(X).shape
        if len(shape) == 2 and shape[1] > 1:  # a single column cannot be split
            # The first gets two of three: the checks put a NaN into the first column, and an
            # expert of one column that is NaN is missing rather than wrong.
            half = (shape[1] + 1) // 2
            experts = [("first", slice(0, half)), ("rest", slice(half, None))]
        rows = (X, y, sample_weight, groups, class_weight)
        return super()._start_fit(*rows, experts, columns, **settings)


# Some checks have too few rows of a class for two folds.
@pytest.mark.filterwarnings("ignore:No gate could be fitted")
@parametrize_with_checks(
    [
        ConceptBottleneckClassifier(),
        GatedConceptBottleneckClassifier(),
        TwoExperts(),
        GatedConceptBottleneckClassifierCV(param_grid={"head__alpha": [1.0, 10.0]}, cv=2),
    ]
)
def test_scikit_learn_estimator_checks(estimator, check):
    check(estimator)


def test_the_subclass_really_mixes_two_experts():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 5))
    assert TwoExperts().fit(X, X[:, 0] > 0).expert_names_ == ["first", "rest"]


def test_the_checks_know_that_these_are_classifiers():
    assert is_classifier(ConceptBottleneckClassifier())
    assert is_classifier(GatedConceptBottleneckClassifier())
