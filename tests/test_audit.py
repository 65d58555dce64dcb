"""The audit's checks, against scikit-learn, pandas and answers that were planted."""

import json
import re
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from scipy.stats import fisher_exact
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, OrthogonalMatchingPursuit
from sklearn.metrics import balanced_accuracy_score, log_loss, roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skmoecbm import (
    ConceptBottleneckClassifier,
    ConceptEncoder,
    ExpertFeatures,
    ExpertUnion,
    GatedConceptBottleneckClassifier,
    audit,
    edit,
    evaluate,
    load_concepts,
)
from skmoecbm._audit import CHECKS
from skmoecbm._audit_calibration import bands
from skmoecbm._audit_ceiling import fit_ceiling
from skmoecbm._audit_economy import SparseLayer, forward_path
from skmoecbm._audit_problem import Gain, Problem, drop_priors, judge_gain
from skmoecbm._audit_result import QUESTIONS, Audit, Check, Measure
from skmoecbm._evaluation import Estimate
from skmoecbm._gating import GateState
from skmoecbm.datasets import make_lesions
from skmoecbm.exceptions import InputError

N, HALF = 600, 300


def planted(texts, *, d=24, seed=0, n=N, keys=("left", "right"), incidence=None, noise=0.5):
    """Embeddings whose label is the sign of the first axis, seen through concepts `texts`."""
    rng = np.random.default_rng(seed)
    E = rng.normal(size=(n, d))
    y = np.where(E[:, 0] + noise * rng.normal(size=n) > 0, "right", "left")
    names = [f"concept {i}" for i in range(len(texts))]
    X = ExpertFeatures.from_embeddings(
        {"eye": (E, texts, names)},
        incidence=incidence,
        class_keys=list(keys) if incidence is not None else None,
    )
    return X, y


def audited(X, y, model=None, **options):
    model = ConceptBottleneckClassifier(alpha=1.0) if model is None else model
    model.fit(X[:HALF], y[:HALF])
    given = {"train": (X[:HALF], y[:HALF]), "n_bootstrap": 100, "n_random": 3, **options}
    return model, audit(model, X[HALF:], y[HALF:], **given)


def test_concepts_along_what_decides_are_better_than_random_directions():
    X, y = planted(np.eye(2, 24))
    _, found = audited(X, y, checks=["concepts", "economy"], n_random=12)
    assert found["concepts"].status == "good" and found["economy"].status == "good"
    assert found["concepts"]["macro_auroc, gain over random"].low > 0.1
    assert "better than random directions here" in found["concepts"].verdict


def test_concepts_that_span_the_space_at_random_are_no_better_than_random_directions():
    texts = np.random.default_rng(5).normal(size=(30, 6))
    X, y = planted(texts, d=6)
    _, found = audited(X, y, checks=["concepts"])
    assert found["concepts"].status == "concern"
    assert "These concepts are no better than random directions here" in found["concepts"].verdict
    gain = found["concepts"]["macro_auroc, gain over random"]
    assert gain.low <= 0 and gain.high < 0.02


def test_concepts_beside_what_decides_are_worse_than_random_directions():
    X, y = planted(np.eye(20, 24)[1:])
    _, found = audited(X, y, checks=["concepts"], n_random=12)
    assert "worse than random directions" in found["concepts"].verdict
    assert found["concepts"].status == "concern"


def test_scores_of_the_concepts_and_of_random_directions_are_those_of_scikit_learn():
    X, y = planted(np.eye(3, 24), seed=3)
    model, found = audited(X, y, checks=["concepts"], random_state=4)
    proba = model.predict_proba(X[HALF:])[:, 1]
    measure = found["concepts"]
    own = roc_auc_score(y[HALF:] == "right", proba)
    assert measure["macro_auroc, concepts"].value == pytest.approx(own)
    recall = balanced_accuracy_score(y[HALF:], model.predict(X[HALF:]))
    assert measure["balanced_accuracy, concepts"].value == pytest.approx(recall)
    # the same directions, drawn here in the order of the audit, under a plain Gaussian law
    rng, aurocs = np.random.RandomState(4), []
    E = np.array(X.blocks[0].embeddings, dtype=float)
    for _ in range(3):
        T = rng.normal(size=(3, 24))
        D = E @ (T / np.linalg.norm(T, axis=1, keepdims=True)).T
        own_class = ConceptBottleneckClassifier(alpha=1.0, prior=None).fit(D[:HALF], y[:HALF])
        aurocs.append(roc_auc_score(y[HALF:] == "right", own_class.predict_proba(D[HALF:])[:, 1]))
    drawn = measure["macro_auroc, random directions"].value
    assert drawn == pytest.approx(np.mean(aurocs), abs=1e-4)
    gain = measure["macro_auroc, gain over random"]
    assert gain.value == pytest.approx(own - np.mean(aurocs), abs=1e-4)
    assert gain.low < gain.value < gain.high


