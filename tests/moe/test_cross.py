import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.metrics import log_loss
from sklearn.model_selection import (
    GridSearchCV,
    GroupShuffleSplit,
    StratifiedKFold,
    cross_val_score,
)
from sklearn.utils.estimator_checks import parametrize_with_checks

from skmoecbm.exceptions import InputError, SkmoecbmWarning
from skmoecbm.moe import Balancing, CrossModalMoEClassifier, MiniBatches, TokenFeatures
from tests.moe.planted_tokens import asked_finding, two_parts

QUICK = MiniBatches(max_epochs=6, batch_size=64)

# A weight scales a row's loss, a second copy also changes which rows share a batch.
STOCHASTIC = {
    "check_sample_weight_equivalence_on_dense_data": "mini-batches are drawn by row, not by weight"
}


@parametrize_with_checks(
    [
        CrossModalMoEClassifier(
            n_experts=2, width=8, expert_hidden=8, training=MiniBatches(max_epochs=40)
        )
    ],
    expected_failed_checks=lambda estimator: STOCHASTIC,
)
@pytest.mark.filterwarnings("ignore:X is a plain array:skmoecbm.exceptions.SkmoecbmWarning")
def test_scikit_learn_estimator_checks(estimator, check):
    check(estimator)


def small(**settings):
    settings = {
        "n_experts": 4,
        "width": 8,
        "expert_hidden": 8,
        "training": QUICK,
        "random_state": 0,
    } | settings
    return CrossModalMoEClassifier(**settings)


@pytest.fixture(scope="module")
def reports():
    """Tokens of 160 rows, of which some lack the report and a few the image, and labels."""
    features, y = two_parts(160, 0, missing=0.3)
    images = [
        row["image"] if i % 11 or row["text"] is None else None for i, row in enumerate(features)
    ]
    return TokenFeatures({"image": images}).join(features.select("text")), y


@pytest.fixture(scope="module")
def fitted(reports):
    return small().fit(*reports)


def test_only_attention_finds_what_a_word_asks_of_a_patch():
    gains = []
    for seed in range(3):
        (X, y), (X_test, y_test) = (
            asked_finding(1200, seed),
            asked_finding(1500, 9 + seed),
        )
        training = MiniBatches(max_epochs=25, batch_size=64, learning_rate=5e-3)
        clf = small(width=16, expert_hidden=16, random_state=seed, training=training).fit(X, y)
        other = clone(clf).set_params(fusion="concat").fit(X, y)
        found = [m.score(X_test, y_test) for m in (clf, other, clf.without("text"))]
        found.append(clf.without("image").score(X_test, y_test))
        gains.append([found[0] - score for score in found[1:]])
    mean, spread = np.mean(gains, axis=0), np.std(gains, axis=0, ddof=1)
    assert (mean - 2.484 * spread > 0.15).all()  # the 95 % interval of three seeds


def test_missing_reports_are_better_told_than_filled_with_zeros():
    gains = []
    for seed in range(3):
        (X, y), (X_test, y_test) = two_parts(1000, seed, 0.6), two_parts(2000, 100 + seed, 0.6)
        zeros, _ = two_parts(1000, seed, 0.6, zeros=True)
        zeros_test, _ = two_parts(2000, 100 + seed, 0.6, zeros=True)
        training = MiniBatches(max_epochs=40, patience=10, learning_rate=5e-3)
        clf = small(width=16, expert_hidden=16, random_state=seed, training=training).fit(X, y)
        told = log_loss(y_test, clf.predict_proba(X_test))
        filled = log_loss(y_test, clf.predict_proba(zeros_test))
        refit = clone(clf).fit(zeros, y).predict_proba(zeros_test)
        gains.append([filled - told, log_loss(y_test, refit) - told])
    at_predict, in_training = np.array(gains).T
    assert at_predict.min() > 0 and at_predict.mean() > 0.01
    # A network that is trained on zeros learns what they mean, and comes as far but no further.
    assert in_training.mean() > -0.015


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_predictions_depend_on_no_other_row(pooling, reports):
    X, y = reports
    clf = small(pooling=pooling).fit(X, y)
    whole = clf.decision_function(X)
    order = np.random.default_rng(0).permutation(len(X))
    assert np.allclose(clf.decision_function(X[order]), whole[order], rtol=0, atol=1e-10)
    alone = np.concatenate([clf.decision_function(X[i : i + 1]) for i in range(30)])
    assert np.allclose(alone, whole[:30], rtol=0, atol=1e-10)


