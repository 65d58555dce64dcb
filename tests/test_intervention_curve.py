import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from skmoecbm import (
    ConceptBottleneckClassifier,
    GatedConceptBottleneckClassifier,
    InputError,
    intervene,
    intervention_curve,
)

CONCEPTS = {"clip": ["veil", "round", "red"], "bio": ["veil", "dots"]}
COLUMNS = [f"{name}__{concept}" for name, own in CONCEPTS.items() for concept in own]
TRUE = ["veil", "round", "red", "dots"]


@pytest.fixture(scope="module")
def seen():
    """Labels that follow from four concepts, which two experts see dimly."""
    rng = np.random.default_rng(0)
    truth = pd.DataFrame(rng.integers(0, 2, (600, 4)), columns=TRUE)
    y = np.array(["nv", "mel", "bcc"])[
        np.minimum(truth["veil"] + truth["round"], 1 + truth["red"].to_numpy())
    ]
    X = pd.DataFrame({c: truth[c.split("__")[1]] + rng.normal(0, 0.5, 600) for c in COLUMNS})
    clf = GatedConceptBottleneckClassifier().fit(X[:300], y[:300])
    return clf, X[300:].reset_index(drop=True), y[300:], truth[300:].reset_index(drop=True)


def test_the_curve_is_intervening_row_by_row(seen):
    clf, X, y, truth = seen
    truth = truth[:25].astype(float)
    truth.loc[3:6, "red"], truth.loc[4, :] = np.nan, np.nan
    curve = intervention_curve(clf, X[:25], y[:25], truth, policies="contribution")
    said = curve.predicted["contribution"][0]
    assert said.shape == (5, 25)
    words = {0: "absent", 1: "present"}
    for i in range(25):
        row = X[i : i + 1]
        parts = intervene(clf, row, {}).before.contributions
        size = {
            concept: np.ptp(
                sum(
                    parts[e][0, own.index(concept)]
                    for e, own in enumerate(CONCEPTS.values())
                    if concept in own
                )
            )
            for concept in TRUE
            if not np.isnan(truth.loc[i, concept])
        }
        order = sorted(size, key=lambda concept: -size[concept])
        for t in range(5):
            changes = {c: words[truth.loc[i, c]] for c in order[:t]}
            assert said[t, i] == intervene(clf, row, changes).predicted[0]


def test_the_most_uncertain_is_nearest_to_the_median(seen):
    clf, X, y, truth = seen
    middle = X[:1].copy()
    middle[:] = [[9.0, -9.0, np.quantile(clf.concept_quantiles_[0][2], 0.5), 9.0, -9.0]]
    curve = intervention_curve(clf, middle, y[:1], truth[:1], policies=["uncertain"])
    word = {0: "absent", 1: "present"}[truth.loc[0, "red"]]
    assert curve.predicted["uncertain"][0, 1] == intervene(clf, middle, {"red": word}).predicted


def test_scores_are_scikit_learns_and_random_orders_meet_at_the_end(seen):
    clf, X, y, truth = seen
    curve = intervention_curve(clf, X, y, truth, random_state=0, n_repeats=3, gate="follow")
    for policy, runs in curve.predicted.items():
        for r, run in enumerate(runs):
            for t, said in enumerate(run):
                assert curve.accuracy[policy][r, t] == pytest.approx(accuracy_score(y, said))
                expected = balanced_accuracy_score(y, said)
                assert curve.balanced_accuracy[policy][r, t] == pytest.approx(expected)
    assert np.array_equal(curve.predicted["random"][0, 0], clf.predict(X))
    ends = np.concatenate([runs[:, -1] for runs in curve.predicted.values()])
    assert (ends == ends[0]).all()  # all orders end with all concepts set
    assert not (curve.predicted["random"][0, 1] == curve.predicted["random"][1, 1]).all()
    again = intervention_curve(clf, X, y, truth, random_state=0, n_repeats=3, gate="follow")
    assert again.to_frame().equals(curve.to_frame())