def test_names_that_fit_are_told_from_names_that_do_not():
    right = np.array([[0, 1], [1, 0], [0, 1], [1, 0]], bool)
    texts = np.eye(24)[[0, 0, 0, 0]] * np.array([[1], [-1], [1], [-1]]) + 0.3 * np.eye(24)[1:5]
    # twelve concepts, six for each class, so that a shuffle can hardly be the identity
    texts, right = np.tile(texts, (3, 1)), np.tile(right, (3, 1))
    texts = texts + 0.1 * np.random.default_rng(0).normal(size=texts.shape)
    X, y = planted(texts, incidence=right)
    _, found = audited(X, y, checks=["concepts"])
    assert found["concepts"]["p-value of the names"].value <= 0.05
    # names alone: the mean of the concepts of a class, less that of the other
    z = np.asarray(X, dtype=float)
    z = (z - z[:HALF].mean(0)) / z[:HALF].std(0)
    score = (z[:, right[:, 1]].mean(1) - z[:, right[:, 0]].mean(1))[HALF:]
    by_class = [
        roc_auc_score(y[HALF:] == label, sign * z[HALF:, right[:, k]].mean(1))
        for k, (label, sign) in enumerate([("left", 1), ("right", 1)])
    ]
    told = found["concepts"]["macro_auroc, names alone"].value
    assert told == pytest.approx(np.mean(by_class), abs=1e-6)
    assert roc_auc_score(y[HALF:] == "right", score) > 0.8
    wrong = np.random.default_rng(1).permutation(np.repeat(np.eye(2, dtype=bool), 6, axis=0))
    X, y = planted(np.random.default_rng(2).normal(size=(12, 24)), incidence=wrong)
    _, found = audited(X, y, checks=["concepts"])
    assert found["concepts"]["p-value of the names"].value > 0.05


def test_the_ceiling_is_the_logistic_regression_of_scikit_learn():
    X, y = planted(np.eye(8, 24)[1:], seed=1)
    model, found = audited(X, y, checks=["ceiling"])
    E = np.array(X.blocks[0].embeddings, dtype=float)
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    regression = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300, tol=1e-3))
    search = GridSearchCV(
        regression,
        {"logisticregression__C": [0.001, 0.01, 0.1, 1.0, 10.0]},
        scoring="neg_log_loss",
        cv=folds,
    ).fit(E[:HALF], y[:HALF])
    check = found["ceiling"]
    strength = search.best_params_["logisticregression__C"]
    assert check["C of the regression"].value == strength
    proba = search.predict_proba(E[HALF:])
    truth = y[HALF:] == "right"
    auroc = roc_auc_score(truth, proba[:, 1])
    assert check["macro_auroc, logistic regression"].value == pytest.approx(auroc)
    own = model.predict_proba(X[HALF:])
    gap = roc_auc_score(truth, own[:, 1]) - auroc
    assert check["macro_auroc, model less regression"].value == pytest.approx(gap)
    gap = log_loss(truth, own) - log_loss(truth, proba)
    assert check["log_loss, model less regression"].value == pytest.approx(gap)
    assert check.status == "concern" and "below what the embeddings hold" in check.verdict


def test_rows_of_a_group_share_a_fold_of_the_ceiling(monkeypatch):
    seen = []

    def search(model, grid, *, scoring, cv):
        seen.extend(cv)
        return GridSearchCV(model, grid, scoring=scoring, cv=cv)

    monkeypatch.setattr("skmoecbm._audit_ceiling.GridSearchCV", search)
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 3)
    y = np.repeat(rng.integers(2, size=40), 3)
    fit_ceiling(rng.normal(size=(120, 3)), y, groups, None, False, 0)
    assert len(seen) == 5
    for train, test in seen:
        assert not set(groups[train]) & set(groups[test])


def test_the_sparse_path_is_that_of_brute_force_and_of_scikit_learn():
    rng = np.random.default_rng(0)
    Z = rng.normal(size=(200, 9)) @ rng.normal(size=(9, 9))
    Z = (Z - Z.mean(0)) / Z.std(0)
    target = (Z[:, [2, 5]] @ np.array([[1.0, 0.2], [0.5, -1.0]]) + rng.normal(size=(200, 2))) > 0
    path = forward_path(Z, target.astype(float), np.ones(200), 4)
    for k, order in enumerate(path):
        wanted = target[:, k] - target[:, k].mean()
        chosen = []
        for _ in range(4):
            left = wanted
            if chosen:
                left = wanted - Z[:, chosen] @ np.linalg.lstsq(Z[:, chosen], wanted)[0]
            strength = [-1 if j in chosen else abs(Z[:, j] @ left) for j in range(9)]
            chosen.append(int(np.argmax(strength)))
        assert order == chosen
        for size in (1, 2, 3, 4):
            known = OrthogonalMatchingPursuit(n_nonzero_coefs=size).fit(Z, wanted)
            assert set(np.flatnonzero(known.coef_)) == set(order[:size])


def test_row_weights_of_the_path_are_repeated_rows():
    rng = np.random.default_rng(3)
    Z, target = rng.normal(size=(40, 6)), rng.integers(2, size=(40, 1)).astype(float)
    counts = rng.integers(1, 4, size=40)
    weighted = forward_path(Z, target, counts.astype(float), 6)
    rows = np.repeat(np.arange(40), counts)
    assert weighted == forward_path(Z[rows], target[rows], np.ones(len(rows)), 6)


def test_concepts_that_repeat_others_do_not_enter_twice():
    Z = np.random.default_rng(0).normal(size=(50, 2))
    path = forward_path(np.c_[Z, Z], (Z[:, :1] > 0).astype(float), np.ones(50), 4)
    assert len(path[0]) == 2


@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_sparse_layer_with_all_concepts_is_a_logistic_regression(n_classes):
    rng = np.random.default_rng(1)
    Z, y = rng.normal(size=(150, 4)), rng.integers(n_classes, size=150)
    weights = rng.uniform(0.5, 2, size=150)
    one_hot = (y[:, None] == np.arange(n_classes)).astype(float)
    target = one_hot[:, 1:] if n_classes == 2 else one_hot
    layer = SparseLayer([list(range(4))] * target.shape[1], True).fit(Z, target, weights)
    known = LogisticRegression(tol=1e-9, max_iter=1000).fit(Z, y, sample_weight=weights)
    np.testing.assert_allclose(layer.predict_proba(Z), known.predict_proba(Z), atol=1e-4)


