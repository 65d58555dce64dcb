"""Experts that learn again from the rows that a gate says are theirs."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.neighbors import KNeighborsClassifier

from skmoecbm import (
    ConceptBottleneckClassifier,
    GatedConceptBottleneckClassifier,
    InputError,
    JointTraining,
    LinearGate,
    MLPGate,
    load,
    save,
)
from skmoecbm._calibration import fit_inverse_temperature
from tests.brute_force import losses, make_table

EXPERTS = [("a", slice(0, 10)), ("b", slice(10, 20))]


def _table(n=400, seed=0):
    """Return X (n, 20) and y: each of two experts sees the class in half of the rows, else noise.

    Its last two columns show which rows are its own.
    """
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(2, 4, 10))
    y, seer = rng.integers(0, 4, n), rng.integers(0, 2, n)
    blocks = []
    for e in range(2):
        own = seer == e
        values = 1.5 * rng.normal(size=(n, 10)) + own[:, None] * centres[e, y]
        values[:, -2:] = np.where(own[:, None], 3.0, -3.0) + rng.normal(size=(n, 2))
        blocks.append(values)
    return np.concatenate(blocks, axis=1), y


def _mixture(**settings):
    return GatedConceptBottleneckClassifier(**{"experts": EXPERTS, **settings})


@pytest.fixture(scope="module")
def models():
    """Return rows, and the mixtures with and without specialists."""
    X, y = _table()
    return X, y, _mixture().fit(X, y), _mixture(specialize=False).fit(X, y)


def test_specialists_are_the_experts_weighted_by_the_gate(models):
    X, y, clf, plain = models
    assert clf.specialized_ and clf.selected_ == "linear" and not plain.specialized_
    trust = plain.gate_weights(X)
    for e, (_, columns) in enumerate(EXPERTS):
        alone = ConceptBottleneckClassifier(alpha=clf.alpha_, prior=None, tol=1e-8)
        alone.fit(X[:, columns], y, sample_weight=2 * trust[:, e])
        for name in ("association_", "intercept_", "mean_", "scale_"):
            found, expected = getattr(clf.heads_[e], name), getattr(alone, name)
            np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=name)
            assert np.abs(found - getattr(plain.heads_[e], name)).max() > 1e-2, name


def test_their_out_of_fold_logits_are_those_of_fits_without_the_fold(models):
    X, y, _, _ = models
    fold = np.arange(len(y)) % 4
    splits = [(np.flatnonzero(fold != f), np.flatnonzero(fold == f)) for f in range(4)]
    head = ConceptBottleneckClassifier(alpha=1.0, prior=None)
    clf = _mixture(head=head, cv=splits).fit(X, y)
    plain = _mixture(head=head, cv=splits, specialize=False).fit(X, y)
    assert clf.specialized_
    trust = plain.gate_weights(X)
    for e, (_, columns) in enumerate(EXPERTS):
        for train, test in splits:
            alone = clone(head).set_params(tol=1e-8)
            alone.fit(X[train][:, columns], y[train], sample_weight=2 * trust[train, e])
            told = clf.oof_logits_[test, e]
            expected = alone.decision_function(X[test][:, columns])
            centre = expected.mean(axis=1, keepdims=True) - told.mean(axis=1, keepdims=True)
            np.testing.assert_allclose(told + centre, expected, atol=1e-4)


def test_their_alpha_is_chosen_anew_by_the_average_that_the_gate_makes(models):
    X, y, _, _ = models
    fold = np.arange(len(y)) % 2
    splits = [(np.flatnonzero(fold != f), np.flatnonzero(fold == f)) for f in range(2)]
    clf, plain = _mixture(cv=splits).fit(X, y), _mixture(cv=splits, specialize=False).fit(X, y)
    assert clf.specialized_ and abs(np.log(clf.alpha_ / plain.alpha_)) > 0.1
    assert clf.heads_[0].alpha_ == clf.heads_[1].alpha_ == clf.alpha_
    trust, ones = plain.gate_weights(X), np.ones(len(y))
    for alpha, told in zip(clf.alpha_path_["alpha"], clf.alpha_path_["log_loss"], strict=True):
        logits = np.zeros((len(y), 2, 4))
        for e, (_, columns) in enumerate(EXPERTS):
            for train, test in splits:
                alone = ConceptBottleneckClassifier(alpha=alpha, prior=None)
                alone.fit(X[train][:, columns], y[train], sample_weight=2 * trust[train, e])
                logits[test, e] = alone.decision_function(X[test][:, columns])
            logits[:, e] *= fit_inverse_temperature(logits[:, e], y, ones)
        mixed = np.einsum("ne,nek->nk", trust, logits)
        mixed *= fit_inverse_temperature(mixed, y, ones)
        assert losses(mixed, y).mean() == pytest.approx(told, abs=2e-3)


def test_specialists_predict_new_rows_better(models):
    _, _, clf, plain = models
    gains = []
    for seed in range(1, 4):
        X, y = _table(n=1000, seed=seed)
        gains.append(losses(plain.decision_function(X), y) - losses(clf.decision_function(X), y))
    gains = np.concatenate(gains)
    assert gains.mean() > 3 * gains.std() / np.sqrt(len(gains))
    assert gains.mean() > 0.02


def test_experts_that_are_alike_stay_as_they_are():
    X, y = make_table(n=150)
    experts = [("a", slice(0, 4)), ("b", slice(4, 9))]
    clf = _mixture(experts=experts).fit(X, y)
    assert not clf.specialized_
    other = _mixture(experts=experts, specialize=False).fit(X, y)
    np.testing.assert_array_equal(clf.predict_proba(X), other.predict_proba(X))


def test_specialists_that_gain_next_to_nothing_are_left():
    """The gate stays; both experts read every row well enough to learn from all of them."""
    rng = np.random.default_rng(0)
    y, seer = rng.integers(0, 2, 400), rng.integers(0, 2, 400)
    X = rng.normal(size=(400, 5))
    for e, column in enumerate((0, 3)):
        X[:, column] += (2 * y - 1) * np.where(seer == e, 2.0, 0.5)
    X[:, 2] = np.where(seer == 0, 3.0, -3.0) + 0.3 * rng.normal(size=400)
    head = ConceptBottleneckClassifier(alpha=1.0)
    experts = [("a", slice(0, 3)), ("b", slice(3, 5))]
    clf = _mixture(head=head, experts=experts).fit(X, y)
    assert clf.selected_ == "linear" and not clf.specialized_
    other = _mixture(head=head, experts=experts, specialize=False).fit(X, y)
    np.testing.assert_array_equal(clf.predict_proba(X), other.predict_proba(X))


def test_without_the_guard_no_expert_is_fitted_again(models):
    X, y, _, _ = models
    clf = _mixture(guard=False).fit(X, y)
    assert not clf.specialized_
    other = _mixture(guard=False, specialize=False).fit(X, y)
    np.testing.assert_array_equal(clf.predict_proba(X), other.predict_proba(X))


def test_a_gate_on_disagreement_sees_what_the_specialists_say(models):
    X, y, _, _ = models
    clf = _mixture(gate_input="disagreement").fit(X, y)
    assert clf.specialized_, "else this test says nothing"
    # A gate that was fitted on what the former experts said would have other temperatures.
    for e in range(2):
        tau = fit_inverse_temperature(clf.oof_logits_[:, e], y, np.ones(len(y)))
        assert clf.gate_input_state_["inverse_temperature"][e] == pytest.approx(tau, rel=1e-9)
    plain = clone(clf).set_params(specialize=False).fit(X, y)
    taus = [m.gate_input_state_["inverse_temperature"] for m in (clf, plain)]
    assert np.abs(np.subtract(*taus)).max() > 1e-3


def test_order_of_experts_does_not_matter(models):
    X, y, clf, _ = models
    turned = _mixture(experts=EXPERTS[::-1]).fit(X, y)
    np.testing.assert_allclose(turned.predict_proba(X), clf.predict_proba(X), atol=1e-6)


def test_a_row_of_weight_two_is_the_row_twice(models):
    X, y, _, _ = models
    fold = np.arange(400) % 2
    counts = np.random.default_rng(0).integers(1, 3, 400)
    rows = np.repeat(np.arange(400), counts)
    splits = [(np.flatnonzero(fold != f), np.flatnonzero(fold == f)) for f in range(2)]
    twice = [(np.flatnonzero(fold[rows] != f), np.flatnonzero(fold[rows] == f)) for f in range(2)]
    weighted = _mixture(cv=splits).fit(X, y, sample_weight=counts)
    repeated = _mixture(cv=twice).fit(X[rows], y[rows])
    assert weighted.specialized_ and repeated.specialized_
    np.testing.assert_allclose(weighted.predict_proba(X), repeated.predict_proba(X), atol=1e-6)


def test_an_expert_without_rows_of_its_own_stays(models):
    X, y, _, _ = models
    for gate in (LinearGate(top_k=1), LinearGate(top_k=1, penalty=0.1)):
        clf = _mixture(gate=gate).fit(X, y)
        assert np.isfinite(clf.predict_proba(X)).all()
    rng = np.random.default_rng(0)
    noise = np.c_[X[:, :10], rng.normal(size=(len(y), 10))]
    assert np.isfinite(_mixture(gate=LinearGate(top_k=1)).fit(noise, y).predict_proba(X)).all()


def test_heads_that_take_no_weights_or_are_frozen_stay(models):
    X, y, _, _ = models
    frozen = LogisticRegression().fit(X[:, 10:], y)
    for own in (KNeighborsClassifier(25), FrozenEstimator(frozen)):
        clf = _mixture(experts=[EXPERTS[0], ("b", own, slice(10, 20))]).fit(X, y)
        plain = clone(clf).set_params(specialize=False).fit(X, y)
        told = [m.expert_logits(X)[:, 1] for m in (clf, plain)]
        np.testing.assert_array_equal(*told)
    own = LogisticRegression()
    clf = _mixture(experts=[EXPERTS[0], ("b", own, slice(10, 20))]).fit(X, y)
    plain = clone(clf).set_params(specialize=False).fit(X, y)
    assert clf.specialized_
    alone = clone(own).fit(X[:, 10:], y, sample_weight=2 * plain.gate_weights(X)[:, 1])
    np.testing.assert_allclose(clf.heads_[1].estimator.coef_, alone.coef_, atol=1e-6)


def test_specialists_are_saved_and_explained(models, tmp_path):
    X, _, clf, _ = models
    save(clf, tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.specialized_
    np.testing.assert_array_equal(again.predict_proba(X), clf.predict_proba(X))
    explanation = clf.explain(X[:5])
    total = sum(part.sum(axis=1) for part in explanation.contributions) + explanation.bias
    np.testing.assert_allclose(total, clf.decision_function(X[:5]), atol=1e-10)


def test_another_value_is_refused():
    X, y = make_table(n=30)
    with pytest.raises(InputError, match=r"'specialize' parameter of .* must be True or False"):
        GatedConceptBottleneckClassifier(specialize="yes").fit(X, y)


def test_a_specialist_without_a_row_of_a_class_keeps_a_floor_for_it():
    """A gate that parts the classes: an expert never sees one, yet must not rule it out."""
    rng = np.random.default_rng(0)
    site = np.arange(400) % 2
    y = np.where(site == 0, rng.integers(0, 2, 400), rng.integers(1, 3, 400))
    centres = rng.normal(size=(2, 3, 6))
    shown = np.stack([np.where(site == e, y, rng.integers(0, 3, 400)) for e in range(2)])
    blocks = [centres[e][shown[e]] + 0.7 * rng.normal(size=(400, 6)) for e in range(2)]
    X = np.c_[blocks[0], blocks[1], site]
    experts = [("a", slice(0, 6)), ("b", slice(6, 12))]
    gate = LinearGate(top_k=1, penalty=1.0)
    clf = _mixture(experts=experts, gate=gate, gate_input=[12]).fit(X, y)
    assert clf.specialized_
    trust = clf.gate_weights(X)
    lacking = [set(range(3)) - set(y[trust[:, e] > 0]) for e in range(2)]
    assert any(lacking), "else this test says nothing"
    for head in clf.heads_:
        assert np.abs(head.intercept_).max() < 10


def test_joint_training_refuses_a_concept_head_that_differs(models):
    X, y, _, _ = models
    training = JointTraining(max_epochs=2)
    own = [("a", ConceptBottleneckClassifier(activation="softmax"), slice(0, 10)), EXPERTS[1]]
    with pytest.raises(InputError, match=r"'a' has a head of its own that differs"):
        _mixture(experts=own, training=training).fit(X, y)
    own = [("a", ConceptBottleneckClassifier(prior=None), slice(0, 10)), EXPERTS[1]]
    _mixture(experts=own, training=training).fit(X, y)


def test_an_mlp_gate_does_not_care_for_the_order_of_the_experts(models):
    X, y, _, _ = models
    for training in ("staged", JointTraining(max_epochs=4, gate_warmup=1)):
        found = []
        for experts in (EXPERTS, EXPERTS[::-1]):
            clf = _mixture(
                experts=experts,
                gate=MLPGate(),
                gate_input="similarities",
                guard=False,
                training=training,
                random_state=0,
            )
            found.append(clf.fit(X, y).predict_proba(X))
        np.testing.assert_allclose(*found, atol=1e-6)


def test_alpha_beside_a_foreign_head_is_that_of_the_rows_of_the_concepts(models):
    X, y, _, _ = models
    experts = [EXPERTS[0], ("b", LogisticRegression(), slice(10, 20))]
    fold = np.arange(len(y)) % 2
    splits = [(np.flatnonzero(fold != f), np.flatnonzero(fold == f)) for f in range(2)]
    clf = _mixture(experts=experts, cv=splits).fit(X, y)
    plain = clone(clf).set_params(specialize=False).fit(X, y)
    assert clf.specialized_
    own = plain.gate_weights(X)[:, 0]
    for alpha, told in zip(clf.alpha_path_["alpha"], clf.alpha_path_["log_loss"], strict=True):
        logits = np.zeros((len(y), 4))
        for train, test in splits:
            alone = ConceptBottleneckClassifier(alpha=alpha, prior=None)
            alone.fit(X[train][:, :10], y[train], sample_weight=2 * own[train])
            logits[test] = alone.decision_function(X[test][:, :10])
        for _ in range(2):  # the expert's scale, then that of the average of one
            logits *= fit_inverse_temperature(logits, y, 2 * own)
        assert losses(logits, y) @ own / own.sum() == pytest.approx(told, abs=2e-3)


@pytest.mark.parametrize("seed", range(3))
def test_an_expert_alone_that_knows_nothing_is_not_sure(seed):
    """Nobody calibrates it afterwards, so alpha must be chosen by what it really says."""
    rng = np.random.default_rng(seed)
    X, y = rng.normal(size=(64, 40)), np.arange(64) % 4
    new, labels = rng.normal(size=(400, 40)), rng.integers(0, 4, 400)
    alone = ConceptBottleneckClassifier().fit(X, y)
    assert log_loss(labels, alone.predict_proba(new)) < np.log(4) + 0.05
    mixture = GatedConceptBottleneckClassifier(experts=[("only", slice(None))]).fit(X, y)
    assert mixture.alpha_ == alone.alpha_
