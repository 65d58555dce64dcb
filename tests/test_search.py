"""The search: the same results as one by one, and what it shares."""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

import skmoecbm._settings_fit as settings_fit
from skmoecbm import (
    ConceptBottleneckClassifier,
    ExpertFeatures,
    GatedConceptBottleneckClassifier,
    GatedConceptBottleneckClassifierCV,
    InputError,
    JointTraining,
    LinearGate,
    MLPGate,
    explain,
    load,
    save,
)
from tests.brute_force import make_blocks, make_table

EXPERTS = [("a", slice(0, 4)), ("b", slice(4, 9))]
GRID = [
    {"head__alpha": [0.1, 10.0], "gate__penalty": [1.0, 50.0], "guard": [False]},
    {"head__alpha": [10.0], "head__prior_strength": [0.5]},
    {"head__alpha": [None], "gate": ["uniform", LinearGate()], "pool": ["prob"]},
]


def _mixture(head=None, gate=None, **settings):
    head = ConceptBottleneckClassifier() if head is None else head
    settings = {"cv": 3, **settings}
    return GatedConceptBottleneckClassifier(
        head, LinearGate() if gate is None else gate, **settings
    )


def _search(estimator, *args, **settings):
    return GatedConceptBottleneckClassifierCV(
        estimator, *args, **{"cv": 3, "scoring": "neg_log_loss", **settings}
    )


@pytest.fixture(scope="module")
def searches():
    """Return rows and labels, the search and scikit-learn's over the same settings."""
    X, y = make_blocks(n=150, noise=2.0, classes=True)
    plain = GridSearchCV(_mixture(), GRID, cv=3, scoring="neg_log_loss", error_score="raise")
    return X, y, _search(_mixture(), GRID).fit(X, y), plain.fit(X, y)


def test_scores_and_choice_are_those_of_grid_search(searches):
    _, _, search, plain = searches
    for f in range(3):
        key = f"split{f}_test_score"
        np.testing.assert_allclose(search.cv_results_[key], plain.cv_results_[key], atol=1e-6)
    assert search.best_params_ == plain.best_params_ and search.best_index_ == plain.best_index_
    assert search.best_score_ == pytest.approx(plain.best_score_, abs=1e-6)
    assert search.n_splits_ == 3 and search.refit_time_ > 0
    assert len(set(np.round(search.cv_results_["mean_test_score"], 6))) > 4  # settings matter


def test_the_table_has_the_form_of_grid_search(searches):
    _, _, search, plain = searches
    ours, theirs = search.cv_results_, plain.cv_results_
    assert set(ours) == set(theirs)
    assert pd.DataFrame(ours).shape == pd.DataFrame(theirs).shape == (7, len(ours))
    for key, values in theirs.items():
        assert len(ours[key]) == len(values)
        if key.startswith("param_"):
            np.testing.assert_array_equal(ours[key].mask, values.mask)
            assert ours[key].dtype.kind == values.dtype.kind, key
    np.testing.assert_array_equal(ours["rank_test_score"], theirs["rank_test_score"])
    assert ours["rank_test_score"].dtype == theirs["rank_test_score"].dtype
    for key in ("mean_test_score", "std_test_score"):
        np.testing.assert_allclose(ours[key], theirs[key], atol=1e-6)
    shown = [{**p, "gate": str(p.get("gate"))} for p in ours["params"]]
    assert shown == [{**p, "gate": str(p.get("gate"))} for p in theirs["params"]]


