"""Models loaded with the real client from a double of the Hub, which fails in many ways."""

import json
import logging
import socket
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import safetensors.numpy

import skmoecbm._hub_errors as hub_errors
from skmoecbm import (
    ConceptBottleneckClassifier,
    FormatError,
    HubError,
    InputError,
    from_pretrained,
    list_models,
    load,
    push_to_hub,
    save,
)
from tests.hub_server import environment, served, use_hub
from tests.hub_store import Repository, files_of

NAME, TOKEN = "ana/skin", "hf_ana_may_read"


def data(seed=0, n=60):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 4))
    return X, (X[:, 0] + 0.3 * rng.normal(size=n) > 0).astype(int)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two classifiers that differ, and the files of each."""
    made = []
    for alpha in (1.0, 9.0):
        folder = tmp_path_factory.mktemp("saved") / "model"
        made.append((ConceptBottleneckClassifier(alpha=alpha).fit(*data()), folder))
        save(*made[-1])
    return [(model, files_of(folder)) for model, folder in made]


@pytest.fixture
def hub(monkeypatch, tmp_path, models):
    """Serve a double of the Hub with the first model; waiting takes no time."""
    with served() as double:
        double.tokens[TOKEN] = "ana"
        double.repositories[NAME] = Repository({"main": dict(models[0][1])})
        use_hub(monkeypatch, double, tmp_path / "cache")
        double.waits = []
        monkeypatch.setattr(hub_errors.time, "sleep", double.waits.append)
        yield double


@pytest.fixture
def offline(monkeypatch):
    """Return what sets HF_HUB_OFFLINE from now on."""
    return lambda: monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def same(loaded, model):
    X, _ = data(1)
    np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))


def test_a_repository_loads_as_a_folder_does(hub, models):
    same(from_pretrained(NAME), models[0][0])
    same(load(NAME), models[0][0])
    assert sorted(hub.downloads) == [f"{NAME}/{name}" for name in sorted(models[0][1])]  # once


def test_only_the_files_of_a_model_are_fetched(hub, models):
    repository = hub.repositories[NAME]
    more = {"notes.txt": b"-", "evil.py": b"-", "pytorch_model.bin": b"-", "a/config.json": b"{}"}
    repository.commit("main", {**models[0][1], **more})
    same(from_pretrained(NAME), models[0][0])
    assert {path.removeprefix(f"{NAME}/") for path in hub.downloads} == set(models[0][1])


def test_a_folder_wins_and_from_pretrained_means_the_hub(hub, models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(models[1][0], tmp_path / "ana" / "skin")
    same(load(NAME), models[1][0])
    assert hub.requests == []
    with pytest.raises(InputError, match=r"'ana/skin' is a folder here.*call from_pretrained"):
        load(NAME, revision="main")
    same(from_pretrained(NAME), models[0][0])


def test_a_path_that_is_no_repository_makes_no_request(hub, tmp_path):
    for source in (tmp_path / "a" / "b", "../a/b", "a/b/c", "a", "./a"):
        with pytest.raises(FormatError, match="There is no folder"):
            load(source)
    with pytest.raises(InputError, match=r"'a' is not the name of one"):
        load("a", revision="v1")
    with pytest.raises(InputError, match="'source' parameter of load"):
        load(None)
    with pytest.raises(InputError, match="'repo_id' parameter of from_pretrained"):
        from_pretrained("skin")
    with pytest.raises(InputError, match="'revision' parameter"):
        from_pretrained(NAME, revision=3)
    assert hub.requests == []


def test_a_revision_pins_when_the_branch_moves_on(hub, models):
    repository = hub.repositories[NAME]
    first = repository.tags["v1"] = repository.heads["main"]
    repository.commit("main", dict(models[1][1]))
    repository.commit("feature/x", dict(models[1][1]))
    for revision, wanted in ((None, 1), ("main", 1), ("v1", 0), (first, 0), ("feature/x", 1)):
        same(from_pretrained(NAME, revision=revision), models[wanted][0])


def test_a_commit_in_the_cache_is_loaded_without_a_request(hub, models):
    commit = hub.repositories[NAME].heads["main"]
    from_pretrained(NAME, revision=commit)
    hub.requests.clear()
    same(from_pretrained(NAME, revision=commit), models[0][0])
    assert hub.requests == []


def test_a_branch_that_moves_while_it_is_read_is_loaded_at_one_commit(hub, models, monkeypatch):
    repository = hub.repositories[NAME]
    whole = huggingface_hub.snapshot_download

    def move_first(*args, **kwargs):
        if len(repository.commits) == 1:
            repository.commit("main", dict(models[1][1]))
        return whole(*args, **kwargs)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", move_first)
    same(from_pretrained(NAME), models[1][0])


# What is there is not a model


def config_with(files, **changes):
    return json.dumps({**json.loads(files["config.json"]), **changes}).encode()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: {"model.safetensors": b"-"}, "is not a model saved by skmoecbm: it has no conf"),
        (lambda f: {"config.json": f["config.json"]}, "it has no model.safetensors"),
        (lambda f: {**f, "config.json": b'{"model_type": "bert"}'}, "has no 'format_version'"),
        (lambda f: {**f, "config.json": b"[1"}, "is not valid JSON"),
        (lambda f: {**f, "config.json": config_with(f, format_version=99)}, "format version 99"),
        (
            lambda f: {**f, "model.safetensors": f["model.safetensors"] + bytes(10**6)},
            r"has a model.safetensors of 1,\d\d\d,\d\d\d bytes, but its config.json declares",
        ),
    ],
)
def test_what_is_not_a_model_is_told_before_its_arrays_are_fetched(hub, models, change, message):
    hub.repositories[NAME].commit("main", change(models[0][1]))
    with pytest.raises(FormatError, match=message) as caught:
        from_pretrained(NAME)
    assert NAME in str(caught.value)
    assert f"{NAME}/model.safetensors" not in hub.downloads


def test_a_config_that_is_too_large_is_not_fetched(hub, models):
    large = models[0][1]["config.json"] + b" " * (64 * 2**20)
    hub.repositories[NAME].commit("main", {**models[0][1], "config.json": large})
    with pytest.raises(FormatError, match=r"config.json of 64 MB; more than 48 MB is not loaded"):
        from_pretrained(NAME)
    assert hub.downloads == []


def test_arrays_that_were_replaced_end_in_a_format_error(hub, models):
    arrays = safetensors.numpy.load(models[0][1]["model.safetensors"])
    other = safetensors.numpy.save({name: array + 1 for name, array in arrays.items()})
    hub.repositories[NAME].commit("main", {**models[0][1], "model.safetensors": other})
    with pytest.raises(FormatError, match=r"is not the file that config.json was saved with"):
        from_pretrained(NAME)


# Who may read


def test_missing_private_and_gated_repositories_say_what_to_do(hub, models):
    with pytest.raises(HubError) as caught:
        from_pretrained("ana/nothing")
    assert str(caught.value) == (
        "Could not get the model 'ana/nothing' from the Hugging Face Hub: there is no such "
        "repository, or it is private. Check the name. Log in with `hf auth login`, set HF_TOKEN, "
        "or give a token that may read it if it is private."
    )
    with pytest.raises(HubError) as by_load:
        load("ana/nothing")
    assert str(by_load.value) == f"{caught.value} There is no folder 'ana/nothing' here either."
    with pytest.raises(HubError, match=r"at revision 'v9' .*has no such revision\. Give a branch"):
        from_pretrained(NAME, revision="v9")
    with pytest.raises(HubError, match=r"no such revision\. Give .* that its page lists\.$"):
        load(NAME, revision="v9")  # a folder would not have it either
    hub.repositories[NAME].private = True
    with pytest.raises(HubError, match="or it is private"):
        from_pretrained(NAME)
    with pytest.raises(HubError, match=r"does not accept the token \(401\)"):
        from_pretrained(NAME, token="hf_wrong")
    same(from_pretrained(NAME, token=TOKEN), models[0][0])
    hub.repositories[NAME].private, hub.repositories[NAME].gated = False, True
    repository = hub.repositories[NAME]
    repository.commit("main", dict(models[1][1]))
    with pytest.raises(HubError, match=r"its owners grant access.*Ask for access on its page"):
        from_pretrained(NAME, token=False)


def test_the_token_of_the_environment_is_used_unless_it_is_false(hub, models, monkeypatch):
    hub.repositories[NAME].private = True
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    same(from_pretrained(NAME), models[0][0])
    hub.repositories[NAME].commit("main", dict(models[1][1]))
    with pytest.raises(HubError, match="or it is private"):
        from_pretrained(NAME, token=False)


# Faults


@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize(
    ("method", "pattern"),
    [
        ("GET", "blobs=True|blobs=true"),
        ("GET", "/revision/main$|/api/models/ana/skin$"),
        ("GET", "/tree/"),
        ("HEAD", "/resolve/.*/config.json"),
        ("GET", "/resolve/.*/config.json"),
        ("GET", "/cdn/"),
    ],
)
def test_a_fault_that_passes_ends_in_the_model(hub, models, method, pattern, status):
    hub.fail(method, pattern, status=status, headers={"Retry-After": "3"})
    same(from_pretrained(NAME), models[0][0])


@pytest.mark.parametrize("name", ["config.json", "/cdn/"])
def test_a_download_cut_in_the_middle_goes_on_where_it_was(hub, models, monkeypatch, name):
    # the client gives on what it has in such chunks; a real model has many of them
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 64)
    hub.fail("GET", rf"/(resolve|cdn)/.*{name}|{name}", how="cut")
    same(from_pretrained(NAME), models[0][0])
    assert hub.faults[0]["times"] == 0
    ranges = [headers.get("Range") for headers in hub.seen("GET", name)]
    assert any(told and int(told.removeprefix("bytes=").rstrip("-")) > 0 for told in ranges)


def test_what_was_cut_is_never_loaded_and_the_next_try_starts_again(hub, models, offline, tmp_path):
    hub.fail("GET", "/cdn/", how="cut", times=1000)
    with pytest.raises(HubError, match=r"connection to the Hub failed.*try again later"):
        from_pretrained(NAME)
    cached = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert models[0][1]["model.safetensors"] not in [path.read_bytes() for path in cached]
    assert not [path for path in cached if path.suffix in (".incomplete", ".safetensors")]
    with pytest.raises(HubError, match="does not hold it"):
        from_pretrained(NAME, local_files_only=True)
    hub.faults.clear()
    hub.downloads.clear()
    same(from_pretrained(NAME), models[0][0])
    assert sorted(hub.downloads) == [f"{NAME}/README.md", f"{NAME}/model.safetensors"] or (
        hub.downloads == [f"{NAME}/model.safetensors"]
    )
    offline()
    same(from_pretrained(NAME), models[0][0])


def test_a_hub_out_of_order_gives_the_copy_in_the_cache_and_says_so(hub, models, caplog):
    commit = hub.repositories[NAME].heads["main"]
    hub.fail("GET", ".*", status=503, times=1000)
    with pytest.raises(HubError, match=r"the Hub has a fault of its own \(503\)\. Try again later"):
        from_pretrained(NAME)
    hub.faults.clear()
    from_pretrained(NAME)
    hub.fail("GET", ".*", status=503, times=1000)
    with caplog.at_level(logging.WARNING, "skmoecbm"):
        same(from_pretrained(NAME), models[0][0])
    assert f"The copy in the cache is taken, of commit {commit}." in caplog.text


def test_an_update_that_fails_leaves_what_was_loaded_to_load_offline(hub, models, offline):
    from_pretrained(NAME)
    hub.repositories[NAME].commit("main", dict(models[1][1]))
    hub.fail("GET", "/cdn/", how="cut", times=1000)
    same(from_pretrained(NAME), models[0][0])
    same(from_pretrained(NAME, local_files_only=True), models[0][0])
    hub.faults.clear()
    same(from_pretrained(NAME), models[1][0])
    offline()
    same(from_pretrained(NAME), models[1][0])


def test_what_is_cached_is_not_waited_for_long_nor_fetched_again(hub, models, caplog):
    from_pretrained(NAME)
    hub.requests.clear()
    same(from_pretrained(NAME), models[0][0])
    assert len(hub.requests) == 1  # is it the commit that the cache holds?
    hub.fail("GET", ".*", how="cut", times=1000)
    with caplog.at_level(logging.WARNING, "skmoecbm"):
        same(from_pretrained(NAME), models[0][0])
    assert sum(hub.waits) <= 1
    assert "the connection to the Hub failed (" in caplog.text
    assert "Check the network, and try again later." in caplog.text


@pytest.mark.parametrize(
    ("status", "method", "pattern", "told"),
    [
        (401, "GET", "/api/models/", r"accept the token \(401\)\. Make a new one"),
        (403, "GET", "/api/models/", r"may not do that \(403\)\. Log in .* that may read it\."),
        (401, "GET", "/cdn/", r"storage refuses the file \(401\)\. Try again: "),
        (403, "GET", "/cdn/", r"storage refuses the file \(403\)\. Try again: "),
        (404, "GET", "/api/models/", r"404 .*Check the name, and HF_ENDPOINT if that is set\."),
        (409, "HEAD", "/resolve/", r"somebody else changed it meanwhile \(409\)\. Look at"),
    ],
)
def test_what_is_refused_has_a_way_on(hub, status, method, pattern, told):
    hub.fail(method, pattern, status=status, times=1000)
    with pytest.raises(HubError, match=told):
        from_pretrained(NAME, token=TOKEN)
    assert hub.waits == [] and len(hub.requests) < 12  # nothing of this passes


def test_the_hub_s_own_header_says_how_long_to_wait(hub, models, tmp_path):
    limit = {"RateLimit": '"api";r=0;t=41', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'}
    hub.fail("GET", "/api/models/", status=429, headers=limit)
    same(from_pretrained(NAME), models[0][0])
    assert hub.waits == [41]
    hub.repositories[NAME].commit("main", dict(models[1][1]))
    limit["RateLimit"] = '"api";r=0;t=290'
    hub.fail("GET", "/api/models/", status=429, headers=limit)
    with pytest.raises(HubError, match=r"too many requests \(429\), and asks to wait 290 seconds"):
        from_pretrained(NAME, revision="main", cache_dir=tmp_path / "new")


def test_an_address_that_signs_for_somebody_is_not_told(hub):
    error = ValueError("416 for url 'https://cdn.example/a?Signature=abc&Key-Pair-Id=K' here")
    told = str(hub_errors.hub_error("Could not get it", error))
    assert "Signature" not in told and "https://cdn.example/a' here" in told


def test_a_repository_that_is_gone_is_told_though_the_cache_holds_it(hub, models):
    from_pretrained(NAME)
    hub.repositories.clear()
    with pytest.raises(HubError, match="there is no such repository"):
        from_pretrained(NAME)
    same(from_pretrained(NAME, local_files_only=True), models[0][0])


# Without a network


def test_what_was_loaded_once_loads_again_without_a_request(hub, models, offline, tmp_path):
    for name in ("default", "other"):
        options = {} if name == "default" else {"cache_dir": tmp_path / "other"}
        from_pretrained(NAME, **options)
        hub.requests.clear()
        same(from_pretrained(NAME, local_files_only=True, **options), models[0][0])
        same(load(NAME, local_files_only=True, **options), models[0][0])
        assert hub.requests == []
    offline()
    same(from_pretrained(NAME), models[0][0])
    assert hub.requests == []


def test_what_was_never_loaded_is_a_sentence_without_a_network(hub, offline):
    told = (
        "Could not get the model 'ana/skin' from the Hugging Face Hub: the Hugging Face cache does "
        "not hold it, and {}. Load it once where there is a network; or fetch it there "
        "(`hf download REPO --local-dir FOLDER`), bring the folder here and load that."
    )
    with pytest.raises(HubError) as caught:
        from_pretrained(NAME, local_files_only=True)
    assert str(caught.value) == told.format("local_files_only=True asks nobody")
    offline()
    with pytest.raises(HubError) as caught:
        from_pretrained(NAME)
    assert str(caught.value) == told.format("HF_HUB_OFFLINE is set")
    assert hub.requests == []


def test_a_folder_that_hf_download_made_is_loaded(hub, models, tmp_path):
    folder = huggingface_hub.snapshot_download(NAME, local_dir=tmp_path / "brought")
    hub.requests.clear()
    same(load(folder), models[0][0])
    snapshot = huggingface_hub.snapshot_download(NAME)  # links into the cache
    same(load(snapshot), models[0][0])


CHILD = """
import sys
import numpy as np
from skmoecbm import HubError, from_pretrained
X = np.load(sys.argv[1])
np.save(sys.argv[2], from_pretrained("ana/skin").predict_proba(X))
try:
    from_pretrained("ana/skin", revision="v9")
