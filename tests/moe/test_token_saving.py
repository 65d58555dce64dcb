"""Encoders of tokens in the library's format: saved, loaded, and nothing unsafe let in."""

import json

import numpy as np
import pytest
from sklearn.pipeline import Pipeline

import skmoecbm
from skmoecbm._model_backbones import encoders_of
from skmoecbm.exceptions import FormatError, InputError
from skmoecbm.moe import CrossModalMoEClassifier, TextTokenEncoder, TokenEncoder, TokenUnion
from skmoecbm.schema import parse_config
from tests.backbone_fixtures import write_clip
from tests.language_models import write_bert

RECORDS = [(np.full((80, 80, 3), 99, np.uint8), "hair"), (None, "irregular border")]


def union(**image):
    return TokenUnion(
        [
            ("image", TokenEncoder("demo-general", cache_dir=None, **image)),
            ("text", TextTokenEncoder("demo-structures", cache_dir=None, max_length=9)),
        ]
    )


def edited(folder, change):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config["model"])
    path.write_text(json.dumps(config))


def test_a_union_is_what_it_was(tmp_path):
    given = union(grid=1, value_range=(0, 255))
    tokens = given.fit_transform(RECORDS)
    skmoecbm.save(given, tmp_path / "model")
    found = skmoecbm.load(tmp_path / "model", check_backbones=True)
    assert found.transform(RECORDS) == tokens
    assert repr(found) == repr(given)
    for (name, one), (other_name, other) in zip(found.streams_, given.streams_, strict=True):
        assert name == other_name and type(one) is type(other)
        ours = {key: value for key, value in vars(other).items()}
        theirs = {key: value for key, value in vars(one).items() if key != "_loaded_as"}
        assert ours == theirs
    skmoecbm.save(found, tmp_path / "again")
    for name in ("config.json", "README.md", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "model" / name).read_bytes()


def test_encoders_alone_and_in_a_pipeline(tmp_path):
    given = union().fit(RECORDS)
    image, text = (encoder for _, encoder in given.streams_)
    for model, X in [
        (image, [RECORDS[0][0], None]),
        (text, ["hair", None]),
        (Pipeline([("tokens", given)]), RECORDS),
    ]:
        folder = tmp_path / type(model).__name__
        skmoecbm.save(model, folder)
        loaded = skmoecbm.load(folder, device="cpu")
        assert loaded.transform(X) == model.transform(X)
        assert all(one.device == "cpu" for one in encoders_of(loaded).values())
        card = (folder / "README.md").read_text()
        assert "not for clinical use" in card and "concept" not in card.partition("## Versions")[0]


def test_folders_are_not_named_and_may_lie_elsewhere(tmp_path):
    write_clip(tmp_path / "here" / "clip")
    write_bert(tmp_path / "here" / "bert")
    given = TokenUnion(
        [
            ("image", TokenEncoder(f"local-dir:{tmp_path}/here/clip", cache_dir=tmp_path / "s")),
            ("text", TextTokenEncoder(f"local-dir:{tmp_path}/here/bert", cache_dir=None)),
        ]
    )
    X = [(RECORDS[0][0], "cough"), (None, "no fever")]
    tokens = given.fit_transform(X)
    skmoecbm.save(given, tmp_path / "model")
    assert str(tmp_path) not in (tmp_path / "model" / "config.json").read_text()
    (tmp_path / "here").rename(tmp_path / "there")
    places = {
        "image": f"local-dir:{tmp_path}/there/clip",
        "text": f"local-dir:{tmp_path}/there/bert",
    }
    found = skmoecbm.load(tmp_path / "model", backbones=places)
    assert found.named_streams_.image.cache_dir == "auto"
    found.set_params(image__cache_dir=None)
    assert found.transform(X) == tokens
    write_bert(tmp_path / "there" / "bert", seed=5)
    other = skmoecbm.load(tmp_path / "model", backbones=places)
    with pytest.raises(InputError, match=r"Expert 'text' was fitted with another model.*weights"):
        other.transform(X)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["streams"][0]["encoder"].update(width=0), "greater than or equal to 1"),
        (lambda m: m["streams"][0]["encoder"].update(n_tokens=7), "not that of the grid"),
        (lambda m: m["streams"][0].update(name="a__b"), "without '__'"),
        (lambda m: m.update(streams=m["streams"][:1] * 2), "distinct"),
        (lambda m: m.update(parameters={"streams": []}), "parameters of TokenUnion"),
        (lambda m: m["streams"][0]["encoder"]["parameters"].update(grid=-1), "'grid'"),
        (lambda m: m["streams"][0]["encoder"]["parameters"].update(extra=1), "'extra'"),
        (
            lambda m: m["streams"][1]["encoder"]["parameters"].update(backbone="local-dir:/etc/x"),
            "names a path",
        ),
        (
            lambda m: m["streams"][1]["encoder"]["parameters"].update(cache_dir="/tmp"),
            "names a folder for the cache",
        ),
        (
            lambda m: m["streams"][1]["encoder"]["backbone_identity"]["tokens"].update(
                max_length=8
            ),
            "fingerprint of stream 'text'",
        ),
        (
            lambda m: m["streams"][1]["encoder"]["backbone_identity"].update(code="x"),
            "Extra inputs",
        ),
    ],
)
def test_an_edited_file_is_refused(tmp_path, change, message):
    skmoecbm.save(union().fit(RECORDS), tmp_path / "model")
    edited(tmp_path / "model", change)
    with pytest.raises(FormatError, match=message):
        skmoecbm.load(tmp_path / "model")


def test_an_encoder_of_others_has_no_safe_form():
    class Own(TokenEncoder):
        pass

    given = TokenUnion([("image", Own("demo-general", cache_dir=None))])
    with pytest.raises(InputError, match=r"Stream 'image' has a Own, which cannot be saved"):
        skmoecbm.save(given.fit([RECORDS[0][:1]]), "nowhere")


def test_the_config_has_no_place_for_what_it_does_not_name(tmp_path):
    skmoecbm.save(union().fit(RECORDS), tmp_path / "model")
    text = (tmp_path / "model" / "config.json").read_text()
    assert parse_config(text).to_json() == text


def test_a_whole_pipeline_is_what_it_was(tmp_path):
    rng = np.random.default_rng(0)
    images = list(rng.integers(0, 255, (24, 64, 64, 3), dtype=np.uint8))
    X = [(image, "dark clods" if i % 2 else "milky veil") for i, image in enumerate(images)]
    X[3], X[4] = (images[3], None), (None, X[4][1])
    classifier = CrossModalMoEClassifier(
        n_experts=2, top_k=1, width=8, expert_hidden=8, random_state=0, device="cpu"
    )
    model = Pipeline([("tokens", union()), ("clf", classifier)]).fit(X, np.arange(24) % 2)
    skmoecbm.save(model, tmp_path / "model")
    found = skmoecbm.load(tmp_path / "model", device="cpu", check_backbones=True)
    np.testing.assert_allclose(found.predict_proba(X), model.predict_proba(X), atol=1e-12)
    card = (tmp_path / "model" / "README.md").read_text()
    assert "It takes records of `image`, `text`: a DataFrame" in card
    assert "Research on how images and texts are classified, on data" in card
    assert "## Encoders" in card and "5 tokens of width 384" in card and "## Classes" in card
