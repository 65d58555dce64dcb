import json
import pickle
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.text import Text
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skmoecbm import (
    ConceptBottleneckClassifier,
    ConceptEncoder,
    DicomFrame,
    ExpertUnion,
    GatedConceptBottleneckClassifier,
    intervene,
)
from skmoecbm._additive import AdditivePart
from skmoecbm.datasets import make_lesions
from skmoecbm.exceptions import InputError, SkmoecbmWarning
from skmoecbm.explanation import Explanation, explain
from skmoecbm.hub import save


def _parts(n=4, sizes=(5, 3), n_classes=4, seed=0, missing=(), concepts=None):
    """Return random parts and the logits they amount to, summed entry by entry."""
    rng = np.random.default_rng(seed)
    columns = 1 if n_classes == 2 else n_classes
    present = np.ones((n, len(sizes)), dtype=bool)
    for row, expert in missing:
        present[row, expert] = False
    gate = rng.random((n, len(sizes))) * present
    gate /= np.maximum(gate.sum(axis=1, keepdims=True), 1e-12)
    scale = rng.uniform(0.5, 2, len(sizes))
    parts, logits = [], np.zeros((n, columns))
    for e, m in enumerate(sizes):
        values = rng.normal(size=(n, m)) * present[:, [e]]
        association, intercept = rng.normal(size=(columns, m)), rng.normal(size=columns)
        weight = gate[:, e] * scale[e]
        for i in range(n):
            for c in range(columns):
                total = sum(values[i, j] * association[c, j] for j in range(m))
                logits[i, c] += weight[i] * (total + intercept[c])
        parts.append(
            AdditivePart(
                name=f"expert {e}",
                concepts=[f"word {e} {j}" for j in range(m)] if concepts is None else concepts[:m],
                weight=weight,
                gate=gate[:, e],
                share=weight / np.maximum((gate * scale).sum(axis=1), 1e-12),
                values=values,
                similarities=np.where(present[:, [e]], 0.2 + 0.05 * values, np.nan),
                association=association,
                intercept=intercept,
                logits=values @ association.T + intercept,
            )
        )
    logits[~present.any(axis=1)] = rng.normal(size=columns)
    return parts, logits


def _explanation(n_classes=4, images=None, notices=(), classes=None, **settings):
    parts, logits = _parts(n_classes=n_classes, **settings)
    full = np.c_[np.zeros(len(logits)), logits] if n_classes == 2 else logits
    proba = np.exp(full) / np.exp(full).sum(axis=1, keepdims=True)
    classes = np.array(list("abcdefg")[:n_classes]) if classes is None else np.asarray(classes)
    return Explanation(
        parts,
        logits=logits,
        probabilities=proba,
        classes=classes,
        images=images,
        notices=notices,
    )


def _sums(explanation):
    return sum(part.sum(axis=1) for part in explanation.contributions) + explanation.bias


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    n_classes=st.integers(2, 5),
)
def test_contributions_and_bias_sum_to_the_logit(seed, sizes, n_classes):
    last = len(sizes) - 1
    missing = [(0, last), *((1, e) for e in range(len(sizes)))]
    explanation = _explanation(n_classes, seed=seed, sizes=sizes, missing=missing)
    np.testing.assert_allclose(_sums(explanation), explanation.logits, atol=1e-10)
    for class_ in explanation.classes:
        one = explanation.for_class(class_)
        np.testing.assert_allclose(_sums(one), one.logits, atol=1e-10)
        assert one.contributions[0].shape == (4, sizes[0], 1)
    frame = explanation.to_frame()
    summed = frame.groupby("row").contribution.sum()
    for i in range(4):
        label = explanation.predicted[i]
        assert summed[i] == pytest.approx(explanation.for_class(label).logits[i, 0], abs=1e-10)


def test_each_contribution_is_weight_times_value_times_association():
    explanation = _explanation()
    parts, _ = _parts()
    for e, part in enumerate(parts):
        for i, j, c in np.ndindex(4, len(part.concepts), 4):
            expected = part.weight[i] * part.values[i, j] * part.association[c, j]
            assert explanation.contributions[e][i, j, c] == pytest.approx(expected, abs=1e-12)
    by_name = explanation.contributions["expert 1"]
    np.testing.assert_array_equal(by_name, explanation.contributions[1])
    assert len(explanation.contributions) == 2
    with pytest.raises(InputError, match="no expert 'clip' here"):
        explanation.contributions["clip"]


