"""Many labels a row: each a logistic output, from the association to the saved model."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.utils.class_weight import compute_sample_weight

from skmoecbm import (
    ConceptBottleneckClassifier,
    ExpertFeatures,
    GatedConceptBottleneckClassifier,
    LinearGate,
    load,
    save,
)
from skmoecbm._calibration import fit_inverse_temperature, log_losses
from skmoecbm._folds import make_folds
from skmoecbm._labels import LabelMatrix
from skmoecbm._pooling import PooledLoss, pool_logits
from skmoecbm.exceptions import InputError, SkmoecbmWarning

EXPERTS = [("a", slice(0, 5)), ("b", slice(5, 9))]
PLAIN = {"calibrate": False, "guard": False, "gate": "uniform"}


def make_labels(n=160, n_labels=3, seed=0, rare=0.3):
    """Return X (n, 9) and an indicator (n, n_labels) that depends on it."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 9))
    scores = X @ rng.normal(size=(9, n_labels)) + rng.logistic(size=(n, n_labels))
    return 0.2 + 0.05 * X, (scores > np.quantile(scores, 1 - rare, axis=0)).astype(int)


def mixture(alpha=1.0, **settings):
    settings = {"experts": EXPERTS, **settings}
    return GatedConceptBottleneckClassifier(ConceptBottleneckClassifier(alpha=alpha), **settings)


def standard(X, weights=None):
    mean = np.average(X, axis=0, weights=weights)
    return (X - mean) / np.sqrt(np.average((X - mean) ** 2, axis=0, weights=weights))


@pytest.mark.parametrize("class_weight", [None, "balanced", {1: 3.0}])
def test_each_label_is_the_logistic_regression_of_its_own(class_weight):
    X, Y = make_labels()
    clf = ConceptBottleneckClassifier(alpha=2.0, class_weight=class_weight).fit(X, Y)
    for label in range(3):
        weights = np.ones(len(Y))
        if class_weight == "balanced":
            weights = compute_sample_weight("balanced", Y[:, label])
        elif class_weight and label == 1:
            weights = np.where(Y[:, 1] == 1, 3.0, 1.0)
        theirs = LogisticRegression(C=0.5, tol=1e-12, max_iter=10_000)
        theirs.fit(standard(X), Y[:, label], sample_weight=weights)
        np.testing.assert_allclose(clf.association_[label], theirs.coef_[0], atol=2e-5)
        assert clf.intercept_[label] == pytest.approx(theirs.intercept_[0], abs=2e-5)
    assert clf.multilabel_ and clf.classes_.tolist() == [0, 1, 2]


def test_two_labels_are_not_two_classes():
    X, Y = make_labels(n_labels=2)
    clf = mixture().fit(X, Y)
    assert clf.decision_function(X).shape == clf.predict_proba(X).shape == (160, 2)
    assert clf.expert_logits(X).shape == (160, 2, 2)
    both = clf.predict_proba(X).sum(axis=1)
    assert both.max() > 1.2 and both.min() < 0.8
    np.testing.assert_array_equal(clf.predict(X), (clf.predict_proba(X) >= 0.5).astype(int))
    np.testing.assert_allclose(clf.predict_proba(X), expit(clf.decision_function(X)), atol=1e-14)


def test_a_nonnegative_association_learns_labels_too():
    X, Y = make_labels()
    clf = ConceptBottleneckClassifier(activation="nonnegative", alpha=1.0).fit(X, Y)
    assert clf.association_.min() >= 0 and clf.association_.max() > 0.1


def test_weight_of_two_is_the_row_twice():
    X, Y = make_labels(n=80)
    twice = np.r_[np.arange(80), np.arange(20)]
    weights = np.r_[np.full(20, 2.0), np.ones(60)]
    once = mixture(**PLAIN, class_weight="balanced").fit(X, Y, sample_weight=weights)
    again = mixture(**PLAIN, class_weight="balanced").fit(X[twice], Y[twice])
    np.testing.assert_allclose(
        once.decision_function(X), again.decision_function(X), atol=1e-8, rtol=0
    )


def test_uniform_probability_pool_is_the_mean_of_independent_regressions():
    X, Y = make_labels()
    clf = mixture(alpha=2.0, pool="prob", **PLAIN).fit(X, Y)
    expected = np.zeros(Y.shape)
    for columns in (slice(0, 5), slice(5, 9)):
        Z = standard(X[:, columns])
        for label in range(3):
            theirs = LogisticRegression(C=0.5, tol=1e-12, max_iter=10_000).fit(Z, Y[:, label])
            expected[:, label] += theirs.predict_proba(Z)[:, 1] / 2
    np.testing.assert_allclose(clf.predict_proba(X), expected, atol=1e-5)


