"""A token, a cache folder and silence reach a model's backbones; and no token is left anywhere."""

import logging
import pickle
import traceback

import huggingface_hub
import numpy as np
import pytest
from sklearn.pipeline import make_pipeline

import skmoecbm._hub_access as hub_access
import skmoecbm._hub_errors as hub_errors
from skmoecbm import (
    BackboneError,
    ConceptBottleneckClassifier,
    ConceptEncoder,
    HubError,
    InputError,
    from_pretrained,
    load,
    push_to_hub,
    save,
)
from skmoecbm.backbones import clear_backbones, load_backbone
from skmoecbm.datasets import make_lesions
from tests.backbone_fixtures import write_cut_clip
from tests.hub_server import served, use_hub
from tests.hub_store import Repository, files_of

NAME, BACKBONE, TOKEN = "ana/skin", "hf-hub:ana/tiny", "hf_the_secret_of_ana"
CONCEPTS = {"mel-like": ["blue veil", "dark dots"], "nv-like": ["even colour", "round border"]}


@pytest.fixture(scope="module")
def images():
    data = make_lesions(30, random_state=0)
    return list(data.images), np.where(data.target == "mel-like", "mel-like", "nv-like")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The files of two tiny image-text models."""
    folder = tmp_path_factory.mktemp("backbones")
    for seed in (0, 1):
        write_cut_clip(folder / str(seed), seed=seed)
    return [files_of(folder / str(seed)) for seed in (0, 1)]


@pytest.fixture
def hub(monkeypatch, tmp_path, tiny):
    """Serve a double of the Hub with a private backbone; Ana may read and write."""
    with served() as double:
        double.tokens[TOKEN] = "ana"
        double.repositories["ana/tiny"] = Repository({"main": tiny[0]}, private=True)
        use_hub(monkeypatch, double, tmp_path / "cache")
        monkeypatch.setattr(hub_errors.time, "sleep", lambda seconds: None)
        monkeypatch.setattr(hub_access, "_accesses", {})
        clear_backbones()
        yield double
        clear_backbones()


@pytest.fixture
def model(hub, monkeypatch, images):
    """Fit with the backbone on the Hub, with the token of the environment; then forget all."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    encoder = ConceptEncoder(BACKBONE, CONCEPTS, cache_dir=None, device="cpu")
    fitted = make_pipeline(encoder, ConceptBottleneckClassifier(alpha=1.0)).fit(*images)
    expected = fitted.predict_proba(images[0][:4])
    monkeypatch.delenv("HF_TOKEN")
    forget(monkeypatch, hub, "second")
    return fitted, expected


def forget(monkeypatch, hub, cache):
    """Go on with an empty cache and no network in memory, as on another machine."""
    clear_backbones()
    folder = huggingface_hub.constants.HF_HUB_CACHE + "-" + cache
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", folder)
    hub.requests.clear()


def test_the_token_reaches_a_private_backbone_when_it_is_first_used(hub, model, images):
    push_to_hub(model[0], NAME, token=TOKEN)
    loaded = from_pretrained(NAME, token=TOKEN)
    assert not hub.seen("GET", "ana/tiny")
    np.testing.assert_array_equal(loaded.predict_proba(images[0][:4]), model[1])
    seen = hub.seen("GET", "ana/tiny")
    assert seen and all(h["Authorization"] == f"Bearer {TOKEN}" for h in seen)
    # storage elsewhere is reached by address alone
    stored = hub.seen("GET", "/cdn/")
    assert stored and not any("Authorization" in headers for headers in stored)


def test_without_the_token_the_backbone_says_what_to_do(hub, model, images, tmp_path):
    save(model[0], tmp_path / "model")
    for options in ({}, {"token": False}):
        with pytest.raises(BackboneError, match="there is no such repository, or it is private"):
            load(tmp_path / "model", **options).predict(images[0][:1])
    with pytest.raises(BackboneError, match=r"does not accept the token \(401\)"):
        load(tmp_path / "model", token="hf_wrong").predict(images[0][:1])
    loaded = load(tmp_path / "model", token=TOKEN)
    np.testing.assert_array_equal(loaded.predict_proba(images[0][:4]), model[1])


