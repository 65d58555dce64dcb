import math

import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.metrics import balanced_accuracy_score, log_loss, mutual_info_score

from skmoecbm import ExpertUsageDisplay, GateDisplay, explain, global_explanation
from skmoecbm._gate_tests import permutation_test
from skmoecbm.exceptions import InputError
from skmoecbm.moe import MiniBatches, RoutingExplanation, SparseMoEClassifier
from skmoecbm.moe._routing_summary import mutual_information
from tests.moe.test_sparse import MODALITIES, regimes, three

ROUTERS = ["joint", "per_modality", "disjoint"]


def fitted(router="joint", **settings):
    X, y = three(240, 0, 0.3)
    training = MiniBatches(max_epochs=10, batch_size=32)
    settings = {"n_experts": 4, "expert_hidden": 8, "random_state": 0} | settings
    clf = SparseMoEClassifier(router=router, modalities=MODALITIES, training=training, **settings)
    return clf.fit(X, y)


@pytest.fixture(scope="module")
def rows():
    return three(200, 5, 0.3)


@pytest.fixture(scope="module", params=ROUTERS)
def clf(request):
    return fitted(request.param)


def test_rows_are_explained_by_whom_they_were_sent_to(clf, rows):
    X, _ = rows
    told = explain(clf, X)
    assert len(told) == 200 and np.array_equal(told.weights, clf.routing_weights(X))
    assert np.allclose(told.logits, clf.decision_function(X))
    assert np.array_equal(told.predicted, clf.predict(X))
    n_experts = 12 if clf.router == "disjoint" else 4
    assert told.expert_weights.shape == (200, n_experts) == told.present.shape
    assert np.allclose(told.expert_weights.sum(axis=1), 1.0)
    assert (told.expert_weights[~told.present] == 0).all()
    frame = told.to_frame()
    assert len(frame) == (told.weights > 0).sum() and set(frame.expert) <= set(told.expert_names)
    first = frame[frame.row == 3]
    assert first.weight.sum() == pytest.approx(told.weights[3].sum())
    if clf.router == "disjoint":
        assert all(e.startswith(r) for r, e in zip(frame.router, frame.expert, strict=True))
    assert "summary(y)" in repr(told)


def test_what_a_modality_does_is_the_decision_with_and_without_it(clf, rows):
    X, _ = rows
    told = clf.explain(X)
    for m, part in enumerate(MODALITIES.values()):
        masked = X.copy()
        masked[:, part] = np.nan
        left = ~np.isnan(masked).all(axis=1) & ~np.isnan(X[:, part]).any(axis=1)
        assert np.array_equal(np.isfinite(told.modality_effects[:, m]).all(axis=1), left)
        expected = clf.decision_function(X[left]) - clf.decision_function(masked[left])
        assert np.allclose(told.modality_effects[left, m], expected, atol=1e-12)


def test_without_an_expert_its_rows_go_to_the_next_best(clf, rows):
    X, y = rows
    found = clf.explain(X).summary(y, n_bootstrap=0, n_permutations=0)
    assert found.log_loss == pytest.approx(log_loss(y, clf.predict_proba(X)))
    assert found.balanced_accuracy == pytest.approx(balanced_accuracy_score(y, clf.predict(X)))
    weights, names = dict(clf.weights_), found.experts.expert.tolist()
    for e in (0, len(names) - 1):
        pool, own = divmod(e, 4)
        routers = [pool] if clf.router == "disjoint" else range(3)
        for r in routers:
            if f"routers.{r}.bias" in weights:
                # a bias so low that nobody is sent there: the model without the expert
                bias = weights[f"routers.{r}.bias"].copy()
                bias[own] -= 1e6
                clf.weights_[f"routers.{r}.bias"] = bias
        logits = clf.decision_function(X)
        clf.weights_ = dict(weights)
        expected = -log_softmax(logits, axis=1)[np.arange(len(y)), y].mean()
        line = found.experts.iloc[e]
        assert line.log_loss == pytest.approx(expected)
        assert line.loss_increase == pytest.approx(expected - found.log_loss)
        assert line.balanced_accuracy == pytest.approx(
            balanced_accuracy_score(y, logits.argmax(axis=1))
        )


