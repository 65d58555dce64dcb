import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn.base import clone
from sklearn.ensemble import BaggingClassifier, VotingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, LabelEncoder, StandardScaler

from skmoecbm import (
    ConceptBottleneckClassifier,
    ExpertFeatures,
    GatedConceptBottleneckClassifier,
    InputError,
    LinearGate,
    SkmoecbmWarning,
)
from skmoecbm._gating import GateState
from tests.brute_force import losses, make_blocks, make_table, pooled, standardised

EXPERTS = [("a", slice(0, 4)), ("b", slice(4, 9))]


def _single(**settings):
    return ConceptBottleneckClassifier(**{"alpha": 1.0, **settings})


def _gated(gate="linear", **settings):
    """Return a mixture of two experts that learns its gate whatever the guard thinks."""
    settings = {"experts": EXPERTS, "guard": False, "cv": 3, **settings}
    return GatedConceptBottleneckClassifier(_single(), gate, **settings)


def _logits(clf, X):
    values = clf.decision_function(X)
    return values.reshape(len(values), -1)


def _close(first, second, X, Y=None, atol=1e-8):
    Y = X if Y is None else Y
    np.testing.assert_allclose(first.predict_proba(X), second.predict_proba(Y), atol=atol)


# ---- the formula (items 1, 12, 15) -----------------------------------------------------------


@pytest.mark.parametrize("n_classes", [2, 3])
def test_one_hot_gate_is_that_expert_times_its_scales(n_classes):
    X, y = make_table(n_classes=n_classes)
    clf = _gated().fit(X, y)
    for e, columns in enumerate((slice(0, 4), slice(4, 9))):
        clf.gate_state_ = GateState("expert", {"index": np.array(e)})
        head = clf.heads_[e]
        S = (X[:, columns] - head.mean_) / head.scale_ @ head.association_.T + head.intercept_
        expected = clf.pool_scale_[1] * clf.expert_scale_[e] * S
        np.testing.assert_allclose(_logits(clf, X), expected, atol=1e-10)
        assert clf.expert_scale_[e] != 1 and clf.pool_scale_[1] != 1


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("pool", ["logit", "prob", "sum"])
@pytest.mark.parametrize("gate", ["uniform", "constant", "linear", "mlp"])
def test_decision_is_the_pool_of_weighted_expert_logits(n_classes, pool, gate):
    X, y = make_table(n=60, n_classes=n_classes)
    clf = _gated(gate, pool=pool, cv=2, random_state=0).fit(X, y)
    G, S = clf.gate_weights(X), clf.expert_logits(X).reshape(60, 2, -1)
    S = np.concatenate([np.zeros_like(S), S], axis=2) if n_classes == 2 else S
    expected = clf.pool_scale_[1] * pooled(G, clf.expert_scale_[:, None] * S, pool)
    np.testing.assert_allclose(clf.predict_proba(X), softmax(expected, axis=1), atol=1e-12)
    expected = expected[:, 1] - expected[:, 0] if n_classes == 2 else expected
    np.testing.assert_allclose(clf.decision_function(X), expected, atol=1e-10)
    np.testing.assert_allclose(G.sum(axis=1), 1, atol=1e-12)
    voices = G * clf.expert_scale_
    np.testing.assert_allclose(
        clf.expert_weights(X), voices / voices.sum(axis=1, keepdims=True), atol=1e-12
    )
    assert clf.gate_state_.kind == gate == clf.selected_


@pytest.mark.parametrize("n_classes", [2, 3])
def test_uniform_prob_pool_without_calibration_is_the_soft_vote(n_classes):
    X, y = make_table(n_classes=n_classes)
    clf = _gated("uniform", pool="prob", calibrate=False).fit(X, y)
    parts = [
        (name, make_pipeline(FunctionTransformer(lambda D, c=columns: D[:, c]), _single()))
        for name, columns in EXPERTS
    ]
    vote = VotingClassifier(parts, voting="soft").fit(X, y)
    np.testing.assert_allclose(clf.predict_proba(X), vote.predict_proba(X), atol=1e-12)
    logit = _gated("uniform", calibrate=False).fit(X, y)
    assert np.abs(logit.predict_proba(X) - vote.predict_proba(X)).max() > 1e-3


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("pool", ["logit", "sum"])
def test_contributions_sum_to_the_decision_with_missing_experts_too(n_classes, pool):
    X, y = make_table(n_classes=n_classes)
    clf = _gated(pool=pool).fit(X, y)
    X = X[:20].copy()
    X[:5, :4] = np.nan
    X[5:9, 4:] = np.nan
    parts = clf._additive_parts(X)
    assert [part.name for part in parts] == ["a", "b"]
    total = np.zeros((20, len(parts[0].intercept)))
    for part, (_, columns) in zip(parts, EXPERTS, strict=True):
        for i, k in np.ndindex(total.shape):
            for j in range(part.values.shape[1]):
                total[i, k] += part.weight[i] * part.values[i, j] * part.association[k, j]
            total[i, k] += part.weight[i] * part.intercept[k]
        seen = ~np.isnan(X[:, columns]).any(axis=1)
        np.testing.assert_array_equal(part.weight > 0, seen)
        np.testing.assert_array_equal(part.similarities[seen], X[seen][:, columns])
    np.testing.assert_allclose(total, _logits(clf, X), atol=1e-10)
    explanation = clf.explain(X)
    summed = sum(c.sum(axis=1) for c in explanation.contributions) + explanation.bias
    np.testing.assert_allclose(summed, _logits(clf, X), atol=1e-10)


