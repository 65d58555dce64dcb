import json

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import expit, softmax

from skmoecbm import ConceptBottleneckClassifier, GatedConceptBottleneckClassifier, explain
from skmoecbm.exceptions import SkmoecbmWarning

EXPERTS = [("left", slice(0, 3)), ("right", slice(3, 7))]


def _fitted(n_classes=3, labels=False, scale=1.0, **settings):
    rng = np.random.default_rng(1)
    y = rng.integers(n_classes, size=120)
    X = rng.normal(size=(120, 7)) + rng.normal(size=(n_classes, 7))[y]
    if labels:
        y = (X[:, :n_classes] + rng.normal(size=(120, n_classes)) > 0.5).astype(int)
    head = ConceptBottleneckClassifier(alpha=1.0)
    settings = {"pool": "prob", "guard": False, "random_state": 0, **settings}
    model = GatedConceptBottleneckClassifier(head, experts=EXPERTS, **settings).fit(X, y)
    rows = scale * X[:12]
    rows[0, :3] = np.nan
    rows[1, 3:] = np.nan
    return model, rows


def _sums(explanation):
    return sum(part.sum(axis=1) for part in explanation.contributions) + explanation.bias


@pytest.mark.parametrize("calibrate", [True, False])
@pytest.mark.parametrize(
    "settings",
    [
        {"n_classes": 2},
        {"n_classes": 3},
        {"n_classes": 3, "labels": True},
        {"n_classes": 5, "target_prevalence": {0: 0.6}},
        {"n_classes": 3, "labels": True, "target_prevalence": {0: 0.6}},
        {"n_classes": 3, "scale": 40.0},  # logits in the hundreds
    ],
)
def test_contributions_sum_to_the_probability(settings, calibrate):
    model, X = _fitted(calibrate=calibrate, **settings)
    explanation = explain(model, X)
    assert explanation.unit == "probability"
    proba = model.predict_proba(X)
    np.testing.assert_allclose(_sums(explanation), proba, atol=1e-10)
    # the bias is the image with training-mean similarities under the same weights, not a remainder
    assert ((explanation.bias > 0) & (explanation.bias < 1)).all()
    for k, class_ in enumerate(explanation.classes):
        one = explanation.for_class(class_)
        np.testing.assert_allclose(_sums(one)[:, 0], proba[:, k], atol=1e-10)
    assert not explanation.contributions["left"][0].any()
    assert not explanation.contributions["right"][1].any()
    decision = model.decision_function(X).reshape(12, -1)
    np.testing.assert_allclose(explanation.logits[:, -1], decision[:, -1])


@pytest.mark.parametrize("settings", [{"n_classes": 4}, {"n_classes": 3, "labels": True}])
def test_each_contribution_is_an_integral_along_the_line(settings):
    """By scipy's quadrature and differences of the probability itself."""
    model, X = _fitted(**settings)
    explanation = explain(model, X[2:4])
    gate = model.gate_weights(X[2:4])
    scale = model.pool_scale_[1]
    heads, n_classes = model.heads_, len(model.classes_)

    def probability(i, z):
        mixed = np.zeros(n_classes)
        for e, head in enumerate(heads):
            own = model.expert_scale_[e] * (z[e] @ head.association_.T + head.intercept_)
            mixed += gate[i, e] * (expit(own) if model.multilabel_ else softmax(own))
        if model.multilabel_:
            return expit(scale * (np.log(mixed) - np.log1p(-mixed)))
        return softmax(scale * np.log(mixed))

    for i in range(2):
        z = [explanation.values[e][i] for e in range(2)]
        np.testing.assert_allclose(
            explanation.bias[i], probability(i, [0 * part for part in z]), atol=1e-12
        )
        for e, j, k in [(0, 1, 0), (1, 3, 2)]:

            def slope(t, i=i, z=z, e=e, j=j, k=k):
                step = 1e-5
                up = [t * part for part in z]
                down = [t * part for part in z]
                up[e][j] += step
                down[e][j] -= step
                return (probability(i, up)[k] - probability(i, down)[k]) / (2 * step)

            expected = z[e][j] * quad(slope, 0, 1, epsabs=1e-9)[0]
            assert explanation.contributions[e][i, j, k] == pytest.approx(expected, abs=1e-8)


def test_contributions_of_the_classes_cancel_and_rows_do_not_meet():
    model, X = _fitted(4)
    explanation = explain(model, X)
    for part in explanation.contributions:
        np.testing.assert_allclose(part.sum(axis=2), 0.0, atol=1e-12)
    alone = explain(model, X[5:6])
    for e in range(2):
        np.testing.assert_allclose(
            alone.contributions[e][0], explanation.contributions[e][5], atol=1e-12
        )


def test_order_of_experts_does_not_matter():
    rng = np.random.default_rng(3)
    y = rng.integers(3, size=100)
    X = rng.normal(size=(100, 7)) + rng.normal(size=(3, 7))[y]
    found = []
    for experts in (EXPERTS, EXPERTS[::-1]):
        model = GatedConceptBottleneckClassifier(
            ConceptBottleneckClassifier(alpha=1.0), "uniform", experts=experts, pool="prob"
        )
        found.append(model.fit(X, y).explain(X[:6]))
    for name in ("left", "right"):
        np.testing.assert_allclose(
            found[0].contributions[name], found[1].contributions[name], atol=1e-8
        )


def test_every_output_says_that_the_unit_is_probability():
    model, X = _fitted()
    explanation = explain(model, X)
    assert "the parts are probabilities, not logits" in repr(explanation)
    assert "<th>probability</th>" in explanation._repr_html_()
    assert (explanation.to_frame().unit == "probability").all()
    assert (explanation.top(3).unit == "probability").all()
    assert (explanation.separating(2).unit == "probability").all()
    data = json.loads(json.dumps(explanation.to_dict(3), allow_nan=False))
    assert data["unit"] == "probability"
    for row in data["rows"]:
        assert row["sum"] == pytest.approx(row["probability"])
        assert row["unit"] == "probability"
    figure = explanation.plot(2)
    texts = [text.get_text() for text in figure.texts]
    assert "sum = probability" in texts
    assert any("not logits" in text for text in texts)
    assert not any("logit" in text and "not logits" not in text for text in texts)
    frame = explanation.to_frame()
    top = explanation.probabilities.max(axis=1)
    np.testing.assert_allclose(frame.groupby("row").contribution.sum(), top, atol=1e-10)


def test_difference_of_two_probabilities_is_explained():
    model, X = _fitted(3)
    explanation = explain(model, X)
    between = explanation.versus(0, 2)
    proba = model.predict_proba(X)
    np.testing.assert_allclose(_sums(between)[:, 0], proba[:, 0] - proba[:, 2], atol=1e-10)
    assert "difference of probabilities" in repr(between)


def test_row_without_any_expert_has_the_class_frequencies():
    model, _ = _fitted()
    with pytest.warns(SkmoecbmWarning, match="no expert"):
        explanation = explain(model, np.full((1, 7), np.nan))
    np.testing.assert_allclose(_sums(explanation)[0], explanation.probabilities[0], atol=1e-12)
    assert not any(part.any() for part in explanation.contributions)
