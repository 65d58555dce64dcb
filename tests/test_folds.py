"""Folds: every fold trains on every class of every expert, or there are none and a reason."""

import numpy as np
import pytest
from sklearn.model_selection import (
    GroupKFold,
    LeaveOneGroupOut,
    PredefinedSplit,
    StratifiedGroupKFold,
    StratifiedKFold,
)

from skmoecbm import (
    ConceptBottleneckClassifier,
    GatedConceptBottleneckClassifier,
    SkmoecbmWarning,
)
from skmoecbm import _alpha_search as alpha_search
from skmoecbm._folds import Folds, make_folds
from skmoecbm._heads import Target
from tests.brute_force import make_table

EXPERTS = [("a", slice(0, 4)), ("b", slice(4, 9))]


def _mixture(alpha=1.0, **settings):
    head = ConceptBottleneckClassifier(alpha=alpha)
    return GatedConceptBottleneckClassifier(head, **{"experts": EXPERTS, **settings})


def _plain_folds_lose_a_class():
    """Return labels and groups whose plain two group folds train without a class."""
    rng = np.random.default_rng(1437)
    n, n_groups, n_classes = rng.integers(12, 60), rng.integers(3, 9), rng.integers(2, 4)
    groups = np.sort(rng.integers(0, n_groups, n))
    y = rng.choice(n_classes, n, p=rng.dirichlet(np.ones(n_classes) * 0.7))
    return y, groups


def test_group_folds_that_would_train_without_a_class_are_drawn_again():
    y, groups = _plain_folds_lose_a_class()
    splits = StratifiedGroupKFold(2).split(y, y, groups)
    assert min(len(set(y[train])) for train, _ in splits) < len(set(y)), "the case is no case"
    folds, reason = make_folds(None, 5, y, np.ones(len(y)), groups)
    assert reason is None and len(folds) == 2
    for fold, train in enumerate(folds.train):
        assert set(y[train]) == set(y)
        assert not set(groups[train]) & set(groups[folds.held_out == fold])
        np.testing.assert_array_equal(train, folds.held_out != fold)


@pytest.mark.parametrize("grouped", [False, True])
def test_every_fold_trains_on_every_class_of_every_expert(grouped):
    found = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        n = 48
        y, groups = np.arange(n) % 3, rng.integers(0, 7, n)
        present = np.c_[np.ones(n, bool), rng.random(n) < 0.15]
        weights = (rng.random(n) < 0.9).astype(float)
        folds, reason = make_folds(None, 5, y, weights, groups if grouped else None, present)
        assert (folds is None) is (reason is not None)
        units = groups if grouped else np.arange(n)
        for c in range(3):
            mine = (y == c) & present[:, 1] & (weights > 0)
            for train in () if folds is None else folds.train:
                assert (train & (y == c) & (weights > 0)).any()
                assert (train & mine).any() or len(set(units[mine])) < 2
                assert (train & present[:, 1] & (weights > 0)).any()
        found += folds is not None
    assert found > 10


def test_presence_of_every_row_changes_no_fold():
    y, weights = np.arange(40) % 2, np.ones(40)
    folds, _ = make_folds(None, 5, y, weights, None, np.ones((40, 3), dtype=bool))
    for fold, (train, test) in enumerate(StratifiedKFold(5).split(y, y)):
        np.testing.assert_array_equal(np.flatnonzero(folds.train[fold]), train)
        np.testing.assert_array_equal(np.flatnonzero(folds.held_out == fold), test)


@pytest.mark.parametrize("kind", ["one group", "one row", "given folds"])
def test_expert_that_a_fold_could_not_train_falls_back_and_says_so(kind):
    X, y = make_table(n=90)
    groups, cv, present = None, 5, np.zeros(90, dtype=bool)
    if kind == "one group":
        groups = np.arange(90) // 3 % 6
        present = groups == 0
    elif kind == "one row":
        present[4] = True
    else:
        present[:45] = True
        cv = [(np.arange(45), np.arange(45, 90)), (np.arange(45, 90), np.arange(45))]
    X[~present, 4:] = np.nan
    for alpha in (None, 1.0):
        with pytest.warns(SkmoecbmWarning, match="No gate could be fitted"):
            clf = _mixture(alpha, cv=cv).fit(X, y, groups=groups)
        assert clf.selected_ == "uniform" and "expert" in clf.fallback_
        np.testing.assert_array_equal(clf.oof_logits_, 0)
        if kind == "one row":
            continue
        # The head of the rare expert is that of the rows it saw.
        own = ConceptBottleneckClassifier(alpha=clf.alpha_).fit(X[present, 4:], y[present])
        np.testing.assert_allclose(clf.heads_[1].association_, own.association_, atol=1e-8)


