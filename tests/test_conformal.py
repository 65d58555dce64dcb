"""Sets of classes: the quantile by counting, coverage by its law, and what goes with a model."""

import hashlib
import json
from fractions import Fraction
from itertools import pairwise
from math import ceil

import numpy as np
import pytest
import safetensors.numpy
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from skmoecbm import (
    ConceptBottleneckClassifier,
    ExpertFeatures,
    FormatError,
    GatedConceptBottleneckClassifier,
    InputError,
    SkmoecbmWarning,
    calibrate_sets,
    load,
    predict_set,
    save,
    sets_to_lists,
)
from skmoecbm._nonconformity import conformal_threshold, nonconformity

NAMES = np.array(["bcc", "mel", "nv"])
CENTS = np.arange(100) / 100
SHARES = (0.15, 0.25, 0.6)
EXPERTS = [("a", slice(0, 3)), ("b", slice(3, 6))]


def make_rows(n, seed):
    """Return X (n, 6) and three classes, of which a model is often unsure."""
    rng = np.random.default_rng(seed)
    y = rng.choice(3, size=n, p=SHARES)
    centres = np.random.default_rng(0).normal(size=(3, 6))
    return 0.7 * centres[y] + rng.normal(size=(n, 6)), NAMES[y]


def mixture(**given):
    return GatedConceptBottleneckClassifier(
        ConceptBottleneckClassifier(alpha=1.0), experts=EXPERTS, **given
    )


@pytest.fixture(scope="module")
def fitted():
    return mixture(class_weight="balanced").fit(*make_rows(300, 1))


def true_in(sets, y):
    return sets[np.asarray(y)[:, None] == NAMES]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 6), max_size=60), st.integers(1, 39))
def test_the_threshold_is_an_order_statistic_ties_and_all(sixths, fortieths):
    scores, n = np.array(sixths) / 6, len(sixths)
    place = ceil(Fraction(fortieths, 40) * (n + 1))
    expected = sorted(scores)[place - 1] if place <= n else np.inf
    assert conformal_threshold(scores, np.ones(n), fortieths / 40) == expected


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=7), min_size=1, max_size=20),
    st.integers(1, 19),
)
def test_each_group_counts_once_however_many_rows_it_has(groups, twentieths):
    scores = np.array([score for group in groups for score in group]) / 9
    weights = np.array([1 / len(group) for group in groups for _ in group])
    wanted = Fraction(twentieths, 20) * (len(groups) + 1)

    def reached(ninths):
        return sum(Fraction(sum(s <= ninths for s in group), len(group)) for group in groups)

    expected = min((s / 9 for s in range(10) if reached(s) >= wanted), default=np.inf)
    assert conformal_threshold(scores, weights, twentieths / 20) == pytest.approx(expected)


def test_coverage_of_a_calibration_set_follows_the_beta_law():
    """Of uniform scores the threshold is the coverage: Beta(k, n + 1 - k), k = ceil(c (n + 1))."""
    n, rng = 30, np.random.default_rng(0)
    found = [conformal_threshold(rng.random(n), np.ones(n), 0.9) for _ in range(3000)]
    k = ceil(Fraction(9, 10) * (n + 1))
    assert scipy.stats.kstest(found, scipy.stats.beta(k, n + 1 - k).cdf).pvalue > 0.01
    assert np.mean(found) == pytest.approx(k / (n + 1), abs=0.004)
    # The plain empirical quantile, of n in the place of n + 1, is one place lower: too low.
    lower = scipy.stats.beta(k - 1, n + 2 - k)
    assert scipy.stats.kstest(found, lower.cdf).pvalue < 1e-6
    assert lower.mean() < 0.9


