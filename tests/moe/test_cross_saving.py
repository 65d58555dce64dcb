import numpy as np
import pytest

from skmoecbm import load, save
from skmoecbm.moe import CrossModalMoEClassifier, MiniBatches, TokenFeatures

SETTINGS = {"n_experts": 3, "width": 6, "expert_hidden": 4, "training": MiniBatches(max_epochs=2)}


def some_tokens(n=40):
    rng = np.random.default_rng(0)
    words = [rng.standard_normal((2 + i % 3, 4)) if i % 5 else None for i in range(n)]
    return TokenFeatures({"image": rng.standard_normal((n, 4, 3)), "text": words})


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"gating": "laplace", "pooling": "cls", "top_k": 1},
        {"fusion": "concat", "moe": False},
        {"streams": ["text"]},
    ],
)
def test_a_loaded_model_says_exactly_the_same(settings, tmp_path):
    X = some_tokens()
    if "streams" in settings:
        X = X[X.present[:, 1]]
    y = np.array(["a", "b", "c"])[np.arange(len(X)) % 3]
    model = CrossModalMoEClassifier(random_state=0, **SETTINGS, **settings).fit(X, y)
    save(model, tmp_path / "model")
    again = load(tmp_path / "model")
    assert np.array_equal(again.predict_proba(X), model.predict_proba(X))
    assert again.weights_.keys() == model.weights_.keys()
    assert again.get_params()["width"] == 6 and again.history_ == model.history_
    assert np.array_equal(again.explain(X).weights, model.explain(X).weights)
    assert np.array_equal(again.stream_weights(X), model.stream_weights(X))
    view = model.without("text") if len(model.streams_) == 2 else model
    save(view, tmp_path / "view")
    assert np.array_equal(load(tmp_path / "view").predict_proba(X), view.predict_proba(X))
    refit = again.fit(X, y)  # a loaded model can be fitted again
    assert np.array_equal(refit.predict_proba(X), model.predict_proba(X))


@pytest.mark.parametrize("streams", ["auto", {"a": (slice(0, 4), 2), "b": ([4, 5, 6], 1)}])
def test_models_of_tables_and_of_several_labels_are_saved(streams, tmp_path):
    X = np.random.default_rng(0).standard_normal((50, 7))
    y = np.stack([X[:, 0] > 0, X[:, 1] > 0.2, X[:, 2] < 0.1], axis=1).astype(int)
    model = CrossModalMoEClassifier(random_state=0, streams=streams, **SETTINGS).fit(X, y)
    save(model, tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.multilabel_ and np.array_equal(again.predict_proba(X), model.predict_proba(X))


def test_its_card_tells_what_it_takes_and_how_it_decides(tmp_path):
    X = some_tokens()
    model = CrossModalMoEClassifier(random_state=0, **SETTINGS).fit(X, np.arange(40) % 2)
    save(model.without("text"), tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text("utf-8")
    for words in (
        "# A cross-modal mixture of networks",
        "It takes streams of tokens (TokenFeatures): `image` of width 3, `text` of width 4.",
        "Tokens of each stream attend to those of the other",
        "each row goes to 2 of 3 small networks of 4 hidden units",
        "Switched off: `text`.",
        "Where one is missing from a row, it has no weight there.",
    ):
        assert words in card, words
