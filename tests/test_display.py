import copy
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skmoecbm import (
    AssociationDisplay,
    ConceptBottleneckClassifier,
    ConceptContributionDisplay,
    ExpertUsageDisplay,
    GatedConceptBottleneckClassifier,
    GateDisplay,
    ReliabilityDisplay,
    evaluate,
    explain,
)
from skmoecbm.exceptions import InputError

CLASSES = np.array(["akiec", "bcc", "mel"])


def _model(m=10, n=150, n_experts=2, seed=0, n_classes=3, **settings):
    rng = np.random.default_rng(seed)
    codes = rng.integers(n_classes, size=n)
    m_all = m * n_experts
    X = rng.normal(size=(n, m_all)) + 0.5 * rng.normal(size=(n_classes, m_all))[codes]
    words = ["blue-white veil", "a border that fades very gradually into the skin around", "$x$"]
    names = [f"expert {e}__{words[j % 3]} {j}" for e in range(n_experts) for j in range(m)]
    frame = pd.DataFrame(X, columns=names)
    settings = {"guard": False, "random_state": 0, "specialize": False, **settings}
    head = ConceptBottleneckClassifier(alpha=1.0)
    model = GatedConceptBottleneckClassifier(head, **settings).fit(frame, CLASSES[codes])
    return model, frame, CLASSES[codes]


@pytest.fixture(scope="module")
def small():
    model, X, y = _model()
    return model, X, y, explain(model, X)


@pytest.fixture(scope="module")
def large():
    model, X, y = _model(350, 90, gate="uniform")
    return model, X, y, explain(model, X)


def _inside(figure):
    """All words are on the page, and no two labels of an axis lie on each other."""
    figure.draw_without_rendering()
    page = figure.bbox
    for ax in figure.axes:
        labels = [t for t in [*ax.get_yticklabels(), *ax.texts] if t.get_text()]
        boxes = [t.get_window_extent() for t in labels]
        for box in boxes:
            assert box.x0 >= 5 and box.y0 >= -1 and box.x1 <= page.x1 + 1 and box.y1 <= page.y1 + 1
        heights = sorted((b for b in boxes[: len(ax.get_yticklabels())]), key=lambda b: b.y0)
        assert all(low.y1 <= high.y0 + 1 for low, high in pairwise(heights))


def _widths(bars):
    return [patch.get_width() for patch in bars.patches]


def test_bars_of_one_row_are_its_contributions_and_sum_to_the_logit(small):
    _, _, _, explanation = small
    display = ConceptContributionDisplay.from_explanation(explanation, row=3, k=6)
    top = explanation.top(6, row=3)
    for name in explanation.expert_names:
        np.testing.assert_allclose(
            _widths(display.bars_[name]), top.contribution[top.expert == name]
        )
    shown = sum(sum(_widths(bars)) for name, bars in display.bars_.items() if name != "sum")
    total = explanation.logits[3].max()
    assert shown == pytest.approx(total) == pytest.approx(_widths(display.bars_["sum"])[0])
    labels = [text.get_text() for text in display.ax_.get_yticklabels()]
    assert labels[0].replace(r"\$", "$") == top.concept[0] or "…" in labels[0]
    assert labels[-3:] == ["14 others", "bias", "sum = logit"]
    assert f"probability {explanation.probabilities[3].max():.2f}" in display.ax_.get_title("left")
    assert display.ax_.get_title("left").startswith("row 3\n")
    assert "logits (log-odds)" in display.ax_.get_xlabel()
    written = [text.get_text() for text in display.ax_.texts]
    assert written[0] == f"{top.contribution[0]:+.2f}".replace("-", "\N{MINUS SIGN}")
    _inside(display.figure_)


