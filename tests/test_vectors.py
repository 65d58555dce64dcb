"""Concept vectors from annotated images."""

import copy
import json

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.metrics import roc_auc_score

from skmoecbm import ConceptEncoder, ExpertFeatures, fit_concept_vectors, load, save
from skmoecbm._vectors import ConceptVectors
from skmoecbm.concepts import TopKConcepts
from skmoecbm.datasets import make_lesions
from skmoecbm.datasets._lesion_attributes import ATTRIBUTES
from skmoecbm.exceptions import FormatError, InputError, SkmoecbmWarning

pytestmark = pytest.mark.filterwarnings("ignore:.*demonstration encoders")


def embedded(X, name="clip"):
    return ExpertFeatures.from_embeddings({name: (X, np.ones((1, X.shape[1])), ["t"])})


def test_the_direction_of_a_linear_concept_is_found():
    rng = np.random.default_rng(0)
    direction = np.array([3.0, 4.0, 0, 0, 0, 0]) / 5
    present = rng.integers(0, 2, size=1200)
    X = rng.normal(size=(1200, 6)) + 2.5 * (present[:, None] - 0.5) * direction
    features = embedded(X)
    vectors = fit_concept_vectors(None, features, {"veil": present})
    assert vectors.vectors[0] @ direction > 0.98
    assert np.linalg.norm(vectors.vectors[0]) == pytest.approx(1, abs=1e-6)
    sees = features.blocks[0].embeddings @ vectors.vectors[0] + vectors.offsets[0] > 0
    assert (sees == present).mean() > 0.85  # 0.894 is the best that can be had


def test_what_is_reported_is_out_of_fold():
    """Noise in as many dimensions as rows: in the sample any concept looks perfectly seen."""
    rng = np.random.default_rng(1)
    X, y = rng.normal(size=(120, 100)), np.tile([0, 1], 60)
    signal = np.concatenate([X, 3.0 * y[:, None] + rng.normal(size=(120, 1))], axis=1)
    with pytest.warns(SkmoecbmWarning, match=r"1 of 2 concepts are dropped: 'noise': cannot be"):
        vectors = fit_concept_vectors(
            None, embedded(signal), {"noise": rng.permutation(y), "seen": y}
        )
    assert vectors.names == ("seen",)
    noise = vectors.table.set_index("concept").loc["noise"]
    assert noise["auroc_low"] < 0.5
    assert "noise" in vectors.dropped


def test_copies_of_a_lesion_do_not_leak_through_groups():
    rng = np.random.default_rng(2)
    lesion = np.repeat(np.arange(40), 6)
    y = np.repeat(np.tile([0, 1], 20), 6)
    X = rng.normal(size=(40, 60))[lesion] + 0.01 * rng.normal(size=(240, 60))
    alone = fit_concept_vectors(None, embedded(X), {"a": y}).table["auroc"][0]
    assert alone > 0.95  # each image has a twin in the training part
    with pytest.raises(InputError, match="No concept can be learned"):
        fit_concept_vectors(None, embedded(X), {"a": y}, groups=lesion)


def test_too_few_images_are_told_and_rows_not_judged_do_not_count():
    rng = np.random.default_rng(3)
    y = np.tile([0.0, 1.0], 50)
    X = rng.normal(size=(100, 4)) + 3 * y[:, None]
    rare = np.where(np.arange(100) < 4, 1.0, 0.0)
    with pytest.warns(SkmoecbmWarning, match="4 with it"):
        vectors = fit_concept_vectors(None, embedded(X), {"a": y, "rare": rare})
    y[:30], X[:30] = np.nan, 50.0  # rubbish where nobody judged
    X[30] = np.nan
    again = fit_concept_vectors(None, embedded(X), {"a": y})
    assert again.table["n"][0] == 69
    assert again.table["auroc"][0] > 0.9
    assert vectors.names == again.names


