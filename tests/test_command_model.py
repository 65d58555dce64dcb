"""Saved models that the commands cannot use with images end in one sentence."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.pipeline import make_pipeline

from skmoecbm import (
    ConceptBottleneckClassifier,
    ConceptEncoder,
    ExpertUnion,
    GatedConceptBottleneckClassifier,
    save,
)
from skmoecbm.cli import main
from skmoecbm.datasets import make_lesions


def encoder(**settings):
    return ConceptEncoder("demo-general", "lesions", cache_dir=None, **settings)


@pytest.fixture(scope="module")
def lesions(tmp_path_factory):
    """Drawn lesions, and a folder with one of them."""
    data = make_lesions(40, random_state=0)
    folder = tmp_path_factory.mktemp("photos")
    Image.fromarray(data.images[0]).save(folder / "a.png")
    return data, folder


def predict(model, lesions, capsys, tmp_path, *options):
    """Return the exit code of `predict` with a saved model, and the last line that it wrote."""
    save(model, tmp_path / "model")
    code = main(["predict", str(tmp_path / "model"), str(lesions[1]), *options])
    told = capsys.readouterr()
    return code, (told.err if code else told.out).strip().splitlines()[-1]


def test_a_model_of_a_table_names_its_columns(lesions, capsys, tmp_path):
    data, _ = lesions
    table = pd.DataFrame({"photo": pd.Series(list(data.images), dtype=object)})
    table["age"] = np.arange(40.0)
    union = ExpertUnion([("photo", encoder(), "photo"), ("age", "passthrough", "age")])
    model = make_pipeline(union, GatedConceptBottleneckClassifier(cv=2, random_state=0))
    model.fit(table, data.target)
    code, told = predict(model, lesions, capsys, tmp_path, "--cache-dir", "none")
    assert code == 2 and "takes a table with columns 'photo', 'age', not just images" in told
    assert "use it from Python" in told


def test_a_model_of_numbers_or_texts_says_so(lesions, capsys, tmp_path):
    data, _ = lesions
    numbers = np.random.default_rng(0).normal(size=(40, 3))
    model = make_pipeline("passthrough", ConceptBottleneckClassifier(alpha=1.0))
    code, told = predict(model.fit(numbers, data.target), lesions, capsys, tmp_path)
    assert code == 2 and "takes numbers, not just images" in told
    texts = [", ".join(text.split(", ")[:2]) for text in data.captions]
    model = make_pipeline(encoder(modality="text"), ConceptBottleneckClassifier(alpha=1.0))
    code, told = predict(model.fit(texts, data.target), lesions, capsys, tmp_path)
    assert code == 2 and "takes texts, not just images" in told