except HubError as error:
    print(error)
"""


def test_fresh_processes_predict_bitwise_the_same_with_and_without_the_hub(
    hub, models, tmp_path, monkeypatch
):
    X, _ = data(1)
    np.save(tmp_path / "X.npy", X)
    variables = environment(hub, tmp_path / "theirs")

    def run(out, **changed):
        done = subprocess.run(
            [sys.executable, "-c", CHILD, tmp_path / "X.npy", tmp_path / out],
            env={**variables, **changed}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout

    assert "the repository has no such revision" in run("online.npy")
    hub.repositories[NAME].commit("main", dict(models[1][1]))
    n_requests = len(hub.requests)
    assert "HF_HUB_OFFLINE is set" in run("offline.npy", HF_HUB_OFFLINE="1")
    assert len(hub.requests) == n_requests > 0
    for name in ("online.npy", "offline.npy"):
        np.testing.assert_array_equal(np.load(tmp_path / name), models[0][0].predict_proba(X))


def test_a_commit_cut_short_is_told_to_be_given_whole(hub, models):
    commit = hub.repositories[NAME].heads["main"]
    hint = r"If '[0-9a-f]{7}' is a commit, give the full commit \(40 letters\)\.$"
    for settings in ({}, {"local_files_only": True}):
        with pytest.raises(HubError, match=hint):
            from_pretrained(NAME, revision=commit[:7], **settings)


def test_a_file_or_an_address_is_never_asked_of_the_hub(hub, models, tmp_path, monkeypatch):
    save(models[1][0], tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FormatError, match=r"'model/config.json' is a file; .* folder, 'model'\."):
        load("model/config.json")
    monkeypatch.setenv("HOME", str(tmp_path))
    same(load("~/model"), models[1][0])
    with pytest.raises(InputError, match="home folder of a user who is not here"):
        load("~nobody-of-this-name/model")
    for address in (
        f"https://huggingface.co/{NAME}",
        f"huggingface.co/{NAME}/tree/main?x=1",
        f"hf://{NAME}@v1",
        f"hf-hub:{NAME}",
    ):
        with pytest.raises(InputError, match=f"is an address. Give the name in it, '{NAME}'"):
            load(address)
        for refuse in (from_pretrained, lambda name: push_to_hub(models[0][0], name)):
            with pytest.raises(InputError, match=f"instead. Give '{NAME}'"):
                refuse(address)
    for address in ("https://huggingface.co/datasets/ana/skin", "https://example.org/ana/skin"):
        with pytest.raises(InputError, match=r"is an address\. Give the name of a repository"):
            load(address)
    assert hub.requests == []


def test_backbones_of_another_form_are_refused_before_anything_is_fetched(hub):
    with pytest.raises(InputError, match=r"'backbones' parameter of load must be a dict .*'local-"):
        load(NAME, backbones="local-dir:x")
    for path in ("/models/x", "~/x", "../x", Path("models/x")):
        with pytest.raises(InputError, match=f"gives 'x' the path .* Write 'local-dir:{path}'"):
            from_pretrained(NAME, backbones={"x": path})
    assert hub.requests == []


def test_a_push_with_hf_hub_offline_is_told_before_the_model_is_written(hub, models, offline):
    offline()
    with pytest.raises(HubError, match=f"Could not push to '{NAME}': HF_HUB_OFFLINE is set"):
        push_to_hub("no model at all", NAME)


# No network at all


@pytest.fixture
def unreachable(hub, monkeypatch):
    """Let nobody listen where the Hub is said to be."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    return hub


def test_a_hub_that_nobody_answers_for_is_told_at_once(unreachable, models, caplog):
    told = r"the Hub cannot be reached \(.*\)\. Check the network, and HF_ENDPOINT if that is set\."
    for ask in (lambda: from_pretrained(NAME), lambda: load(NAME)):
        with pytest.raises(HubError, match=rf"{told} Or fetch it .*hf download"):
            ask()
    with pytest.raises(HubError, match=rf"Could not list .*{told}"):
        list_models()
    with pytest.raises(HubError, match=rf"Could not push .*{told}"):
        push_to_hub(models[0][0], NAME)
    assert unreachable.waits == []  # neither ours nor huggingface_hub's
    assert not [record for record in caplog.records if "Retrying" in record.getMessage()]
