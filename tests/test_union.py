"""ExpertUnion: blocks side by side, parameters within reach, callbacks handed on."""

import pickle
import threading

import numpy as np
import pandas as pd
import pytest
from joblib import parallel_config
from sklearn import config_context
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.callback import ProgressBar
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import skmoecbm.encoder
from skmoecbm.encoder import ConceptEncoder, ExpertUnion
from skmoecbm.exceptions import InputError
from skmoecbm.features import ExpertFeatures
from tests.fake_backbones import FakeBackbone

CONCEPTS = {"mel": ["red", "veil"], "nv": ["brown", "red"]}


@pytest.fixture
def fakes(monkeypatch):
    made = {}

    def load(name, *, revision, precision, resize, device):
        return made.setdefault(name, FakeBackbone(name))

    monkeypatch.setattr(skmoecbm.encoder, "load_backbone", load)
    return made


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (9, 12, 3)).astype(np.uint8) for _ in range(12)]


@pytest.fixture
def y():
    return np.array(["mel", "nv"] * 6)


def encoder(backbone="one", concepts=CONCEPTS, **more):
    return ConceptEncoder(backbone, concepts, cache_dir=None, **more)


@pytest.fixture
def union():
    return ExpertUnion([("clip", encoder()), ("bio", encoder("two", ["dots", "hair"]))])


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_blocks_are_those_of_the_encoders_under_their_names(fakes, images, union, n_jobs):
    union.set_params(n_jobs=n_jobs)
    features = union.fit_transform(images)
    assert isinstance(features, ExpertFeatures)
    assert features.expert_names == ("clip", "bio")
    assert features.columns == ["clip__red", "clip__veil", "clip__brown", "bio__dots", "bio__hair"]
    assert union.get_feature_names_out().tolist() == features.columns
    for (_, part), block in zip(union.experts, features.blocks, strict=True):
        alone = clone(part).fit_transform(images).blocks[0]
        np.testing.assert_array_equal(block.values(), alone.values())
        assert block.class_keys == alone.class_keys
        assert block.concepts == alone.concepts
    np.testing.assert_array_equal(np.asarray(union.transform(images)), np.asarray(features))
    assert fakes["one"].images_embedded == fakes["two"].images_embedded == 12


def test_fit_then_transform_equals_fit_transform_and_fit_does_not_embed(fakes, images, union):
    fitted = clone(union).fit(images)
    assert fakes["one"].images_embedded == 0
    np.testing.assert_array_equal(
        np.asarray(fitted.transform(images)), np.asarray(union.fit_transform(images))
    )


def test_fit_twice_equals_once_and_leaves_the_given_encoders_alone(fakes, images, union):
    given = [part for _, part in union.experts]
    assert union.fit(images) is union
    first = np.asarray(union.transform(images))
    np.testing.assert_array_equal(np.asarray(union.fit(images).transform(images)), first)
    assert [part for _, part in union.experts] == given
    assert not any(hasattr(part, "bank_") for part in given)
    assert union.named_experts_.clip is union.experts_[0][1]
    assert union.named_experts_["bio"].bank_.texts == ["dots", "hair"]


def test_unfitted_union_says_so(images, union):
    for use in (
        lambda: union.transform(images),
        lambda: union.get_feature_names_out(),
        lambda: union.named_experts_,
    ):
        with pytest.raises(NotFittedError):
            use()


def test_parameters_are_reached_by_name(union):
    params = union.get_params()
    assert params["clip"] is union.experts[0][1]
    assert params["clip__resize"] == "crop"
    assert set(union.get_params(deep=False)) == {"experts", "n_jobs"}
    assert union.set_params(clip__resize="pad", n_jobs=2) is union
    assert union.experts[0][1].resize == "pad"
    other = encoder("three")
    union.set_params(clip=other, clip__batch_size=7)
    assert union.experts[0] == ("clip", other)
    assert other.batch_size == 7
    union.set_params(experts=[("x", other, ["path"])])
    union.set_params(x=StandardScaler())
    assert union.experts[0][2] == ["path"]
    assert isinstance(union.experts[0][1], StandardScaler)
    with pytest.raises(ValueError, match="nothing"):
        union.set_params(nothing=1)
    with pytest.raises(ValueError, match="nothing"):
        union.set_params(x__nothing=1)


def test_clone_and_pickle(fakes, images, union):
    copy = clone(union)
    assert copy.experts[0][1] is not union.experts[0][1]
    assert copy.get_params()["bio__concepts"] == ["dots", "hair"]
    union.fit(images)
    again = pickle.loads(pickle.dumps(union))
    np.testing.assert_array_equal(
        np.asarray(again.transform(images)), np.asarray(union.transform(images))
    )


