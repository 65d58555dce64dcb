"""What a mixture with a head of another library can do; saving has a file of its own."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.callback import ScoringMonitor
from sklearn.ensemble import RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.model_selection import cross_val_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from skmoecbm import (
    ConceptBottleneckClassifier,
    GatedConceptBottleneckClassifier,
    evaluate,
    explain,
    tune_thresholds,
)
from skmoecbm.exceptions import InputError, SkmoecbmWarning
from tests.brute_force import make_table


def mixture(head, **settings):
    experts = [("words", slice(0, 4)), ("age", head, slice(4, 9))]
    return GatedConceptBottleneckClassifier(
        ConceptBottleneckClassifier(alpha=1.0), experts=experts, random_state=0, **settings
    )


HEADS = pytest.mark.parametrize(
    "head",
    [LogisticRegression(), RandomForestClassifier(20, random_state=0)],
    ids=["linear", "forest"],
)


@HEADS
def test_copies_predict_and_fit_the_same(head):
    X, y = make_table()
    clf = mixture(head).fit(X, y)
    again = clone(clf)
    assert not hasattr(again, "heads_")
    np.testing.assert_array_equal(again.fit(X, y).predict_proba(X), clf.predict_proba(X))
    revived = pickle.loads(pickle.dumps(clf))
    np.testing.assert_array_equal(revived.predict_proba(X), clf.predict_proba(X))
    assert not hasattr(head, "classes_")  # the user's own object is never fitted
    scores = cross_val_score(mixture(head), X, y, cv=3)
    assert scores.mean() > 0.8


@HEADS
def test_explanations_sum_also_at_other_class_frequencies(head):
    X, y = make_table()
    X[3, 4:] = np.nan
    settings = {"class_weight": {0: 3.0}, "guard": False, "gate": "uniform"}
    clf = mixture(head, **settings).fit(X, y)
    before = clf.predict_proba(X)
    trained = np.array([3, 1, 1]) / 5
    clf.set_params(target_prevalence="train")
    explanation = explain(clf, X[:8])
    total = sum(part.sum(axis=1) for part in explanation.contributions) + explanation.bias
    np.testing.assert_allclose(total, clf.decision_function(X[:8]), atol=1e-10)
    expected = before / trained
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(clf.predict_proba(X), expected, atol=1e-12)
    assert evaluate(clf, X, y, n_bootstrap=0)["accuracy"].value == clf.score(X, y)


@HEADS
def test_callbacks_see_its_tasks_and_can_score(head):
    X, y = make_table()
    monitor = ScoringMonitor(scoring="accuracy")
    clf = mixture(head).set_callbacks(monitor).fit(X, y)
    np.testing.assert_array_equal(clf.predict_proba(X), mixture(head).fit(X, y).predict_proba(X))
    scores = [row["accuracy"] for row in monitor.get_logs().data]
    assert scores == [pytest.approx(accuracy_score(y, clf.predict(X)))] * len(scores) != []


def test_labels_of_a_forest_are_tuned():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 9))
    Y = (X[:, [0, 4]] + X[:, [5, 1]] + rng.logistic(size=(200, 2)) > 1.5).astype(int)
    clf = mixture(RandomForestClassifier(20, random_state=0)).fit(X, Y)
    tuned = tune_thresholds(clf, X, Y, cv=3)
    assert ((tuned.thresholds_ > 0) & (tuned.thresholds_ < 0.5)).all()


def test_scores_of_pairs_are_no_logits_of_classes():
    X, y = make_table(n=90)
    for head in (
        SVC(decision_function_shape="ovo"),
        make_pipeline(StandardScaler(), SVC(decision_function_shape="ovo")),
    ):
        with pytest.raises(InputError, match="decision_function_shape='ovr'"):
            mixture(head).fit(X, y)
    clf = mixture(SVC(decision_function_shape="ovr")).fit(X, y)
    told = clf.classes_[clf.expert_logits(X)[:, 1].argmax(axis=1)]
    assert (told == SVC().fit(X[:, 4:], y).predict(X[:, 4:])).mean() > 0.95


def test_what_is_shown_for_a_head_that_is_not_linear_are_its_outputs():
    X, y = make_table(n=90, n_classes=2, sizes=(4, 1))
    experts = [("words", slice(0, 4)), ("age", RandomForestClassifier(20, random_state=0), [4])]
    clf = GatedConceptBottleneckClassifier(experts=experts, gate="uniform").fit(X, y)
    part = clf._additive_parts(X[:5])[1]
    np.testing.assert_array_equal(part.similarities, part.values)
    assert np.abs(part.similarities - X[:5, [4]]).max() > 0.1


def test_a_label_that_no_row_has_is_rare_to_every_head():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 9))
    Y = np.c_[(X[:, :2] > 0).astype(int), np.zeros(120, dtype=int)]
    for head in (
        OneVsRestClassifier(LogisticRegression()),
        RandomForestClassifier(20, random_state=0),
    ):
        with pytest.warns(SkmoecbmWarning, match="cannot be learned"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Label not 2", UserWarning)
            clf = mixture(head, guard=False, gate="uniform").fit(X, Y)
        p = 1 / (1 + np.exp(-clf.expert_logits(X)[:, 1, 2]))
        np.testing.assert_allclose(p, 0.5 / 121, atol=1e-9)


def test_weights_of_labels_are_refused_by_a_head_that_weighs_rows():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 9))
    Y = (X[:, :2] > 0.5).astype(int)
    with pytest.raises(InputError, match=r"class_weight counts labels.*head of expert 'age'"):
        mixture(OneVsRestClassifier(LogisticRegression()), class_weight="balanced").fit(X, Y)


def test_a_head_that_knows_column_names_gets_them_in_its_order():
    X, y = make_table(n=90)
    names = [f"words__{j}" for j in range(4)] + [f"c{j}" for j in range(5)]
    frame = pd.DataFrame(X, columns=names)
    turned = frame[names[:3:-1]]
    frozen = FrozenEstimator(LogisticRegression().fit(turned, y))
    experts = [("words", names[:4]), ("age", frozen, names[4:])]
    clf = GatedConceptBottleneckClassifier(experts=experts, gate="uniform")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clf.fit(frame, y)
        told = clf.expert_logits(frame)[:, 1]
    np.testing.assert_allclose(told, frozen.decision_function(turned), atol=1e-10)
    total = sum(part.sum(axis=1) for part in clf.explain(frame[:5]).contributions)
    total = total + clf.explain(frame[:5]).bias
    np.testing.assert_allclose(total, clf.decision_function(frame[:5]), atol=1e-10)
    other = frame.rename(columns={"c0": "weight"})
    clf.set_params(experts=[("words", names[:4]), ("age", frozen, ["weight", *names[5:]])])
    with pytest.raises(InputError, match=r"'age' was trained on columns \['c4'.*has \['weight'"):
        clf.fit(other, y)


def test_an_expert_whose_rows_are_all_of_one_class_is_told():
    X, y = make_table(n=90)
    X[y != 0, 4:] = np.nan
    with pytest.raises(InputError, match="'age' sees are of one class"):
        mixture(LogisticRegression()).fit(X, y)