def test_truth_helps_and_shuffled_truth_does_not(seen):
    clf, X, y, truth = seen
    start, *_, end = intervention_curve(clf, X, y, truth).balanced_accuracy["contribution"][0]
    assert end > start + 0.1
    shuffled = truth.sample(frac=1, random_state=0).reset_index(drop=True)
    wrong = intervention_curve(clf, X, y, shuffled).balanced_accuracy["contribution"][0]
    assert wrong[0] == start and wrong[-1] < start - 0.1


def test_several_labels_are_scored_as_means_over_labels(seen):
    _, X, _, truth = seen
    y = truth[["veil", "dots"]].to_numpy()
    clf = GatedConceptBottleneckClassifier().fit(X[:150], y[:150])
    curve = intervention_curve(clf, X[150:], y[150:], truth[150:], policies="contribution")
    said = curve.predicted["contribution"][0]
    assert said.shape == (5, 150, 2)
    expected = [balanced_accuracy_score(y[150:, k], said[2][:, k]) for k in range(2)]
    assert curve.balanced_accuracy["contribution"][0, 2] == pytest.approx(np.mean(expected))


def test_labels_of_a_table_go_by_their_names(seen):
    _, X, _, truth = seen
    y = truth[["veil", "dots"]]
    clf = GatedConceptBottleneckClassifier().fit(X[:150], y[:150])
    given = dict(annotations=truth[150:], policies="contribution", n_concepts=1)
    start = intervention_curve(clf, X[150:], y[["dots", "veil"]][150:], **given)
    expected = (clf.predict(X[150:]) == y[150:][clf.classes_.tolist()].to_numpy()).mean()
    assert start.accuracy["contribution"][0, 0] == pytest.approx(expected)
    sparse = scipy.sparse.csr_array(y[150:][clf.classes_.tolist()].to_numpy())
    again = intervention_curve(clf, X[150:], sparse, **given)
    assert np.array_equal(again.accuracy["contribution"], start.accuracy["contribution"])
    explanation = clf.explain(X[150:])
    by_name, by_place = (
        explanation.summary(labels, n_bootstrap=0, n_permutations=0).supports
        for labels in (y[["dots", "veil"]][150:], sparse)
    )
    assert by_name == by_place == y[150:].sum().to_dict()


def test_the_picture_shows_the_numbers(seen):
    clf, X, y, truth = seen
    curve = intervention_curve(clf, X, y, truth, n_concepts=2, random_state=0)
    assert curve.plot() is curve
    lines = {line.get_label(): line.get_ydata() for line in curve.ax_.get_lines()}
    table = curve.to_frame()
    for policy, drawn in lines.items():
        assert np.allclose(drawn, table[table["policy"] == policy]["balanced_accuracy"])
    assert len(lines) == 3 and len(drawn) == 3
    assert "random: balanced accuracy" in repr(curve)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"annotations": {"vail": np.zeros(300)}}, "no concept 'vail'"),
        ({"annotations": {"veil": np.full(300, 2)}}, "veil"),
        ({"annotations": {"veil": np.full(300, np.nan)}}, "No cell of annotations"),
        ({"policies": ["best"]}, "'policies' parameter"),
        ({"policies": []}, "'policies' parameter"),
        ({"policies": 3}, "'policies' parameter"),
        ({"experts": 3}, "'experts' parameter"),
        ({"n_concepts": 0}, "'n_concepts' parameter"),
        ({"values": "present"}, "'values' parameter"),
        ({"y": ["nv"]}, "y has 1 labels for 300 images"),
    ],
)
def test_what_cannot_be_done_is_said(seen, settings, told):
    clf, X, y, truth = seen
    settings = {"annotations": truth, "y": y} | settings
    with pytest.raises(InputError, match=told):
        intervention_curve(clf, X, **settings)


def test_one_expert_alone_has_a_curve(seen):
    _, X, y, truth = seen
    clip = X[COLUMNS[:3]].to_numpy()
    clf = ConceptBottleneckClassifier().fit(clip[:150], y[:150])
    truth = truth[["veil"]].rename(columns={"veil": "x0"})[150:]
    curve = intervention_curve(clf, clip[150:], y[150:], truth, policies="uncertain")
    assert np.array_equal(curve.predicted["uncertain"][0, 0], clf.predict(clip[150:]))
