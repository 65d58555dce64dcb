import numpy as np
import pytest

from skmoecbm import GatedConceptBottleneckClassifier, explain, load, save
from skmoecbm._ranges import LEVELS, concept_quantiles, percentiles, values_at


@pytest.fixture(scope="module")
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("high", [2, 4], ids=["rows count alike", "rows count differently"])
def test_quantiles_are_numpys_on_repeated_rows(rng, high):
    values, counts = rng.normal(size=(57, 5)).round(1), rng.integers(0, high, 57)
    repeated = np.repeat(values, counts, axis=0)
    expected = np.quantile(repeated, LEVELS, axis=0, method="inverted_cdf").T
    assert np.array_equal(concept_quantiles(values, counts.astype(float)), expected)


def test_missing_cells_do_not_count(rng):
    values = rng.normal(size=(30, 2))
    values[:10, 0], values[:, 1] = np.nan, np.nan
    found = concept_quantiles(values, np.ones(30))
    assert np.array_equal(found[0], concept_quantiles(values[10:, :1], np.ones(20))[0])
    assert np.isnan(found[1]).all()
    assert np.isnan(percentiles(values, found)[:, 1]).all()
    assert np.isnan(percentiles(values, found)[:10, 0]).all()


def test_percentile_is_the_share_of_rows_below(rng):
    train, new = rng.normal(size=(4000, 1)), rng.normal(size=(200, 1))
    found = percentiles(new, concept_quantiles(train, np.ones(4000)))
    below = 100 * (train <= new.T).mean(axis=0)[:, None]
    assert np.abs(found - below).max() < 1.0  # one step of the quantiles
    ends = np.array([[train.min() - 1], [train.max() + 1]])
    assert percentiles(ends, concept_quantiles(train, np.ones(4000))).ravel().tolist() == [0, 100]


def test_ties_stand_in_the_middle_and_values_come_back(rng):
    quantiles = concept_quantiles(np.r_[np.zeros(50), np.ones(50)][:, None], np.ones(100))
    found = percentiles(np.array([[0.0], [1.0]]), quantiles)
    assert np.allclose(found.ravel(), [25, 75], atol=1)
    smooth = concept_quantiles(rng.normal(size=(500, 1)), np.ones(500))
    middle = values_at(np.array([5.0, 50.0, 93.0]), smooth[0])
    assert np.allclose(percentiles(middle[:, None], smooth).ravel(), [5, 50, 93])


def test_a_fitted_mixture_knows_its_training_ranges_and_keeps_them(rng, tmp_path):
    X, y = rng.normal(size=(120, 7)), rng.integers(0, 3, 120)
    X[:40, :3] = np.nan
    weights = rng.integers(0, 3, 120)
    model = GatedConceptBottleneckClassifier(
        experts=[("a", slice(0, 3)), ("b", slice(3, 7))], class_weight="balanced"
    )
    model.fit(X, y, sample_weight=weights)
    repeated = np.repeat(X, weights, axis=0)
    for columns, found in zip(model.expert_columns_, model.concept_quantiles_, strict=True):
        seen = repeated[:, columns]
        seen = seen[~np.isnan(seen).any(axis=1)]
        expected = np.quantile(seen, LEVELS, axis=0, method="inverted_cdf").T
        assert np.array_equal(found, expected)

    shown = explain(model, X[35:45])
    assert np.isnan(shown.percentiles[0][:5]).all()
    assert np.allclose(shown.percentiles[1], percentiles(X[35:45, 3:], model.concept_quantiles_[1]))
    save(model, tmp_path / "model")
    again = explain(load(tmp_path / "model"), X[35:45])
    assert np.array_equal(again.percentiles[0], shown.percentiles[0], equal_nan=True)


def test_what_an_older_model_does_not_know_is_nan(rng):
    X, y = rng.normal(size=(60, 4)), rng.integers(0, 2, 60)
    model = GatedConceptBottleneckClassifier(experts=[("a", slice(0, 2)), ("b", slice(2, 4))])
    model.fit(X, y)
    del model.concept_quantiles_
    assert all(np.isnan(part).all() for part in explain(model, X[:3]).percentiles)