def test_it_decides_as_its_best_classifier(searches):
    X, y, search, plain = searches
    best = search.best_estimator_
    np.testing.assert_allclose(search.predict_proba(X), plain.predict_proba(X), atol=1e-6)
    np.testing.assert_array_equal(search.predict(X), best.predict(X))
    np.testing.assert_array_equal(search.decision_function(X), best.decision_function(X))
    np.testing.assert_array_equal(search.gate_weights(X), best.gate_weights(X))
    np.testing.assert_array_equal(search.expert_weights(X), best.expert_weights(X))
    np.testing.assert_array_equal(search.expert_logits(X), best.expert_logits(X))
    np.testing.assert_array_equal(
        search.without("a").predict_proba(X), best.without("a").predict_proba(X)
    )
    assert search.score(X, y) == pytest.approx(-log_loss(y, search.predict_proba(X)))
    np.testing.assert_array_equal(search.classes_, best.classes_)
    assert search.n_features_in_ == 11 and list(search.feature_names_in_) == X.columns
    first, second = search.explain(X[:3]), best.explain(X[:3])
    np.testing.assert_array_equal(first.logits, second.logits)
    np.testing.assert_array_equal(explain(search, X[:3]).logits, second.logits)


# ---- one by one ------------------------------------------------------------------------------


def _labels(n=150):
    rng = np.random.default_rng(3)
    X, _ = make_table(n=n, noise=2.0)
    return X, (X[:, :3] + 0.05 * rng.normal(size=(n, 3)) > X[:, :3].mean(0)).astype(int)


def _with_gaps(X):
    X = np.array(X, dtype=float)
    X[::7, :4] = np.nan
    X[3:70:14, 4:] = np.nan
    return X


def _tight(**settings):
    """Return a head whose fits go on until nothing of the tolerance is left."""
    return ConceptBottleneckClassifier(**{"tol": 1e-12, "max_iter": 2000, **settings})


def _wide(n_classes=3, **settings):
    """Return rows with more coefficients than Newton's steps would finish."""
    return make_blocks(n=160, sizes=(180, 190), n_classes=n_classes, noise=3.0, **settings)