def test_folds_given_without_a_class_are_no_evidence():
    X, y = make_table(n=60)
    order = np.argsort(y, kind="stable")
    with pytest.warns(SkmoecbmWarning, match="trains without a class"):
        clf = _mixture(None, cv=GroupKFold(3)).fit(X[order], y[order], groups=y[order])
    assert "without" in clf.fallback_ and clf.alpha_path_ == {}
    assert _mixture(cv=LeaveOneGroupOut()).fit(X, y, groups=np.arange(60) % 2).fallback_ is None


def test_one_held_out_part_calibrates_the_average_but_compares_nothing():
    X, y = make_table(n=90)
    train, test = np.arange(60), np.arange(60, 90)
    with pytest.warns(SkmoecbmWarning, match="one fold alone"):
        clf = _mixture(cv=[(train, test)]).fit(X, y)
    assert clf.selected_ == "uniform" and "one fold" in clf.fallback_ and clf.oof_log_loss_ == {}
    assert (clf.expert_scale_ != 1).all()
    for e, (_, columns) in enumerate(EXPERTS):
        own = ConceptBottleneckClassifier(alpha=1.0).fit(X[train, columns], y[train])
        expected = own.decision_function(X[test, columns])
        np.testing.assert_allclose(clf.oof_logits_[test, e], expected, atol=1e-8)
    assert _mixture(cv=[(train, test)], guard=False).fit(X, y).selected_ == "linear"


def test_rows_of_weight_zero_change_no_folds_of_a_splitter():
    X, y = make_table(n=60)
    more, labels = np.r_[X[:7], X], np.r_[y[:7], y]
    weights = np.r_[np.zeros(7), np.ones(60)]
    for cv in (StratifiedKFold(4), StratifiedKFold(4, shuffle=True, random_state=0)):
        clf = ConceptBottleneckClassifier(cv=cv).fit(X[:, :4], y)
        with_zeros = ConceptBottleneckClassifier(cv=cv).fit(
            more[:, :4], labels, sample_weight=weights
        )
        assert with_zeros.alpha_ == pytest.approx(clf.alpha_, rel=1e-6)
    # Folds that are given row by row keep their numbers.
    folds, _ = make_folds(None, PredefinedSplit(np.arange(67) % 3), labels, weights)
    np.testing.assert_array_equal(folds.held_out, np.arange(67) % 3)


def test_search_rows_keep_every_class_of_every_expert_in_every_fold():
    rng = np.random.default_rng(0)
    n = 6000
    y = rng.integers(0, 2, n)
    present = np.ones((n, 2), dtype=bool)
    present[:, 1] = False
    for c in (0, 1):
        present[np.flatnonzero(y == c)[5:9], 1] = True
    # A stride that would take all rows from one of the groups.
    groups = np.arange(n) % 3
    folds = Folds(np.stack([groups != g for g in range(3)]), groups)
    rows = alpha_search._selection_rows(Target(y, 2, np.ones(n), None), present, folds)
    assert len(rows) < 2100 and present[rows, 1].sum() == 8
    for train in folds.train:
        for c in (0, 1):
            assert (train & (y == c))[rows].any()
            assert (train & (y == c) & present[:, 1])[rows].any()
    X = rng.normal(size=(n, 6)) + y[:, None]
    X[~present[:, 1], 3:] = np.nan
    experts = [("a", slice(0, 3)), ("b", slice(3, 6))]
    clf = _mixture(None, experts=experts).fit(X, y)
    assert clf.fallback_ is None and np.isfinite(clf.alpha_path_["log_loss"]).all()