@pytest.fixture(scope="module")
def drawn():
    data = make_lesions(400, mode="independent", random_state=6)
    truth = {
        name: data.attributes[:, ATTRIBUTES.index(name)]
        for name in ("globules", "irregular border")  # the second is not a word of this expert
    }
    encoder = ConceptEncoder("demo-structures", "lesions", cache_dir=None)
    return data, truth, fit_concept_vectors(encoder, data.images, truth)


def test_an_encoder_uses_vectors_instead_of_words_and_beside_them(drawn):
    data, _, vectors = drawn
    words = ConceptEncoder("demo-structures", "lesions", cache_dir=None).fit(data.images)
    plain = words.bank_.texts
    assert "irregular border" not in plain
    for share in (1.0, 0.25):
        encoder = ConceptEncoder(
            "demo-structures",
            "lesions",
            cache_dir=None,
            concept_vectors=vectors.with_mix({"globules": share}),
        ).fit(data.images)
        texts = encoder.bank_.texts
        assert set(texts) == {*plain, "irregular border"}
        own = encoder.concept_embeddings_[texts.index("globules")].astype(float)
        word = words.concept_embeddings_[plain.index("globules")].astype(float)
        expected = share * vectors.vectors[vectors.names.index("globules")] + (1 - share) * word
        np.testing.assert_allclose(own, expected / np.linalg.norm(expected), atol=1e-6)
        new = encoder.concept_embeddings_[texts.index("irregular border")]
        np.testing.assert_allclose(
            new, vectors.vectors[vectors.names.index("irregular border")], atol=1e-6
        )
        others = [t for t in plain if t != "globules"]
        np.testing.assert_array_equal(
            encoder.concept_embeddings_[[texts.index(t) for t in others]],
            words.concept_embeddings_[[plain.index(t) for t in others]],
        )
    held_out = make_lesions(300, mode="independent", random_state=7)
    D = np.asarray(encoder.transform(held_out.images))[:, texts.index("irregular border")]
    seen = held_out.attributes[:, ATTRIBUTES.index("irregular border")]
    assert roc_auc_score(seen, D) > 0.6  # a border is not what this expert was trained on


def test_vectors_clone_save_and_refuse_other_backbones(drawn, tmp_path):
    data, _, vectors = drawn
    encoder = ConceptEncoder(
        "demo-structures", "lesions", cache_dir=None, concept_vectors=vectors
    ).fit(data.images[:5])
    assert clone(encoder).concept_vectors is vectors
    assert copy.deepcopy(vectors) is vectors
    save(encoder, tmp_path / "model")
    loaded = load(tmp_path / "model")
    np.testing.assert_array_equal(
        np.asarray(loaded.transform(data.images[:5])),
        np.asarray(encoder.transform(data.images[:5])),
    )
    with pytest.raises(InputError, match="'concept_vectors' parameter of ConceptEncoder"):
        encoder.set_params(backbone="demo-general").fit(data.images[:5])


def test_a_loaded_encoder_fits_again_with_its_vectors(drawn, tmp_path):
    data, truth, vectors = drawn
    truth = {**truth, "never": np.zeros(400)}
    with pytest.warns(SkmoecbmWarning, match="'never': too few"):
        vectors = fit_concept_vectors(
            ConceptEncoder("demo-structures", "lesions", cache_dir=None), data.images, truth
        ).with_mix({"globules": 0.3})
    assert np.isnan(vectors.table["auroc"]).any()  # what could not be learned is in the table too
    encoder = ConceptEncoder(
        "demo-structures", "lesions", cache_dir=None, concept_vectors=vectors
    ).fit(data.images[:5])
    save(encoder, tmp_path / "model")
    loaded = load(tmp_path / "model")
    again = clone(loaded).fit(data.images[:5])
    assert again.bank_ == encoder.bank_
    np.testing.assert_array_equal(again.concept_embeddings_, encoder.concept_embeddings_)
    words = encoder.bank_.texts.index("globules"), encoder.bank_.texts.index("irregular border")
    plain = clone(loaded).set_params(concept_vectors=None).fit(data.images[:5])
    assert "irregular border" not in plain.bank_.texts  # what a refit fell back to before
    assert (plain.concept_embeddings_[words[0]] != encoder.concept_embeddings_[words[0]]).any()
    kept = loaded.concept_vectors
    assert (kept.names, kept.dropped, kept.fingerprint) == (
        vectors.names,
        vectors.dropped,
        vectors.fingerprint,
    )
    for name in ("vectors", "offsets", "mix"):
        one, other = getattr(kept, name), getattr(vectors, name)
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    pd.testing.assert_frame_equal(kept.table, vectors.table)
    save(loaded, tmp_path / "again")
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "model" / file).read_bytes()