def test_rows_in_pieces_are_the_rows_at_once(fitted, reports, monkeypatch):
    X, y = reports
    expected = fitted.decision_function(X), fitted.attention(X)
    monkeypatch.setattr("skmoecbm.moe._cross_rows._AT_ONCE", 3000)
    assert np.allclose(fitted.decision_function(X), expected[0], rtol=0, atol=1e-10)
    for name, rows in fitted.attention(X).items():
        for found, one in zip(rows, expected[1][name], strict=True):
            assert (found is None) == (one is None)
            assert found is None or np.allclose(found, one, rtol=0, atol=1e-10)
    again = small().fit(X, y)
    assert np.allclose(again.decision_function(X), expected[0], rtol=0, atol=1e-6)


def test_tokens_in_float32_are_computed_in_float32(fitted, reports):
    X, y = reports
    single = TokenFeatures({name: stream_of(X, name, np.float32) for name in X.names})
    clf = small().fit(single, y)
    assert np.allclose(clf.predict_proba(single), fitted.predict_proba(X), atol=1e-3)
    alone = np.concatenate([clf.decision_function(single[i : i + 1]) for i in range(20)])
    assert np.allclose(alone, clf.decision_function(single)[:20], rtol=0, atol=1e-4)
    assert all(value.dtype == np.float64 for value in clf.weights_.values())


def stream_of(X, name, dtype):
    return [None if row[name] is None else row[name].astype(dtype) for row in X]


def test_a_row_that_lacks_a_stream_is_a_row_of_the_model_without_it(fitted, reports):
    X, _ = reports
    whole = fitted.decision_function(X)
    for m, (name, other) in enumerate([("image", "text"), ("text", "image")]):
        has, lacks = X.present[:, 1 - m], ~X.present[:, m]
        assert lacks.any() and has[lacks].all()
        told = fitted.without(name).decision_function(X[has])
        assert np.allclose(told[lacks[has]], whole[lacks], rtol=0, atol=1e-10)
        alone = fitted.decision_function(X.select(other)[has])
        assert np.allclose(alone, told, rtol=0, atol=1e-10)
        assert np.abs(told - whole[has])[~lacks[has]].max() > 1e-3
        refit = clone(fitted.without(name)).fit(X, reports[1])
        assert np.array_equal(refit.decision_function(X), whole)


def test_streams_of_the_same_names_may_come_in_any_order(fitted, reports):
    X, _ = reports
    assert np.array_equal(
        fitted.predict_proba(X.select(["text", "image"])), fitted.predict_proba(X)
    )


def test_dropped_streams_in_training_make_rows_of_one_stream_better():
    gains = []
    for seed in range(2):
        (X, y), (X_test, y_test) = two_parts(600, seed), two_parts(1500, 50 + seed)
        losses = []
        for probability in (0.0, 0.5):
            training = MiniBatches(max_epochs=25, learning_rate=5e-3, early_stopping=False)
            clf = small(stream_dropout=probability, random_state=seed, training=training)
            told = clf.fit(X, y).without("text").predict_proba(X_test)
            losses.append(log_loss(y_test, told))
        gains.append(losses[0] - losses[1])
    assert min(gains) > 0.02


def test_weights_of_experts_and_streams(fitted, reports):
    X, _ = reports
    routing = fitted.routing_weights(X)
    assert routing.shape == (len(X), 1, 4) and ((routing > 0).sum(axis=2) == 2).all()
    assert np.allclose(routing.sum(axis=2), 1.0)
    streams = fitted.stream_weights(X)
    assert np.allclose(streams.sum(axis=1), 1.0)
    assert np.array_equal(streams > 0, X.present)
    assert (small(moe=False).fit(*reports).routing_weights(X) == 1).all()


