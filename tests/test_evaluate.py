import json
import time

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from skmoecbm._evaluate import evaluate, evaluate_scores
from skmoecbm._metrics import resample
from skmoecbm.exceptions import InputError


def _problem(n=300, n_classes=4, seed=0, n_groups=None, coarse=True):
    """Return labels, probabilities (rounded, so that scores tie) and groups."""
    rng = np.random.default_rng(seed)
    y = rng.choice(n_classes, n, p=np.r_[0.6, np.full(n_classes - 1, 0.4 / (n_classes - 1))])
    logits = rng.normal(size=(n, n_classes))
    logits[np.arange(n), y] += 1
    proba = np.exp(logits)
    proba /= proba.sum(axis=1, keepdims=True)
    if coarse:
        proba = np.round(proba, 1) + 0.01
        proba /= proba.sum(axis=1, keepdims=True)
    return y, proba, rng.integers(n_groups or n, size=n)


def _ece(y, proba):
    """Expected calibration error, bin by bin, as its definition reads."""
    confidence, correct = proba.max(axis=1), proba.argmax(axis=1) == y
    total = 0.0
    for j in range(15):
        rows = (confidence > j / 15) & (confidence <= (j + 1) / 15)
        if rows.any():
            total += rows.mean() * abs(correct[rows].mean() - confidence[rows].mean())
    return total


def _oracle(y, proba):
    present = np.unique(y)
    auroc = [metrics.roc_auc_score(y == k, proba[:, k]) for k in present]
    predicted = proba.argmax(axis=1)
    return {
        "accuracy": metrics.accuracy_score(y, predicted),
        "balanced_accuracy": metrics.recall_score(y, predicted, labels=present, average="macro"),
        "macro_auroc": np.mean(auroc),
        "log_loss": metrics.log_loss(y, proba, labels=range(proba.shape[1])),
        "brier": metrics.brier_score_loss(y, proba, labels=range(proba.shape[1])),
        "ece": _ece(y, proba),
    }


def test_metrics_equal_scikit_learn_on_the_sample():
    y, proba, _ = _problem()
    result = evaluate_scores(y, proba, range(4), n_bootstrap=0)
    for name, expected in _oracle(y, proba).items():
        assert result[name].value == pytest.approx(expected, abs=1e-12), name
    recalls = metrics.recall_score(y, proba.argmax(axis=1), average=None)
    for k in range(4):
        row = result.per_class[k]
        assert row["support"] == (y == k).sum()
        assert row["recall"].value == pytest.approx(recalls[k], abs=1e-12)
        assert row["auroc"].value == pytest.approx(metrics.roc_auc_score(y == k, proba[:, k]))


def test_draws_equal_scikit_learn_on_rows_repeated_as_often_as_their_group():
    y, proba, groups = _problem(n=200, n_groups=60)
    result = evaluate_scores(y, proba, range(4), groups=groups, n_bootstrap=25, random_state=3)
    _, group_of_row = np.unique(groups, return_inverse=True)
    # the groups are numbered in order of appearance there, so rebuild that order
    first = {g: i for i, g in enumerate(dict.fromkeys(groups.tolist()))}
    numbered = np.array([first[g] for g in groups.tolist()])
    weights, lacking = resample(y, np.unique(y), numbered, 25, 3)
    assert lacking == 0
    for b in range(25):
        rows = np.repeat(np.arange(200), weights[b][numbered])
        for name, expected in _oracle(y[rows], proba[rows]).items():
            assert result.draws[name][b] == pytest.approx(expected, abs=1e-12), name
    assert weights.sum(axis=1).tolist() == [group_of_row.max() + 1] * 25


def test_intervals_are_percentiles_of_the_draws():
    y, proba, _ = _problem()
    result = evaluate_scores(y, proba, range(4), n_bootstrap=200, confidence=0.8, random_state=0)
    for name, estimate in result.items():
        assert estimate.low == pytest.approx(np.quantile(result.draws[name], 0.1))
        assert estimate.high == pytest.approx(np.quantile(result.draws[name], 0.9))


def test_interval_covers_the_true_accuracy_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        y = rng.integers(2, size=150)
        right = rng.random(150) < 0.75
        proba = np.where((y == right)[:, None], [0.4, 0.6], [0.6, 0.4])
        estimate = evaluate_scores(y, proba, [0, 1], n_bootstrap=200, random_state=trial)
        hits += estimate["accuracy"].low <= 0.75 <= estimate["accuracy"].high
    assert 0.89 <= hits / 200 <= 0.99


