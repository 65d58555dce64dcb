import json
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, log_softmax, logsumexp, softmax
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from skmoecbm import (
    ConceptBottleneckClassifier,
    ConceptEncoder,
    ExpertFeatures,
    ExpertUnion,
    GatedConceptBottleneckClassifier,
    InputError,
    SkmoecbmWarning,
    explain,
    intervene,
)
from skmoecbm.datasets import make_lesions

CONCEPTS = {"clip": ["veil", "round", "red"], "bio": ["veil", "network", "dots", "streaks"]}
COLUMNS = [f"{name}__{concept}" for name, own in CONCEPTS.items() for concept in own]
KINDS = {
    "two classes": (2, {}),
    "three classes": (3, {}),
    "labels": ("labels", {}),
    "sum": (3, {"pool": "sum"}),
    "prob": (3, {"pool": "prob"}),
    "prob, two classes": (2, {"pool": "prob"}),
    "prob, labels": ("labels", {"pool": "prob"}),
    "softmax": (3, {"head": ConceptBottleneckClassifier(activation="softmax", alpha=100.0)}),
    "prevalence": (2, {"target_prevalence": {1: 0.1}, "class_weight": "balanced"}),
    "disagreement": (3, {"gate_input": "disagreement"}),
    "mlp": (2, {"gate": "mlp", "random_state": 0}),
}