def test_each_output_of_a_sparse_layer_sees_its_own_concepts():
    rng = np.random.default_rng(1)
    Z, target = rng.normal(size=(150, 4)), rng.integers(2, size=(150, 2)).astype(float)
    layer = SparseLayer([[3, 0], [1]], False).fit(Z, target, np.ones(150))
    for k, columns in enumerate([[0, 3], [1]]):
        known = LogisticRegression(tol=1e-9, max_iter=1000).fit(Z[:, columns], target[:, k])
        expected = known.predict_proba(Z[:, columns])[:, 1]
        np.testing.assert_allclose(layer.predict_proba(Z)[:, k], expected, atol=1e-4)
    changed = Z.copy()
    changed[:, 2] += 5
    np.testing.assert_array_equal(layer.predict_proba(changed), layer.predict_proba(Z))


def test_the_curve_of_economy_ends_at_the_regression_on_all_concepts():
    X, y = planted(np.eye(5, 24), seed=2)
    _, found = audited(X, y, checks=["economy"])
    rows = found["economy"].tables["accuracy by concepts per class"]
    assert [row["concepts per class"] for row in rows] == [1, 5]
    D = np.asarray(X, dtype=float)
    known = make_pipeline(StandardScaler(), LogisticRegression(tol=1e-9)).fit(D[:HALF], y[:HALF])
    assert rows[1]["accuracy"] == pytest.approx(known.score(D[HALF:], y[HALF:]))
    best = max(range(5), key=lambda j: abs(np.corrcoef(D[:HALF, j], y[:HALF] == "right")[0, 1]))
    one = make_pipeline(StandardScaler(), LogisticRegression()).fit(D[:HALF, [best]], y[:HALF])
    assert rows[0]["accuracy"] == pytest.approx(one.score(D[HALF:, [best]], y[HALF:]))


def test_one_draw_is_compared_and_decides_nothing():
    X, y = planted(np.eye(2, 24))
    model, found = audited(X, y, checks=["concepts"], n_random=1, random_state=0)
    (measure,) = [
        m for m in found["concepts"].measures if m.name == "macro_auroc, gain over random"
    ]
    T = np.random.RandomState(0).normal(size=(2, 24))
    E = np.array(X.blocks[0].embeddings, dtype=float)
    D = ExpertFeatures.from_embeddings({"eye": (E, T, ["concept 0", "concept 1"])})
    other = ConceptBottleneckClassifier(alpha=1.0, prior=None).fit(D[:HALF], y[:HALF])
    ours, theirs = (
        evaluate(clf, part[HALF:], y[HALF:], n_bootstrap=100, random_state=0)
        for clf, part in ((model, X), (other, D))
    )
    gap = ours.difference(theirs, "macro_auroc")
    assert (measure.value, measure.low, measure.high) == pytest.approx(tuple(gap))
    assert found["concepts"].status == "unclear" and "one draw" in found["concepts"].verdict


@pytest.mark.parametrize(
    ("gain", "told"),
    [
        ((0.05, 0.01, 0.09), "better"),
        ((0.01, 0.005, 0.03), "little"),
        ((0.005, -0.01, 0.015), "none"),
        ((0.03, -0.01, 0.07), "unclear"),
        ((-0.03, -0.05, -0.01), "worse"),
        ((0.03, np.nan, np.nan), "unclear"),
    ],
)
def test_a_gain_is_called_what_its_interval_allows(gain, told):
    assert judge_gain(Estimate(*gain), 0.02) == told


def mixture(**options):
    return GatedConceptBottleneckClassifier(ConceptBottleneckClassifier(alpha=1.0), **options)


def two_experts(n=N, seed=0, missing=False):
    rng = np.random.default_rng(seed)
    y = rng.integers(3, size=n)
    blocks = {}
    for name, centre in (("a", 1.0), ("b", 0.4)):
        E = rng.normal(size=(n, 10))
        E[np.arange(n), y] += 3 * centre
        if missing and name == "b":
            E[rng.random(n) < 0.3] = np.nan
        blocks[name] = (E, np.eye(4, 10), [f"{name}{i}" for i in range(4)])
    return ExpertFeatures.from_embeddings(blocks), np.array(["x", "y", "z"])[y]


def test_the_gate_is_compared_with_the_average_and_with_each_expert():
    X, y = two_experts()
    model, found = audited(X, y, mixture(), checks=["gate"])
    check = found["gate"]
    for name in ("a", "b"):
        alone = mixture(gate="uniform").fit(X[:HALF], y[:HALF])
        alone = alone.without("b" if name == "a" else "a")
        auroc = roc_auc_score(y[HALF:], alone.predict_proba(X[HALF:]), multi_class="ovr")
        assert check[f"macro_auroc, {name} alone"].value == pytest.approx(auroc)
    assert check["macro_auroc, mixture less a alone"].value == pytest.approx(
        roc_auc_score(y[HALF:], model.predict_proba(X[HALF:]), multi_class="ovr")
        - check["macro_auroc, a alone"].value
    )
    usage = model.gate_weights(X[HALF:])
    name = "gate weight of a: mean [5 %, 95 % of rows]"
    assert check[name].value == pytest.approx(usage[:, 0].mean())