def test_contributions_of_one_expert_sum_to_the_decision():
    for activation in ("linear", "nonnegative", "softmax"):
        X, y = make_table(n=45, sizes=(6,))
        clf = _single(activation=activation).fit(X, y)
        (part,) = clf._additive_parts(X)
        total = part.values @ part.association.T + part.intercept
        np.testing.assert_allclose(total, clf.decision_function(X), atol=1e-10)
        explanation = clf.explain(X[:3])
        summed = explanation.contributions[0].sum(axis=1) + explanation.bias
        np.testing.assert_allclose(summed, clf.decision_function(X[:3]), atol=1e-10)


def test_probability_pool_is_explained_in_probabilities_and_says_so():
    X, y = make_table(n=60)
    clf = _gated("uniform", pool="prob").fit(X, y)
    explanation = clf.explain(X[:2])
    assert explanation.unit == "probability"
    np.testing.assert_array_equal(explanation.totals, clf.predict_proba(X[:2]))


# ---- symmetries (items 2, 3) -----------------------------------------------------------------


@pytest.mark.parametrize("gate", ["uniform", "constant", "linear"])
def test_order_of_experts_cannot_matter(gate):
    X, y = make_table(sizes=(4, 5, 3), n=90)
    experts = [*EXPERTS, ("c", slice(9, 12))]
    order = [2, 0, 1]
    first = _gated(gate, experts=experts).fit(X, y)
    second = _gated(gate, experts=[experts[e] for e in order]).fit(X, y)
    _close(first, second, X)
    np.testing.assert_allclose(first.gate_weights(X)[:, order], second.gate_weights(X), atol=1e-7)
    for mine, theirs in zip(order, second._additive_parts(X), strict=True):
        part = first._additive_parts(X)[mine]
        assert part.name == theirs.name
        np.testing.assert_allclose(
            part.weight[:, None] * part.values * part.association[0],
            theirs.weight[:, None] * theirs.values * theirs.association[0],
            atol=1e-6,
        )


@pytest.mark.parametrize("n_classes", [2, 3])
def test_relabelling_classes_permutes_the_columns(n_classes):
    X, y = make_table(n=90, n_classes=n_classes)
    order = np.roll(np.arange(n_classes), 1)
    names = np.array(["one", "two", "three"])[:n_classes]
    first = _gated().fit(X, y)
    second = _gated().fit(X, order[y])
    np.testing.assert_allclose(first.predict_proba(X), second.predict_proba(X)[:, order], atol=1e-7)
    named = _gated().fit(X, names[y])
    columns = LabelEncoder().fit(names).transform(names)
    assert named.classes_.tolist() == sorted(names)
    np.testing.assert_allclose(
        first.predict_proba(X), named.predict_proba(X)[:, columns], atol=1e-7
    )
    np.testing.assert_array_equal(named.predict(X), names[first.predict(X)])


@pytest.mark.parametrize("estimator", [_single(), _gated(), _gated("mlp"), _gated(pool="prob")])
def test_a_row_does_not_depend_on_the_others(estimator):
    X, y = make_table(n=60)
    clf = clone(estimator).fit(X, y)
    whole, p = clf.decision_function(X), np.random.default_rng(0).permutation(60)
    np.testing.assert_allclose(clf.decision_function(X[p]), whole[p], atol=1e-12)
    for i in (0, 17, 59):
        np.testing.assert_allclose(clf.decision_function(X[i : i + 1]), whole[[i]], atol=1e-12)


# ---- missing experts (item 4) ----------------------------------------------------------------


@pytest.mark.parametrize("gate", ["uniform", "linear", "mlp"])
def test_missing_expert_equals_model_without_it(gate):
    X, y = make_table(sizes=(4, 5, 3), n=90)
    names, slices = ["a", "b", "c"], [slice(0, 4), slice(4, 9), slice(9, 12)]
    clf = _gated(gate, experts=list(zip(names, slices, strict=True))).fit(X, y)
    for name, columns in zip(names, slices, strict=True):
        masked = X.copy()
        masked[:, columns] = np.nan
        view = clf.without(name)
        for method in ("decision_function", "predict_proba", "gate_weights", "expert_weights"):
            np.testing.assert_array_equal(getattr(clf, method)(masked), getattr(view, method)(X))
            np.testing.assert_array_equal(getattr(view, method)(masked), getattr(view, method)(X))
        np.testing.assert_array_equal(clf.expert_logits(masked), view.expert_logits(X))
        e = names.index(name)
        assert (view.gate_weights(X)[:, e] == 0).all()
        np.testing.assert_allclose(view.gate_weights(X).sum(axis=1), 1, atol=1e-12)
        assert np.isnan(view.expert_logits(X)[:, e]).all()
    assert np.isfinite(clf.expert_logits(X)).all(), "the view is a view"
    last = clf.without("a").without("b")
    head = clf.heads_[2]
    expected = clf.expert_scale_[2] * head.decision_function(X[:, 9:])
    np.testing.assert_allclose(last.decision_function(X), expected, atol=1e-12)


def test_view_without_an_expert_fits_like_any_other():
    X, y = make_table(n=60)
    clf = _gated().fit(X, y)
    view = clf.without("b")
    expected = view.predict_proba(X)
    again = clf.without("b").fit(X, y)
    _close(again, clf, X, atol=0)
    np.testing.assert_array_equal(view.predict_proba(X), expected)
    renamed = clf.without("b").set_params(experts=[("c", EXPERTS[0][1]), ("d", EXPERTS[1][1])])
    _close(renamed.fit(X, y), clf, X, atol=1e-12)


