import itertools
import json
import re

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr
from sklearn.utils import check_random_state

from skmoecbm import (
    ConceptBottleneckClassifier,
    GatedConceptBottleneckClassifier,
    explain,
    global_explanation,
)
from skmoecbm._gate_tests import frequency_trend, permutation_test
from skmoecbm._metrics import group_of_rows, resample_groups
from skmoecbm.exceptions import InputError, SkmoecbmWarning

EXPERTS = [("left", slice(0, 3)), ("right", slice(3, 7))]


def _table(n, labels=("a", "b", "c"), seed=1):
    rng = np.random.default_rng(seed)
    y = np.array(labels)[rng.choice(len(labels), size=n, p=[0.6, 0.3, 0.1])]
    centres = {label: rng.normal(size=7) for label in labels}
    return rng.normal(size=(n, 7)) + 0.8 * np.array([centres[label] for label in y]), y


@pytest.fixture(scope="module")
def model():
    X, y = _table(200)
    head = ConceptBottleneckClassifier(alpha=1.0)
    return GatedConceptBottleneckClassifier(
        head, experts=EXPERTS, guard=False, specialize=False, random_state=0
    ).fit(X, y)


@pytest.fixture(scope="module")
def rows():
    X, y = _table(90, seed=2)
    X[:6, :3] = np.nan
    X[6:10, 3:] = np.nan
    return X, y, np.arange(90) // 2


def test_means_and_intervals_equal_a_loop_over_resampled_rows(model, rows):
    X, y, groups = rows
    found = global_explanation(
        model, X, y, groups=groups, n_bootstrap=30, n_permutations=0, random_state=5
    )
    explanation = explain(model, X)
    group_of_row = group_of_rows(groups, 90)
    has_class = np.array(
        [[label in y[group_of_row == g] for label in "abc"] for g in range(45)], dtype=float
    )
    draws, _ = resample_groups(has_class, 30, check_random_state(5))
    for label, name, j in [("a", "left", 1), ("c", "right", 3), ("b", "right", 0)]:
        e = explanation.expert_names.index(name)
        added = explanation.for_class(label).contributions[e][:, j, 0]
        weight = explanation.expert_weights[:, e]
        own = (y == label) & explanation.present[:, e]
        means, sizes, shares = [], [], []
        for draw in draws:
            taken = [i for i in range(90) for _ in range(draw[group_of_row[i]]) if own[i]]
            means.append(np.mean(added[taken]))
            sizes.append(np.mean(np.abs(added[taken])))
            shares.append(np.mean(weight[taken]))
        table = found.concepts
        line = table[(table["class"] == label) & (table.expert == name)].iloc[j]
        assert line.concept == explanation.concept_names[e][j]
        assert line.support == own.sum()
        assert line.contribution == pytest.approx(added[own].mean())
        assert line.magnitude == pytest.approx(np.abs(added[own]).mean())
        np.testing.assert_allclose([line.low, line.high], np.quantile(means, [0.025, 0.975]))
        np.testing.assert_allclose(
            [line.magnitude_low, line.magnitude_high], np.quantile(sizes, [0.025, 0.975])
        )
        usage = found.usage[(found.usage["class"] == label) & (found.usage.expert == name)].iloc[0]
        assert usage.weight == pytest.approx(weight[own].mean())
        np.testing.assert_allclose([usage.low, usage.high], np.quantile(shares, [0.025, 0.975]))
        assert found.heat_map.loc[label, name] == usage.weight
        assert np.isnan(usage.p_value)


def test_p_values_are_those_of_all_exchanges_of_labels():
    """Six rows: all 720 orders by brute force against drawn ones."""
    first = np.array([0.9, 0.8, 0.7, 0.3, 0.5, 0.45])
    weights, labels = np.c_[first, 1 - first], np.array([0, 0, 0, 1, 1, 1])
    is_class = labels[:, None] == np.arange(2)
    found = permutation_test(
        weights, np.ones((6, 2), bool), is_class, np.arange(6), 20_000, check_random_state(0)
    )
    gaps = []
    for order in itertools.permutations(range(6)):
        mine = labels[list(order)] == 0
        gaps.append(first[mine].mean() - first.mean())
    seen = abs(first[:3].mean() - first.mean())
    exact = np.mean(np.abs(gaps) >= seen - 1e-9)
    # both classes and both experts are one and the same comparison here
    np.testing.assert_allclose(found["p_value"], exact, atol=0.01)
    np.testing.assert_allclose(found["p_adjusted"], exact, atol=0.01)
    assert found["p_overall"] == pytest.approx(exact, abs=0.01)
    np.testing.assert_allclose(found["difference"], [[seen, -seen], [-seen, seen]], atol=0.005)
    assert found["exchanged"] == 1.0