def test_negative_class_of_two_has_the_signs_turned():
    explanation = _explanation(2)
    assert explanation.columns == ["b"]
    against, towards = explanation.for_class("a"), explanation.for_class("b")
    np.testing.assert_array_equal(against.logits, -towards.logits)
    np.testing.assert_array_equal(against.contributions[0], -towards.contributions[0])
    np.testing.assert_array_equal(against.bias, -towards.bias)
    np.testing.assert_array_equal(against.for_class("b").logits, towards.logits)
    # whichever class is predicted, its own logit is positive
    for i, label in enumerate(explanation.predicted):
        assert explanation.for_class(label).logits[i, 0] > 0
        assert explanation[i].to_dict()["rows"][0]["logit"] > 0


def test_absent_expert_contributes_nothing_and_all_absent_is_the_prior():
    explanation = _explanation(missing=[(1, 0), (2, 0), (2, 1)])
    assert explanation.present.tolist() == [[1, 1], [0, 1], [0, 0], [1, 1]]
    assert not explanation.contributions[0][[1, 2]].any()
    np.testing.assert_array_equal(explanation.bias[2], explanation.logits[2])
    assert np.isnan(explanation.similarities[0][1]).all()
    row = explanation[1].to_dict()["rows"][0]
    assert row["experts"][0]["present"] is False
    assert {entry["expert"] for entry in row["contributions"]} == {"expert 1"}
    assert "expert 0 missing" in repr(explanation)
    frame = explanation.to_frame()
    assert frame[(frame.row == 1) & (frame.expert == "expert 0")].value.isna().all()


def test_top_orders_by_magnitude_and_equals_a_sort_by_hand():
    explanation = _explanation()
    label = explanation.predicted[2]
    c = explanation.classes.index(label)
    pairs = [
        (name, concept, explanation.contributions[e][2, j, c])
        for e, name in enumerate(explanation.expert_names)
        for j, concept in enumerate(explanation.concept_names[e])
    ]
    pairs.sort(key=lambda pair: -abs(pair[2]))
    top = explanation.top(3, row=2)
    assert list(zip(top.expert, top.concept, strict=True)) == [pair[:2] for pair in pairs[:3]]
    np.testing.assert_allclose(top.contribution, [pair[2] for pair in pairs[:3]])
    assert len(explanation.top(100)) == 8


def test_top_over_rows_averages_and_takes_each_rows_predicted_class():
    explanation = _explanation(n=6)
    own = [explanation.classes.index(label) for label in explanation.predicted]
    top = explanation.top(8).set_index("concept")
    for j, concept in enumerate(explanation.concept_names[1]):
        values = [explanation.contributions[1][i, j, own[i]] for i in range(6)]
        assert top.contribution[concept] == pytest.approx(np.mean(values))
        assert top.magnitude[concept] == pytest.approx(np.mean(np.abs(values)))
    for_b = explanation.top(8, class_="b").set_index("concept")
    assert for_b.contribution["word 0 0"] == pytest.approx(
        explanation.contributions[0][:, 0, 1].mean()
    )


def test_top_averages_similarity_over_the_rows_that_the_expert_saw():
    explanation = _explanation(missing=[(0, 0)])
    top = explanation.top(8).set_index("concept")
    seen = explanation.similarities[0][1:, 2].mean()
    assert top.similarity["word 0 2"] == pytest.approx(seen)


def test_rows_are_taken_by_number_slice_list_and_mask():
    images = [object() for _ in range(4)]
    explanation = _explanation(images=images)
    assert len(explanation[1]) == 1
    assert explanation[-1].rows.tolist() == [3]
    assert explanation[1:3].rows.tolist() == [1, 2]
    assert explanation[[3, 0]].images == [images[3], images[0]]
    masked = explanation[np.array([True, False, False, True])]
    assert masked.rows.tolist() == [0, 3]
    np.testing.assert_array_equal(masked.contributions[1], explanation.contributions[1][[0, 3]])
    np.testing.assert_array_equal(masked.probabilities, explanation.probabilities[[0, 3]])
    assert [one.rows[0] for one in explanation] == [0, 1, 2, 3]
    with pytest.raises(IndexError):
        explanation[4]
    for wrong in ("a", np.ones(3, dtype=bool), [0, 9], 1.5, (0, 1), None):
        with pytest.raises(
            IndexError, match=r"an explanation of 4 are taken by.*a mask of 4 bools"
        ):
            explanation[wrong]
    # the number of a row in its call survives two steps
    assert explanation[1:][1].to_frame().row.unique().tolist() == [2]