def test_a_mixture_in_which_one_expert_decides_alone_is_told():
    X, y = two_experts()
    model = mixture().fit(X[:HALF], y[:HALF])
    both = audit(model, X[HALF:], y[HALF:], checks="gate", n_bootstrap=20)["gate"]
    assert "decides alone" not in both.verdict
    model.gate_state_ = GateState("expert", {"index": np.array(1)})
    found = audit(model, X[HALF:], y[HALF:], checks="gate", n_bootstrap=20)["gate"]
    assert found["share of b in the decisions: mean [5 %, 95 % of rows]"].value == 1
    assert "One expert decides alone: 'b'" in found.verdict
    assert found.status == "concern" and "no training rows" in found.notes[0]


def test_subgroups_are_those_of_pandas():
    X, y = two_experts(missing=True)
    rng = np.random.default_rng(5)
    metadata = pd.DataFrame(
        {
            "age": np.where(rng.random(N) < 0.1, np.nan, rng.integers(5, 90, size=N)),
            "sex": rng.choice(["f", "m"], size=N),
        }
    )
    groups = np.arange(N) // 2
    model = mixture().fit(X[:HALF], y[:HALF])
    found = audit(
        model,
        X[HALF:],
        y[HALF:],
        groups=groups[HALF:],
        metadata=metadata.iloc[HALF:],
        checks=["calibration"],
        n_bootstrap=50,
    )
    table = pd.DataFrame(found["calibration"].tables["subgroups"])
    proba = model.predict_proba(X[HALF:])
    rows = metadata.iloc[HALF:].assign(
        right=model.predict(X[HALF:]) == y[HALF:],
        sure=proba.max(axis=1),
        gate=model.gate_weights(X[HALF:])[:, 1],
        group=groups[HALF:],
    )
    edges = [-np.inf, 30, 50, 70, np.inf]
    names = ["< 30", "30 to < 50", "50 to < 70", ">= 70"]
    rows["age"] = pd.cut(rows["age"], edges, right=False, labels=names).astype(object)
    rows["age"] = rows["age"].where(rows["age"].notna(), "(missing)")
    for column in ("age", "sex"):
        known = rows.groupby(column).agg(
            n=("right", "size"),
            right=("right", "mean"),
            sure=("sure", "mean"),
            gate=("gate", "mean"),
            groups=("group", "nunique"),
        )
        mine = table[table["column"] == column].set_index("level")
        assert sorted(mine.index) == sorted(known.index)
        expected = [*names, "(missing)"] if column == "age" else ["f", "m"]
        assert mine.index.tolist() == expected
        mine = mine.loc[known.index]
        np.testing.assert_array_equal(mine["n"], known["n"])
        np.testing.assert_array_equal(mine["groups"], known["groups"])
        np.testing.assert_allclose(mine["score"], known["right"])
        np.testing.assert_allclose(mine["confidence less accuracy"], known["sure"] - known["right"])
        np.testing.assert_allclose(mine["gate b"], known["gate"])
        assert (mine["low"] <= mine["score"]).all() and (mine["score"] <= mine["high"]).all()


def test_numbers_become_quartiles_and_rare_levels_one():
    values = pd.Series(np.arange(100.0))
    told = pd.Series(bands("thickness", values)).value_counts()
    assert len(told) == 4 and set(told) == {25}
    many = pd.Series([f"site {i % 20}" if i < 80 else "arm" for i in range(100)])
    told = pd.Series(bands("site", many)).value_counts()
    assert len(told) == 13 and told["arm"] == 20 and told["(others)"] == 36


def test_a_subgroup_on_which_the_model_fails_is_named():
    X, y = planted(np.eye(2, 24), noise=0.0)
    model = ConceptBottleneckClassifier(alpha=1.0).fit(X[:HALF], y[:HALF])
    site = np.where(np.arange(HALF) % 5 == 0, "foot", "arm")
    truth = y[HALF:].copy()
    foot = site == "foot"
    truth[foot] = np.where(truth[foot] == "left", "right", "left")
    metadata = pd.DataFrame(
        {"site": site, "coin": np.random.default_rng(0).choice(list("ht"), HALF)}
    )
    found = audit(model, X[HALF:], truth, metadata=metadata, checks="calibration", n_bootstrap=200)
    rows = {
        (row["column"], row["level"]): row["differs"]
        for row in found["calibration"].tables["subgroups"]
    }
    assert rows["site", "foot"] and rows["site", "arm"]
    assert not rows["coin", "h"] and not rows["coin", "t"]
    assert "site foot" in found["calibration"].verdict


def test_a_subgroup_is_not_held_against_a_handful_of_rows():
    X, y = planted(np.eye(2, 24))
    model = ConceptBottleneckClassifier(alpha=1.0).fit(X[:HALF], y[:HALF])
    X, y = X[HALF:], y[HALF:]
    right = model.predict(X) == y
    site = np.full(HALF, "arm", dtype=object)
    site[np.flatnonzero(~right)[:2]] = "foot"  # resampling cannot see how two rows might spread
    given = {"checks": "calibration", "n_bootstrap": 100}
    found = audit(model, X, y, metadata=pd.DataFrame({"site": site}), **given)["calibration"]
    assert [row["differs"] for row in found.tables["subgroups"]] == [None, None]
    assert "No subgroup could be compared" in found.verdict and found.status == "good"
    # nor is a difference denied where none was looked for
    certain = pd.DataFrame({"right": right.astype(str)})
    found = audit(model, X, y, metadata=certain, checks="calibration", n_bootstrap=0)
    assert "No subgroup could be compared" in found["calibration"].verdict
    assert audit(model, X, y, metadata=certain, **given)["calibration"].status == "concern"
    mixed = pd.DataFrame({"site": site, "coin": np.random.default_rng(0).choice(list("ht"), HALF)})
    found = audit(model, X, y, metadata=mixed, **given)["calibration"]
    assert "Of 4 subgroups 2 could be compared (20 groups each side); none differs" in found.verdict