def test_without_refuses_strangers_and_the_last_expert():
    X, y = make_table(n=60)
    clf = _gated("uniform").fit(X, y)
    with pytest.raises(InputError, match=r"'z'.*\['a', 'b'\]"):
        clf.without("z")
    with pytest.raises(InputError, match="'b' is the last expert"):
        clf.without("a").without("b")
    with pytest.raises(InputError, match=r"'a'.*\['b'\]"):
        clf.without("a").without("a")
    with pytest.raises(NotFittedError):
        _gated().without("a")


@pytest.mark.parametrize("estimator", [_single(), _gated()])
def test_row_without_any_expert_gets_the_class_prior_with_a_warning(estimator):
    X, y = make_table(n=90)
    y[:12] = 0
    weights = np.linspace(0.5, 2, 90)
    clf = clone(estimator).fit(X, y, sample_weight=weights)
    masked = X.copy()
    masked[[3, 8]] = np.nan
    with pytest.warns(SkmoecbmWarning, match=r"2 row\(s\).*\[3, 8\]"):
        proba = clf.predict_proba(masked)
    frequency = np.bincount(y, weights=weights) / weights.sum()
    np.testing.assert_allclose(proba[[3, 8]], [frequency, frequency], atol=1e-12)
    rest = np.setdiff1d(np.arange(90), [3, 8])
    np.testing.assert_array_equal(proba[rest], clf.predict_proba(X)[rest])


def test_missing_experts_in_training_are_left_to_the_rows_that_have_them():
    X, y = make_table(n=120)
    X[:30, :4] = np.nan
    X[30:40, 4:] = np.nan
    clf = _gated().fit(X, y)
    for e, (rows, columns) in enumerate(
        ((np.arange(30, 120), slice(0, 4)), (np.r_[0:30, 40:120], slice(4, 9)))
    ):
        alone = _single().fit(X[rows, columns], y[rows])
        np.testing.assert_allclose(clf.heads_[e].association_, alone.association_, atol=1e-7)
        np.testing.assert_allclose(clf.heads_[e].mean_, alone.mean_, atol=1e-12)
    G = clf.gate_weights(X)
    assert (G[:30, 0] == 0).all() and (G[30:40, 1] == 0).all()
    assert np.isfinite(clf.decision_function(X)).all()
    extra = np.r_[X, np.full((5, 9), np.nan)]
    more = _gated(cv=2).fit(X, y)
    with_lost = _gated(cv=2).fit(extra, np.r_[y, np.zeros(5, int)])
    assert np.isfinite(with_lost.predict_proba(X)).all()
    for mine, theirs in zip(with_lost.heads_, more.heads_, strict=True):
        np.testing.assert_allclose(mine.association_, theirs.association_, atol=1e-7)
    np.testing.assert_allclose(with_lost.class_log_prior_, more.class_log_prior_)


# ---- containers ------------------------------------------------------------------------------


def _containers(n=90, n_classes=3):
    features, y = make_blocks(n=n, sizes=(4, 5), n_classes=n_classes)
    array = np.asarray(features)
    values = {"a": (array[:, :4], features.blocks[0].concepts)}
    values["b"] = (array[:, 4:], features.blocks[1].concepts)
    containers = {
        "embeddings": features,
        "similarities": ExpertFeatures.from_similarities(values),
        "frame": features.to_frame(),
        "array": array,
        "float64": array.astype(np.float64),
        "fortran": np.asfortranarray(array),
        "list": array.tolist(),
    }
    return containers, y


@pytest.mark.filterwarnings("ignore:X does not have valid feature names:UserWarning")
def test_results_do_not_depend_on_the_container():
    containers, y = _containers()
    fitted = {}
    for name, X in containers.items():
        named = name in ("embeddings", "similarities", "frame")
        fitted[name] = _gated(experts="auto" if named else EXPERTS).fit(X, y)
        assert fitted[name].expert_names_ == ["a", "b"]
        assert [c.tolist() for c in fitted[name].expert_columns_] == [[0, 1, 2, 3], [4, 5, 6, 7, 8]]
        assert fitted[name].n_features_in_ == 9
    for clf in fitted.values():
        reference = clf.predict_proba(containers["array"])
        for X in containers.values():
            np.testing.assert_allclose(clf.predict_proba(X), reference, atol=1e-12)
        np.testing.assert_allclose(
            reference, fitted["array"].predict_proba(containers["array"]), atol=1e-5
        )
    assert fitted["frame"].concept_names_ == fitted["embeddings"].concept_names_
    assert fitted["frame"].feature_names_in_.tolist() == containers["embeddings"].columns


def test_single_expert_does_not_depend_on_the_container_either():
    features, y = make_blocks(sizes=(5,))
    clf = _single().fit(features, y)
    assert clf.expert_name_ == "a" and clf.concept_names_ == [f"concept {j}" for j in range(5)]
    frame = _single().fit(features.to_frame(), y)
    assert frame.expert_name_ == "a" and frame.concept_names_ == clf.concept_names_
    _close(clf, frame, features, features.to_frame(), atol=1e-6)


def test_columns_of_an_expert_may_lie_anywhere():
    X, y = make_table(n=90)
    order = np.array([4, 0, 5, 1, 6, 2, 7, 3, 8])
    apart = [("a", [1, 3, 5, 7]), ("b", np.isin(np.arange(9), [0, 2, 4, 6, 8]))]
    together, spread = _gated().fit(X, y), _gated(experts=apart).fit(X[:, order], y)
    _close(together, spread, X, X[:, order])
    frame = pd.DataFrame(X, columns=[f"c{i}" for i in range(9)])
    named = [("a", ["c0", "c1", "c2", "c3"]), ("b", ["c4", "c5", "c6", "c7", "c8"])]
    _close(together, _gated(experts=named).fit(frame, y), X, frame)