def test_dict_is_json_and_its_parts_sum_to_the_logit():
    explanation = _explanation(missing=[(0, 1)], classes=np.array([0, 1, 2, 3]))
    data = json.loads(json.dumps(explanation.to_dict(k=2), allow_nan=False))
    assert data["classes"] == [0, 1, 2, 3]
    for i, row in enumerate(data["rows"]):
        assert len(row["contributions"]) == 2
        rest = sum(expert["rest"] for expert in row["experts"])
        shown = sum(entry["contribution"] for entry in row["contributions"])
        assert shown + rest + row["bias"] == pytest.approx(row["logit"], abs=1e-10)
        totals = sum(expert["total"] for expert in row["experts"])
        assert totals + row["bias"] == pytest.approx(row["logit"], abs=1e-10)
        assert row["logit"] == pytest.approx(explanation.logits[i].max())
        assert row["predicted"] == explanation.logits[i].argmax()
    assert len(explanation.to_dict()["rows"][1]["contributions"]) == 8


def test_frame_has_a_line_per_concept_and_one_for_the_bias():
    explanation = _explanation()
    frame = explanation.to_frame(class_="c")
    assert len(frame) == 4 * (5 + 3 + 1)
    assert (frame["class"] == "c").all()
    line = frame[(frame.row == 2) & (frame.concept == "word 1 1")].iloc[0]
    assert line.contribution == pytest.approx(explanation.contributions[1][2, 1, 2])
    assert line.expert_weight == pytest.approx(explanation.expert_weights[2, 1])
    assert frame[frame.concept == "(bias)"].expert.isna().all()


def test_images_given_as_paths_are_named_without_their_folder():
    images = ["/home/ann/who/<b>1.jpg", Path("/home/ann/2\n.jpg"), b"/home/ann", "/home/ann/\udcff"]
    explanation = _explanation(images=images)
    names = ["<b>1.jpg", "2 .jpg", None, "?"]
    assert [row["image"] for row in explanation.to_dict()["rows"]] == names
    frame = explanation.to_frame()
    assert [frame[frame.row == row].image.unique().tolist() for row in range(4)] == [
        [name] for name in names
    ]
    assert explanation[1:][0].to_dict()["rows"][0]["image"] == "2 .jpg"
    text = repr(explanation)
    assert "row 0, <b>1.jpg: " in text and "row 1, 2 .jpg: " in text and "row 2: " in text
    assert "row 0, &lt;b&gt;1.jpg: " in explanation._repr_html_()
    drawn = [line for line in _texts(explanation.plot()) if "predicted" in line]
    assert [line.partition(" · ")[0] for line in drawn] == ["<b>1.jpg", "2 .jpg", "image 2", "?"]
    for shown in (text, explanation._repr_html_(), frame.to_csv(), *drawn):
        assert "ann" not in shown
    assert "image" not in _explanation(images=[None] * 4).to_frame()
    assert "image" not in _explanation().to_frame()


@pytest.mark.parametrize(
    ("image", "name"),
    [
        (DicomFrame("ward/MR_small.dcm"), "MR_small.dcm"),
        (DicomFrame("ward/MR_small.dcm", frame=3), "MR_small.dcm, frame 3"),
        (DicomFrame(Path("CT.dcm"), window=(40, 400)), "CT.dcm, window (40, 400)"),
        (DicomFrame("CT.dcm", 1, 2), "CT.dcm, frame 1, window 2"),
        (DicomFrame("CT.dcm", window="LUNG"), "CT.dcm, window LUNG"),
    ],
)
def test_frames_of_dicom_files_are_named_by_file_frame_and_window(image, name):
    explanation = _explanation(images=["a.png", DicomFrame(b"film", frame=2), image, None])
    assert explanation.to_frame().image.dropna().unique().tolist() == ["a.png", name]
    assert explanation[2].to_dict()["rows"][0]["image"] == name
    assert name in str(explanation[2])
    assert explanation[1].to_dict()["rows"][0]["image"] is None and "film" not in str(
        explanation[1]
    )
    long = DicomFrame(f"{'1.2.840.' * 9}dcm", frame=3)
    drawn = [line for line in _texts(_explanation(images=[image, long] * 2).plot())]
    assert any(line.startswith(f"{name} · ") for line in drawn)
    assert any(re.match(r"1\.2\.840.*….*dcm, frame 3 · ", line) for line in drawn)


