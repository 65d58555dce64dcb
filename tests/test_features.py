"""ExpertFeatures: an array to numpy and scikit-learn, blocks to us."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.utils import check_array, indexable, resample, shuffle
from sklearn.utils.validation import check_consistent_length

from skmoecbm.exceptions import InputError
from skmoecbm.features import ExpertBlock, ExpertFeatures


@pytest.fixture
def parts():
    rng = np.random.default_rng(0)
    X = {"clip": rng.normal(size=(12, 5)), "bio": rng.normal(size=(12, 7))}
    T = {"clip": rng.normal(size=(3, 5)), "bio": rng.normal(size=(4, 7))}
    X["bio"][4] = np.nan
    return X, T


@pytest.fixture
def features(parts):
    X, T = parts
    return ExpertFeatures.from_embeddings(
        {
            "clip": (X["clip"], T["clip"], ["red", "blue", "a__b"]),
            "bio": (X["bio"], T["bio"], ["red", "veil", "hair", "dot"]),
        },
        incidence={"clip": np.eye(3, 2), "bio": np.eye(4, 2)},
        class_keys=["mel", "nv"],
        class_synonyms={"Melanoma": "mel"},
        class_embeddings={"clip": np.eye(2, 5) * 3, "bio": np.ones((2, 7))},
    )


def cosines(parts):
    X, T = parts
    blocks = []
    for name in X:
        rows = [[x @ t / np.linalg.norm(x) / np.linalg.norm(t) for t in T[name]] for x in X[name]]
        blocks.append(np.array(rows))
    return np.hstack(blocks)


def test_values_are_cosines(features, parts):
    np.testing.assert_allclose(np.asarray(features), cosines(parts), atol=1e-7)
    assert np.isnan(np.asarray(features)[4, 3:]).all()
    assert np.asarray(features).dtype == features.dtype == np.float32
    assert features.shape == np.asarray(features).shape == (12, 7)
    assert (features.ndim, len(features)) == (2, 12)


def test_blocks_say_who_is_there(features):
    clip, bio = features.blocks
    assert features.expert_names == ("clip", "bio")
    assert clip.present.all()
    assert bio.present.tolist() == [i != 4 for i in range(12)]
    assert np.isnan(bio.embeddings[4]).all()
    np.testing.assert_allclose(np.linalg.norm(clip.embeddings, axis=1), 1, rtol=1e-6)
    assert bio.concepts == ("red", "veil", "hair", "dot")
    assert clip.class_keys == ("mel", "nv")
    assert clip.class_synonyms == {"mel": "mel", "nv": "nv", "melanoma": "mel"}
    np.testing.assert_array_equal(clip.incidence, [[1, 0], [0, 1], [0, 0]])
    np.testing.assert_array_equal(clip.class_embeddings, np.eye(2, 5))
    np.testing.assert_allclose(bio.class_embeddings, np.full((2, 7), 7**-0.5), rtol=1e-6)


def test_frame_has_expert_and_concept_in_its_columns(features):
    frame = features.to_frame()
    assert list(frame.columns) == features.columns
    assert features.columns[:4] == ["clip__red", "clip__blue", "clip__a__b", "bio__red"]
    np.testing.assert_array_equal(frame.to_numpy(), np.asarray(features))
    assert features.to_frame(index=list("abcdefghijkl")).index[2] == "c"


KEYS = [
    slice(None),
    slice(2, 9, 3),
    slice(None, None, -1),
    slice(5, 5),
    [3, 1, 1, -1],
    np.array([0, 11], dtype=np.int32),
    [],
    np.arange(12) % 2 == 0,
    [True, False] * 6,
    range(3),
]


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_rows_are_those_of_the_array(features, key):
    array = np.asarray(features)
    expected = array[np.asarray(key, dtype=int) if isinstance(key, list) and not key else key]
    for chosen in (features[key], features[key, ...]):
        assert isinstance(chosen, ExpertFeatures)
        assert chosen.columns == features.columns
        np.testing.assert_array_equal(np.asarray(chosen), expected)


def test_one_integer_gives_a_row_and_columns_give_numbers(features):
    array = np.asarray(features)
    for key in (3, np.int64(-1)):
        np.testing.assert_array_equal(features[key], array[key])
        assert features[key].ndim == 1
    np.testing.assert_array_equal(features[:, 2], array[:, 2])
    np.testing.assert_array_equal(features[3:5, [0, 1]], array[3:5, [0, 1]])
    np.testing.assert_array_equal(list(features), list(array))
    for key in (12, [0, 12], np.ones(11, dtype=bool)):
        with pytest.raises(IndexError):
            features[key]


def test_value_of_a_row_does_not_depend_on_the_other_rows():
    rng = np.random.default_rng(1)
    names = [f"c{j}" for j in range(40)]
    full = ExpertFeatures.from_embeddings(
        {"a": (rng.normal(size=(300, 512)), rng.normal(size=(40, 512)), names)}
    )
    array = np.asarray(full)
    order = rng.permutation(300)
    np.testing.assert_array_equal(np.asarray(full[order]), array[order])
    for i in range(0, 300, 17):
        np.testing.assert_array_equal(full[i], array[i])
    assert np.abs(array).max() <= 1


@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.sampled_from([1e-200, 1e-20, 1.0, 1e200]))
def test_length_of_given_vectors_does_not_matter(seed, d, scale):
    rng = np.random.default_rng(seed)
    X, T = rng.normal(size=(3, d)), rng.normal(size=(2, d))
    plain = ExpertFeatures.from_embeddings({"a": (X, T, ["x", "y"])})
    scaled = ExpertFeatures.from_embeddings({"a": (X * scale, T / scale, ["x", "y"])})
    np.testing.assert_allclose(np.asarray(plain), np.asarray(scaled), atol=3e-7)
    assert np.abs(np.asarray(plain)).max() <= 1 + 1e-6


def test_subset_shares_what_belongs_to_concepts(features):
    block, part = features.blocks[0], features[[1, 2]].blocks[0]
    for name in ("texts", "incidence", "class_embeddings"):
        assert np.shares_memory(getattr(block, name), getattr(part, name))
    assert not np.shares_memory(block.embeddings, features[:2].blocks[0].embeddings)


def test_features_cannot_be_changed(features):
    for block in (*features.blocks, *pickle.loads(pickle.dumps(features)).blocks):
        for name in ("embeddings", "texts", "present", "incidence", "class_embeddings"):
            with pytest.raises(ValueError, match="read-only"):
                getattr(block, name)[:] = 0
        with pytest.raises(AttributeError):
            block.name = "other"
    with pytest.raises(AttributeError):
        features.blocks = ()


def test_given_arrays_stay_as_they_were():
    X, T = np.ones((2, 3), dtype=np.float32), np.ones((1, 3), dtype=np.float32)
    D, inside = np.ones((2, 1), dtype=np.float32), np.ones((1, 1), dtype=bool)
    one = ExpertFeatures.from_embeddings({"a": (X, T, ["x"])})
    two = ExpertFeatures.from_similarities({"a": (D, ["x"])}, incidence=inside, class_keys=["k"])
    X[:], T[:], D[:], inside[:] = 7, -7, 7, False
    np.testing.assert_allclose(np.asarray(one), 1, atol=1e-7)
    np.testing.assert_array_equal(np.asarray(two), 1)
    assert two.blocks[0].incidence.all()


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda f: pickle.loads(pickle.dumps(f))]
)
def test_copies_are_equal(features, again):
    other = again(features)
    assert other.columns == features.columns
    np.testing.assert_array_equal(np.asarray(other), np.asarray(features))
    assert other.blocks[1].class_synonyms == features.blocks[1].class_synonyms


def test_select_chooses_experts_in_order(features):
    chosen = features.select(["bio", "clip"])
    assert chosen.expert_names == ("bio", "clip")
    np.testing.assert_array_equal(
        np.asarray(chosen), np.asarray(features)[:, [3, 4, 5, 6, 0, 1, 2]]
    )
    assert features.select("bio").shape == (12, 4)
    with pytest.raises(InputError, match="no expert 'x' here; there are"):
        features.select(["x"])


def test_joining_blocks(features):
    clip, bio = features.blocks
    joined = ExpertFeatures([clip.rename("a"), bio.rename("b")])
    assert joined.expert_names == ("a", "b")
    with pytest.raises(InputError, match="must differ"):
        ExpertFeatures([clip, bio.rename("clip")])
    with pytest.raises(InputError, match=r"same number of rows.*'bio': 3"):
        ExpertFeatures([clip, bio.take(slice(3))])
    for bad in ([], [np.ones((2, 2))]):
        with pytest.raises(InputError, match="at least one ExpertBlock"):
            ExpertFeatures(bad)


def test_numpy_conversions(features):
    array = np.asarray(features)
    assert np.asarray(features, dtype=np.float64).dtype == np.float64
    np.testing.assert_array_equal(np.array(features), array)
    np.testing.assert_array_equal(np.vstack([features, features]), np.vstack([array, array]))
    with pytest.raises(ValueError, match="without a copy"):
        np.array(features, copy=False)
    np.array(features)[:] = 0
    np.testing.assert_array_equal(np.asarray(features), array)


def test_array_of_similarities_is_a_copy():
    features = ExpertFeatures.from_similarities({"a": ([[1.0]], ["x"])})
    np.asarray(features)[:] = 5
    assert features[0] == [1.0]


def test_scikit_learn_helpers(features):
    array = np.asarray(features)
    assert indexable(features, list(range(12)))[0] is features
    check_consistent_length(features, range(12))
    np.testing.assert_array_equal(check_array(features, ensure_all_finite=False), array)
    order = np.random.RandomState(0).permutation(12)
    np.testing.assert_array_equal(np.asarray(shuffle(features, random_state=0)), array[order])
    assert isinstance(resample(features, random_state=0), ExpertFeatures)


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_model_selection_gives_what_the_array_gives(n_jobs):
    rng = np.random.default_rng(0)
    y = np.arange(40) % 2
    X = rng.normal(size=(40, 6)) + y[:, None]
    features = ExpertFeatures.from_embeddings({"a": (X, rng.normal(size=(5, 6)), list("abcde"))})
    array, model = np.asarray(features), LogisticRegression()
    for data in (features, features.to_frame()):
        np.testing.assert_array_equal(
            cross_val_score(model, data, y, n_jobs=n_jobs), cross_val_score(model, array, y)
        )
    np.testing.assert_array_equal(
        cross_val_predict(model, features, y, n_jobs=n_jobs), cross_val_predict(model, array, y)
    )
    grid = {"C": [0.01, 1.0]}
    search = GridSearchCV(model, grid, n_jobs=n_jobs).fit(features, y)
    assert search.best_score_ == GridSearchCV(model, grid).fit(array, y).best_score_
    np.testing.assert_array_equal(search.predict(features[:3]), search.predict(array[:3]))


class KeepsBlocks(LogisticRegression):
    def fit(self, X, y):
        assert isinstance(X, ExpertFeatures)
        return super().fit(X, y)


def test_folds_arrive_with_their_blocks():
    rng = np.random.default_rng(0)
    features = ExpertFeatures.from_similarities({"a": (rng.normal(size=(20, 2)), ["x", "y"])})
    cross_val_score(KeepsBlocks(), features, np.arange(20) % 2, error_score="raise")


def embedded(X=None, T=None, names=("x", "y"), name="clip", **more):
    X = np.ones((4, 3)) if X is None else X
    T = np.ones((2, 3)) if T is None else T
    return ExpertFeatures.from_embeddings({name: (X, T, list(names))}, **more)


def with_value(value, row=slice(1, 2), column=slice(0, 1), shape=(4, 3)):
    X = np.ones(shape)
    X[row, column] = value
    return X


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: embedded(with_value(np.nan)),
            r"'clip': 1 row\(s\) of the image embeddings are pa",
        ),
        (lambda: embedded(with_value(np.nan)), "Fill the gaps, or set the whole row"),
        (lambda: embedded(with_value(np.nan, slice(0, 4, 2))), r"rows 0, 2\)"),
        (lambda: embedded(with_value(np.inf)), "row 1 of the image embeddings has an infinite"),
        (
            lambda: ExpertFeatures.from_similarities({"a": ([[1.0], [-1e39]], ["x"])}),
            "'a': row 1 of the similarities has a value too large for float32",
        ),
        (lambda: embedded(with_value(0, column=slice(None))), "'clip': image embedding 1 is all z"),
        (lambda: embedded(T=with_value(np.nan, shape=(2, 3))), "row 1 of the concept embeddings"),
        (lambda: embedded(np.ones(3)), r"must be 2-D. Got shape \(3,\)"),
        (lambda: embedded([["a", "b"]]), "must be an array of numbers"),
        (lambda: embedded(np.ones((4, 5))), r"must agree. Got \(4, 5\), \(2, 3\) and 2 names"),
        (lambda: embedded(names=["x"]), "and 1 names"),
        (lambda: embedded(names=["x", "x"]), "'x' is there twice"),
        (lambda: embedded(names=["x", ""]), "list of non-empty str"),
        (lambda: embedded(name="a__b"), "without '__'.*Got 'a__b'"),
        (lambda: embedded(name=""), "non-empty str"),
        (lambda: embedded(incidence=np.ones((2, 1))), "need class_keys"),
        (lambda: embedded(class_keys=["a"], incidence=np.ones((3, 1))), r"0/1 of shape \(2, 1\)"),
        (lambda: embedded(class_keys=["a"], incidence=[[2], [0]]), "0/1 of shape"),
        (lambda: embedded(class_keys=["a", "a"]), "class_keys must be distinct"),
        (lambda: embedded(class_keys=["a"], class_synonyms={"b": "c"}), "'b' names no class"),
        (
            lambda: embedded(class_keys=["a"], class_embeddings=np.ones((2, 3))),
            r"shape \(1, 3\). Got \(2, 3\)",
        ),
        (lambda: ExpertFeatures.from_embeddings({}), "non-empty dict"),
        (lambda: ExpertFeatures.from_embeddings([("a", 1)]), "Got list"),
        (lambda: ExpertFeatures.from_embeddings({"a": np.ones((2, 2))}), "'a' must be a tuple"),
        (lambda: ExpertFeatures.from_similarities({"a": (np.ones((2, 2)), ["x"])}), "1 names"),
        (
            lambda: ExpertFeatures.from_similarities({"a": ([[1, np.nan]], ["x", "y"])}),
            r"1 row\(s\) of the similarities are partly NaN \(rows 0\)",
        ),
    ],
)
def test_bad_input_is_told_in_a_sentence(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_class_embeddings_must_fit_the_text_space():
    with pytest.raises(InputError, match=r"class_embeddings must have shape \(1, 3\)"):
        embedded(class_keys=["a"], class_embeddings=np.ones((1, 5)))


def test_repr_is_short(features):
    assert repr(features) == "ExpertFeatures(12 rows; 'clip': 3 concepts, 'bio': 4 concepts)"
    assert repr(features.blocks[0]) == "ExpertBlock('clip', 12 rows, 3 concepts, 5-d embeddings)"
    assert isinstance(features.blocks[0], ExpertBlock)
