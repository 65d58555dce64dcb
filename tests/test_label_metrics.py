"""What `evaluate` says of many labels a row, against scikit-learn on the rows written out."""

import json

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from sklearn import metrics
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import TunedThresholdClassifierCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skmoecbm import ConceptBottleneckClassifier, GatedConceptBottleneckClassifier, evaluate
from skmoecbm._evaluate import evaluate_scores
from skmoecbm._metrics import group_of_rows, resample_groups
from skmoecbm.exceptions import InputError

SUMMARY = [
    "macro_auroc",
    "micro_auroc",
    "macro_average_precision",
    "micro_average_precision",
    "macro_f1",
    "micro_f1",
    "log_loss",
    "brier",
    "ece",
]


def problem(n=150, seed=0, n_groups=60):
    """Return an indicator (n, 4), coarse probabilities, so that scores tie, and groups."""
    rng = np.random.default_rng(seed)
    truth = (rng.random((n, 4)) < [0.5, 0.3, 0.1, 0.2]).astype(int)
    proba = np.clip(np.round(0.3 * truth + rng.random((n, 4)) * 0.7, 1), 0, 1)
    return truth, proba, rng.integers(n_groups, size=n)


def bins(truth, p):
    total = 0.0
    for j in range(15):
        rows = (p > j / 15) & (p <= (j + 1) / 15)
        if j == 0:
            rows |= p == 0
        if rows.any():
            total += rows.mean() * abs(truth[rows].mean() - p[rows].mean())
    return total


def oracle(truth, proba, predicted):
    clipped = np.clip(proba, np.finfo(float).eps, 1 - np.finfo(float).eps)
    labels = range(truth.shape[1])
    return {
        "macro_auroc": metrics.roc_auc_score(truth, proba, average="macro"),
        "micro_auroc": metrics.roc_auc_score(truth, proba, average="micro"),
        "macro_average_precision": metrics.average_precision_score(truth, proba, average="macro"),
        "micro_average_precision": metrics.average_precision_score(truth, proba, average="micro"),
        "macro_f1": metrics.f1_score(truth, predicted, average="macro"),
        "micro_f1": metrics.f1_score(truth, predicted, average="micro"),
        "log_loss": np.mean([metrics.log_loss(truth[:, k], clipped[:, k]) for k in labels]),
        "brier": np.mean([metrics.brier_score_loss(truth[:, k], proba[:, k]) for k in labels]),
        "ece": np.mean([bins(truth[:, k], proba[:, k]) for k in labels]),
    }


def test_metrics_equal_scikit_learn_on_the_sample():
    truth, proba, _ = problem()
    predicted = (proba >= [0.3, 0.5, 0.4, 0.8]).astype(int)
    for given, expected in ((None, proba >= 0.5), (predicted, predicted)):
        result = evaluate_scores(truth, proba, range(4), predicted=given, n_bootstrap=0)
        assert list(result) == SUMMARY
        for name, value in oracle(truth, proba, expected).items():
            assert result[name].value == pytest.approx(value, abs=1e-12), name
        for k in range(4):
            row = result.per_class[k]
            assert row["support"] == truth[:, k].sum()
            for name, value in (
                ("auroc", metrics.roc_auc_score(truth[:, k], proba[:, k])),
                ("average_precision", metrics.average_precision_score(truth[:, k], proba[:, k])),
                ("f1", metrics.f1_score(truth[:, k], expected[:, k])),
            ):
                assert row[name].value == pytest.approx(value, abs=1e-12)


def test_draws_equal_scikit_learn_on_rows_repeated_as_often_as_their_group():
    truth, proba, groups = problem()
    result = evaluate_scores(truth, proba, range(4), groups=groups, n_bootstrap=20, random_state=3)
    numbered = group_of_rows(groups, len(truth))
    has = [[(truth[numbered == g] == v).any(0) for v in (1, 0)] for g in range(numbered.max() + 1)]
    weights, lacking = resample_groups(np.reshape(has, (-1, 8)).astype(float), 20, 3)
    assert lacking == 0
    for b in range(20):
        rows = np.repeat(np.arange(len(truth)), weights[b][numbered])
        for name, value in oracle(truth[rows], proba[rows], proba[rows] >= 0.5).items():
            assert result.draws[name][b] == pytest.approx(value, abs=1e-12), name
    for name, found in result.items():
        assert found.low == pytest.approx(np.quantile(result.draws[name], 0.025))
        assert found.high == pytest.approx(np.quantile(result.draws[name], 0.975))