def test_model_and_backbone_go_to_the_cache_folder_and_load_from_it(
    hub, model, images, tmp_path, monkeypatch
):
    push_to_hub(model[0], NAME, token=TOKEN)
    where = {"cache_dir": tmp_path / "mine"}
    loaded = from_pretrained(NAME, token=TOKEN, check_backbones=True, **where)
    assert {path.name for path in (tmp_path / "mine").glob("models--*")} == {
        "models--ana--skin", "models--ana--tiny",
    }  # fmt: skip
    np.testing.assert_array_equal(loaded.predict_proba(images[0][:4]), model[1])
    clear_backbones()
    hub.requests.clear()
    again = from_pretrained(NAME, local_files_only=True, **where)
    np.testing.assert_array_equal(again.predict_proba(images[0][:4]), model[1])
    clear_backbones()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    again = from_pretrained(NAME, **where)
    np.testing.assert_array_equal(again.predict_proba(images[0][:4]), model[1])
    assert hub.requests == []


def test_asking_nobody_holds_for_backbones_too(hub, model, images, tmp_path):
    save(model[0], tmp_path / "model")
    loaded = load(tmp_path / "model", token=TOKEN, local_files_only=True)
    with pytest.raises(BackboneError, match="local_files_only=True asks nobody"):
        loaded.predict(images[0][:1])
    assert hub.requests == []


def test_the_backbone_stays_at_the_commit_of_the_fit(hub, model, images, tiny):
    push_to_hub(model[0], NAME, token=TOKEN)
    commit = hub.repositories["ana/tiny"].heads["main"]
    hub.repositories["ana/tiny"].commit("main", tiny[1])
    loaded = from_pretrained(NAME, token=TOKEN)
    np.testing.assert_array_equal(loaded.predict_proba(images[0][:4]), model[1])
    revisions = {path for m, path, _ in hub.requests if "ana/tiny" in path and "revision" in path}
    assert all(commit in path for path in revisions)


def test_an_air_gapped_machine_needs_two_folders(hub, model, images, tmp_path, monkeypatch):
    push_to_hub(model[0], NAME, token=TOKEN)
    for repo in (NAME, "ana/tiny"):
        place = tmp_path / repo.partition("/")[2]
        huggingface_hub.snapshot_download(repo, local_dir=place, token=TOKEN)
    forget(monkeypatch, hub, "third")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    backbones = {"conceptencoder": f"local-dir:{tmp_path / 'tiny'}"}
    loaded = load(tmp_path / "skin", backbones=backbones, local_files_only=True)
    np.testing.assert_array_equal(loaded.predict_proba(images[0][:4]), model[1])
    assert hub.requests == []


def test_the_last_load_decides_how_a_backbone_is_fetched(hub, model, images, tmp_path):
    save(model[0], tmp_path / "model")
    first = load(tmp_path / "model", local_files_only=True)
    load(tmp_path / "model", token=TOKEN)
    np.testing.assert_array_equal(first.predict_proba(images[0][:4]), model[1])


# Tokens


def chain(error):
    """Return an error and all that it came from."""
    found = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def told_by(error):
    """Return all that is told of an error when it is printed, shown or sent elsewhere."""
    told = ["".join(traceback.format_exception(error))]
    for one in chain(error):
        told += [str(one), repr(one), repr(one.args), repr(vars(one))]
        request = getattr(getattr(one, "response", None), "request", None)
        told.append(repr(list(getattr(request, "headers", {}).raw)) if request else "")
    return "\n".join(told)


