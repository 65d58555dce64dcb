"""What a training leaves behind: counts that are right, digests that tell nothing back."""

import hashlib
import json
import pickle

import numpy as np
import pytest
import scipy.sparse
from sklearn.base import clone

from skmoecbm import (
    ConceptBottleneckClassifier,
    ConceptEncoder,
    ExpertFeatures,
    GatedConceptBottleneckClassifier,
    JointTraining,
    SkmoecbmWarning,
    edit,
)
from skmoecbm._provenance import data_digests
from skmoecbm._schema_provenance import ClassifierTraining, EncoderTraining
from skmoecbm.concepts import LintedConcepts, SubmodularSelector, TopKConcepts
from skmoecbm.datasets import make_lesions

EXPERTS = [("left", slice(0, 3)), ("right", [3, 4, 5, 6])]
HEAD = ConceptBottleneckClassifier(alpha=1.0)


def _data(n=80, n_classes=3, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(n_classes, size=n)
    return rng.normal(size=(n, 7)) + rng.normal(size=(n_classes, 7))[y], y


def _mixture(**settings):
    return GatedConceptBottleneckClassifier(HEAD, experts=EXPERTS, random_state=0, **settings)


# Digests


def test_digests_are_sha256_of_shape_and_little_endian_numbers():
    X, codes = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([1, 0])
    stream = b"((2, 2), '<f8')" + X.astype("<f8").tobytes()
    key = hashlib.sha256(stream + b"key of the other parts").digest()
    assert data_digests([X], codes) == {
        "features": hashlib.sha256(stream + b"features").hexdigest(),
        "targets": hashlib.sha256(
            key + b"((2,), '<i8')" + codes.astype("<i8").tobytes()
        ).hexdigest(),
        "sample_weight": None,
        "groups": None,
    }


@pytest.mark.parametrize("n", [1, 700, 40_000])
def test_chunks_orders_types_and_bits_do_not_matter(n):
    X = np.random.default_rng(0).normal(size=(n, 7)).astype(np.float32)
    X[0, :2] = 0.0, np.nan
    expected = data_digests([X])
    for same in (X.astype(float), np.asfortranarray(X), np.repeat(X, 2, axis=0)[::2]):
        assert data_digests([same]) == expected
    other = X.copy()
    other[0, 0] = -0.0
    other[0, 1] = np.array([0xFFC00001], dtype=np.uint32).view(np.float32)[0]  # another NaN
    assert data_digests([other]) == expected
    other[-1, -1] += 1e-6
    assert data_digests([other]) != expected
    assert data_digests([X[:, :3], X[:, 3:]]) != expected


def test_each_part_is_seen_by_itself():
    X, y = _data()
    w, g = np.linspace(1, 2, 80), np.arange(80) // 2
    parts = data_digests([X], y, w, g)
    assert len(set(parts.values())) == 4
    for name, changed in (
        ("targets", (np.roll(y, 1), w, g)),
        ("sample_weight", (y, w * 2, g)),
        ("groups", (y, w, g[::-1] // 2)),
    ):
        other = data_digests([X], *changed)
        assert [k for k in parts if parts[k] != other[k]] == [name]


def test_groups_count_by_who_is_with_whom():
    X, y = _data()
    g = np.arange(80) % 9
    renamed = np.random.default_rng(0).permutation(100)[g]
    assert data_digests([X], y, None, g) == data_digests([X], y, None, renamed)
    assert data_digests([X], y, None, g) != data_digests([X], y, None, g % 8)


def test_labels_cannot_be_found_by_trying_them_all():
    X, y = _data(n=8, n_classes=2)
    digest = data_digests([X], y)["targets"]
    tried = [np.array([i >> j & 1 for j in range(8)]) for i in range(256)]
    plain = {hashlib.sha256(t.astype("<i8").tobytes()).hexdigest() for t in tried}
    assert digest not in plain
    # whoever lacks the features has another key, and every try fails
    assert digest not in {data_digests([X + 1e-9], t)["targets"] for t in tried}
    assert digest in {data_digests([X], t)["targets"] for t in tried}


# Classifiers


def test_counts_of_a_mixture_are_those_of_the_rows():
    X, y = _data()
    X[:6, :3] = np.nan
    X[4:9, 3:] = np.nan  # rows 4 and 5 have no expert
    weights = np.where(np.arange(80) < 70, 1.0, 0.0)
    model = _mixture(cv=3).fit(X, y, sample_weight=weights, groups=np.arange(80) // 2)
    seen = model.training_summary_
    used = np.isin(np.arange(70), [4, 5], invert=True)
    assert (seen["n_rows"], seen["n_used_rows"]) == (80, 68)
    assert seen["n_missing_rows"] == 2
    assert seen["rows_per_class"] == [int((y[:70][used] == k).sum()) for k in range(3)]
    assert seen["rows_per_expert"] == {"left": 64, "right": 65}
    assert seen["n_groups"] == 40
    assert seen["n_folds"] == 3
    assert seen["sample_weight"] is True
    assert (seen["device"], seen["dtype"], seen["joint"]) == ("cpu", "float64", None)
    assert all(seen["data_sha256"].values())


def test_counts_of_one_expert_and_of_labels():
    X, y = _data()
    seen = HEAD.fit(X, y).training_summary_
    assert seen["rows_per_expert"] == {"expert": 80}
    assert (seen["n_folds"], seen["no_folds"]) == (0, None)  # alpha was given
    assert seen["sample_weight"] is False
    assert seen["n_groups"] is seen["data_sha256"]["sample_weight"] is None
    Y = (X[:, :3] > 0).astype(int)
    seen = ConceptBottleneckClassifier().fit(X, Y).training_summary_
    assert seen["rows_per_class"] == Y.sum(axis=0).tolist()
    assert seen["n_folds"] == 5
    sparse = ConceptBottleneckClassifier().fit(X, scipy.sparse.csr_matrix(Y)).training_summary_
    assert sparse == seen


def test_why_there_were_no_folds_is_kept():
    X, y = _data(n=20, n_classes=2)
    y[:] = 0
    y[3] = 1
    seen = ConceptBottleneckClassifier().fit(X, y).training_summary_
    assert seen["n_folds"] == 0
    assert "class 1 has one row only" in seen["no_folds"]


def test_joint_training_tells_its_epochs():
    X, y = _data()
    model = _mixture(training=JointTraining(max_epochs=3)).fit(X, y)
    assert model.training_summary_["joint"] == {
        "epochs": len(model.training_history_["train_loss"]),
        "best_epoch": model.training_history_["best_epoch"],
        "early_stopping": model.training_history_["early_stopping"],
    }
    assert model.set_params(training="staged").fit(X, y).training_summary_["joint"] is None


def test_the_summary_is_plain_small_repeatable_and_of_its_form():
    X, y = _data()
    for model in (HEAD, _mixture(), _mixture(training=JointTraining(max_epochs=2))):
        model = clone(model).fit(X, y)
        seen = model.training_summary_
        assert json.loads(json.dumps(seen)) == seen
        node = ClassifierTraining(**seen)
        assert node.model_dump(mode="json") == seen
        assert list(node.model_dump()) == list(seen)
        assert len(pickle.dumps(seen)) < 2000
        assert clone(model).fit(X, y).training_summary_ == seen
        assert model.fit(X, y).training_summary_ == seen
        assert not hasattr(clone(model), "training_summary_")


def test_the_same_rows_in_any_container_have_the_same_digests():
    X, y = _data()
    features = ExpertFeatures.from_similarities(
        {"left": (X[:, :3], list("abc")), "right": (X[:, 3:], list("defg"))}
    )
    plain = _mixture().fit(X.astype(np.float32), y).training_summary_
    from_features = GatedConceptBottleneckClassifier(HEAD).fit(features, y).training_summary_
    from_frame = GatedConceptBottleneckClassifier(HEAD).fit(features.to_frame(), y)
    assert plain == from_features == from_frame.training_summary_


def test_heads_of_a_mixture_and_its_views_tell_no_training_of_their_own():
    X, y = _data()
    model = _mixture().fit(X, y)
    assert not any(hasattr(head, "training_summary_") for head in model.heads_)
    assert model.without("left").training_summary_ == model.training_summary_


def test_a_refit_is_noted_beside_the_first_training():
    X, y = _data()
    features = ExpertFeatures.from_similarities(
        {"left": (X[:, :3], list("abc")), "right": (X[:, 3:], list("defg"))}
    )
    model = GatedConceptBottleneckClassifier(HEAD).fit(features, y)
    before = json.dumps(model.training_summary_)
    rows = features[:50]
    once = edit(model, forbid="a", refit=(rows, y[:50], np.ones(50)))
    twice = edit(once, forbid="d", refit=(features, y))
    assert json.dumps(model.training_summary_) == before
    first, second = twice.training_summary_["refits"]
    assert (first["experts"], first["n_rows"], first["n_used_rows"]) == (["left"], 50, 50)
    assert (second["experts"], second["n_rows"]) == (["right"], 80)
    assert first["data_sha256"]["sample_weight"]
    assert second["data_sha256"] == model.training_summary_["data_sha256"]
    assert once.training_summary_["refits"] == [first]
    ClassifierTraining(**twice.training_summary_)
    assert edit(model, forbid="a").training_summary_ == model.training_summary_


# Encoders


@pytest.fixture(scope="module")
def lesions():
    data = make_lesions(60, random_state=0)
    return list(data.images), np.asarray(data.target)


@pytest.mark.parametrize(
    ("select", "parameters"),
    [
        (TopKConcepts(2), {"k": 2, "per_class": True, "relevance": "mi"}),
        (SubmodularSelector(1), {"n_per_class": 1, "scope": "class"}),
        (LintedConcepts(then=TopKConcepts(1)), {"rules": None}),
    ],
)
def test_an_encoder_tells_how_concepts_were_selected(lesions, select, parameters):
    images, y = lesions
    encoder = ConceptEncoder(
        "demo-general", "lesions", select=select, cache_dir=None, on_error="missing"
    )
    with pytest.warns(SkmoecbmWarning, match=r"1 image\(s\) cannot be read"):
        seen = encoder.fit([*images[:-1], b"no image"], y).training_summary_
    assert seen["concepts"]["known"] <= seen["concepts"]["given"] == 25
    assert seen["concepts"]["kept"] == encoder.n_concepts_ < seen["concepts"]["known"]
    assert seen["selection"]["selector"] == type(select).__name__
    assert parameters.items() <= seen["selection"]["parameters"].items()
    assert (seen["n_rows"], seen["n_missing_rows"]) == (60, 1)
    assert seen["data_sha256"]["features"]
    assert EncoderTraining(**seen).model_dump(mode="json") == seen


def test_an_encoder_that_selects_nothing_learned_from_no_row(lesions):
    seen = ConceptEncoder("demo-general", "lesions", cache_dir=None).fit(*lesions)
    assert seen.training_summary_ == {
        "device": "cpu",
        "concepts": {"given": 25, "known": 12, "kept": 12},
        "selection": None,
        "n_rows": None,
        "n_missing_rows": None,
        "data_sha256": None,
    }


class Path(TopKConcepts):
    """A selector of the user's own, whose parameters may hold anything."""


def test_parameters_of_a_foreign_selector_are_left_out(lesions):
    encoder = ConceptEncoder("demo-general", "lesions", select=Path(2), cache_dir=None)
    selection = encoder.fit(*lesions).training_summary_["selection"]
    assert selection == {"selector": "Path", "parameters": None}
    encoder.set_params(select=LintedConcepts(then=Path(2)))
    selection = encoder.fit(*lesions).training_summary_["selection"]
    assert selection == {"selector": "LintedConcepts", "parameters": None}