def test_a_model_without_vectors_is_written_as_it_always_was(tmp_path):
    encoder = ConceptEncoder("demo-structures", "lesions", cache_dir=None)
    save(encoder.fit(make_lesions(2, random_state=0).images), tmp_path / "model")
    node = json.loads((tmp_path / "model" / "config.json").read_text())["model"]
    assert "concept_vectors" not in node
    assert node["parameters"]["concept_vectors"] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ["globules"]}, r"must be float64 of shape \(1,\)"),
        ({"names": ["globules", "globules"]}, "names must differ"),
        ({"extra": 1}, "concept_vectors.extra"),
        ({"table": {"columns": ["a", "b"], "rows": [[1]]}}, "one cell per column"),
        ({"table": {"columns": ["a"], "rows": [[{}]]}}, "concept_vectors.table.rows"),
    ],
)
def test_damaged_vectors_are_refused(drawn, tmp_path, change, message):
    data, _, vectors = drawn
    encoder = ConceptEncoder(
        "demo-structures", "lesions", cache_dir=None, concept_vectors=vectors
    ).fit(data.images[:5])
    save(encoder, tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    config["model"]["concept_vectors"] |= change
    path.write_text(json.dumps(config))
    with pytest.raises(FormatError, match=message):
        load(tmp_path / "model")


def test_bad_input_is_told_in_a_sentence(drawn):
    _, _, vectors = drawn
    assert isinstance(vectors, ConceptVectors)
    with pytest.raises(InputError, match="no vector for 'x'"):
        vectors.with_mix({"x": 1.0})
    with pytest.raises(InputError, match="'share' parameter"):
        vectors.with_mix(1.5)
    encoder = ConceptEncoder("demo-structures", "lesions", concept_vectors={"globules": [1.0]})
    with pytest.raises(InputError, match=r"'concept_vectors' parameter .* fit_concept"):
        encoder.fit(["a.png"])
    X = np.random.default_rng(0).normal(size=(20, 3))
    with pytest.raises(InputError, match="encoder must be a ConceptEncoder"):
        fit_concept_vectors(None, ["a.png"], {"a": [1]})
    with pytest.raises(InputError, match="from embeddings"):
        fit_concept_vectors(
            None, ExpertFeatures.from_similarities({"a": (X, ["x", "y", "z"])}), {"a": [1] * 20}
        )
    with pytest.raises(InputError, match="'n_splits' parameter"):
        fit_concept_vectors(None, embedded(X), {"a": [1] * 20}, n_splits=1)


def test_selection_keeps_learned_concepts_that_belong_to_no_class(drawn):
    data, _, vectors = drawn
    y = np.where(data.attributes[:, ATTRIBUTES.index("irregular border")], "mel", "nv")
    encoder = ConceptEncoder(
        "demo-structures",
        "lesions",
        cache_dir=None,
        concept_vectors=vectors,
        select=TopKConcepts(2),
    ).fit(data.images, y)
    assert "irregular border" in encoder.bank_.texts


def test_names_that_differ_in_case_alone_are_refused(drawn):
    data, truth, _ = drawn
    encoder = ConceptEncoder("demo-structures", "lesions", cache_dir=None)
    vectors = fit_concept_vectors(encoder, data.images, {"GLOBULES": truth["globules"]})
    encoder.set_params(concept_vectors=vectors)
    with pytest.raises(InputError, match="differ in case alone"):
        encoder.fit(data.images[:5])
    with pytest.raises(InputError, match="without spaces around them"):
        fit_concept_vectors(encoder, data.images, {"globules ": truth["globules"]})