def test_a_small_subgroup_in_which_all_is_right_may_be_so_by_chance():
    X, y = planted(np.eye(2, 24))
    model = ConceptBottleneckClassifier(alpha=1.0).fit(X[:HALF], y[:HALF])
    X, y = X[HALF:], y[HALF:]
    right = model.predict(X) == y
    few = np.isin(np.arange(HALF), np.flatnonzero(right)[:22])
    counts = [[right[rows].sum(), (~right[rows]).sum()] for rows in (few, ~few)]
    assert counts[0] == [22, 0] and fisher_exact(counts).pvalue > 0.05 / 2
    given = {"checks": "calibration", "n_bootstrap": 200}
    metadata = pd.DataFrame({"site": np.where(few, "foot", "arm")})
    found = audit(model, X, y, metadata=metadata, **given)["calibration"]
    assert not any(row["differs"] for row in found.tables["subgroups"])
    many = np.isin(np.arange(HALF), np.flatnonzero(right)[:100])
    metadata = pd.DataFrame({"site": np.where(many, "foot", "arm")})
    found = audit(model, X, y, metadata=metadata, **given)["calibration"]
    assert all(row["differs"] for row in found.tables["subgroups"])


def test_few_rows_are_no_evidence_of_good_probabilities():
    X, y = planted(np.eye(2, 24))
    model = ConceptBottleneckClassifier(alpha=1.0).fit(X[:HALF], y[:HALF])
    few, all_ = (
        audit(model, X[HALF : HALF + n], y[HALF : HALF + n], checks="calibration", n_bootstrap=20)
        for n in (15, HALF)
    )
    assert few["calibration"]["ece"].value > all_["calibration"]["ece"].value
    assert (few["calibration"].status, all_["calibration"].status) == ("unclear", "good")
    assert "too few to see a smaller one" in few["calibration"].verdict


def test_rows_of_one_class_are_not_ranked():
    X, y = planted(np.eye(2, 24), incidence=np.eye(2, dtype=bool))
    model = ConceptBottleneckClassifier(alpha=1.0).fit(X[:HALF], y[:HALF])
    one = np.flatnonzero(y[HALF:] == "left") + HALF
    train = (X[:HALF], y[:HALF])
    made = audit(model, X[one], y[one], train=train, n_random=1, n_bootstrap=20)
    for name in ("concepts", "ceiling", "economy", "gate"):
        assert made[name].status == "not made" and "AUROC is undefined" in made[name].verdict
    assert made["calibration"].status != "not made"
    assert "nan" not in made.verdict


def test_a_check_warns_of_nothing_that_it_does_itself():
    X, y = planted(np.eye(2, 24))
    made = audited(X, y, checks=["ceiling"])[1]["ceiling"]
    assert made.notes == ()


def test_probabilities_that_are_right_pass_and_those_too_sure_do_not():
    rng = np.random.default_rng(0)
    X, y = planted(np.eye(1, 24), noise=1.0, n=2000)
    model = ConceptBottleneckClassifier(alpha=0.1).fit(X[:1000], y[:1000])
    truth = np.where(rng.random(1000) < model.predict_proba(X[1000:])[:, 1], "right", "left")
    honest = audit(model, X[1000:], truth, checks="calibration", n_bootstrap=50)["calibration"]
    assert honest.status == "good"
    model.association_, model.intercept_ = 5 * model.association_, 5 * model.intercept_
    sure = audit(model, X[1000:], truth, checks="calibration", n_bootstrap=50)["calibration"]
    assert sure.status == "concern" and "too sure" in sure.verdict
    confidence = model.predict_proba(X[1000:]).max(1).mean()
    gap = confidence - (model.predict(X[1000:]) == truth).mean()
    assert sure["confidence less accuracy"].value == pytest.approx(gap)
    bins = sure.tables["reliability"]
    assert sum(row["n"] for row in bins) == 1000
    assert all(row["from"] < row["confidence"] <= row["to"] for row in bins)


def test_leaks_are_counted_and_their_effect_is_told():
    X, y = planted(np.eye(2, 24))
    test = np.r_[np.arange(HALF, N), np.arange(40)]
    model = ConceptBottleneckClassifier(alpha=1.0).fit(X[:HALF], y[:HALF])
    train = (X[:HALF], y[:HALF], np.arange(HALF))
    groups = np.r_[np.arange(HALF, N), np.full(40, -1)]
    groups[:10] = np.arange(10)
    found = audit(model, X[test], y[test], train=train, groups=groups, checks="leaks")["leaks"]
    values = {one.name: one.value for one in found.measures}
    assert values["test rows that are identical to one"] == 40
    assert values["test rows that share a group with training rows"] == 10
    assert values["share of test rows that leak"] == pytest.approx(50 / 340)
    clean = np.r_[np.arange(HALF + 10, N)]
    accuracy = (model.predict(X[clean]) == y[clean]).mean()
    assert values["accuracy of the other rows"] == pytest.approx(accuracy)
    assert found.status == "concern" and "50 of 340 test rows leak" in found.verdict


def test_without_groups_a_clean_split_is_no_more_than_unclear():
    X, y = planted(np.eye(2, 24))
    _, found = audited(X, y, checks="leaks")
    assert (
        found["leaks"].status == "unclear" and "no groups on both sides" in found["leaks"].notes[0]
    )