@pytest.mark.parametrize("pool", ["logit", "prob", "sum"])
def test_pooled_loss_and_its_slope(pool):
    rng = np.random.default_rng(3)
    n, E, L = 7, 3, 4
    S, Y = rng.normal(size=(n, E, L)), (rng.random((n, L)) < 0.4).astype(float)
    cells, h = rng.uniform(0.5, 2, (n, L)), rng.normal(size=(n, E))
    present = rng.random((n, E)) < 0.8
    present[:, 0] = True
    share = rng.dirichlet(np.ones(n))

    def brute(h):
        G = np.where(present, np.exp(h), 0)
        G /= G.sum(1, keepdims=True)
        total = 0.0
        for i in range(n):
            for k in range(L):
                if pool == "prob":
                    p = sum(G[i, e] * expit(S[i, e, k]) for e in range(E))
                else:
                    s = sum(G[i, e] * S[i, e, k] for e in range(E))
                    p = expit(s * present[i].sum() if pool == "sum" else s)
                truth = p if Y[i, k] else 1 - p
                total -= share[i] * cells[i, k] * np.log(truth) / L
        return total

    objective = PooledLoss(
        torch.tensor(S)[None],
        LabelMatrix(Y, cells),
        torch.tensor(share)[None],
        torch.tensor(~present),
        pool,
    )
    loss, slope = objective(torch.tensor(h)[None])
    assert float(loss[0]) == pytest.approx(brute(h), abs=1e-12)
    for i, e in np.ndindex(n, E):
        step = np.zeros((n, E))
        step[i, e] = 1e-5
        expected = (brute(h + step) - brute(h - step)) / 2e-5
        assert float(slope[0, i, e]) == pytest.approx(expected, abs=1e-9)
    # And the losses of pooled logits are the same losses.
    G = np.where(present, np.exp(h), 0)
    G /= G.sum(1, keepdims=True)
    mixed = pool_logits(G, S, 1.0, pool, exclusive=False)
    assert log_losses(mixed, LabelMatrix(Y, cells)) @ share == pytest.approx(brute(h), abs=1e-12)


def test_temperature_is_the_best_of_a_search_over_all_cells():
    rng = np.random.default_rng(0)
    S, Y = 3 * rng.normal(size=(50, 4)), (rng.random((50, 4)) < 0.3).astype(float)
    cells, weights = rng.uniform(0.5, 2, (50, 4)), rng.uniform(0.5, 2, 50)
    labels = LabelMatrix(Y, cells)
    total = (weights[:, None] * cells).sum()

    def objective(u):
        s = np.exp(u) * S
        losses = (np.logaddexp(0, s) - Y * s) * cells * weights[:, None]
        return losses.sum() / total + 3.0 * u**2 / total

    best = minimize_scalar(objective, bounds=(-8, 8), method="bounded", options={"xatol": 1e-9})
    assert fit_inverse_temperature(S, labels, weights) == pytest.approx(np.exp(best.x), rel=1e-5)


def test_staged_fit_calibrates_and_guards_on_out_of_fold_labels():
    X, Y = make_labels(n=300)
    clf = mixture(alpha=None).fit(X, Y)
    guess = -(Y.mean(0) * np.log(Y.mean(0)) + (1 - Y.mean(0)) * np.log(1 - Y.mean(0))).mean()
    assert set(clf.oof_log_loss_) == {"uniform", "constant", "a", "b", "linear"}
    assert clf.oof_log_loss_["uniform"] < min(clf.oof_log_loss_["a"], guess - 0.05)
    learned = mixture(guard=False, gate=LinearGate(penalty=0.1)).fit(X, Y)
    weights = learned.gate_weights(X)
    np.testing.assert_allclose(weights.sum(1), 1.0)
    assert weights.std(0).max() > 0.01


def test_the_gate_follows_a_row_whose_other_expert_is_noise():
    rng = np.random.default_rng(0)
    n = 800
    truth, Y = rng.normal(size=(n, 3)), np.zeros((n, 3), int)
    Y[:] = truth + 0.3 * rng.normal(size=(n, 3)) > 0.3
    good = rng.random(n) < 0.5
    noise = rng.normal(size=(n, 6))
    X = np.c_[
        np.where(good[:, None], truth, noise[:, :3]),
        np.where(good[:, None], noise[:, 3:], truth),
        good,
    ]
    experts = [("a", slice(0, 3)), ("b", slice(3, 6))]
    clf = GatedConceptBottleneckClassifier(experts=experts, gate_input=[6]).fit(X[:600], Y[:600])
    assert clf.selected_ == "linear"
    found = clf.gate_weights(X[600:])[:, 0]
    assert found[good[600:]].mean() > 0.7 > 0.3 > found[~good[600:]].mean()


