"""Every kind of model predicts bitwise the same after loading, and is saved in the same bytes."""

import hashlib
import io
import json
import os
import pickle
import subprocess
import sys

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline

from skmoecbm import (
    ConceptBottleneckClassifier,
    ConceptEncoder,
    ExpertFeatures,
    ExpertUnion,
    GatedConceptBottleneckClassifier,
    GaussianGate,
    JointTraining,
    LaplaceGate,
    LinearGate,
    MLPGate,
    calibrate_sets,
    edit,
    fit_concept_vectors,
    load,
    save,
    tune_thresholds,
)
from skmoecbm._model_writing import model_files
from skmoecbm.concepts import TopKConcepts
from skmoecbm.datasets import make_lesions
from skmoecbm.store import EmbeddingStore

pytestmark = pytest.mark.filterwarnings("ignore:.*(did not converge|No gate could be fitted)")
NAMES = np.array(["mel", "nv", "bcc"])
HEAD = ConceptBottleneckClassifier(alpha=1.0)


def _rows(n_classes=3, n=90):
    rng = np.random.default_rng(0)
    y = rng.integers(n_classes, size=n)
    return rng.normal(size=(n, 7)) + rng.normal(size=(n_classes, 7))[y], NAMES[y]


def _features(X):
    return ExpertFeatures.from_similarities(
        {"left": (X[:, :3], list("abc")), "right": (X[:, 3:], list("defg"))},
        incidence={"left": np.eye(3), "right": np.eye(4, 3)},
        class_keys=list(NAMES),
    )


def _unseen():
    X = np.random.default_rng(1).normal(size=(25, 7))
    X[:5, :3] = np.nan
    return _features(X)


def _mixture(n_classes=3, **settings):
    X, y = _rows(n_classes)
    settings = {"head": HEAD, "random_state": 0, **settings}
    return GatedConceptBottleneckClassifier(**settings).fit(_features(X), y)


def _labels():
    X, _ = _rows()
    values = (X[:, :3] + np.roll(X, 1, axis=1)[:, :3] > 0.5).astype(int)
    return pd.DataFrame(values, columns=NAMES)


def _one(n_classes=3, **settings):
    X, y = _rows(n_classes)
    return ConceptBottleneckClassifier(alpha=1.0, **settings).fit(_features(X).select("left"), y)


def _of_labels(model):
    X = _features(_rows()[0])
    return tune_thresholds(model.fit(X, _labels()), X, _labels(), cv=2)


def _with_sets(**settings):
    X, y = _rows()
    half = np.arange(len(y)) < 45
    mixture = GatedConceptBottleneckClassifier(HEAD, random_state=0)
    model = mixture.fit(_features(X[half]), y[half])
    return calibrate_sets(model, _features(X[~half]), y[~half], **settings)


def _edited(refit):
    X, y = _rows()
    given = (_features(X), y) if refit else None
    return edit(_mixture(), forbid="a", pin={("d", "mel"): "+"}, refit=given)


def _specialized():
    """Each of two experts sees the class in half of the rows; its last two columns tell which."""
    rng = np.random.default_rng(0)
    y, seer = rng.integers(0, 4, 400), rng.integers(0, 2, 400)
    blocks = []
    for e in range(2):
        own = (seer == e)[:, None]
        values = 1.5 * rng.normal(size=(400, 10)) + own * rng.normal(size=(4, 10))[y]
        values[:, -2:] = np.where(own, 3.0, -3.0) + rng.normal(size=(400, 2))
        blocks.append(values)
    experts = [("left", slice(0, 10)), ("right", slice(10, 20))]
    model = GatedConceptBottleneckClassifier(experts=experts).fit(np.hstack(blocks), y)
    assert model.specialized_
    return model


