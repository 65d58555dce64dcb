import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, GroupShuffleSplit, StratifiedKFold
from sklearn.neural_network import MLPClassifier

from skmoecbm import ExpertFeatures
from skmoecbm.exceptions import InputError, SkmoecbmWarning
from skmoecbm.moe import Balancing, MiniBatches, SparseMoEClassifier

QUICK = MiniBatches(max_epochs=15, batch_size=32)


def small(**settings):
    settings = {"n_experts": 4, "expert_hidden": 8, "training": QUICK, "random_state": 0} | settings
    return SparseMoEClassifier(**settings)


def regimes(n, seed, marked=True):
    """Four linear rules, of which a noisy mark tells which one holds; and the oracle's answer."""
    rules = np.random.default_rng(7).standard_normal((4, 8))
    rng = np.random.default_rng(seed)
    x, regime = rng.standard_normal((n, 8)), rng.integers(0, 4, n)
    mark = np.eye(4)[regime if marked else rng.integers(0, 4, n)]
    mark = mark + 0.3 * rng.standard_normal((n, 4))
    margin = (x * rules[regime if marked else 0]).sum(1)
    y = (rng.random(n) < 1 / (1 + np.exp(-6 * margin))).astype(int)
    return np.hstack([x, mark]), y, (margin > 0).astype(int), regime