def test_data_frames_on_request(fakes, images, union):
    expected = np.asarray(union.fit_transform(images))
    with config_context(transform_output="pandas"):
        frames = [union.transform(images), clone(union).fit_transform(images)]
    frames.append(
        union.set_output(transform="pandas").transform(pd.Series(images, index=range(12)))
    )
    for frame in frames:
        assert list(frame.columns) == union.get_feature_names_out().tolist()
        np.testing.assert_array_equal(frame.to_numpy(), expected)
    # an encoder that gives DataFrames keeps its block in a union
    part = encoder().set_output(transform="pandas")
    (block,) = ExpertUnion([("clip", part)]).fit_transform(images).blocks
    assert block.embeddings is not None
    assert block.class_keys == ("mel", "nv")


def test_each_expert_sees_its_columns(fakes, images):
    paths = pd.Series(images, index=range(50, 62), dtype=object)
    frame = pd.DataFrame(
        {
            "dermoscopy": paths,
            "report": ["red"] * 6 + [None] * 6,
            "age": np.arange(12.0),
            "sex": ["f", "m"] * 6,
        }
    )
    union = ExpertUnion(
        [
            ("image", encoder(), "dermoscopy"),
            ("report", encoder("two", modality="text"), 1),
            ("age", StandardScaler(), ["age"]),
            ("sex", OneHotEncoder(), slice(3, 4)),
        ]
    )
    features = union.fit_transform(frame)
    assert features.columns[-3:] == ["age__age", "sex__sex_f", "sex__sex_m"]
    np.testing.assert_array_equal(
        features.blocks[0].values(), np.asarray(encoder().fit_transform(images))
    )
    assert features.blocks[1].present.tolist() == [True] * 6 + [False] * 6
    np.testing.assert_allclose(
        features.blocks[2].values()[:, 0], (np.arange(12) - 5.5) / np.arange(12).std(), rtol=1e-6
    )
    np.testing.assert_array_equal(features.blocks[3].values()[:, 0], [1, 0] * 6)
    part = union.transform(frame.iloc[[3]])
    np.testing.assert_array_equal(np.asarray(part), np.asarray(features[[3]]))


TABLE = pd.DataFrame(
    {"image": list("pqrs"), "age": [1.0, 2, 3, 4], "sex": [0.0, 1, 0, 1], "report": list("wxyz")}
)
SPECS = [
    "age",
    1,
    np.int64(-3),
    ["age", "sex"],
    ("sex", "age"),
    [1, -2],
    np.array([2, 1]),
    pd.Index(["sex"]),
    slice(1, 3),
    slice(None, 1),
    slice(-3, None, 2),
    slice("age", "report"),
    slice("sex", None),
    slice(None, "age"),
    [False, True, True, False],
    np.array([True, False, False, True]),
    TABLE.dtypes == "float64",
    make_column_selector(dtype_include=float),
    make_column_selector(pattern="^(?:age|report)$"),
    lambda X: "report",
    lambda X: [name for name in X.columns if "e" in name],
]


class Keeper(TransformerMixin, BaseEstimator):
    """Keeps what it is shown, whatever that is."""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def fit(self, X, y=None):
        self.fit_seen_ = X
        return self

    def transform(self, X):
        self.seen_ = X
        return np.ones((len(X), 1))

    def get_feature_names_out(self, input_features=None):
        return ["one"]


@pytest.mark.parametrize("spec", SPECS)
def test_columns_are_those_that_a_column_transformer_takes(spec):
    class One(Keeper):
        pass

    oracle = ColumnTransformer([("x", One(), spec)]).fit(TABLE)
    expected = oracle.named_transformers_["x"].fit_seen_
    union = ExpertUnion([("x", Keeper(), spec)]).fit(TABLE)
    seen = union.named_experts_.x.fit_seen_
    assert type(seen) is type(expected)
    assert seen.equals(expected)
    # columns are found again by their names, wherever they are and whatever is beside them
    moved = TABLE[TABLE.columns[::-1]].assign(new=0)
    union.transform(moved.iloc[:2])
    seen = union.named_experts_.x.seen_
    assert seen.equals(expected.iloc[:2])
    # and the same in what is made of it
    assert clone(union).fit(TABLE).columns_ == union.columns_