def test_plain_array_warns_that_there_is_nothing_to_gate():
    X, y = make_table(n=60)
    clf = GatedConceptBottleneckClassifier(_single(), cv=2)
    with pytest.warns(SkmoecbmWarning, match=r"9 columns are one expert.*experts=\[") as caught:
        clf.fit(X, y)
    assert caught[0].filename == __file__, "it points at the call of fit"
    np.testing.assert_array_equal(clf.gate_weights(X), np.ones((60, 1)))
    features, y = make_blocks(n=60, sizes=(4, 5))
    scaled = make_pipeline(StandardScaler(), GatedConceptBottleneckClassifier(_single(), cv=2))
    with pytest.warns(SkmoecbmWarning, match="scaler"):
        scaled.fit(features, y)


def test_gate_input_columns_guide_the_gate_and_are_no_evidence():
    rng = np.random.default_rng(0)
    n = 400
    which = rng.integers(0, 2, n)
    y = rng.integers(0, 2, n)
    signal = 2.0 * y - 1
    X = rng.normal(size=(n, 5))
    X[:, 0] += 3 * signal * (which == 0)
    X[:, 2] += 3 * signal * (which == 1)
    X[:, 4] = which
    settings = {"experts": [("a", [0, 1]), ("b", [2, 3])], "guard": True}
    blind = _gated(LinearGate(penalty=1.0), **settings).fit(X[:, :4], y)
    told = _gated(LinearGate(penalty=1.0), **settings, gate_input=[4]).fit(X, y)
    assert told.selected_ == "linear"
    assert [part.values.shape[1] for part in told._additive_parts(X)] == [2, 2]
    G = told.gate_weights(X)
    assert G[which == 0, 0].mean() > 0.7 and G[which == 1, 0].mean() < 0.3
    assert told.oof_log_loss_["linear"] < min(blind.oof_log_loss_.values()) - 0.05
    flipped = X.copy()
    flipped[:, 4] = 1 - which
    np.testing.assert_array_equal(told.expert_logits(flipped), told.expert_logits(X))
    assert told.routing_information_ > 0.05


# ---- scikit-learn's habits -------------------------------------------------------------------


@pytest.mark.parametrize("estimator", [_single(), _gated(), _gated("mlp", random_state=3)])
def test_clone_pickle_and_fit_twice(estimator):
    X, y = make_table(n=60)
    other, z = make_table(n=50, seed=9, sizes=(3, 6))
    before = repr(estimator.get_params())
    clf = clone(estimator)
    assert repr(clf.get_params()) == before
    assert clf.fit(other, z) is clf
    once, twice = clone(estimator).fit(X, y), clf.fit(X, y)
    np.testing.assert_array_equal(once.predict_proba(X), twice.predict_proba(X))
    assert vars(once).keys() == vars(twice).keys()
    assert repr(clf.get_params()) == before
    copy = pickle.loads(pickle.dumps(once))
    np.testing.assert_array_equal(copy.predict_proba(X), once.predict_proba(X))
    assert clone(once).get_params().keys() == once.get_params().keys()
    with pytest.raises(NotFittedError):
        clone(once).predict(X)


def test_fit_leaves_its_arguments_alone():
    X, y = make_table(n=60)
    X[:4, :4] = np.nan
    weights = np.ones(60)
    copies = X.copy(), y.copy(), weights.copy()
    _gated().fit(X, y, sample_weight=weights)
    for mine, kept in zip((X, y, weights), copies, strict=True):
        np.testing.assert_array_equal(mine, kept)
    head = _single()
    gate = LinearGate()
    GatedConceptBottleneckClassifier(head, gate, experts=EXPERTS, cv=2).fit(X, y)
    assert not [name for part in (head, gate) for name in vars(part) if name.endswith("_")]


@pytest.mark.filterwarnings("ignore:X does not have valid feature names:UserWarning")
def test_grid_search_over_nested_parameters_in_a_pipeline():
    features, y = make_blocks(n=60, sizes=(4, 5))
    clf = GatedConceptBottleneckClassifier(_single(), LinearGate(), cv=2)
    search = GridSearchCV(
        make_pipeline("passthrough", clf),
        {
            "gatedconceptbottleneckclassifier__head__alpha": [0.1, 1e5],
            "gatedconceptbottleneckclassifier__gate__penalty": [5.0],
        },
        cv=2,
        scoring="neg_log_loss",
    ).fit(features, y)
    assert search.best_params_["gatedconceptbottleneckclassifier__head__alpha"] == 0.1
    best = search.best_estimator_[-1]
    assert best.expert_names_ == ["a", "b"] and best.gate.penalty == 5.0
    assert best.alpha_ == best.heads_[0].alpha_ == 0.1
    scores = cross_val_score(_single(), features.select("a"), y, cv=3)
    assert scores.shape == (3,) and scores.mean() > 0.6


def test_parameter_of_a_shorthand_part_says_how_to_reach_it():
    with pytest.raises(InputError, match=r"head__alpha.*head=ConceptBottleneckClassifier\(\)"):
        GatedConceptBottleneckClassifier().set_params(head__alpha=1.0)
    with pytest.raises(InputError, match=r"gate__penalty.*gate=LinearGate\(\)"):
        GatedConceptBottleneckClassifier().set_params(gate__penalty=1.0)
    clf = GatedConceptBottleneckClassifier().set_params(
        head=ConceptBottleneckClassifier(), head__alpha=2.0
    )
    assert clf.head.alpha == 2.0
    with pytest.raises(ValueError, match="nonsense"):
        clf.set_params(nonsense=1)