def test_missing_expert_is_the_model_without_it_and_nothing_at_all_the_prevalence():
    X, Y = make_labels()
    clf = mixture(guard=False).fit(X, Y)
    lost = X.copy()
    lost[:40, :5] = np.nan
    np.testing.assert_array_equal(
        clf.predict_proba(lost)[:40], clf.without("a").predict_proba(X)[:40]
    )
    with pytest.warns(SkmoecbmWarning, match="no expert at all"):
        nothing = clf.predict_proba(np.full((1, 9), np.nan))
    np.testing.assert_allclose(nothing[0], Y.mean(0), atol=1e-12)


def test_label_that_all_or_none_have_is_a_constant_and_said():
    X, Y = make_labels()
    Y[:, 0], Y[:, 2] = 0, 1
    with pytest.warns(SkmoecbmWarning, match=r"2 label\(s\).*0 \(no row has it\), 2 \(every row"):
        clf = ConceptBottleneckClassifier(alpha=1.0).fit(X, Y)
    p = clf.predict_proba(X)
    np.testing.assert_allclose(p[:, 0], 0.5 / 161, rtol=1e-6)
    np.testing.assert_allclose(p[:, 2], 1 - 0.5 / 161, rtol=1e-6)
    alone = ConceptBottleneckClassifier(alpha=1.0).fit(X, Y[:, 1])
    np.testing.assert_allclose(clf.association_[1], alone.association_[0], atol=1e-7)
    with pytest.warns(SkmoecbmWarning):
        mixed = mixture().fit(X, Y).predict_proba(X)
    assert np.isfinite(mixed).all() and mixed[:, 0].max() < 0.02 and mixed[:, 2].min() > 0.98
    with pytest.raises(InputError, match="No label of y is there in some rows"):
        mixture().fit(X, Y[:, [0, 2]])


def test_label_that_one_fold_lacks_keeps_out_of_fold_logits_finite():
    X, Y = make_labels()
    Y[:, 1] = 0
    Y[7, 1] = 1
    clf = mixture(alpha=None).fit(X, Y)
    assert np.abs(clf.oof_logits_).max() < 60
    # The fold that holds the only case out says about the overall frequency.
    assert expit(clf.oof_logits_[7, :, 1]).max() < 0.05


def test_an_expert_that_never_saw_a_label_says_its_overall_frequency():
    X, Y = make_labels(n=120)
    saw = (Y[:, 1] == 0) | (np.arange(120) % 2 == 1)
    saw &= (Y[:, 1] == 0) | (np.cumsum(Y[:, 1]) < 0)
    lost = X.copy()
    lost[~saw, :5] = np.nan
    clf = mixture(alpha=3.0, **PLAIN).fit(lost, Y)
    Z, rate = standard(X[saw][:, :5]), Y[:, 1].mean()

    def objective(flat):
        s = Z @ flat[:5] + flat[5]
        anchor = np.logaddexp(0, flat[5]) - rate * flat[5]
        return np.logaddexp(0, s).sum() + 1.5 * (flat[:5] ** 2).sum() + anchor

    best = minimize(objective, np.zeros(6), tol=1e-14).x
    np.testing.assert_allclose(clf.heads_[0].association_[1], best[:5], atol=1e-4)
    assert clf.heads_[0].intercept_[1] == pytest.approx(best[5], abs=1e-3)
    assert -8 < best[5] < logit(rate)


def test_folds_follow_groups_not_labels_and_need_no_order():
    X, Y = make_labels()
    order = np.argsort(Y[:, 0], kind="stable")
    groups = np.arange(160) // 4
    labels = LabelMatrix(Y[order].astype(float), np.ones(Y.shape))
    folds, reason = make_folds(None, 5, labels, np.ones(160), groups)
    assert reason is None and len(folds) == 5
    for fold, train in enumerate(folds.train):
        assert not set(groups[train]) & set(groups[folds.held_out == fold])
        assert ((labels.values[train].sum(0) > 0) & (labels.values[train].sum(0) < 160)).all()
    clf = mixture().fit(X[order], Y[order], groups=groups)
    assert clf.fallback_ is None