def test_one_decision_is_titled_by_its_image_and_the_name_of_its_class(small):
    explanation = copy.copy(small[3][:2])
    explanation.images = [f"/far/away/{'a' * 90}.png", "b$1.png"]
    explanation.class_names = {label: f"name of {label}" for label in explanation.classes}
    for row in range(2):
        display = ConceptContributionDisplay.from_explanation(explanation, row=row, k=3)
        image, said = display.ax_.get_title("left").split("\n")
        label = explanation.predicted[row]
        assert said.startswith(f"name of {label} ({label}), probability ")
        assert image.endswith(("a.png", r"b\$1.png")[row]) and "far" not in image
        display.figure_.draw_without_rendering()
        box = display.ax_._left_title.get_window_extent()
        assert box.x1 <= display.figure_.bbox.x1
        pyplot.close(display.figure_)


def test_mean_bars_of_all_rows_and_of_one_class(small):
    model, X, _, explanation = small
    display = ConceptContributionDisplay.from_estimator(model, X, class_="mel", k=4)
    top = explanation.top(4, class_="mel")
    np.testing.assert_allclose(display.contributions, top.contribution)
    assert display.total == pytest.approx(explanation.logits[:, 2].mean())
    assert "mel, mean of 150 rows" in display.ax_.get_title("left")


def test_each_expert_has_one_colour_in_every_picture(small):
    _, _, _, explanation = small
    colours = {name: set() for name in explanation.expert_names}
    for row in range(8):
        display = ConceptContributionDisplay.from_explanation(explanation, row=row, k=3)
        for name in set(display.bars_) & set(colours):
            colours[name].add(display.bars_[name].patches[0].get_facecolor())
        pyplot.close(display.figure_)
    assert [len(found) for found in colours.values()] == [1, 1]
    assert len(set.union(*colours.values())) == 2


def test_bars_of_a_global_explanation_have_its_intervals(small):
    _, _, y, explanation = small
    found = explanation.summary(y, n_bootstrap=40, n_permutations=0, random_state=0)
    display = ConceptContributionDisplay.from_explanation(found, class_="bcc", k=5)
    top = found.top(5, "bcc")
    segments = display.errors_[2][0].get_segments()
    np.testing.assert_allclose([s[0, 0] for s in segments], top.low)
    np.testing.assert_allclose([s[1, 0] for s in segments], top.high)
    with pytest.raises(InputError, match="give class_, one of 'akiec'"):
        ConceptContributionDisplay.from_explanation(found)


def test_bars_say_that_they_are_probabilities():
    model, X, _ = _model(pool="prob")
    display = ConceptContributionDisplay.from_estimator(model, X[:1])
    assert "parts of the probability" in display.ax_.get_xlabel()
    assert "sum = probability" in [t.get_text() for t in display.ax_.get_yticklabels()]
    total = model.predict_proba(X[:1]).max()
    assert _widths(display.bars_["sum"])[0] == pytest.approx(total)


def test_at_350_concepts_bars_stay_visible_beside_their_sums(large):
    _, _, _, explanation = large
    display = ConceptContributionDisplay.from_explanation(explanation, row=0)
    low, high = display.ax_.get_xlim()
    assert np.abs(display.contributions).max() > 0.15 * (high - low)
    assert display.n_rest == 700 - 12
    assert any("→" in t.get_text() or "←" in t.get_text() for t in display.ax_.texts)
    _inside(display.figure_)


@pytest.mark.parametrize("size", ["small", "large"])
def test_association_shows_the_strongest_and_says_what_it_leaves_out(size, request):
    model = request.getfixturevalue(size)[0]
    display = AssociationDisplay.from_estimator(model, k=15)
    table = np.concatenate(
        [s * h.association_.T for s, h in zip(model.expert_scale_, model.heads_, strict=True)]
    )
    strength = np.sort(np.abs(table).max(axis=1))[::-1]
    drawn = display.image_.get_array()
    np.testing.assert_allclose(np.sort(np.abs(drawn).max(axis=1))[::-1], strength[:15])
    assert display.left_out == pytest.approx(strength[15])
    assert f"15 of {len(table)} concepts" in display.ax_.get_title("right")
    assert f"±{strength[15]:.2f}" in display.ax_.get_title("right")
    assert len(display.texts_) == 45
    assert float(display.texts_[0].get_text().replace("\N{MINUS SIGN}", "-")) == pytest.approx(
        drawn[0, 0], abs=0.006
    )
    concepts = [
        f"{c} ({n})"
        for n, own in zip(model.expert_names_, model.concept_names_, strict=True)
        for c in own
    ]
    j = concepts.index(display.concepts[4])
    np.testing.assert_allclose(drawn[4], table[j])
    assert display.image_.get_clim()[0] == -display.image_.get_clim()[1]
    _inside(display.figure_)