def test_attention_tells_of_the_tokens_of_each_row(fitted, reports):
    X, _ = reports
    found = fitted.attention(X)
    both = X.present.all(axis=1)
    for name in ("image", "text"):
        for i, shares in enumerate(found[name]):
            assert (shares is None) == (not both[i])
            if both[i]:
                assert shares.shape == (len(X[i][name]),) and shares.dtype == np.float64
                assert shares.sum() == pytest.approx(1.0) and shares.min() >= 0
    with pytest.raises(InputError, match="has no attention"):
        small(fusion="concat").fit(*reports).attention(X)


@pytest.mark.parametrize(
    "settings", [{}, {"fusion": "concat"}, {"moe": False}, {"gating": "laplace"}]
)
def test_every_tensor_is_trained_and_kept(settings, reports):
    X, y = reports
    one, two = (
        small(training=MiniBatches(max_epochs=n, early_stopping=False), n_experts=2, **settings)
        for n in (1, 2)
    )
    one.fit(X, y)
    two.fit(X, y)
    assert one.weights_.keys() == two.weights_.keys() and len(one.weights_) > 8
    for name, value in one.weights_.items():
        assert not np.array_equal(value, two.weights_[name]), name


def test_projections_and_experts_learn_at_their_own_rates(reports):
    X, y = reports
    training = MiniBatches(max_epochs=1, early_stopping=False, warmup_epochs=0, batch_size=200)
    moved = {}
    for rate in (1e-9, 1.0, 3.0):
        clf = small(attention_rate=rate, training=training).fit(X, y)
        start = small(attention_rate=1e-9, training=clone(training).set_params(learning_rate=1e-12))
        start = start.fit(X, y).weights_
        moved[rate] = {n: np.abs(v - start[n]).max() for n, v in clf.weights_.items()}
    # Experts are silent at first: for one step the gradient does not reach through them.
    for name in set(moved[1.0]) - {"pool.w1", "pool.b1"}:
        first = name.split(".")[0] in (
            "projections",
            "offsets",
            "gains",
            "queries",
            "keys",
            "values",
        )
        ratio = moved[3.0][name] / moved[1.0][name]
        assert ratio == pytest.approx(3.0 if first else 1.0, rel=0.01), name
        assert (moved[1e-9][name] < 1e-6) == first, name


def test_a_pickled_model_says_the_same_and_holds_nothing_of_torch(fitted, reports):
    dumped = pickle.dumps(fitted)
    assert b"torch" not in dumped
    told = pickle.loads(dumped).predict_proba(reports[0])
    assert np.array_equal(told, fitted.predict_proba(reports[0]))


def test_blocks_of_columns_are_tokens(reports):
    rng = np.random.default_rng(0)
    patches, words = rng.standard_normal((80, 5, 3)), rng.standard_normal((80, 4, 2))
    words[::7] = np.nan
    y = (np.nan_to_num(patches)[:, :, 0].mean(axis=1) > 0).astype(int)
    told = small().fit(TokenFeatures({"image": patches, "text": words}), y)
    table = np.hstack([patches.reshape(80, -1), words.reshape(80, -1)])
    cut = small(streams={"image": (slice(0, 15), 3), "text": (list(range(15, 23)), 2)}).fit(
        table, y
    )
    expected = told.predict_proba(TokenFeatures({"image": patches, "text": words}))
    assert np.allclose(cut.predict_proba(table), expected, rtol=0, atol=1e-10)
    assert np.isnan(table).any() and cut.without("text").predict(table).shape == (80,)


def test_one_stream_attends_to_itself(reports):
    X, y = reports
    clf = small(streams=["image"]).fit(X[X.present[:, 0]], y[X.present[:, 0]])
    assert clf.streams_ == {"image": 5}
    shares = clf.attention(X)["image"]
    assert sum(row is None for row in shares) == (~X.present[:, 0]).sum()
    only = X.select("image")[X.present[:, 0]]
    assert np.array_equal(clf.predict_proba(only), clf.predict_proba(X[X.present[:, 0]]))


