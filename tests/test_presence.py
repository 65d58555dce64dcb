"""Presence of concepts against annotations: scikit-learn's metrics, and real medical data."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from skmoecbm import (
    ConceptEncoder,
    ExpertFeatures,
    concept_presence,
    fit_concept_vectors,
    load_concepts,
)
from skmoecbm._presence import weighted_precision
from skmoecbm.datasets import make_lesions
from skmoecbm.datasets._lesion_attributes import ATTRIBUTES
from skmoecbm.exceptions import InputError

pytestmark = pytest.mark.filterwarnings("ignore:.*demonstration encoders")


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 5))
    T = rng.normal(size=(3, 5))
    features = ExpertFeatures.from_embeddings({"clip": (X, T, ["a", "b", "c"])})
    truth = pd.DataFrame(rng.integers(0, 2, size=(80, 2)).astype(float), columns=["c", "a"])
    truth.iloc[::9, 0] = np.nan
    return features, truth, rng.normal(size=5)


def test_scores_equal_scikit_learn_and_the_formula(problem):
    features, truth, reference = problem
    table = concept_presence(
        None, features, truth, reference=reference, temperature=0.3, n_bootstrap=0
    )
    assert table["concept"].tolist() == ["c", "c", "a", "a"]
    block = features.blocks[0]
    X = block.embeddings.astype(float)
    own = reference / np.sqrt(reference @ reference)
    for row in table.itertuples():
        judged = truth[row.concept].notna().to_numpy()
        cosine = X @ block.texts[block.concepts.index(row.concept)].astype(float)
        pair = np.exp(np.stack([cosine, X @ own]) / 0.3)  # MONET's softmax of the two
        score = {"cosine": cosine, "contrast": pair[0] / pair.sum(axis=0)}[row.score][judged]
        y = truth[row.concept].to_numpy()[judged]
        assert (row.n, row.n_present) == (judged.sum(), y.sum())
        assert row.auroc == pytest.approx(roc_auc_score(y, score), abs=1e-9)
        assert row.average_precision == pytest.approx(average_precision_score(y, score), abs=1e-9)
        assert row.prevalence == y.mean()
        if row.score == "contrast":
            assert row.mean_present == pytest.approx(score[y == 1].mean(), abs=1e-6)


def test_average_precision_of_weighted_and_tied_rows_equals_scikit_learn():
    rng = np.random.default_rng(1)
    y, score = rng.random(60) < 0.3, rng.integers(0, 8, size=60) / 8
    weights = rng.integers(0, 4, size=(5, 60)).astype(float)
    expected = [average_precision_score(y, score, sample_weight=w) for w in weights]
    np.testing.assert_allclose(weighted_precision(y, score, weights), expected, atol=1e-12)


def test_intervals_cover_the_truth_and_widen_with_groups():
    rng = np.random.default_rng(2)
    lesion = np.repeat(np.arange(60), 5)  # five copies of each image: the truth is worth 60 rows
    y = rng.integers(0, 2, size=60)[lesion]
    X = np.stack([y + 1.5 * rng.normal(size=60)[lesion], np.ones(300)], axis=1)
    features = ExpertFeatures.from_embeddings({"clip": (X, np.eye(2)[:1], ["a"])})
    alone = concept_presence(None, features, {"a": y}, n_bootstrap=400).iloc[0]
    grouped = concept_presence(None, features, {"a": y}, groups=lesion, n_bootstrap=400).iloc[0]
    assert grouped["auroc"] == alone["auroc"]
    width = [row["auroc_high"] - row["auroc_low"] for row in (alone, grouped)]
    assert 1.8 < width[1] / width[0] < 2.7  # the root of five
    assert grouped["auroc_low"] < grouped["auroc"] < grouped["auroc_high"]


def test_missing_images_are_not_judged_and_one_sided_concepts_are_nan(problem):
    features, truth, _ = problem
    X = features.blocks[0].embeddings.copy()
    X[5] = np.nan
    gappy = ExpertFeatures.from_embeddings(
        {"clip": (X, features.blocks[0].texts, features.blocks[0].concepts)}
    )
    table = concept_presence(None, gappy, {"a": truth["a"], "b": np.ones(80)}, n_bootstrap=5)
    assert table["n"].tolist() == [79, 79]
    assert np.isnan(table["auroc"][1])
    nothing = concept_presence(None, features, {"a": [np.nan] * 80}, n_bootstrap=5)
    assert nothing["n"][0] == 0
    assert np.isnan(nothing["auroc"][0])


def test_the_demo_expert_sees_what_was_drawn():
    data = make_lesions(300, mode="independent", random_state=4)
    encoder = ConceptEncoder("demo-structures", "lesions", cache_dir=None)
    truth = {name: data.attributes[:, ATTRIBUTES.index(name)] for name in ("globules", "streaks")}
    table = concept_presence(encoder, data.images, truth, reference="skin lesion", n_bootstrap=50)
    assert table.groupby("score")["auroc"].min().min() > 0.85
    contrast = table[table["score"] == "contrast"]
    assert (contrast["mean_present"] > contrast["mean_absent"]).all()


def test_a_real_medical_model_sees_the_blue_of_a_veil(data_dir):
    """MONET's prompt "blue" on derm7pt against the blue-whitish veil that dermatologists marked."""
    data = np.load(data_dir / "embeddings" / "derm7pt_monet.npz")
    features = ExpertFeatures.from_embeddings(
        {"monet": (data["X_monet"], data["txt_concept_monet"], data["concepts"].tolist())}
    )
    veil = data["attr_blue_whitish_veil"] == "present"
    table = concept_presence(
        None, features, {"Blue": veil}, reference=data["txt_ref_monet"][0], n_bootstrap=200
    )
    low = table.set_index("score")["auroc_low"]
    assert low["cosine"] > 0.5
    assert low["contrast"] > 0.75  # the reference takes away what all prompts share


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations": {"x": [0, 1]}}, "one entry per image"),
        ({"annotations": {"z": [0] * 80}}, r"\['z'\] are not among the 3"),
        ({"annotations": {"a": [2] * 80}}, "Got 2 in row 0"),
        ({"annotations": {"a": ["yes"] * 80}}, "must be 0, 1 or NaN"),
        ({"annotations": [1] * 80}, "a DataFrame or a dict"),
        ({"annotations": {}}, "at least one concept"),
        ({"reference": [1.0, 2.0]}, r"shape \(5,\)"),
        ({"reference": "an image"}, "an embedding, not a str"),
        ({"temperature": 0}, "'temperature' parameter of concept_presence"),
        ({"images": ["a.png"]}, "encoder must be a ConceptEncoder"),
    ],
)
def test_bad_input_is_told_in_a_sentence(problem, change, message):
    features, truth, _ = problem
    arguments = {"images": features, "annotations": truth} | change
    with pytest.raises(InputError, match=message):
        concept_presence(None, **arguments)


@pytest.mark.parametrize("function", [concept_presence, fit_concept_vectors])
def test_the_name_of_a_model_is_no_encoder(function):
    with pytest.raises(InputError, match=r"must be a ConceptEncoder .* Got 'demo-structures'"):
        function("demo-structures", ["a.png"], {"globules": [1]})


def test_two_experts_at_once_are_refused(problem):
    features, truth, _ = problem
    both = ExpertFeatures([features.blocks[0], features.blocks[0].rename("bio")])
    with pytest.raises(InputError, match="one expert at a time"):
        concept_presence(None, both, truth)
    assert load_concepts("lesions").texts
