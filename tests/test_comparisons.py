import json
import pickle
import re

import numpy as np
import pandas as pd
import pytest
from sklearn.pipeline import make_pipeline

from skmoecbm import (
    ConceptBottleneckClassifier,
    ConceptEncoder,
    ExpertUnion,
    GatedConceptBottleneckClassifier,
    edit,
    explain,
)
from skmoecbm._additive import AdditivePart
from skmoecbm._explanation_text import instead
from skmoecbm.datasets import make_lesions
from skmoecbm.exceptions import InputError
from skmoecbm.explanation import Explanation

EXPERTS = [("left", slice(0, 3)), ("mid", slice(3, 5)), ("right", slice(5, 8))]


@pytest.fixture(scope="module", params=[2, 4])
def fitted(request):
    n_classes = request.param
    rng = np.random.default_rng(1)
    y = np.array(list("abcd"))[rng.integers(n_classes, size=150)]
    centres = {label: rng.normal(size=8) for label in "abcd"}
    X = rng.normal(size=(150, 8)) + 0.6 * np.array([centres[label] for label in y])
    head = ConceptBottleneckClassifier(alpha=1.0)
    model = GatedConceptBottleneckClassifier(head, experts=EXPERTS, guard=False, random_state=0)
    rows = X[:10].copy()
    rows[0, :3] = np.nan
    rows[1, 3:] = np.nan
    return model.fit(X, y), rows


@pytest.fixture(scope="module")
def two(fitted):
    model, X = fitted
    return model, X, explain(model, X)


def test_runner_up_is_the_second_most_probable(two):
    model, X, explanation = two
    order = np.argsort(-model.predict_proba(X), axis=1)
    assert explanation.runner_up.tolist() == model.classes_[order[:, 1]].tolist()


def test_separating_concepts_sum_to_the_difference_of_the_logits(two):
    model, X, explanation = two
    logits = model.decision_function(X)
    logits = np.c_[np.zeros(len(X)), logits] if logits.ndim == 1 else logits
    order = np.argsort(-model.predict_proba(X), axis=1)
    own = np.arange(len(X))
    difference = logits[own, order[:, 0]] - logits[own, order[:, 1]]
    for k in (None, 2):
        frame = explanation.separating(k)
        assert (
            frame["class"].tolist()
            == np.repeat(model.predict(X), frame.groupby("row").size()).tolist()
        )
        np.testing.assert_allclose(frame.groupby("row").contribution.sum(), difference, atol=1e-10)
    # the strongest come first: what is left out is none of them
    full, short = explanation.separating(None), explanation.separating(2)
    for row in range(10):
        mine = full[(full.row == row) & (full.concept != "(bias)")].contribution.abs()
        best = short[short.row == row].contribution.abs()[:2]
        np.testing.assert_allclose(best, np.sort(mine)[::-1][:2])


def test_narrow_terminals_show_what_concepts_contribute(two):
    explanation = two[2]
    with pd.option_context("display.width", 80, "display.max_columns", 0):
        for table in (explanation.top(3), explanation.separating(3)):
            head, first = repr(table).splitlines()[:2]
            assert "concept" in head and "contribution" in head and len(head) <= 80
            assert table.concept[0] in first
        assert "magnitude" in repr(explanation.top(3))


def test_versus_is_the_difference_of_two_classes_and_turns_its_sign(two):
    model, _, explanation = two
    one, other = explanation.versus("a", "b"), explanation.versus("b", "a")
    for e in range(3):
        np.testing.assert_allclose(one.contributions[e], -other.contributions[e], atol=1e-12)
        expected = explanation.for_class("a").contributions[e]
        if len(model.classes_) > 2:
            expected = expected - explanation.for_class("b").contributions[e]
        np.testing.assert_allclose(one.contributions[e], expected, atol=1e-12)
    sums = sum(part.sum(axis=1) for part in one.contributions) + one.bias
    np.testing.assert_allclose(sums, one.logits, atol=1e-10)
    assert "against b, difference of logits" in repr(one)
    assert any("a against b" in text.get_text() for text in one.plot(0).texts)
    assert one.to_dict()["rows"][0]["runner_up"] is None
    with pytest.raises(InputError, match="'a' twice"):
        explanation.versus("a", "a")
    with pytest.raises(InputError, match="Class 'z' is not explained here"):
        explanation.versus("a", "z")