def test_without_its_only_expert_the_linear_part_is_left(rows):
    X, y = rows
    clf = fitted(n_experts=1, top_k=1)
    found = clf.explain(X).summary(y, n_bootstrap=0, n_permutations=0)
    clf.weights_ = {n: 0 * v if n.startswith("pools") else v for n, v in clf.weights_.items()}
    assert found.experts.log_loss[0] == pytest.approx(log_loss(y, clf.predict_proba(X)))


def test_a_modality_is_missed_by_what_the_loss_grows(clf, rows):
    X, y = rows
    found = clf.explain(X).summary(y, n_bootstrap=200, n_permutations=0, random_state=0)
    there = ~np.isnan(X.reshape(200, 3, 5)).any(axis=2)
    for m, line in enumerate(found.modalities.itertuples()):
        told = there[:, m] & (there.sum(axis=1) > 1)
        masked = X[told].copy()
        masked[:, 5 * m : 5 * m + 5] = np.nan
        before = log_loss(y[told], clf.predict_proba(X[told]), labels=[0, 1, 2])
        after = log_loss(y[told], clf.predict_proba(masked), labels=[0, 1, 2])
        assert line.support == told.sum() and line.modality == list(MODALITIES)[m]
        assert line.loss_increase == pytest.approx(after - before)
        assert line.low < line.loss_increase < line.high


def test_mutual_information_is_scikit_learns_where_each_row_has_one_expert():
    rng = np.random.default_rng(0)
    labels, experts = rng.integers(0, 3, 200), rng.integers(0, 5, 200)
    found = mutual_information(np.eye(5)[experts], np.eye(3)[labels])
    assert found == pytest.approx(mutual_info_score(labels, experts))
    assert mutual_information(np.eye(3), np.eye(3)) == pytest.approx(math.log(3))
    assert mutual_information(np.full((4, 2), 0.5), np.eye(4)) == pytest.approx(0.0)


@pytest.fixture(scope="module")
def marked():
    """A mixture of which the router follows a mark, and rows whose labels are that mark."""
    X, _, _, regime = regimes(1500, 0)
    training = MiniBatches(max_epochs=3)
    settings = {"n_experts": 4, "top_k": 1, "expert_hidden": 8, "random_state": 0}
    labels = np.array(["a", "b", "c", "d"])[regime]
    return SparseMoEClassifier(training=training, **settings).fit(X, labels), X[:300], labels[:300]


def test_routing_by_class_is_found_where_it_is_planted(marked):
    clf, X, labels = marked
    found = global_explanation(clf, X, labels, n_permutations=200, random_state=0)
    assert found.p_overall <= 0.01 and max(found.class_p_values.values()) <= 0.01
    assert found.mutual_information > 0.8 > 0.1 > found.mutual_information_null
    assert found.mutual_information_p <= 0.01
    shares = clf.explain(X).expert_weights
    for label in found.supports:
        expected = shares[labels == label].mean(axis=0)
        assert np.allclose(found.heat_map.loc[label], expected)
    assert "differs by class" in repr(found) and "*" in repr(found)


def test_labels_that_routing_does_not_know_are_rarely_called_its_own(marked):
    clf, X, _ = marked
    rng = np.random.default_rng(3)
    told = clf.explain(X)
    p = [
        [one.p_overall, one.mutual_information_p]
        for one in (
            told.summary(
                rng.choice(["a", "b", "c", "d"], 300),
                n_bootstrap=0,
                n_permutations=59,
                random_state=i,
            )
            for i in range(40)
        )
    ]
    # 40 draws of a uniform p: 8 or more below .05 has a chance of 1 in 4,000
    assert ((np.array(p) <= 0.05).sum(axis=0) <= 7).all()
    assert "does not clearly differ" in repr(
        told.summary(rng.choice(["a", "b"], 300), n_bootstrap=0, random_state=0)
    )


