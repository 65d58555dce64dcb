"""scikit-learn's callbacks on both classifiers: alone, in a pipeline, in a search."""

import numpy as np
import pytest
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from skmoecbm import ConceptBottleneckClassifier, GatedConceptBottleneckClassifier
from tests.brute_force import make_table

EXPERTS = [("clip", slice(0, 4)), ("bio", slice(4, 9))]


class Recorder:
    """Writes down every task that begins and ends, with the names of its parents."""

    def __init__(self):
        self.begun, self.ended, self.models = [], [], {}

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        self.begun.append(self._path(context))

    def on_fit_task_end(self, estimator, context, *, X=None, y=None, fitted_estimator=None):
        path = self._path(context)
        self.ended.append(path)
        if fitted_estimator is not None:
            self.models[path] = (fitted_estimator, X, y)

    @staticmethod
    def _path(context):
        names = []
        while context is not None:
            names.append(context.task_name)
            context = context.parent
        return tuple(reversed(names))


def _estimators():
    head = ConceptBottleneckClassifier(alpha=1.0)
    return {
        "single": ConceptBottleneckClassifier(cv=2),
        "gated": GatedConceptBottleneckClassifier(head, experts=EXPERTS, cv=2),
    }


@pytest.fixture(params=["single", "gated"])
def estimator(request):
    return _estimators()[request.param]


@pytest.fixture(scope="module")
def table():
    return make_table(n=60)


def test_tasks_are_alpha_experts_by_fold_gate_and_refit(table):
    recorder = Recorder()
    clf = _estimators()["gated"].set_callbacks(recorder).fit(*table)
    root = recorder.begun[0]
    assert len(root) == 1
    expected = [
        ("alpha",),
        ("expert clip",),
        ("expert clip", "all rows"),
        ("expert clip", "fold 0"),
        ("expert clip", "fold 1"),
        ("expert bio",),
        ("expert bio", "all rows"),
        ("expert bio", "fold 0"),
        ("expert bio", "fold 1"),
        ("gate",),
    ]
    assert [path[1:] for path in recorder.begun[1:]] == expected
    assert sorted(recorder.ended) == sorted(recorder.begun), "what begins also ends"
    assert recorder.ended[-1] == root
    X, y = table
    for model, seen, labels in recorder.models.values():
        np.testing.assert_array_equal(model.predict_proba(X), clf.predict_proba(X))
        assert seen is X and labels is y
    assert root in recorder.models and (*root, "gate") in recorder.models

    single = Recorder()
    fitted = _estimators()["single"].set_callbacks(single).fit(*table)
    assert [path[1:] for path in single.begun[1:]] == [("alpha",), ("refit",)]
    assert sorted(single.ended) == sorted(single.begun)
    model, _, _ = single.models[single.begun[0]]
    np.testing.assert_array_equal(model.predict_proba(X), fitted.predict_proba(X))


def test_scoring_monitor_logs_the_score_of_the_fitted_model(estimator, table):
    X, y = table
    monitor = ScoringMonitor(scoring=["accuracy", "neg_log_loss"])
    clf = estimator.set_callbacks(monitor).fit(X, y)
    proba = clf.predict_proba(X)
    expected = {
        "accuracy": accuracy_score(y, clf.predict(X)),
        "neg_log_loss": np.log(proba[np.arange(len(y)), y]).mean(),
    }
    data = monitor.get_logs().data
    assert len(data) == 2
    assert {row["task_name"] for row in data} >= {"gate" if hasattr(clf, "heads_") else "refit"}
    for row in data:
        assert row["estimator_name"] == type(clf).__name__
        for name, value in expected.items():
            assert row[name] == pytest.approx(value, abs=1e-9)
    assert expected["accuracy"] > 0.6


def test_scoring_monitor_in_a_pipeline_and_a_search(estimator, table):
    X, y = table
    monitor = ScoringMonitor(scoring="accuracy")
    pipeline = make_pipeline("passthrough", estimator.set_callbacks(monitor))
    pipeline.fit(X, y)
    log = monitor.get_logs()
    assert log.estimator_name == "Pipeline"
    assert log.data[-1]["accuracy"] == pytest.approx(pipeline.score(X, y))
    step = pipeline.steps[-1][0]
    name = f"{step}__class_weight"
    search = GridSearchCV(pipeline, {name: [None, "balanced"]}, cv=2).fit(X, y)
    log = monitor.get_logs()
    assert log.estimator_name == "GridSearchCV"
    scores = [row["accuracy"] for row in log.data if row["estimator_name"] != "Pipeline"]
    # 2 candidates x 2 folds and the refit, each with its two scored tasks.
    assert len(scores) == 10
    assert search.score(X, y) in [pytest.approx(score) for score in scores]


@pytest.mark.parametrize("where", ["alone", "pipeline", "search"])
def test_progress_bar_shows_the_experts_and_changes_nothing(
    estimator, table, where, capsys, monkeypatch
):
    pytest.importorskip("rich")
    monkeypatch.setenv("COLUMNS", "250")  # a narrow screen cuts the names
    X, y = table
    plain = estimator.fit(X, y).predict_proba(X)
    model = estimator
    if where == "pipeline":
        model = make_pipeline("passthrough", estimator)
    elif where == "search":
        model = GridSearchCV(estimator, {"class_weight": [None]}, cv=2)
    model.set_callbacks(ProgressBar(max_propagation_depth=None)).fit(X, y)
    shown = capsys.readouterr().out
    assert type(estimator).__name__ in shown
    # A bar per task that has parts of its own.
    for word in ("expert clip", "expert bio") if hasattr(estimator, "gate") else ():
        assert word in shown
    assert "100%" in shown
    np.testing.assert_array_equal(model.predict_proba(X), plain)
    fitted = model.best_estimator_ if where == "search" else estimator
    assert not hasattr(fitted, "_parent_callback_ctx")


def test_failed_fit_ends_its_run(estimator, table):
    """The next fit starts afresh: an error in between leaves no half-built tree of tasks."""
    X, y = table
    recorder = Recorder()
    estimator.set_callbacks(recorder)
    with pytest.raises(ValueError, match="at least two classes"):
        estimator.fit(X, np.zeros(60))
    estimator.fit(X, y)
    assert len([path for path in recorder.begun if len(path) == 1]) == 1
    assert sorted(recorder.ended) == sorted(recorder.begun)
