"""The backbones of a loaded model: pinned to their commit, placed, checked, on a device."""

import contextlib
import json

import huggingface_hub
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

import skmoecbm
import skmoecbm._model_cache as model_cache
from skmoecbm import (
    ConceptBottleneckClassifier,
    ConceptEncoder,
    ExpertUnion,
    GatedConceptBottleneckClassifier,
    InputError,
    load,
    save,
)
from skmoecbm._model_backbones import check_backbones, encoders_of, set_backbones, set_device
from skmoecbm._model_writing import model_files
from skmoecbm.backbones import clear_backbones
from tests.backbone_fixtures import write_biomedclip, write_clip
from tests.hub_server import served, use_hub
from tests.hub_store import files_of

CONCEPTS = {"mel": ["streaks", "black color"], "nv": ["globules", "pigment network"]}
NAME = "hf-hub:org/clip"


@pytest.fixture(autouse=True)
def fresh_cache():
    yield
    clear_backbones()


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (9, 12, 3)).astype(np.uint8) for _ in range(6)]


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A small Hub with two commits of one model; yields what it serves, to be changed."""
    for name, seed in (("first", 0), ("second", 1)):
        write_clip(tmp_path / name, seed=seed)
    first, second = files_of(tmp_path / "first"), files_of(tmp_path / "second")
    with served() as double:
        double.repositories["org/clip"] = {"main": first, "v2": second}
        use_hub(monkeypatch, double, tmp_path / "hub-cache")
        yield double.repositories["org/clip"]


def _move_main(hub):
    """Let "main" be another commit; the first stays there under its hash."""
    hub.commit("main", hub["v2"])
    clear_backbones()


def _lose(hub):
    """Let the repository hold no commit any more."""
    hub.heads.clear()
    hub.commits.clear()


def _encoder(**settings):
    return ConceptEncoder(NAME, CONCEPTS, cache_dir=None, device="cpu", **settings)


@pytest.mark.parametrize("revision", [None, "main"])
def test_a_fitted_or_loaded_encoder_keeps_its_commit_when_the_branch_moves(
    hub, images, tmp_path, revision
):
    first = hub.heads["main"]
    encoder = _encoder(revision=revision).fit(images)
    expected = np.asarray(encoder.transform(images))
    texts = encoder.embed_texts(["streaks"])
    save(encoder, tmp_path / "model")
    _move_main(hub)
    second = hub.heads["main"]
    for model in (encoder, load(tmp_path / "model")):
        np.testing.assert_array_equal(np.asarray(model.transform(images)), expected)
        np.testing.assert_array_equal(model.embed_texts(["streaks"]), texts)
        check_backbones(model)
        assert model.get_params()["revision"] == revision
        assert model.backbone_identity_["revision"] == first
        # a new fit, of it or of a clone, is as the parameters say: today's commit
        assert clone(model).fit(images).backbone_identity_["revision"] == second
        assert model.fit(images).backbone_identity_["revision"] == second
        assert np.abs(np.asarray(model.transform(images)) - expected).max() > 0.01


def test_a_revision_or_backbone_that_is_set_is_the_one_that_is_used(hub, images, tmp_path):
    encoder = _encoder().fit(images)
    save(encoder, tmp_path / "model")
    for change in ({"revision": "v2"}, {"backbone": f"local-dir:{tmp_path / 'second'}"}):
        model = load(tmp_path / "model").set_params(**change)
        with pytest.raises(InputError, match=r"; weights \(sha256 \w{12} was recorded, \w{12} is"):
            model.transform(images)
    back = load(tmp_path / "model").set_params(revision="v2").set_params(revision=None)
    np.testing.assert_array_equal(
        np.asarray(back.transform(images)), np.asarray(encoder.transform(images))
    )


def test_the_commit_is_found_without_a_network(hub, images, tmp_path, monkeypatch):
    encoder = _encoder().fit(images)
    expected = np.asarray(encoder.transform(images))
    save(encoder, tmp_path / "model")
    _lose(hub)
    clear_backbones()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    np.testing.assert_array_equal(np.asarray(load(tmp_path / "model").transform(images)), expected)


def test_fit_and_transform_share_one_network(hub, images, monkeypatch):
    built, original = [], model_cache.build_network
    monkeypatch.setattr(
        model_cache, "build_network", lambda source: built.append(source.name) or original(source)
    )
    encoder = _encoder().fit(images)
    encoder.transform(images)
    encoder.fit(images).transform(images)
    assert built == [NAME]


def test_a_network_and_its_commit_take_one_place_in_the_cache(hub, tmp_path, monkeypatch):
    built, original = [], model_cache.build_network
    monkeypatch.setattr(
        model_cache, "build_network", lambda source: built.append(source.name) or original(source)
    )
    cache = model_cache.NetworkCache(2)
    places = [f"local-dir:{tmp_path / name}" for name in ("first", "second")]
    device = torch.device("cpu")
    network = cache.get(NAME, None, device)
    commit = network.source.revision
    cache.get(places[0], None, device)
    assert cache.get(NAME, commit, device) is network  # used last, under either name
    cache.get(places[1], None, device)
    assert cache.get(NAME, None, device) is network
    assert len(built) == 3
    cache.get(places[0], None, device)
    cache.get(places[1], None, device)
    assert cache.get(NAME, commit, device) is not network  # dropped under both names
    assert len(built) == 6


def test_a_hub_model_that_lies_in_a_folder_here_is_the_same(hub, images, tmp_path):
    encoder = _encoder(revision="main").fit(images)
    expected = np.asarray(encoder.transform(images))
    save(encoder, tmp_path / "model")
    _lose(hub)
    for folder, problem in (("first", None), ("second", "weights")):
        model = load(
            tmp_path / "model", backbones={"ConceptEncoder": f"local-dir:{tmp_path / folder}"}
        )
        assert model.revision is None  # it was of the Hub
        assert model_files(model) == model_files(encoder)
        context = contextlib.nullcontext()
        if problem:
            context = pytest.raises(InputError, match=rf"Expert 'ConceptEncoder' .*{problem}")
        with context:
            check_backbones(model)
            np.testing.assert_array_equal(np.asarray(model.transform(images)), expected)


def test_a_text_tower_that_was_changed_in_its_own_repository_is_told(tmp_path, monkeypatch):
    write_biomedclip(tmp_path / "m")
    files = files_of(tmp_path / "m")
    config = files.pop("text_config.json")
    with served() as double:
        use_hub(monkeypatch, double, tmp_path / "hub-cache")
        double.repositories["org/biomed"] = {"main": files}
        double.repositories["someone/a-bert-on-the-hub"] = {"main": {"config.json": config}}
        bert = double.repositories["someone/a-bert-on-the-hub"]
        encoder = ConceptEncoder(
            "hf-hub:org/biomed", ["red dots", "no hair"], cache_dir=None, modality="text"
        ).fit(["hair"])
        encoder.transform(["hair"])
        clear_backbones()
        changed = json.dumps({**json.loads(config), "pad_token_id": 1}).encode()
        bert.commit("main", {"config.json": changed})
        told = r"is now: architecture \(sha256 \w{12} was recorded, \w{12} is here\)\. Fit"
        with pytest.raises(InputError, match=told):
            encoder.transform(["hair"])


# Every kind of model


def _union(*more):
    return ExpertUnion(
        [
            ("general", ConceptEncoder("demo-general", "lesions", cache_dir=None), "image"),
            ("words", ConceptEncoder("demo-structures", "lesions", modality="text"), "report"),
            *more,
        ]
    )


def _frame(images):
    import pandas as pd

    reports = ["streaks", "globules", None, "pigment network", "globules", "streaks"]
    return pd.DataFrame({"image": images, "report": reports, "age": np.arange(6.0)})


Y = np.array(["mel", "nv"] * 3)
MIXTURE = GatedConceptBottleneckClassifier(ConceptBottleneckClassifier(alpha=1.0))


def _fitted(kind, images):
    frame = _frame(images)
    encoder = ConceptEncoder("demo-general", "lesions", cache_dir=None)
    if kind == "encoder":
        return encoder.fit(images), images
    if kind == "encoder in a pipeline":
        model = Pipeline([("see", encoder), ("say", ConceptBottleneckClassifier())])
        return model.fit(images, Y), images
    if kind == "union":
        return _union().fit(frame), frame
    return make_pipeline(_union(), MIXTURE).fit(frame, Y), frame


KINDS = {
    "encoder": {"ConceptEncoder"},
    "encoder in a pipeline": {"see"},
    "union": {"general", "words"},
    "union in a pipeline": {"general", "words"},
}


@pytest.mark.filterwarnings("ignore:No gate could be fitted")
@pytest.mark.parametrize("kind", KINDS)
def test_backbones_are_placed_checked_and_named_in_every_kind(kind, images, tmp_path):
    model, X = _fitted(kind, images)
    assert set(encoders_of(model)) == KINDS[kind]
    save(model, tmp_path / "model")
    use = "transform" if hasattr(model, "transform") else "predict_proba"
    expected = np.asarray(getattr(model, use)(X))
    demo = skmoecbm.__path__[0] + "/_demo/"
    places = {"words": f"local-dir:{demo}structures"}
    places = {name: places.get(name, f"local-dir:{demo}general") for name in KINDS[kind]}
    again = load(tmp_path / "model", backbones=places)
    check_backbones(again)
    # another name has another store, and texts in other batches round otherwise
    np.testing.assert_allclose(np.asarray(getattr(again, use)(X)), expected, atol=1e-5)
    assert {name: one.backbone for name, one in encoders_of(again).items()} == places
    # where it lies here is not of the model
    assert model_files(again) == model_files(model)

    name = sorted(KINDS[kind])[-1]
    wrong = "general" if name == "words" else "structures"
    set_backbones(again, {name: f"demo-{wrong}"})
    with pytest.raises(InputError, match=rf"Expert '{name}' .*'demo-{wrong}' is now: model.*weigh"):
        check_backbones(again)
    with pytest.raises(InputError, match=rf"names 'x'; .* with a backbone are \['{min(places)}'"):
        set_backbones(again, {"x": "demo-general"})
    with pytest.raises(InputError, match=f"must give '{name}' the name of a model, a str. Got 3"):
        set_backbones(again, {name: 3})


@pytest.mark.filterwarnings("ignore:No gate could be fitted")
@pytest.mark.parametrize("kind", KINDS)
def test_a_device_reaches_every_encoder_and_classifier(kind, images, tmp_path, monkeypatch):
    model, X = _fitted(kind, images)
    save(model, tmp_path / "model")
    again = load(tmp_path / "model", device="cpu")
    parts = [*encoders_of(again).values()]
    parts += [again[-1]] if hasattr(again, "predict") else []
    assert {part.device for part in parts} == {"cpu"}
    use = "transform" if hasattr(model, "transform") else "predict_proba"
    for one in (again, load(tmp_path / "model")):
        np.testing.assert_array_equal(
            np.asarray(getattr(one, use)(X)), np.asarray(getattr(model, use)(X))
        )
    assert {part.device for part in encoders_of(load(tmp_path / "model")).values()} == {"auto"}
    set_device(again, None)
    assert {part.device for part in parts} == {"cpu"}
    set_device(again, torch.device("cpu"))
    assert {part.device for part in parts} == {"cpu"}
    save(again, tmp_path / "again")  # a device is a str there
    # on this machine, with as many GPUs as we say
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    set_device(again, "cuda:1")
    assert {part.device for part in parts} == {"cuda:1"}
    if hasattr(again, "predict"):
        assert not {head.device for head in getattr(again[-1], "heads_", ())} - {"auto"}
    for bad in ("cuda:2", "gpu", 3):
        with pytest.raises(InputError, match="device"):
            set_device(again, bad)
    assert {part.device for part in parts} == {"cuda:1"}


def test_a_device_that_is_not_here_is_told_before_anything_is_read(tmp_path):
    with pytest.raises(InputError, match="'device' parameter of load"):
        load(tmp_path / "nowhere", device="quantum")


def test_experts_without_a_backbone_are_passed_over(images):
    frame = _frame(images)
    union = _union(("age", StandardScaler(), ["age"])).fit(frame)
    assert set(encoders_of(union)) == {"general", "words"}
    set_device(union, "cpu")
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(np.eye(6), Y)
    assert encoders_of(model) == {}
    check_backbones(model)
    set_device(model, "cpu")