def test_groups_of_copies_have_the_draws_of_the_rows_themselves():
    truth, proba, _ = problem(n=80)
    copies = np.repeat(np.arange(80), 3)
    grouped = evaluate_scores(
        truth[copies], proba[copies], range(4), groups=copies, n_bootstrap=50, random_state=0
    )
    single = evaluate_scores(truth, proba, range(4), n_bootstrap=50, random_state=0)
    assert (grouped.n, grouped.n_groups) == (240, 80)
    for name in SUMMARY:
        np.testing.assert_allclose(grouped.draws[name], single.draws[name], atol=1e-12)


def test_labels_that_none_or_all_have_are_left_out_and_named():
    truth, proba, _ = problem()
    truth[:, 1], truth[:, 3] = 0, 1
    names = ["mass", "nodule", "edema", "film"]
    result = evaluate_scores(truth, proba, names, n_bootstrap=30, random_state=0)
    assert result.absent_classes == ["nodule", "film"] and list(result.per_class) == [
        "mass",
        "edema",
    ]
    assert result.notes[0].startswith("no row of y has nodule: left out of AUROC")
    assert result.notes[1].startswith("every row of y has film: left out of AUROC")
    kept = oracle(truth[:, [0, 2]], proba[:, [0, 2]], proba[:, [0, 2]] >= 0.5)
    for name in SUMMARY[:6]:
        assert result[name].value == pytest.approx(kept[name], abs=1e-12)
    # Probabilities have a loss for every label.
    assert result["brier"].value == pytest.approx(((truth - proba) ** 2).mean(), abs=1e-12)
    nothing = evaluate_scores(truth[:, [1, 3]], proba[:, [1, 3]], ["a", "b"], n_bootstrap=3)
    assert np.isnan(nothing["macro_auroc"].value) and np.isnan(nothing["micro_f1"].value)
    assert "undefined" in repr(nothing) and nothing.per_class == {}
    json.dumps(nothing.to_dict(), allow_nan=False)


def test_every_draw_has_a_case_of_a_rare_label():
    truth, proba, _ = problem()
    truth[:, 2] = 0
    truth[:2, 2] = 1
    result = evaluate_scores(truth, proba, range(4), n_bootstrap=60, random_state=0)
    assert result.notes == []
    has = np.concatenate([truth, 1 - truth], axis=1).astype(float)
    weights, _ = resample_groups(has, 60, 0)
    assert (weights[:, :2].sum(axis=1) > 0).all()
    for b in range(60):
        rows = np.repeat(np.arange(150), weights[b])
        expected = metrics.roc_auc_score(truth[rows], proba[rows])
        assert result.draws["macro_auroc"][b] == pytest.approx(expected, abs=1e-12)


def test_draws_that_cannot_have_every_case_average_over_the_labels_they_have():
    rng = np.random.default_rng(0)
    truth, proba = np.eye(30, dtype=int), rng.random((30, 30))
    result = evaluate_scores(truth, proba, range(30), n_bootstrap=10, random_state=0)
    assert result.notes[-1].startswith("10 of 10 resamples lack a label with or without a case")
    has = np.concatenate([truth, 1 - truth], axis=1).astype(float)
    weights, _ = resample_groups(has, 10, 0)
    for b in range(10):
        rows = np.repeat(np.arange(30), weights[b])
        kept = np.unique(rows)  # each row is the one case of its label
        f1 = [metrics.f1_score(truth[rows, k], proba[rows, k] >= 0.5) for k in kept]
        assert result.draws["macro_f1"][b] == pytest.approx(np.mean(f1), abs=1e-12)


def test_it_prints_and_exports():
    truth, proba, _ = problem()
    names = ["mass", "nodule", "pleural thickening", "edema"]
    result = evaluate_scores(truth, proba, names, n_bootstrap=20, random_state=0)
    lines = repr(result).splitlines()
    assert lines[1].split()[:2] == ["macro", "auroc"] and "[" in lines[1]
    header = next(line for line in lines if line.startswith("  class"))
    row = next(line for line in lines if line.startswith("  pleural thickening"))
    for metric in ("auroc", "average_precision", "f1"):
        start = header.index(metric.replace("_", " "))
        value = result.per_class["pleural thickening"][metric].value
        assert row[start:].startswith(f"{value:.3f} [")
    assert all(line == line.rstrip() for line in lines)
    data = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert set(data["per_class"][0]) == {"class", "support", "auroc", "average_precision", "f1"}
    frame = result.to_frame()
    assert len(frame) == 9 + 3 * 4
    assert frame.loc[frame.metric == "f1", "class"].tolist() == names


