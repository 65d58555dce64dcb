"""The report holds what scikit-learn and brute force say, escaped, and small enough to send."""

import base64
import io
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    log_loss,
    multilabel_confusion_matrix,
    roc_auc_score,
)
from sklearn.pipeline import make_pipeline

from skmoecbm import (
    ConceptBottleneckClassifier,
    ConceptEncoder,
    ExpertUnion,
    GatedConceptBottleneckClassifier,
    audit,
    evaluate,
    model_report,
)
from skmoecbm.datasets import make_lesions
from skmoecbm.exceptions import InputError, SkmoecbmWarning
from tests.pages import Page

EXPERTS = [("left", slice(0, 4)), ("right", slice(4, 9))]
CLASSES = ["blue", "green", "red"]


def planted(n, seed):
    """Return X (n, 9), y of three unequal classes, groups of about two rows."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 9))
    weights = np.random.default_rng(7).normal(size=(9, 3))
    scores = 0.8 * X @ weights + rng.gumbel(size=(n, 3)) + [0.8, 0, 0]
    return X, np.array(CLASSES)[scores.argmax(axis=1)], rng.integers(n // 2, size=n)


def report(model, *args, tmp_path, **settings):
    settings = {"n_bootstrap": 60, "date": "2026-01-02", **settings}
    path = model_report(model, *args, path=tmp_path / "report.html", **settings)
    assert path == tmp_path / "report.html"
    return path.read_text(encoding="utf-8")


def mixture(**settings):
    head = ConceptBottleneckClassifier(alpha=1.0)
    return GatedConceptBottleneckClassifier(head, experts=EXPERTS, random_state=0, **settings)


@pytest.fixture(scope="module")
def fitted():
    """A mixture with its learned gate, its training rows, and rows to look at."""
    train, test = planted(240, 0), planted(160, 1)
    model = mixture(guard=False, specialize=False).fit(train[0], train[1], groups=train[2])
    assert model.selected_ == "linear"
    return model, train, test


@pytest.fixture(scope="module")
def page(fitted, tmp_path_factory):
    model, _, (X, y, groups) = fitted
    return Page(report(model, X, y, groups=groups, tmp_path=tmp_path_factory.mktemp("report")))


def column(table, name):
    place = table[0].index(name)
    return {row[0]: row[place] for row in table[1:]}


def number(cell):
    return float(cell.split()[0].replace("\N{MINUS SIGN}", "-"))


def test_metrics_are_those_of_scikit_learn(fitted, page):
    model, _, (X, y, _) = fitted
    (table,) = page.table("Metric")
    views = {
        "this model": model,
        "left alone": model.without("right"),
        "right alone": model.without("left"),
    }
    for arm, view in views.items():
        shown, p = column(table, arm), view.predict_proba(X)
        expected = {
            "Accuracy": accuracy_score(y, view.predict(X)),
            "Balanced accuracy": balanced_accuracy_score(y, view.predict(X)),
            "Macro-AUROC": roc_auc_score(y, p, multi_class="ovr", labels=CLASSES),
            "Log-loss": log_loss(y, p, labels=CLASSES),
        }
        for metric, value in expected.items():
            assert number(shown[metric]) == pytest.approx(value, abs=5.1e-4), (arm, metric)
    average = np.mean(
        [s * model.expert_logits(X)[:, e] for e, s in enumerate(model.expert_scale_)], axis=0
    )
    shown = column(table, "plain average")
    assert number(shown["Accuracy"]) == pytest.approx(
        np.mean(np.array(CLASSES)[average.argmax(axis=1)] == y), abs=5.1e-4
    )


def test_intervals_and_differences_are_those_of_evaluate_on_the_groups(fitted, page):
    model, _, (X, y, groups) = fitted
    settings = {"groups": groups, "n_bootstrap": 60, "random_state": 0}
    ours = evaluate(model, X, y, **settings)
    (table,) = page.table("Metric")
    found = ours["balanced_accuracy"]
    expected = f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"
    assert column(table, "this model")["Balanced accuracy"] == expected
    loss = ours.difference(evaluate(model.without("right"), X, y, **settings), "log_loss")
    (table,) = page.table("Less")
    expected = f"{loss.value:+.3f} [{loss.low:+.3f}, {loss.high:+.3f}]"
    assert column(table, "Log-loss")["left alone"] == expected.replace("-", "\N{MINUS SIGN}")
    ungrouped = evaluate(model, X, y, **(settings | {"groups": None}))["balanced_accuracy"]
    assert ungrouped != found  # that the groups count at all


def test_with_training_rows_the_plain_average_is_fitted_and_an_audit_made(fitted, tmp_path):
    model, (X, y, groups), (test, truth, _) = fitted
    text = report(model, test, truth, train=(X, y, groups), tmp_path=tmp_path, n_bootstrap=0)
    average = mixture(gate="uniform").fit(X, y, groups=groups)
    (table,) = Page(text).table("Metric")
    expected = log_loss(truth, average.predict_proba(test), labels=CLASSES)
    assert number(column(table, "plain average")["Log-loss"]) == pytest.approx(expected, abs=5.1e-4)
    assert "Are these concepts better than random directions?" in text
    made = audit(model, test, truth, checks=["calibration"], n_bootstrap=0)
    text = report(model, test, truth, audit=made, tmp_path=tmp_path, n_bootstrap=0)
    assert made["calibration"].verdict[:40] in text and "random directions?" not in text


def test_metadata_alone_gives_subgroups_and_groups_are_named_only_where_files_are(fitted, tmp_path):
    model, (train, labels, _), (X, y, _) = fitted
    site = pd.DataFrame({"site": np.where(np.arange(len(X)) % 2, "arm", "foot")})
    text = report(model, X, y, metadata=site, tmp_path=tmp_path)
    assert "<td>arm</td>" in text and "refits need training rows" in text
    made = audit(model, X, y, metadata=site, checks="calibration", n_bootstrap=0)
    with pytest.raises(InputError, match="has its own subgroups"):
        report(model, X, y, metadata=site, audit=made, tmp_path=tmp_path)
    patients = [[f"PATIENT {i}" for i in range(len(rows))] for rows in (train, X)]
    learned = (train, labels, patients[0])
    made = audit(model, X, y, train=learned, groups=patients[1], checks="leaks", n_bootstrap=0)
    assert made["leaks"].tables["rows that leak"]
    given = {"groups": patients[1], "audit": made, "tmp_path": tmp_path}
    assert "PATIENT" in report(model, X, y, **given)
    assert "PATIENT" not in report(model, X, y, file_names=False, **given)


def test_the_confusion_matrix_is_that_of_scikit_learn(fitted, page):
    model, _, (X, y, _) = fitted
    (table,) = page.table("true ↓ said →")
    assert table[0][1:] == CLASSES and [row[0] for row in table[1:]] == CLASSES
    shown = np.array([[int(cell) for cell in row[1:]] for row in table[1:]])
    np.testing.assert_array_equal(shown, confusion_matrix(y, model.predict(X), labels=CLASSES))


def test_weights_are_the_means_over_the_rows_of_each_class(fitted, page):
    model, _, (X, y, _) = fitted
    (table,) = page.table("True class")
    weights = model.expert_weights(X)
    for label, n, left, right in table[1:]:
        rows = y == label if label != "all" else np.ones(len(y), dtype=bool)
        assert int(n) == rows.sum()
        for cell, mean in zip((left, right), weights[rows].mean(axis=0), strict=True):
            assert int(cell.removesuffix(" %")) == pytest.approx(100 * mean, abs=0.51)


def test_concepts_of_a_class_are_means_of_standardised_values_times_coefficients(tmp_path):
    X, y, _ = planted(200, 0)
    X = pd.DataFrame(X, columns=[f"eye__c{j}" for j in range(9)])
    model = ConceptBottleneckClassifier(alpha=1.0).fit(X, y)
    test, truth, _ = planted(120, 1)
    test = pd.DataFrame(test, columns=X.columns)
    text = report(model, test, truth, tmp_path=tmp_path, top=3, n_bootstrap=0)
    tables = Page(text).table("Concept", "Here", "Elsewhere")
    z = ((test - X.mean()) / X.std(ddof=0)).to_numpy()
    for k, (label, table) in enumerate(zip(CLASSES, tables, strict=True)):
        here = (z * model.association_[k])[truth == label].mean(axis=0)
        elsewhere = (z * model.association_[k])[truth != label].mean(axis=0)
        order = np.argsort(-np.abs(here))
        for row, j in zip(table[1:4], order[:3], strict=True):
            assert row[0] == f"c{j}"
            assert number(row[1]) == pytest.approx(here[j], abs=5.1e-3)
            assert number(row[2]) == pytest.approx(elsewhere[j], abs=5.1e-3)
        assert number(table[4][1]) == pytest.approx(here[order[3:]].sum(), abs=5.1e-3)
        logit = model.decision_function(test)[truth == label, k].mean()
        assert number(table[-1][1]) == pytest.approx(logit, abs=5.1e-3)


def test_bars_of_concepts_are_the_numbers_beside_them_on_one_scale(fitted, tmp_path):
    model, _, (X, y, _) = fitted
    text = report(model, X, y, tmp_path=tmp_path, n_bootstrap=0, n_cases=0, top=3)
    section = text.partition('<section id="concepts"')[2].partition("</section>")[0]
    drawn = re.findall(
        r'<td class="number">([^<]+)</td><td[^>]*>[^<]*</td><td class="drawn">.*?'
        r'class="bar (for|against)" style="left:([\d.]+)%;width:([\d.]+)%"',
        section,
        re.DOTALL,
    )
    assert len(drawn) == 3 * 5  # of three classes three concepts, the rest and the bias
    values = np.array([number(value) for value, *_ in drawn])
    assert (values > 0).any() and (values < 0).any()
    widths = np.array([float(width) for *_, width in drawn])
    np.testing.assert_allclose(widths, 50 * np.abs(values) / np.abs(values).max(), atol=0.8)
    for value, (_, side, left, width) in zip(values, drawn, strict=True):
        if value:
            assert side == ("for" if value > 0 else "against")
            start = 50 if value > 0 else 50 - float(width)
            assert float(left) == pytest.approx(start, abs=0.02)
    assert "A bar is the number here, on one scale" in section


def test_the_words_of_two_classes_are_sentences_and_shares_are_called_so(tmp_path):
    X, y, _ = planted(200, 0)
    model = mixture().fit(X, y == "blue")
    text = report(model, X, y == "blue", tmp_path=tmp_path, n_bootstrap=0)
    said = re.sub(r"<[^>]*>", "", text)
    assert re.search(r"turned towards the class\.\s+A bar", said)
    assert "Mean share" in said and "Mean weight" not in said


def test_the_calibration_error_stands_beside_what_chance_gives_where_an_audit_knows(
    fitted, tmp_path
):
    model, _, (X, y, _) = fitted
    made = audit(model, X, y, checks="calibration", n_bootstrap=0)
    (limit,) = [one.value for one in made["calibration"].measures if "expect" in one.name]
    words = f"; perfect probabilities stay below {limit:.3f} in 95 % of such samples)."
    assert words in report(model, X, y, audit=made, tmp_path=tmp_path, n_bootstrap=0)
    other = audit(model, X[:80], y[:80], checks="calibration", n_bootstrap=0)
    for given in (None, other):  # of other rows it knows nothing about these
        text = report(model, X, y, audit=given, tmp_path=tmp_path, n_bootstrap=0)
        assert "(calibration error)." in text and "perfect probabilities stay" not in text


def cards(text):
    """Return (kind, html) of each case in the page."""
    found = re.findall(r'<article class="case (\w+)[^"]*"(.*?)</article>', text, re.DOTALL)
    return [(kind, html) for kind, html in found]


def test_cases_are_the_surest_of_each_class_in_turn_and_sum_to_their_logits(fitted, tmp_path):
    model, _, (X, y, _) = fitted
    text = report(model, X, y, tmp_path=tmp_path, n_cases=6, n_bootstrap=0)
    p = model.predict_proba(X)
    said = model.predict(X)
    margin = np.sort(p, axis=1)[:, -1] - np.sort(p, axis=1)[:, -2]
    shown = {"right": [], "wrong": [], "uncertain": []}
    for kind, html in cards(text):
        row = int(re.search(r"row (\d+)<", html)[1]) - 1
        shown[kind].append(row)
        (table,) = Page(html).table("Concept", "Seen")
        logit = model.decision_function(X)[row, CLASSES.index(said[row])]
        assert number(table[-1][2]) == pytest.approx(logit, abs=5.1e-3)
        parts = sum(number(line[2]) for line in table[1:-1])
        assert parts == pytest.approx(logit, abs=0.005 * len(table))
    for kind, rows in (("right", said == y), ("wrong", said != y)):
        expected = {
            row
            for label in CLASSES
            for row in sorted(np.flatnonzero(rows & (y == label)), key=lambda i: -margin[i])[:2]
        }
        assert set(shown[kind]) == expected and len(shown[kind]) == 6
    rest = [i for i in np.argsort(margin) if i not in shown["right"] + shown["wrong"]]
    expected = {i for label in CLASSES for i in [j for j in rest if y[j] == label][:2]}
    assert set(shown["uncertain"]) == expected


def test_a_wrong_case_is_held_against_the_true_class(fitted, tmp_path):
    model, _, (X, y, _) = fitted
    text = report(model, X, y, tmp_path=tmp_path, n_cases=3, n_bootstrap=0)
    logits = model.decision_function(X)
    for kind, html in cards(text):
        row = int(re.search(r"row (\d+)<", html)[1]) - 1
        order = np.argsort(-logits[row])
        is_right = CLASSES[order[0]] == y[row]
        rival = order[1] if is_right else CLASSES.index(y[row])
        kind = "runner-up" if is_right else "true class"
        assert f"Against the {kind}, {CLASSES[rival]} " in html
        apart = number(Page(html).tables[1][-1][1])
        assert apart == pytest.approx(logits[row, order[0]] - logits[row, rival], abs=5.1e-3)


@pytest.mark.parametrize("labels", [CLASSES, ["yes", "no", "no"]])
def test_parts_of_a_mixture_of_probabilities_sum_to_the_probability(fitted, labels, tmp_path):
    _, (X, y, _), (test, _, _) = fitted
    y = np.array(labels)[[CLASSES.index(label) for label in y]]
    model = mixture(pool="prob").fit(X, y)
    text = report(model, test, tmp_path=tmp_path, n_cases=4)
    p = np.sort(model.predict_proba(test), axis=1)
    for _, html in cards(text):
        row = int(re.search(r"row (\d+)<", html)[1]) - 1
        tables = Page(html).tables
        assert tables[0][-1][0] == "sum = probability"
        assert number(tables[0][-1][2]) == pytest.approx(p[row, -1], abs=5.1e-3)
        assert tables[1][-1][0] == "probabilities apart"
        assert number(tables[1][-1][1]) == pytest.approx(p[row, -1] - p[row, -2], abs=5.1e-3)


def test_the_same_call_writes_the_same_bytes_and_ties_follow_the_seed(fitted, tmp_path):
    model, _, (X, y, _) = fitted
    X, y = np.repeat(X[:20], 8, axis=0), np.repeat(y[:20], 8)  # ties everywhere
    settings = {"tmp_path": tmp_path, "n_cases": 3, "n_bootstrap": 0}
    first = report(model, X, y, **settings)
    assert report(model, X, y, **settings) == first
    assert report(model, X, y, random_state=1, **settings) != first


def test_without_labels_there_are_no_metrics_and_the_page_says_so(fitted, tmp_path):
    model, _, (X, _, _) = fitted
    text = report(model, X, tmp_path=tmp_path)
    assert "No labels were given" in text
    assert Page(text).table("Metric") == [] and "true:" not in text
    assert {kind for kind, _ in cards(text)} == {"certain", "uncertain"}
    (table,) = Page(text).table("Class", "Name")
    said = model.predict(X)
    assert column(table, "Rows") == {label: str((said == label).sum()) for label in CLASSES}


def test_many_labels_have_hits_and_errors_instead_of_a_matrix(tmp_path):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 9))
    Y = (X @ rng.normal(size=(9, 3)) + rng.logistic(size=(200, 3)) > 1).astype(int)
    model = mixture().fit(X[:120], pd.DataFrame(Y[:120], columns=CLASSES))
    text = report(model, X[120:], Y[120:], tmp_path=tmp_path)
    (table,) = Page(text).table("Label", "Rightly said")
    expected = multilabel_confusion_matrix(Y[120:], model.predict(X[120:]))
    for row, ((tn, fp), (fn, tp)) in zip(table[1:], expected, strict=True):
        assert [int(cell) for cell in row[1:]] == [tp, fn, fp, tn]
    (table,) = Page(text).table("Metric")
    auroc = roc_auc_score(Y[120:], model.predict_proba(X[120:]))
    assert number(column(table, "this model")["Macro-AUROC"]) == pytest.approx(auroc, abs=5.1e-4)
    assert "is said from 0.50 on" in text
    for kind, html in cards(text):
        said, truth = re.search(
            r"(?s)<h3>\w+: (said|not said) .*?true: <b>(\w+)</b>", html
        ).groups()
        if kind in ("right", "wrong"):
            assert (kind == "right") == ((said == "said") == (truth == "present"))


def test_missing_experts_and_heads_of_another_kind_are_told(tmp_path):
    X, y, _ = planted(240, 0)
    experts = [("words", slice(0, 4)), ("age", LogisticRegression(), slice(4, 9))]
    model = GatedConceptBottleneckClassifier(
        ConceptBottleneckClassifier(alpha=1.0), experts=experts, random_state=0
    ).fit(X[:160], y[:160])
    test = X[160:].copy()
    test[:7, 4:] = np.nan
    test[3, :] = np.nan
    with pytest.warns(SkmoecbmWarning, match="have no expert at all"):
        text = report(model, test, y[160:], tmp_path=tmp_path, n_cases=60)
    assert "1 of 80 rows were seen by no expert" in text
    assert "Age did not see 7 of 80 rows" in text
    (table,) = Page(text).table("True class")
    assert column(table, "Rows")["all"] == "79"
    missing = [html for _, html in cards(text) if "did not see this one" in html]
    assert len(missing) == 6 and "row 4<" not in text


HOSTILE = "<script>alert(1)</script>"
QUOTED = "\"><img src=x onerror=alert(2)>'"


def hostile_model():
    X, y, _ = planted(160, 0)
    names = [f"e{QUOTED}__{HOSTILE} {j}" for j in range(4)]
    names += [f"{HOSTILE}__{QUOTED} {{{{ 7 * 7 }}}} {j}" for j in range(5)]
    labels = dict(zip(CLASSES, [HOSTILE, QUOTED, "</style><b>"], strict=True))
    y = np.array([labels[label] for label in y], dtype=object)
    X = pd.DataFrame(X, columns=names)
    return GatedConceptBottleneckClassifier(random_state=0).fit(X, y), X, y


def test_hostile_names_stay_text(tmp_path):
    model, X, y = hostile_model()
    made = audit(model, X, y, metadata=pd.DataFrame({QUOTED: [HOSTILE] * len(X)}), n_bootstrap=0)
    text = report(model, X, y, tmp_path=tmp_path, title=HOSTILE, audit=made, n_bootstrap=0)
    tags = Page(text).tags
    assert {name for name, _ in tags} & {"script", "img", "b", "iframe", "object", "link"} == {"b"}
    assert "<b>&lt;" in text and "{{ 7 * 7 }}" in text  # a name is no template either
    assert text.count("</style>") == 1
    assert [a for _, attributes in tags for a in attributes if a.startswith("on")] == []
    policy = [a["content"] for _, a in tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy[0].startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'")


@pytest.fixture(scope="module")
def drawn():
    """A pipeline on drawings, of the demo experts."""
    lesions = make_lesions(160, random_state=0)
    lesions.target = np.array([label.removesuffix("-like") for label in lesions.target])
    experts = [
        (name, ConceptEncoder(name, "lesions", cache_dir=None))
        for name in ("demo-general", "demo-structures")
    ]
    model = make_pipeline(ExpertUnion(experts), GatedConceptBottleneckClassifier(random_state=0))
    return model.fit(lesions.images[:120], lesions.target[:120]), lesions


def pictures(text):
    codes = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', text)
    return [base64.b64decode(code) for code in codes]


def test_images_are_small_and_carry_neither_exif_nor_folder(drawn, tmp_path):
    model, lesions = drawn
    folder = tmp_path / "patient Miller"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x010E] = "SECRET description"
    paths = []
    for i, image in enumerate(lesions.images[120:]):
        paths.append(folder / f"{i}.jpg")
        Image.fromarray(image).resize((640, 480)).save(paths[-1], exif=exif)
    assert Image.open(paths[0]).getexif()[0x010E] == "SECRET description"
    text = report(model, paths, lesions.target[120:], tmp_path=tmp_path, image_size=100)
    found = pictures(text)
    assert len(found) >= 12
    for content in found:
        image = Image.open(io.BytesIO(content))
        assert image.size == (100, 75) and len(image.getexif()) == 0
        assert b"SECRET" not in content
    assert "Miller" not in text and str(tmp_path) not in text
    assert any(f">{path.name}<" in text for path in paths)
    text = report(
        model, paths, lesions.target[120:], tmp_path=tmp_path, file_names=False, n_bootstrap=0
    )
    assert not any(p.name in text for p in paths)


def test_the_origin_names_models_concepts_and_what_must_be_said(drawn, tmp_path):
    model, lesions = drawn
    text = report(model, lesions.images[120:], tmp_path=tmp_path)
    for _, encoder in model[0].experts_:
        assert encoder.fingerprint_ in text
        assert f"<strong>Notice:</strong> {encoder.notice_}" in text
    bank = model[0].experts_[0][1].bank_
    assert bank.provenance.licence in text and bank.provenance.references[0][:40] in text
    assert "basal cell carcinoma" in text and "2026-01-02" in text


def test_fifty_photographs_stay_below_ten_megabytes(drawn, data_dir, tmp_path):
    model, _ = drawn
    paths = sorted((data_dir / "ham10000_fullsize").rglob("*.jpg"))[:50]
    text = report(model, paths, tmp_path=tmp_path, n_cases=50)
    assert len(pictures(text)) == 50
    assert len(text.encode()) < 10e6


def test_what_cannot_be_reported_is_told(fitted, drawn, tmp_path):
    model, (train, labels, _), (X, y, _) = fitted
    path = tmp_path / "report.html"
    for settings, message in [
        ({"audit": "none"}, "'audit' parameter of model_report must be an Audit"),
        ({"path": tmp_path}, "is a folder. Name a file"),
        ({"n_cases": -1}, "'n_cases' parameter of model_report"),
        ({"image_size": 8}, "'image_size' parameter of model_report"),
        ({"train": [train, labels]}, "'train' parameter of model_report must be a tuple"),
    ]:
        with pytest.raises(InputError, match=message):
            model_report(model, X, y, **{"path": path, **settings})
    with pytest.raises(InputError, match="needs labels; give y too"):
        model_report(model, X, train=(train, labels), path=path)
    with pytest.raises(InputError, match="160 images came with 159 labels"):
        model_report(model, X, y[1:], path=path)
    with pytest.raises(InputError, match="does not know: yellow"):
        model_report(model, X, ["yellow"] * len(X), path=path)
    with pytest.raises(InputError, match="one class per row"):
        model_report(model, X, np.eye(3)[np.arange(len(X)) % 3], path=path)
    with pytest.raises(InputError, match="model_report needs a ConceptBottleneckClassifier"):
        model_report(LogisticRegression().fit(train, labels), X, y, path=path)
    image = tmp_path / "a.png"
    Image.fromarray(drawn[1].images[0]).save(image)
    with pytest.raises(InputError, match="is one of the images"):
        model_report(drawn[0], [image], path=image)
    assert not path.exists()
