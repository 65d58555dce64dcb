"""The top-k selector."""

import numpy as np
import pytest
from sklearn.base import clone

from skmoecbm.concepts import TopKConcepts
from skmoecbm.exceptions import InputError


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    y = np.repeat(["a", "b", "c"], 20)
    X = rng.normal(size=(60, 6)) + 2 * np.eye(3, 6)[np.repeat([0, 1, 2], 20)]
    return X, y, rng.normal(size=(9, 6))


def brute_force(X, y, T):
    """Divergence from uniform, one concept and one similarity at a time."""
    scores = []
    for t in T:
        D = np.array([x @ t for x in X])
        z = (D - D.mean()) / D.std()
        means = np.array([z[y == c].mean() for c in np.unique(y)])
        p = np.exp(means) / np.exp(means).sum()
        scores.append(np.sum(p * np.log(p * len(p))))
    return np.array(scores)


def test_scores_equal_brute_force(problem):
    X, y, T = problem
    np.testing.assert_allclose(
        TopKConcepts().fit(X, y, T).scores_, brute_force(X, y, T), atol=1e-12
    )


def test_scores_ignore_shift_and_scale_of_similarities(problem):
    X, y, T = problem
    scale = np.linspace(0.1, 5, len(T))[:, None]
    expected = TopKConcepts().fit(X, y, T).scores_
    np.testing.assert_allclose(TopKConcepts().fit(X, y, T * scale).scores_, expected, atol=1e-12)
    np.testing.assert_allclose(TopKConcepts().fit(X - 3.0, y, T).scores_, expected, atol=1e-12)
    labo = X[y == "a"].mean(0) @ T.T  # the famous score takes its logarithm: NaN below zero
    assert (labo < 0).any()


def test_top_k_overall_and_per_class(problem):
    X, y, T = problem
    order = np.argsort(-brute_force(X, y, T))
    overall = TopKConcepts(2, per_class=False).fit(X, y, T).support_
    np.testing.assert_array_equal(overall, np.sort(order[:2]))
    incidence = np.arange(9)[:, None] % 3 == np.arange(3)
    support = TopKConcepts(1).fit(X, y, T, incidence).support_
    best = [next(i for i in order if incidence[i, c]) for c in range(3)]
    np.testing.assert_array_equal(support, np.sort(best))
    assert len(TopKConcepts(50).fit(X, y, T, incidence).support_) == 9


def test_missing_rows_and_constant_concepts(problem):
    X, y, T = problem
    X = X.copy()
    X[::7] = np.nan
    seen = ~np.isnan(X[:, 0])
    T = np.vstack([T, np.zeros(6)])
    scores = TopKConcepts().fit(X, y, T).scores_
    np.testing.assert_allclose(scores[:-1], brute_force(X[seen], y[seen], T[:-1]), atol=1e-12)
    assert scores[-1] == 0


def test_parameters(problem):
    X, y, T = problem
    assert clone(TopKConcepts(3, per_class=False)).get_params() == {"k": 3, "per_class": False}
    with pytest.raises(InputError, match="'k' parameter of TopKConcepts"):
        TopKConcepts(0).fit(X, y, T)
    with pytest.raises(InputError, match="'per_class' parameter"):
        TopKConcepts(per_class="yes").fit(X, y, T)
    with pytest.raises(InputError, match="at least two classes"):
        TopKConcepts().fit(X, ["a"] * 60, T)
    with pytest.raises(InputError, match="59 labels for 60 images"):
        TopKConcepts().fit(X, y[:-1], T)
