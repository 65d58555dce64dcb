"""Thresholds of labels: the best there is, from predictions of rows that were held out."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, recall_score
from sklearn.model_selection import GridSearchCV, GroupKFold, TunedThresholdClassifierCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skmoecbm import (
    ConceptBottleneckClassifier,
    GatedConceptBottleneckClassifier,
    edit,
    load,
    save,
    tune_thresholds,
)
from skmoecbm._thresholds import best_threshold
from skmoecbm.exceptions import InputError, SkmoecbmWarning

NAMES = ["mass", "nodule", "edema"]
EXPERTS = [("a", slice(0, 3)), ("b", slice(3, 6))]


def make_labels(n=240, seed=0, rare=(0.1, 0.2, 0.4)):
    """Return X (n, 6) and a frame of labels, the first of which is rare."""
    rng = np.random.default_rng(0)
    slopes = rng.normal(size=(6, 3))
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 6))
    scores = X @ slopes + rng.logistic(size=(n, 3))
    cuts = [np.quantile(column, 1 - share) for column, share in zip(scores.T, rare, strict=True)]
    return X, pd.DataFrame((scores > cuts).astype(int), columns=NAMES)


def single(**given):
    return ConceptBottleneckClassifier(alpha=1.0, **given)


def mixture(**given):
    return GatedConceptBottleneckClassifier(single(), experts=EXPERTS, **given)


def score(truth, said, weights, criterion):
    if criterion == "f1":
        return f1_score(truth, said, sample_weight=weights, zero_division=0)
    sides = (recall_score(truth, said, pos_label=k, sample_weight=weights) for k in (0, 1))
    return sum(sides) - 1


def brute(truth, proba, weights, criterion):
    """Return the best score of any threshold whatever, tried one by one."""
    edges = np.unique(np.r_[0.0, proba, 1.0])
    tried = np.r_[edges, (edges[1:] + edges[:-1]) / 2]
    return max(score(truth, proba >= cut, weights, criterion) for cut in tried)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(0, 8), st.integers(1, 3)), min_size=2, max_size=14
    ).filter(lambda rows: len({row[0] for row in rows}) == 2),
    st.sampled_from(["f1", "youden"]),
)
def test_no_threshold_is_better(rows, criterion):
    truth, eighths, weights = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    proba = eighths / 8
    best = brute(truth, proba, weights, criterion)
    found, reason = best_threshold(truth, proba, weights, criterion)
    if reason is not None:
        assert criterion == "youden" and best <= 1e-9 and "chance" in reason
        return
    assert 0 <= found <= 1
    assert score(truth, proba >= found, weights, criterion) == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize(
    ("truth", "proba", "expected"),
    [
        # A clean cut: half way between the two probabilities beside it.
        ([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.9], 0.25),
        # Rows that tie stay together: cutting inside the three at 0.4 is not to be had.
        ([0, 1, 1, 1], [0.4, 0.4, 0.4, 0.6], 0.2),
        # F1 is 0.8 with the first three, 2/3 with the first or with all.
        ([1, 0, 1, 0], [0.9, 0.7, 0.4, 0.1], 0.25),
        # With the first alone 2/3, and with all four: nearest 0.5 is the cut at 0.75.
        ([1, 0, 0, 1], [0.8, 0.7, 0.1, 0.05], 0.75),
        # All rows alike: everything is said to have it, from half that probability on.
        ([1, 0], [0.3, 0.3], 0.15),
        ([1, 0], [0.0, 0.0], 0.0),
    ],
)
def test_where_a_threshold_stands(truth, proba, expected):
    truth, proba = np.array(truth, float), np.array(proba)
    found, reason = best_threshold(truth, proba, np.ones(len(truth)), "f1")
    assert reason is None and found == pytest.approx(expected)


def test_of_equally_good_thresholds_the_one_nearest_a_half():
    # F1 = 2/3 at all three cuts: 1 of 1, and 2 of 4, and the like.
    truth, proba = np.array([1.0, 0, 0, 1, 0, 0]), np.array([0.98, 0.9, 0.7, 0.6, 0.2, 0.1])
    tied = [cut for cut in (0.94, 0.8, 0.65, 0.4, 0.15, 0.05)]
    gains = [f1_score(truth, proba >= cut) for cut in tied]
    best = [cut for cut, gain in zip(tied, gains, strict=True) if gain == pytest.approx(max(gains))]
    assert best == [0.94, 0.4]
    assert best_threshold(truth, proba, np.ones(6), "f1")[0] == pytest.approx(0.4)
    # The mirror image of it: nearest from the other side.
    truth, proba = np.array([1.0, 0, 0, 1]), np.array([0.55, 0.5, 0.48, 0.02])
    assert best_threshold(truth, proba, np.ones(4), "f1")[0] == pytest.approx(0.525)


def test_probabilities_that_are_next_to_each_other_are_told_apart():
    low = 0.3
    high = np.nextafter(low, 1)
    found, _ = best_threshold(np.array([0.0, 1]), np.array([low, high]), np.ones(2), "f1")
    assert low < found <= high


@pytest.mark.parametrize("criterion", ["f1", "youden"])
@pytest.mark.parametrize("make", [single, mixture])
def test_thresholds_are_the_best_on_predictions_of_held_out_rows(make, criterion):
    X, Y = make_labels()
    folds = [(np.flatnonzero(np.arange(240) % 3 != f), np.arange(f, 240, 3)) for f in range(3)]
    clf = make().fit(X, Y)
    tuned = tune_thresholds(clf, X, Y, criterion=criterion, cv=folds)
    proba = np.zeros(Y.shape)
    for train, test in folds:
        proba[test] = clone(clf).fit(X[train], Y.iloc[train]).predict_proba(X[test])
    for k, name in enumerate(NAMES):
        truth, weights = Y[name].to_numpy(float), np.ones(240)
        reached = score(truth, proba[:, k] >= tuned.thresholds_[k], weights, criterion)
        assert reached == pytest.approx(brute(truth, proba[:, k], weights, criterion), abs=1e-12)
        own = clf.predict_proba(X)[:, k]
        if criterion == "f1":  # which the model's own training rows would have placed elsewhere
            assert tuned.thresholds_[k] != best_threshold(truth, own, weights, "f1")[0]
    np.testing.assert_array_equal(
        tuned.predict(X), (clf.predict_proba(X) >= tuned.thresholds_).astype(int)
    )


def test_rare_labels_are_found_more_often_on_new_rows():
    X, Y = make_labels(900)
    new, truth = make_labels(3000, seed=1)
    clf = mixture().fit(X, Y)
    plain = f1_score(truth, clf.predict(new), average="macro")
    tuned = f1_score(truth, tune_thresholds(clf, X, Y).predict(new), average="macro")
    assert tuned > plain + 0.03


def test_held_out_rows_of_prefit_are_not_fitted_on():
    X, Y = make_labels()
    clf = mixture().fit(X[:160], Y[:160])
    state = clf.heads_[0].association_.copy()
    tuned = tune_thresholds(clf, X[160:], Y[160:], cv="prefit")
    p = clf.predict_proba(X[160:])
    for k, name in enumerate(NAMES):
        truth = Y[name].to_numpy(float)[160:]
        assert tuned.thresholds_[k] == best_threshold(truth, p[:, k], np.ones(80), "f1")[0]
    np.testing.assert_array_equal(clf.heads_[0].association_, state)
    assert not hasattr(clf, "thresholds_")


def test_a_weight_of_two_is_the_row_twice_and_zero_is_no_row():
    X, Y = make_labels(120)
    clf = single().fit(X, Y)
    weights = np.r_[np.full(40, 2.0), np.ones(40), np.zeros(40)]
    rows = np.r_[:80, :40]
    one = tune_thresholds(clf, X, Y, cv="prefit", sample_weight=weights)
    two = tune_thresholds(clf, X[rows], Y.iloc[rows], cv="prefit")
    np.testing.assert_array_equal(one.thresholds_, two.thresholds_)
    folds = [(np.arange(40, 120), np.arange(40)), (np.r_[:40, 80:120], np.arange(40, 80))]
    weighted = tune_thresholds(clf, X, Y, cv=folds, sample_weight=weights)
    p = np.zeros((80, 3))
    for train, test in ((np.arange(40, 80), np.arange(40)), (np.arange(40), np.arange(40, 80))):
        fold = clone(clf).fit(X[train], Y.iloc[train], sample_weight=weights[train])
        p[test] = fold.predict_proba(X[test])
    for k, name in enumerate(NAMES):
        truth = Y[name].to_numpy(float)[:80]
        reached = score(truth, p[:, k] >= weighted.thresholds_[k], weights[:80], "f1")
        assert reached == pytest.approx(brute(truth, p[:, k], weights[:80], "f1"), abs=1e-9)


class Watched(GroupKFold):
    """Group folds that keep what they were asked."""

    asked = ()

    def split(self, X, y=None, groups=None):
        Watched.asked = (*Watched.asked, groups)
        return super().split(X, y, groups)


def test_rows_of_a_group_are_held_out_together_and_trained_on_together():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 4)
    # Of each group the features are the same and tell nothing: only a leak would know the label.
    X = rng.normal(size=(60, 6))[groups] + 1e-3 * rng.normal(size=(240, 6))
    Y = pd.DataFrame((rng.random((60, 3)) < 0.4).astype(int)[groups], columns=NAMES)
    Watched.asked = ()
    clf = ConceptBottleneckClassifier(alpha=1e-6).fit(X, Y)
    tune_thresholds(clf, X, Y, cv=Watched(4), groups=groups)
    assert len(Watched.asked) == 1
    np.testing.assert_array_equal(
        pd.factorize(pd.Series(Watched.asked[0]))[0], pd.factorize(pd.Series(groups))[0]
    )
    inner = ConceptBottleneckClassifier(cv=Watched(3)).fit(X, Y, groups=groups)
    Watched.asked = ()
    tune_thresholds(inner, X, Y, cv=GroupKFold(4), groups=groups)
    assert len(Watched.asked) == 4  # one search for alpha in each fold, with its own groups
    assert all(len(asked) == 180 and len(set(asked)) == 45 for asked in Watched.asked)


def test_labels_that_cannot_be_tuned_keep_a_half_and_are_named():
    X, Y = make_labels()
    clf = mixture().fit(X, Y)
    Y["mass"], Y["edema"] = 0, 1
    message = r"2 label\(s\) keep .* 0\.5: 'mass' \(no row has it\), 'edema' \(every row has it\)"
    with pytest.warns(SkmoecbmWarning, match=message):
        tuned = tune_thresholds(clf, X, Y, cv="prefit")
    assert tuned.thresholds_[[0, 2]].tolist() == [0.5, 0.5]
    assert tuned.thresholds_[1] != 0.5
    # Whoever is least likely to have a label has it: every threshold is worse than none.
    p = clf.predict_proba(X)
    backwards = (p <= np.quantile(p, 0.3, axis=0)).astype(int)
    with pytest.warns(SkmoecbmWarning, match=r"3 label.*no threshold is better than chance"):
        tuned = tune_thresholds(clf, X, backwards, criterion="youden", cv="prefit")
    assert tuned.thresholds_.tolist() == [0.5] * 3


def test_thresholds_go_where_the_model_goes_and_no_further(tmp_path):
    X, Y = make_labels()
    clf = mixture(class_weight="balanced", target_prevalence="train").fit(X, Y)
    tuned = tune_thresholds(clf, X, Y)
    assert not hasattr(clf, "thresholds_") and not hasattr(clone(tuned), "thresholds_")
    save(tuned, tmp_path / "tuned")
    save(clf, tmp_path / "plain")
    again = load(tmp_path / "tuned")
    np.testing.assert_array_equal(again.thresholds_, tuned.thresholds_)
    np.testing.assert_array_equal(again.predict(X), tuned.predict(X))
    assert (tuned.predict(X) != clf.predict(X)).any()
    assert not hasattr(load(tmp_path / "plain"), "thresholds_")
    assert '"thresholds"' not in (tmp_path / "plain" / "config.json").read_text()
    np.testing.assert_array_equal(tuned.without("a").thresholds_, tuned.thresholds_)
    again.fit(X, Y)
    assert not hasattr(again, "thresholds_")
    np.testing.assert_array_equal(again.predict(X), clf.predict(X))


def test_a_view_without_an_expert_is_tuned_as_that_view():
    X, Y = make_labels()
    clf = mixture(gate="uniform", guard=False, calibrate=False).fit(X, Y)
    folds = [(np.arange(120, 240), np.arange(120)), (np.arange(120), np.arange(120, 240))]
    view = tune_thresholds(clf.without("b"), X, Y, cv=folds)
    alone = tune_thresholds(single().fit(X[:, :3], Y), X[:, :3], Y, cv=folds)
    np.testing.assert_allclose(view.thresholds_, alone.thresholds_, atol=1e-6)


def test_pipelines_searches_and_containers_are_tuned_alike():
    X, Y = make_labels()
    expected = tune_thresholds(single().fit(X, Y), X, Y)
    for y in (Y.to_numpy(), scipy.sparse.csr_matrix(Y), Y[["edema", "mass", "nodule"]]):
        found = tune_thresholds(single().fit(X, Y), X, y)
        np.testing.assert_array_equal(found.thresholds_, expected.thresholds_)
    pipeline = make_pipeline(StandardScaler(), single()).fit(X, Y)
    tuned = tune_thresholds(pipeline, list(X), Y)  # a scaler changes nothing: it is done inside
    np.testing.assert_allclose(tuned[-1].thresholds_, expected.thresholds_, atol=1e-6)
    np.testing.assert_array_equal(tuned.predict(X), expected.predict(X))
    assert not hasattr(pipeline[-1], "thresholds_") and tuned[0] is pipeline[0]
    search = GridSearchCV(ConceptBottleneckClassifier(), {"alpha": [1.0]}, cv=3).fit(X, Y)
    found = tune_thresholds(search, X, Y)
    np.testing.assert_allclose(found.thresholds_, expected.thresholds_, atol=1e-12)


def test_an_edited_model_is_not_tuned_on_fits_without_its_edits():
    X, Y = make_labels()
    edited = edit(single().fit(X, Y), forbid="x0")
    with pytest.raises(InputError, match=r"was edited.*cv='prefit'"):
        tune_thresholds(edited, X, Y)
    tuned = tune_thresholds(edited, X, Y, cv="prefit")
    for k, threshold in enumerate(tuned.thresholds_):
        truth, proba = Y.to_numpy()[:, k], edited.predict_proba(X)[:, k]
        best = max(f1_score(truth, proba >= cut) for cut in proba)
        assert f1_score(truth, proba >= threshold) == pytest.approx(best)


def test_what_cannot_be_tuned_says_why():
    X, Y = make_labels()
    clf = mixture().fit(X, Y)
    with pytest.raises(InputError, match="Got LogisticRegression at the end"):
        tune_thresholds(LogisticRegression(), X, Y)
    with pytest.raises(InputError, match="use scikit-learn's TunedThresholdClassifierCV"):
        tune_thresholds(single().fit(X, Y["mass"]), X, Y["mass"])
    with pytest.raises(InputError, match="'criterion' parameter of tune_thresholds"):
        tune_thresholds(clf, X, Y, criterion="accuracy")
    with pytest.raises(InputError, match="'cv' parameter of tune_thresholds"):
        tune_thresholds(clf, X, Y, cv="all")
    with pytest.raises(InputError, match="X has 239 rows and y has 240"):
        tune_thresholds(clf, X[:-1], Y)
    with pytest.raises(InputError, match=r"No held-out probabilities.*cv='prefit'"):
        tune_thresholds(clf, X, Y, groups=np.zeros(240))


def test_two_classes_are_tuned_by_scikit_learn_itself():
    X, Y = make_labels(600)
    y = np.where(Y["mass"] == 1, "melanoma", "nevus")
    for make in (single, mixture):
        tuner = TunedThresholdClassifierCV(make(), scoring="balanced_accuracy", cv=3)
        tuned = tuner.fit(X, y)
        assert 0.5 < tuned.best_threshold_ < 0.99  # of 'nevus', which is the second class
        found = recall_score(y, tuned.predict(X), pos_label="melanoma")
        assert found > recall_score(y, make().fit(X, y).predict(X), pos_label="melanoma") + 0.2


def test_a_fold_that_never_saw_a_label_has_no_say_in_its_threshold():
    """All rows with it are of one patient: whichever fold holds her out says a constant."""
    X, y = make_labels()
    groups = np.arange(240) % 24
    y["edema"] = ((groups == 3) & (X[:, 0] > -0.5)).astype(int)
    y["mass"] = ((groups < 2) & (X[:, 1] > -0.5)).astype(int)
    clf = single().fit(X, y)
    with pytest.warns(SkmoecbmWarning, match="'edema' .the rows that have it are in one fold"):
        tuned = tune_thresholds(clf, X, y, criterion="youden", groups=groups, cv=GroupKFold(24))
    assert tuned.thresholds_[2] == 0.5
    # Of two patients with a mass each fold that holds one out has learned it from the other.
    folds = GroupKFold(24).split(X, y, groups)
    proba, told = np.zeros(240), np.ones(240, dtype=bool)
    for train, test in folds:
        fitted = single().fit(X[train], y.iloc[train][["mass", "nodule"]])
        proba[test] = fitted.predict_proba(X[test])[:, 0]
    truth = y["mass"].to_numpy()
    best = brute(truth, proba, np.ones(240), "youden")
    said = (proba[told] >= tuned.thresholds_[0]).astype(int)
    assert score(truth, said, np.ones(240), "youden") == pytest.approx(best, abs=1e-9)