def planted(kind, n=240):
    """Rows of which each shows its class to one of the experts, and a gate that can tell whose."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3 if kind == "labels" else kind, n)
    X = rng.normal(size=(n, 7))
    mine = X[:, 1] > 0
    X[mine, 0] += 2 * y[mine]
    X[~mine, 3] += 2 * y[~mine]
    X[~mine, 4] -= y[~mine]
    if kind == "labels":
        y = np.stack([y > 0, y == 2, rng.random(n) < 0.4], axis=1).astype(int)
    return pd.DataFrame(X, columns=COLUMNS), y


@pytest.fixture(scope="module")
def models():
    made = {}
    for name, (kind, settings) in KINDS.items():
        X, y = planted(kind)
        settings = {"head": ConceptBottleneckClassifier(alpha=3.0), "guard": False} | settings
        clf = GatedConceptBottleneckClassifier(**settings)
        made[name] = clf.fit(X, y), X
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_following_the_gate_is_predicting_on_replaced_cells(models, kind):
    clf, X = models[kind]
    result = intervene(clf, X[:40], {"veil": 0.7, "dots": -0.3}, gate="follow")
    other = X[:40].assign(clip__veil=0.7, bio__veil=0.7, bio__dots=-0.3)
    assert np.array_equal(result.probabilities, clf.predict_proba(other))
    assert np.array_equal(result.predicted, clf.predict(other))
    assert np.array_equal(
        result.logits.reshape(40, -1), clf.decision_function(other).reshape(40, -1)
    )
    assert np.array_equal(result.gate_change, clf.gate_weights(other) - clf.gate_weights(X[:40]))
    assert np.abs(result.gate_change).max() > 1e-3  # else following would be holding


@pytest.mark.parametrize("kind", KINDS)
def test_holding_the_gate_is_the_formula_with_the_old_weights(models, kind):
    clf, X = models[kind]
    result = intervene(clf, X[:40], {"veil": 0.7, "dots": -0.3})
    assert not result.gate_change.any()
    other = X[:40].assign(clip__veil=0.7, bio__veil=0.7, bio__dots=-0.3).to_numpy()
    G, scale = clf.gate_weights(X[:40]), clf.pool_scale_[-1]
    logits = []
    for head, columns, tau in zip(
        clf.heads_, ([0, 1, 2], [3, 4, 5, 6]), clf.expert_scale_, strict=True
    ):
        z = (other[:, columns] - head.mean_) / head.scale_
        own = tau * (z @ head.association_.T + head.intercept_)
        logits.append(np.c_[np.zeros(40), own] if own.shape[1] == 1 else own)
    S = np.stack(logits, axis=1)
    if clf.pool == "prob" and clf.multilabel_:
        p = np.einsum("ne,nek->nk", G, expit(S))
        mixed = scale * (np.log(p) - np.log1p(-p))
    elif clf.pool == "prob":
        mixed = scale * logsumexp(np.log(G)[:, :, None] + log_softmax(S, axis=2), axis=1)
    else:
        mixed = scale * np.einsum("ne,nek->nk", G, S) * (2 if clf.pool == "sum" else 1)
    if clf.target_prevalence:
        mixed[:, 1] += np.log(0.1 / 0.9)  # balanced weights trained it at one half
    expected = expit(mixed) if clf.multilabel_ else softmax(mixed, axis=1)
    assert np.allclose(result.probabilities, expected, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gate", ["fixed", "follow"])
def test_changing_nothing_changes_nothing(models, kind, gate):
    clf, X = models[kind]
    row = X[5:6]
    same = {"clip__veil": row["clip__veil"].item(), "bio__streaks": row["bio__streaks"].item()}
    for changes in ({}, same):
        result = intervene(clf, row, changes, gate=gate)
        assert not result.probability_change.any() and not result.logit_change.any()
        assert not result.changed.any() and result.carried().empty
        assert np.array_equal(result.probabilities, clf.predict_proba(row))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.startswith("prob")])
@pytest.mark.parametrize("gate", ["fixed", "follow"])
def test_changes_of_contributions_sum_to_the_change_of_the_logit(models, kind, gate):
    clf, X = models[kind]
    result = intervene(clf, X[:30], {"veil": "present", "network": "p10"}, gate=gate)
    for label in result.classes:
        frame = result.to_frame(label)
        column, sign = result.classes.index(label), 1
        if result.logits.shape[1] == 1:
            column, sign = 0, 2 * column - 1
        for name, logits in (("change", result.logit_change), ("after", result.logits)):
            found = frame.groupby("row")[name].sum()
            assert np.allclose(found, sign * logits[:, column], atol=1e-10)
    moved = frame[frame["change"] != 0]
    if gate == "fixed":
        assert set(moved["concept"]) == {"veil", "network"}
    flipped = [i for i in range(30) if result.changed[i]]
    told = result.to_frame().groupby("row")[["change", "after"]].sum()
    if not clf.multilabel_ and result.logits.shape[1] > 1:
        for i in flipped:
            new, old = result.predicted[i], result.predicted_before[i]
            assert told["after"][i] == pytest.approx(result.logits[i, new] - result.logits[i, old])
            assert told["after"][i] > 0 > told["after"][i] - told["change"][i]
            assert set(result.to_frame()[lambda t, i=i: t["row"] == i]["against"]) == {old}
        assert flipped or kind == "softmax"
    carried = result.carried(row=3)
    mine = result.to_frame()[lambda t: t["row"] == 3]
    assert carried["change"].sum() == pytest.approx(mine["change"].sum(), abs=1e-10)
    assert carried["change"].abs().is_monotonic_decreasing


def test_averaged_probabilities_tell_the_logits_of_each_expert(models):
    clf, X = models["prob"]
    result = intervene(clf, X[:5], {"veil": 0.7}, experts="bio")
    frame = result.to_frame(2)
    head, tau = clf.heads_[1], clf.expert_scale_[1]
    expected = tau * head.association_[2, 0] * (0.7 - X["bio__veil"][:5]) / head.scale_[0]
    found = frame[(frame["expert"] == "bio") & (frame["concept"] == "veil")]["change"]
    assert np.allclose(found, expected, atol=1e-10)
    assert "(bias)" not in set(frame["concept"])
    assert result.before.unit == result.after.unit == "probability"
    after = X[:5].assign(bio__veil=0.7)
    told = explain(clf, X[:5]), explain(clf, after)
    assert result.before.to_frame().equals(told[0].to_frame())
    totals = sum(part.sum(axis=1) for part in result.after.contributions) + result.after.bias
    assert np.allclose(totals, result.probabilities, atol=1e-10)


def test_an_expert_that_is_not_linear_has_no_similarities_where_it_is_absent():
    X, y = planted(3)
    trees = HistGradientBoostingClassifier(max_iter=5)
    experts = [("clip", COLUMNS[:3]), ("bio", trees, COLUMNS[3:])]
    for pool in ("logit", "prob"):
        clf = GatedConceptBottleneckClassifier(experts=experts, gate="uniform", pool=pool)
        clf.fit(X, y)
        rows = X[:3].copy()
        rows.loc[rows.index[0], COLUMNS[3:]] = np.nan
        frame = intervene(clf, rows, {"round": "present"}).to_frame()
        seen = frame[frame["expert"] == "bio"].groupby("row")["similarity_before"].count()
        assert (seen > 0).tolist() == [False, True, True]


def test_words_and_percentiles_are_those_of_the_training_rows(models):
    clf, X = models["three classes"]
    sorted_ = np.sort(X["bio__veil"].to_numpy())
    for asked, share in (
        ("present", 0.95),
        ("absent", 0.05),
        ("p0", 0),
        ("p100", 1),
        ("p62", 0.62),
    ):
        (line,) = intervene(clf, X[:2], {"bio__veil": asked}).changes.to_dict("records")
        at = max(int(np.ceil(share * 240)) - 1, 0)
        assert line["value"] == pytest.approx(sorted_[at], rel=1e-12)
        assert line["percentile"] == pytest.approx(100 * share, abs=1e-9)
        assert (line["expert"], line["concept"]) == ("bio", "veil")


def test_a_value_outside_the_training_range_is_moved_and_said(models):
    clf, X = models["two classes"]
    high = X["clip__red"].max()
    with pytest.warns(SkmoecbmWarning, match=rf"'red' of 'clip': 99 became {high:.4g}"):
        result = intervene(clf, X[:3], {"red": 99.0})
    assert np.array_equal(
        result.probabilities, intervene(clf, X[:3], {"red": "p100"}).probabilities
    )


@pytest.mark.parametrize(
    ("value", "told"),
    [(95, "95th percentile give 'p95'"), (1e3, None), (-95, None), (22, "22nd percentile give")],
)
def test_a_number_that_was_meant_as_a_percentile_is_told_so(models, value, told):
    clf, X = models["two classes"]
    with pytest.warns(SkmoecbmWarning, match="moved to its end") as caught:
        intervene(clf, X[:3], {"red": value})
    assert (
        (told in str(caught[0].message)) if told else ("percentile" not in str(caught[0].message))
    )
    near = X["clip__red"].max() + 0.5  # outside, and no slip
    with pytest.warns(SkmoecbmWarning, match="moved to its end") as caught:
        intervene(clf, X[:3], {"red": near})
    assert near > 1 and "percentile" not in str(caught[0].message)


@pytest.mark.parametrize("gate", ["fixed", "follow"])
def test_an_absent_expert_cannot_be_set(models, gate):
    clf, X = models["three classes"]
    gone = X[:6].copy()
    gone.loc[[1, 4], [c for c in COLUMNS if c.startswith("bio")]] = np.nan
    with pytest.warns(SkmoecbmWarning, match=r"'bio' did not see 2 \(rows 1, 4\)"):
        result = intervene(clf, gone, {"veil": 1.0, "dots": 0.5}, gate=gate)
    rest = intervene(clf.without("bio"), gone.loc[[1, 4]], {"veil": 1.0}, gate=gate)
    assert np.allclose(result.probabilities[[1, 4]], rest.probabilities, atol=1e-12)
    assert len(rest.changes) == 1  # what is masked is not set


@pytest.mark.parametrize(
    ("changes", "settings", "told"),
    [
        ({"vail": "present"}, {}, r"no concept 'vail'.*The nearest are \['veil'\]"),
        ({"qqqq": 0.1}, {}, "None is near it"),
        ({"veil": "high"}, {}, "cannot be set to 'high'.*'present', 'absent'"),
        ({"veil": "p101"}, {}, "from 'p0' to 'p100'"),
        ({"veil": True}, {}, "cannot be set to True"),
        ({"veil": float("nan")}, {}, "cannot be set to nan"),
        ({"veil": 0.1, "bio__veil": 0.2}, {}, "'veil' of expert 'bio' is set twice"),
        ({"dots": 0.1}, {"experts": ["clip"]}, r"\['clip'\], none has.*\['bio'\] has it"),
        ({"dots": 0.1}, {"experts": ["x"]}, r"no expert 'x' here; there are \['clip', 'bio'\]"),
        (["veil"], {}, "'changes' parameter of intervene must be a dict"),
        ({}, {"gate": "free"}, "'gate' parameter of intervene"),
    ],
)
def test_what_cannot_be_done_is_said(models, changes, settings, told):
    clf, X = models["three classes"]
    with pytest.raises(InputError, match=told):
        intervene(clf, X[:2], changes, **settings)


def test_a_model_that_does_not_know_its_range_takes_numbers_only(models):
    import copy

    clf, X = models["two classes"]
    old = copy.copy(clf)
    del old.concept_quantiles_
    with pytest.raises(InputError, match="does not know"):
        intervene(old, X[:2], {"red": "present"})
    result = intervene(old, X[:2], {"red": 99.0}, gate="follow")
    assert np.array_equal(result.probabilities, clf.predict_proba(X[:2].assign(clip__red=99.0)))
    assert json.loads(json.dumps(result.to_dict()))["changes"][0]["percentile"] is None


def test_containers_agree_and_so_does_one_expert_alone():
    X, y = planted(3)
    array, clip = X.to_numpy(), X[COLUMNS[:3]]
    features = ExpertFeatures.from_similarities(
        {"clip": (array[:, :3], CONCEPTS["clip"]), "bio": (array[:, 3:], CONCEPTS["bio"])}
    )
    clf = GatedConceptBottleneckClassifier().fit(features, y)
    told = intervene(clf, features[:9], {"veil": "absent"}, gate="follow")
    again = intervene(clf, np.asarray(features, dtype=float)[:9], {"veil": "absent"}, gate="follow")
    assert np.allclose(told.probabilities, again.probabilities, atol=1e-12)
    one = ConceptBottleneckClassifier().fit(clip.to_numpy(), y)
    result = intervene(one, array[:9, :3], {"x0": 0.5})
    assert np.array_equal(
        result.probabilities, one.predict_proba(np.c_[np.full(9, 0.5), array[:9, 1:3]])
    )


def test_heads_of_other_kinds_can_be_set_too():
    X, y = planted(3)
    heads = [
        ("clip", COLUMNS[:3]),
        ("line", LogisticRegression(), COLUMNS[3:5]),
        ("trees", HistGradientBoostingClassifier(max_iter=10), COLUMNS[5:]),
    ]
    clf = GatedConceptBottleneckClassifier(experts=heads).fit(X, y)
    changes = {"bio__veil": 0.4, "bio__dots": "present", "clip__veil": "absent"}
    result = intervene(clf, X[:20], changes, gate="follow")
    values = {}
    for line in result.changes.itertuples():
        column = line.concept if line.concept in X else f"{line.expert}__{line.concept}"
        values[column] = line.value
    assert np.array_equal(result.probabilities, clf.predict_proba(X[:20].assign(**values)))
    sums = result.to_frame(1).groupby("row")["change"].sum()
    assert np.allclose(sums, result.logit_change[:, 1], atol=1e-10)


def test_a_pipeline_takes_images_and_tells_that_experts_are_demonstrations(recwarn):
    lesions = make_lesions(120, random_state=0)
    encoders = [
        (name[5:], ConceptEncoder(name, "lesions")) for name in ("demo-general", "demo-structures")
    ]
    model = make_pipeline(ExpertUnion(encoders), GatedConceptBottleneckClassifier(random_state=0))
    model.fit(lesions.images[:100], lesions.target[:100])
    concept = model[-1].concept_names_[0][0]
    result = intervene(model, lesions.images[100:103], {concept: "present"})
    features = model[:-1].transform(lesions.images[100:103])
    again = intervene(model[-1], features, {concept: "present"})
    assert np.array_equal(result.probabilities, again.probabilities)
    assert result.after.images is not None
    text = repr(result)
    assert concept in text and "Note: " in text and "row 2" in text
    assert result.probability_change.any()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        json.dumps(result.to_dict())


def test_specialised_experts_are_set_as_they_stand():
    X, y = planted(3, n=900)
    clf = GatedConceptBottleneckClassifier().fit(X, y)
    if not clf.specialized_:
        pytest.fail("the planted rows no longer make specialists; plant stronger ones")
    result = intervene(clf, X[:40], {"veil": 0.7}, gate="follow")
    other = X[:40].assign(clip__veil=0.7, bio__veil=0.7)
    assert np.array_equal(result.probabilities, clf.predict_proba(other))


@pytest.mark.parametrize("kind", ["three classes", "disagreement", "prob"])
def test_a_reading_is_decided_on_as_it_stands_whatever_the_view(models, kind):
    from skmoecbm._base import Reading
    from skmoecbm._concept_cells import replace_cells, wanted_cells
    from skmoecbm._intervene import read_rows

    clf, X = models[kind]
    before = read_rows(clf, X[:30])
    assert (len(before), before.shape) == (30, (30, 7))
    cells = wanted_cells("test", clf, {"veil": 0.7})
    held = Reading(replace_cells(before.data, cells), before.gate_values, before.data)
    for view in (clf, clf.without("bio")):
        assert np.array_equal(view.gate_weights(held), view.gate_weights(X[:30]))
        rows = np.array([4, 2, 9])
        whole, part = view.predict_proba(held), view.predict_proba(held[rows])
        assert np.allclose(part, whole[rows], atol=1e-12)
    alone = clf.without("bio").predict_proba(X[:30].assign(clip__veil=0.7))
    assert np.allclose(clf.without("bio").predict_proba(held), alone, atol=1e-12)


def test_the_picture_of_a_what_if_says_so_first(models):
    """Such a picture is copied out of its context, and must not pass for a decision."""
    clf, X = models["three classes"]
    told = intervene(clf, X[:2], {"veil": "present"})
    for explanation, begins in ((told.after, True), (told.before, False)):
        words = [text.get_text() for text in explanation.plot(rows=0).texts]
        headline = next(word for word in words if "probability 0." in word)
        assert headline.startswith("What if: ") == begins
        assert any(word.startswith("what if: veil") for word in words) == begins
