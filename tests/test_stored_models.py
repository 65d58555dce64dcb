"""One stored model per format version: it loads, predicts what it did, is saved as the newest."""

import json
from pathlib import Path

import numpy as np
import pytest

from skmoecbm import ExpertFeatures, load, save
from skmoecbm._conversions import convert
from skmoecbm._model_backbones import check_backbones
from skmoecbm.hub import read_config
from skmoecbm.moe import TokenFeatures
from skmoecbm.schema import FORMAT_VERSION

DATA = Path(__file__).parent / "data"
STORED = [
    "model_v0",
    "model_v0_pipeline",
    "model_v1",
    "model_v1_labels",
    "model_v1_sparse",
    "model_v1_cross",
]
FILES = ("config.json", "model.safetensors", "README.md")


def _reference(name):
    return json.loads((DATA / f"{name}_predictions.json").read_text())


def test_there_is_a_stored_model_of_every_version():
    versions = {
        json.loads((DATA / n / "config.json").read_text())["format_version"] for n in STORED
    }
    assert versions == set(range(FORMAT_VERSION + 1))
    assert {path.name for path in DATA.iterdir() if path.is_dir()} == set(STORED)
    for name in STORED:
        assert sum(path.stat().st_size for path in (DATA / name).iterdir()) < 150_000


def test_version_0_predicts_what_it_did():
    reference, model = _reference("model_v0"), load(DATA / "model_v0")
    features = ExpertFeatures.from_similarities(
        {
            name: (np.array(rows), model.concept_names_[e])
            for e, (name, rows) in enumerate(reference["similarities"].items())
        }
    )
    np.testing.assert_allclose(
        model.predict_proba(features), reference["probabilities"], atol=1e-12
    )
    assert model.predict(features).tolist() == reference["predictions"]
    assert read_config(DATA / "model_v0").label_map == {"M": "mel", "N": "nv", "B": "bcc"}
    assert not hasattr(model, "training_summary_")  # nobody wrote it down then


def _features(model, reference):
    """Return the features of stored embeddings, as the encoders of a loaded model make them."""
    blocks = []
    for name, encoder in model[0].experts_:
        rows = np.array(reference["embeddings"][name], dtype=np.float32)
        block = encoder._features(rows, np.ones(len(rows), dtype=bool)).blocks[0]
        blocks.append(block.rename(name))
    return ExpertFeatures(blocks)


@pytest.mark.parametrize("name", ["model_v0_pipeline", "model_v1"])
def test_a_pipeline_predicts_what_it_did(name):
    reference, model = _reference(name), load(DATA / name)
    features, classifier = _features(model, reference), model[-1]
    for got, key in (
        (classifier.predict_proba(features), "probabilities"),
        (classifier.gate_weights(features), "gate_weights"),
    ):
        np.testing.assert_allclose(got, reference[key], atol=1e-6)
    assert classifier.predict(features).tolist() == reference["predictions"]
    check_backbones(model)  # the demonstration experts are as they were


def test_version_1_has_its_sets_its_edits_and_its_training():
    reference, model = _reference("model_v1"), load(DATA / "model_v1")
    features, classifier = _features(model, reference), model[-1]
    assert classifier.predict_set(features, 0.8).tolist() == reference["sets"]
    assert classifier.edit_log_[0]["action"] == "forbid"
    assert classifier.training_summary_["refits"]
    assert model[0].experts_[0][1].training_summary_["selection"]["selector"] == "TopKConcepts"


def test_labels_of_version_1_predict_what_they_did():
    reference, model = _reference("model_v1_labels"), load(DATA / "model_v1_labels")
    X = np.array(reference["rows"])
    np.testing.assert_allclose(model.predict_proba(X), reference["probabilities"], atol=1e-12)
    assert model.predict(X).tolist() == reference["predictions"]
    assert model.thresholds_.shape == (3,)


def test_a_sparse_mixture_of_version_1_predicts_what_it_did():
    reference, model = _reference("model_v1_sparse"), load(DATA / "model_v1_sparse")
    X = np.array(reference["rows"], dtype=np.float64)  # null is NaN
    assert np.isnan(X).any() and model.masked_modalities_ == ("age",)
    np.testing.assert_allclose(model.predict_proba(X), reference["probabilities"], atol=1e-9)
    np.testing.assert_allclose(model.routing_weights(X), reference["weights"], atol=1e-9)
    assert model.predict(X).tolist() == reference["predictions"]
    assert model.predict_set(X, 0.9).tolist() == reference["sets"]
    assert model.time_series_["vitals"].n_points == 3
    # what it leaves out it never looks at, and that is not nothing
    without = np.where(np.arange(X.shape[1]) == 6, np.nan, X)
    np.testing.assert_allclose(model.predict_proba(without), reference["probabilities"], atol=1e-9)
    assert np.isfinite(X[:, 6]).any()


def test_a_cross_modal_mixture_of_version_1_predicts_what_it_did():
    reference, model = _reference("model_v1_cross"), load(DATA / "model_v1_cross")
    features = TokenFeatures(
        {
            name: [None if one is None else np.array(one) for one in rows]
            for name, rows in reference["tokens"].items()
        }
    )
    assert not features.present.all()
    for got, key in (
        (model.predict_proba(features), "probabilities"),
        (model.routing_weights(features), "weights"),
        (model.stream_weights(features), "stream_weights"),
        (model.without("text").predict_proba(features[1:5]), "image_alone"),
    ):
        np.testing.assert_allclose(got, reference[key], atol=1e-9)
    assert model.predict(features).tolist() == reference["predictions"]


@pytest.mark.parametrize("name", STORED)
def test_a_stored_model_is_saved_again_as_the_newest_version_and_stays_so(name, tmp_path):
    save(load(DATA / name), tmp_path / "again", label_map=read_config(DATA / name).label_map)
    save(
        load(tmp_path / "again"),
        tmp_path / "twice",
        label_map=read_config(DATA / name).label_map,
    )
    for file in FILES:
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "twice" / file).read_bytes()
    before, after = (
        json.loads((folder / "config.json").read_text())
        for folder in (DATA / name, tmp_path / "again")
    )
    arrays = [folder / "model.safetensors" for folder in (DATA / name, tmp_path / "again")]
    assert arrays[0].read_bytes() == arrays[1].read_bytes()
    assert after["format_version"] == FORMAT_VERSION
    expected = convert(before, FORMAT_VERSION)
    _check_same({**after, "library_versions": 0}, {**expected, "library_versions": 0})


def _check_same(after, before, among_parameters=False):
    """Both are the same, but for parameters that estimators have learned to take since."""
    if isinstance(before, dict):
        assert among_parameters or after.keys() == before.keys()
        for key, value in before.items():
            _check_same(after[key], value, among_parameters or key == "parameters")
    elif isinstance(before, list):
        for one, other in zip(after, before, strict=True):
            _check_same(one, other, among_parameters)
    else:
        assert after == before


def test_conversion_leaves_its_input_and_what_is_malformed_alone():
    old = {"format_version": 0, "model": [1, {"a": None}], "surprise": 3}
    before = json.dumps(old)
    assert convert(old, 1) == {**old, "format_version": 1, "needs_skmoecbm": "0.1"}
    assert json.dumps(old) == before
    assert convert({"format_version": 1}, 1) == {"format_version": 1}