def test_phrases_at_fault_are_weighed_by_what_they_carry():
    X, y = planted(np.eye(3, 24))
    names = ["suggests right", "irregular border", "treated by surgery"]
    block = X.blocks[0]
    incidence = np.array([[0, 1], [1, 0], [1, 0]], bool)
    X = ExpertFeatures.from_embeddings(
        {"eye": (np.array(block.embeddings), np.eye(3, 24), names)},
        incidence=incidence,
        class_keys=["left", "right"],
    )
    model, found = audited(X, y, checks="language")
    check = found["language"]
    rows = {row["concept"]: row for row in check.tables["findings by weight"]}
    assert rows["suggests right"]["rule"].startswith("leak")
    assert rows["treated by surgery"]["rule"] == "non-visual/treatment"
    z = np.abs(
        (np.asarray(X, dtype=float)[HALF:] - model.mean_) / model.scale_ * model.association_
    )
    share = z.mean(0) / z.mean(0).sum()
    assert rows["suggests right"]["share of decisions"] == pytest.approx(share[0], abs=1e-6)
    told = check["share of decisions carried by errors"].value
    assert told == pytest.approx(share[0] + share[2], abs=1e-6)
    assert check.status == "concern"


def test_every_check_is_made_or_says_why_not():
    X, y = planted(np.eye(2, 24))
    model, found = audited(X, y, train=None)
    assert list(found.checks) == list(CHECKS) == list(QUESTIONS)
    for name in ("leaks", "concepts", "ceiling", "economy"):
        assert found[name].status == "not made" and "train=(images, y" in found[name].verdict
    assert "one expert" in found["gate"].verdict
    D = np.asarray(X)
    model = ConceptBottleneckClassifier(alpha=1.0).fit(D[:HALF], y[:HALF])
    found = audit(model, D[HALF:], y[HALF:], train=(D[:HALF], y[:HALF]), n_bootstrap=20)
    assert "carries the embeddings of its concepts" in found["concepts"].verdict
    assert "no image embeddings" in found["ceiling"].verdict
    assert found["economy"].status == "unclear"  # measured, without a control
    assert "no random control" in found["economy"].notes[0]
    assert "do not tell which columns are phrases" in found["language"].verdict
    assert "neither groups, nor images, nor embeddings" in found["leaks"].verdict


def test_rows_without_an_expert_and_foreign_heads_are_audited_too():
    X, y = two_experts(missing=True)
    experts = [
        ("a", "a"),
        ("trees", HistGradientBoostingClassifier(max_iter=10), "b"),
    ]
    model = mixture(experts=experts)
    _, found = audited(X, y, model, n_random=2, n_bootstrap=30)
    status = {name: check.status for name, check in found.checks.items()}
    assert "not made" not in status.values(), found
    frozen = FrozenEstimator(LogisticRegression().fit(np.nan_to_num(np.asarray(X.select("b"))), y))
    experts = [("a", "a"), ("old", frozen, "b")]
    model = mixture(experts=experts)
    _, found = audited(X, y, model, checks=["concepts"], n_random=2, n_bootstrap=30)
    assert "expert 'b' has no concepts to exchange" in found["concepts"].notes[0]