@pytest.mark.filterwarnings("ignore:.*have no expert")
def test_what_if_without_an_expert_is_the_model_without_it(two):
    model, X, explanation = two
    frame = explanation.what_if()
    codes = [model.classes_.tolist().index(label) for label in explanation.predicted]
    for name in ("left", "mid", "right"):
        lines = frame[frame.case == f"without {name}"]
        view = model.without(name)
        expected = view.predict_proba(X)
        np.testing.assert_array_equal(lines.probability, expected[np.arange(10), codes])
        assert lines.predicted.tolist() == view.predict(X).tolist()
        np.testing.assert_array_equal(
            lines[[f"gate {n}" for n in ("left", "mid", "right")]], view.gate_weights(X)
        )
    as_it_is = frame[frame.case == "as it is"]
    assert (as_it_is.change == 0).all()
    np.testing.assert_allclose(
        frame[frame.case == "without mid"].change,
        model.without("mid").predict_proba(X)[np.arange(10), codes] - as_it_is.probability.values,
    )


def test_what_if_an_expert_decides_alone_is_its_own_scaled_logit(two):
    """MATHS: g one-hot gives tau * tau_e * S_e; at equal weights their mean."""
    model, X, explanation = two
    logits = model.expert_logits(X).reshape(10, 3, -1)
    present = ~np.isnan(logits[:, :, 0])
    scale = model.pool_scale_[present.sum(axis=1) - 1]
    frame = explanation.what_if("a")
    scaled = scale[:, None, None] * model.expert_scale_[:, None] * logits
    scaled = -scaled[:, :, 0] if len(model.classes_) == 2 else scaled[:, :, 0]
    for e, name in enumerate(("left", "mid", "right")):
        lines = frame[frame.case == f"{name} alone"]
        np.testing.assert_allclose(lines.logit, scaled[:, e], atol=1e-10)
        assert lines.predicted.isna().tolist() == (~present[:, e]).tolist()
        gates = lines.loc[present[:, e], [f"gate {n}" for n in ("left", "mid", "right")]]
        assert (gates == np.eye(3)[e]).all(axis=None)
    lines = frame[frame.case == "plain average"]
    np.testing.assert_allclose(lines.logit, np.nanmean(scaled, axis=1), atol=1e-10)


def test_what_if_of_some_rows_is_that_of_all_and_survives_pickle_and_refit(two):
    model, _, explanation = two
    whole = explanation.what_if().set_index("row")
    part = pickle.loads(pickle.dumps(explanation))[[7, 2]][1:].what_if().set_index("row")
    pd.testing.assert_frame_equal(part, whole.loc[[2]])
    again = explain(model, np.zeros((2, 8)))
    before = again.what_if()
    kept, model.gate_state_ = model.gate_state_, None  # as another fit would change it
    pd.testing.assert_frame_equal(again.what_if(), before)
    model.gate_state_ = kept