TABLE = make_table(n=150, noise=2.0)
CASES = {
    "two classes": (make_table(n=150, noise=2.0, n_classes=2), {"experts": EXPERTS}, {}),
    "one expert": (TABLE, {"experts": [("a", slice(0, 9))]}, {}),
    "missing experts": ((_with_gaps(TABLE[0]), TABLE[1]), {"experts": EXPERTS}, {}),
    "several labels": (_labels(), {"experts": EXPERTS}, {}),
    "class weights": (TABLE, {"experts": EXPERTS, "class_weight": "balanced"}, {}),
    "sample weights": (
        TABLE,
        {"experts": EXPERTS},
        {"sample_weight": np.random.default_rng(0).integers(0, 3, 150).astype(float)},
    ),
    "groups": (TABLE, {"experts": EXPERTS}, {"groups": np.arange(150) // 3}),
    "similarities of embeddings": (_wide(width=24), {}, {}),
    "embeddings wider than concepts": (_wide(width=300, classes=True), {}, {}),
    "mlp gate": (TABLE, {"experts": EXPERTS, "gate": MLPGate(), "random_state": 0}, {}),
    "disagreement": (TABLE, {"experts": EXPERTS, "gate_input": "disagreement"}, {}),
    "no calibration": (TABLE, {"experts": EXPERTS, "calibrate": False}, {}),
    "no guard": (TABLE, {"experts": EXPERTS, "guard": False}, {}),
    "a head of its own": (
        TABLE,
        {"experts": [("a", LogisticRegression(), slice(0, 4)), ("b", slice(4, 9))]},
        {},
    ),
    "joint": (
        TABLE,
        {"experts": EXPERTS, "training": JointTraining(max_epochs=3), "random_state": 0},
        {},
    ),
    "nonnegative": (
        TABLE,
        {
            "experts": EXPERTS,
            "head": ConceptBottleneckClassifier(activation="nonnegative", max_iter=50),
        },
        {},
    ),
    "softmax": (
        TABLE,
        {
            "experts": EXPERTS,
            "head": ConceptBottleneckClassifier(activation="softmax", max_iter=50),
        },
        {},
    ),
    "l1": (TABLE, {"experts": EXPERTS, "head": ConceptBottleneckClassifier(l1=1.0)}, {}),
}


@pytest.mark.filterwarnings("ignore:Associations did not converge")  # softmax, in 50 steps
@pytest.mark.parametrize("case", CASES)
def test_settings_fitted_together_are_those_fitted_one_by_one(case):
    (X, y), settings, extra = CASES[case]
    base = _mixture(**{"head": _tight(), **settings})
    staged = base.training == "staged"
    alphas = [0.3, 30.0, *([None] if staged and base.head.activation == "linear" else [])]
    penalties = [{}, {"gate__penalty": 2.0}] if staged and hasattr(base.gate, "penalty") else [{}]
    tried = [
        clone(base).set_params(head__alpha=alpha, **penalty)
        for alpha in alphas
        for penalty in penalties
    ]
    together = [clone(classifier) for classifier in tried]
    settings_fit.fit_settings(together, X, y, **extra)
    for own, classifier in zip(together, tried, strict=True):
        alone = classifier.fit(X, y, **extra)
        assert own.selected_ == alone.selected_ and own.fallback_ == alone.fallback_
        assert own.alpha_ == alone.alpha_ and own.prior_used_ == alone.prior_used_
        assert own.specialized_ == alone.specialized_
        for ours, theirs in zip(own.heads_, alone.heads_, strict=True):
            if not isinstance(theirs, ConceptBottleneckClassifier):
                continue  # another classifier: what it says is compared below
            np.testing.assert_allclose(ours.association_, theirs.association_, atol=1e-4)
            np.testing.assert_allclose(ours.intercept_, theirs.intercept_, atol=1e-4)
            np.testing.assert_allclose(ours.mean_, theirs.mean_, atol=1e-9)
        if hasattr(alone, "oof_logits_"):
            np.testing.assert_allclose(own.oof_logits_, alone.oof_logits_, atol=1e-4)
        np.testing.assert_allclose(own.expert_scale_, alone.expert_scale_, atol=1e-4)
        np.testing.assert_allclose(own.pool_scale_, alone.pool_scale_, atol=1e-4)
        for name, values in alone.gate_state_.arrays.items():
            np.testing.assert_allclose(own.gate_state_.arrays[name], values, atol=1e-4)
        np.testing.assert_allclose(own.predict_proba(X), alone.predict_proba(X), atol=1e-5)
        assert set(vars(own)) == set(vars(alone))
        assert own.training_summary_ == alone.training_summary_


def _divided(n=400):
    """Return rows of which each of two experts can read one half, and shows which."""
    rng = np.random.default_rng(0)
    centres, y, seer = rng.normal(size=(2, 4, 10)), rng.integers(0, 4, n), rng.integers(0, 2, n)
    blocks = []
    for e in range(2):
        own = (seer == e)[:, None]
        values = 1.5 * rng.normal(size=(n, 10)) + own * centres[e, y]
        values[:, -2:] = np.where(own, 3.0, -3.0) + rng.normal(size=(n, 2))
        blocks.append(values)
    return np.concatenate(blocks, axis=1), y


def test_specialists_are_those_of_one_by_one():
    X, y = _divided()
    experts = [("a", slice(0, 10)), ("b", slice(10, 20))]
    settings = [(alpha, penalty) for alpha in (1.0, 30.0, None) for penalty in (5.0, 20.0)]
    together = [
        _mixture(ConceptBottleneckClassifier(alpha=a), LinearGate(penalty=p), experts=experts)
        for a, p in settings
    ]
    tried = [clone(classifier) for classifier in together]
    settings_fit.fit_settings(together, X, y)
    assert any(classifier.specialized_ for classifier in together)
    for own, classifier in zip(together, tried, strict=True):
        alone = classifier.fit(X, y)
        assert own.specialized_ == alone.specialized_
        np.testing.assert_allclose(own.predict_proba(X), alone.predict_proba(X), atol=1e-6)
        np.testing.assert_allclose(own.oof_logits_, alone.oof_logits_, atol=1e-4)


def test_what_other_rows_left_behind_changes_speed_alone():
    X, y = _wide()
    tried = [_mixture(_tight(alpha=alpha)) for alpha in (0.3, 3.0, 30.0)]
    memories = settings_fit.new_memories()
    settings_fit.fit_settings(
        [clone(c) for c in tried], X[np.arange(120)], y[:120], None, None, memories
    )
    later, fresh = ([clone(c) for c in tried] for _ in range(2))
    settings_fit.fit_settings(later, X[np.arange(40, 160)], y[40:], None, None, memories)
    settings_fit.fit_settings(fresh, X[np.arange(40, 160)], y[40:])
    for own, other in zip(later, fresh, strict=True):
        np.testing.assert_allclose(own.oof_logits_, other.oof_logits_, atol=1e-4)


def test_settings_of_other_columns_and_weights_are_kept_apart():
    X, y = make_table(n=150, noise=2.0)
    turned = [("a", slice(0, 6)), ("b", slice(6, 9))]
    grid = {"experts": [EXPERTS, turned], "class_weight": [None, "balanced"], "cv": [3, 4]}
    base = _mixture(_tight(alpha=1.0))
    search = _search(base, grid).fit(X, y)
    plain = GridSearchCV(base, grid, cv=3, scoring="neg_log_loss").fit(X, y)
    np.testing.assert_allclose(
        search.cv_results_["mean_test_score"], plain.cv_results_["mean_test_score"], atol=1e-6
    )
    assert len(set(np.round(search.cv_results_["mean_test_score"], 9))) == 8


# ---- what is shared --------------------------------------------------------------------------


def test_experts_are_fitted_once_for_all_gates_and_pools(monkeypatch):
    X, y = make_table(n=150, noise=2.0)
    seen = []

    def counted(expert, requests, folds, memory=None):
        seen.append([request.alpha for request in requests])
        return stacked(expert, requests, folds, memory)

    stacked = settings_fit.fit_stacked
    monkeypatch.setattr(settings_fit, "fit_stacked", counted)
    base = _mixture(experts=EXPERTS, specialize=False)
    grid = {"head__alpha": [1.0, 10.0], "gate__penalty": [1.0, 9.0], "pool": ["logit", "prob"]}
    _search(base, grid).fit(X, y)
    assert sorted(map(sorted, seen)) == [[1.0, 10.0]] * 6  # two experts on three folds


def test_rows_are_read_once_a_fold(monkeypatch):
    X, y = make_table(n=150, noise=2.0)
    reads = []
    read = GatedConceptBottleneckClassifier._start_fit

    def counted(self, *args, **settings):
        reads.append(len(args[0]))
        return read(self, *args, **settings)

    monkeypatch.setattr(GatedConceptBottleneckClassifier, "_start_fit", counted)
    base = _mixture(experts=EXPERTS)
    _search(base, {"head__alpha": [1.0, 10.0], "gate__penalty": [1.0, 9.0]}).fit(X, y)
    assert reads == [150, 100, 100, 100, 150]  # to check, three folds, the best on all rows


# ---- folds -----------------------------------------------------------------------------------


def test_groups_straddle_neither_outer_nor_inner_folds():
    X, y = make_table(n=150, noise=2.0)
    groups = np.random.default_rng(0).integers(0, 9, 150)
    base = _mixture(_tight(), experts=EXPERTS)
    search = _search(base, {"head__alpha": [1.0, 100.0]}).fit(X, y, groups=groups)
    for i, alpha in enumerate((1.0, 100.0)):
        splits = StratifiedGroupKFold(3).split(X, y, groups)
        for f, (train, test) in enumerate(splits):
            assert not set(groups[train]) & set(groups[test])
            fitted = clone(base).set_params(head__alpha=alpha)
            fitted.fit(X[train], y[train], groups=groups[train])
            score = -log_loss(y[test], fitted.predict_proba(X[test]))
            assert search.cv_results_[f"split{f}_test_score"][i] == pytest.approx(score, abs=1e-6)


def test_any_splitter_serves_also_one_that_holds_rows_out_twice():
    X, y = make_table(n=150, noise=2.0)
    splits = [(np.arange(100), np.arange(100, 150)), (np.arange(50, 150), np.arange(30, 50))] * 2
    base = _mixture(experts=EXPERTS)
    search = _search(base, {"head__alpha": [1.0]}, cv=splits).fit(X, y)
    assert search.n_splits_ == 4
    first, again = (search.cv_results_[f"split{f}_test_score"][0] for f in (0, 2))
    assert first == pytest.approx(again, abs=1e-9)
    shuffled = StratifiedKFold(4, shuffle=True, random_state=0)
    plain = GridSearchCV(base, {"head__alpha": [1.0]}, cv=shuffled, scoring="accuracy").fit(X, y)
    ours = _search(base, {"head__alpha": [1.0]}, cv=shuffled, scoring="accuracy").fit(X, y)
    assert ours.best_score_ == pytest.approx(plain.best_score_)


def test_an_integer_asks_for_no_more_folds_than_the_rarest_class_has_rows():
    X, y = make_table(n=60)
    y = np.where(np.arange(60) < 4, 3, y)
    assert (
        _search(_mixture(experts=EXPERTS), {"head__alpha": [1.0]}, cv=10).fit(X, y).n_splits_ == 4
    )


# ---- parameters ------------------------------------------------------------------------------


def test_a_list_of_settings_is_what_a_grid_of_them_is():
    X, y = make_table(n=150, noise=2.0)
    base = _mixture(experts=EXPERTS)
    settings = [{"head__alpha": 10.0}, {"head__alpha": 0.1, "pool": "prob"}, {"gate": "uniform"}]
    search = _search(base, settings=settings).fit(X, y)
    assert search.cv_results_["params"] == settings
    assert search.cv_results_["param_pool"].mask.tolist() == [True, False, True]
    own = GridSearchCV(base, {"head__alpha": [10.0]}, cv=3, scoring="neg_log_loss").fit(X, y)
    assert search.cv_results_["mean_test_score"][0] == pytest.approx(own.best_score_, abs=1e-6)


def test_without_anything_it_tries_prior_strengths_and_gate_penalties():
    X, y = make_blocks(n=60, classes=True)
    search = GatedConceptBottleneckClassifierCV(cv=2).fit(X, y)
    assert len(search.cv_results_["params"]) == 9
    assert set(search.best_params_) == {"head__prior_strength", "gate__penalty"}


def test_the_score_that_stands_for_none_is_minus_the_log_loss():
    X, y = make_table(n=150, noise=2.0)
    base, grid = _mixture(experts=EXPERTS), {"head__alpha": [1.0]}
    ours = _search(base, grid, scoring=None).fit(X, y)
    theirs = _search(base, grid, scoring="neg_log_loss").fit(X, y)
    assert ours.best_score_ == pytest.approx(theirs.best_score_, abs=1e-12)


def test_the_score_of_labels_is_the_mean_over_labels():
    X, y = _labels()
    search = _search(_mixture(experts=EXPERTS), {"head__alpha": [1.0]}, scoring=None).fit(X, y)
    p = search.predict_proba(X)
    assert search.score(X, y) == pytest.approx(np.log(np.where(y == 1, p, 1 - p)).mean())


def test_a_callable_is_given_the_rows_as_they_came():
    X, y = make_blocks(n=90)
    seen = []

    def scoring(estimator, rows, labels):
        seen.append(type(rows))
        return estimator.without("a").score(rows, labels)

    search = _search(_mixture(), {"head__alpha": [1.0, 9.0]}, scoring=scoring).fit(X, y)
    assert set(seen) == {ExpertFeatures} and len(seen) == 6
    assert search.scorer_ is scoring and 0 <= search.best_score_ <= 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"estimator": LogisticRegression()}, "'estimator' parameter .* .GridSearchCV searches"),
        ({"param_grid": {"pool": "prob"}}, "'param_grid' parameter .* must be a dict of parameter"),
        ({"param_grid": 3}, "'param_grid' parameter"),
        ({"param_grid": {}, "settings": []}, "takes param_grid or settings, not both"),
        ({"settings": {"pool": "prob"}}, "'settings' parameter .* must be a list of dicts"),
        ({"settings": []}, "has no setting to try"),
        ({"scoring": "log-loss"}, "'scoring' parameter .* the name of a scorer"),
        ({"scoring": ["accuracy"]}, "'scoring' parameter .* .GridSearchCV takes several"),
        ({"scoring": lambda *_: {"a": 1}}, "scoring must return one number. Got dict"),
        ({"cv": 1}, "'cv' parameter of GatedConceptBottleneckClassifierCV must be an integer"),
        ({"cv": "five"}, "'cv' parameter of GatedConceptBottleneckClassifierCV"),
        ({"settings": [{"head__alpha": -1.0}]}, "'alpha' parameter .* greater than 0"),
        ({"settings": [{"head__alpha": 1.0}], "estimator": None, "cv": []}, "'cv' parameter"),
    ],
)
def test_what_is_wrong_is_said(settings, message):
    X, y = make_blocks(n=60)
    with pytest.raises(InputError, match=message):
        GatedConceptBottleneckClassifierCV(
            **{"estimator": _mixture(), "settings": [{}], **settings}
            if "param_grid" not in settings
            else {"estimator": _mixture(), **settings}
        ).fit(X, y)


