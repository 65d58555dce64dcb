"""Models pushed with the real client to a double of the Hub: one commit or none."""

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import CommitInfo
from huggingface_hub.hf_api import RepoSibling
from PIL import Image

import skmoecbm._hub_errors as hub_errors
from skmoecbm import (
    CardDetails,
    ConceptBottleneckClassifier,
    HubError,
    InputError,
    SkmoecbmWarning,
    from_pretrained,
    list_models,
    push_to_hub,
    save,
)
from skmoecbm._hub_upload import _difference
from tests.hub_server import served, use_hub
from tests.hub_store import Repository

NAME, TOKEN = "ana/skin", "hf_ana_may_write"


def data(seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(60, 4))
    return X, (X[:, 0] + 0.3 * rng.normal(size=60) > 0).astype(int)


@pytest.fixture(scope="module")
def models():
    """Two classifiers that differ."""
    return [ConceptBottleneckClassifier(alpha=alpha).fit(*data()) for alpha in (1.0, 9.0)]


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Serve a double of the Hub where Ana may write; waiting takes no time."""
    with served() as double:
        double.tokens[TOKEN] = "ana"
        use_hub(monkeypatch, double, tmp_path / "cache", TOKEN)
        double.waits = []
        monkeypatch.setattr(hub_errors.time, "sleep", double.waits.append)
        yield double


def commits(hub):
    return len(hub.repositories[NAME].commits) - 1  # the Hub itself makes the first


def test_a_pushed_model_is_one_commit_of_the_files_that_save_writes(hub, models, tmp_path):
    commit = push_to_hub(models[0], NAME)
    assert isinstance(commit, CommitInfo)
    assert commit == f"{hub.address}/{NAME}/commit/{commit.oid}"
    assert commits(hub) == 1
    repository = hub.repositories[NAME]
    assert repository.heads["main"] == commit.oid
    save(models[0], tmp_path / "saved")
    there = dict(repository["main"])
    assert there.pop(".gitattributes")
    assert set(there) == {
        "README.md", "concept-weights-1.png", "config.json", "model.safetensors",
    }  # fmt: skip
    for name in ("config.json", "model.safetensors"):
        assert there[name] == (tmp_path / "saved" / name).read_bytes()
    X, _ = data(1)
    again = from_pretrained(NAME)
    np.testing.assert_array_equal(again.predict_proba(X), models[0].predict_proba(X))


def test_a_new_repository_is_private_unless_everyone_may_see_it(hub, models):
    for private, expected in ((None, True), (True, True), (False, False)):
        hub.repositories.clear()
        push_to_hub(models[0], NAME, private=private)
        assert hub.repositories[NAME].private is expected
    push_to_hub(models[1], NAME)  # keeps its visibility
    assert hub.repositories[NAME].private is False and commits(hub) == 2
    with pytest.raises(InputError, match="'ana/skin' is public, and private=True"):
        push_to_hub(models[0], NAME, private=True)
    assert commits(hub) == 2
    hub.repositories[NAME].private = True
    with pytest.raises(InputError, match="'ana/skin' is private, and private=False"):
        push_to_hub(models[0], NAME, private=False)
    assert commits(hub) == 2


def test_a_branch_and_a_tag_never_have_one_name(hub, models):
    push_to_hub(models[0], NAME, tag="v1")
    push_to_hub(models[0], NAME, revision="next")
    n_sent = len(hub.seen("POST", "."))
    with pytest.raises(InputError, match="has a tag 'v1', which revision='v1' would hide"):
        push_to_hub(models[1], NAME, revision="v1")
    with pytest.raises(InputError, match="has a branch 'next', which tag='next' would hide"):
        push_to_hub(models[1], NAME, tag="next")
    for settings in ({"tag": "main", "revision": "next"}, {"tag": "new", "revision": "new"}):
        with pytest.raises(InputError, match=r"'tag' parameter .* must not be the name of a bra"):
            push_to_hub(models[1], NAME, **settings)
    assert len(hub.seen("POST", ".")) == n_sent
    assert set(hub.repositories[NAME].heads) == {"main", "next"}


@pytest.mark.filterwarnings("error::skmoecbm.SkmoecbmWarning")
def test_images_of_the_card_are_told_before_they_become_public(hub, models):
    card = CardDetails(images=[Image.new("RGB", (4, 4))] * 2, pictures=False)
    push_to_hub(models[0], NAME, card=card)  # its owners only see it
    hub.repositories.clear()
    hub.requests.clear()
    told = r"Everyone can see .*'ana/skin', so image-01.jpg, image-02.jpg of the card become pub"
    for _ in range(2):  # where it is made, and where it is there
        with pytest.raises(SkmoecbmWarning, match=told):
            push_to_hub(models[0], NAME, card=card, private=False)
        assert not hub.seen("POST", ".")
        hub.repositories[NAME] = Repository({"main": {}})
        with pytest.raises(SkmoecbmWarning, match=told):
            push_to_hub(models[0], NAME, card=card)
    push_to_hub(models[0], NAME)


def test_the_same_model_pushed_twice_makes_one_commit(hub, models):
    first = push_to_hub(models[0], NAME)
    n_writes = len(hub.seen("POST", "/commit/"))
    second = push_to_hub(models[0], NAME)
    assert second.commit_url == first.commit_url and second.oid == first.oid
    assert commits(hub) == n_writes == len(hub.seen("POST", "/commit/")) == 1


def test_only_the_model_s_files_are_replaced_and_others_stay(hub, models):
    push_to_hub(models[0], NAME)
    repository = hub.repositories[NAME]
    repository.commit("main", {**repository["main"], "LICENSE": b"mine", "notes/a.md": b"b"})
    push_to_hub(models[1], NAME)
    assert repository["main"]["LICENSE"] == b"mine" and repository["main"]["notes/a.md"] == b"b"
    assert commits(hub) == 3
    X, _ = data(1)
    np.testing.assert_array_equal(
        from_pretrained(NAME).predict_proba(X), models[1].predict_proba(X)
    )


def test_pictures_of_an_earlier_model_go_in_the_same_commit(hub, models):
    push_to_hub(models[0], NAME)
    repository = hub.repositories[NAME]
    pictures = {"concept-weights-2.png": b"old", "image-01.jpg": b"old", "my.png": b"mine"}
    repository.commit("main", {**repository["main"], **pictures})
    push_to_hub(models[1], NAME)
    assert set(repository["main"]) == {
        ".gitattributes", "README.md", "concept-weights-1.png", "config.json",
        "model.safetensors", "my.png",
    }  # fmt: skip
    assert commits(hub) == 3


@pytest.mark.parametrize(
    "files",
    [
        {"config.json": b'{"model_type": "bert"}', "model.safetensors": b"-"},
        {"pytorch_model.bin": b"-"},
        {"README.md": b"---\nlibrary_name: timm\n---\n"},
        {"config.json": b"no JSON"},
    ],
)
def test_a_model_of_another_library_is_never_replaced(hub, models, files):
    hub.repositories[NAME] = {"main": files}
    with pytest.raises(InputError, match="'ana/skin' holds a model of another library"):
        push_to_hub(models[0], NAME)
    assert hub.repositories[NAME]["main"] == files
    assert not hub.seen("POST", "/commit/|/preupload/")


def test_a_tag_names_the_commit_and_is_never_moved(hub, models):
    first = push_to_hub(models[0], NAME, tag="v1")
    repository = hub.repositories[NAME]
    assert repository.tags == {"v1": first.oid}
    assert push_to_hub(models[0], NAME, tag="v1").oid == first.oid  # it is so already
    with pytest.raises(InputError, match=rf"has the tag 'v1' already, of commit {first.oid}"):
        push_to_hub(models[1], NAME, tag="v1")
    assert commits(hub) == 1
    second = push_to_hub(models[1], NAME, tag="v2")
    assert repository.tags == {"v1": first.oid, "v2": second.oid}
    X, _ = data(1)
    for revision, model in (("v1", models[0]), ("v2", models[1]), (first.oid, models[0])):
        loaded = from_pretrained(NAME, revision=revision)
        np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))


def test_a_push_goes_to_a_branch_that_is_made(hub, models):
    push_to_hub(models[0], NAME)
    push_to_hub(models[1], NAME, revision="next")
    X, _ = data(1)
    for revision, model in ((None, models[0]), ("next", models[1])):
        loaded = from_pretrained(NAME, revision=revision)
        np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))


def test_a_pull_request_leaves_the_branch_as_it_is(hub, models):
    hub.tokens["hf_ben"] = "ben"
    first = push_to_hub(models[0], NAME, private=False)
    commit = push_to_hub(models[1], NAME, create_pr=True, token="hf_ben")
    assert commit.pr_url == f"{hub.address}/{NAME}/discussions/1"
    repository = hub.repositories[NAME]
    assert repository.heads["main"] == first.oid and len(repository.pulls) == 1
    with pytest.raises(InputError, match="nothing to tag yet"):
        push_to_hub(models[1], NAME, create_pr=True, tag="v1")


def test_an_earlier_repository_is_refused_where_it_must_be_new(hub, models):
    push_to_hub(models[0], NAME, exist_ok=False)
    with pytest.raises(InputError, match=r"exists already, and exist_ok=False"):
        push_to_hub(models[1], NAME, exist_ok=False)
    assert commits(hub) == 1


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"repo_id": "skin"}, "'repo_id' parameter of push_to_hub"),
        ({"repo_id": "ana/skin/x"}, "'repo_id' parameter of push_to_hub"),
        ({"repo_id": "ana/../x"}, "'repo_id' parameter of push_to_hub"),
        ({"repo_id": "ana/a--b"}, "'repo_id' parameter of push_to_hub"),
        ({"revision": "a" * 40}, "a commit cannot change"),
        ({"tag": "v 1"}, "'tag' parameter of push_to_hub"),
        ({"private": "yes"}, "'private' parameter of push_to_hub"),
        ({"commit_message": ""}, "'commit_message' parameter of push_to_hub"),
    ],
)
def test_malformed_parameters_are_told_before_any_request(hub, models, parameters, message):
    with pytest.raises(InputError, match=message):
        push_to_hub(models[0], **{"repo_id": NAME, **parameters})
    assert hub.requests == []


def test_a_model_that_cannot_be_saved_makes_no_request(hub):
    with pytest.raises(ValueError, match="not fitted"):
        push_to_hub(ConceptBottleneckClassifier(), NAME)
    assert hub.requests == []


# Faults


@pytest.mark.parametrize(
    ("method", "pattern"),
    [
        ("GET", "/api/models/ana/skin"),
        ("POST", "/repos/create"),
        ("POST", "/validate-yaml"),
        ("POST", "/preupload/"),
        ("POST", "/lfs/objects/batch"),
        ("PUT", "/upload/"),
        ("POST", "/commit/"),
        ("POST", "/tag/"),
    ],
)
@pytest.mark.parametrize("fault", ["500", "429", "unanswered"])
def test_a_fault_that_passes_ends_in_one_commit(hub, models, method, pattern, fault):
    if fault == "unanswered":
        hub.fail(method, pattern, how=fault)
    else:
        headers = {"Retry-After": "7"} if fault == "429" else {}
        hub.fail(method, pattern, status=int(fault), headers=headers)
    commit = push_to_hub(models[0], NAME, tag="v1")
    assert hub.faults[0]["times"] == 0
    assert commits(hub) == 1
    assert hub.repositories[NAME].heads["main"] == commit.oid
    assert hub.repositories[NAME].tags == {"v1": commit.oid}
    if fault == "429":
        assert any(7 <= wait <= 8 for wait in hub.waits)


@pytest.mark.parametrize(
    ("method", "pattern"), [("PUT", "/upload/"), ("POST", "/commit/"), ("POST", "/preupload/")]
)
def test_an_upload_cut_in_the_middle_leaves_the_repository_as_it_was(hub, models, method, pattern):
    first = push_to_hub(models[0], NAME)
    before = dict(hub.repositories[NAME]["main"])
    hub.fail(method, pattern, how="cut", times=1000)
    with pytest.raises(HubError, match="Could not push to 'ana/skin', which is unchanged: ") as one:
        push_to_hub(models[1], NAME)
    assert "try again later." in str(one.value)
    assert hub.repositories[NAME]["main"] == before and commits(hub) == 1
    X, _ = data(1)
    np.testing.assert_array_equal(
        from_pretrained(NAME).predict_proba(X), models[0].predict_proba(X)
    )
    hub.faults.clear()
    second = push_to_hub(models[1], NAME)
    assert second.oid != first.oid and commits(hub) == 2


def test_a_large_file_that_arrived_is_not_sent_again(hub, models):
    push_to_hub(models[0], NAME)
    hub.fail("POST", "/commit/", status=500, times=1000)
    with pytest.raises(HubError, match=r"the Hub has a fault of its own \(500\)"):
        push_to_hub(models[1], NAME)
    n_uploads = len(hub.seen("PUT", "/upload/"))
    assert commits(hub) == 1
    hub.faults.clear()
    push_to_hub(models[1], NAME)
    assert len(hub.seen("PUT", "/upload/")) == n_uploads == 4 and commits(hub) == 2


def test_a_long_wait_is_told_and_not_slept(hub, models):
    hub.fail("GET", "/api/models", status=429, headers={"Retry-After": "3600"})
    with pytest.raises(HubError, match=r"too many requests \(429\), and asks to wait 3,600 sec"):
        push_to_hub(models[0], NAME)
    assert hub.waits == []


def test_a_lost_tag_is_told_and_made_by_the_next_push(hub, models):
    hub.fail("POST", "/tag/", status=403)
    with pytest.raises(HubError, match=r"is at 'ana/skin' as commit .* but the tag 'v1' could not"):
        push_to_hub(models[0], NAME, tag="v1")
    assert commits(hub) == 1 and not hub.repositories[NAME].tags
    commit = push_to_hub(models[0], NAME, tag="v1")
    assert commits(hub) == 1 and hub.repositories[NAME].tags == {"v1": commit.oid}


def test_somebody_else_s_commit_meanwhile_is_not_overwritten(hub, models):
    push_to_hub(models[0], NAME)
    repository = hub.repositories[NAME]
    whole, theirs = Repository.find, {**repository["main"], "README.md": b"theirs"}

    def move_after_first_look(self, revision):
        found = whole(self, revision)
        if self.heads["main"] == found[0] and hub.seen("POST", "/preupload/"):
            hub.requests.clear()
            self.commit("main", theirs)
        return found

    hub.requests.clear()
    Repository.find = move_after_first_look
    try:
        with pytest.raises(HubError, match=r"somebody else changed it meanwhile \(412\)"):
            push_to_hub(models[1], NAME)
    finally:
        Repository.find = whole
    assert repository["main"] == theirs


def test_a_pull_request_whose_answer_is_lost_is_not_opened_twice(hub, models):
    push_to_hub(models[0], NAME)
    hub.fail("POST", "/commit/", how="unanswered")
    with pytest.raises(HubError, match=r"its answer was lost.*Look at its pull requests"):
        push_to_hub(models[1], NAME, create_pr=True)
    assert len(hub.repositories[NAME].pulls) == 1


def test_who_may_not_write_is_told_so(hub, models):
    push_to_hub(models[0], NAME, private=False)
    hub.tokens["hf_ben"] = "ben"
    with pytest.raises(HubError, match=r"may not do that \(403\).*a token that may write to it"):
        push_to_hub(models[1], NAME, token="hf_ben")
    with pytest.raises(HubError, match=r"does not accept the token \(401\).*hf auth login"):
        push_to_hub(models[1], NAME, token="hf_wrong")
    for name in (NAME, "ana/new"):
        with pytest.raises(HubError, match=r"nobody is logged in \(401\)\. Log in with `hf auth"):
            push_to_hub(models[1], name, token=False)
    assert commits(hub) == 1


def test_offline_nothing_is_pushed(models, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match=r"HF_HUB_OFFLINE is set\. Unset it"):
        push_to_hub(models[0], NAME)


def test_models_are_listed_by_the_tag_of_the_library(hub, models):
    for name in ("ana/a", "ana/b", "ana/c"):
        push_to_hub(models[0], name, private=name == "ana/b")
    hub.repositories["ana/other"] = {"main": {"README.md": b"---\nlibrary_name: timm\n---\n"}}
    found = list_models()
    assert [info.id for info in found] == ["ana/a", "ana/b", "ana/c"]
    assert found[1].private and found[0].sha == hub.repositories["ana/a"].heads["main"]
    assert [info.id for info in list_models(token=False)] == ["ana/a", "ana/c"]
    assert [info.id for info in list_models(search="c", author="ana")] == ["ana/c"]
    assert len(list_models(limit=1)) == 1 and list_models(author="ben") == []
    with pytest.raises(InputError, match="'limit' parameter of list_models"):
        list_models(limit=0)
    hub.fail("GET", "/api/models", status=503, times=100)
    with pytest.raises(HubError, match=r"Could not list .* fault of its own \(503\)"):
        list_models()


def test_small_files_are_compared_by_the_hash_of_git():
    # git hash-object: printf 'a card\n' | git hash-object --stdin
    same = RepoSibling("README.md", blob_id="2d03a75a55d270aa2eaec0dfccf4770320ed04b3", size=7)
    assert _difference({"README.md": b"a card\n"}, [same]) == ([], [])
    assert _difference({"README.md": b"a card.\n"}, [same]) == (["README.md"], [])