def test_a_third_of_five_rows_at_one_expert_is_what_chance_makes_of_most_classes():
    # Eight experts, nothing learned: the expert that most of a class's 5 rows prefer has 2 of them
    # or more, which is above 35 %, unless all 5 prefer different ones.
    by_count = 1 - math.perm(8, 5) / 8**5
    assert by_count == pytest.approx(0.795, abs=1e-3)
    rng = np.random.default_rng(0)
    is_class = np.repeat(np.eye(20, dtype=bool), 5, axis=0)
    passed, alarms, of_class = [], [], []
    for _ in range(40):
        shares = np.eye(8)[rng.integers(0, 8, 100)]
        passed.append((shares.reshape(20, 5, 8).mean(axis=1).max(axis=1) >= 0.35).mean())
        everywhere = np.ones(shares.shape, dtype=bool)
        found = permutation_test(shares, everywhere, is_class, np.arange(100), 99, rng)
        alarms.append(found["p_overall"] <= 0.05)
        of_class.append((found["p_adjusted"].min(axis=1) <= 0.05).mean())
    assert np.mean(passed) == pytest.approx(by_count, abs=0.05)
    assert np.sum(alarms) <= 7 and np.mean(of_class) < 0.02


def test_missing_modalities_do_not_pass_for_routing_by_class():
    # the class decides which modality is missing, and routing goes by nothing but that
    y = np.random.default_rng(0).integers(0, 3, 300)
    gone = np.random.default_rng(1).random(300) < np.where(y == 0, 0.8, 0.1)
    given = (np.eye(2)[gone.astype(int)], np.ones((300, 2), bool), y[:, None] == np.arange(3))
    for strata, alarmed in ((None, True), (gone[:, None], False)):
        rng = np.random.RandomState(0)
        found = permutation_test(*given, np.arange(300), 99, rng, strata=strata)
        assert (found["p_overall"] <= 0.05) is alarmed


def test_predicted_classes_stand_in_for_labels_and_it_is_told(clf, rows):
    X, _ = rows
    found = clf.explain(X).summary(n_bootstrap=0, n_permutations=20, random_state=0)
    assert found.by_predicted and found.experts is None and np.isnan(found.log_loss)
    assert "partly circular" in repr(found)


def test_two_classes_and_several_labels():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((150, 6))
    y = (X[:, :3] > 0).astype(int)
    training = MiniBatches(max_epochs=3)
    settings = {"n_experts": 3, "expert_hidden": 4, "training": training, "random_state": 0}
    many = SparseMoEClassifier(**settings).fit(X, y)
    found = many.explain(X).summary(y, n_bootstrap=20, n_permutations=20, random_state=0)
    losses = [log_loss(y[:, k], many.predict_proba(X)[:, k]) for k in range(3)]
    assert found.log_loss == pytest.approx(np.mean(losses))
    recalls = [balanced_accuracy_score(y[:, k], many.predict(X)[:, k]) for k in range(3)]
    assert found.balanced_accuracy == pytest.approx(np.mean(recalls))
    two = SparseMoEClassifier(**settings).fit(X, y[:, 0])
    told = two.explain(X)
    assert told.logits.shape == (150, 1) and told.columns == [1]
    found = told.summary(y[:, 0], n_bootstrap=0, n_permutations=0)
    assert found.log_loss == pytest.approx(log_loss(y[:, 0], two.predict_proba(X)))
    assert found.modalities is None and "nothing tells these shares from chance" in repr(found)