def test_association_of_all_350_concepts_of_one_expert_has_a_line_for_each(large):
    display = AssociationDisplay.from_estimator(large[0], expert="expert 1", k=None)
    assert display.association.shape == (350, 3) and display.left_out == 0
    assert len(display.ax_.get_yticklabels()) == 350
    assert "all 350 concepts" in display.ax_.get_title("right")
    _inside(display.figure_)
    with pytest.raises(InputError, match="no expert 'clip'"):
        AssociationDisplay.from_estimator(large[0], expert="clip")


def test_association_says_in_what_its_concepts_are_counted():
    rng = np.random.default_rng(0)
    X, y = 0.2 + 0.03 * rng.normal(size=(60, 4)), np.arange(60) % 3

    def unit(model):
        display = AssociationDisplay.from_estimator(model.fit(X, y))
        return display.figure_.axes[-1].get_ylabel()

    # 100 softmax(A) is by cosine: by a standard deviation of 0.03 it would be 33 times less
    softmax = ConceptBottleneckClassifier(activation="softmax", alpha=1.0)
    linear = ConceptBottleneckClassifier(alpha=1.0)
    assert unit(linear) == "logits per standard deviation"
    assert unit(softmax) == "logits per unit of similarity, which is not standardised"
    experts = [("a", linear, slice(0, 2)), ("b", LogisticRegression(), slice(2, 4))]
    both = GatedConceptBottleneckClassifier(experts=experts, gate="uniform")
    assert unit(both).endswith("unit of value where nothing is standardised")


def test_association_of_two_classes_and_of_a_pipeline():
    X = np.random.default_rng(0).normal(size=(60, 4))
    single = ConceptBottleneckClassifier(alpha=1.0)
    model = make_pipeline(FunctionTransformer(), single).fit(X, X[:, 0] > 0)
    display = AssociationDisplay.from_estimator(model)
    assert display.columns == [True] and display.association.shape == (4, 1)
    assert sorted(display.concepts) == ["x0", "x1", "x2", "x3"]


def test_gate_draws_the_quantiles_of_each_class(small):
    _, _, y, explanation = small
    display = GateDisplay.from_explanation(explanation, y)
    weights = explanation.expert_weights[:, 0]
    for i, label in enumerate(CLASSES):
        own = np.quantile(weights[y == label], [0.05, 0.25, 0.5, 0.75, 0.95])
        box, line = display.boxes_[0].patches[i], display.ranges_[0].get_segments()[i]
        np.testing.assert_allclose([box.get_x(), box.get_x() + box.get_width()], own[[1, 3]])
        np.testing.assert_allclose(line[:, 0], own[[0, 4]])
        assert display.medians_[0].get_offsets()[i, 0] == pytest.approx(own[2])
    labels = [text.get_text() for text in display.ax_.get_yticklabels()]
    assert labels == [f"{c}  (n = {(y == c).sum()})" for c in CLASSES]
    assert "expert 1 has the rest" in display.ax_.get_xlabel()
    _inside(display.figure_)
    together = GateDisplay.from_explanation(explanation, per_class=False)
    np.testing.assert_allclose(together.quantiles_[0, 0, 2], np.median(weights))
    with pytest.raises(InputError, match="one label per row, 150"):
        GateDisplay.from_explanation(explanation, y[:-1])