def test_too_few_rows_for_a_search_are_told():
    X, y = make_table(n=12)
    y = np.where(np.arange(12) == 0, 3, y)
    with pytest.raises(InputError, match=r"No folds can be made .* class 3 has one row only"):
        _search(_mixture(experts=EXPERTS), {"head__alpha": [1.0]}).fit(X, y)


def test_an_unfitted_search_says_so():
    search = GatedConceptBottleneckClassifierCV()
    assert not hasattr(search, "classes_") and not hasattr(search, "n_features_in_")
    with pytest.raises(NotFittedError):
        search.predict(np.zeros((2, 3)))


def test_settings_that_stop_short_are_told():
    X, y = _wide()
    search = _search(_mixture(ConceptBottleneckClassifier(max_iter=2)), {"head__alpha": [1.0]})
    with pytest.warns(ConvergenceWarning, match="in 2 steps: expert 'a' on all rows"):
        search.fit(X, y)


# ---- as an estimator -------------------------------------------------------------------------


def test_it_clones_copies_and_pickles(searches):
    X, _, search, _ = searches
    again = clone(search)
    assert not hasattr(again, "best_estimator_")
    assert again.get_params()["estimator__head__alpha"] is None
    again.set_params(estimator__head__alpha=3.0)
    assert again.estimator.head.alpha == 3.0 and search.estimator.head.alpha is None
    for twin in (pickle.loads(pickle.dumps(search)), copy.deepcopy(search)):
        np.testing.assert_array_equal(twin.predict_proba(X), search.predict_proba(X))
        assert twin.best_params_ == search.best_params_


