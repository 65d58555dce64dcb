import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax

from skmoecbm import (
    ConceptBottleneckClassifier,
    GatedConceptBottleneckClassifier,
    InputError,
    JointTraining,
    SkmoecbmWarning,
    edit,
    load,
    save,
)

CONCEPTS = {"clip": ["veil", "round", "red"], "bio": ["veil", "network", "dots", "streaks"]}
COLUMNS = [f"{name}__{concept}" for name, own in CONCEPTS.items() for concept in own]


def planted(n_classes=3, n=200):
    """Rows of which each shows its class to one of the experts."""
    rng = np.random.default_rng(1)
    y = rng.integers(0, 3 if n_classes == "labels" else n_classes, n)
    X = rng.normal(size=(n, 7))
    mine = X[:, 1] > 0
    X[mine, 0] += 2 * y[mine]
    X[~mine, 3] += 2 * y[~mine]
    X[:, 4] += 0.7 * X[:, 3]
    if n_classes == "labels":
        y = np.stack([y > 0, y == 2], axis=1).astype(int)
    return pd.DataFrame(X, columns=COLUMNS), y


@pytest.fixture(scope="module")
def trained():
    X, y = planted()
    clf = GatedConceptBottleneckClassifier(
        guard=False, head=ConceptBottleneckClassifier(alpha=2.0, prior=None)
    )
    return clf.fit(X, y), X, y


@pytest.mark.parametrize("gate_input", ["auto", "similarities", "disagreement"])
@pytest.mark.parametrize("gate", ["linear", "mlp", "laplace"])
def test_a_forbidden_concept_changes_nothing_whatever_its_value(gate_input, gate, tmp_path):
    X, y = planted()
    head = ConceptBottleneckClassifier(alpha=2.0)
    clf = GatedConceptBottleneckClassifier(
        head, gate, gate_input=gate_input, guard=False, random_state=0
    ).fit(X, y)
    before = clf.predict_proba(X)
    other = X.assign(clip__veil=X["clip__veil"][::-1].to_numpy(), bio__veil=9.0)
    edited = edit(clf, forbid="veil")
    assert np.abs(clf.predict_proba(other) - before).max() > 0.1
    assert np.array_equal(edited.predict_proba(other), edited.predict_proba(X))
    assert np.array_equal(clf.predict_proba(X), before) and not hasattr(clf, "edit_log_")
    moved = X.assign(clip__red=X["clip__red"][::-1].to_numpy())
    assert not np.array_equal(edited.gate_weights(moved), edited.gate_weights(X))
    save(edited, tmp_path / "model")
    again = load(tmp_path / "model")
    assert np.array_equal(again.predict_proba(X), edited.predict_proba(X))


def test_the_gate_loses_nothing_but_the_concept(trained):
    X, y = planted()
    clf = GatedConceptBottleneckClassifier(gate_input="similarities", guard=False).fit(X, y)
    edited = edit(clf, forbid="bio__dots")
    mean = clf.gate_input_state_["mean"][COLUMNS.index("bio__dots")]
    expected = clf.gate_weights(X.assign(bio__dots=mean))
    assert np.allclose(edited.gate_weights(X), expected, atol=1e-12)


@pytest.mark.parametrize("n_classes", [2, 3, "labels"])
@pytest.mark.parametrize("settings", [{}, {"l1": 3.0}, {"activation": "nonnegative"}])
def test_forbid_and_refit_is_a_fit_without_the_column(n_classes, settings):
    X, y = planted(n_classes)
    X = X[[c for c in COLUMNS if c.startswith("bio")]]
    head = ConceptBottleneckClassifier(
        alpha=2.0, prior=None, tol=1e-8, class_weight="balanced", max_iter=2000, **settings
    )
    clf = head.fit(X, y)
    edited = edit(clf, forbid=["veil"], refit=(X, y))
    alone = ConceptBottleneckClassifier(**head.get_params()).fit(X.drop(columns="bio__veil"), y)
    assert not edited.association_[:, 0].any()
    assert np.allclose(edited.association_[:, 1:], alone.association_, atol=2e-4)
    assert np.allclose(edited.intercept_, alone.intercept_, atol=2e-4)
    assert np.abs(clf.association_[:, 1] - alone.association_[:, 0]).max() > 0.02


