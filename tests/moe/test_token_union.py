"""TokenUnion: records of an image and a report, in a pipeline and a grid search."""

import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn import config_context
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from skmoecbm import mask_terms
from skmoecbm.exceptions import InputError, SkmoecbmWarning
from skmoecbm.moe import TextTokenEncoder, TokenEncoder, TokenFeatures, TokenUnion
from tests.language_models import WORDS, write_gpt

TEXTS = ["irregular border", "no hair", None, "blue-white veil"]


def pictures(n, seed=0):
    return list(np.random.default_rng(seed).integers(0, 255, (n, 70, 80, 3), dtype=np.uint8))


def union(**options):
    options = {"cache_dir": None, **options}
    return TokenUnion(
        [
            ("image", TokenEncoder("demo-general", **options)),
            ("text", TextTokenEncoder("demo-general", **options)),
        ]
    )


class MeanOfTokens(ClassifierMixin, BaseEstimator):
    """A stand-in for a classifier of tokens: logistic regression on their means."""

    def __init__(self, C=1.0):
        self.C = C

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        self.model_ = LogisticRegression(C=self.C).fit(self.means(X), y)
        return self

    def predict(self, X):
        return self.model_.predict(self.means(X))

    def means(self, X):
        assert isinstance(X, TokenFeatures)
        zero = {name: np.zeros(stream.width) for name, stream in X.streams.items()}
        return np.array(
            [
                np.concatenate([zero[k] if v is None else v.mean(axis=0) for k, v in row.items()])
                for row in X
            ]
        )


def records():
    images = [*pictures(3), None]
    return {
        "table": pd.DataFrame({"id": range(4), "text": TEXTS, "image": images}),
        "dicts": [
            {key: value for key, value in (("image", i), ("text", t)) if value is not None}
            for i, t in zip(images, TEXTS, strict=True)
        ],
        "tuples": list(zip(images, TEXTS, strict=True)),
    }


def test_records_of_any_form_give_the_tokens_of_both_encoders():
    for X in records().values():
        tokens = union().fit_transform(X)
        assert tokens.names == ("image", "text")
        assert tokens.present.tolist() == [
            [True, True],
            [True, True],
            [True, False],
            [False, True],
        ]
        image = TokenEncoder("demo-general", cache_dir=None).fit_transform([*pictures(3), None])
        text = TextTokenEncoder("demo-general", cache_dir=None).fit_transform(TEXTS)
        assert tokens.select("image") == image and tokens.select("text") == text
    table = records()["tuples"]
    array = np.empty((4, 2), dtype=object)
    array[:] = table
    assert union().fit_transform(array) == tokens


def test_streams_have_the_names_of_the_union():
    given = TokenUnion([("film", TokenEncoder("demo-general", cache_dir=None))])
    tokens = given.fit_transform([{"film": image} for image in pictures(2)])
    assert tokens.names == ("film",)
    assert given.get_feature_names_out()[0] == "film__0"
    assert given.named_streams_.film.n_tokens_ == 5


def test_contract_of_a_transformer(tmp_path):
    X = records()["tuples"]
    given = union()
    with pytest.raises(NotFittedError):
        given.transform(X)
    tokens = given.fit(X).transform(X)
    assert len(given.get_feature_names_out()) == 384 + 64 == tokens.shape[1]
    given.set_params(image__grid=1, text__max_length=9)
    assert given.named_streams_.image.grid is None  # what is fitted is a clone
    assert clone(given).get_params()["image__grid"] == 1
    write_gpt(tmp_path / "gpt")
    other = TextTokenEncoder(f"local-dir:{tmp_path / 'gpt'}", cache_dir=None)
    given.set_params(text=other)
    found = given.fit_transform([(X[0][0], " ".join(WORDS[:4]))])
    assert found.streams["text"].width == 24 and found[0]["image"].shape == (2, 384)
    assert pickle.loads(pickle.dumps(given)).transform(X[:1]).present.tolist() == [[True, True]]
    pipeline = Pipeline([("tokens", given)]).set_output(transform="pandas")
    assert isinstance(pipeline.fit_transform(X[:1]), TokenFeatures)
    with config_context(transform_output="pandas"):
        assert isinstance(given.transform(X[:1]), TokenFeatures)


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (pd.DataFrame({"image": ["a.png"]}), r"one column for each.*'text' there are 0"),
        ([{"image": None}], "No record has the key 'text'"),
        ([("a.png",)], r"Record 0 must be a tuple of 2.*Got tuple of 1"),
        ([("a.png", "x"), "a.png"], "Record 1 must be a tuple of 2.*Got str"),
        ([], "Found 0 records"),
        ({"image": [], "text": []}, "Got dict"),
        (np.zeros((3, 2)), "Got ndarray"),
    ],
)
def test_records_that_lack_a_part_are_told(X, message):
    with pytest.raises(InputError, match=message):
        union().fit(X)


@pytest.mark.parametrize(
    ("streams", "message"),
    [
        ([], "non-empty list"),
        ([("image",)], "non-empty list"),
        ([("a__b", TokenEncoder("demo-general"))], "without '__'"),
        ([("streams", TokenEncoder("demo-general"))], "other than 'streams'"),
        ([("a", TokenEncoder("demo-general")), ("a", TokenEncoder("demo-general"))], "distinct"),
        ([("image", TokenEncoder)], "must have an encoder"),
    ],
)
def test_bad_streams(streams, message):
    with pytest.raises(InputError, match=message):
        TokenUnion(streams).fit([{"a": None}])


def test_an_encoder_that_gives_no_tokens_is_told():
    given = TokenUnion([("age", StandardScaler())])
    fitted = given.fit([{"age": [1.0]}, {"age": [2.0]}])
    with pytest.raises(InputError, match=r"stream 'age' must give TokenFeatures"):
        fitted.transform([{"age": [1.0]}, {"age": [2.0]}])


def test_radiographs_and_masked_notes_in_a_grid_search(data_dir, tmp_path):
    folder = data_dir / "covid_chestxray_notes"
    table = pd.read_csv(folder / "metadata.csv")
    table = table[table["finding"] != "todo"].iloc[:40]
    notes = mask_terms(table["clinical_notes"], "covid_radiography")
    y = table["finding"].str.contains("COVID").to_numpy().astype(int)
    assert 5 < y.sum() < 35
    files = {path.name: path for path in folder.rglob("*") if path.is_file()}
    column = next(c for c in table.columns if table[c].astype(str).isin(files).all())
    images = [files[name] for name in table[column]]
    X = pd.DataFrame({"image": images, "text": notes.to_numpy()})
    X.loc[X.index[3], "text"] = None
    X.loc[X.index[5], "image"] = None
    model = Pipeline([("tokens", union(cache_dir=tmp_path)), ("clf", MeanOfTokens())])
    grid = {"tokens__image__grid": [None, 1], "clf__C": [0.01, 1.0]}
    with pytest.warns(SkmoecbmWarning, match="longer than the 24 tokens"):
        search = GridSearchCV(model, grid, cv=2, error_score="raise").fit(X, y)
        assert search.predict(X).shape == (40,)
        as_tuples = list(X.itertuples(index=False, name=None))
        assert (search.predict(as_tuples) == search.predict(X)).all()
        tokens = search.best_estimator_[0].transform(X)
    assert tokens.present.sum(axis=0).tolist() == [39, 39]