@pytest.mark.parametrize(
    "spec", [0, -1, [0, 2], slice(1, None), [True, False, True], np.array([False, True, False])]
)
def test_columns_of_an_array_are_those_that_a_column_transformer_takes(spec):
    X = np.arange(12.0).reshape(4, 3)
    expected = ColumnTransformer([("x", Keeper(), spec)]).fit(X).named_transformers_["x"].fit_seen_
    union = ExpertUnion([("x", Keeper(), spec)]).fit(X)
    np.testing.assert_array_equal(union.named_experts_.x.fit_seen_, expected)
    union.transform(X[:2])
    np.testing.assert_array_equal(union.named_experts_.x.seen_, expected[:2])
    assert ExpertUnion([("x", Keeper(), -1)]).fit(X).columns_ == [2]
    with pytest.raises(InputError, match="X has 4 columns, but expert 'x' was fitted on 3"):
        union.transform(np.ones((2, 4)))
    with pytest.raises(InputError, match="X must be a DataFrame or a 2-D array"):
        union.transform(np.ones(2))


def test_a_selector_is_asked_once_in_fit():
    union = ExpertUnion([("x", "passthrough", make_column_selector(dtype_include=float))])
    union.fit(TABLE)
    later = TABLE.assign(weight=1.0, age=[1, 2, 3, 4])  # a new float, and one that is no longer
    np.testing.assert_array_equal(np.asarray(union.transform(later)), TABLE[["age", "sex"]])
    with pytest.raises(InputError, match="not all there"):
        union.transform(TABLE[["image", "sex"]])
    with pytest.raises(InputError, match="Got an array; give the DataFrame"):
        union.transform(TABLE.to_numpy())


def test_passthrough_gives_numbers_as_they_are():
    frame = TABLE.assign(n=pd.array([1, None, 3, 4], dtype="Int64"), yes=[True, False, None, True])
    union = ExpertUnion([("age", "passthrough", "age"), ("more", "passthrough", ["n", "yes"])])
    features = union.fit_transform(frame)
    assert features.columns == ["age__age", "more__n", "more__yes"]
    assert union.get_feature_names_out().tolist() == features.columns
    expected = [[1, 1, 1], [2, np.nan, 0], [3, 3, np.nan], [4, 4, 1]]
    np.testing.assert_array_equal(np.asarray(features), expected)
    np.testing.assert_array_equal(np.asarray(union.transform(frame[::-1])), expected[::-1])
    assert clone(union.set_params(more="passthrough")).get_params()["more"] == "passthrough"
    union._repr_html_()
    alone = ExpertUnion([("all", "passthrough")]).fit_transform(np.ones((2, 3)))
    assert alone.columns == ["all__x0", "all__x1", "all__x2"]
    with pytest.raises(InputError, match=r"'sex': its columns are not all numbers.*OneHotEncoder"):
        ExpertUnion([("sex", "passthrough", ["report"])]).fit_transform(frame)
    with pytest.raises(InputError, match=r"or 'passthrough'\. Got 'drop'"):
        ExpertUnion([("sex", "drop", ["report"])]).fit(frame)


def test_a_transformer_that_takes_no_nan_is_shown_no_empty_row():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 4))
    X[[3, 29]] = np.nan
    full = ~np.isnan(X[:, 0])
    y = np.arange(30) % 2
    union = ExpertUnion([("pca", PCA(2)), ("lda", LinearDiscriminantAnalysis())])
    features = union.fit_transform(X, y)
    for block, oracle in zip(features.blocks, [PCA(2), LinearDiscriminantAnalysis()], strict=True):
        assert block.present.tolist() == full.tolist()
        expected = oracle.fit(X[full], y[full]).transform(X[full])
        np.testing.assert_allclose(block.values()[full], expected, rtol=1e-5, atol=1e-6)
        assert np.isnan(block.values()[~full]).all()
    np.testing.assert_array_equal(np.asarray(union.transform(X)), np.asarray(features))
    nothing = union.transform(X[[3, 3]])  # no row at all to show
    assert np.isnan(np.asarray(nothing)).all()
    assert nothing.columns == features.columns
    # and nothing is learned from them
    again = clone(union).fit(X[full], y[full])
    np.testing.assert_array_equal(np.asarray(again.transform(X)), np.asarray(features))
    with pytest.raises(InputError, match="'pca' has nothing to learn from: all 2 rows"):
        clone(union).fit(X[[3, 29]], y[:2])