def test_with_groups_a_row_of_a_new_group_is_covered_and_without_not():
    """Easy lesions are photographed twelve times, difficult ones once."""
    rng = np.random.default_rng(0)

    def draw(n_groups):
        easy = rng.random(n_groups) < 0.5
        group = np.repeat(np.arange(n_groups), np.where(easy, 12, 1))
        centre = np.where(easy, 0.0, 0.6) + 0.2 * rng.random(n_groups)
        return group, centre[group] + 0.1 * rng.random(len(group))

    by_group, by_row = [], []
    for _ in range(300):
        group, scores = draw(40)
        new, tested = draw(200)
        share = 1 / np.bincount(new)[new]
        for found, weights in (
            (by_group, 1 / np.bincount(group)[group]),
            (by_row, np.ones(len(group))),
        ):
            limit = conformal_threshold(scores, weights, 0.9)
            found.append(np.average(tested <= limit, weights=share))
    assert 0.9 - 0.01 < np.mean(by_group) < 0.9 + 1 / 41 + 0.01
    assert np.mean(by_row) < 0.8


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(0, 4), min_size=4, max_size=4).filter(any), min_size=1))
def test_nonconformity_is_what_it_says(rows):
    proba = np.array(rows, float)
    proba /= proba.sum(axis=1, keepdims=True)
    expected = [[sum(q for q in row if q > p) for p in row] for row in proba]
    np.testing.assert_allclose(nonconformity(proba, "aps"), expected, atol=1e-12)
    np.testing.assert_allclose(nonconformity(proba, "lac"), 1 - proba)
    # Classes that tie are in or out together, whatever their order.
    turned = nonconformity(proba[:, ::-1], "aps")[:, ::-1]
    np.testing.assert_allclose(nonconformity(proba, "aps"), turned, atol=1e-12)


@pytest.mark.parametrize("method", ["lac", "aps"])
@pytest.mark.parametrize("by_class", [False, True])
@pytest.mark.parametrize("grouped", [False, True])
def test_sets_are_those_counted_by_hand(fitted, method, by_class, grouped):
    X, y = make_rows(160, 2)
    lesion = np.arange(160) // 3 if grouped else np.arange(160)  # some of several classes
    clf = calibrate_sets(
        fitted, X, y, groups=lesion if grouped else None, method=method, class_conditional=by_class
    )
    new, _ = make_rows(60, 3)
    sets = clf.predict_set(new, coverage=0.8, allow_empty=True)

    def strangeness(row, k):
        return 1 - row[k] if method == "lac" else sum(p for p in row if p > row[k])

    old = fitted.predict_proba(X)
    scores = np.array(
        [strangeness(row, list(NAMES).index(c)) for row, c in zip(old, y, strict=True)]
    )
    for k, name in enumerate(NAMES):
        mine = y == name if by_class else np.ones(160, dtype=bool)
        wanted = Fraction(4, 5) * (len(set(lesion[mine])) + 1)
        for limit in sorted(scores[mine]):
            parts = [
                Fraction(int((scores[mine & (lesion == g)] <= limit).sum()), int(size))
                for g in set(lesion[mine])
                if (size := (mine & (lesion == g)).sum())
            ]
            if sum(parts) >= wanted:
                break
        proba = fitted.predict_proba(new)
        expected = [strangeness(row, k) <= limit + 1e-12 for row in proba]
        np.testing.assert_array_equal(sets[:, k], expected)


@pytest.mark.parametrize("by_class", [False, True])
@pytest.mark.parametrize("method", ["lac", "aps"])
def test_sets_hold_the_true_class_as_often_as_asked(fitted, method, by_class):
    X, y = make_rows(40_000, 4)
    found = []
    for draw in range(120):
        rows = np.arange(200 * draw, 200 * (draw + 1))
        clf = calibrate_sets(fitted, X[rows], y[rows], method=method, class_conditional=by_class)
        sets = clf.predict_set(X[24_000:], coverage=0.9)
        hit = true_in(sets, y[24_000:])
        found.append([hit.mean(), *(hit[y[24_000:] == name].mean() for name in NAMES)])
    overall, *each = np.mean(found, axis=0)
    if not by_class:  # the rare classes pay for it
        assert overall == pytest.approx(ceil(0.9 * 201) / 201, abs=0.01)
        assert np.ptp(each) > 0.05
    else:
        assert each == pytest.approx([0.9] * 3, abs=0.025)  # 30, 50 and 120 rows: in steps of 1/31
        assert min(each) > 0.89


def test_class_conditional_sets_hold_at_other_frequencies_of_classes(fitted):
    X, y = make_rows(20_000, 5)
    rng = np.random.default_rng(0)
    rare_first = rng.choice(20_000, 10_000, p=(w := np.where(y == "bcc", 12.0, 1.0)) / w.sum())
    cal, (new, truth) = make_rows(12_000, 6), (X[rare_first], y[rare_first])
    told = {}
    for by_class in (False, True):
        clf = calibrate_sets(fitted, *cal, class_conditional=by_class)
        told[by_class] = true_in(clf.predict_set(new, 0.9, allow_empty=True), truth).mean()
    assert told[True] == pytest.approx(0.9, abs=0.02)
    assert abs(told[False] - 0.9) > 0.03