def test_names_of_explained_images_do_not_reach_the_saved_model(tmp_path):
    data = make_lesions(40, random_state=0)
    path = tmp_path / "secret-name.png"
    Image.fromarray(data.images[0]).save(path)
    model = make_pipeline(
        ConceptEncoder("demo-general", "lesions", cache_dir=None),
        ConceptBottleneckClassifier(alpha=1.0),
    ).fit(list(data.images), data.target)
    assert "row 0, secret-name.png: " in repr(explain(model, [path]))
    save(model, tmp_path / "model")
    assert all(b"secret-name" not in file.read_bytes() for file in (tmp_path / "model").iterdir())


def test_unknown_class_row_and_k_are_refused():
    explanation = _explanation()
    with pytest.raises(InputError, match="Class 'z' is not explained here"):
        explanation.for_class("z")
    with pytest.raises(InputError, match="'a' is not explained here"):
        explanation.for_class("b").top(class_="a")
    with pytest.raises(InputError, match="'row' parameter"):
        explanation.top(row=4)
    with pytest.raises(InputError, match="'k' parameter"):
        explanation.top(0)
    with pytest.raises(InputError, match="'k' parameter"):
        explanation.plot(k=0)


def test_text_names_class_weights_and_strongest_concepts():
    explanation = _explanation(n=5, notices=["for show only"])
    text = repr(explanation)
    assert text.startswith("Explanation of 5 rows, 4 classes: expert 0 (5 concepts), expert 1")
    top = explanation.top(1, row=0).iloc[0]
    assert f"{top.contribution:+.2f}  {top.concept} ({top.expert})" in text
    assert "3 other concepts" in text
    assert "and 2 more rows" in text
    assert text.endswith("Note: for show only")


HOSTILE = ['<script>alert("x")</script>', "<img src=x onerror=alert(1)>", "$x^", "a & b", "w"]


def test_html_escapes_every_name_and_has_no_script():
    explanation = _explanation(
        concepts=HOSTILE,
        classes=["<b onload=x>", "<script>", "c", "d"],
        notices=["<script>evil()</script>"],
    )
    text = explanation._repr_html_()
    tags = set(re.findall(r"<\s*/?\s*([a-zA-Z!]+)", text))
    assert tags <= {"div", "p", "b", "i", "table", "thead", "tbody", "tr", "th", "td"}
    assert not re.search(r"<[^>]*\son\w+\s*=", text)
    assert "&lt;script&gt;evil()" in text


def test_pickle_keeps_the_explanation():
    explanation = _explanation()
    again = pickle.loads(pickle.dumps(explanation))
    assert again.to_dict() == explanation.to_dict()


def _texts(figure):
    return [text.get_text() for text in figure.texts]


def _bars(figure):
    """Return label -> (value drawn, number written) of the axes that hold the concepts."""
    for axes in figure.axes:
        labels = [container.get_label() for container in axes.containers]
        if "bias" in labels:
            return {
                label: (container.patches[0].get_width(), text.get_text())
                for label, container, text in zip(labels, axes.containers, axes.texts, strict=True)
            }
    raise AssertionError("no bars")


def test_plot_draws_the_numbers_of_the_explanation():
    explanation = _explanation()
    figure = explanation.plot(1, k=3)
    bars = _bars(figure)
    row = explanation.to_dict(k=3)["rows"][1]
    for entry in row["contributions"]:
        width, number = bars[entry["concept"]]
        assert width == pytest.approx(entry["contribution"])
        assert number == f"{entry['contribution']:+.2f}".replace("-", "\N{MINUS SIGN}")
    assert bars["sum = logit"][0] == pytest.approx(row["logit"])
    drawn = sum(width for label, (width, _) in bars.items() if label != "sum = logit")
    assert drawn == pytest.approx(row["logit"])
    weights = next(axes for axes in figure.axes if len(axes.patches) == 2)
    np.testing.assert_allclose(
        [patch.get_width() for patch in weights.patches], explanation.expert_weights[1]
    )
    assert any(re.fullmatch(r"shown .* bias .* logit .*", text) for text in _texts(figure))


