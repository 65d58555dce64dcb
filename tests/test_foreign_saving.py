"""Models with parts of other libraries are saved by skops, and what is loaded can do no harm."""

import json
import os
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    AdaBoostClassifier,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    StackingClassifier,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.frozen import FrozenEstimator
from sklearn.gaussian_process import GaussianProcessClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV, SGDClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC, LinearSVC

from skmoecbm import (
    ConceptBottleneckClassifier,
    ConceptEncoder,
    ExpertUnion,
    GatedConceptBottleneckClassifier,
    InputError,
    SkmoecbmWarning,
    explain,
    load,
    save,
)
from skmoecbm.datasets import make_lesions
from tests.brute_force import make_table

skops_io = pytest.importorskip("skops.io")
pytestmark = pytest.mark.filterwarnings("ignore:.*keeps rows that it was trained on")


def mixture(head, **settings):
    experts = [("words", slice(0, 4)), ("age", head, slice(4, 9))]
    return GatedConceptBottleneckClassifier(
        ConceptBottleneckClassifier(alpha=1.0), experts=experts, random_state=0, **settings
    )


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def assert_comes_back(model, X, folder, **settings):
    """Save, load, compare all that it says bit by bit, save again, and return the loaded one."""
    save(model, folder, **settings)
    again = load(folder, **settings)
    for method in ("predict", "predict_proba", "decision_function"):
        one, other = getattr(model, method)(X), getattr(again, method)(X)
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype
    last, other = (m[-1] if isinstance(m, Pipeline) else m for m in (model, again))
    seen, too = (m[:-1].transform(X) if isinstance(m, Pipeline) else X for m in (model, again))
    np.testing.assert_array_equal(last.gate_weights(seen), other.gate_weights(too))
    np.testing.assert_array_equal(last.expert_logits(seen), other.expert_logits(too))
    rows = X.iloc[:4] if hasattr(X, "iloc") else X[:4]
    assert explain(model, rows).to_dict() == explain(again, rows).to_dict()
    first = files_of(folder)
    assert set(first) == {"config.json", "model.safetensors", "README.md"}
    for name, one in (("twice", model), ("loaded", again)):
        save(one, folder.parent / name, **settings)
        assert files_of(folder.parent / name) == first
    return again


HEADS = {
    "linear": LogisticRegression(),
    "path of C": LogisticRegressionCV(Cs=2, cv=2),
    "forest": RandomForestClassifier(8, random_state=0),
    "unseeded": MLPClassifier((3,), max_iter=20),
    "histogram": HistGradientBoostingClassifier(max_iter=4),
    "boosting": GradientBoostingClassifier(n_estimators=3),
    "extra trees": ExtraTreesClassifier(5, random_state=0, bootstrap=True),
    "stumps": AdaBoostClassifier(n_estimators=3),
    "calibrated": CalibratedClassifierCV(LinearSVC(), cv=2),
    "isotonic": CalibratedClassifierCV(GaussianNB(), method="isotonic", cv=2),
    "scaled": make_pipeline(StandardScaler(), SVC(probability=False)),
    "stack": StackingClassifier([("a", GaussianNB()), ("b", LogisticRegression())], cv=2),
    "search": GridSearchCV(LogisticRegression(), {"C": [0.1, 1.0]}, cv=2),
    "neighbours": KNeighborsClassifier(algorithm="brute"),
    "gradient": SGDClassifier(loss="log_loss", random_state=0),
    "network": MLPClassifier((4,), max_iter=30, random_state=0),
}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_heads_of_others_come_back_bit_by_bit(head, tmp_path):
    X, y = make_table(n=70)
    clf = mixture(head, cv=2, guard=False).fit(X, y)
    again = assert_comes_back(clf, X, tmp_path / "model")
    assert again.experts[1][0] == "age" and type(again.experts[1][1]) is type(head)
    assert not hasattr(again.experts[1][1], "classes_")  # the template, not what was fitted
    assert again.get_params().keys() == clf.get_params().keys()