def test_reports_that_are_not_there_are_missing_for_any_transformer_of_text():
    reports = pd.Series(
        ["red veil", None, "brown", " ", float("nan"), "veil"], index=range(6, 0, -1)
    )
    union = ExpertUnion([("words", TfidfVectorizer())])
    for given in (reports, reports.tolist()):
        (block,) = union.fit_transform(given).blocks
        assert block.concepts == ("brown", "red", "veil")
        assert block.present.tolist() == [True, False, True, False, False, True]
    expected = TfidfVectorizer().fit_transform(["red veil", "brown", "veil"]).toarray()
    np.testing.assert_allclose(block.values()[[0, 2, 5]], expected, rtol=1e-6)


def test_a_row_with_nothing_in_it_is_missing_unless_the_transformer_takes_nan_and_fills_it():
    frame = pd.DataFrame({"age": [1.0, 5, np.nan, np.nan], "sex": ["f", "m", None, "m"]})
    parts = [("age", StandardScaler(), ["age"]), ("sex", OneHotEncoder(), ["sex"])]
    filled = ColumnTransformer([("age", SimpleImputer(), ["age"]), parts[1]])
    several = FeatureUnion([("n", ColumnTransformer(parts[:1])), ("all", OneHotEncoder())])
    union = ExpertUnion(
        [
            ("both", ColumnTransformer(parts), ["age", "sex"]),
            ("several", several),
            ("sex", OneHotEncoder(), ["sex"]),
            ("age", SimpleImputer(), ["age"]),
            ("filled", filled),
        ]
    )
    present = [block.present.tolist() for block in union.fit_transform(frame).blocks]
    assert present[0] == present[1] == [True, True, False, True]
    # a category of its own, and the imputer that was asked for
    assert present[2] == present[3] == [True] * 4
    # a ColumnTransformer does not say that it takes NaN
    assert present[4] == [True, True, False, True]


class Recorder(TransformerMixin, BaseEstimator):
    def fit(self, X, y=None):
        self.seen_, self.n_features_in_ = X, 1
        return self

    def transform(self, X):
        return np.ones((len(X), 1))

    def get_feature_names_out(self, input_features=None):
        return ["one"]


@pytest.mark.parametrize(
    ("columns", "shape"), [(0, (3,)), ([0], (3, 1)), (slice(0, 2), (3, 2)), ([2, 0], (3, 2))]
)
def test_one_column_is_1d_and_a_list_is_2d(columns, shape):
    X = np.arange(9.0).reshape(3, 3)
    union = ExpertUnion([("x", Recorder(), columns)]).fit(X)
    seen = union.named_experts_.x.seen_
    np.testing.assert_array_equal(seen, X[:, columns])
    assert seen.shape == shape
    frame = pd.DataFrame(X, columns=list("abc"))
    seen = ExpertUnion([("x", Recorder(), columns)]).fit(frame).named_experts_.x.seen_
    assert seen.shape == shape
    assert hasattr(seen, "iloc")


def test_rows_of_nan_are_missing_and_gaps_stay_for_who_may_take_them():
    X = np.array([[1.0, np.nan], [2.0, 3.0], [np.nan, np.nan]])
    (block,) = ExpertUnion([("age", StandardScaler())]).fit_transform(X).blocks
    assert block.present.tolist() == [True, True, False]
    np.testing.assert_array_equal(np.isnan(block.values()), np.isnan(X))


def test_nothing_goes_in_or_out_of_a_model_but_blocks(fakes, images, y):
    union = ExpertUnion([("clip", encoder()), ("bio", encoder("two"))])
    model = make_pipeline(union, LogisticRegression())
    scores = cross_val_score(model, images, y, cv=3, error_score="raise")
    assert scores.shape == (3,)
    search = GridSearchCV(
        model,
        {"expertunion__clip__concepts": [["red"], ["red", "blue"]]},
        cv=3,
        error_score="raise",
    ).fit(images, y)
    assert search.best_estimator_[0].get_params()["clip__concepts"] in (["red"], ["red", "blue"])
    assert fakes["one"].images_embedded == fakes["two"].images_embedded == 12