def test_rows_of_weight_zero_are_as_if_they_were_not_there(reports):
    X, y = reports
    weight = np.r_[np.ones(120), np.zeros(40)]
    one = small().fit(X, y, sample_weight=weight)
    other = small().fit(X[:120], y[:120])
    assert np.allclose(one.predict_proba(X), other.predict_proba(X), atol=1e-10)


def test_groups_never_straddle_the_validation_split(reports, monkeypatch):
    X, y = reports
    groups, kept = np.arange(len(X)) // 4, []
    original = CrossModalMoEClassifier._split

    def split(self, *args):
        kept.append(original(self, *args))
        return kept[-1]

    monkeypatch.setattr(CrossModalMoEClassifier, "_split", split)
    small().fit(X, y, groups=groups)
    by = MiniBatches(max_epochs=2, validation_fraction=GroupShuffleSplit(1, random_state=0))
    small(training=by).fit(X, y, groups=groups)
    for train, held_out, _ in kept:
        assert held_out.any() and not set(groups[train]) & set(groups[held_out])


def test_several_labels_and_their_area_under_the_curve():
    X, y = two_parts(300, 0)
    labels = np.array([[1, 0, 1], [1, 1, 0], [0, 1, 1]])[y]
    training = MiniBatches(max_epochs=15, learning_rate=5e-3, scoring="roc_auc")
    clf = small(training=training).fit(X[:200], labels[:200])
    assert clf.multilabel_ and clf.predict_proba(X).shape == (300, 3)
    assert (clf.predict(X[200:]) == labels[200:]).mean() > 0.75
    scores = clf.history_["validation_score"]
    assert clf.history_["best_epoch"] == int(np.argmax(scores)) + 1 and max(scores) <= 1


def test_class_weights_move_the_decision():
    X, y = two_parts(300, 0)
    y = (y == 0).astype(int)
    share = [small(class_weight=w).fit(X, y).predict(X).mean() for w in (None, "balanced")]
    assert share[1] > share[0]


def test_scikit_learn_searches_over_tokens(reports):
    X, y = reports
    grid = {"fusion": ["attention", "concat"], "training__learning_rate": [1e-3, 1e-2]}
    clf = small(training=MiniBatches(max_epochs=2))
    search = GridSearchCV(clf, grid, cv=StratifiedKFold(2)).fit(X, y)
    assert set(search.best_params_) == set(grid) and search.predict(X).shape == y.shape
    assert len(cross_val_score(clf, X, y, cv=2, params={"groups": np.arange(len(y))})) == 2


def test_a_row_of_nothing_gets_the_class_frequencies(fitted, reports):
    rows = TokenFeatures({"image": [np.ones((2, 5)), None], "text": [np.ones((2, 5)), None]})
    with pytest.warns(SkmoecbmWarning, match=r"1 row\(s\) .* \(rows \[1\]\)"):
        told = fitted.predict_proba(rows)
    assert np.allclose(told[1], np.bincount(reports[1]) / len(reports[1]), atol=1e-9)
    assert np.allclose(told[:1], fitted.predict_proba(rows[:1]), atol=1e-10)


def tokens(n=20, many=3, width=4):
    return np.random.default_rng(0).standard_normal((n, many, width))


LABELS = np.arange(20) % 2


