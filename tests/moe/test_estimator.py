"""`SparseMoEClassifier` as an estimator of scikit-learn's: checks, weights, labels, callbacks."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from skmoecbm.exceptions import InputError, SkmoecbmWarning
from skmoecbm.moe import Balancing, MiniBatches, SparseMoEClassifier
from tests.moe.test_sparse import MODALITIES, small, three
from tests.test_callbacks import Recorder

# A weight scales a row's loss, a second copy also changes which rows share a batch.
STOCHASTIC = {
    "check_sample_weight_equivalence_on_dense_data": "mini-batches are drawn by row, not by weight"
}


@parametrize_with_checks(
    [
        SparseMoEClassifier(n_experts=3, expert_hidden=16, training=MiniBatches(max_epochs=4)),
        SparseMoEClassifier(
            n_experts=2,
            top_k=1,
            expert_hidden=8,
            gating="laplace",
            noise=True,
            training=MiniBatches(max_epochs=2, early_stopping=False),
        ),
    ],
    expected_failed_checks=lambda estimator: STOCHASTIC,
)
@pytest.mark.filterwarnings("ignore:X is a plain array:skmoecbm.exceptions.SkmoecbmWarning")
def test_scikit_learn_estimator_checks(estimator, check):
    check(estimator)


def one_batch(**settings):
    """One expert, all rows in one batch: nothing is left to chance but the first weights."""
    training = MiniBatches(max_epochs=5, batch_size=10_000, early_stopping=False)
    return small(n_experts=1, top_k=1, training=training, **settings)


@pytest.mark.parametrize("many", [False, True])
def test_a_weight_of_two_is_the_row_twice(many):
    X, y = three(120, 0)
    y = np.c_[y == 0, y == 1].astype(int) if many else y
    weight = 1.0 + (np.arange(120) % 3 == 0)
    rows = np.repeat(np.arange(120), weight.astype(int))
    one = one_batch().fit(X, y, sample_weight=weight)
    other = one_batch().fit(X[rows], y[rows])
    assert np.allclose(one.predict_proba(X), other.predict_proba(X), atol=1e-7)
    plain = one_batch().fit(X, y)
    assert not np.allclose(one.predict_proba(X), plain.predict_proba(X), atol=1e-3)


def test_silent_experts_leave_the_logistic_regression_that_it_begins_as():
    X, y = three(200, 0)
    training = MiniBatches(max_epochs=1, learning_rate=1e-12, weight_decay=0, early_stopping=False)
    clf = small(training=training).fit(X, y)
    linear = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, tol=1e-8, max_iter=1000))
    assert np.allclose(clf.predict_proba(X), linear.fit(X, y).predict_proba(X), atol=1e-4)
    weight = np.random.default_rng(0).integers(1, 4, 200).astype(float)
    scaled = StandardScaler().fit(X, sample_weight=weight)
    linear = LogisticRegression(C=1.0, tol=1e-8, max_iter=1000)
    linear.fit(scaled.transform(X), y, sample_weight=weight)
    clf.fit(X, y, sample_weight=weight)
    assert np.allclose(clf.predict_proba(X), linear.predict_proba(scaled.transform(X)), atol=1e-4)


def test_random_state_alone_is_chance():
    X, y = three(100, 0, 0.3)
    clf = small(modalities=MODALITIES, noise=True)
    one, other = clf.fit(X, y).predict_proba(X), clone(clf).fit(X, y).predict_proba(X)
    assert np.array_equal(one, other)
    assert not np.array_equal(one, clf.set_params(random_state=1).fit(X, y).predict_proba(X))


def test_a_label_that_all_rows_have_and_cells_that_are_missing():
    X, y = three(150, 0)
    labels = np.c_[y == 0, np.ones(150)].astype(int)
    with pytest.warns(SkmoecbmWarning, match="every row has it"):
        clf = small().fit(X, labels)
    assert (clf.predict_proba(X)[:, 1] > 0.9).all()
    with pytest.raises(InputError, match="NaN in 1 row"):
        small().fit(X, np.where(np.arange(150)[:, None] == 3, np.nan, labels))


def test_class_weights_of_labels_move_their_decision():
    X, y = three(300, 0)
    rare = np.c_[(y == 0) & (np.arange(300) % 4 == 0), y == 1].astype(int)
    said = [
        small(class_weight=weight).fit(X, rare).predict(X)[:, 0].mean()
        for weight in (None, "balanced")
    ]
    assert said[1] > said[0]


def test_a_search_over_objects_within():
    X, y = three(120, 0, 0.3)
    clf = small(modalities=MODALITIES, balancing=Balancing(), training=MiniBatches(max_epochs=3))
    grid = {"balancing__weight": [0.0, 0.1], "router": ["joint", "disjoint"]}
    search = GridSearchCV(clf, grid, cv=2, scoring="neg_log_loss").fit(X, y)
    assert set(search.best_params_) == set(grid)
    assert search.predict_proba(X).shape == (120, 3)


def test_groups_reach_it_through_a_pipeline():
    X, y = three(120, 0)
    model = make_pipeline(StandardScaler(), small(training=MiniBatches(max_epochs=2)))
    model.fit(X, y, sparsemoeclassifier__groups=np.arange(120) // 3)
    assert model[-1].training_summary_["n_groups"] == 40


def test_each_epoch_is_a_task_for_callbacks():
    X, y = three(100, 0)
    recorder = Recorder()
    training = MiniBatches(max_epochs=3, early_stopping=False)
    small(training=training).set_callbacks(recorder).fit(X, y)
    assert recorder.begun[1:] == [recorder.begun[0] + (f"epoch {e}",) for e in (1, 2, 3)]
    assert sorted(recorder.ended) == sorted(recorder.begun)


def test_scikit_learns_own_callbacks(capsys, monkeypatch):
    pytest.importorskip("rich")
    monkeypatch.setenv("COLUMNS", "250")  # a narrow screen cuts the names
    X, y = three(100, 0)
    plain = small().fit(X, y).predict_proba(X)
    monitor = ScoringMonitor(scoring="accuracy")
    clf = small().set_callbacks(ProgressBar(max_propagation_depth=None), monitor).fit(X, y)
    assert np.array_equal(clf.predict_proba(X), plain)
    shown = capsys.readouterr().out
    assert "SparseMoEClassifier" in shown and "100%" in shown
    (row,) = monitor.get_logs().data
    assert row["accuracy"] == pytest.approx(accuracy_score(y, clf.predict(X)))
