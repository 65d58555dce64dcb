"""The selectors: their scores, and what they keep."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_ind
from sklearn.base import clone
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline

from skmoecbm import ConceptBottleneckClassifier, ConceptEncoder
from skmoecbm.backbones import load_backbone
from skmoecbm.concepts import ConceptBank, SubmodularSelector, TopKConcepts
from skmoecbm.concepts._scores import LabelledEmbeddings
from skmoecbm.datasets import make_lesions
from skmoecbm.exceptions import InputError, SkmoecbmWarning


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    y = np.repeat(["a", "b", "c"], 20)
    X = rng.normal(size=(60, 6)) + 2 * np.eye(3, 6)[np.repeat([0, 1, 2], 20)]
    return X, y, rng.normal(size=(9, 6))


def brute_force(X, y, T):
    """Divergence from uniform, one concept and one similarity at a time."""
    scores = []
    for t in T:
        D = np.array([x @ t for x in X])
        z = (D - D.mean()) / D.std()
        means = np.array([z[y == c].mean() for c in np.unique(y)])
        p = np.exp(means) / np.exp(means).sum()
        scores.append(np.sum(p * np.log2(p * len(p))))
    return np.array(scores)


def test_scores_equal_brute_force(problem):
    X, y, T = problem
    np.testing.assert_allclose(
        TopKConcepts().fit(X, y, T).scores_, brute_force(X, y, T), atol=1e-12
    )


def test_scores_ignore_shift_and_scale_of_similarities(problem):
    X, y, T = problem
    scale = np.linspace(0.1, 5, len(T))[:, None]
    expected = TopKConcepts().fit(X, y, T).scores_
    np.testing.assert_allclose(TopKConcepts().fit(X, y, T * scale).scores_, expected, atol=1e-12)
    np.testing.assert_allclose(TopKConcepts().fit(X - 3.0, y, T).scores_, expected, atol=1e-12)
    labo = X[y == "a"].mean(0) @ T.T  # the famous score takes its logarithm: NaN below zero
    assert (labo < 0).any()


def test_top_k_overall_and_per_class(problem):
    X, y, T = problem
    order = np.argsort(-brute_force(X, y, T))
    overall = TopKConcepts(2, per_class=False).fit(X, y, T).support_
    np.testing.assert_array_equal(overall, np.sort(order[:2]))
    incidence = np.arange(9)[:, None] % 3 == np.arange(3)
    incidence[0] = True  # a concept of all classes is a candidate of each
    support = TopKConcepts(1).fit(X, y, T, incidence).support_
    best = [next(i for i in order if incidence[i, c]) for c in range(3)]
    np.testing.assert_array_equal(support, np.unique(best))
    assert len(TopKConcepts(50).fit(X, y, T, incidence).support_) == 9


def test_missing_rows_and_constant_concepts(problem):
    X, y, T = problem
    X = X.copy()
    X[::7] = np.nan
    seen = ~np.isnan(X[:, 0])
    T = np.vstack([T, np.zeros(6)])
    scores = TopKConcepts().fit(X, y, T).scores_
    np.testing.assert_allclose(scores[:-1], brute_force(X[seen], y[seen], T[:-1]), atol=1e-12)
    assert scores[-1] == 0


def test_parameters(problem):
    X, y, T = problem
    params = clone(TopKConcepts(3, per_class=False)).get_params()
    assert (params["k"], params["per_class"]) == (3, False)
    with pytest.raises(InputError, match="'k' parameter of TopKConcepts"):
        TopKConcepts(0).fit(X, y, T)
    with pytest.raises(InputError, match="'per_class' parameter"):
        TopKConcepts(per_class="yes").fit(X, y, T)
    with pytest.raises(InputError, match="at least two classes"):
        TopKConcepts().fit(X, ["a"] * 60, T)
    with pytest.raises(InputError, match="59 labels for 60 images"):
        TopKConcepts().fit(X, y[:-1], T)


def column_scores(X, y, T, label, kind):
    """One score at a time, from similarities of single images."""
    D = X @ T.T
    own = y == label
    if kind == "auroc":
        return np.array([roc_auc_score(own, column) for column in D.T])
    if kind == "welch":
        return np.array([ttest_ind(c[own], c[~own], equal_var=False).statistic for c in D.T])
    return np.array([(c[own].mean() - c.mean()) / c.std() for c in D.T])


@pytest.mark.parametrize("kind", ["auroc", "welch", "similarity"])
def test_scores_of_a_class_equal_scipy_and_scikit_learn(problem, kind):
    X, y, T = problem
    data = LabelledEmbeddings(X, y, "test")
    for column, label in enumerate("abc"):
        expected = column_scores(X, y, T, label, kind)
        np.testing.assert_allclose(data.score(kind, T, column, None), expected, atol=1e-10)
    overall = np.max([column_scores(X, y, T, label, kind) for label in "abc"], axis=0)
    scores = TopKConcepts(relevance=kind).fit(X, y, T).scores_
    np.testing.assert_allclose(scores, overall, atol=1e-10)


@pytest.mark.parametrize("kind", ["mi", "auroc", "welch", "similarity"])
def test_scores_ignore_where_similarities_lie(problem, kind):
    X, y, T = problem
    expected = TopKConcepts(relevance=kind).fit(X, y, T).scores_
    moved = TopKConcepts(relevance=kind).fit(X - 3.0, y, 2.5 * T).scores_
    np.testing.assert_allclose(moved, expected, atol=1e-9)


def test_welch_of_tiny_classes_and_constant_concepts_is_nothing(problem):
    X, y, T = problem
    y = np.where(np.arange(60) == 0, "lone", y)
    data = LabelledEmbeddings(X, y, "test")
    lone = data.labels.tolist().index("lone")
    assert (data.score("welch", T, lone, None) == 0).all()
    assert (data.score("welch", np.zeros((2, 6)), 0, None) == 0).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["auroc", "welch", "mi", "similarity"])
def test_rounding_of_a_constant_similarity_is_no_score(kind, dtype):
    """Unit vectors as an encoder stores them, all at the same cosine to one concept."""
    rng = np.random.default_rng(1)
    concept = rng.normal(size=16)
    concept /= np.linalg.norm(concept)
    X = rng.normal(size=(60, 16))
    X -= (X @ concept)[:, None] * concept
    X = (0.4 * concept + np.sqrt(1 - 0.16) * X / np.linalg.norm(X, axis=1, keepdims=True)).astype(
        dtype
    )
    T = np.stack([concept, np.eye(16)[0]]).astype(dtype)
    noise = (X.astype(np.float64) @ T[0].astype(np.float64)).std()
    assert 0 < noise < 1e-7  # constant but for rounding, which ranks and t would blow up
    y = (X @ T[0] > np.median(X @ T[0])).astype(int)  # the classes that the rounding tells apart
    y[:2] = [0, 1]
    scores = TopKConcepts(relevance=kind, per_class=False).fit(X, y, T).scores_
    assert scores[0] == (0.5 if kind == "auroc" else 0.0)
    assert scores[1] != scores[0]


def test_indicator_matrices_score_each_column_against_the_rest(problem):
    X, y, T = problem
    indicator = np.stack([y == "a", (y == "b") | (np.arange(60) % 7 == 0)], axis=1).astype(int)
    incidence = np.ones((9, 2), dtype=bool)
    selector = TopKConcepts(2, relevance="auroc").fit(X, indicator, T, incidence)
    expected = [roc_auc_score(indicator[:, k], X @ t) for k in (0, 1) for t in T]
    expected = np.max(np.reshape(expected, (2, 9)), axis=0)
    np.testing.assert_allclose(selector.scores_, expected, atol=1e-12)


def test_the_spread_over_resamples_shrinks_with_the_sample():
    rng = np.random.default_rng(3)
    T = np.eye(4)
    spreads = []
    for n in (60, 960):
        y = np.tile([0, 1], n // 2)
        X = rng.normal(size=(n, 4)) + y[:, None] * [1.0, 0.5, 0.0, 0.0]
        selector = TopKConcepts(relevance="auroc", n_bootstrap=40, random_state=0).fit(X, y, T)
        again = clone(selector).fit(X, y, T)
        np.testing.assert_array_equal(selector.scores_std_, again.scores_std_)
        spreads.append(selector.scores_std_)
    # Hanley and McNeil: the error of an AUROC falls with the root of the number of images
    assert (spreads[1] < 0.45 * spreads[0]).all()
    assert (spreads[1] > 0).all()


def naive_greedy(similarity, relevance, coverage, n_picks, quotas=None, limit=None):
    """Try every candidate at every step."""
    picks, classes = [], np.zeros(0 if quotas is None else quotas.shape[1], dtype=int)
    while len(picks) < n_picks:
        gains = {}
        for j in range(len(relevance)):
            if j in picks or (quotas is not None and not (quotas[j] & (classes < limit)).any()):
                continue
            covered = sum(
                max([0.0, *(similarity[i, k] for k in [*picks, j])]) for i in range(len(relevance))
            )
            gains[j] = sum(relevance[k] for k in [*picks, j]) + coverage * covered
        if not gains:
            break
        best = max(gains.values())
        pick = min(j for j, gain in gains.items() if gain >= best - 1e-9 * abs(best))
        picks.append(pick)
        if quotas is not None:
            classes += quotas[pick]
    return picks


@pytest.mark.parametrize("coverage", [0.0, 1.0, 30.0])
@pytest.mark.parametrize("kind", ["mi", "welch"])
def test_submodular_picks_equal_naive_greedy(problem, coverage, kind):
    X, y, T = problem
    rng = np.random.default_rng(1)
    T = rng.normal(size=(40, 6))
    T = np.vstack([T, T[:5]])  # repeats: ties go to the first
    T /= np.linalg.norm(T, axis=1, keepdims=True)
    incidence = rng.random((45, 3)) < 0.5
    incidence[0] = incidence[~incidence.any(axis=1)] = True
    selector = SubmodularSelector(6, relevance=kind, coverage=coverage, relevance_weight=3.0)
    selector.fit(X, y, T, incidence)
    expected = set()
    for k, label in enumerate("abc"):
        rows = np.flatnonzero(incidence[:, k])
        if kind == "mi":
            scores = brute_force(X, y, T[rows])
        else:
            scores = np.maximum(column_scores(X, y, T[rows], label, kind), 0)
        relevance = 3.0 * scores / scores.max()
        expected |= set(rows[naive_greedy(T[rows] @ T[rows].T, relevance, coverage, 6)])
    assert set(selector.support_) == expected


def test_global_scope_fills_the_quota_of_each_class(problem):
    X, y, T = problem
    rng = np.random.default_rng(2)
    T = rng.normal(size=(30, 6))
    T /= np.linalg.norm(T, axis=1, keepdims=True)
    incidence = np.eye(3, dtype=bool)[rng.integers(3, size=30)]
    incidence[:4] = True  # written for all: they count three times
    selector = SubmodularSelector(4, scope="global", coverage=2.0).fit(X, y, T, incidence)
    scores = brute_force(X, y, T)
    expected = naive_greedy(
        T @ T.T, 10.0 * scores / scores.max(), 2.0, 30, quotas=incidence, limit=4
    )
    assert set(selector.support_) == set(expected)
    assert (incidence[selector.support_].sum(axis=0) >= 4).all()


def test_picks_on_candidates_in_the_wild_equal_naive_greedy(data_dir):
    bank = ConceptBank.from_labo(Path(data_dir, "concepts", "labo_ham10000_candidates.json"))
    with pytest.warns(SkmoecbmWarning, match="were cut"):
        texts = load_backbone("demo-structures").embed_texts(bank.texts).astype(np.float64)
    lesions = make_lesions(120, random_state=0)
    images = ConceptEncoder("demo-structures", ["globules"], cache_dir=None)
    X = images.fit_transform(lesions.images).blocks[0].embeddings.astype(np.float64)
    rng = np.random.default_rng(0)
    keys = np.array(bank.class_keys)
    y = keys[rng.integers(len(keys), size=len(X))]
    selector = SubmodularSelector(8, coverage=0.5).fit(X, y, texts, bank=bank)
    expected = set()
    for key in keys:
        rows = np.flatnonzero(bank.incidence[:, bank.class_keys.index(key)])
        cosine = np.maximum(texts[rows] @ texts[rows].T, 0)
        scores = brute_force(X, y, texts[rows])
        picks, best = [], np.zeros(len(rows))
        for _ in range(8):  # naive in its order of steps, not in each sum: 440 candidates a class
            gains = 10 * scores / scores.max() + 0.5 * np.array(
                [np.maximum(column - best, 0).sum() for column in cosine]
            )
            gains[picks] = -np.inf
            picks.append(np.flatnonzero(gains >= gains.max() - 1e-9 * abs(gains.max()))[0])
            best = np.maximum(best, cosine[picks[-1]])
        expected |= set(rows[picks])
        mine = {i for i in selector.support_ if i in rows}
        assert set(rows[picks]) <= mine
    assert len(selector.support_) <= 8 * len(keys)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_nothing_drifts_while_gains_run_out(dtype, weight):
    """Repeated vectors of three dimensions: soon all is covered, and what is left is exactly 0."""
    from skmoecbm.concepts._greedy import greedy_cover

    for seed in range(6):
        rng = np.random.default_rng(seed)
        T = rng.normal(size=(16, 3))
        T = np.vstack([T, T[:8]]) / np.linalg.norm(np.vstack([T, T[:8]]), axis=1, keepdims=True)
        similarity = (T @ T.T).astype(dtype)
        relevance = weight * rng.random(24) * (rng.random(24) < 0.3)
        expected = naive_greedy(similarity.astype(np.float64), relevance, 1.0, 22)
        assert greedy_cover(similarity, relevance, 1.0, 22).tolist() == expected


def test_many_candidates_are_worked_on_in_parts():
    from skmoecbm.concepts import _greedy

    rng = np.random.default_rng(0)
    T = rng.normal(size=(3 * _greedy._CHUNK + 5, 4))
    T /= np.linalg.norm(T, axis=1, keepdims=True)
    similarity = np.maximum(T @ T.T, 0)
    best, relevance, expected = np.zeros(len(T)), rng.random(len(T)), []
    for _ in range(12):
        gains = relevance + np.maximum(similarity - best, 0).sum(axis=1)
        gains[expected] = -np.inf
        expected.append(int(gains.argmax()))
        best = np.maximum(best, similarity[expected[-1]])
    assert _greedy.greedy_cover(T @ T.T, relevance, 1.0, 12).tolist() == expected


def test_greedy_is_near_the_best_choice():
    """Within 1 - 1/e of the best of all subsets, as Nemhauser et al. (1978) prove."""
    from itertools import combinations

    from skmoecbm.concepts._greedy import greedy_cover

    for seed in range(20):
        rng = np.random.default_rng(seed)
        T = rng.normal(size=(9, 3))
        similarity, relevance = np.maximum(T @ T.T, 0), rng.random(9)

        def value(S, similarity=similarity, relevance=relevance):
            return relevance[list(S)].sum() + similarity[list(S)].max(axis=0).sum()

        best = max(value(S) for S in combinations(range(9), 3))
        assert value(greedy_cover(similarity, relevance, 1.0, 3)) >= (1 - 1 / np.e) * best - 1e-12


def test_labels_find_their_class_by_the_bank(problem):
    X, y, T = problem
    bank = ConceptBank(
        name="b",
        classes=[{"key": "C", "synonyms": ["c"]}, {"key": "A"}, {"key": "x"}, {"key": "B"}],
        concepts=[{"text": f"t{i}", "classes": [("C", "A", "x", "B")[i % 4]]} for i in range(9)],
    )
    selector = TopKConcepts(1).fit(X, y, T, bank=bank)
    scores = brute_force(X, y, T)
    best = [max(range(start, 9, 4), key=lambda i: scores[i]) for start in (0, 1, 3)]
    assert set(selector.support_) == set(best)
    assert np.isnan(selector.scores_[2::4]).all()  # of class x there is no image
    frame = selector.to_frame()
    assert set(frame["class"]) == {"a", "b", "c"}
    assert frame.groupby("class")["selected"].sum().tolist() == [1, 1, 1]
    with pytest.raises(InputError, match="match none of their keys"):
        TopKConcepts(1).fit(X, np.where(y == "a", "other", y), T, bank=bank)
    with pytest.raises(InputError, match="pass bank="):
        TopKConcepts(1).fit(X, y, T, bank.incidence)


def test_integer_labels_are_matched_by_name_and_never_by_place(problem):
    X, _, T = problem
    y = np.tile([0, 1], 30)
    bank = ConceptBank.from_dict({"1": ["a", "b", "c", "d"], "0": ["e", "f", "g", "h", "i"]})
    frame = TopKConcepts(1).fit(X, y, T, bank=bank).to_frame()
    assert set(frame["concept"][frame["class"] == 0]) == set("efghi")
    with pytest.raises(InputError, match="match none of their keys"):
        TopKConcepts(1).fit(X, y + 5, T, bank=bank)
    indicator = np.stack([y == 0, y == 1], axis=1)  # columns are in the bank's order
    frame = TopKConcepts(1).fit(X, indicator, T, bank=bank).to_frame()
    assert set(frame["concept"][frame["class"] == 0]) == set("abcd")


def test_concepts_of_no_class_are_candidates_too(problem):
    X, y, T = problem
    incidence = np.zeros((9, 3), dtype=bool)
    incidence[:3] = np.eye(3)
    selector = TopKConcepts(2).fit(X, y, T, incidence)
    best = 3 + np.argsort(-brute_force(X, y, T[3:]), kind="stable")[:2]
    assert selector.support_.tolist() == sorted([0, 1, 2, *best])
    with pytest.raises(InputError, match="missing ones"):
        TopKConcepts(2).fit(X, np.where(y == "a", None, y), T)


def test_search_over_the_number_of_concepts():
    lesions = make_lesions(90, random_state=1)
    model = Pipeline(
        [
            (
                "clip",
                ConceptEncoder(
                    "demo-structures",
                    "lesions",
                    select=SubmodularSelector(2),
                    cache_dir=None,
                ),
            ),
            ("classifier", ConceptBottleneckClassifier(alpha=1.0)),
        ]
    )
    search = GridSearchCV(model, {"clip__select__n_per_class": [1, 3]}, cv=2)
    search.fit(lesions.images, lesions.target)
    sizes = [
        len(clone(model).set_params(**p).fit(lesions.images, lesions.target)[0].bank_)
        for p in search.cv_results_["params"]
    ]
    assert sizes[0] < sizes[1]


def test_bad_parameters_of_the_submodular_selector(problem):
    X, y, T = problem
    for parameters, message in (
        ({"n_per_class": 0}, "'n_per_class' parameter of SubmodularSelector"),
        ({"relevance": "x"}, "'relevance' parameter"),
        ({"coverage": -1}, "'coverage' parameter"),
        ({"scope": "all"}, "'scope' parameter"),
    ):
        with pytest.raises(InputError, match=message):
            SubmodularSelector(**parameters).fit(X, y, T)
    with pytest.raises(InputError, match=r"shape \(m, 6\)"):
        SubmodularSelector().fit(X, y, T[:, :4])
    with pytest.raises(InputError, match="indicator matrix of 0 and 1"):
        SubmodularSelector().fit(X, np.full((60, 2), 3), T)