def test_plot_shows_images_notice_missing_expert_and_hostile_names(tmp_path):
    good = Image.new("RGB", (40, 30), "red")
    explanation = _explanation(
        missing=[(1, 0)],
        images=[good, tmp_path / "no.png", good, good],
        notices=["not for clinical use"],
        concepts=["$\\frac{1$", "a very long phrase " * 12, "x" * 300, "c d", "e\nf"],
    )
    figure = explanation.plot(k=5, max_rows=3)
    texts = _texts(figure)
    assert "not for clinical use" in texts
    assert "(image cannot be shown)" in texts
    assert "expert 0 did not see this image" in texts
    assert "missing" in texts
    pictures = [image for axes in figure.axes for image in axes.images]
    assert [picture.get_array().shape for picture in pictures] == [(30, 40, 3)] * 2
    figure.savefig(tmp_path / "picture.png")
    assert max(len(line) for text in texts for line in text.split("\n")) < 90
    assert figure._repr_png_()[:4] == b"\x89PNG"


def test_plot_keeps_all_text_inside_the_page_and_labels_apart():
    words = ["a lesion whose border fades gradually into the skin around it, on one side", "veil"]
    concepts = [f"{words[j % 2]} {j}" for j in range(350)]
    explanation = _explanation(
        sizes=(350, 350),
        n_classes=4,
        concepts=concepts,
        classes=["a rather long name", "b" * 80, "c" * 80, "d" * 80],
        images=[f"/folder/{'long name ' * 12}.png"] * 4,
    )
    for class_ in explanation.classes:
        figure = explanation.plot(0, k=12, class_=class_)
        figure.draw_without_rendering()
        page = figure.bbox
        boxes = [text.get_window_extent() for text in figure.texts]
        boxes += [text.get_window_extent() for axes in figure.axes for text in axes.texts]
        for box in boxes:
            assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= page.x1 and box.y1 <= page.y1
        overlaps = [
            (a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.padded(-1).overlaps(b)
        ]
        assert not overlaps


@pytest.mark.parametrize(("seed", "same_scale"), [(0, True), (1, True), (2, True), (2, False)])
def test_numbers_beside_the_bars_stay_between_percentile_and_edge(seed, same_scale):
    explanation = _explanation(seed=seed)
    figure = explanation.plot([0, 1], k=6, same_scale=same_scale)
    figure.draw_without_rendering()
    for axes in figure.axes:
        frame = axes.get_window_extent()
        for text in axes.texts:
            box = text.get_window_extent()
            assert frame.x0 <= box.x0 and box.x1 <= frame.x1


def test_plot_leaves_pyplot_alone():
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    _explanation().plot()
    assert plt.get_fignums() == before


def test_explain_refuses_what_is_not_ours():
    X, y = np.random.default_rng(0).normal(size=(20, 2)), [0, 1] * 10
    with pytest.raises(InputError, match="Got LogisticRegression at the end"):
        explain(make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y), X)
    with pytest.raises(InputError, match="Got str at the end"):
        explain("model", X)


def test_features_where_images_belong_are_told_their_place():
    data = make_lesions(30, random_state=0)
    union = ExpertUnion([("a", ConceptEncoder("demo-general", "lesions", cache_dir=None))])
    model = make_pipeline(union, ConceptBottleneckClassifier(alpha=1.0))
    model.fit(list(data.images), data.target)
    features = model[0].transform(data.images[:2])
    with pytest.raises(InputError, match=r"explain was .*: model\[-1\]\.explain\(features\)\.$"):
        explain(model, features)
    with pytest.raises(InputError, match=r"alone: intervene\(model\[-1\], features, \.\.\.\)"):
        intervene(model, features, {"hair": "absent"})
    one, other = model[-1].explain(features), explain(model, data.images[:2])
    np.testing.assert_allclose(one.logits, other.logits, atol=1e-10)


EXPERTS = [("left", slice(0, 3)), ("right", slice(3, 7))]


def _fitted(n_classes=3, **settings):
    rng = np.random.default_rng(1)
    y = rng.integers(n_classes, size=90)
    X = rng.normal(size=(90, 7)) + 0.7 * rng.normal(size=(n_classes, 7))[y]
    head = ConceptBottleneckClassifier(alpha=1.0)
    return GatedConceptBottleneckClassifier(head, experts=EXPERTS, random_state=0, **settings).fit(
        X, y
    ), X[:12].copy()


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("pool", ["logit", "sum"])
@pytest.mark.parametrize("guard", [True, False])
def test_contributions_of_a_real_mixture_sum_to_its_decision(n_classes, pool, guard):
    model, X = _fitted(n_classes, pool=pool, guard=guard)
    X[0, :3] = np.nan
    X[1, 3:] = np.nan
    explanation = explain(model, X)
    decision = model.decision_function(X).reshape(12, -1)
    np.testing.assert_allclose(_sums(explanation), decision, atol=1e-10)
    np.testing.assert_array_equal(explanation.gate, model.gate_weights(X))
    np.testing.assert_array_equal(explanation.expert_weights, model.expert_weights(X))
    assert explanation.predicted.tolist() == model.predict(X).tolist()
    assert explanation.present[:2].tolist() == [[False, True], [True, False]]
    alone = explain(model.without("left"), X[2:3])
    np.testing.assert_allclose(_sums(alone)[0], model.without("left").decision_function(X[2:3])[0])
    assert alone.present.tolist() == [[False, True]]