def test_gate_of_three_experts_leaves_out_rows_that_lack_one():
    model, X, y = _model(3, n_experts=3)
    X = X.copy()
    X.iloc[:20, :3] = np.nan
    display = GateDisplay.from_estimator(model, X, y)
    assert display.quantiles_.shape == (3, 3, 5) and sum(display.supports_) == 130
    assert "20 of 150 rows lack an expert" in display.ax_.get_title("right")
    own = explain(model, X).expert_weights[20:][y[20:] == "mel", 2]
    assert display.quantiles_[2, 2, 2] == pytest.approx(np.median(own))
    X.iloc[20:, 3:6] = np.nan
    with pytest.raises(InputError, match="No row has all experts"):
        GateDisplay.from_estimator(model, X)


def test_gate_of_a_view_without_an_expert_draws_the_others():
    model, X, y = _model(3, n_experts=3)
    view = model.without("expert 0")
    display = GateDisplay.from_estimator(view, X, y)
    assert display.quantiles_.shape == (3, 1, 5) and sum(display.supports_) == len(X)
    share = view.expert_weights(X)[y == "bcc", 1]
    assert display.quantiles_[1, 0, 2] == pytest.approx(np.median(share))
    assert display.ax_.get_xlabel().startswith("share of expert 1 in the decision; expert 2 has")


def test_usage_is_the_table_of_mean_weights_with_stars(small):
    model, X, y, explanation = small
    display = ExpertUsageDisplay.from_explanation(explanation, y, n_permutations=99, random_state=0)
    found = explanation.summary(y, n_bootstrap=0, n_permutations=99, random_state=0)
    np.testing.assert_allclose(display.image_.get_array(), found.heat_map)
    stars = [text.get_text().endswith("*") for text in display.texts_]
    assert stars == (found.usage.p_adjusted < 0.05).tolist()
    assert display.texts_[0].get_text().startswith(f"{found.heat_map.iloc[0, 0]:.2f}")
    assert f"p = {found.p_overall:.3g}" in display.ax_.get_title("right")
    again = ExpertUsageDisplay.from_estimator(model, X, y, n_permutations=0)
    assert again.p_overall is None and "not compared" in again.ax_.get_title("right")
    forced = ExpertUsageDisplay(
        np.array([[0.5, np.nan], [0.2, 0.8]]),
        ["a", "b"],
        ["e", "f"],
        [3, 4],
        p_adjusted=np.array([[0.5, np.nan], [0.01, 0.04]]),
        p_overall=0.01,
    ).plot()
    assert [t.get_text() for t in forced.texts_] == ["0.50", "none", "0.20*", "0.80*"]
    _inside(forced.figure_)


def test_reliability_equals_scikit_learns_curve_and_the_error_of_evaluate(small):
    model, X, y, _ = small
    proba = model.predict_proba(X)
    display = ReliabilityDisplay.from_estimator(model, X, y, class_="mel", n_bins=7)
    true, predicted = calibration_curve(y == "mel", proba[:, 2], n_bins=7)
    np.testing.assert_allclose(display.observed, true)
    np.testing.assert_allclose(display.predicted, predicted)
    line = display.errors_[0]
    np.testing.assert_allclose(line.get_xdata(), predicted)
    np.testing.assert_allclose(line.get_ydata(), true)
    heights = [patch.get_height() for patch in display.counts_.patches]
    np.testing.assert_allclose(heights, 0.2 * display.counts / display.counts.max())
    top = ReliabilityDisplay.from_estimator(model, X, y)
    expected = evaluate(model, X, y, n_bootstrap=0)["ece"].value
    assert top.ece == pytest.approx(expected)
    assert f"calibration error {expected:.3f}, 150 rows" in top.ax_.get_legend().texts[0].get_text()
    assert top.counts.sum() == 150
    # points at 0 and 1 are not cut by the frame
    (left, right), (low, high) = top.ax_.get_xlim(), top.ax_.get_ylim()
    assert max(left, low) < 0 and min(right, high) > 1


