"""ExpertUnion: blocks side by side, parameters within reach, callbacks handed on."""

import pickle
import threading

import numpy as np
import pandas as pd
import pytest
from sklearn import config_context
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.callback import ProgressBar
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
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


def test_expert_with_gaps_is_told(fakes):
    X = np.array([[1.0, np.nan], [2.0, 3.0]])
    with pytest.raises(InputError, match=r"'age': 1 row.*partly NaN"):
        ExpertUnion([("age", StandardScaler())]).fit_transform(X)
    X[0] = np.nan
    features = ExpertUnion([("age", StandardScaler())]).fit_transform(X)
    assert features.blocks[0].present.tolist() == [False, True]


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
    for columns in ("b", ["a", "b"], 3, [0, 3]):
        with pytest.raises(InputError, match=r"not all there: \['a'\]"):
            ExpertUnion([("x", StandardScaler(), columns)]).fit(frame)
    with pytest.raises(InputError, match=r"X must be a DataFrame\. Got ndarray"):
        ExpertUnion([("x", StandardScaler(), "a")]).fit(np.ones((2, 2)))
    with pytest.raises(InputError, match="not all there: 2 columns"):
        ExpertUnion([("x", StandardScaler(), [5])]).fit(np.ones((2, 2)))


def test_union_in_a_union_is_told(fakes, images, union):
    with pytest.raises(InputError, match="'all' is itself a union of"):
        ExpertUnion([("all", union)]).fit_transform(images)


def test_html_and_repr_do_not_fail(union):
    assert "clip" in repr(union)
    assert "ExpertUnion" in union._repr_html_()