def test_groups_widen_intervals_when_rows_of_a_group_are_copies():
    y, proba, _ = _problem(n=150)
    copies = np.repeat(np.arange(150), 4)
    grouped = evaluate_scores(y[copies], proba[copies], range(4), groups=copies, random_state=0)
    single = evaluate_scores(y, proba, range(4), random_state=0)
    naive = evaluate_scores(y[copies], proba[copies], range(4), random_state=0)
    assert (grouped.n, grouped.n_groups) == (600, 150)

    def width(result):
        return result["accuracy"].high - result["accuracy"].low

    # copies carry no information: the grouped interval is that of the 150 distinct rows
    np.testing.assert_allclose(grouped.draws["accuracy"], single.draws["accuracy"], atol=1e-12)
    assert width(naive) < 0.6 * width(grouped)


def test_every_draw_has_every_class_of_the_sample():
    y = np.array([0] * 60 + [1] * 2)
    proba = np.full((62, 2), 0.5)
    weights, lacking = resample(y, np.array([0, 1]), np.arange(62), 500, 0)
    assert lacking == 0
    assert (weights[:, 60:].sum(axis=1) > 0).all()
    # without the redraw one resample in seven would lack class 1
    assert evaluate_scores(y, proba, [0, 1], random_state=0).notes == []


def test_draws_that_cannot_have_every_class_are_counted_and_averaged_over_what_they_have():
    y = np.arange(40)
    result = evaluate_scores(y, np.eye(40) * 0.5 + 0.5 / 40, range(40), n_bootstrap=20)
    assert "20 of 20 resamples lack a class" in result.notes[0]
    assert np.isfinite(result.draws["macro_auroc"]).all()
    assert result["balanced_accuracy"].value == 1.0


def test_class_absent_from_y_is_left_out_and_named():
    y, proba, _ = _problem()
    labels = np.array(["nv", "mel", "bcc", "df"])
    rows = y != 3
    result = evaluate_scores(labels[y[rows]], proba[rows], labels, n_bootstrap=10)
    assert result.absent_classes == ["df"]
    assert "df" not in result.per_class
    assert "df" in result.notes[0]
    assert result["macro_auroc"].value == pytest.approx(
        np.mean([metrics.roc_auc_score(y[rows] == k, proba[rows, k]) for k in range(3)])
    )


def test_one_class_has_no_auroc_but_an_accuracy():
    result = evaluate_scores(["a", "a"], [[0.8, 0.2], [0.4, 0.6]], ["a", "b"], n_bootstrap=5)
    assert result["accuracy"].value == 0.5
    assert np.isnan(result["macro_auroc"].value)
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False))["metrics"]["macro_auroc"] == {
        "value": None,
        "low": None,
        "high": None,
    }
    assert "undefined" in repr(result)


def test_same_seed_pairs_two_models_and_difference_has_the_paired_interval():
    y, good, groups = _problem(coarse=False, n_groups=100)
    bad = 0.5 * good + 0.5 * good[np.random.default_rng(1).permutation(len(good))]
    a, b = (
        evaluate_scores(y, proba, range(4), groups=groups, n_bootstrap=300, random_state=7)
        for proba in (good, bad)
    )
    gain = a.difference(b, "accuracy")
    assert gain.value == pytest.approx(a["accuracy"].value - b["accuracy"].value)
    gaps = a.draws["accuracy"] - b.draws["accuracy"]
    assert gain.low == pytest.approx(np.quantile(gaps, 0.025))
    assert a.difference(a, "log_loss") == (0, 0, 0)


def test_difference_refuses_other_resamples():
    y, proba, _ = _problem()
    a = evaluate_scores(y, proba, range(4), n_bootstrap=10, random_state=0)
    b = evaluate_scores(y, proba, range(4), n_bootstrap=10, random_state=1)
    with pytest.raises(InputError, match="same resamples"):
        a.difference(b)
    with pytest.raises(InputError, match="Unknown metric 'auc'"):
        a.difference(a, "auc")


def test_an_unknown_metric_lists_the_known_ones():
    y, proba, _ = _problem()
    result = evaluate_scores(y, proba, range(4), n_bootstrap=0)
    with pytest.raises(KeyError, match=r"no metric 'auc' here; there is 'accuracy', .*'ece'\."):
        result["auc"]
    assert "auc" not in result and result.get("auc") is None