def test_a_loaded_model_is_cloned_and_fitted_as_the_one_before(tmp_path):
    X, y = make_table(n=70)
    head = RandomForestClassifier(5, random_state=3, max_depth=4)
    clf = mixture(head, cv=3).fit(X, y)
    save(clf, tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.experts[1][1].get_params() == head.get_params()
    refitted = clone(again).fit(X, y)
    np.testing.assert_array_equal(refitted.predict_proba(X), clf.predict_proba(X))


def test_a_frozen_head_is_kept_once_and_stays_the_head(tmp_path):
    X, y = make_table(n=70)
    frozen = FrozenEstimator(make_pipeline(StandardScaler(), SVC()).fit(X[:, 4:], y))
    clf = mixture(frozen).fit(X, y)
    again = assert_comes_back(clf, X, tmp_path / "model")
    assert again.experts[1][1] is again.heads_[1].estimator
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert "templates" not in config["model"]
    np.testing.assert_array_equal(clone(again).fit(X, y).predict_proba(X), clf.predict_proba(X))


def test_named_columns_in_another_order_and_class_names_come_back(tmp_path):
    X, y = make_table(n=70)
    names = [f"words__w{i}" for i in range(4)] + [f"age__a{i}" for i in range(5)]
    frame = pd.DataFrame(X, columns=names)
    labels = np.array(["mel", "nv", "bcc"], dtype=object)[y]
    turned = pd.DataFrame(X[:, [7, 5, 4, 8, 6]], columns=["a3", "a1", "a0", "a4", "a2"])
    frozen = FrozenEstimator(LogisticRegression().fit(turned, labels))
    experts = [("words", names[:4]), ("age", frozen, names[4:])]
    clf = GatedConceptBottleneckClassifier(experts=experts, random_state=0).fit(frame, labels)
    again = assert_comes_back(clf, frame, tmp_path / "model")
    assert again.heads_[1]._order == clf.heads_[1]._order == [3, 1, 0, 4, 2]
    assert again.heads_[1].is_linear


def test_gaps_unseen_classes_and_views_come_back(tmp_path):
    X, y = make_table(n=90)
    X[::7, 5] = np.nan
    X[3, 4:] = np.nan
    X[y == 2, 4:] = np.nan  # the head never sees this class
    clf = mixture(HistGradientBoostingClassifier(max_iter=5), cv=2).fit(X, y)
    assert_comes_back(clf, X, tmp_path / "model")
    seen = ~np.isnan(X[:, 4:]).all(axis=1)
    assert_comes_back(clf.without("words"), X[seen], tmp_path / "view" / "model")


def test_heads_of_others_alone_have_no_penalty(tmp_path):
    X, y = make_table(n=60)
    experts = [("one", GaussianNB(), slice(0, 4)), ("two", LogisticRegression(), slice(4, 9))]
    clf = GatedConceptBottleneckClassifier(experts=experts, cv=2, random_state=0).fit(X, y)
    again = assert_comes_back(clf, X, tmp_path / "model")
    assert again.alpha_ is None


@pytest.mark.parametrize(
    "head",
    [OneVsRestClassifier(LogisticRegression()), RandomForestClassifier(6, random_state=0)],
    ids=["one vs rest", "forest"],
)
def test_heads_of_many_labels_come_back(head, tmp_path):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 9))
    Y = (X[:, [0, 4]] + rng.logistic(size=(80, 2)) > 0.5).astype(int)
    X[Y[:, 1] == 0, 4:] = np.nan  # of the rows that the head sees all have the second label
    clf = mixture(head, cv=2).fit(X, Y)
    assert clf.heads_[1].constant.tolist()[1] == 1
    again = assert_comes_back(clf, X, tmp_path / "model")
    np.testing.assert_array_equal(again.heads_[1].constant, clf.heads_[1].constant)


@pytest.fixture(scope="module")
def table():
    lesions = make_lesions(60, random_state=0)
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "image": pd.Series(list(lesions.images), dtype=object),
            "report": [", ".join(text.split(", ")[:2]) for text in lesions.captions],
            "age": rng.normal(55, 15, 60).round(),
            "height": np.where(rng.random(60) < 0.2, np.nan, rng.normal(170, 9, 60)),
            "site": rng.choice(["back", "face", "leg"], 60),
        }
    )
    frame.loc[5, "report"] = ""
    return frame, np.asarray(lesions.target)


@pytest.fixture(scope="module")
def clinic(table):
    patient = make_column_transformer(
        (make_pipeline(SimpleImputer(add_indicator=True), StandardScaler()), ["age", "height"]),
        (OneHotEncoder(max_categories=2), ["site"]),
    )
    union = ExpertUnion(
        [
            ("photo", ConceptEncoder("demo-structures", "lesions", cache_dir=None), "image"),
            (
                "report",
                ConceptEncoder("demo-general", "lesions", modality="text", cache_dir=None),
                "report",
            ),
            ("words", TfidfVectorizer(max_features=30), "report"),
            ("patient", patient, ["age", "height", "site"]),
            ("raw", "passthrough", "age"),
            ("sizes", SimpleImputer(), make_column_selector("^age|height")),
        ]
    )
    model = make_pipeline(union, GatedConceptBottleneckClassifier(cv=2, random_state=0))
    return model.fit(*table)