@pytest.mark.filterwarnings("ignore:.*have no expert")
def test_what_if_is_in_json_text_html_and_picture(two):
    model, X, explanation = two
    data = json.loads(json.dumps(explanation.to_dict(2), allow_nan=False))
    row = data["rows"][3]
    names = [case["case"] for case in row["what_if"]]
    assert names[:2] == ["as it is", "without left"] and names[-1] == "plain average"
    np.testing.assert_allclose(
        row["what_if"][1]["probabilities"], model.without("left").predict_proba(X[3:4])[0]
    )
    assert data["rows"][0]["what_if"][4] == {
        "case": "left alone",
        "gate": None,
        "probability": None,
        "probabilities": None,
        "predicted": None,
    }
    rival = row["runner_up"]
    assert rival["class"] == explanation.runner_up[3]
    parts = sum(entry["contribution"] for entry in rival["contributions"])
    assert parts + rival["rest"] + rival["bias"] == pytest.approx(rival["difference"], abs=1e-10)
    told = [
        f"{case['case']} {case['probability']:.2f}"
        + f" ({case['predicted']} instead)" * (case["predicted"] != row["predicted"])
        for case in row["what_if"][1:]
        if case["probability"] is not None
    ]
    shown = f"p({row['class']}) with other weights: {'; '.join(told)}"
    assert shown in repr(explanation[3]) and shown in explanation[3]._repr_html_()
    assert f"over {rival['class']} (p = {rival['probability']:.2f})" in repr(explanation[3])
    texts = [text.get_text() for text in explanation.plot(3).texts]
    place = texts.index("without left")
    assert texts[place + 1] == f"{row['what_if'][1]['probability']:.2f}"
    turned = row["what_if"][1]["predicted"] != row["predicted"]
    assert (texts[place + 2] == f"({row['what_if'][1]['predicted']} instead)") == turned
    assert any(text.startswith(f"over {rival['class']} by") for text in texts)


def test_one_expert_and_two_have_the_cases_that_make_sense():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(80, 5)), np.arange(80) % 2
    X[:, 0] += y
    single = ConceptBottleneckClassifier(alpha=1.0).fit(X, y).explain(X[:2])
    assert single.what_if().case.tolist() == ["as it is"] * 2
    model = GatedConceptBottleneckClassifier(
        ConceptBottleneckClassifier(alpha=1.0), experts=[("a", [0, 1]), ("b", [2, 3, 4])]
    ).fit(X, y)
    frame = model.explain(X[:1]).what_if()
    assert frame.case.tolist() == [
        "as it is",
        "without a",
        "without b",
        "a alone",
        "b alone",
        "plain average",
    ]
    assert frame["gate a"].tolist()[3:] == [1.0, 0.0, 0.5]
    assert model.without("a").explain(X[:1]).what_if().case.tolist() == ["as it is"]
    with pytest.raises(InputError, match="no class 7 here"):
        model.explain(X[:1]).what_if(7)


def test_labels_have_no_runner_up_but_a_what_if():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 6))
    Y = pd.DataFrame({"mass": X[:, 0] > 0.5, "edema": X[:, 4] > 0.5}).astype(int)
    model = GatedConceptBottleneckClassifier(
        ConceptBottleneckClassifier(alpha=1.0), experts=[("a", [0, 1]), ("b", [2, 3, 4, 5])]
    ).fit(X, Y)
    explanation = model.explain(X[:6])
    assert explanation.runner_up is None
    with pytest.raises(InputError, match="several labels here"):
        explanation.separating()
    frame = explanation.what_if("edema")
    lines = frame[frame.case == "without b"]
    said = model.without("b").predict(X[:6])
    names = [", ".join(Y.columns[row.astype(bool)]) for row in said]
    assert lines.predicted.tolist() == names
    np.testing.assert_array_equal(lines.probability, model.without("b").predict_proba(X[:6])[:, 1])


def test_explanation_without_a_model_says_what_it_cannot_tell():
    part = AdditivePart(
        "e",
        ["c"],
        np.ones(1),
        np.ones(1),
        np.ones(1),
        np.ones((1, 1)),
        np.ones((1, 1)),
        np.ones((2, 1)),
        np.zeros(2),
        np.ones((1, 2)),
    )
    explanation = Explanation(
        [part], logits=np.ones((1, 2)), probabilities=np.ones((1, 2)) / 2, classes=["a", "b"]
    )
    with pytest.raises(InputError, match="explain\\(model, images\\)"):
        explanation.what_if()
    assert explanation.to_dict()["rows"][0]["what_if"] is None