def test_model_is_asked_for_its_own_labels_in_any_container():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 6))
    scores = X @ rng.normal(size=(6, 3)) + rng.logistic(size=(120, 3))
    Y = pd.DataFrame((scores > 0.8).astype(int), columns=["mass", "nodule", "edema"])
    clf = ConceptBottleneckClassifier(alpha=1.0).fit(X, Y)
    clf.thresholds_ = np.array([0.2, 0.3, 0.4])
    one = evaluate(clf, X, Y, n_bootstrap=10, random_state=0)
    p = clf.predict_proba(X)
    expected = metrics.f1_score(Y, p >= [0.2, 0.3, 0.4], average="macro")
    assert one["macro_f1"].value == pytest.approx(expected)
    assert one["macro_f1"].value != metrics.f1_score(Y, p >= 0.5, average="macro")
    pipeline = make_pipeline(FunctionTransformer(), clf)
    for model, y in (
        (clf, Y.to_numpy()),
        (clf, scipy.sparse.csr_matrix(Y)),
        (clf, Y.to_numpy().tolist()),
        (clf, Y[["edema", "mass", "nodule"]]),
        (pipeline, Y),
    ):
        assert evaluate(model, X, y, n_bootstrap=10, random_state=0).to_dict() == one.to_dict()
    theirs = OneVsRestClassifier(LogisticRegression()).fit(X, Y.to_numpy())
    found = evaluate(theirs, X, Y.to_numpy(), n_bootstrap=0)
    expected = metrics.f1_score(Y, theirs.predict(X), average="micro")
    assert found["micro_f1"].value == pytest.approx(expected)


def test_a_threshold_around_two_classes_is_what_accuracy_is_about():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 6))
    y = np.where(X[:, 0] + X[:, 3] + rng.logistic(size=300) > 2.5, "yes", "no")
    mixture = GatedConceptBottleneckClassifier(
        ConceptBottleneckClassifier(alpha=1.0), experts=[("a", slice(0, 3)), ("b", slice(3, 6))]
    )
    tuned = TunedThresholdClassifierCV(mixture, scoring="balanced_accuracy", cv=3).fit(X, y)
    assert tuned.best_threshold_ < 0.4
    found = evaluate(tuned, X, y, n_bootstrap=0)
    said = tuned.predict(X)
    assert found["balanced_accuracy"].value == metrics.balanced_accuracy_score(y, said)
    plain = tuned.estimator_.predict(X)
    assert (
        metrics.balanced_accuracy_score(y, said) > metrics.balanced_accuracy_score(y, plain) + 0.05
    )
    assert set(said) == {"yes", "no"}
    np.testing.assert_array_equal(
        said == "yes", tuned.predict_proba(X)[:, 1] >= tuned.best_threshold_
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda Y: Y.iloc[:, 0], "must be what the model was fitted on: an indicator"),
        (lambda Y: Y.rename(columns={"mass": "lump"}), "differ in lump, mass"),
        (lambda Y: Y[["mass", "nodule"]], "differ in edema"),
        (lambda Y: Y.to_numpy()[:, :2], "a column for each of the 3 labels of the model. Got 2"),
        (lambda Y: Y * 2, "must hold 0 and 1 alone"),
        (lambda Y: Y.iloc[:-1], "60 images and 59 labels"),
    ],
)
def test_an_indicator_of_other_labels_is_refused(change, message):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 4))
    Y = pd.DataFrame((rng.random((60, 3)) < 0.4).astype(int), columns=["mass", "nodule", "edema"])
    clf = ConceptBottleneckClassifier(alpha=1.0).fit(X, Y)
    with pytest.raises(InputError, match=message):
        evaluate(clf, X, change(Y))
    alone = ConceptBottleneckClassifier(alpha=1.0).fit(X, Y["mass"])
    with pytest.raises(InputError, match="must be what the model was fitted on: one class per row"):
        evaluate(alone, X, Y)