def test_sparse_frame_and_lists_are_the_same_indicator():
    X, Y = make_labels()
    plain = mixture().fit(X, Y)
    frame = pd.DataFrame(Y, columns=["mass", "nodule", "edema"])
    named = mixture().fit(X, frame)
    assert named.classes_.tolist() == ["mass", "nodule", "edema"]
    for clf in (named, mixture().fit(X, scipy.sparse.csr_matrix(Y)), mixture().fit(X, Y.tolist())):
        np.testing.assert_array_equal(clf.predict_proba(X), plain.predict_proba(X))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda Y: np.where(Y == 1, 2, 0), r"must hold 0 and 1 alone.*holds 2"),
        (lambda Y: np.where(np.arange(160)[:, None] == 3, np.nan, Y), r"NaN in 1 row\(s\): \[3\]"),
        (lambda Y: Y[:-1], "X has 160 rows and y has 159"),
        (lambda Y: Y.astype(str).astype(object) + "x", "must be an indicator"),
        (lambda Y: pd.DataFrame(Y, columns=["a", "b", "a"]), "distinct names"),
    ],
)
def test_indicators_that_are_none(change, message):
    X, Y = make_labels()
    with pytest.raises(InputError, match=message):
        mixture().fit(X, change(Y))


def test_the_published_association_is_refused_and_would_explode():
    X, Y = make_labels()
    with pytest.raises(InputError, match=r"activation='softmax' cannot learn an indicator"):
        ConceptBottleneckClassifier(activation="softmax").fit(X, Y)
    with pytest.raises(InputError, match=r"activation='softmax' cannot learn an indicator"):
        head = ConceptBottleneckClassifier(activation="softmax")
        GatedConceptBottleneckClassifier(head, experts=EXPERTS).fit(X, Y)
    # 100 x an average of cosines about 0.2 is a logit of 20 for every label of every row.
    p = Y.mean(0)
    guess = -(p * np.log(p) + (1 - p) * np.log(1 - p)).sum()
    start = (np.logaddexp(0, 100 * X.mean(1, keepdims=True)) - Y * 100 * X.mean(1)[:, None]).sum(1)
    assert start.mean() > 10 * guess


def test_contributions_sum_to_the_logits_of_all_labels():
    X, Y = make_labels()
    X[3, :5] = np.nan
    clf = mixture(guard=False).fit(X, Y)
    explanation = clf.explain(X[:6])
    for i, label in np.ndindex(6, 3):
        total = sum(part[i, :, label].sum() for part in explanation.contributions)
        total += explanation.bias[i, label]
        assert total == pytest.approx(clf.decision_function(X[:6])[i, label], abs=1e-10)


def test_searched_scored_and_saved_as_any_classifier(tmp_path):
    X, Y = make_labels()
    search = GridSearchCV(mixture(), {"head__alpha": [0.1, 10.0]}, cv=3, scoring="roc_auc")
    assert search.fit(X, Y).best_score_ > 0.7
    assert cross_val_score(mixture(), X, Y, cv=3, scoring="average_precision").min() > 0.5
    frame = pd.DataFrame(Y, columns=["mass", "nodule", "edema"])
    clf = mixture().fit(X, frame)
    save(clf, tmp_path / "model")
    again = load(tmp_path / "model")
    np.testing.assert_array_equal(again.predict_proba(X), clf.predict_proba(X))
    assert again.multilabel_ and again.classes_.tolist() == clf.classes_.tolist()


def test_prior_of_a_bank_speaks_for_its_label():
    rng = np.random.default_rng(0)
    texts, X = rng.normal(size=(6, 12)), rng.normal(size=(40, 12))
    features = ExpertFeatures.from_embeddings(
        {"clip": (X, texts, [f"c{i}" for i in range(6)])},
        incidence=np.repeat(np.eye(3), 2, axis=0),
        class_keys=["mass", "nodule", "edema"],
    )
    Y = pd.DataFrame(rng.integers(0, 2, (40, 3)), columns=["nodule", "edema", "mass"])
    clf = ConceptBottleneckClassifier(alpha=1e6).fit(features, Y)
    assert clf.prior_used_ == "class"
    for row, concepts in enumerate(([2, 3], [4, 5], [0, 1])):
        assert set(np.argsort(-clf.association_[row])[:2]) == set(concepts)
    with pytest.raises(InputError, match="match none of their keys"):
        ConceptBottleneckClassifier().fit(features, Y.to_numpy())