def test_few_exchanges_give_small_p_values_no_more_often_than_they_say():
    """p <= 1/5 of four exchanges in a fifth of the tables; what was seen belongs to the null."""
    rng = check_random_state(0)
    is_class = np.repeat(np.eye(2, dtype=bool), 12, axis=0)
    found = []
    for _ in range(1500):
        own = rng.random_sample(24)
        weights = np.c_[own, 1 - own]
        test = permutation_test(weights, np.ones((24, 2), bool), is_class, np.arange(24), 4, rng)
        found.append((test["p_value"][0, 0], test["p_overall"]))
    share = (np.array(found) < 0.2 + 1e-9).mean(axis=0)
    assert (share < 0.2 + 3 * np.sqrt(0.2 * 0.8 / 1500)).all()
    assert (share > 0.1).all()


def _null(seed, dependent, groups=None, missing=False, n=120):
    """Weights that depend on the class, on nothing, or on the group alone."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(4, size=n)
    first = 0.5 + 0.1 * rng.normal(size=n)
    present = np.ones((n, 2), bool)
    if groups is not None:
        labels = labels[groups]
        first = 0.5 + 0.1 * rng.normal(size=n)[groups] + 0.01 * rng.normal(size=n)
    if dependent:
        first = first + 0.1 * (labels == 2)
    weights = np.c_[first, 1 - first]
    if missing:  # the second expert is mostly absent in class 1: that alone is no trust
        present[:, 1] = rng.random(n) > np.where(labels == 1, 0.9, 0.1)
        weights[~present[:, 1]] = [1.0, 0.0]
    return weights, present, labels[:, None] == np.arange(4)


@pytest.mark.parametrize("kind", ["plain", "groups", "missing"])
def test_nothing_to_find_is_rarely_found(kind):
    groups = np.arange(120) // 4 if kind == "groups" else None
    alarms = 0
    for seed in range(60):
        drawn = _null(seed, False, groups, kind == "missing")
        units = np.arange(120) if groups is None else groups
        found = permutation_test(*drawn, units, 99, check_random_state(seed))
        alarms += found["p_overall"] <= 0.05
    assert alarms <= 8  # 3 expected, 9 or more has a probability below 0.4 %


def test_groups_and_missing_experts_would_have_alarmed_without_the_care():
    """What the test above guards: rows as if independent, patterns as if exchangeable."""
    groups = np.arange(120) // 4
    alarms = [
        permutation_test(*_null(seed, False, groups), np.arange(120), 99, check_random_state(0))
        for seed in range(30)
    ]
    assert sum(found["p_overall"] <= 0.05 for found in alarms) > 10
    weights, _, is_class = _null(0, False, None, True)
    everywhere = np.ones((120, 2), bool)
    found = permutation_test(
        weights, everywhere, is_class, np.arange(120), 99, check_random_state(0)
    )
    assert found["p_overall"] <= 0.05


def test_a_planted_difference_is_found_in_its_cell_alone():
    drawn = _null(3, True)
    found = permutation_test(*drawn, np.arange(120), 999, check_random_state(0))
    assert found["p_adjusted"][2].max() <= 0.01
    weights, _, is_class = drawn
    gap = weights[is_class[:, 2]].mean(axis=0) - weights.mean(axis=0)
    np.testing.assert_allclose(found["difference"][2], gap, atol=0.005)
    assert found["p_adjusted"][[0, 1, 3]].min() > found["p_adjusted"][2].max()
    assert (found["p_adjusted"] >= found["p_value"] - 1e-12).all()


def test_same_weights_for_all_rows_differ_nowhere():
    weights = np.full((40, 3), 1 / 3)
    is_class = (np.arange(40) % 3)[:, None] == np.arange(3)
    found = permutation_test(
        weights, np.ones((40, 3), bool), is_class, np.arange(40), 50, check_random_state(0)
    )
    assert (found["p_value"] == 1).all() and found["p_overall"] == 1


def test_trend_with_frequency_is_spearmans_over_all_orders():
    weights, supports = np.array([0.2, 0.5, 0.4, 0.9, 0.7]), np.array([50, 20, 30, 5, 10])
    rho, p = frequency_trend(weights, supports, check_random_state(0))
    assert rho == pytest.approx(spearmanr(weights, supports).statistic) == pytest.approx(-1.0)
    assert p == pytest.approx(2 / 120)
    mixed = np.array([0.2, 0.5, 0.9, 0.4, 0.7])
    rho, p = frequency_trend(mixed, supports, check_random_state(0))
    expected = spearmanr(mixed, supports).statistic
    orders = [
        spearmanr(mixed[list(o)], supports).statistic for o in itertools.permutations(range(5))
    ]
    assert rho == pytest.approx(expected)
    assert p == pytest.approx(np.mean(np.abs(orders) >= abs(expected) - 1e-9))
    long = np.linspace(0, 1, 12)
    rho, p = frequency_trend(long, np.arange(1, 13), check_random_state(0))
    assert rho == pytest.approx(1.0) and p < 0.001
    assert np.isnan(frequency_trend(long[:2], np.array([3, 4]), check_random_state(0))).all()
    flat = frequency_trend(np.full(4, 0.5), np.array([3, 4, 5, 6]), check_random_state(0))
    assert np.isnan(flat).all()


def test_classes_are_the_predicted_ones_where_no_labels_are_given(model, rows):
    X = rows[0]
    found = global_explanation(model, X, n_bootstrap=0, n_permutations=0)
    counts = pd.Series(model.predict(X)).value_counts().to_dict()
    assert found.by_predicted and found.supports == counts
    assert found.concepts.low.isna().all() and "predicted classes" in repr(found)
    assert "circular" not in repr(found)  # there are no p-values
    settings = {"n_bootstrap": 0, "n_permutations": 20, "random_state": 0}
    assert "partly circular" in repr(global_explanation(model, X, **settings))
    assert "circular" not in repr(global_explanation(model, X, model.predict(X), **settings))


def test_of_several_labels_a_row_counts_for_each_that_it_has():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 7))
    Y = pd.DataFrame({"mass": X[:, 0] > 0.5, "edema": X[:, 4] > 0.5}).astype(int)
    head = ConceptBottleneckClassifier(alpha=1.0)
    model = GatedConceptBottleneckClassifier(head, experts=EXPERTS).fit(X, Y)
    found = global_explanation(model, X, Y, n_bootstrap=10, n_permutations=19, random_state=0)
    assert found.supports == {"mass": int(Y.mass.sum()), "edema": int(Y.edema.sum())}
    line = found.concepts[(found.concepts["class"] == "edema") & (found.concepts.concept == "x4")]
    added = explain(model, X).for_class("edema").contributions["right"][:, 1, 0]
    assert line.contribution.item() == pytest.approx(added[Y.edema == 1].mean())


def test_two_classes_and_probabilities_are_summed_up_towards_their_own_class():
    X, y = _table(120)
    y = np.where(y == "c", "b", y)
    for pool in ("logit", "prob"):
        model = GatedConceptBottleneckClassifier(
            ConceptBottleneckClassifier(alpha=1.0), "uniform", experts=EXPERTS, pool=pool
        ).fit(X, y)
        found = global_explanation(model, X, y, n_bootstrap=5, n_permutations=5, random_state=0)
        explanation = explain(model, X)
        assert found.unit == explanation.unit
        assert set(found.to_frame().unit) == {explanation.unit}
        for label in "ab":
            own = explanation.for_class(label).contributions["left"][y == label, :, 0].mean(axis=0)
            mine = found.for_class(label).concepts
            np.testing.assert_allclose(mine[mine.expert == "left"].contribution, own)
    assert "in probability" in repr(found)


def test_an_expert_that_no_row_of_a_class_has_is_unknown_there(model, rows):
    X, y, _ = rows
    X = X.copy()
    X[y == "c", 3:] = np.nan
    with np.errstate(all="raise"):
        found = global_explanation(model, X, y, n_bootstrap=20, n_permutations=20, random_state=0)
    line = found.usage[(found.usage["class"] == "c") & (found.usage.expert == "right")].iloc[0]
    assert line.support == 0 and np.isnan(line.weight) and np.isnan(line.p_adjusted)
    assert "right never there" in repr(found)
    json.dumps(found.to_dict(), allow_nan=False)


def test_tables_text_html_and_json_say_the_same(model, rows):
    X, y, groups = rows
    found = global_explanation(
        model, X, y, groups=groups, n_bootstrap=20, n_permutations=20, random_state=0
    )
    data = json.loads(json.dumps(found.to_dict(2), allow_nan=False))
    assert len(data["concepts"]) == 6 and len(data["usage"]) == 6
    assert data["p_overall"] == found.p_overall
    top = found.top(2, "b")
    mine = found.concepts[found.concepts["class"] == "b"].magnitude
    np.testing.assert_allclose(top.magnitude, np.sort(mine)[::-1][:2])
    assert f"{top.contribution[0]:+6.2f}" in repr(found)
    assert "largest mean absolute ones first" in repr(found)
    assert "in 45 groups" in repr(found) and f"p = {found.p_overall:.3g}" in repr(found)
    weight = found.heat_map.loc["a", "left"]
    assert f"a ({(y == 'a').sum()} rows): left {100 * weight:.0f} %" in repr(found)
    page = found._repr_html_()
    assert f"<td>{100 * weight:.0f} %" in page
    tags = set(re.findall(r"<\s*/?\s*([a-zA-Z!]+)", page))
    assert tags <= {"div", "p", "table", "thead", "tbody", "tr", "th", "td"}
    with pytest.raises(InputError, match="No row is of class 'z'"):
        found.for_class("z")
    same = global_explanation(
        model, X, y, groups=groups, n_bootstrap=20, n_permutations=20, random_state=0
    )
    assert same.to_dict() == found.to_dict()


def test_hostile_names_are_escaped(rows):
    X, y, _ = rows
    X = np.nan_to_num(X)
    names = [f"<script>{e}</script>__<img onerror={j}>" for e in "ab" for j in range(7)]
    frame = pd.DataFrame(np.c_[X, X], columns=names)
    head = ConceptBottleneckClassifier(alpha=1.0)
    model = GatedConceptBottleneckClassifier(head, "uniform").fit(frame, [f"<b>{v}" for v in y])
    found = global_explanation(model, frame, n_bootstrap=2, n_permutations=2)
    page = found._repr_html_()
    assert "<script" not in page and "<img" not in page and "<b>" not in page


def test_what_does_not_fit_is_refused(model, rows):
    X, y, _ = rows
    with pytest.raises(InputError, match=r"one label per row of the explanation, 90\. Got 89"):
        global_explanation(model, X, y[:-1])
    with pytest.raises(InputError, match="does not know: z"):
        global_explanation(model, X, ["z"] * 90)
    with pytest.raises(InputError, match="'n_bootstrap' parameter"):
        global_explanation(model, X, y, n_bootstrap=-1)
    with pytest.raises(InputError, match="one class alone"):
        explain(model, X).for_class("a").summary()
    with pytest.warns(SkmoecbmWarning, match="no expert"):
        nothing = explain(model, np.full((3, 7), np.nan))
    assert nothing.summary(n_bootstrap=2, n_permutations=2).usage.support.sum() == 0


def test_text_without_a_bootstrap_names_no_intervals(model, rows):
    X, y, _ = rows
    text = repr(global_explanation(model, X, y, n_bootstrap=0, n_permutations=0))
    assert "nan" not in text and "interval" not in text and "[" not in text
    assert "95 % intervals" in repr(global_explanation(model, X, y, n_bootstrap=5))


def test_classes_that_are_true_and_false_are_labels_and_no_mask():
    X, y = _table(80)
    model = GatedConceptBottleneckClassifier(
        ConceptBottleneckClassifier(alpha=1.0), "uniform", experts=EXPERTS
    )
    model.fit(X, y == "a")
    found = global_explanation(model, X, y == "a", n_bootstrap=0, n_permutations=0)
    assert found.heat_map.index.tolist() == [False, True]
