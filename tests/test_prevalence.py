"""Probabilities at other class frequencies: Bayes written out, and what it must leave alone."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skmoecbm import (
    ConceptBottleneckClassifier,
    FormatError,
    GatedConceptBottleneckClassifier,
    InputError,
    explain,
    load,
    save,
)

EXPERTS = [("a", slice(0, 2)), ("b", slice(2, 4))]
CENTRES = np.array([[0.0, 0, 0, 0], [1.5, 0, 1, 0], [0, 1.5, 0, 1]])


def draw(n, frequencies, seed=0):
    """Return X (n, 4) of three round clouds, labels, and P(x | class) of each row."""
    rng = np.random.default_rng(seed)
    y = rng.choice(3, n, p=frequencies)
    X = CENTRES[y] + rng.normal(size=(n, 4))
    density = np.stack([multivariate_normal(centre).pdf(X) for centre in CENTRES], axis=1)
    return X, np.array(["common", "rare", "seldom"])[y], density


def mixture(**settings):
    head = ConceptBottleneckClassifier(alpha=1.0)
    return GatedConceptBottleneckClassifier(head, experts=EXPERTS, **settings)


def labels_of(X, seed=0):
    rng = np.random.default_rng(seed)
    scores = X @ rng.normal(size=(4, 3)) + rng.logistic(size=(len(X), 3))
    cuts = [np.quantile(column, q) for column, q in zip(scores.T, [0.9, 0.8, 0.5], strict=True)]
    return (scores > cuts).astype(int)


def test_balanced_training_put_back_is_the_bayes_posterior_of_a_planted_problem():
    frequencies = np.array([0.85, 0.1, 0.05])
    X, y, _ = draw(8000, frequencies)
    clf = ConceptBottleneckClassifier(alpha=1.0, class_weight="balanced").fit(X, y)
    new, _, density = draw(3000, [1 / 3] * 3, seed=1)

    def bayes(prior):
        joint = density * prior
        return joint / joint.sum(axis=1, keepdims=True)

    def gap(p, prior):
        return np.abs(p - bayes(prior)).mean()

    # As it comes it is the posterior of equal frequencies, and far from that of the training rows.
    assert gap(clf.predict_proba(new), [1 / 3] * 3) < 0.02
    assert gap(clf.predict_proba(new), frequencies) > 0.1
    assert gap(clf.predict_proba(new, target_prevalence="train"), frequencies) < 0.02
    elsewhere = np.array([0.3, 0.1, 0.6])
    target = dict(zip(clf.classes_.tolist(), elsewhere.tolist(), strict=True))
    assert gap(clf.predict_proba(new, target_prevalence=target), elsewhere) < 0.02
    # The wrong way round is further off than doing nothing.
    reversed_ = clf.predict_proba(new) * [1 / 3] * 3 / frequencies
    assert gap(reversed_ / reversed_.sum(1, keepdims=True), frequencies) > 0.2


@pytest.mark.parametrize("pool", ["logit", "prob", "sum"])
@pytest.mark.parametrize("class_weight", ["balanced", {"rare": 5.0}])
def test_probabilities_are_multiplied_by_the_ratio_of_frequencies(pool, class_weight):
    X, y, _ = draw(300, [0.7, 0.2, 0.1])
    weights = np.random.default_rng(0).uniform(0.5, 2, 300)
    clf = mixture(pool=pool, class_weight=class_weight).fit(X, y, sample_weight=weights)
    train = np.array([weights[y == label].sum() for label in clf.classes_]) / weights.sum()
    factor = 1 / train if class_weight == "balanced" else np.array([1.0, 5.0, 1.0])
    trained = train * factor / (train * factor).sum()
    for target, wanted in (
        ("train", train),
        ({"common": 0.2, "rare": 0.5, "seldom": 0.3}, [0.2, 0.5, 0.3]),
        (
            {"rare": 0.4},
            np.array([0.6 * train[0], 0.4 * (train[0] + train[2]), 0.6 * train[2]])
            / (train[0] + train[2]),
        ),
    ):
        expected = clf.predict_proba(X) * np.array(wanted) / trained
        expected /= expected.sum(axis=1, keepdims=True)
        found = clf.predict_proba(X, target_prevalence=target)
        np.testing.assert_allclose(found, expected, atol=1e-12)
        clf.set_params(target_prevalence=target)
        np.testing.assert_array_equal(clf.predict_proba(X), found)
        np.testing.assert_array_equal(clf.predict(X), clf.classes_[expected.argmax(axis=1)])
        clf.set_params(target_prevalence=None)


def test_labels_of_one_row_are_shifted_each_by_its_own_odds():
    X, _, _ = draw(400, [0.6, 0.2, 0.2])
    Y = pd.DataFrame(labels_of(X), columns=["mass", "nodule", "edema"])
    clf = mixture(class_weight={"mass": 4.0}).fit(X, Y)
    p, rate = clf.predict_proba(X), Y.to_numpy().mean(0)
    trained = 4 * rate[0] / (4 * rate[0] + 1 - rate[0])

    def moved(p, before, after):
        odds = p / (1 - p) * (after / (1 - after)) / (before / (1 - before))
        return odds / (1 + odds)

    back = clf.predict_proba(X, target_prevalence="train")
    np.testing.assert_allclose(back[:, 0], moved(p[:, 0], trained, rate[0]), atol=1e-12)
    np.testing.assert_allclose(back[:, 1:], p[:, 1:], atol=1e-12)
    some = clf.predict_proba(X, target_prevalence={"nodule": 0.7})
    np.testing.assert_allclose(some[:, 0], back[:, 0], atol=1e-12)
    np.testing.assert_allclose(some[:, 1], moved(p[:, 1], rate[1], 0.7), atol=1e-12)


def test_without_class_weights_train_changes_nothing():
    X, y, _ = draw(200, [0.6, 0.2, 0.2])
    for labels in (y, y == "rare", labels_of(X)):
        clf = mixture().fit(X, labels)
        back = clf.predict_proba(X, target_prevalence="train")
        np.testing.assert_allclose(back, clf.predict_proba(X), atol=1e-14)


@pytest.mark.parametrize("kind", ["several", "two", "labels"])
def test_explanations_carry_the_shift_in_their_bias_and_still_sum(kind):
    X, y, _ = draw(300, [0.7, 0.2, 0.1])
    y = {"several": y, "two": y == "rare", "labels": labels_of(X)}[kind]
    X[3, :2] = np.nan
    clf = mixture(class_weight="balanced", target_prevalence="train", guard=False).fit(X, y)
    decision = clf.decision_function(X[:8]).reshape(8, -1)
    explanation = explain(clf, X[:8])
    for one, sign, wanted in (
        (explanation, 1.0, decision),
        (explanation[2:5], 1.0, decision[2:5]),
        (explanation.for_class(explanation.columns[-1]), 1.0, decision[:, -1:]),
    ):
        total = sum(part.sum(axis=1) for part in one.contributions) + one.bias
        np.testing.assert_allclose(sign * total, wanted, atol=1e-10)
    if kind == "two":
        turned = explanation.for_class(False)
        total = sum(part.sum(axis=1) for part in turned.contributions) + turned.bias
        np.testing.assert_allclose(total, -decision, atol=1e-10)
    plain = clone(clf).set_params(target_prevalence=None).fit(X, y)
    assert np.abs(plain.decision_function(X[:8]).reshape(8, -1) - decision)[:, 0].min() > 0.1
    np.testing.assert_array_equal(
        np.concatenate([part.ravel() for part in explanation.contributions]),
        np.concatenate([part.ravel() for part in explain(plain, X[:8]).contributions]),
    )


def test_a_row_that_no_expert_sees_has_the_target_frequencies():
    X, y, _ = draw(200, [0.6, 0.2, 0.2])
    clf = mixture(class_weight="balanced").fit(X, y)
    with pytest.warns(UserWarning, match="no expert at all"):
        p = clf.predict_proba(np.full((1, 4), np.nan), target_prevalence="train")
    expected = [(y == label).mean() for label in clf.classes_]
    np.testing.assert_allclose(p[0], expected, atol=1e-12)


def test_it_goes_through_a_pipeline_and_survives_saving(tmp_path):
    X, y, _ = draw(300, [0.7, 0.2, 0.1])
    clf = mixture(class_weight="balanced").fit(X, y)
    pipeline = make_pipeline(FunctionTransformer(), clf)
    np.testing.assert_array_equal(
        pipeline.predict_proba(X, target_prevalence="train"),
        clf.predict_proba(X, target_prevalence="train"),
    )
    for number, target in enumerate(("train", {"rare": 0.5}, None)):
        folder = tmp_path / str(number)
        save(clf.set_params(target_prevalence=target), folder)
        again = load(folder)
        np.testing.assert_array_equal(again.predict_proba(X), clf.predict_proba(X))
        np.testing.assert_array_equal(
            again.predict_proba(X, target_prevalence="train"),
            clf.predict_proba(X, target_prevalence="train"),
        )
        np.testing.assert_array_equal(
            again.heads_[0].predict_proba(X[:, :2], target_prevalence="train"),
            clf.heads_[0].predict_proba(X[:, :2], target_prevalence="train"),
        )


def test_a_file_with_an_impossible_target_is_refused(tmp_path):
    X, y, _ = draw(200, [0.6, 0.2, 0.2])
    save(mixture().fit(X, y), tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    config["model"]["parameters"]["target_prevalence"] = {"$pairs": [["nobody", 0.5]]}
    path.write_text(json.dumps(config))
    with pytest.raises(FormatError, match=r"bad parameter.*nobody"):
        load(tmp_path / "model")


def test_a_model_that_never_kept_its_training_frequencies_says_so():
    X, y, _ = draw(200, [0.6, 0.2, 0.2])
    old, weighted = mixture().fit(X, y), mixture(class_weight="balanced").fit(X, y)
    del old.class_prevalence_, weighted.class_prevalence_
    np.testing.assert_allclose(
        old.predict_proba(X, target_prevalence="train"), old.predict_proba(X), atol=1e-14
    )
    with pytest.raises(InputError, match="before training frequencies were kept"):
        weighted.predict_proba(X, target_prevalence="train")
    weighted.predict_proba(X, target_prevalence={"common": 0.5, "rare": 0.2, "seldom": 0.3})


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("test", "must be 'train', a dict"),
        ([0.3, 0.3, 0.4], "must be 'train', a dict"),
        ({}, "must name classes of the model"),
        ({"nobody": 0.5}, r"names \['nobody'\]; there are \['common'"),
        ({"rare": 0.0}, "between 0 and 1 for class 'rare'"),
        ({"rare": "half"}, "between 0 and 1 for class 'rare'"),
        ({"rare": 0.6, "seldom": 0.5}, "leaves nothing for the classes"),
        ({"common": 0.6, "rare": 0.3, "seldom": 0.3}, "must sum to 1. They sum to 1.2"),
    ],
)
def test_a_target_that_cannot_be_is_refused_in_fit_and_in_predict(target, message):
    X, y, _ = draw(100, [0.5, 0.3, 0.2])
    with pytest.raises(InputError, match=message):
        mixture(target_prevalence=target).fit(X, y)
    clf = ConceptBottleneckClassifier(alpha=1.0).fit(X, y)
    with pytest.raises(InputError, match=message):
        clf.predict_proba(X, target_prevalence=target)


def test_an_expert_has_no_target_of_its_own():
    X, y, _ = draw(100, [0.5, 0.3, 0.2])
    head = ConceptBottleneckClassifier(target_prevalence="train")
    with pytest.raises(InputError, match="'head__target_prevalence' parameter"):
        GatedConceptBottleneckClassifier(head, experts=EXPERTS).fit(X, y)