def test_pin_and_refit_is_the_bounded_optimum(trained):
    clf, X, y = trained
    pin = {("bio__network", 2): "-", ("bio__veil", 0): "+", ("bio__dots", 1): "+"}
    edited = edit(clf, pin=pin, refit=(X, y))
    head, new = clf.heads_[1], edited.heads_[1]
    Z = (X.iloc[:, 3:].to_numpy() - head.mean_) / head.scale_

    def objective(flat):
        A, b = flat[:12].reshape(3, 4), flat[12:]
        loss = -log_softmax(Z @ A.T + b, axis=1)[np.arange(len(y)), y].mean()
        return loss + head.alpha_ / (2 * len(y)) * (A**2).sum()

    bounds = [(None, None)] * 15
    bounds[2 * 4 + 1], bounds[0], bounds[4 + 2] = (None, 0), (0, None), (0, None)
    best = minimize(objective, np.zeros(15), bounds=bounds, method="L-BFGS-B", tol=1e-14)
    found = objective(np.r_[new.association_.ravel(), new.intercept_])
    assert found <= best.fun + 1e-8
    free = objective(np.r_[head.association_.ravel(), head.intercept_])
    assert found > free + 1e-4  # else the pins asked for nothing
    assert new.association_[0, 0] >= 0 and new.association_[2, 1] <= 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SkmoecbmWarning)
        clipped = edit(clf, pin=pin).heads_[1]
    assert found < objective(np.r_[clipped.association_.ravel(), clipped.intercept_]) - 1e-4
    assert edited.heads_[0] is clf.heads_[0]


@pytest.mark.parametrize("n_classes", [2, 3, "labels"])
def test_pins_that_hold_already_leave_the_refit_where_it_was(n_classes):
    X, y = planted(n_classes)
    clf = GatedConceptBottleneckClassifier(class_weight="balanced", specialize=False).fit(X, y)
    label = clf.classes_[1]
    weight = clf.heads_[1].association_[-1 if n_classes == 2 else 1, 0]
    edited = edit(clf, pin={("bio__veil", label): "+" if weight > 0 else "-"}, refit=(X, y))
    assert np.allclose(edited.predict_proba(X), clf.predict_proba(X), atol=2e-3)


def test_specialists_learn_again_from_their_own_rows():
    X, y = planted(n=900)
    clf = GatedConceptBottleneckClassifier().fit(X, y)
    assert clf.specialized_
    pin = {("clip__veil", 2): "+"}
    A = clf.heads_[0].association_
    assert A[2, 0] > 0
    own = edit(clf, pin=pin, refit=(X, y)).heads_[0].association_
    clf.specialized_ = False
    all_rows = edit(clf, pin=pin, refit=(X, y)).heads_[0].association_
    assert np.abs(own - A).max() < 0.5 * np.abs(all_rows - A).max()


def test_without_data_a_wrong_sign_becomes_zero_and_is_said(trained):
    clf = trained[0]
    A = clf.heads_[0].association_
    assert A[2, 0] > 0 > A[0, 0]
    with pytest.warns(SkmoecbmWarning, match=r"'veil' for 2 of 'clip'\. The other.*refit="):
        edited = edit(clf, pin={("veil", 2): "-", ("veil", 0): "-"}, experts="clip")
    new = edited.heads_[0].association_
    assert new[2, 0] == 0 and new[0, 0] == A[0, 0]
    assert np.array_equal(np.delete(new, 0, axis=1), np.delete(A, 0, axis=1))
    line = edited.edit_log_[0]
    assert (line["before"], line["after"], line["refit"]) == (A[2, 0], 0.0, False)
    assert np.array_equal(edited.heads_[1].association_, clf.heads_[1].association_)


def test_of_two_classes_the_first_reads_the_weight_the_other_way_round():
    X, y = planted(2)
    clf = ConceptBottleneckClassifier(alpha=1.0).fit(X[COLUMNS[:3]], y)
    assert clf.association_[0, 0] > 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same = edit(clf, pin={("veil", 0): "-", ("veil", 1): "+"})
    assert np.array_equal(same.association_, clf.association_)
    assert same.edit_log_[0]["before"] == -clf.association_[0, 0]
    with pytest.warns(SkmoecbmWarning, match="'veil' for 0"):
        assert edit(clf, pin={("veil", 0): "+"}).association_[0, 0] == 0
    refitted = edit(clf, pin={("veil", 0): "+"}, refit=(X[COLUMNS[:3]], y))
    assert refitted.association_[0, 0] == 0
    assert not np.array_equal(refitted.association_[0, 1:], clf.association_[0, 1:])


