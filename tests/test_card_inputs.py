"""What a card says of a model that takes a table: its columns, and what each expert is."""

import re

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from skmoecbm import ConceptEncoder, ExpertUnion, GatedConceptBottleneckClassifier
from skmoecbm._card_details import CardDetails
from skmoecbm._model_writing import model_files
from skmoecbm.datasets import make_lesions
from tests.brute_force import make_table

HOSTILE = "age | <b>\n# in [years](http://evil.example)"


def card_of(model):
    card = model_files(model, card=CardDetails(pictures=False))["README.md"].decode()
    return re.sub(r"\n{2,}", "\n\n", card)


@pytest.fixture(scope="module")
def lesions():
    data = make_lesions(70, random_state=0)
    rng = np.random.default_rng(0)
    table = {
        "image": pd.Series(list(data.images), dtype=object),
        "report": [", ".join(text.split(", ")[:2]) for text in data.captions],
        HOSTILE: rng.normal(size=70),
        "site": rng.choice(["back", "face"], 70),
    }
    return pd.DataFrame(table), data.target


def fitted(lesions, experts, heads):
    model = GatedConceptBottleneckClassifier(
        experts=[
            (name, heads[name], name) if name in heads else (name, name) for name, *_ in experts
        ],
        random_state=0,
    )
    return make_pipeline(ExpertUnion(experts), model).fit(*lesions)


def test_a_mixed_model_names_its_columns_and_what_each_expert_is(lesions):
    experts = [
        ("photo", ConceptEncoder("demo-structures", "lesions", cache_dir=None), "image"),
        ("words", ConceptEncoder("demo-general", "lesions", modality="text"), "report"),
        ("age", "passthrough", [HOSTILE]),
        ("both", OneHotEncoder(sparse_output=False), ["site"]),
    ]
    text = card_of(fitted(lesions, experts, {"age": LogisticRegression()}))
    age = "`age ¦ ‹b› # in [years](http://evil.example)`"
    assert (
        "A mixture of 4 experts:\n\n"
        "- `photo`: a concept bottleneck on what its image-text model sees in the column `image`\n"
        "- `words`: a concept bottleneck on what its image-text model sees in the column `report`\n"
        f"- `age`: a `LogisticRegression` on the column {age}\n"
        "- `both`: a concept bottleneck whose concepts are what a `OneHotEncoder` makes of the "
        "column `site`\n\n"
    ) in text
    assert (
        "| `image` | an image: path, PIL image or array | `photo` |\n"
        "| `report` | a text | `words` |\n"
        f"| {age} | a number | `age` |\n"
        "| `site` | what a `OneHotEncoder` takes | `both` |\n\n"
    ) in text
    assert f"- `age`: the column {age}, unchanged\n" in text
    assert "It takes images" not in text and "concept bottlenecks (" not in text
    assert "Without a table of weights here: `age` (a `LogisticRegression`)." in text
    assert "model.predict(table)" in text and "photo.jpg" not in text
    table = text.split("## Experts")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \|(.*)\|$", table, flags=re.M)
    assert [name for name, _ in rows] == ["photo", "words"]
    assert all(cell.strip() for _, row in rows for cell in row.split("|"))


def test_columns_that_two_experts_see_stand_once(lesions):
    experts = [
        ("a", "passthrough", [HOSTILE]),
        ("b", "passthrough", [HOSTILE, "more"]),
    ]
    table = lesions[0].assign(more=np.arange(70.0))
    text = card_of(fitted((table, lesions[1]), experts, {"b": LogisticRegression(max_iter=1000)}))
    assert text.count("| a number |") == 2
    assert "| a number | `a`, `b` |" in text and "| `more` | a number | `b` |" in text
    assert "| expert | backbone |" not in text and "The backbones are named" not in text
    assert "similarity is what an image-text model" not in text


def test_places_are_counted_as_people_count(lesions):
    experts = [("a", "passthrough", [1]), ("b", "passthrough", [0])]
    X = np.random.default_rng(0).normal(size=(70, 2))
    text = card_of(fitted((X, lesions[1]), experts, {"b": LogisticRegression()}))
    assert "| column 2 | a number | `a` |" in text and "| column 1 | a number | `b` |" in text


def test_a_mixture_on_features_names_its_foreign_head():
    X, y = make_table()
    experts = [("left", slice(0, 4)), ("right", LogisticRegression(), slice(4, 9))]
    text = card_of(GatedConceptBottleneckClassifier(experts=experts, random_state=0).fit(X, y))
    assert "- `left`: a concept bottleneck on 4 concepts\n" in text
    assert "- `right`: a `LogisticRegression` on 5 features\n" in text
    assert "It takes a table of 9 columns" in text
    text = card_of(
        GatedConceptBottleneckClassifier(
            experts=[("all", LogisticRegression(), slice(0, 9))], random_state=0
        ).fit(X, y)
    )
    assert "A mixture of 1 expert:" in text and "concept bottleneck scores" not in text
