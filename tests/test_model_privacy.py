"""What must not be in a saved model is searched for in the bytes of all its files."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.pipeline import Pipeline

from skmoecbm import (
    CardDetails,
    ConceptBottleneckClassifier,
    ConceptEncoder,
    ExpertUnion,
    GatedConceptBottleneckClassifier,
    LaplaceGate,
    ReportedMetrics,
    audit,
    calibrate_sets,
    edit,
    evaluate,
    fit_concept_vectors,
    load,
    save,
    tune_thresholds,
)
from skmoecbm.datasets import make_lesions

N = 120
PRIVATE = ("ward-seven", "patient-", "lesion-", "MRN", "Erika", ".png", "ward_cache")


@pytest.fixture(scope="module")
def ward(tmp_path_factory):
    """Images in files that name patients, a table about them, and the folder."""
    folder = tmp_path_factory.mktemp("ward-seven")
    data = make_lesions(N, random_state=0)
    table = pd.DataFrame(
        {
            "image": [str(folder / f"patient-{i:04}.png") for i in range(N)],
            "patient_id": [f"MRN{7_000_000 + i // 2}" for i in range(N)],
            "name": [f"Erika Mustermann {i}" for i in range(N)],
        },
        index=[f"lesion-{i:05}" for i in range(N)],
    )
    for image, path in zip(data.images, table["image"], strict=True):
        Image.fromarray(image).save(path)
    return folder, table, np.where(np.arange(N) % 2 == 0, "benign", "malignant")


def _files(model, folder, **options):
    save(model, folder, **options)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _is_there(content, row):
    """Whether two numbers of a row stand side by side, in either precision and byte order."""
    pair = np.asarray(row)[:2]
    forms = [pair.astype(dtype).tobytes() for dtype in ("<f4", "<f8", ">f4", ">f8")]
    return any(form in content for form in forms)


def _refuse(files, words, rows):
    content = b"".join(files[name] for name in sorted(files))
    text = content.decode("utf-8", "replace")
    for word in words:
        assert word.encode() not in content, word
        assert word.encode("utf-16-le") not in content, word
        # nor in the escapes that JSON has
        assert json.dumps(word)[1:-1] not in text, word
    for row in rows:
        assert not _is_there(content, row)
        for value in np.asarray(row, dtype=np.float64)[:2]:
            assert repr(float(value)) not in text or abs(value) in (0.0, 0.5, 1.0), value


def test_the_search_finds_what_is_there():
    row = np.array([0.25, 0.75, 1.25])
    assert _is_there(b"xx" + row.tobytes() + b"xx", row)
    assert _is_there(b"x" + row.astype(np.float32).tobytes(), row)
    assert not _is_there(b"x" * 100, row)
    with pytest.raises(AssertionError, match="MRN7"):
        _refuse({"README.md": b"| MRN7000001 |"}, ["MRN7"], [])
    with pytest.raises(AssertionError, match=r"0\.12345"):
        _refuse({"config.json": b'{"a": [0.12345, 1]}'}, [], [[0.12345, 9.0]])


def test_a_pipeline_over_a_table_with_ids_keeps_none_of_it(ward, tmp_path):
    folder, table, y = ward
    union = ExpertUnion(
        [
            (
                name,
                ConceptEncoder(f"demo-{name}", "lesions", cache_dir=folder / "ward_cache"),
                "image",
            )
            for name in ("general", "structures")
        ]
    )
    head = ConceptBottleneckClassifier(alpha=1.0, prior=None)
    model = Pipeline(
        [("experts", union), ("classifier", GatedConceptBottleneckClassifier(head, cv=3))],
        memory=str(folder / "ward_cache" / "pipeline"),
    )
    model.fit(table, y, classifier__groups=table["patient_id"].to_numpy())
    features = model[:-1].transform(table)
    classifier = model[-1]
    rows = [*np.asarray(features), *features.blocks[0].embeddings, *features.blocks[1].embeddings]
    rows += list(classifier.oof_logits_[:, :, 1])
    words = [*PRIVATE, str(folder), folder.name, *table["patient_id"][:3], table.index[0]]
    files = _files(model, tmp_path / "model", label_map={"B": "benign", "M": "malignant"})
    _refuse(files, words, rows)
    again = load(tmp_path / "model")
    assert again.memory is None
    # the embeddings are made anew, in another batch
    np.testing.assert_allclose(
        again.predict_proba(table[:5]), model.predict_proba(table[:5]), atol=1e-6
    )


def test_sets_edits_and_thresholds_keep_no_row_and_no_group(ward, tmp_path):
    _, table, y = ward
    rng = np.random.default_rng(0)
    X = pd.DataFrame(
        rng.normal(size=(N, 6)) + (y == "malignant")[:, None],
        columns=[f"{e}__word {j}" for e in "ab" for j in range(3)],
        index=table.index,
    )
    groups = table["patient_id"].to_numpy()
    words = [*PRIVATE, *groups[:2], table.index[0]]
    head = ConceptBottleneckClassifier(alpha=1.0)
    gated = GatedConceptBottleneckClassifier(
        head, LaplaceGate(), guard=False, cv=3, random_state=0
    ).fit(X[:80], y[:80], groups=groups[:80])
    rows = [*X.to_numpy(), *gated.oof_logits_[:, :, 1]]
    rows += [*((X.to_numpy() - X.to_numpy().mean(0)) / X.to_numpy().std(0))]
    edited = edit(gated, forbid="word 1")
    sets = calibrate_sets(edited, X[80:], y[80:], groups=groups[80:], class_conditional=True)
    _refuse(_files(sets, tmp_path / "sets"), words, rows)

    Y = pd.DataFrame({"large": X["a__word 0"] > 0, "dark": X["b__word 0"] > 0.5}, dtype=int)
    single = ConceptBottleneckClassifier(alpha=1.0).fit(X[X.columns[:3]], Y, groups=groups)
    tuned = tune_thresholds(single, X[X.columns[:3]], Y, groups=groups, cv=3)
    _refuse(_files(tuned, tmp_path / "tuned"), words, rows)


def test_a_card_with_metrics_audit_and_an_image_names_no_patient(ward, tmp_path):
    folder, table, y = ward
    model = Pipeline(
        [
            ("encoder", ConceptEncoder("demo-general", "lesions", cache_dir=None)),
            ("classifier", ConceptBottleneckClassifier(alpha=1.0, prior=None)),
        ]
    )
    train, test = table[:80], table[79:]  # a patient on both sides, so that leaks are found
    images, patients = list(test["image"]), test["patient_id"].to_numpy()
    model.fit(list(train["image"]), y[:80])
    found = audit(
        model,
        images,
        y[79:],
        groups=patients,
        train=(list(train["image"]), y[:80], train["patient_id"].to_numpy()),
        checks=["leaks", "calibration"],
        n_bootstrap=20,
        random_state=0,
    )
    leaks = next(check for check in found.to_dict()["checks"] if check["name"] == "leaks")
    assert patients[0] in json.dumps(leaks)  # it is there to be left out
    measured = evaluate(model, images, y[79:], groups=patients, n_bootstrap=20)
    files = _files(
        model,
        tmp_path / "model",
        metrics=ReportedMetrics(measured, dataset="ward", split="test", group_disjoint=False),
        audit=found,
        card=CardDetails(title="A ward", images=images[:1]),
    )
    assert "image-01.jpg" in files
    pixels = Path(images[0]).read_bytes()
    assert pixels not in b"".join(files.values())
    _refuse(files, [*PRIVATE, str(folder), *patients[:3], table.index[0]], [])


def test_concept_vectors_keep_neither_annotated_images_nor_patients(ward, tmp_path):
    folder, table, _ = ward
    encoder = ConceptEncoder("demo-general", "lesions", cache_dir=folder / "ward_cache")
    rows, _ = encoder.embed_images(table["image"])
    dark = (rows[:, 0] > np.median(rows[:, 0])).astype(int)
    vectors = fit_concept_vectors(
        encoder,
        table["image"],
        pd.DataFrame({"dark": dark}, index=table.index),
        groups=table["patient_id"].to_numpy(),
        n_bootstrap=10,
    )
    encoder.set_params(concept_vectors=vectors).fit(table["image"])
    words = [*PRIVATE, str(folder), *table["patient_id"][:2]]
    _refuse(_files(encoder, tmp_path / "model"), words, rows)


def test_the_extremes_of_a_concept_are_kept_and_nothing_says_of_whom(tmp_path):
    # `concept_quantiles_` are values of single rows, each concept sorted by itself: that is said
    # in the documentation, and this test holds what is said
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 3)), np.arange(40) % 2
    model = ConceptBottleneckClassifier(alpha=1.0).fit(X, y)
    files = _files(model, tmp_path / "model")
    assert X[:, 0].min().tobytes() in files["model.safetensors"]
    _refuse(files, [], X)


def test_row_numbers_of_folds_are_not_kept(tmp_path):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 3)), np.arange(40) % 2
    folds = [(np.arange(20, 40), np.arange(20)), (np.arange(20), np.arange(20, 40))]
    model = ConceptBottleneckClassifier(cv=folds).fit(X, y)
    save(model, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["model"]["not_saved"] == ["cv"]