def test_percentiles_stand_beside_the_values_everywhere(two):
    _, _, explanation = two
    expected = explanation.percentiles
    frame = explanation.to_frame()
    for e, name in enumerate(explanation.expert_names):
        for j, concept in enumerate(explanation.concept_names[e]):
            lines = frame[(frame.expert == name) & (frame.concept == concept)]
            np.testing.assert_array_equal(lines.percentile, expected[e][:, j])
    assert frame[(frame.row == 0) & (frame.expert == "left")].percentile.isna().all()
    entry = explanation.to_dict(1)["rows"][4]["contributions"][0]
    e = explanation.expert_names.index(entry["expert"])
    j = explanation.concept_names[e].index(entry["concept"])
    assert entry["percentile"] == expected[e][4, j]
    top = explanation.top(20).set_index(["expert", "concept"])
    assert top.percentile[entry["expert"], entry["concept"]] == pytest.approx(
        np.nanmean(expected[e][:, j])
    )
    shown = f"percentile {entry['percentile']:.0f}"
    assert shown in repr(explanation[4])
    assert f"<td>{entry['percentile']:.0f}</td>" in explanation[4]._repr_html_()
    texts = [text.get_text() for text in explanation.plot(4, k=1).texts]
    assert "percentile" in texts and f"{entry['percentile']:.0f}" in texts


def test_percentiles_of_models_that_kept_no_quantiles_are_unknown():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 3)), np.arange(40) % 2
    model = ConceptBottleneckClassifier(alpha=1.0).fit(X, y)
    del model.concept_quantiles_
    explanation = model.explain(X[:2])
    assert explanation.to_frame().percentile.isna().all()
    assert explanation.to_dict()["rows"][0]["contributions"][0]["percentile"] is None
    assert "percentile" not in repr(explanation)
    assert "percentile" not in [text.get_text() for text in explanation.plot(0).texts]


def test_rows_of_one_picture_share_their_scale_unless_told_otherwise(two):
    _, _, explanation = two

    def limits(figure):
        axes = [a for a in figure.axes if any(c.get_label() == "bias" for c in a.containers)]
        return [a.get_xlim() for a in axes]

    assert len(set(limits(explanation.plot([2, 3, 4])))) == 1
    assert len(set(limits(explanation.plot([2, 3, 4], same_scale=False)))) == 3


def test_names_of_the_banks_classes_are_shown_beside_the_keys_alone():
    data = make_lesions(60, random_state=0)
    for labels, shown in ((data.target, "-like"), ([t[:-5] for t in data.target], None)):
        model = make_pipeline(
            ConceptEncoder("demo-general", "lesions", cache_dir=None),
            ConceptBottleneckClassifier(alpha=1.0),
        ).fit(list(data.images), labels)
        explanation = explain(model, data.images[:1])
        (label,) = explanation.predicted.tolist()
        if shown is None:
            name = next(one.name for one in model[0].bank_.classes if one.key == label)
            assert name != label
            title = f"{name} ({label})"
            for asked in (name, name.upper(), title):
                meant = re.escape(f"Did you mean {label!r} ({name})?")
                with pytest.raises(InputError, match=meant):
                    explanation.for_class(asked)
                with pytest.raises(InputError, match=meant):
                    explanation.versus(label, asked)
                with pytest.raises(InputError, match=meant):
                    explanation.what_if(asked)
                with pytest.raises(InputError, match=meant):
                    edit(model, pin={("hair", asked): "+"})
            with pytest.raises(InputError, match=r"There are: [^?]*\.$"):
                explanation.for_class("qqqq")
        else:
            title = label
        assert f"{title} (p =" in repr(explanation)
        assert explanation.plot().texts[0].get_text().startswith(f"{title}, ")