@pytest.mark.parametrize(
    ("settings", "X", "told"),
    [
        ({"n_experts": 0}, None, "n_experts"),
        ({"top_k": 5}, None, r"at most n_experts \(now 4\)"),
        ({"width": 0}, None, "width"),
        ({"fusion": "sum"}, None, "'attention', 'concat'"),
        ({"pooling": "max"}, None, "'mean', 'cls'"),
        ({"gating": "hard"}, None, "gating"),
        ({"moe": 1}, None, "moe"),
        ({"stream_dropout": 1.0}, None, "no row would ever have both"),
        ({"stream_dropout": -0.1}, None, "stream_dropout"),
        ({"attention_rate": 0}, None, "attention_rate"),
        ({"training": "fast"}, None, "training"),
        ({"device": "cuda:99999999999999999999"}, None, "device"),
        ({"balancing": Balancing(modality_entropy=1.0)}, None, "one router for all of them"),
        ({"streams": 3}, None, "streams"),
        ({"streams": ["sound"]}, None, "no stream 'sound'"),
        ({"streams": {"a": (slice(0, 2), 1)}}, None, "streams of its own"),
        ({"streams": ["image"]}, np.ones((20, 4)), "X is a table"),
        ({"streams": {"a": (slice(0, 3), 2)}}, np.ones((20, 4)), "cannot be cut"),
        ({"streams": {"a": ([9], 1)}}, np.ones((20, 4)), "columns that X has"),
        ({"streams": {"a": 3}}, np.ones((20, 4)), "columns, width of a token"),
        ({}, np.ones((20, 1)), r"one token per row \(n_features=1\).*softmax over one key"),
        ({}, {"image": tokens(), "text": tokens(many=1)}, "such as CLS alone.*no gradient"),
        ({}, {"image": tokens() * np.nan, "text": tokens()}, "missing from every row"),
        ({}, dict.fromkeys("abc", tokens()), "Name one or two of them"),
        ({}, {"image": tokens(n=19)}, "inconsistent numbers of samples"),
    ],
)
def test_what_cannot_be_fitted_is_told(settings, X, told):
    if X is None:
        X = {"image": tokens(), "text": tokens()}
    X = TokenFeatures(X) if isinstance(X, dict) else X
    with pytest.raises(InputError, match=told):
        small(**settings).fit(X, LABELS)


def test_cls_alone_may_be_put_side_by_side():
    X = TokenFeatures({"image": tokens(), "text": tokens(many=1)})
    assert small(fusion="concat").fit(X, LABELS).predict(X).shape == (20,)


@pytest.mark.parametrize(
    ("X", "told"),
    [
        (TokenFeatures({"image": tokens(), "sound": tokens()}), "was fitted on"),
        (TokenFeatures({"image": tokens(width=7)}), "was fitted on width 5"),
        (TokenFeatures({"image": tokens(), "text": tokens()})[:0], "0 sample"),
        (np.ones((20, 10)), "X is a table, but .* TokenFeatures with the streams"),
    ],
)
def test_other_streams_than_those_of_the_fit_are_told(X, told, fitted):
    with pytest.raises(InputError, match=told):
        fitted.predict(X)


def test_streams_that_are_not_there_cannot_be_left_out(fitted):
    with pytest.raises(InputError, match=r"no stream 'sound' to leave out; there are \['image'"):
        fitted.without("sound")
    with pytest.raises(InputError, match="last stream"):
        fitted.without("image").without("text")


def test_rows_are_explained_by_whom_they_were_sent_to_and_by_stream(fitted, reports):
    X, y = reports
    told = fitted.explain(X)
    assert np.array_equal(told.weights, fitted.routing_weights(X))
    assert told.modality_names == ["image", "text"] and len(told.expert_names) == 4
    logits = fitted.decision_function(X)
    assert np.allclose(told.logits, logits, rtol=0, atol=1e-10)
    both = X.present.all(axis=1)
    for m, name in enumerate(told.modality_names):
        left = fitted.without(name).decision_function(X[both])
        assert np.allclose(told.modality_effects[both, m], logits[both] - left, rtol=0, atol=1e-10)
        assert np.isnan(told.modality_effects[~both, m]).all()
    summary = told.summary(y, n_bootstrap=20, n_permutations=20, random_state=0)
    assert "expert 0" in repr(told) and repr(summary)
    told = small(moe=False).fit(X, y).explain(X)
    assert (told.weights == 1).all() and told.summary(y, n_bootstrap=0, n_permutations=0)


def test_a_few_rows_do_not_make_it_sure():
    """150 rows of noise and 128 drawn columns, which fit them exactly if nothing holds them."""
    rng = np.random.default_rng(0)
    tokens = {"image": rng.normal(size=(350, 5, 32)), "text": rng.normal(size=(350, 6, 16))}
    y = rng.integers(2, size=350)
    X = TokenFeatures(tokens)
    clf = CrossModalMoEClassifier(training=MiniBatches(max_epochs=5), random_state=0)
    told = clf.fit(X[:150], y[:150]).predict_proba(X[150:])
    assert log_loss(y[150:], told) < 0.85