@pytest.mark.parametrize("activation", ["softmax", "nonnegative"])
def test_other_activations_are_audited_too(activation):
    X, y = two_experts()
    head = ConceptBottleneckClassifier(activation=activation, alpha=1.0, max_iter=20)
    model = GatedConceptBottleneckClassifier(head)
    wanted = ["concepts", "gate", "language"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        _, found = audited(X, y, model, checks=wanted, n_random=1, n_bootstrap=20)
    assert all(check.status != "not made" for check in found.checks.values()), found
    if activation == "softmax":  # what a refit warns of stands in the notes
        assert any("did not converge in 20 steps" in note for note in found["concepts"].notes)


def test_many_labels_are_audited_by_auroc():
    rng = np.random.default_rng(0)
    E = rng.normal(size=(N, 8))
    y = (E[:, :3] + 0.3 * rng.normal(size=(N, 3)) > 0).astype(int)
    X = ExpertFeatures.from_embeddings({"eye": (E, np.eye(3, 8), ["one", "two", "three"])})
    _, found = audited(X, y, n_random=12)
    assert found["concepts"].status == "good"
    assert found["ceiling"]["macro_auroc, logistic regression"].value > 0.9
    assert {name for name, c in found.checks.items() if c.status == "not made"} == {"gate"}
    json.dumps(found.to_dict(), allow_nan=False)


def test_labels_may_come_as_a_table_or_sparse():
    rng = np.random.default_rng(0)
    E = rng.normal(size=(N, 8))
    y = pd.DataFrame((E[:, :3] > 0).astype(int), columns=["red", "round", "rough"])
    X = ExpertFeatures.from_embeddings({"eye": (E, np.eye(3, 8), ["one", "two", "three"])})
    model = ConceptBottleneckClassifier(alpha=1.0).fit(X[:HALF], y[:HALF])
    options = {"n_random": 1, "n_bootstrap": 10, "checks": ["concepts", "ceiling", "economy"]}
    whole = audit(model, X[HALF:], y[HALF:], train=(X[:HALF], y[:HALF]), **options)
    turned = y[["rough", "red", "round"]]
    mixed = audit(model, X[HALF:], turned[HALF:], train=(X[:HALF], turned[:HALF]), **options)
    sparse = scipy.sparse.csr_matrix(y.to_numpy())
    packed = audit(model, X[HALF:], sparse[HALF:], train=(X[:HALF], sparse[:HALF]), **options)
    assert whole.to_dict() == mixed.to_dict() == packed.to_dict()
    assert all(check.status != "not made" for check in whole.checks.values())


def test_few_draws_that_differ_do_not_look_like_many():
    X, y = planted(np.eye(2, 24))
    model = ConceptBottleneckClassifier(alpha=1.0).fit(X[:HALF], y[:HALF])
    given = {"n_bootstrap": 2000, "train": (X[:HALF], y[:HALF]), "checks": ["concepts"]}
    found = audit(model, X[HALF:], y[HALF:], n_random=4, **given)["concepts"]
    gain = found["macro_auroc, gain over random"]
    # the draws are of directions in 24 dimensions: of the label's they hold little or much
    singles = []
    rng = np.random.RandomState(0)
    for _ in range(4):
        T = rng.normal(size=(2, 24))
        D = ExpertFeatures.from_embeddings({"eye": (X.blocks[0].embeddings, T, ["a", "b"])})
        other = ConceptBottleneckClassifier(alpha=1.0).fit(D[:HALF], y[:HALF])
        singles.append(roc_auc_score(y[HALF:] == "right", other.predict_proba(D[HALF:])[:, 1]))
    between = np.std(singles) / 2  # of a mean of four, with the four for the population
    assert gain.high - gain.low > 2 * 1.8 * between
    assert between > 0.01


def test_words_are_weighed_by_their_parts_of_the_probability_where_these_are_averaged():
    X, y = two_experts()
    model = mixture(pool="prob")
    _, found = audited(X, y, model, checks="language")
    assert found["language"].status != "not made"
    looked = sum(len(block.concepts) for block in X.blocks)
    assert found["language"].measures[0].value == looked


def test_a_pipeline_of_images_gives_what_its_features_give(tmp_path):
    drawn = make_lesions(160, random_state=0)
    images, y = list(drawn.images), np.asarray(drawn.target)
    bank = load_concepts("lesions")
    y = np.where(y == "nv-like", "nv-like", "mel-like")
    union = ExpertUnion([("general", ConceptEncoder("demo-general", bank, cache_dir=tmp_path))])
    model = make_pipeline(union, mixture()).fit(images[:100], y[:100])
    options = {"n_random": 1, "n_bootstrap": 20, "checks": ["concepts", "language", "leaks"]}
    images[120] = images[3]
    whole = audit(model, images[100:], y[100:], train=(images[:100], y[:100]), **options)
    train, test = (model[:-1].transform(part) for part in (images[:100], images[100:]))
    parts = audit(model, test, y[100:], train=(train, y[:100]), **options)
    assert whole.notices == parts.notices and "not for clinical use" in whole.notices[0]
    assert whole.to_dict()["checks"] == parts.to_dict()["checks"]
    assert whole["leaks"]["test rows that are identical to one"].value == 1


def test_the_result_is_a_table_json_text_and_escaped_html():
    rows = [{"level": "<script>alert(1)</script>", "n": 3, "score": np.float64(0.5), "none": None}]
    check = Check(
        "gate",
        "concern",
        "a <b>verdict</b>",
        (Measure("<i>auroc", 0.5, 0.4, 0.6, "none"), Measure("x", np.nan)),
        {"<table>": rows},
        ("<note>",),
    )
    found = Audit([check], n=9, n_groups=3, n_train=5, confidence=0.9, n_bootstrap=10)
    text = found.to_html()
    assert "<script" not in text and "&lt;script&gt;alert(1)" in text
    for hostile in ("<b>", "<i>", "<table>t", "<note>"):
        assert hostile not in text
    assert not re.search(r"\bon\w+=|javascript:", text)
    assert text == found._repr_html_()
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert told["checks"][0]["measures"][1]["value"] is None
    assert told["checks"][0]["tables"]["<table>"][0]["score"] == 0.5
    frame = found.to_frame()
    names = ["check", "status", "measure", "value", "low", "high", "verdict"]
    assert list(frame.columns) == names
    assert frame["value"].iloc[0] == 0.5 and len(frame) == 2
    assert "9 rows in 3 groups" in repr(found) and "0.500 [0.400, 0.600]" in repr(found)
    assert found.verdict == "gate (concern): a <b>verdict</b>"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"checks": ["magic"]}, "'checks' parameter of audit"),
        ({"n_random": 0}, "'n_random' parameter of audit"),
        ({"train": "images"}, "'train' parameter of audit"),
        ({"groups": [1, 2]}, "2 groups"),
        ({"metadata": pd.DataFrame({"a": [1]})}, "1 metadata"),
        ({"y": ["left"] * 7}, "7 rows came with 300 images"),
        ({"y": ["up"] * HALF}, "does not know: up"),
        ({"model": LogisticRegression().fit([[0.0], [1.0]], [0, 1])}, "Got LogisticRegression"),
    ],
)
def test_what_is_wrong_with_a_call_is_one_sentence(change, message):
    X, y = planted(np.eye(2, 24))
    model = ConceptBottleneckClassifier(alpha=1.0).fit(X[:HALF], y[:HALF])
    given = {"model": model, "images": X[HALF:], "y": y[HALF:], **change}
    with pytest.raises(InputError, match=message):
        audit(given.pop("model"), given.pop("images"), given.pop("y"), **given)


def test_training_rows_of_other_classes_are_told():
    X, y = two_experts()
    model = mixture().fit(X[:HALF], y[:HALF])
    rows = np.flatnonzero(y[:HALF] != "z")
    found = audit(model, X[HALF:], y[HALF:], train=(X[rows], y[rows]), checks="concepts")
    assert "give training rows of all its classes" in found["concepts"].verdict


