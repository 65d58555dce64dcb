"""Parameters of `training` and `balancing` that are None can be set and searched over."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from skmoecbm.moe import Balancing, CrossModalMoEClassifier, MiniBatches, SparseMoEClassifier

BOTH = [SparseMoEClassifier, CrossModalMoEClassifier]


@pytest.mark.parametrize("cls", BOTH)
def test_a_nested_parameter_of_none_makes_the_default(cls):
    clf = cls().set_params(training__learning_rate=0.5, balancing__weight=0.2)
    assert clf.training.get_params() == MiniBatches(learning_rate=0.5).get_params()
    assert clf.balancing.get_params() == Balancing(weight=0.2).get_params()
    again = clone(clf)
    assert again.get_params()["training__learning_rate"] == 0.5
    assert again.training is not clf.training
    # Where every row goes to every expert None stands for another loss, also if just told so.
    dense = cls().set_params(balancing__weight=0.2, n_experts=2)
    assert dense.balancing.loss == "importance"
    assert cls().set_params(n_experts=3).training is None
    given = MiniBatches(max_epochs=3)
    both = cls().set_params(training__patience=2, training=given)
    assert both.training is given and given.patience == 2
    with pytest.raises(ValueError, match="Invalid parameter 'rate'"):
        cls().set_params(training__rate=0.1)
    with pytest.raises(ValueError, match="Invalid parameter 'trainer'"):
        cls().set_params(trainer__rate=0.1)


@pytest.mark.parametrize("cls", BOTH)
def test_a_search_over_what_is_none(cls):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3))
    y = (X[:, 0] > 0).astype(int)
    clf = cls(n_experts=2, top_k=1, expert_hidden=4, random_state=0)
    grid = {"training__max_epochs": [1, 2], "balancing__weight": [0.1]}
    search = GridSearchCV(clf, grid, cv=2).fit(X, y)
    assert clf.training is None and clf.balancing is None
    best = search.best_estimator_
    assert best.n_iter_ == best.training.max_epochs == search.best_params_["training__max_epochs"]
