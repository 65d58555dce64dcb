"""Image, report and numbers through union and mixture: who is missing, who may have gaps."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.compose import make_column_selector
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import skmoecbm.encoder
from skmoecbm import (
    ConceptBottleneckClassifier,
    ConceptEncoder,
    ExpertUnion,
    GatedConceptBottleneckClassifier,
    explain,
    load,
    mask_terms,
    save,
)
from skmoecbm.datasets import make_lesions
from skmoecbm.exceptions import InputError
from tests.fake_backbones import FakeBackbone

CONCEPTS = {"mel": ["red", "veil"], "nv": ["brown", "round"]}
N = 90


@pytest.fixture
def fakes(monkeypatch):
    made = {}
    monkeypatch.setattr(
        skmoecbm.encoder,
        "load_backbone",
        lambda name, **_: made.setdefault(name, FakeBackbone(name)),
    )


@pytest.fixture
def y():
    return np.array(["mel", "nv"] * (N // 2))


@pytest.fixture
def table(y, fakes):
    """Rows of an image, a report and three numbers, all of which tell a little of the label."""
    rng = np.random.default_rng(0)
    mel = y == "mel"
    images = [
        np.clip(rng.normal(110 + 25 * m, 40, (6, 6, 3)), 0, 255).astype(np.uint8) for m in mel
    ]
    frame = pd.DataFrame(
        {
            "report": np.where(mel ^ (rng.random(N) < 0.2), "a red veil", "a round one"),
            "age": 50 + 8 * mel + rng.normal(0, 10, N),
            "size": 3 + mel + rng.normal(0, 1, N),
            "sex": rng.choice(["f", "m"], N),
        }
    )
    frame.insert(0, "image", pd.Series(images, dtype=object))
    return frame


def model_of(**settings):
    def encoder(**more):
        return ConceptEncoder("fake/one", CONCEPTS, cache_dir=None, on_error="missing", **more)

    union = ExpertUnion(
        [
            ("image", encoder(), "image"),
            ("report", encoder(modality="text"), "report"),
            ("numbers", StandardScaler(), make_column_selector(dtype_include=float)),
            ("sex", OneHotEncoder(drop="first"), ["sex"]),
        ]
    )
    settings = {"guard": False, "cv": 3, "random_state": 0, **settings}
    return make_pipeline(union, GatedConceptBottleneckClassifier(**settings))


def missing_image(table, folder):
    broken = folder / "broken.png"
    broken.write_bytes(b"no image")
    there = folder / "there.png"
    Image.fromarray(table["image"][5]).save(there)
    frame = table.iloc[:6].astype({"image": object})
    for row, image in enumerate([None, float("nan"), broken, folder / "gone.png", str(broken)]):
        frame.iat[row, 0] = image
    frame.iat[5, 0] = there
    return frame


def missing_report(table, folder):
    reports = [None, float("nan"), "", " \n", pd.NA, table["report"][5]]
    return table.iloc[:6].assign(report=pd.Series(reports, dtype=object))


def missing_numbers(table, folder):
    frame = table.iloc[:6].copy()
    frame.loc[frame.index[:5], ["age", "size"]] = np.nan
    return frame


@pytest.mark.filterwarnings("ignore::skmoecbm.exceptions.SkmoecbmWarning")
@pytest.mark.parametrize("gate", ["linear", "uniform"])
@pytest.mark.parametrize(
    ("name", "lacking"),
    [("image", missing_image), ("report", missing_report), ("numbers", missing_numbers)],
)
def test_a_missing_expert_has_no_weight_and_equals_the_model_without_it(
    table, y, tmp_path, gate, name, lacking
):
    model = model_of(gate=gate).fit(table, y)
    union, mixture = model[0], model[-1]
    frame = lacking(table, tmp_path)
    complete = union.transform(table.iloc[:6])
    absent = list(mixture.expert_names_).index(name)
    weights = mixture.gate_weights(union.transform(frame))
    assert weights.shape == (6, 4)
    assert (weights[:5, absent] == 0).all()
    assert (weights[5] > 0).all()
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-12)
    # the oracle sees complete rows and is told by name who does not count
    without = mixture.without(name)
    np.testing.assert_allclose(
        model.predict_proba(frame)[:5], without.predict_proba(complete)[:5], rtol=1e-9
    )
    np.testing.assert_allclose(weights[:5], without.gate_weights(complete)[:5], rtol=1e-9)
    # and that it is missing changes something, while a complete row is not touched
    whole = model.predict_proba(table.iloc[:6])
    assert (np.abs(model.predict_proba(frame)[:5] - whole[:5]).max(axis=1) > 1e-6).all()
    np.testing.assert_allclose(model.predict_proba(frame)[5], whole[5], rtol=1e-9)


def test_that_an_expert_is_missing_is_told_to_the_gate():
    """Whether there is a report says which of two others is right; their values do not."""
    rng = np.random.default_rng(1)
    n = 600
    silent = rng.random(n) < 0.5
    sign = rng.choice([-1.0, 1.0], n)
    right = sign + rng.normal(0, 0.3, n)
    wrong = rng.permutation(right)
    frame = pd.DataFrame({"one": np.where(silent, right, wrong)})
    frame["two"] = np.where(silent, wrong, right)
    frame["report"] = np.where(silent, np.nan, rng.normal(0, 1, n))
    union = ExpertUnion([(name, "passthrough", name) for name in frame])
    model = make_pipeline(union, GatedConceptBottleneckClassifier(guard=False, random_state=0))
    weights = model.fit(frame, sign)[-1].gate_weights(model[0].transform(frame))
    assert (weights[silent, 2] == 0).all()
    share = weights[:, 0] / (weights[:, 0] + weights[:, 1])
    assert share[silent].min() > share[~silent].max() + 0.2


@pytest.mark.filterwarnings("ignore::skmoecbm.exceptions.SkmoecbmWarning")
def test_fit_takes_missing_parts_of_every_kind(table, y, tmp_path):
    frame = table.copy()
    frame["image"] = [None if i % 7 == 0 else image for i, image in enumerate(frame["image"])]
    frame["report"] = frame["report"].where(np.arange(N) % 5 > 0, None)
    frame.loc[frame.index % 6 == 0, ["age", "size"]] = np.nan
    model = model_of().fit(frame, y)
    features = model[0].transform(frame)
    absent = np.stack([~block.present for block in features.blocks], axis=1)
    assert absent.sum(axis=0).tolist() == [13, 18, 15, 0]
    assert ((model[-1].gate_weights(features) == 0) == absent).all()
    assert np.isfinite(model.predict_proba(frame)).all()
    explanation = explain(model, frame.iloc[:8])
    logits = np.asarray(explanation.logits).reshape(8, -1)
    np.testing.assert_allclose(
        logits.ravel(), model.decision_function(frame.iloc[:8]).ravel(), atol=1e-10
    )


def with_gaps(table):
    frame = table.copy()
    frame.loc[frame.index[[3, 40]], "age"] = np.nan
    frame.loc[frame.index[[4, 41]], ["age", "size"]] = np.nan
    return frame


def test_gaps_in_a_block_are_told_with_block_rows_and_remedies(table, y):
    frame = with_gaps(table)
    message = (
        r"Expert 'numbers': 2 row\(s\) of the columns are partly NaN \(rows 3, 40\)\. Fill the gaps"
        r".*whole row.*missing\. Or give it a head of its own that takes NaN"
    )
    for head in (None, LogisticRegression(), make_pipeline(StandardScaler(), LogisticRegression())):
        own = ("numbers", "numbers") if head is None else ("numbers", head, "numbers")
        experts = [("image", "image"), own] if head is not None else "auto"
        with pytest.raises(InputError, match=message):
            model_of(experts=experts).fit(frame, y)
    model = model_of().fit(table, y)
    with pytest.raises(InputError, match=message):
        model.predict(frame)
    # a classifier of one expert has no heads to give
    alone = make_pipeline(ExpertUnion([("n", "passthrough", ["age", "size"])]))
    with pytest.raises(InputError, match=r"partly NaN \(rows 3, 40\).*counts as missing\.$"):
        ConceptBottleneckClassifier().fit(alone.fit_transform(frame), y)


@pytest.mark.parametrize(
    "head",
    [
        HistGradientBoostingClassifier(max_iter=10, min_samples_leaf=5, random_state=0),
        make_pipeline(SimpleImputer(), LogisticRegression()),
        make_pipeline(StandardScaler(), SimpleImputer(add_indicator=True), LogisticRegression()),
    ],
    ids=["boosting", "imputer", "scaler-imputer"],
)
@pytest.mark.parametrize("gate_input", ["auto", "similarities", "disagreement"])
def test_a_head_that_takes_nan_sees_the_gaps_and_an_empty_row_is_still_missing(
    table, y, head, gate_input
):
    frame = with_gaps(table)
    experts = [("image", "image"), ("report", "report"), ("numbers", head, "numbers")]
    model = model_of(experts=experts, gate_input=gate_input).fit(frame, y)
    features, mixture = model[0].transform(frame), model[-1]
    weights = mixture.gate_weights(features)
    assert np.isfinite(weights).all()
    assert (weights[[4, 41], 2] == 0).all()
    assert (np.delete(weights[:, 2], [4, 41]) > 0).all()
    np.testing.assert_allclose(
        mixture.predict_proba(features)[[4, 41]],
        mixture.without("numbers").predict_proba(model[0].transform(table))[[4, 41]],
        rtol=1e-9,
    )
    # what the head says is what it says on its own, trained on the rows that are there
    values = np.asarray(features.select("numbers"), dtype=np.float64)
    there = ~np.isnan(values).all(axis=1)
    own = clone(head).fit(values[there], y[there])
    expected = own.decision_function(values[there])
    got = mixture.expert_logits(features)[there][:, 2]
    np.testing.assert_allclose(
        got.reshape(len(expected), -1)[:, -1], expected, rtol=1e-6, atol=1e-9
    )
    explanation = explain(model, frame.iloc[2:6])
    np.testing.assert_allclose(
        np.asarray(explanation.logits).ravel(),
        model.decision_function(frame.iloc[2:6]).ravel(),
        atol=1e-10,
    )
    repr(explanation)


def test_a_frozen_classifier_is_an_expert(table, y):
    numbers = table[["age", "size"]].to_numpy()
    frozen = FrozenEstimator(LogisticRegression().fit(StandardScaler().fit_transform(numbers), y))
    experts = [("image", "image"), ("numbers", frozen, "numbers")]
    model = model_of(experts=experts).fit(table, y)
    got = model[-1].expert_logits(model[0].transform(table))[:, 1]
    expected = frozen.decision_function(StandardScaler().fit_transform(numbers))
    np.testing.assert_allclose(got.reshape(N, -1)[:, -1], expected, rtol=1e-4)


def test_a_saved_model_finds_its_columns_again(table, y, tmp_path):
    model = model_of()
    model[0].set_params(
        experts=[
            ("image", model[0].experts[0][1], slice(0, 1)),
            ("report", model[0].experts[1][1], lambda X: "report"),
        ]
    )
    model.fit(table, y)
    save(model, tmp_path / "model")
    again = load(tmp_path / "model")
    assert again[0].columns_ == [["image"], "report"]
    moved = table[table.columns[::-1]]
    np.testing.assert_allclose(again.predict_proba(moved), model.predict_proba(table), rtol=1e-12)


@pytest.mark.filterwarnings("ignore:.*longer than the 24 tokens")
@pytest.mark.parametrize("backbone", ["demo-general", "demo-structures"])
def test_a_text_expert_is_near_the_concepts_that_a_report_names(backbone):
    """With a real text tower, which learned such captions: of clinical notes this says nothing."""
    captions = make_lesions(300, random_state=3).captions
    encoder = ConceptEncoder(backbone, "lesions", modality="text", cache_dir=None)
    similarities = np.asarray(encoder.fit_transform(captions))
    aurocs = []
    for concept, similarity in zip(encoder.bank_.texts, similarities.T, strict=True):
        named = [concept in caption for caption in captions]
        if 5 <= sum(named) <= 295:
            aurocs.append(roc_auc_score(named, similarity))
    assert len(aurocs) >= 5
    assert np.mean(aurocs) > 0.75


@pytest.mark.filterwarnings("ignore:.*longer than the 24 tokens")
def test_films_masked_notes_and_ages_of_real_patients(data_dir):
    """The demo experts know nothing of chests: what is tested is the way, not an accuracy."""
    folder = data_dir / "covid_chestxray_notes"
    table = pd.read_csv(folder / "metadata.csv").query("finding != 'todo'")[::3]
    frame = pd.DataFrame(
        {
            "image": [str(folder / "images" / name) for name in table["image"]],
            "report": mask_terms(table["clinical_notes"], "covid_radiography"),
            "age": table["age"],
        }
    )
    y = table["finding"].str.contains("COVID").to_numpy()
    union = ExpertUnion(
        [
            ("film", ConceptEncoder("demo-general", "lesions", cache_dir=None), "image"),
            (
                "note",
                ConceptEncoder("demo-general", "lesions", modality="text", cache_dir=None),
                "report",
            ),
            ("age", "passthrough", make_column_selector(dtype_include=float)),
        ]
    )
    mixture = GatedConceptBottleneckClassifier(
        ConceptBottleneckClassifier(prior=None), guard=False, cv=3, random_state=0
    )
    model = make_pipeline(union, mixture)
    groups = table["patientid"].to_numpy()
    model.fit(frame, y, gatedconceptbottleneckclassifier__groups=groups)
    features = model[0].transform(frame)
    no_age = table["age"].isna().to_numpy()
    assert 0 < no_age.sum() < len(frame)
    weights = model[-1].gate_weights(features)
    assert ((weights[:, 2] == 0) == no_age).all()
    np.testing.assert_allclose(
        model.predict_proba(frame)[no_age],
        model[-1].without("age").predict_proba(features)[no_age],
        rtol=1e-9,
    )