@pytest.mark.parametrize("kind", [str, object, "category", int, bool, float])
def test_labels_of_any_type_come_back_as_they_were(kind):
    X, y = make_table(n=60, n_classes=2)
    names = {int: y, bool: y == 1, float: y * 1.0}.get(kind, np.array(["no", "yes"])[y])
    if kind == "category":
        names = pd.Series(names, dtype="category")
    elif kind is object:
        names = names.astype(object)
    for estimator in (_single(), _gated("uniform")):
        clf = clone(estimator).fit(X, names)
        predicted = clf.predict(X)
        assert set(predicted) <= set(names) and len(set(predicted)) == 2
        assert predicted.dtype == clf.classes_.dtype
        assert clf.score(X, names) > 0.7
        logits = clf.decision_function(X)
        np.testing.assert_array_equal(predicted == clf.classes_[1], logits > 0)


# ---- weights, classes, groups ----------------------------------------------------------------


def _split_by(rows, n_folds=3):
    """Return a cv for rows that are copies: copies of one row stay in one fold."""
    return [
        (np.flatnonzero(rows % n_folds != f), np.flatnonzero(rows % n_folds == f))
        for f in range(n_folds)
    ]


@pytest.mark.parametrize("alpha", [1.0, None])
@pytest.mark.parametrize("guard", [True, False])
def test_weight_of_two_is_the_row_twice_and_zero_is_no_row(alpha, guard):
    X, y = make_table(n=72, noise=2.0)
    counts = np.random.default_rng(0).integers(0, 4, 72)
    rows = np.arange(72)
    repeated = rows.repeat(counts)
    head = ConceptBottleneckClassifier(alpha=alpha)

    def fit(chosen, weights=None):
        clf = GatedConceptBottleneckClassifier(
            head, experts=EXPERTS, guard=guard, cv=_split_by(chosen), class_weight="balanced"
        )
        return clf.fit(X[chosen], y[chosen], sample_weight=weights)

    weighted, twice = fit(rows, counts), fit(repeated)
    assert weighted.selected_ == twice.selected_
    assert weighted.alpha_ == pytest.approx(twice.alpha_, rel=1e-6)
    np.testing.assert_allclose(weighted.expert_scale_, twice.expert_scale_, rtol=1e-6)
    _close(weighted, twice, X, atol=1e-6)
    single = _single().fit(X, y, sample_weight=counts)
    _close(single, _single().fit(X[repeated], y[repeated]), X)
    assert np.abs(single.predict_proba(X) - _single().fit(X, y).predict_proba(X)).max() > 1e-3


@pytest.mark.parametrize("estimator", [_single(), _gated()])
def test_class_weight_is_a_weight_per_row(estimator):
    X, y = make_table(n=120)
    y[:50] = 0
    counts = np.bincount(y)
    balanced = clone(estimator).set_params(class_weight="balanced").fit(X, y)
    by_dict = clone(estimator).set_params(class_weight={0: 2.0, 2: 0.5}).fit(X, y)
    own = np.array([2.0, 1.0, 0.5])[y]
    _close(balanced, clone(estimator).fit(X, y, sample_weight=(120 / 3 / counts)[y]), X, atol=1e-7)
    _close(by_dict, clone(estimator).fit(X, y, sample_weight=own), X, atol=1e-7)
    np.testing.assert_allclose(np.exp(balanced.class_log_prior_), 1 / 3)


def test_balanced_counts_by_sample_weight():
    X, y = make_table(n=90)
    weights = np.where(y == 0, 5.0, 1.0)
    clf = _single(class_weight="balanced").fit(X, y, sample_weight=weights)
    # 210 in all, 70 per class: 7 / 3 for each of its 30 rows.
    _close(clf, _single().fit(X, y, sample_weight=np.full(90, 7 / 3)), X)


def test_rows_of_weight_zero_may_hold_anything():
    rng = np.random.default_rng(0)
    X = 0.25 + 0.03 * rng.normal(size=(100, 9))
    y = (X[:, 0] + X[:, 5] + 0.02 * rng.normal(size=100) > 0.5).astype(int)
    missing = X.copy()
    missing[:20, 4:] = np.nan
    for table in (X, missing):
        more, labels = np.r_[table, np.full((1, 9), 1e8)], np.r_[y, 0]
        clf = _gated(guard=True).fit(table, y)
        same = _gated(guard=True).fit(more, labels, sample_weight=np.r_[np.ones(100), 0])
        np.testing.assert_allclose(
            same.decision_function(table), clf.decision_function(table), rtol=0, atol=1e-8
        )