def test_the_picture_shows_routing_with_its_null(marked):
    clf, X, labels = marked
    display = ExpertUsageDisplay.from_estimator(clf, X, labels, n_permutations=100, random_state=0)
    title = display.ax_.get_title("right")
    assert "differs by class: p = " in title and "by chance" in title
    assert any(text.get_text().endswith("*") for text in display.texts_)
    none = ExpertUsageDisplay.from_estimator(clf, X, labels, n_permutations=0)
    assert "not compared with exchanged labels" in none.ax_.get_title("right")
    gate = GateDisplay.from_estimator(clf, X, labels)
    assert gate.supports_ == [int((labels == c).sum()) for c in "abcd"]


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda clf, X, y: clf.explain(X).summary(y[:3]), "one label per row"),
        (lambda clf, X, y: clf.explain(X).summary(y, n_permutations=-1), "n_permutations"),
        (lambda clf, X, y: clf.explain(X).summary(np.full(len(y), 9)), "does not know"),
        (lambda clf, X, y: clf.explain(X).summary(y, confidence=2), "confidence"),
    ],
)
def test_wrong_questions_are_told(rows, call, told):
    with pytest.raises(InputError, match=told):
        call(fitted(), *rows)


def routed(weights, y, missing=None):
    """Return an explanation of rows that were sent somewhere, of which y is what is predicted.

    Of one router that sees all of two modalities, so that all experts could always be chosen.
    """
    n, n_classes = len(y), int(max(y)) + 1
    there = np.ones((n, 2), dtype=bool)
    there[:, 1] = True if missing is None else ~missing
    return RoutingExplanation(
        classes=np.arange(n_classes),
        router_names=["all"],
        expert_names=[f"expert {e}" for e in range(weights.shape[1])],
        modality_names=["image", "text"],
        weights=weights[:, None],
        expert_weights=weights,
        present=np.ones(weights.shape, dtype=bool),
        modality_present=there,
        modality_effects=np.full((n, 2, n_classes), np.nan),
        expert_parts=np.zeros((n, weights.shape[1], n_classes)),
        modality_parts=np.zeros((n, 2, n_classes)),
        constant=np.eye(n_classes)[y],
        logits=np.eye(n_classes)[y],
        probabilities=np.eye(n_classes)[y],
    )


def test_a_summary_exchanges_labels_among_rows_that_lack_the_same_modalities():
    # the class decides which modality is missing, and routing goes by nothing but that
    y = np.random.default_rng(0).integers(0, 3, 300)
    missing = np.random.default_rng(1).random(300) < np.where(y == 0, 0.8, 0.1)
    sent = np.eye(2)[missing.astype(int)]
    settings = {"n_bootstrap": 0, "n_permutations": 199, "random_state": 0}
    found = routed(sent, y, missing).summary(**settings)
    assert found.p_overall > 0.05 and found.mutual_information_p > 0.05
    blind = routed(sent, y).summary(**settings)
    assert blind.p_overall <= 0.01 and blind.mutual_information_p <= 0.01
    # and of rows that are alone in what they lack no label can be exchanged
    alone = np.arange(300) == 7
    assert routed(sent, y, alone).summary(**settings).exchanged == pytest.approx(299 / 300)


def test_a_lesion_with_ten_images_is_as_much_evidence_as_one_image():
    rng = np.random.default_rng(2)
    y, sent = rng.integers(0, 3, 30), np.eye(4)[rng.integers(0, 4, 30)]
    settings = {"n_bootstrap": 60, "n_permutations": 199, "random_state": 0}
    once = routed(sent, y).summary(**settings)
    groups = np.repeat([f"lesion {i:02}" for i in range(30)], 10)
    often = routed(np.repeat(sent, 10, axis=0), np.repeat(y, 10))
    found = often.summary(groups=groups, **settings)
    assert found.n_groups == 30 and found.p_overall == once.p_overall > 0.05
    assert found.mutual_information_p == once.mutual_information_p
    for name in ("weight", "low", "high", "difference", "p_value", "p_adjusted"):
        assert np.allclose(found.usage[name], once.usage[name]), name
    assert often.summary(**settings).p_overall < 0.05  # what ten copies of each row would say