FIXED = {"guard": False, "gate_input": "similarities"}
CLASSIFIERS = {
    "one, two classes": lambda: _one(2),
    "one, three classes": _one,
    "one, softmax": lambda: _one(activation="softmax"),
    "one, nonnegative": lambda: _one(activation="nonnegative"),
    "one, labels": lambda: ConceptBottleneckClassifier(alpha=1.0).fit(
        _features(_rows()[0]).select("left"), _labels()
    ),
    "mixture, two classes": lambda: _mixture(2),
    "mixture, labels and thresholds": lambda: _of_labels(GatedConceptBottleneckClassifier(HEAD)),
    "uniform gate": lambda: _mixture(gate="uniform"),
    "constant gate": lambda: _mixture(gate="constant", guard=False),
    "linear gate": lambda: _mixture(gate=LinearGate(penalty=0.1), **FIXED),
    "linear gate, top 1": lambda: _mixture(gate=LinearGate(top_k=1), **FIXED),
    "mlp gate": lambda: _mixture(gate=MLPGate(hidden=3, max_iter=5), **FIXED),
    "laplace gate": lambda: _mixture(gate=LaplaceGate(), **FIXED),
    "gaussian gate": lambda: _mixture(gate=GaussianGate(), guard=False),
    "disagreement": lambda: _mixture(gate_input="disagreement", guard=False),
    "pool of probabilities": lambda: _mixture(pool="prob", guard=False),
    "pool of sums": lambda: _mixture(pool="sum", calibrate=False),
    "own folds and weights": lambda: _mixture(
        head=None, cv=StratifiedKFold(3), class_weight="balanced"
    ),
    "sets": lambda: _with_sets(),
    "sets by class": lambda: _with_sets(method="aps", class_conditional=True),
    "edits": lambda: _edited(False),
    "edits and refit": lambda: _edited(True),
    "without an expert": lambda: _mixture().without("left"),
    "other frequencies": lambda: _mixture(target_prevalence={"mel": 0.05}),
    "joint": lambda: _mixture(
        training=JointTraining(max_epochs=4), gate=MLPGate(hidden=3), pool="prob"
    ),
    "specialized": _specialized,
}


def _check_same_outputs(a, b, X):
    methods = ("predict", "predict_proba", "decision_function", "gate_weights", "expert_logits")
    for method in methods:
        if hasattr(a, method):
            one, other = getattr(a, method)(X), getattr(b, method)(X)
            np.testing.assert_array_equal(one, other)
            assert one.dtype == other.dtype
    if hasattr(a, "set_calibration_"):
        np.testing.assert_array_equal(a.predict_set(X, 0.8), b.predict_set(X, 0.8))


def _through_joblib(model):
    file = io.BytesIO()
    joblib.dump(model, file)
    file.seek(0)
    return joblib.load(file)