def test_groups_of_any_type_are_told_apart():
    X, y = make_table(n=60)
    words = np.array([1, "1"], dtype=object)[np.arange(60) // 3 % 2]
    # Two groups make two folds; taken for one, they would leave none.
    assert _gated(cv=5).fit(X, y, groups=words).fallback_ is None
    by_number = _gated(cv=2).fit(X, y, groups=np.arange(60) // 4)
    as_column = _gated(cv=2).fit(X, y, groups=pd.DataFrame({"lesion": np.arange(60) // 4}))
    _close(by_number, as_column, X, atol=0)


def test_rows_of_a_group_never_straddle_folds():
    """A table of near-identical pairs: out-of-fold logits are honest only by group."""
    rng = np.random.default_rng(0)
    base, label = rng.normal(size=(40, 30)), rng.integers(0, 2, 40)
    X = np.repeat(base, 2, axis=0) + 1e-3 * rng.normal(size=(80, 30))
    y, pair = np.repeat(label, 2), np.repeat(np.arange(40), 2)
    order = rng.permutation(80)
    X, y, pair = X[order], y[order], pair[order]
    experts = [("a", slice(0, 15)), ("b", slice(15, 30))]
    head = ConceptBottleneckClassifier(alpha=0.1)
    clf = GatedConceptBottleneckClassifier(head, experts=experts, cv=5)
    by_lesion = np.array([f"lesion {g}" for g in pair])
    leaky = clone(clf).fit(X, y)
    honest = clone(clf).fit(X, y, groups=by_lesion)
    assert leaky.oof_log_loss_["uniform"] < 0.6 < honest.oof_log_loss_["uniform"]
    # Pairs share a fold, so their out-of-fold logits are near-identical.
    first = {g: i for i, g in enumerate(pair)}
    twin = np.array([first[g] for g in pair])
    gap = np.abs(honest.oof_logits_ - honest.oof_logits_[twin])
    assert gap.max() < 0.1
    named = make_pipeline("passthrough", clone(clf))
    named.fit(X, y, gatedconceptbottleneckclassifier__groups=by_lesion)
    assert named[-1].oof_log_loss_ == honest.oof_log_loss_


# ---- bad input -------------------------------------------------------------------------------


def _table():
    return make_table(n=60)


@pytest.mark.parametrize("estimator", [_single(), _gated()])
def test_bad_data_are_refused_in_a_sentence(estimator):
    X, y = _table()

    def refused(match, X=X, y=y, **fit):
        with pytest.raises(InputError, match=match):
            clone(estimator).fit(X, y, **fit)

    refused(r"at least two classes.*1 class.*Add images", y=np.zeros(60))
    refused(r"at least two classes.*1 row", X[:1], y[:1])
    bad = y.astype(float)
    bad[[4, 9]] = np.nan
    refused(r"y contains NaN or None in 2 row\(s\): \[4, 9\].*Drop", y=bad)
    words = np.array(["u", "v", "w"], dtype=object)[y]
    words[3] = None
    refused(r"y contains NaN or None in 1 row\(s\): \[3\]", y=words)
    partly = X.copy()
    partly[7, 1] = np.nan
    refused(r"1 row\(s\) .*partly NaN \(rows 7\).*Fill the gaps", partly)
    refused("sample_weight must be 60", sample_weight=np.ones(59))
    refused("negative", sample_weight=-np.ones(60))
    refused("sample_weight is zero.*at most 1 class", sample_weight=(y == 0) * 1.0)
    refused("only|y is None", y=None)
    with pytest.raises(ValueError, match=r"infinity|inf"):
        clone(estimator).fit(np.where(np.arange(9) == 2, np.inf, X), y)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        clone(estimator).fit(X, y[:59])
    refused(r"groups must have shape \(n,\) = \(60,\).*Got \(59,\)", groups=np.arange(59))
    for none in (np.nan, None, pd.NA, pd.NaT):
        some = pd.Series([none if i in (5, 8) else f"g{i}" for i in range(60)], dtype=object)
        refused("groups must not be missing. Row 5 has none.*2 such rows", groups=some)
        refused(r"y contains NaN or None in 2 row\(s\): \[5, 8\]", y=some)
    for kind in ("string", "Int64"):
        refused(r"y contains NaN or None", y=pd.Series([1, pd.NA] * 30).astype(kind))
    weights = np.where(y == 2, 0.0, 1.0)
    refused(r"sample_weight is zero for all rows of class\(es\) \[2\]", sample_weight=weights)
    with pytest.raises(InputError, match=r"class_weight is zero for all rows of class\(es\) \[1\]"):
        clone(estimator).set_params(class_weight={1: 0}).fit(X, y)
    with pytest.raises(ValueError, match=r"0 sample\(s\)"):
        clone(estimator).fit(X[:0], y[:0])
    mixed = np.array([1, "a", 2.0] * 20, dtype=object)
    with pytest.raises(ValueError, match=r"one type|mix|[Uu]nknown label"):
        clone(estimator).fit(X, mixed)
    with pytest.raises(InputError, match=r"class_weight names \[7\].*\[0, 1, 2\]"):
        clone(estimator).set_params(class_weight={7: 1.0}).fit(X, y)


@pytest.mark.parametrize("estimator", [_single(), _gated(experts="auto")])
def test_bad_features_are_refused_in_a_sentence(estimator):
    features, y = make_blocks(n=60, sizes=(4, 5))
    features = (
        features.select("a") if isinstance(estimator, ConceptBottleneckClassifier) else features
    )
    with pytest.raises(InputError, match="60 rows and y has 59 labels"):
        clone(estimator).fit(features, y[:59])
    with pytest.raises(InputError, match=r"0 sample\(s\)"):
        clone(estimator).fit(features[:0], y[:0])
    clf = clone(estimator).fit(features, y)
    with pytest.raises(InputError, match=r"0 sample\(s\)"):
        clf.predict(features[:0])
    blocks = [
        (block.embeddings, block.texts, [f"new {c}" for c in block.concepts])
        for block in features.blocks
    ]
    other = ExpertFeatures.from_embeddings(dict(zip(features.expert_names, blocks, strict=True)))
    with pytest.raises(InputError, match=r"other concepts.*unknown.*a__new concept 0.*fit again"):
        clf.predict(other)
    with pytest.raises(ValueError, match="features, but"), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        clf.predict(np.asarray(features)[:, 1:])
    renamed = ExpertFeatures(block.rename(f"x{block.name}") for block in features.blocks)
    with pytest.raises(InputError, match="other concepts"):
        clf.predict(renamed)
    partly = np.asarray(features).copy()
    partly[2, 0] = np.nan
    with (
        pytest.raises(InputError, match=r"Expert 'a': 1 row\(s\) .*partly NaN \(rows 2\)"),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", UserWarning)
        clf.predict(partly)


def test_features_whose_columns_are_chosen_keep_their_priors():
    features, y = make_blocks(n=60, sizes=(6, 5), classes=True)
    first, second = features.blocks
    names, incidence = list(first.concepts), first.incidence
    fewer = ExpertFeatures.from_embeddings(
        {
            "a": (first.embeddings, first.texts[[5, 1, 3]], [names[j] for j in (5, 1, 3)]),
            "b": (second.embeddings, second.texts, second.concepts),
        },
        incidence={"a": incidence[[5, 1, 3]], "b": second.incidence},
        class_keys=first.class_keys,
    )
    expected = _gated("uniform", experts="auto").fit(fewer, y)
    assert expected.prior_used_ == {"a": "class", "b": "class"}
    chosen = [("a", [5, 1, 3]), ("c", slice(6, None))]
    for clf in (
        _gated("uniform", experts=chosen).fit(features, y),
        _gated("uniform", experts=chosen, gate_input=["a__concept 0", 2]).fit(features, y),
    ):
        assert clf.prior_used_ == {"a": "class", "c": "class"}
        _close(clf, expected, features, fewer, atol=1e-9)
        np.testing.assert_allclose(
            clf.heads_[0].prior_association_, expected.heads_[0].prior_association_, rtol=1e-6
        )
    # Columns of two blocks have no one prior.
    mixed = _gated(experts=[("a", [0, 7]), ("b", [1, 2, 8])]).fit(features, y)
    assert mixed.prior_used_ == {"a": None, "b": None}


def test_block_that_only_the_gate_sees_is_no_expert():
    features, y = make_blocks(n=90, sizes=(6, 5), classes=True)
    age = np.random.default_rng(0).normal(size=(90, 1))
    age[3] = np.nan
    told = ExpertFeatures(
        [*features.blocks, *ExpertFeatures.from_similarities({"age": (age, ["years"])}).blocks]
    )
    clf = _gated(experts="auto", gate_input=["age__years"]).fit(told, y)
    assert clf.expert_names_ == ["a", "b"] and clf.prior_used_ == {"a": "class", "b": "class"}
    frame = told.to_frame()
    with_frame = clone(clf).fit(frame, y)  # a table knows of no classes: no prior
    clf.set_params(head__prior=None).fit(told, y)
    np.testing.assert_allclose(clf.gate_weights(told), with_frame.gate_weights(frame), atol=1e-5)
    with pytest.raises(InputError, match="no expert is left"):
        clf.fit(told.select("age"), y)


def test_bad_experts_are_refused_in_a_sentence():
    X, y = _table()

    def refused(match, X=X, **settings):
        with pytest.raises(InputError, match=match):
            _gated(**settings).fit(X, y)

    refused(r"'experts' parameter.*distinct names.*\['a', 'a'\]", experts=[("a", [0]), ("a", [1])])
    refused("stands in two experts, 'a' and 'b'", experts=[("a", [0, 1]), ("b", [1, 2])])
    refused("'experts' parameter.*columns that X has.*Got 9", experts=[("a", [0]), ("b", [9])])
    refused("stands twice in 'a'", experts=[("a", [0, 0, 1]), ("b", [2])])
    refused("'experts' parameter.*mask has 9 entries", experts=[("a", [True, False]), ("b", [2])])
    refused("'experts' parameter.*mask has 9 entries", experts=[("a", True), ("b", [2])])
    refused("'b' has no column", experts=[("a", [0]), ("b", [])])
    refused("'experts' parameter", experts="two")
    refused("'experts' parameter", experts=[])
    refused("'experts' parameter", experts=[("a",)])
    refused("'gate_input' parameter.*columns that X has", gate_input=["age"])
    frame = pd.DataFrame(X, columns=[*[f"a__{i}" for i in range(8)], "age"])
    refused(r"Every column.*\['age'\].*gate_input", frame, experts="auto")
    told = _gated("uniform", experts="auto", gate_input=["age"]).fit(frame, y)
    assert told.expert_names_ == ["a"] and len(told.expert_columns_[0]) == 8
    features, y2 = make_blocks(n=60, sizes=(4, 5))
    with pytest.raises(InputError, match=r"takes one expert. X has 2: \['a', 'b'\].*select"):
        _single().fit(features, y2)
    lost = X.copy()
    lost[:, :4] = np.nan
    refused(r"'a' has no training row of any weight", lost)
    lost = X.copy()
    lost[y == 2] = np.nan
    refused(r"No expert can read any training row of class\(es\) \[2\]", lost)


def test_a_class_that_an_expert_never_saw_gets_a_floor():
    X, y = make_table(n=120)
    X[y == 2, :4] = np.nan
    clf = GatedConceptBottleneckClassifier(
        ConceptBottleneckClassifier(alpha=3.0), experts=[("a", slice(0, 4)), ("b", slice(4, 9))]
    ).fit(X, y)
    seen = y != 2
    Z, rate = standardised(X[seen, :4])[0], np.bincount(y) / len(y)

    def objective(flat):
        A, b = flat[:12].reshape(3, 4), flat[12:]
        # The rows, the pull, and one row more: average similarities, average label.
        data = losses(Z @ A.T + b, y[seen]).sum()
        return data + 1.5 * (A**2).sum() + rate @ -log_softmax(b)

    best = minimize(objective, np.zeros(15), tol=1e-14).x
    head = clf.heads_[0]
    np.testing.assert_allclose(head.association_, best[:12].reshape(3, 4), atol=1e-4)
    np.testing.assert_allclose(head.intercept_, best[12:] - best[12:].mean(), atol=1e-3)
    assert head.intercept_.min() > -8 and np.isfinite(clf.oof_logits_).all()
    complete = make_table(n=120)[0]
    alone = clf.without("b").predict_proba(complete)[:, 2]
    assert np.isfinite(np.log(alone)).all() and 0 < alone.mean() < 0.1


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("activation", "relu", "'linear'"),
        ("alpha", 0, "greater than 0"),
        ("alpha", "auto", "greater than 0"),
        ("l1", -1, "at least 0"),
        ("prior_strength", np.nan, "at least 0"),
        ("max_iter", 0, "at least 1"),
        ("max_iter", 2.5, "integer"),
        ("tol", 0, "greater than 0"),
        ("prior", "clas", "'class'"),
        ("class_weight", "balance", "'balanced', a dict or None"),
        ("device", "tpu", "'auto', 'cpu', 'cuda'"),
    ],
)
def test_bad_parameters_of_the_single_classifier_in_the_one_sentence(name, value, expected):
    X, y = _table()
    clf = ConceptBottleneckClassifier(**{name: value})
    with pytest.raises(InputError) as error:
        clf.fit(X, y)
    start = f"The {name!r} parameter of ConceptBottleneckClassifier must be "
    assert str(error.value).startswith(start)
    assert expected in str(error.value) and f"Got {value!r} instead." in str(error.value)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("pool", "mean", "'logit', 'prob', 'sum'"),
        ("gate", "quadratic", "a gate object"),
        ("gate", LinearGate, "a gate object"),
        ("head", StandardScaler(), "a ConceptBottleneckClassifier or None"),
        ("training", "joint", "'staged'"),
        ("cv", 1, "at least 2"),
        ("cv", "five", "splitter"),
        ("calibrate", "yes", "True or False"),
        ("guard", None, "True or False"),
        ("gate_input", "images", "'similarities'"),
        ("gate_input", 3, "a list of columns"),
        ("class_weight", "balance", "'balanced', a dict or None"),
    ],
)
def test_bad_parameters_of_the_mixture_in_the_one_sentence(name, value, expected):
    X, y = _table()
    clf = GatedConceptBottleneckClassifier(**{"experts": EXPERTS, name: value})
    with pytest.raises(InputError) as error:
        clf.fit(X, y)
    start = f"The {name!r} parameter of GatedConceptBottleneckClassifier must be "
    assert str(error.value).startswith(start)
    assert expected in str(error.value) and "Got " in str(error.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("class_weight", "balanced"),
        ("class_weight", {0: 2.0}),
        ("cv", 3),
        ("cv", [(np.arange(30), np.arange(30, 60))]),
        ("device", "cpu"),
    ],
)
def test_parameter_of_the_head_that_the_mixture_decides_is_refused(name, value):
    X, y = _table()
    clf = _gated().set_params(**{f"head__{name}": value})
    with pytest.raises(InputError, match=rf"'head__{name}' parameter (.|\n)*Set {name} of the"):
        clf.fit(X, y)
    _gated(**{name: value}).fit(X, y)


def test_seed_that_a_meta_estimator_sets_on_the_head_is_no_error():
    X, y = _table()
    bag = BaggingClassifier(_gated("uniform", cv=2), n_estimators=2, random_state=0).fit(X, y)
    assert bag.estimators_[0].head.random_state is not None
    assert bag.score(X, y) > 0.5


def test_folds_weights_and_seeds_that_are_none_are_told():
    X, y = make_table(n=30)
    experts = [("a", slice(0, 4)), ("b", slice(4, 9))]
    rows = np.arange(30)
    for settings, message in (
        ({"cv": []}, "'cv' parameter.*at least one row"),
        ({"cv": [(rows, [])]}, "'cv' parameter.*at least one row"),
        ({"class_weight": {0: "a"}}, "'class_weight' parameter.*finite numbers"),
    ):
        with pytest.raises(InputError, match=message):
            GatedConceptBottleneckClassifier(experts=experts, **settings).fit(X, y)
    with pytest.raises(ValueError, match=r"'random_state' parameter.*must be an int"):
        GatedConceptBottleneckClassifier(experts=experts, random_state="a").fit(X, y)


def test_bad_parameters_of_the_parts_name_the_part():
    X, y = _table()
    with pytest.raises(InputError, match="'penalty' parameter of LinearGate"):
        _gated(LinearGate(penalty=-1.0)).fit(X, y)
    with pytest.raises(InputError, match="'alpha' parameter of ConceptBottleneckClassifier"):
        GatedConceptBottleneckClassifier(_single(alpha=-1.0), experts=EXPERTS).fit(X, y)
    with pytest.raises(InputError, match=r"'prior' array.*\(3, 9\). Got \(2, 2\)"):
        _single(prior=np.eye(2)).fit(X, y)
    overlapping = [(np.arange(30), np.arange(20, 60)), (np.arange(30, 60), np.arange(30))]
    with pytest.raises(InputError, match=r"'cv' parameter.*at most once"):
        _gated(cv=overlapping).fit(X, y)


def test_experts_fitted_side_by_side_are_the_same():
    X, y = make_blocks(n=60)
    alone = GatedConceptBottleneckClassifier(cv=2).fit(X, y).predict_proba(X)
    together = GatedConceptBottleneckClassifier(cv=2, n_jobs=2).fit(X, y).predict_proba(X)
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("images", [["a.png", "b.png"], "a.png", [Image.new("RGB", (8, 8))] * 2])
def test_images_without_an_encoder_are_told_so(images):
    X, y = make_table(n=40)
    clf = ConceptBottleneckClassifier(alpha=1.0).fit(X, y)
    for call in (clf.predict, lambda X: clone(clf).fit(X, [0, 1])):
        with pytest.raises(InputError, match=r"holds images .*make_pipeline\(ExpertUnion"):
            call(images)