def test_order_of_rows_does_not_change_the_estimates():
    y, proba, _ = _problem()
    p = np.random.default_rng(0).permutation(len(y))
    a = evaluate_scores(y, proba, range(4), n_bootstrap=0)
    b = evaluate_scores(y[p], proba[p], range(4), n_bootstrap=0)
    for name in a:
        assert a[name].value == pytest.approx(b[name].value, abs=1e-12)


def test_model_and_scores_agree_and_containers_do_not_matter():
    X, y = load_iris(return_X_y=True)
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    model = LogisticRegression(max_iter=1000).fit(X, names)
    direct = evaluate(model, X, names, n_bootstrap=50, random_state=0)
    scores = evaluate_scores(
        list(names), model.predict_proba(X), model.classes_, n_bootstrap=50, random_state=0
    )
    series = evaluate(
        model, X, pd.Series(names, index=range(100, 250)), n_bootstrap=50, random_state=0
    )
    assert direct.to_dict() == scores.to_dict() == series.to_dict()
    assert direct["accuracy"].value == model.score(X, names)


def test_result_is_a_mapping_that_prints_and_exports():
    y, proba, groups = _problem(n_groups=50)
    result = evaluate_scores(y, proba, range(4), groups=groups, n_bootstrap=20, random_state=0)
    summary = ["accuracy", "balanced_accuracy", "macro_auroc", "log_loss", "brier", "ece"]
    assert list(result) == summary and len(result) == 6
    text = repr(result)
    assert f"300 rows in {result.n_groups} groups" in text
    assert f"{result['macro_auroc'].value:.3f} [" in text
    data = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert data["metrics"]["ece"]["value"] == result["ece"].value
    assert [row["class"] for row in data["per_class"]] == [0, 1, 2, 3]
    frame = result.to_frame()
    assert frame.shape == (6 + 2 * 4, 6)
    assert frame.loc[frame.metric == "recall", "class"].tolist() == [0, 1, 2, 3]
    assert frame.loc[0, "class"] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": ["a", "z", "b", "q"]}, "does not know: q, z. Its classes are a, b"),
        ({"y": ["a", None, "b", "a"]}, "Row 1 has none"),
        ({"y": np.array([0, np.nan, 1, 1])}, "Row 1 has none"),
        ({"y": []}, "n > 0"),
        ({"y": ["a", "b", "a"]}, r"shape \(n, K\) = \(3, 2\)"),
        ({"proba": [[0.5, 0.5]] * 3 + [[np.nan, 1]]}, "Row 3 is not"),
        ({"groups": [1, 2]}, r"one per row. Got \(2,\)"),
        ({"groups": ["x", None, "y", "y"]}, "Row 1 has none"),
        ({"groups": ["x", "y", pd.NA, "y"]}, "Row 2 has none"),
        ({"y": pd.Series(["a", pd.NA, "b", "b"], dtype="string")}, "Row 1 has none"),
        ({"n_bootstrap": -1}, "'n_bootstrap' parameter"),
        ({"n_bootstrap": 2.5}, "'n_bootstrap' parameter"),
        ({"confidence": 0}, "'confidence' parameter"),
    ],
)
def test_bad_input_says_what_is_wrong(change, message):
    good = {"y": ["a", "b", "a", "b"], "proba": [[0.5, 0.5]] * 4, "classes": ["a", "b"]}
    with pytest.raises(InputError, match=message):
        evaluate_scores(**{**good, **change})


def test_model_that_cannot_be_evaluated_is_refused():
    with pytest.raises(InputError, match="fitted classifier"):
        evaluate(LogisticRegression(), [[0.0]], [0])
    model = LogisticRegression().fit([[0.0], [1.0]], ["a", "b"])
    with pytest.raises(InputError, match="Got 2 images and 1 labels"):
        evaluate(model, [[0.0], [1.0]], ["a"])
    with pytest.raises(InputError, match="not one path"):
        evaluate(model, "folder", ["a"])


def test_a_thousand_resamples_of_1509_rows_take_seconds():
    y, proba, groups = _problem(n=1509, n_classes=7, n_groups=1200)
    start = time.perf_counter()
    evaluate_scores(y, proba, range(7), groups=groups, random_state=0)
    assert time.perf_counter() - start < 5