def test_edits_add_up_are_saved_and_told_in_the_card(trained, tmp_path):
    clf, X, y = trained
    once = edit(clf, forbid="bio__dots", refit=(X, y))
    twice = edit(once, pin={("bio__network", 2): "-"}, refit=(X, y))
    assert not twice.heads_[1].association_[:, 2].any()
    assert [line["action"] for line in twice.edit_log_] == ["forbid", "pin"]
    assert len(once.edit_log_) == 1
    save(twice, tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.edit_log_ == twice.edit_log_
    assert np.array_equal(again.predict_proba(X), twice.predict_proba(X))
    card = (tmp_path / "model" / "README.md").read_text()
    assert "- `dots` of `bio`: forbidden" in card
    assert "- `network` of `bio`: may only be negative for `2`" in card
    assert not hasattr(twice.fit(X, y), "edit_log_")


def test_a_pin_that_undoes_an_earlier_one_is_refused(trained):
    clf, X, y = trained
    once = edit(clf, pin={("bio__network", 2): "+"}, refit=(X, y))
    edit(once, pin={("bio__network", 2): "+", ("bio__network", 1): "-"}, refit=(X, y))
    with pytest.raises(
        InputError, match=r"pinned to '\+' for 2 already.*Start from the model before"
    ):
        edit(once, pin={("bio__network", 2): "-"})
    two = ConceptBottleneckClassifier(alpha=1.0).fit(X[COLUMNS[:3]], y > 0)
    with pytest.raises(InputError, match=r"pinned to '\+' for False already.*'\+' for True"):
        edit(two, pin={("veil", False): "+", ("veil", True): "+"})


def test_weights_of_a_refit_count_rows(trained):
    clf, X, y = trained
    weights = np.arange(len(y)) % 3
    weighted = edit(clf, forbid="clip__red", refit=(X, y, weights))
    own = np.repeat(np.arange(len(y)), weights)
    repeated = edit(clf, forbid="clip__red", refit=(X.iloc[own], y[own]))
    plain = edit(clf, forbid="clip__red", refit=(X, y))
    A, B, C = (model.heads_[0].association_ for model in (weighted, repeated, plain))
    np.testing.assert_allclose(A, B, atol=1e-3 * np.abs(B).max())
    assert np.abs(A - C).max() > 0.02
    with pytest.raises(InputError, match="sample_weight must be 200 numbers"):
        edit(clf, forbid="clip__red", refit=(X, y, weights[:9]))
    # what the training measured stays, all of it alike
    for name in ("oof_logits_", "oof_log_loss_", "routing_information_"):
        assert getattr(weighted, name) is getattr(clf, name)


def test_a_pipeline_and_a_search_are_edited_at_their_end(trained):
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import Pipeline

    clf, X, y = trained
    pipeline = Pipeline([("same", "passthrough"), ("clf", clf)])
    edited = edit(pipeline, forbid="veil", refit=(X, y))
    assert edited[-1].edit_log_ and pipeline[-1] is clf
    assert np.array_equal(
        edited.predict_proba(X), edit(clf, forbid="veil", refit=(X, y)).predict_proba(X)
    )
    search = GridSearchCV(clf, {"pool": ["logit"]}, cv=2).fit(X, y)
    assert edit(search, forbid="veil").edit_log_


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "Nothing to edit"),
        ({"forbid": "vail"}, r"no concept 'vail'.*\['veil'\]"),
        ({"pin": {("veil", 9): "+"}}, r"no class 9 to pin; there are \[0, 1, 2\]"),
        ({"pin": {("veil", 1): "up"}}, "'pin' parameter of edit"),
        ({"pin": [("veil", 1)]}, "'pin' parameter of edit"),
        ({"forbid": "veil", "pin": {("veil", 1): "+"}}, "contradict or repeat"),
        ({"forbid": ["veil", "clip__veil"]}, "contradict or repeat"),
        ({"forbid": "veil", "experts": ["x"]}, "no expert 'x'"),
        ({"forbid": "veil", "refit": "X"}, "'refit' parameter of edit"),
        ({"forbid": None}, "'forbid' parameter of edit must be a name or a list of names"),
        ({"forbid": "veil", "experts": 3}, "'experts' parameter of edit must be a name or a"),
    ],
)
def test_what_cannot_be_edited_is_said(trained, settings, told):
    with pytest.raises(InputError, match=told):
        edit(trained[0], **settings)


def test_what_cannot_be_fitted_again_is_said(trained):
    clf, X, y = trained
    with pytest.raises(InputError, match="refit has the classes"):
        edit(clf, forbid="veil", refit=(X, y + 1))
    heads = ConceptBottleneckClassifier(activation="softmax", alpha=30.0)
    softmax = GatedConceptBottleneckClassifier(heads, gate="uniform").fit(X, y)
    with pytest.raises(InputError, match="activation='softmax'"):
        edit(softmax, forbid="veil", refit=(X, y))
    edited = edit(softmax, forbid="veil")
    other = X.assign(clip__veil=0.0, bio__veil=0.0)
    assert np.array_equal(edited.predict_proba(X), edited.predict_proba(other))
    joint = GatedConceptBottleneckClassifier(training=JointTraining(max_epochs=2)).fit(X, y)
    with pytest.raises(InputError, match="JointTraining"):
        edit(joint, forbid="veil", refit=(X, y))


def test_a_head_of_another_kind_is_not_edited():
    from sklearn.linear_model import LogisticRegression

    X, y = planted()
    experts = [("clip", COLUMNS[:3]), ("line", LogisticRegression(), COLUMNS[3:])]
    clf = GatedConceptBottleneckClassifier(experts=experts).fit(X, y)
    with pytest.raises(InputError, match="of expert 'line' cannot be edited"):
        edit(clf, forbid="bio__dots")
    assert edit(clf, forbid="clip__veil", experts="clip").edit_log_
