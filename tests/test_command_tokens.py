"""Saved models of tokens under the commands: what can be done with images is, else one sentence."""

import csv
import json

import numpy as np
import pytest
from PIL import Image
from sklearn.pipeline import make_pipeline

from skmoecbm import save
from skmoecbm.cli import main
from skmoecbm.datasets import make_lesions
from skmoecbm.moe import (
    CrossModalMoEClassifier,
    MiniBatches,
    TextTokenEncoder,
    TokenEncoder,
    TokenUnion,
)


def classifier():
    training = MiniBatches(max_epochs=2)
    return CrossModalMoEClassifier(
        n_experts=2, width=4, expert_hidden=4, training=training, random_state=0
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a model of images, one of records, one of texts, and labelled images."""
    folder = tmp_path_factory.mktemp("tokens")
    data = make_lesions(30, random_state=0)
    y = np.where(np.arange(30) % 2, "odd", "even")
    images = make_pipeline(TokenEncoder("demo-general", grid=2, cache_dir=None), classifier())
    save(images.fit(data.images, y), folder / "images")
    union = TokenUnion(
        [
            ("image", TokenEncoder("demo-general", grid=2, cache_dir=None)),
            ("text", TextTokenEncoder("demo-general", cache_dir=None)),
        ]
    )
    captions = [", ".join(text.split(", ")[:2]) for text in data.captions]
    records = list(zip(data.images, captions, strict=True))
    save(make_pipeline(union, classifier()).fit(records, y), folder / "records")
    texts = make_pipeline(TextTokenEncoder("demo-general", cache_dir=None), classifier())
    save(texts.fit(captions, y), folder / "texts")
    (folder / "photos").mkdir()
    for i in range(4):
        Image.fromarray(data.images[i]).save(folder / "photos" / f"{i}.png")
    rows = [f"{i}.png,{y[i]}" for i in range(4)]
    (folder / "labels.csv").write_text("\n".join(["image,label", *rows]) + "\n")
    told = images.predict_proba([str(folder / "photos" / f"{i}.png") for i in range(4)])
    return folder, told


def run(command, place, model, *more):
    """Return the exit code of a command with one of the models."""
    folder, _ = place
    photos = str(folder / "photos")
    table = ["--images", photos, "--labels", str(folder / "labels.csv")]
    table += ["--image-column", "image", "--label-column", "label"]
    given = {
        "predict": [photos],
        "explain": [f"{photos}/0.png", "--out", str(folder / "shown.png")],
        "report": ["--images", photos, "--out", str(folder / "report.html")],
        "labelled report": [*table, "--out", str(folder / "report.html")],
        "evaluate": table,
        "audit": table,
        "app": [],
    }[command]
    return main([command.split()[-1], str(folder / model), *given, *more])


def test_images_are_predicted_and_scored(place, capsys):
    folder, told = place
    (folder / "photos" / "4.png").write_bytes(b"no image")
    more = ["--cache-dir", "none", "--on-error", "missing"]
    try:
        assert run("predict", place, "images", *more) == 0
    finally:
        (folder / "photos" / "4.png").unlink()
    rows = list(csv.reader(capsys.readouterr().out.splitlines()))
    assert rows[0] == ["image", "prediction", "probability_even", "probability_odd"]
    found = np.array([row[2:] for row in rows[1:5]], dtype=float)
    assert np.allclose(found, told, atol=1e-5)
    assert rows[5][1:] == ["", "", ""]  # it could not be read
    out = folder / "metrics.json"
    more = ["--cache-dir", "none", "--n-bootstrap", "0", "--out", str(out)]
    assert run("evaluate", place, "images", *more) == 0
    right = (told.argmax(axis=1) == np.arange(4) % 2).mean()
    assert json.loads(out.read_text())["metrics"]["accuracy"]["value"] == right


@pytest.mark.parametrize("command", ["explain", "report", "labelled report", "audit", "app"])
def test_what_reads_concepts_says_that_there_are_none(place, command, capsys):
    more = [] if command == "app" else ["--cache-dir", "none"]
    assert run(command, place, "images", *more) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert "sums over concepts" in told or "shows one image to a pipeline" in told


@pytest.mark.parametrize("command", ["predict", "explain", "report", "evaluate", "audit", "app"])
def test_records_and_texts_are_for_python(place, command, capsys):
    for model, what in (("records", "records of 'image' and 'text'"), ("texts", "texts")):
        assert run(command, place, model) == 2
        told = capsys.readouterr().err.strip().splitlines()[-1]
        assert f"takes {what}, not just images. Load it with skmoecbm.load" in told