def test_reliability_bins_of_equal_size_and_wilsons_interval():
    rng = np.random.default_rng(0)
    p = rng.random(200)
    y = (rng.random(200) < p).astype(int)
    display = ReliabilityDisplay.from_predictions(y, p, n_bins=4, strategy="quantile")
    assert display.counts.tolist() == [50] * 4
    true, predicted = calibration_curve(y, p, n_bins=4, strategy="quantile")
    np.testing.assert_allclose(display.observed, true)
    np.testing.assert_allclose(display.predicted, predicted)
    # Wilson: the ends are where the observed frequency is 1.96 standard errors away
    for f, low, high in zip(display.observed, display.low, display.high, strict=True):
        for end in (low, high):
            assert abs(f - end) == pytest.approx(1.959964 * np.sqrt(end * (1 - end) / 50), rel=1e-5)
    one = ReliabilityDisplay.from_predictions(y, np.full(200, 0.5), strategy="quantile")
    assert one.counts.tolist() == [200] and one.observed[0] == pytest.approx(y.mean())
    same = ReliabilityDisplay.from_predictions(y, np.c_[1 - p, p], class_=1, n_bins=4)
    other = ReliabilityDisplay.from_predictions(y, p, n_bins=4)
    np.testing.assert_allclose(same.observed, other.observed)


def test_several_reliability_curves_share_axes(small):
    model, X, y, explanation = small
    first = ReliabilityDisplay.from_explanation(explanation, y, name="mixture")
    second = ReliabilityDisplay.from_predictions(
        y,
        model.without("expert 0").predict_proba(X),
        classes=model.classes_,
        name="one",
        ax=first.ax_,
    )
    assert second.ax_ is first.ax_
    words = [text.get_text() for text in first.ax_.get_legend().texts]
    assert [w.split(":")[0] for w in words] == ["mixture", "one"]
    assert first.errors_[0].get_color() != second.errors_[0].get_color()


def test_reliability_of_labels_takes_one_or_all_cells():
    rng = np.random.default_rng(0)
    p = rng.random((60, 2))
    y = (rng.random((60, 2)) < p).astype(int)
    every = ReliabilityDisplay.from_predictions(y, p)
    one = ReliabilityDisplay.from_predictions(y, p, classes=["a", "b"], class_="b")
    assert every.counts.sum() == 120 and one.counts.sum() == 60
    assert "each label" in every.ax_.get_xlabel() and "of b" in one.ax_.get_xlabel()


def test_what_does_not_fit_is_refused(small):
    _, _, y, explanation = small
    proba = explanation.probabilities
    with pytest.raises(InputError, match="y must be 0 or 1"):
        ReliabilityDisplay.from_predictions(y, proba[:, 0])
    with pytest.raises(InputError, match=r"proba must have shape \(n, K\)"):
        ReliabilityDisplay.from_predictions(y[:9], proba, classes=CLASSES)
    with pytest.raises(InputError, match="no class 'z'"):
        ReliabilityDisplay.from_predictions(y, proba, classes=CLASSES, class_="z")
    with pytest.raises(InputError, match="at least one row"):
        ReliabilityDisplay.from_predictions([], [])
    with pytest.raises(InputError, match="'strategy' parameter"):
        ReliabilityDisplay.from_predictions(y, proba, classes=CLASSES, strategy="even")
    with pytest.raises(InputError, match="proba must be finite"):
        ReliabilityDisplay.from_predictions(y, proba * np.nan, classes=CLASSES)
    with pytest.raises(InputError, match="'k' parameter"):
        AssociationDisplay.from_estimator(small[0], k=0)


def test_displays_draw_into_given_axes(small):
    model, X, y, explanation = small
    figure, axes = pyplot.subplots(1, 5)
    drawn = [
        ConceptContributionDisplay.from_explanation(explanation, row=0, ax=axes[0]),
        GateDisplay.from_explanation(explanation, ax=axes[1]),
        ExpertUsageDisplay.from_explanation(explanation, n_permutations=0, ax=axes[2]),
        AssociationDisplay.from_estimator(model, ax=axes[3]),
        ReliabilityDisplay.from_estimator(model, X, y, ax=axes[4]),
    ]
    for display, ax in zip(drawn, axes, strict=True):
        assert display.ax_ is ax and display.figure_ is figure
        assert display.plot() is display and display.ax_ is not ax  # drawn again elsewhere