def test_a_table_of_every_kind_of_expert_comes_back(clinic, table, tmp_path):
    again = assert_comes_back(clinic, table[0], tmp_path / "model")
    given = dict(entry[:2] for entry in again[0].experts)
    assert given["raw"] == "passthrough" and isinstance(given["words"], TfidfVectorizer)
    turned = table[0][["site", "age", "report", "height", "image"]]  # names are found again
    np.testing.assert_array_equal(again.predict_proba(turned), clinic.predict_proba(table[0]))
    rows = table[0].iloc[:10].copy()
    rows.loc[0, ["age", "height", "site"]] = np.nan
    np.testing.assert_array_equal(again.predict_proba(rows), clinic.predict_proba(rows))
    refitted = clone(again).fit(*table)
    np.testing.assert_array_equal(refitted.predict_proba(table[0]), clinic.predict_proba(table[0]))


def test_steps_around_the_union_come_back(tmp_path):
    X, y = make_table(n=60)
    union = ExpertUnion([("a", StandardScaler(), [0, 1, 2]), ("b", PCA(2), slice(3, 9))])
    model = Pipeline(
        [
            ("fill", SimpleImputer()),
            ("nothing", "passthrough"),
            ("experts", union),
            ("clf", GatedConceptBottleneckClassifier(cv=2, random_state=0)),
        ]
    ).fit(X, y)
    X[4, 2] = np.nan
    again = assert_comes_back(model, X, tmp_path / "model")
    assert list(again.named_steps) == ["fill", "nothing", "experts", "clf"]


def test_backbones_of_experts_beside_others_are_placed(clinic, tmp_path):
    save(clinic, tmp_path / "model")
    again = load(tmp_path / "model", backbones={"photo": "demo-general"})
    assert again[0].named_experts_["photo"].backbone == "demo-general"
    with pytest.raises(InputError, match="names 'words'; the model's experts with a backbone are"):
        load(tmp_path / "model", backbones={"words": "demo-general"})


def test_another_process_writes_the_same_bytes():
    """Addresses, times and the order of sets differ there."""
    code = """
import sys
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline
from skmoecbm._foreign_saving import pack_foreign

words = ["the", "of", "and", "with", "some", "many"]
forest = RandomForestClassifier(4, random_state=0)
head = make_pipeline(TfidfVectorizer(stop_words=words), forest)
head.fit(["one two three", "two three four", "five one"] * 5, [0, 1, 2] * 5)
head.words_, head.again_, head.one_ = set(words), forest, 1.0
arrays = {}
pack_foreign("it", head, arrays, "a")
content = arrays["a"].tobytes()
"""
    space = {}
    exec(code, space)
    done = subprocess.run(
        [sys.executable, "-c", code + "sys.stdout.buffer.write(content)"],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        check=True,
    )
    assert done.stdout == space["content"]
    plain = skops_io.loads(done.stdout, trusted=["sklearn.tree._tree.Tree"])
    assert plain.again_ is plain[-1] and plain.words_ == {*space["words"]}


def test_the_folder_of_a_cache_in_a_head_is_not_kept(tmp_path):
    cache = tmp_path / "ward-seven"
    X, y = make_table(n=60)
    clf = mixture(make_pipeline(StandardScaler(), LogisticRegression(), memory=str(cache)), cv=2)
    save(clf.fit(X, y), tmp_path / "model")
    assert b"ward-seven" not in b"".join(files_of(tmp_path / "model").values())
    again = load(tmp_path / "model")
    assert again.experts[1][1].memory is None
    np.testing.assert_array_equal(again.predict_proba(X), clf.predict_proba(X))
    save(again, tmp_path / "again")
    assert files_of(tmp_path / "again") == files_of(tmp_path / "model")


@pytest.mark.parametrize(
    "head, where",
    [
        (KNeighborsClassifier(algorithm="brute"), "KNeighborsClassifier._fit_X"),
        (make_pipeline(StandardScaler(), SVC()), "SVC.support_vectors_"),
        (GaussianProcessClassifier(max_iter_predict=3), "Laplace.X_train_"),
    ],
)
def test_rows_that_a_head_keeps_are_said_when_it_is_saved(head, where, tmp_path):
    X, y = make_table(n=40)
    clf = mixture(head, cv=2).fit(X, (y == y[0]).astype(int))
    with pytest.warns(SkmoecbmWarning, match=rf"head of expert 'age' keeps rows .*{where}"):
        save(clf, tmp_path / "model")
    with warnings.catch_warnings(action="error"):
        save(mixture(LogisticRegression(), cv=2).fit(X, y), tmp_path / "other")
        load(tmp_path / "model")


def test_any_word_may_stand_in_a_vocabulary(tmp_path):
    """Also those that mean something in the schema of skops, or to this package."""
    notes = ["__loader__ file memory", "__id__ _stop_words_id content", "__class__ type"]
    union = ExpertUnion([("notes", TfidfVectorizer(), "notes")])
    table = pd.DataFrame({"notes": notes})
    union.fit(table)
    save(union, tmp_path / "model")
    again = load(tmp_path / "model").transform(table)
    np.testing.assert_array_equal(np.asarray(again), np.asarray(union.transform(table)))