def test_no_token_is_left_in_files_logs_errors_or_pickles(
    hub, model, images, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr(huggingface_hub.constants, "HF_DEBUG", True)
    caplog.set_level(logging.DEBUG)
    for name in ("huggingface_hub", "skmoecbm"):
        logger = logging.getLogger(name)
        monkeypatch.setattr(logger, "propagate", True)
        caplog.set_level(logging.DEBUG, logger=name)
    push_to_hub(model[0], NAME, token=TOKEN, tag="v1")
    loaded = from_pretrained(NAME, token=TOKEN, cache_dir=tmp_path / "mine")
    loaded.predict(images[0][:2])
    save(loaded, tmp_path / "saved")
    texts = [pickle.dumps(loaded), repr(loaded).encode(), caplog.text.encode()]
    texts += [repr(vars(record)).encode() for record in caplog.records]
    assert "Request" in caplog.text  # what the client logs of its requests is among them
    echo = {"X-Error-Message": f"the token {TOKEN} may not do that"}

    def fail(call, expected, **fault):
        hub.faults.clear()
        hub.fail(fault.pop("method", "GET"), fault.pop("pattern", "."), times=10_000, **fault)
        clear_backbones()
        with pytest.raises(expected) as caught:
            call()
        texts.append(told_by(caught.value).encode())

    def read(**options):
        return from_pretrained(
            NAME, token=TOKEN, cache_dir=tmp_path / f"new-{len(texts)}", **options
        )

    for status in (401, 403, 404, 429, 500):
        fail(read, HubError, status=status, headers=echo, body=TOKEN.encode())
    hub.faults.clear()
    fresh = from_pretrained(NAME, token=TOKEN, cache_dir=tmp_path / "fresh")
    fail(lambda: fresh.predict(images[0][:1]), BackboneError, status=403, headers=echo)
    for how in ("cut", "unanswered"):
        for pattern in (r"/cdn/", r"/resolve/"):
            fail(read, HubError, pattern=pattern, how=how)
    for how in ({"status": 403, "headers": echo}, {"how": "cut"}, {"how": "unanswered"}):
        fail(
            lambda: push_to_hub(loaded, "ana/new", token=TOKEN),
            HubError,
            method="POST",
            pattern="preupload|repos/create",
            **how,
        )
    fail(lambda: read(local_files_only=True), HubError, status=500)
    for record in caplog.records:
        # at DEBUG the HTTP library writes down every answer, also that of a server that repeats
        if not record.name.startswith("httpcore"):
            texts.append(record.getMessage().encode())
    for folder in (tmp_path, *tmp_path.iterdir()):
        texts += [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    assert len(texts) > 50
    left = [text.partition(TOKEN.encode())[0][-150:] for text in texts if TOKEN.encode() in text]
    assert left == []


@pytest.mark.parametrize("token", ["hf_a b", "", "hf_\x00a", "hf_ä", 3, b"hf_bytes", ["hf_list"]])
def test_a_malformed_token_is_refused_and_not_shown(hub, model, token):
    for call in (
        lambda: from_pretrained(NAME, token=token),
        lambda: push_to_hub(model[0], NAME, token=token),
    ):
        with pytest.raises(InputError, match="'token' parameter of") as caught:
            call()
        assert not token or str(token) not in str(caught.value)
    assert hub.requests == []


def test_a_token_read_from_a_file_may_end_in_a_line_end(hub, model):
    push_to_hub(model[0], NAME, token=f"{TOKEN}\n")
    assert NAME in hub.repositories


def test_an_access_shows_and_pickles_no_token():
    access = hub_access.HubAccess(token=TOKEN)
    assert TOKEN not in repr(access)
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(access)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cache_dir": 3}, "'cache_dir' parameter of from_pretrained must be a path or None"),
        ({"local_files_only": 1}, "'local_files_only' parameter of from_pretrained"),
    ],
)
def test_malformed_options_are_told(hub, options, message):
    with pytest.raises(InputError, match=message):
        from_pretrained(NAME, **options)
    assert hub.requests == []


def test_weights_that_a_url_has_are_not_asked_for_either(monkeypatch, tmp_path):
    import open_clip

    from tests.backbone_fixtures import CLIP_CFG

    tag = {"url": "https://example.invalid/weights.pt", "mean": (0,) * 3, "std": (1,) * 3}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "Tiny-8", CLIP_CFG)
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "Tiny-8", {"url": tag})
    monkeypatch.setattr(hub_access, "_accesses", {})
    access = hub_access.HubAccess(cache_dir=str(tmp_path), local_files_only=True)
    hub_access.remember_access(["Tiny-8/url"], access)
    with pytest.raises(BackboneError, match="local_files_only=True asks nobody for them"):
        load_backbone("Tiny-8/url", device="cpu")