def _check_same_bytes(model, folder):
    """Return the loaded model, after saving again what is loaded, loaded twice, or unpickled."""
    files = model_files(model)
    save(model, folder)
    again = load(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    for same in (model, again, _through_joblib(model), _through_joblib(again)):
        assert model_files(same) == files
    return again


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_a_classifier_comes_back_the_same(kind, tmp_path):
    model, X = CLASSIFIERS[kind](), _unseen()
    X = X.select("left")[5:] if kind.startswith("one") else X
    X = np.random.default_rng(1).normal(size=(25, 20)) if kind == "specialized" else X
    again = _check_same_bytes(model, tmp_path / "model")
    _check_same_outputs(model, again, X)
    _check_same_outputs(model, _through_joblib(model), X)
    assert again.training_summary_ == model.training_summary_
    if hasattr(model, "without") and not hasattr(model, "masked_experts_"):
        _check_same_outputs(model.without("left"), again.without("left"), X)


def test_what_could_not_be_saved_stays_left_out_until_a_new_fit(tmp_path):
    model = CLASSIFIERS["own folds and weights"]()
    again = _check_same_bytes(model, tmp_path / "model")

    def told(fitted):
        return json.loads(model_files(fitted)["config.json"])["model"]

    assert told(again)["not_saved"] == ["cv"]
    assert "cv" not in told(again)["parameters"]
    assert told(again.set_params(cv=7))["parameters"]["cv"] == 7
    assert told(clone(again).set_params(cv=5).fit(*_fit_rows()))["parameters"]["cv"] == 5
    again = load(tmp_path / "model").fit(*_fit_rows())
    assert told(again)["parameters"]["cv"] == 5  # these folds it was fitted on
    assert told(again)["not_saved"] == []


def _fit_rows():
    X, y = _rows()
    return _features(X), y


# Encoders


def _drawings():
    data = make_lesions(70, random_state=0)
    return list(data.images), np.asarray(data.target)


def _encoder(name="demo-general", **settings):
    return ConceptEncoder(name, "lesions", cache_dir=None, **settings)


def _table(images):
    words = ["streaks", "globules", None, "pigment network", "scale"]
    reports = [words[i % 5] for i in range(len(images))]
    return pd.DataFrame({"image": images, "report": reports})


def _vectors(images):
    bright = np.array([image.mean() for image in images])
    annotations = {"bright": bright > np.median(bright)}
    return fit_concept_vectors(_encoder(), images, annotations, n_splits=2, n_bootstrap=2)


def _fitted_encoders(kind):
    images, y = _drawings()
    if kind == "selected, as pandas":
        encoder = _encoder(select=TopKConcepts(2), value_range=(0, 255), resize="pad")
        return encoder.set_output(transform="pandas").fit(images, y), images
    if kind == "texts":
        return _encoder("demo-structures", modality="text").fit(["streaks"]), [
            "globules",
            None,
            "streaks",
        ]
    if kind == "vectors":
        return _encoder(concept_vectors=_vectors(images)).fit(images), images
    if kind == "templates":
        return _encoder(templates=["{}", "a lesion with {}"]).fit(images), images
    union = ExpertUnion(
        [
            ("general", _encoder(select=TopKConcepts(2)), "image"),
            ("words", _encoder("demo-structures", modality="text"), "report"),
        ]
    )
    if kind == "union, as pandas":
        return union.set_output(transform="pandas").fit(_table(images), y), _table(images)
    model = make_pipeline(union, GatedConceptBottleneckClassifier(HEAD, random_state=0))
    return model.fit(_table(images), y), _table(images)


ENCODERS = (
    "selected, as pandas",
    "texts",
    "vectors",
    "templates",
    "union, as pandas",
    "pipeline",
)


@pytest.mark.parametrize("kind", ENCODERS)
def test_an_encoder_comes_back_the_same(kind, tmp_path):
    model, X = _fitted_encoders(kind)
    again = _check_same_bytes(model, tmp_path / "model")
    X = X[:12]
    for other in (again, _through_joblib(model)):
        if isinstance(model, Pipeline):
            _check_same_outputs(model, other, X)
            continue
        before, after = model.transform(X), other.transform(X)
        assert type(before) is type(after)
        np.testing.assert_array_equal(np.asarray(before), np.asarray(after))
        assert model.get_feature_names_out().tolist() == other.get_feature_names_out().tolist()
        if isinstance(before, pd.DataFrame):
            pd.testing.assert_frame_equal(before, after)


def test_the_templates_in_the_file_are_those_that_made_the_embeddings():
    model, _ = _fitted_encoders("templates")
    node = json.loads(model_files(model)["config.json"])["model"]
    assert node["bank"]["templates"] == ["{}", "a lesion with {}"]
    concept = node["bank"]["concepts"][0]
    lexicon = model._load().lexicon
    phrases = [p for p in (concept["text"], *concept["phrases"]) if p.lower() in lexicon]
    prompts = [t.replace("{}", p) for p in phrases for t in node["bank"]["templates"]]
    mean = model.embed_texts(prompts).mean(axis=0)
    mean /= np.linalg.norm(mean)
    np.testing.assert_allclose(model.concept_embeddings_[0], mean, atol=1e-5)


def test_a_pickle_is_small_and_has_no_network_inside():
    model, _ = _fitted_encoders("pipeline")
    assert len(pickle.dumps(model)) < 400_000


# Another process


PROCESS_KINDS = ("mlp gate", "edits and refit", "joint", "sets by class")


def digests_of_models():
    """Return kind -> sha256 of the files of models fitted here; run in another process too."""
    EmbeddingStore(None).clear()  # rows from other batches are rounded otherwise
    models = {kind: CLASSIFIERS[kind]() for kind in PROCESS_KINDS}
    models["pipeline"], _ = _fitted_encoders("pipeline")
    return {
        kind: hashlib.sha256(b"".join(model_files(model).values())).hexdigest()
        for kind, model in models.items()
    }


def test_another_process_with_other_hashes_writes_the_same_bytes():
    code = "import json, tests.test_round_trips as t; print(json.dumps(t.digests_of_models()))"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout.splitlines()[-1]) == digests_of_models()