def test_fitting_changes_nothing_that_was_given():
    X, y = make_table(n=90)
    gate = LinearGate()
    base = _mixture(experts=EXPERTS)
    _search(base, {"gate": [gate, "uniform"], "gate__penalty": [7.0]} | {"gate": [gate]}).fit(X, y)
    assert gate.penalty == 20.0 and not hasattr(base, "classes_")


@pytest.mark.parametrize("in_a_pipeline", [False, True])
def test_saved_is_the_best_model(searches, tmp_path, in_a_pipeline):
    X, y, search, _ = searches
    model = search
    if in_a_pipeline:
        model = make_pipeline(FunctionTransformer(), clone(search)).fit(X, y)
        explained = explain(model, X[:2])
        np.testing.assert_array_equal(explained.logits, model.decision_function(X[:2]))
        model = make_pipeline(model[-1])
    save(model, tmp_path / "model")
    again = load(tmp_path / "model")
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))


def test_progress_is_told_fold_by_fold(searches):
    from tests.test_callbacks import Recorder

    X, y, search, _ = searches
    recorder = Recorder()
    clone(search).set_callbacks(recorder).fit(X, y)
    own = [path[1] for path in recorder.ended if len(path) == 2]
    assert own == ["fold 0", "fold 1", "fold 2", "refit"]