def test_random_directions_are_fitted_without_a_prior(monkeypatch):
    seen = []
    fit = ConceptBottleneckClassifier.fit

    def watched(self, X, y, **options):
        fitted = fit(self, X, y, **options)
        seen.append((fitted.prior_used_, np.array(X.blocks[0].texts)))
        return fitted

    incidence = np.array([[1, 0], [0, 1], [0, 1]], bool)
    X, y = planted(np.eye(3, 24), incidence=incidence)
    model = ConceptBottleneckClassifier(alpha=1.0).fit(X[:HALF], y[:HALF])
    monkeypatch.setattr(ConceptBottleneckClassifier, "fit", watched)
    options = {"n_random": 2, "n_bootstrap": 10, "checks": "concepts"}
    audit(model, X[HALF:], y[HALF:], train=(X[:HALF], y[:HALF]), **options)
    texts = np.array(X.blocks[0].texts)
    random = [T for prior, T in seen if prior is None]
    named = [T for prior, T in seen if prior == "class"]
    assert len(random) == 2 and len(named) == 3  # the model itself, and twice with names shuffled
    assert all((T == texts).all() for T in named)
    for T in random:
        np.testing.assert_allclose(np.linalg.norm(T, axis=1), 1, atol=1e-6)
        assert np.abs(T @ texts.T).max() < 0.9
    assert not np.allclose(random[0], random[1])


def test_own_heads_of_experts_lose_their_prior_too():
    own = ConceptBottleneckClassifier(prior="class_name")
    trees = HistGradientBoostingClassifier()
    model = mixture(experts=[("a", own, "a"), ("b", trees, "b"), ("c", "c")])
    drop_priors(model)
    assert model.head.prior is None and model.head.alpha == 1.0
    assert model.experts[0][1].prior is None and own.prior == "class_name"
    assert model.experts[1][1] is trees and model.experts[2] == ("c", "c")


def test_an_edited_model_is_not_judged_by_refits_without_its_edits():
    X, y = planted(np.eye(2, 24))
    edited = edit(
        ConceptBottleneckClassifier(alpha=1.0).fit(X[:HALF], y[:HALF]), forbid="concept 0"
    )
    found = audit(edited, X[HALF:], y[HALF:], train=(X[:HALF], y[:HALF]), n_bootstrap=20)
    assert found["concepts"].status == "not made" and "edited" in found["concepts"].verdict
    assert found["calibration"].status != "not made"


def test_a_bias_through_all_bins_is_no_good_calibration():
    """Too few rows for the error of the bins, not for the mean of all of them."""
    X, y = planted(np.eye(2, 24))
    model = ConceptBottleneckClassifier(alpha=1.0).fit(X[:HALF], y[:HALF])
    new = X[HALF : HALF + 60]
    proba = model.predict_proba(new)
    sure, best = proba.max(axis=1), model.classes_[proba.argmax(axis=1)]
    other = np.where(best == "left", "right", "left")
    # wrong half as often as it says
    truth = np.where(np.random.default_rng(1).random(60) < 0.5 * (1 - sure), other, best)
    found = audit(model, new, truth, checks="calibration", n_bootstrap=200)["calibration"]
    gap, limit = found["confidence less accuracy"], found.measures[1]
    assert gap.value == pytest.approx(sure.mean() - (best == truth).mean())
    assert gap.high < 0 and found["ece"].value < limit.value
    assert found.status == "concern" and "Yet the model is not sure enough" in found.verdict


def gain_over(scores, resamples, **settings):
    """`mean_gain` of the first of some scores over the others, whatever model they are of."""
    fields = dict.fromkeys(Problem.__dataclass_fields__)
    problem = Problem(
        **{**fields, "warned": [], "confidence": 0.95, "seed": 0, "n_bootstrap": 50, **settings}
    )
    ours, *others = [
        FakeEvaluation({"auroc": Estimate(value, np.nan, np.nan)}, {"auroc": drawn})
        for value, drawn in zip(scores, resamples, strict=True)
    ]
    return problem.mean_gain(ours, others, "auroc")


class FakeEvaluation(dict):
    """What `mean_gain` reads of an `Evaluation`."""

    def __init__(self, values, draws):
        super().__init__(values)
        self.draws = draws


@pytest.mark.parametrize("n_random", [2, 5, 20])
def test_a_bank_that_is_one_more_random_draw_is_rarely_called_better(n_random):
    """However little the rows leave open: the average of the draws is no random bank."""
    rng = np.random.default_rng(n_random)
    called = {"better": 0, "worse": 0}
    for _ in range(1000):
        scores = rng.normal(0.8, 0.02, n_random + 1)
        resamples = scores[:, None] + 1e-4 * rng.normal(size=(n_random + 1, 50))
        found = judge_gain(gain_over(scores, resamples), 0.0)
        called["better"] += found == "better"
        called["worse"] += found == "worse"
    assert max(called.values()) < 45 and min(called.values()) > 8  # 25 are expected of each


def test_a_gain_within_luck_is_none_where_a_larger_one_is_ruled_out():
    assert judge_gain(Gain(0.007, 0.001, 0.016, 0.012), 0.02) == "none"
    assert judge_gain(Gain(0.013, 0.001, 0.016, 0.012), 0.02) == "little"
    assert judge_gain(Gain(0.03, 0.01, 0.05, 0.04), 0.02) == "unclear"
    assert judge_gain(Gain(-0.03, -0.05, -0.01, 0.04), 0.02) == "none"
    assert judge_gain(Gain(0.1, 0.09, 0.11, np.nan), 0.02) == "unclear"
