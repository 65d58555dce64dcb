"""Several images of one lesion as one row, group by group with plain loops."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import gmean
from sklearn.metrics import roc_auc_score

from skmoecbm import aggregate_predictions
from skmoecbm.exceptions import InputError


def drawn(n=40, seed=0):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.ones(3), n), rng.choice(["m", "c", "x", "b"], n)


@pytest.mark.parametrize("pool", ["mean", "geometric"])
def test_classes_of_a_group_are_the_mean_of_its_rows(pool):
    proba, groups = drawn()
    pooled, keys = aggregate_predictions(proba, groups, pool=pool)
    assert keys.tolist() == list(dict.fromkeys(groups.tolist())) != sorted(set(groups))
    for row, key in zip(pooled, keys, strict=True):
        own = proba[groups == key]
        expected = own.mean(axis=0) if pool == "mean" else gmean(own, axis=0)
        np.testing.assert_allclose(row, expected / expected.sum(), atol=1e-12)
    np.testing.assert_allclose(pooled.sum(axis=1), 1.0)


@pytest.mark.parametrize("pool", ["mean", "geometric", "max"])
def test_labels_of_a_group_are_pooled_each_by_itself(pool):
    rng = np.random.default_rng(0)
    proba, groups = rng.random((40, 3)), rng.integers(6, size=40)
    pooled, keys = aggregate_predictions(proba, groups, pool=pool, multilabel=True)
    assert keys.dtype == groups.dtype
    for row, key in zip(pooled, keys, strict=True):
        own = proba[groups == key]
        if pool == "geometric":
            yes, no = gmean(own, axis=0), gmean(1 - own, axis=0)
            expected = yes / (yes + no)
        else:
            expected = getattr(own, pool)(axis=0)
        np.testing.assert_allclose(row, expected, atol=1e-12)


def test_groups_of_one_are_left_as_they_are_and_order_within_a_group_is_no_matter():
    proba, groups = drawn()
    for pool in ("mean", "geometric"):
        alone, keys = aggregate_predictions(proba, np.arange(40), pool=pool)
        np.testing.assert_allclose(alone, proba, atol=1e-12)
        assert keys.tolist() == list(range(40))
        one, keys = aggregate_predictions(proba, groups, pool=pool)
        two, turned = aggregate_predictions(proba[::-1], groups[::-1], pool=pool)
        at = [turned.tolist().index(key) for key in keys.tolist()]
        np.testing.assert_allclose(one, two[at], atol=1e-12)


def test_keys_find_the_label_of_each_group_in_a_table():
    rng = np.random.default_rng(0)
    lesions = pd.DataFrame(
        {"lesion": np.repeat(np.arange(60), 3), "y": np.repeat(rng.integers(2, size=60), 3)}
    )
    lesions = lesions.sample(frac=1, random_state=0)
    score = 1 / (1 + np.exp(-(lesions["y"] - 0.5 + rng.normal(size=180))))
    proba = np.c_[1 - score, score]
    pooled, keys = aggregate_predictions(proba, lesions["lesion"])
    truth = lesions.groupby("lesion")["y"].first().loc[keys]
    # Three looks at a lesion tell more than one.
    assert roc_auc_score(truth, pooled[:, 1]) > roc_auc_score(lesions["y"], score) + 0.05


def test_an_image_that_rules_a_class_out_does_not_make_nan():
    pooled, _ = aggregate_predictions([[1.0, 0.0], [0.0, 1.0]], [7, 7], pool="geometric")
    np.testing.assert_allclose(pooled, [[0.5, 0.5]])
    sure = aggregate_predictions([[1.0, 0.0]] * 2, [7, 7], pool="geometric", multilabel=True)[0]
    np.testing.assert_allclose(sure, [[1.0, 0.0]], atol=1e-11)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pool": "median"}, "'pool' parameter of aggregate_predictions"),
        ({"pool": "max"}, "pool='max' is for labels"),
        ({"proba": [[0.5, 0.6]] * 2}, r"row 0 sum to 1.1 \(2 such rows\). Pass multilabel=True"),
        ({"proba": [[0.5, 0.5], [np.nan, 1.0]]}, "Row 1 does not"),
        ({"proba": [[-0.5, 1.5], [0.5, 0.5]]}, "Row 0 does not"),
        ({"proba": [0.5, 0.5]}, r"shape \(n, K\)"),
        ({"groups": ["a"]}, r"groups must have shape \(n,\)"),
        ({"groups": ["a", None]}, "Row 1 has none"),
    ],
)
def test_what_cannot_be_pooled_says_why(change, message):
    good = {"proba": [[0.5, 0.5], [0.2, 0.8]], "groups": ["a", "b"]}
    with pytest.raises(InputError, match=message):
        aggregate_predictions(**{**good, **change})