class Listener:
    """A callback that notes each task: who, what, how deep."""

    max_propagation_depth = None

    def __init__(self):
        self.tasks = []
        self.lock = threading.Lock()

    def setup(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        with self.lock:
            depth, parent = 0, context.parent
            while parent is not None:
                depth, parent = depth + 1, parent.parent
            self.tasks.append((depth, context.estimator_name, context.source_task_name))

    def on_fit_task_end(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_callbacks_reach_the_encoders(fakes, images, y, n_jobs):
    union = ExpertUnion(
        [("clip", encoder()), ("bio", encoder("two")), ("none", Recorder())], n_jobs=n_jobs
    )
    model = make_pipeline(union, LogisticRegression()).set_callbacks(listener := Listener())
    model.fit(images, y)
    told = sorted(
        task for task in listener.tasks if task[0] == 2 and task[1] != "LogisticRegression"
    )
    assert told == [
        (2, "ConceptEncoder", "fit-bio"),
        (2, "ConceptEncoder", "fit-clip"),
        (2, "ExpertUnion", None),
    ]
    assert not hasattr(model[0].experts[0][1], "_skl_callbacks")
    assert not hasattr(model[0].experts_[0][1], "_parent_callback_ctx")


def test_progress_bar_runs_without_a_warning(fakes, images, union, recwarn):
    union.set_callbacks(ProgressBar()).fit(images)
    assert not [w for w in recwarn if "callbacks" in str(w.message)]


@pytest.mark.parametrize(
    ("experts", "message"),
    [
        ([], "'experts' parameter of ExpertUnion must be a non-empty list"),
        (None, "'experts' parameter of ExpertUnion"),
        ({"a": 1}, "'experts' parameter of ExpertUnion"),
        ([encoder()], "'experts' parameter of ExpertUnion"),
        ([("a",)], "'experts' parameter of ExpertUnion"),
        ([("a", encoder()), ("a", encoder())], r"names must differ. Got \['a', 'a'\]"),
        ([("a__b", encoder())], "without '__'"),
        ([("", encoder())], "non-empty str"),
        ([(3, encoder())], "non-empty str"),
        ([("n_jobs", encoder())], "'n_jobs' is a parameter of ExpertUnion"),
        ([("a", ConceptEncoder)], "'a' must be an encoder"),
        ([("a", "demo-general")], "'a' must be an encoder.*Got 'demo-general'"),
        ([("a", LogisticRegression())], "'a' must be an encoder"),
        ([("a", encoder(), "path")], "asks for columns 'path': X must be a DataFrame or a 2-D arr"),
    ],
)
def test_bad_experts_are_told_in_fit(fakes, images, experts, message):
    union = ExpertUnion(experts)
    union.get_params()
    clone(union)
    with pytest.raises(InputError, match=message):
        union.fit(images)


def test_bad_columns_are_told():
    frame = pd.DataFrame({"a": [1.0, 2.0]})
    for columns in ("b", ["a", "b"], 3, [0, 3], slice("a", "b"), True, [None]):
        with pytest.raises(InputError, match=r"not all there: \['a'\]|mask of columns"):
            ExpertUnion([("x", StandardScaler(), columns)]).fit(frame)
    with pytest.raises(InputError, match=r"X must be a DataFrame\. Got an array"):
        ExpertUnion([("x", StandardScaler(), "a")]).fit(np.ones((2, 2)))
    with pytest.raises(InputError, match="not all there: 2 columns"):
        ExpertUnion([("x", StandardScaler(), [5])]).fit(np.ones((2, 2)))
    for columns in ([], slice(1, 1), [False], make_column_selector(dtype_include=object)):
        with pytest.raises(InputError, match=r"of \['a'\] that is none"):
            ExpertUnion([("x", StandardScaler(), columns)]).fit(frame)
    for columns in ([True], [True, False, 1], [True, True, True]):
        with pytest.raises(InputError, match="one bool for each of the 2 columns"):
            ExpertUnion([("x", StandardScaler(), columns)]).fit(np.ones((2, 2)))
    for columns in (1.5, {"a"}, lambda X: object()):
        with pytest.raises(InputError, match="must be a str, an int, a list of them"):
            ExpertUnion([("x", StandardScaler(), columns)]).fit(frame)
    twice = pd.DataFrame(np.ones((2, 2)), columns=["a", "a"])
    with pytest.raises(InputError, match="2 columns are called so"):
        ExpertUnion([("x", StandardScaler(), ["a"])]).fit(twice)
    assert ExpertUnion([("x", StandardScaler(), [1])]).fit(twice).columns_ == [[1]]


def test_encoders_are_fitted_under_a_backend_of_processes_too():
    X = np.arange(12.0).reshape(6, 2)
    union = ExpertUnion([("a", StandardScaler(), [0]), ("b", StandardScaler(), [1])])
    expected = np.asarray(clone(union).fit_transform(X))
    with parallel_config(backend="multiprocessing", n_jobs=2):
        np.testing.assert_array_equal(np.asarray(union.fit(X).transform(X)), expected)


def test_union_in_a_union_is_told(fakes, images, union):
    with pytest.raises(InputError, match="'all' is itself a union of"):
        ExpertUnion([("all", union)]).fit_transform(images)


def test_html_and_repr_do_not_fail(union):
    assert "clip" in repr(union)
    assert "ExpertUnion" in union._repr_html_()
