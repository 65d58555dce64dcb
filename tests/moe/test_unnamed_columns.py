"""Columns that the blocks of a classifier do not name are not used, as its documentation says."""

import numpy as np
import pytest

from skmoecbm import GatedConceptBottleneckClassifier
from skmoecbm.moe import MiniBatches, SparseMoEClassifier

NAMED = {"first": [0, 1], "second": [3]}


@pytest.mark.parametrize("cls", [SparseMoEClassifier, GatedConceptBottleneckClassifier])
def test_columns_that_are_named_by_none_make_no_difference(cls):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 5))
    y = (X[:, 0] + X[:, 2] > 0).astype(int)
    if cls is SparseMoEClassifier:
        clf = cls(n_experts=2, top_k=1, expert_hidden=4, modalities=NAMED, random_state=0)
        clf.set_params(training=MiniBatches(max_epochs=2))
    else:
        clf = cls(experts=list(NAMED.items()), cv=2, random_state=0)
    told = clf.fit(X, y).predict_proba(X)
    others = X.copy()
    others[:, [2, 4]] = rng.normal(size=(60, 2))
    assert np.array_equal(clf.predict_proba(others), told)
    assert np.array_equal(clf.fit(others, y).predict_proba(X), told)
    others[:, 0] += 1.0
    assert not np.allclose(clf.predict_proba(others), told)