def test_too_few_rows_for_the_coverage_give_all_classes_and_say_so(fitted):
    X, y = make_rows(9, 2)
    nine = calibrate_sets(fitted, X, y)
    few = calibrate_sets(fitted, X[:8], y[:8])
    new, _ = make_rows(200, 3)
    message = "coverage of 0.9 needs 9 .*there were 8, so every set holds all .*ask for 0.888 at"
    with pytest.warns(SkmoecbmWarning, match=message):
        assert few.predict_set(new, 0.9).all()
    few.predict_set(new, 0.888)  # a warning would be an error
    assert not nine.predict_set(new, 0.9).all()
    with pytest.warns(SkmoecbmWarning, match="needs 9 .*there were 3, so"):
        grouped = calibrate_sets(fitted, X, y, groups=np.arange(9) // 3)
        assert grouped.predict_set(new, 0.9).all()


def test_a_class_with_too_few_rows_is_in_every_set_and_is_named(fitted):
    X, y = make_rows(300, 2)
    rows = np.r_[np.flatnonzero(y == "nv"), np.flatnonzero(y == "mel")[:8]]
    clf = calibrate_sets(fitted, X[rows], y[rows], class_conditional=True)
    new, _ = make_rows(200, 3)
    with pytest.warns(SkmoecbmWarning, match=r"of each class; 'bcc' \(0\), 'mel' \(8\) had fewer"):
        sets = clf.predict_set(new, 0.9)
    assert sets[:, :2].all() and not sets[:, 2].all()
    with pytest.warns(SkmoecbmWarning, match=r"needs 8 .*; 'bcc' \(0\) had fewer, so .* holds it"):
        sets = clf.predict_set(new, 0.88)
    assert not sets[:, 1].all()


def test_a_set_is_empty_only_where_that_is_allowed(fitted):
    X, y = make_rows(400, 2)
    clf = calibrate_sets(fitted, X, y)
    new, _ = make_rows(400, 3)
    empty = clf.predict_set(new, 0.3, allow_empty=True)
    full = clf.predict_set(new, 0.3)
    lost = ~empty.any(axis=1)
    assert 50 < lost.sum() < 400
    np.testing.assert_array_equal(full[~lost], empty[~lost])
    assert (full[lost].sum(axis=1) == 1).all()
    assert true_in(full, clf.predict(new))[lost].all()
    by_class = calibrate_sets(fitted, X, y, class_conditional=True)
    sets = by_class.predict_set(new, 0.3)
    lost = ~by_class.predict_set(new, 0.3, allow_empty=True).any(axis=1)
    # The class that is the first to come as the coverage grows, which need not be the likeliest.
    grown = np.array([by_class.predict_set(new, c, allow_empty=True) for c in CENTS[30:97]])
    first = grown.any(axis=2).argmax(axis=0)
    came = grown[first, np.arange(400)]
    assert lost.sum() > 20 and (sets[lost].sum(axis=1) == 1).all()
    assert (sets <= came)[lost].all()
    assert not true_in(sets, clf.predict(new))[lost].all()
    aps = calibrate_sets(fitted, X, y, method="aps").predict_set(new, 0.3, allow_empty=True)
    assert aps.any(axis=1).all()


def test_a_larger_coverage_only_adds_classes_and_rows_do_not_see_each_other(fitted):
    clf = calibrate_sets(fitted, *make_rows(200, 2), class_conditional=True)
    new, _ = make_rows(50, 3)
    sets = [clf.predict_set(new, coverage) for coverage in CENTS[5:90:5]]
    assert all((low <= high).all() for low, high in pairwise(sets))
    assert sets[0].any(axis=1).all() and sets[0].sum() < sets[-1].sum()
    alone = np.concatenate([clf.predict_set(row[None], 0.8) for row in new])
    np.testing.assert_array_equal(alone, sets[15])


def test_two_classes_pipelines_and_searches(fitted):
    X, y = make_rows(300, 1)
    y = np.where(y == "nv", "nv", "other")
    cal, new = make_rows(100, 2), make_rows(40, 3)[0]
    labels = np.where(cal[1] == "nv", "nv", "other")
    single = ConceptBottleneckClassifier(alpha=1.0)
    alone = calibrate_sets(clone(single).fit(X, y), cal[0], labels)
    sets = predict_set(alone, new)
    limit = sorted(1 - alone.predict_proba(cal[0])[labels[:, None] == alone.classes_])[90]
    np.testing.assert_array_equal(
        alone.predict_set(new, allow_empty=True), 1 - alone.predict_proba(new) <= limit + 1e-12
    )
    pipeline = make_pipeline("passthrough", clone(single)).fit(X, y)
    calibrated = calibrate_sets(pipeline, cal[0], labels[:, None])
    np.testing.assert_array_equal(predict_set(calibrated, new), sets)
    assert calibrated[0] == pipeline[0] and not hasattr(pipeline[-1], "set_calibration_")
    search = GridSearchCV(ConceptBottleneckClassifier(), {"alpha": [1.0]}, cv=3).fit(X, y)
    np.testing.assert_array_equal(predict_set(calibrate_sets(search, cal[0], labels), new), sets)
    assert sets_to_lists(sets, alone.classes_) == [
        [name for name, there in zip(["nv", "other"], row, strict=True) if there] for row in sets
    ]


@pytest.mark.parametrize("by_class", [False, True])
def test_calibration_is_saved_with_the_model_and_no_row_order_with_it(fitted, by_class, tmp_path):
    X, y = make_rows(90, 2)
    new, _ = make_rows(50, 3)
    groups = np.arange(90) // 2
    clf = calibrate_sets(fitted, X, y, groups=groups, method="aps", class_conditional=by_class)
    save(clf, tmp_path / "model")
    again = load(tmp_path / "model")
    for coverage in (0.5, 0.85):
        np.testing.assert_array_equal(
            again.predict_set(new, coverage), clf.predict_set(new, coverage)
        )
    save(again, tmp_path / "again")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "model" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    turned = calibrate_sets(
        fitted, X[::-1], y[::-1], groups=groups[::-1], method="aps", class_conditional=by_class
    )
    save(turned, tmp_path / "turned")
    assert load(tmp_path / "turned").set_calibration_.scores == pytest.approx(
        again.set_calibration_.scores
    )
    save(fitted, tmp_path / "plain")
    assert '"sets"' not in (tmp_path / "plain" / "config.json").read_text()
    assert not hasattr(load(tmp_path / "plain"), "set_calibration_")


@pytest.mark.parametrize(
    ("name", "value"),
    [("scores", 1.5), ("scores", 0.99), ("weights", 0.0), ("codes", 3), ("codes", -1)],
)
def test_calibration_that_was_changed_is_not_loaded(fitted, tmp_path, name, value):
    save(calibrate_sets(fitted, *make_rows(90, 2), class_conditional=True), tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    arrays = safetensors.numpy.load(path.read_bytes())
    arrays[f"model.sets.{name}"][0] = value
    path.write_bytes(safetensors.numpy.save(arrays))
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config["arrays_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(FormatError, match=r"model\.sets must have scores in \[0, 1\]"):
        load(tmp_path / "model")


def test_calibration_belongs_to_one_fit_and_to_all_its_experts(fitted):
    cal, new = make_rows(100, 2), make_rows(20, 3)[0]
    clf = calibrate_sets(fitted, *cal)
    assert not hasattr(fitted, "set_calibration_")
    view = clf.without("b")
    for model in (fitted, view, clone(clf).fit(*make_rows(100, 7))):
        with pytest.raises(InputError, match=r"no calibration.*Pass it to calibrate_sets"):
            model.predict_set(new)
    assert clf.predict_set(new).shape == (20, 3)
    sets = calibrate_sets(view, *cal).predict_set(new)
    lost = new.copy()
    lost[:, 3:] = np.nan
    gone = cal[0].copy()
    gone[:, 3:] = np.nan
    np.testing.assert_array_equal(calibrate_sets(fitted, gone, cal[1]).predict_set(lost), sets)
    again = calibrate_sets(mixture().fit(*make_rows(100, 7)), *cal)
    again.fit(*make_rows(100, 7))
    assert not hasattr(again, "set_calibration_")


def test_rows_without_an_expert_have_all_classes_and_calibrate_nothing(fitted):
    (X, y), new = make_rows(100, 2), make_rows(20, 3)[0]
    X[::4] = np.nan
    kept = np.arange(100) % 4 > 0
    new[5] = np.nan
    with pytest.warns(SkmoecbmWarning) as told:
        sets = calibrate_sets(fitted, X, y).predict_set(new, 0.5)
    assert [str(one.message)[:60] for one in told] == [
        "1 row(s) have no expert at all (rows [5]); their sets hold a"
    ]
    assert sets[5].all() and not sets.all()
    expected = calibrate_sets(fitted, X[kept], y[kept]).predict_set(np.delete(new, 5, 0), 0.5)
    np.testing.assert_array_equal(np.delete(sets, 5, 0), expected)
    with pytest.raises(InputError, match="None of the 100 calibration rows has an expert"):
        calibrate_sets(fitted, np.full_like(X, np.nan), y)


def test_sets_stay_those_of_the_prevalence_that_they_were_calibrated_at(fitted):
    (X, y), new = make_rows(100, 2), make_rows(100, 3)[0]
    clf = calibrate_sets(clone(fitted).fit(*make_rows(300, 1)), X, y)
    before = clf.predict_set(new, 0.8)
    clf.set_params(target_prevalence="train")
    np.testing.assert_array_equal(clf.predict_set(new, 0.8), before)
    after = calibrate_sets(clf, X, y).predict_set(new, 0.8, allow_empty=True)
    limit = sorted(1 - clf.predict_proba(X)[y[:, None] == NAMES])[80]
    np.testing.assert_array_equal(after, 1 - clf.predict_proba(new) <= limit + 1e-12)
    assert (after != before).any()


def test_what_cannot_be_calibrated_or_asked_says_why(fitted):
    X, y = make_rows(60, 2)
    with pytest.raises(
        InputError, match=r"calibrate_sets needs a .* Got LogisticRegression at the"
    ):
        calibrate_sets(LogisticRegression().fit(X, y), X, y)
    labels = (X[:, :2] > 0).astype(int)
    several = ConceptBottleneckClassifier(alpha=1.0).fit(X, labels)
    for ask in (lambda: calibrate_sets(several, X, labels), lambda: several.predict_set(X)):
        with pytest.raises(InputError, match=r"of many labels: .* with tune_thresholds"):
            ask()
    with pytest.raises(InputError, match="'method' parameter of calibrate_sets"):
        calibrate_sets(fitted, X, y, method="raps")
    with pytest.raises(InputError, match="'class_conditional' parameter of calibrate_sets"):
        calibrate_sets(fitted, X, y, class_conditional=1)
    with pytest.raises(InputError, match="X has 59 rows and y has 60"):
        calibrate_sets(fitted, X[:-1], y)
    with pytest.raises(InputError, match="labels that the model does not know: wart"):
        calibrate_sets(fitted, X, np.r_[y[:-1], ["wart"]])
    with pytest.raises(InputError, match=r"groups must have shape \(n,\) = \(60,\)"):
        calibrate_sets(fitted, X, y, groups=[1, 2])
    clf = calibrate_sets(fitted, X, y)
    for coverage in (0, 1, 1.2, "0.9", True, np.nan, None):
        with pytest.raises(InputError, match="'coverage' parameter of predict_set"):
            clf.predict_set(X, coverage)
    with pytest.raises(InputError, match="'allow_empty' parameter of predict_set"):
        clf.predict_set(X, allow_empty="no")
    for sets in (np.ones((2, 3)), np.ones((2, 4), dtype=bool)):
        with pytest.raises(InputError, match="sets must be of bool and shape"):
            sets_to_lists(sets, NAMES)


def test_on_real_skin_the_coverage_is_within_two_points(data_dir):
    """MONET's embeddings of dermoscopic images, fitted on 200, halves of the rest 20 times."""
    data = np.load(data_dir / "embeddings" / "derm7pt_monet.npz")
    X = data["X_monet"].astype(float)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    texts = data["txt_detail_monet"].astype(float)
    X = ExpertFeatures.from_similarities({"monet": (X @ texts.T, [f"c{j}" for j in range(49)])})
    y = data["classes"][data["y"]]
    rng = np.random.default_rng(0)
    order = rng.permutation(827)
    clf = ConceptBottleneckClassifier(alpha=10.0).fit(X[order[:200]], y[order[:200]])
    found, each = [], []
    for _ in range(20):
        rest = rng.permutation(order[200:])
        half, other = rest[:313], rest[313:]
        is_true = y[other][:, None] == clf.classes_
        sets = calibrate_sets(clf, X[half], y[half]).predict_set(X[other])
        found.append(sets[is_true].mean())
        by_class = calibrate_sets(clf, X[half], y[half], class_conditional=True)
        hit = by_class.predict_set(X[other], allow_empty=True)[is_true]
        each.append([hit[y[other] == name].mean() for name in clf.classes_])
    assert np.mean(found) == pytest.approx(0.9, abs=0.02)
    assert np.mean(each, axis=0) == pytest.approx([0.9, 0.9], abs=0.02)