def three(n, seed, missing=0.0):
    """Three modalities, each of which tells a part; some of them absent."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    centres = np.random.default_rng(3).standard_normal((3, 3, 5))
    X = np.stack([centres[m][y] + 1.5 * rng.standard_normal((n, 5)) for m in range(3)], axis=1)
    gone = rng.random((n, 3)) < missing
    gone[gone.all(axis=1), 0] = False
    X[gone] = np.nan
    return X.reshape(n, 15), y


MODALITIES = {"image": slice(0, 5), "text": slice(5, 10), "table": slice(10, 15)}


@pytest.fixture(scope="module")
def planted():
    train, test = regimes(4000, 0), regimes(4000, 1)
    clf = SparseMoEClassifier(n_experts=4, top_k=1, expert_hidden=32, random_state=0)
    return clf.fit(*train[:2]), train, test


def test_regimes_are_found_where_one_network_of_equal_width_fails(planted):
    clf, train, (X, y, best, _) = planted
    right = clf.predict(X) == y
    oracle = (best == y).mean()
    assert right.mean() >= 0.92 and oracle - 0.03 <= right.mean()
    one = SparseMoEClassifier(n_experts=1, top_k=1, expert_hidden=32, random_state=0)
    gain = right.astype(float) - (one.fit(*train[:2]).predict(X) == y)
    assert gain.mean() - 2 * gain.std() / np.sqrt(len(y)) > 0
    mlp = MLPClassifier((128,), early_stopping=True, random_state=0).fit(*train[:2])
    assert right.mean() > mlp.score(X, y)


def test_each_regime_has_an_expert_of_its_own(planted):
    clf, _, (X, _, _, regime) = planted
    chosen = clf.routing_weights(X)[:, 0].argmax(1)
    table = np.array([[(chosen[regime == r] == e).mean() for e in range(4)] for r in range(4)])
    assert sorted(table.argmax(1)) == [0, 1, 2, 3]
    assert table.max(1).min() > 0.9


def test_where_nothing_is_planted_the_mixture_shows_no_gain():
    (X, y, *_), (X_test, y_test, *_) = regimes(1500, 2, False), regimes(3000, 3, False)
    settings = {"expert_hidden": 32, "random_state": 0}
    many = SparseMoEClassifier(n_experts=4, top_k=1, **settings).fit(X, y)
    one = SparseMoEClassifier(n_experts=1, top_k=1, **settings).fit(X, y)
    gain = (many.predict(X_test) == y_test).astype(float) - (one.predict(X_test) == y_test)
    assert gain.mean() - 2 * gain.std() / np.sqrt(len(y_test)) < 0.01


@pytest.mark.parametrize("router", ["joint", "per_modality", "disjoint"])
@pytest.mark.parametrize("missing", ["mask", "learned"])
def test_predictions_depend_on_no_other_row(router, missing):
    X, y = three(120, 0, 0.3)
    clf = small(router=router, missing=missing, modalities=MODALITIES, noise=True).fit(X, y)
    whole = clf.decision_function(X)
    order = np.random.default_rng(0).permutation(len(X))
    assert np.allclose(clf.decision_function(X[order]), whole[order], atol=1e-12)
    alone = np.concatenate([clf.decision_function(X[i : i + 1]) for i in range(20)])
    assert np.allclose(alone, whole[:20], atol=1e-12)


@pytest.mark.parametrize("router", ["joint", "per_modality", "disjoint"])
def test_what_stands_in_an_absent_block_is_never_seen(router, monkeypatch):
    X, y = three(150, 1, 0.4)
    clf = small(router=router, modalities=MODALITIES).fit(X, y)
    expected = clf.decision_function(X)
    fill = type(clf)._tensors

    def other(self, data, device):
        values, present = fill(self, data, device)
        return [v + 1e3 * (~present[:, m, None]) for m, v in enumerate(values)], present

    monkeypatch.setattr(type(clf), "_tensors", other)
    assert np.allclose(clf.decision_function(X), expected, atol=1e-12)


@pytest.mark.parametrize("router", ["per_modality", "disjoint"])
def test_an_absent_modality_routes_nowhere(router):
    X, y = three(150, 1, 0.4)
    clf = small(router=router, modalities=MODALITIES).fit(X, y)
    weights = clf.routing_weights(X)
    gone = np.isnan(X.reshape(len(X), 3, 5)).all(axis=2)
    assert (weights[gone] == 0).all()
    assert np.allclose(weights[~gone].sum(axis=1), 1.0)
    assert ((weights > 0).sum(axis=2)[~gone] == 2).all()


@pytest.mark.parametrize("missing", [0.3, 0.6])
@pytest.mark.parametrize("router", ["joint", "per_modality", "disjoint"])
def test_masking_beats_zeros_in_the_place_of_what_is_missing(router, missing):
    training = MiniBatches(learning_rate=5e-3, max_epochs=40, patience=8)
    for seed in (0, 1):
        (X, y), (X_test, y_test) = (
            three(1000, 2 * seed, missing),
            three(3000, 2 * seed + 1, missing),
        )
        clf = SparseMoEClassifier(
            n_experts=4,
            expert_hidden=16,
            router=router,
            modalities=MODALITIES,
            training=training,
            random_state=seed,
        )
        told = clone(clf).fit(X, y).predict_proba(X_test)
        filled = clf.fit(np.nan_to_num(X), y).predict_proba(np.nan_to_num(X_test))
        assert log_loss(y_test, told) < log_loss(y_test, filled)


def test_every_tensor_is_trained_and_kept():
    X, y = three(200, 0, 0.3)
    for router in ("joint", "per_modality", "disjoint"):
        settings = {"router": router, "gating": "laplace", "noise": True, "missing": "learned"}
        clf = small(modalities=MODALITIES, n_experts=2, **settings)
        steps = [
            clf.set_params(training=MiniBatches(max_epochs=n, early_stopping=False)).fit(X, y)
            for n in (1, 2)
        ]
        one, two = (clone(clf) for _ in range(2))
        one.set_params(training=MiniBatches(max_epochs=1, early_stopping=False)).fit(X, y)
        two.set_params(training=MiniBatches(max_epochs=2, early_stopping=False)).fit(X, y)
        assert one.weights_.keys() == two.weights_.keys() == steps[0].weights_.keys()
        for name, value in one.weights_.items():
            assert not np.array_equal(value, two.weights_[name]), name


def test_a_pickled_model_says_the_same_and_holds_nothing_of_torch():
    X, y = three(100, 0)
    clf = small(modalities=MODALITIES).fit(X, y)
    dumped = pickle.dumps(clf)
    assert b"torch" not in dumped
    assert np.array_equal(pickle.loads(dumped).predict_proba(X), clf.predict_proba(X))


def test_the_container_of_the_modalities_makes_no_difference():
    pandas = pytest.importorskip("pandas")
    X, y = three(120, 0, 0.2)
    told = small(modalities=MODALITIES).fit(X, y).predict_proba(X)
    columns = [f"{name}__{i}" for name in MODALITIES for i in range(5)]
    frame = pandas.DataFrame(X, columns=columns)
    assert np.allclose(small().fit(frame, y).predict_proba(frame), told)
    blocks = {name: (X[:, part], [str(i) for i in range(5)]) for name, part in MODALITIES.items()}
    features = ExpertFeatures.from_similarities(blocks)
    found = small().fit(features, y).predict_proba(features)
    assert np.allclose(found, told, atol=1e-4)  # similarities are stored in float32
    listed = small(modalities=list(MODALITIES.items())).fit(X, y)
    assert np.allclose(listed.predict_proba(X), told)
    assert listed.modality_names_ == list(MODALITIES)


def test_rows_of_weight_zero_are_as_if_they_were_not_there():
    X, y = three(160, 0)
    weight = np.r_[np.ones(120), np.zeros(40)]
    one = small().fit(X, y, sample_weight=weight)
    other = small().fit(X[:120], y[:120])
    assert np.allclose(one.predict_proba(X), other.predict_proba(X))


def test_groups_never_straddle_the_validation_split():
    X, y = three(200, 0)
    groups = np.arange(200) // 4
    clf = small()
    kept = []
    original = type(clf)._split

    def split(self, *args):
        kept.append(original(self, *args))
        return kept[-1]

    type(clf)._split = split
    try:
        clf.fit(X, y, groups=groups)
        by = MiniBatches(max_epochs=2, validation_fraction=GroupShuffleSplit(1, random_state=0))
        small(training=by).fit(X, y, groups=groups)
    finally:
        type(clf)._split = original
    for train, held_out, _ in kept:
        assert held_out.any() and not set(groups[train]) & set(groups[held_out])


def test_several_labels():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((400, 6))
    y = (X[:, :3] + 0.3 * rng.standard_normal((400, 3)) > 0).astype(int)
    clf = small(training=None).fit(X[:300], y[:300])
    assert clf.multilabel_ and clf.predict_proba(X).shape == (400, 3)
    assert (clf.predict(X[300:]) == y[300:]).mean() > 0.85


@pytest.mark.parametrize("scoring", ["roc_auc_ovr", "balanced_accuracy", "neg_log_loss"])
def test_the_epoch_may_be_chosen_by_any_scorer(scoring):
    X, y = three(200, 0)
    clf = small(training=MiniBatches(max_epochs=6, scoring=scoring)).fit(X, y)
    still = MiniBatches(max_epochs=1, learning_rate=1e-12, scoring=scoring)
    start = small(training=still).fit(X, y).history_["validation_score"]
    scores = clf.history_["validation_score"]
    assert len(scores) == 6
    assert clf.history_["best_epoch"] == int(np.argmax(np.round([*start, *scores], 9)))


def test_the_weights_of_the_best_epoch_are_kept():
    X, y = three(150, 0)
    long = small(training=MiniBatches(max_epochs=40, learning_rate=0.03, patience=40)).fit(X, y)
    best = long.history_["best_epoch"]
    assert best < 40
    settings = MiniBatches(max_epochs=best, learning_rate=0.03, patience=40)
    assert np.allclose(small(training=settings).fit(X, y).predict_proba(X), long.predict_proba(X))


def test_class_weights_move_the_decision():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((500, 3))
    y = (X[:, 0] + rng.standard_normal(500) > 1.2).astype(int)
    share = [
        small(class_weight=weight).fit(X, y).predict(X).mean() for weight in (None, "balanced")
    ]
    assert share[1] > share[0] + 0.1


def test_modalities_route_apart_where_that_is_asked_for():
    X, y = three(400, 0)
    settings = {"router": "per_modality", "modalities": MODALITIES, "gating": "softmax"}
    apart = []
    for bonus in (0.0, 1.0):
        clf = small(balancing=Balancing(loss=None, modality_entropy=bonus), **settings).fit(X, y)
        mean = clf.routing_weights(X).mean(axis=0)
        middle = mean.mean(axis=0)
        apart.append(np.mean([(m * np.log(m / middle)).sum() for m in mean + 1e-12]))
    assert apart[1] > apart[0]


def test_grid_search_over_its_parts():
    X, y = three(150, 0)
    grid = {"top_k": [1, 2], "training__learning_rate": [1e-3, 1e-2]}
    search = GridSearchCV(small(), grid, cv=StratifiedKFold(3)).fit(X, y)
    assert set(search.best_params_) == set(grid)


@pytest.mark.filterwarnings("ignore::skmoecbm.exceptions.SkmoecbmWarning")
def test_a_row_of_nothing_gets_the_class_frequencies():
    X, y = three(200, 0)
    clf = small(modalities=MODALITIES).fit(X, y)
    told = clf.predict_proba(np.full((1, 15), np.nan))
    assert np.allclose(told, np.bincount(y) / len(y), atol=1e-9)


def test_a_row_of_nothing_is_told_of():
    X, y = three(100, 0)
    clf = small(modalities=MODALITIES).fit(X, y)
    with pytest.warns(SkmoecbmWarning, match="no modality at all"):
        clf.predict(np.full((1, 15), np.nan))


@pytest.mark.parametrize("router", ["joint", "per_modality", "disjoint"])
@pytest.mark.parametrize("missing", ["mask", "learned"])
def test_a_view_without_a_modality_is_the_model_of_rows_that_lack_it(router, missing):
    X, y = three(200, 0, 0.3)
    clf = small(modalities=MODALITIES, router=router, missing=missing).fit(X, y)
    before = clf.decision_function(X)
    for name, columns in MODALITIES.items():
        lacking = X.copy()
        lacking[:, columns] = np.nan
        rows = ~np.isnan(lacking).all(axis=1)
        view = clf.without(name)
        told = view.decision_function(X[rows])
        assert np.array_equal(told, clf.decision_function(lacking[rows]))
        assert np.array_equal(view.routing_weights(X[rows]), clf.routing_weights(lacking[rows]))
        assert not np.allclose(told, before[rows])
    assert np.array_equal(clf.decision_function(X), before)  # it looks at all of them still
    again = clone(view).fit(X, y)
    assert np.array_equal(again.decision_function(X), before)
    assert np.array_equal(view.fit(X, y).decision_function(X), before)
    with pytest.raises(InputError, match=r"no modality 'sound' to leave out; there are \['image'"):
        clf.without("sound")
    with pytest.raises(InputError, match="'table' is the last modality"):
        clf.without("image").without("text").without("table")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"n_experts": 0}, "n_experts"),
        ({"top_k": 5}, "at most n_experts \\(now 4\\)"),
        ({"router": "both"}, "router"),
        ({"gating": "hard"}, "gating"),
        ({"missing": "zero"}, "missing"),
        ({"noise": 2}, "noise"),
        ({"modalities": {"a": [0], "b": [99]}}, "'modalities' parameter"),
        ({"training": "fast"}, "training"),
        ({"training": MiniBatches(validation_fraction=0.9)}, "validation_fraction"),
        ({"balancing": Balancing(loss="printed")}, "loss"),
        ({"balancing": Balancing(modality_entropy=1.0)}, "per_modality"),
        ({"balancing": Balancing(), "top_k": 4}, "constant where every row goes to every expert"),
        ({"training": MiniBatches(learning_rate=1e6)}, "diverged|learning_rate"),
    ],
)
def test_wrong_parameters_are_told(settings, told):
    X, y = three(100, 0)
    with pytest.raises(InputError, match=told):
        small(**settings).fit(X * (1e150 if "1e6" in repr(settings) else 1.0), y)
