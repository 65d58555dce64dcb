import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, StratifiedKFold

from skmoecbm import (
    ConceptBottleneckClassifier,
    ExpertFeatures,
    GatedConceptBottleneckClassifier,
    InputError,
    LinearGate,
    MLPGate,
    load,
    save,
)
from skmoecbm._gating import GateState

EXPERTS = [("left", slice(0, 3)), ("right", [3, 4, 5, 6])]


def _data(n=80, n_classes=3, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(n_classes, size=n)
    X = rng.normal(size=(n, 7)) + rng.normal(size=(n_classes, 7))[y]
    return X, y


def _features(X):
    return ExpertFeatures.from_similarities(
        {
            "left": (X[:, :3], ["red", "round", "large"]),
            "right": (X[:, 3:], ["veil", "scale", "streaks", "dots"]),
        },
        incidence={"left": np.eye(3), "right": np.eye(4, 3)},
        class_keys=["mel", "nv", "bcc"],
    )


def _same_outputs(a, b, X):
    for method in ("predict", "predict_proba", "decision_function"):
        one, other = getattr(a, method)(X), getattr(b, method)(X)
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize(
    "labels", [np.array(["mel", "nv", "bcc"]), np.array([3, 5, 9]), np.array(["a" * 30, "b", "c"])]
)
def test_single_classifier_round_trip_is_bitwise(n_classes, labels, tmp_path):
    X, y = _data(n_classes=n_classes)
    model = ConceptBottleneckClassifier(alpha=0.5).fit(X, labels[y])
    save(model, tmp_path / "model")
    again = load(tmp_path / "model")
    _same_outputs(model, again, X)
    assert again.classes_.tolist() == model.classes_.tolist()
    assert again.get_params() == model.get_params()


def test_boolean_labels_stay_boolean(tmp_path):
    X, y = _data(n_classes=2)
    model = ConceptBottleneckClassifier(alpha=1.0).fit(X, y == 1)
    save(model, tmp_path / "model")
    assert load(tmp_path / "model").predict(X).dtype == bool


@pytest.mark.parametrize(
    "settings",
    [
        {"gate": "uniform"},
        {"gate": "constant", "guard": False},
        {"gate": LinearGate(penalty=0.1), "guard": False},
        {"gate": MLPGate(hidden=4, max_iter=5), "guard": False},
        {"gate": "linear", "guard": False, "gate_input": "similarities"},
        {"pool": "prob"},
        {"pool": "sum", "calibrate": False},
        {"head": ConceptBottleneckClassifier(activation="softmax", alpha=1.0)},
        {"head": ConceptBottleneckClassifier(alpha=3.0, prior=None), "cv": StratifiedKFold(3)},
        {"class_weight": {0: 2.0, 1: 1.0, 2: 1.0}},
    ],
    ids=lambda settings: ",".join(settings),
)
def test_mixture_of_every_kind_round_trips_bitwise(settings, tmp_path):
    X, y = _data()
    settings = {"head": ConceptBottleneckClassifier(alpha=1.0), **settings}
    model = GatedConceptBottleneckClassifier(experts=EXPERTS, random_state=0, **settings).fit(X, y)
    save(model, tmp_path / "model")
    again = load(tmp_path / "model")
    X[:10, :3] = np.nan
    _same_outputs(model, again, X)
    np.testing.assert_array_equal(model.gate_weights(X), again.gate_weights(X))
    _same_outputs(model.without("left"), again.without("left"), X)
    for name in ("selected_", "fallback_", "alpha_", "alpha_path_", "oof_log_loss_", "prior_used_"):
        assert getattr(again, name) == getattr(model, name), name


def test_guarded_choice_of_one_expert_round_trips(tmp_path):
    head = ConceptBottleneckClassifier(alpha=1.0)
    model = GatedConceptBottleneckClassifier(head, experts=EXPERTS).fit(*_data())
    # what the guard keeps where one expert is better than any mixture
    model.gate_state_ = GateState("expert", {"index": np.array(1)})
    save(model, tmp_path / "model")
    again = load(tmp_path / "model")
    X, _ = _data()
    _same_outputs(model, again, X)
    assert again.gate_weights(X)[:, 1].tolist() == [1.0] * len(X)


def test_features_frame_gate_columns_and_masked_expert_round_trip(tmp_path):
    X, y = _data()
    labels = np.array(["mel", "nv", "bcc"])[y]
    features = _features(X)
    model = GatedConceptBottleneckClassifier(random_state=0).fit(features, labels)
    assert model.prior_used_["left"] == "class"
    save(model, tmp_path / "features")
    again = load(tmp_path / "features")
    _same_outputs(model, again, features)
    _same_outputs(model, again, features.to_frame())
    save(model.without("left"), tmp_path / "masked")
    _same_outputs(model.without("left"), load(tmp_path / "masked"), features)

    frame = features.to_frame().assign(age=X[:, 0])
    model = GatedConceptBottleneckClassifier(gate_input=["age"], guard=False).fit(frame, labels)
    save(model, tmp_path / "gate")
    _same_outputs(model, load(tmp_path / "gate"), frame)


def test_half_a_character_in_a_label_is_told_where_it_is_saved(tmp_path):
    X, y = _data(n=40)
    labels = np.array(["mel\ud800", "nv"])[(y == y[0]).astype(int)]
    model = ConceptBottleneckClassifier(alpha=1.0).fit(X, labels)
    with pytest.raises(InputError, match=r"half a character, near .*mel\\ud800"):
        save(model, tmp_path / "model")


def test_of_a_search_its_best_model_is_saved_and_nothing_else(tmp_path):
    X, y = _data(n=40)
    search = GridSearchCV(ConceptBottleneckClassifier(), {"alpha": [0.1, 1.0]}, cv=2).fit(X, y)
    save(search, tmp_path / "search")
    save(search.best_estimator_, tmp_path / "model")
    for file in ("config.json", "model.safetensors", "README.md"):
        assert (tmp_path / "search" / file).read_bytes() == (tmp_path / "model" / file).read_bytes()
    again = load(tmp_path / "search")
    np.testing.assert_array_equal(again.predict_proba(X), search.predict_proba(X))


@pytest.mark.parametrize("label_map", [{1: "mel"}, ["mel"], "mel"])
def test_a_label_map_that_is_none_is_told(tmp_path, label_map):
    X, y = _data(n=40)
    model = ConceptBottleneckClassifier(alpha=1.0).fit(X, y)
    with pytest.raises(InputError, match="'label_map' parameter of save must be a dict of codes"):
        save(model, tmp_path / "model", label_map=label_map)
    assert not (tmp_path / "model").exists()


def test_what_is_not_fitted_is_not_saved(tmp_path):
    with pytest.raises(NotFittedError, match="is not fitted"):
        save(ConceptBottleneckClassifier(), tmp_path / "model")
    assert not (tmp_path / "model").exists()