@pytest.mark.parametrize("pool", ["logit", "prob"])
def test_photographs_of_skin_are_explained_exactly_and_ranked_as_counted(pool, data_dir):
    table = pd.read_csv(data_dir / "ham10000" / "metadata.csv")
    table = pd.concat([rows[:22] for _, rows in table.groupby("dx")])
    paths = [data_dir / "ham10000" / "images" / f"{name}.jpg" for name in table.image_id]
    union = ExpertUnion(
        [(name, ConceptEncoder(name, "lesions")) for name in ("demo-general", "demo-structures")]
    )
    model = make_pipeline(
        union, GatedConceptBottleneckClassifier(pool=pool, guard=False, random_state=0)
    )
    features = union.fit_transform(paths)
    model[-1].fit(features, table.dx, groups=table.lesion_id)
    explanation = explain(model, paths[::9])
    sums = sum(part.sum(axis=1) for part in explanation.contributions) + explanation.bias
    expected = model[-1].predict_proba(features[::9])
    if pool == "logit":
        expected = model[-1].decision_function(features[::9])
    np.testing.assert_allclose(sums, expected, atol=1e-10)
    for e, name in enumerate(explanation.expert_names):
        training = np.asarray(features.select(name), dtype=float)
        mine = explanation.similarities[e][:, None, :]
        below, reached = (training < mine).mean(axis=1), (training <= mine).mean(axis=1)
        counted = 50 * (below + reached)
        assert np.abs(explanation.percentiles[e] - counted).max() < 1.5
    assert explanation.to_dict(1)["class_names"]["mel"] == "melanoma"


@pytest.mark.parametrize("kind", ["labels", "prob"])
def test_what_is_no_difference_of_two_is_not_read_backwards(kind):
    """The logit of one label says nothing of another, nor does a part of one probability."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 8))
    y = (X[:, :2] + rng.normal(size=(60, 2)) > 0).astype(int)
    settings = {"guard": False} if kind == "labels" else {"pool": "prob", "guard": False}
    model = GatedConceptBottleneckClassifier(
        ConceptBottleneckClassifier(alpha=1.0), experts=EXPERTS, **settings
    ).fit(X, y if kind == "labels" else y[:, 0])
    explanation = explain(model, X[:3])
    alone = explanation.for_class(0)
    for ask in (
        lambda: alone.for_class(1),
        lambda: alone.to_frame(1),
        lambda: alone.versus(0, 1),
        lambda: alone.versus(1, 0),
    ):
        with pytest.raises(InputError, match=r"Class 1 is not explained here\. There are: 0\."):
            ask()


def test_a_difference_read_backwards_is_that_of_the_other_class(two):
    _, _, explanation = two
    there, back = explanation.versus("a", "b"), explanation.versus("b", "a")
    turned = there.for_class("b")
    np.testing.assert_array_equal(turned.totals, back.totals)
    np.testing.assert_array_equal(turned.contributions[0], back.contributions[0])
    assert (turned.columns, turned.against) == (["b"], "a")
    assert (there.columns, there.against) == (["a"], "b")
    assert "against b" in repr(there) and "against a" in repr(turned)


def test_a_class_called_0_may_be_said_instead():
    summary = {"what_if": [{"predicted": 1}]}
    told = [instead({"predicted": label}, summary) for label in (0, False, "", None, 1)]
    assert told == ["(0 instead)", "(False instead)", *["(no label instead)"] * 2, ""]


@pytest.mark.filterwarnings("ignore:.*have no expert")
def test_what_is_as_it_is_has_changed_by_nothing(two):
    _, _, explanation = two
    frame = explanation.what_if()
    assert (frame.loc[frame.case == frame.case[0], "change"] == 0).all()


def test_no_row_is_no_picture(two):
    _, _, explanation = two
    with pytest.raises(InputError, match="Name at least one"):
        explanation.plot(rows=[])