def test_row_without_any_expert_is_explained_by_the_class_prior():
    model, _ = _fitted()
    with pytest.warns(SkmoecbmWarning, match="no expert"):
        explanation = explain(model, np.full((1, 7), np.nan))
    np.testing.assert_array_equal(explanation.bias[0], model.class_log_prior_)
    assert "left missing, right missing" in repr(explanation)
    assert explanation.plot()


def test_single_head_search_and_pipeline_of_one_step_are_explained():
    _, X = _fitted()
    y = np.arange(12) % 2
    single = ConceptBottleneckClassifier(alpha=1.0).fit(X, y)
    explanation = explain(single, X)
    np.testing.assert_allclose(_sums(explanation)[:, 0], single.decision_function(X), atol=1e-10)
    assert explanation.gate.tolist() == [[1.0]] * 12
    step = make_pipeline(ConceptBottleneckClassifier(alpha=1.0)).fit(X, y)
    assert explain(step, X).to_dict() == explanation.to_dict() == single.explain(X).to_dict()
    search = GridSearchCV(ConceptBottleneckClassifier(), {"alpha": [1.0]}, cv=2).fit(X, y)
    assert explain(search, X).to_dict() == explanation.to_dict()
    with pytest.raises(ValueError, match="not fitted"):
        explain(ConceptBottleneckClassifier(), X)


def test_pipeline_explanation_keeps_the_images_its_first_image_encoder_saw():
    data = make_lesions(60, random_state=0)
    frame = pd.DataFrame({"picture": list(data.images), "age": np.arange(60.0)})
    union = ExpertUnion(
        [
            ("age", StandardScaler(), ["age"]),
            ("general", ConceptEncoder("demo-general", "lesions", cache_dir=None), "picture"),
        ]
    )
    head = ConceptBottleneckClassifier(alpha=1.0)
    model = make_pipeline(union, GatedConceptBottleneckClassifier(head)).fit(frame, data.target)
    explanation = explain(model, frame[:3])
    assert explanation.images[2] is frame.picture[2]
    assert explanation.notices == (
        "synthetic demonstration encoders, trained on drawings, not for clinical use",
    )
    np.testing.assert_allclose(_sums(explanation), model.decision_function(frame[:3]), atol=1e-10)
    assert [image for axes in explanation.plot(0).axes for image in axes.images]


def test_of_several_labels_each_is_said_or_not_by_its_own_threshold():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 5))
    Y = pd.DataFrame({"mass": X[:, 0] > 0.8, "edema": X[:, 1] > 1.2, "nodule": X[:, 2] > 0.5})
    clf = ConceptBottleneckClassifier(alpha=1.0).fit(X, Y.astype(int))
    assert clf.explain(X[:2]).thresholds.tolist() == [0.5, 0.5, 0.5]
    clf.thresholds_ = np.array([0.2, 0.6, 0.5])
    explanation = clf.explain(X)[:8]
    said = clf.predict(X[:8])
    for row in range(8):
        for k, label in enumerate(clf.classes_):
            text = repr(explanation[row].for_class(label))
            assert ("not predicted: it is from" in text) == (said[row, k] == 0)
            assert f"from {clf.thresholds_[k]:.2g} on" in text
            figure = explanation.plot(row, class_=label)
            drawn = " ".join(artist.get_text() for artist in figure.findobj(Text))
            assert ("not predicted: it is from" in drawn) == (said[row, k] == 0)
            assert "The bias decides" not in drawn and " is)" not in drawn


def test_an_explanation_of_no_row_says_so_and_can_be_shown():
    X = np.random.default_rng(0).normal(size=(40, 3))
    none = ConceptBottleneckClassifier(alpha=1.0).fit(X, X[:, 0] > 0).explain(X)[:0]
    assert "0 rows" in repr(none) and "0 rows" in none._repr_html_()
    assert none.to_dict()["rows"] == []
    with pytest.raises(InputError, match="no row has no picture"):
        none.plot()
