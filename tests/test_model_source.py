"""Where backbones come from: names, folders, the Hub; and what must never load."""

from copy import deepcopy
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import open_clip
import pytest
import torch
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError
from PIL import Image

from skmoecbm._hub_errors import hub_reason
from skmoecbm._model_source import WAY_ON
from skmoecbm.backbones import clear_backbones, load_backbone
from skmoecbm.exceptions import BackboneError, InputError
from tests.backbone_fixtures import (
    CLIP_CFG,
    write_biomedclip,
    write_clip,
    write_config,
    write_weights,
)
from tests.hub_server import served, use_hub
from tests.hub_store import commit_of, files_of


@pytest.fixture(autouse=True)
def fresh_cache():
    yield
    clear_backbones()


@pytest.fixture(scope="module")
def picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))


def load(folder):
    return load_backbone(f"local-dir:{folder}", device="cpu")


def unit(rows):
    rows = np.asarray(rows, dtype=np.float64)
    return rows / np.sqrt((rows**2).sum(axis=1, keepdims=True))


# Trap 1: random weights


def test_a_folder_without_weights_is_an_error_and_not_random_numbers(tmp_path):
    write_config(tmp_path / "m", CLIP_CFG)
    # What we guard against: open_clip itself goes on with random weights here.
    assert open_clip.create_model(f"local-dir:{tmp_path / 'm'}") is not None
    with pytest.raises(BackboneError, match=r"no weights.*open_clip_model.safetensors"):
        load(tmp_path / "m")


@pytest.mark.parametrize("name", ["open_clip_pytorch_model.bin", "epoch_3.safetensors", "x.pth"])
def test_weights_are_found_under_other_names(tmp_path, picture, name):
    network = write_clip(tmp_path / "m", name=name)
    token = open_clip.tokenize(["hair"], context_length=12)
    with torch.no_grad():
        expected = unit(network.encode_text(token))
    np.testing.assert_allclose(load(tmp_path / "m").embed_texts(["hair"]), expected, atol=2e-6)


def test_safetensors_win_over_a_pickle_and_two_strange_names_are_ambiguous(tmp_path):
    network = write_clip(tmp_path / "m", seed=0, name="open_clip_pytorch_model.bin")
    write_weights(tmp_path / "m", network)
    only = write_clip(tmp_path / "only", seed=0)
    assert only is not None
    assert load(tmp_path / "m").fingerprint == load(tmp_path / "only").fingerprint

    write_clip(tmp_path / "two", name="a.safetensors")
    write_weights(tmp_path / "two", network, "b.safetensors")
    with pytest.raises(BackboneError, match=r"several weights \(a.safetensors, b.safetensors\)"):
        load(tmp_path / "two")


# Trap 2: revisions


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Serve a small Hub; yields a dict to fill and the list of what was downloaded."""
    with served() as double:
        use_hub(monkeypatch, double, tmp_path / "hub-cache")
        yield double.repositories, double.downloads


@pytest.fixture
def two_revisions(tmp_path, hub):
    repositories, _ = hub
    for name, seed in (("main", 0), ("v1", 1)):
        write_clip(tmp_path / name, seed=seed)
        (tmp_path / name / "README.md").write_text("not needed")
        write_weights(
            tmp_path / name, open_clip.CLIP(**deepcopy(CLIP_CFG)), "open_clip_pytorch_model.bin"
        )
    repositories["org/clip"] = {name: files_of(tmp_path / name) for name in ("main", "v1")}
    return repositories["org/clip"]


def test_a_hub_model_is_taken_at_its_revision_and_only_what_is_needed(
    tmp_path, hub, two_revisions, picture
):
    for revision, folder in ((None, "main"), ("v1", "v1"), (commit_of(two_revisions["v1"]), "v1")):
        backbone = load_backbone("hf-hub:org/clip", revision=revision, device="cpu")
        assert backbone.identity["revision"] == commit_of(two_revisions[folder])
        assert backbone.identity["model"] == "hf-hub:org/clip"
        local = load(tmp_path / folder)
        np.testing.assert_array_equal(
            backbone.embed_images([picture]), local.embed_images([picture])
        )
    names = {path.rpartition("/")[2] for path in hub[1]}
    assert names == {"open_clip_config.json", "open_clip_model.safetensors"}


def test_a_cached_hub_model_loads_again_without_network(hub, two_revisions, monkeypatch, picture):
    online = load_backbone("hf-hub:org/clip", revision="v1", device="cpu")
    rows = online.embed_images([picture])
    clear_backbones()
    hub[0].clear()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    again = load_backbone("hf-hub:org/clip", revision="v1", device="cpu")
    assert again.fingerprint == online.fingerprint
    np.testing.assert_array_equal(again.embed_images([picture]), rows)


def test_a_hub_model_with_bin_weights_only(tmp_path, hub, picture):
    write_clip(tmp_path / "m", name="open_clip_pytorch_model.bin")
    hub[0]["org/old"] = {"main": files_of(tmp_path / "m")}
    backbone = load_backbone("hf-hub:org/old", device="cpu")
    np.testing.assert_array_equal(
        backbone.embed_images([picture]), load(tmp_path / "m").embed_images([picture])
    )


def test_biomedclip_on_the_hub_fetches_the_text_config_it_names(tmp_path, hub):
    write_biomedclip(tmp_path / "m")
    files = files_of(tmp_path / "m")
    text_config = files.pop("text_config.json")
    hub[0]["org/biomed"] = {"main": files}
    hub[0]["someone/a-bert-on-the-hub"] = {"main": {"config.json": text_config, "model.bin": b"-"}}
    backbone = load_backbone("hf-hub:org/biomed", device="cpu")
    np.testing.assert_array_equal(
        backbone.embed_texts(["red dots"]), load(tmp_path / "m").embed_texts(["red dots"])
    )
    assert "someone/a-bert-on-the-hub/model.bin" not in hub[1]


@pytest.mark.usefixtures("two_revisions")
@pytest.mark.parametrize(
    ("name", "revision", "reason"),
    [
        ("hf-hub:org/nothing", None, "there is no such repository, or it is private"),
        ("hf-hub:org/clip", "v9", "the repository has no such revision"),
    ],
)
def test_an_unknown_repository_or_revision_says_the_way_on(name, revision, reason):
    at = "" if revision is None else f" at revision {revision!r}"
    with pytest.raises(BackboneError) as caught:
        load_backbone(name, revision=revision)
    assert str(caught.value) == (
        f"Could not get {name[7:]!r}{at} from the Hugging Face Hub: {reason}. {WAY_ON}"
    )


def raised(error, cause=None):
    """Return an error as the Hub's client raises it."""
    try:
        raise error from cause
    except type(error) as caught:
        return caught


LOST = "Got: ConnectError: no route\nAn error happened. Please check and try again."
RESPONSE = SimpleNamespace(headers={}, request=None)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            raised(LocalEntryNotFoundError(LOST), ConnectionError("no route\nhere.")),
            "the connection to the Hub failed (ConnectionError: no route)",
        ),
        (
            raised(LocalEntryNotFoundError(LOST), HfHubHTTPError("503 Busy.\n", response=RESPONSE)),
            "HfHubHTTPError: 503 Busy",
        ),
        (raised(LocalEntryNotFoundError("Not\nhere.")), "LocalEntryNotFoundError: Not"),
        (
            GatedRepoError("403.\n\nCannot access.", response=RESPONSE),
            "its owners grant access, to who is logged in (`hf auth login`)",
        ),
        (TimeoutError(), "the connection to the Hub failed (TimeoutError)"),
    ],
)
def test_what_the_hub_tells_on_many_lines_becomes_one_clause(error, reason):
    assert hub_reason(error) == reason


def test_without_network_and_cache_the_error_says_the_way_on():
    # The tests run offline, so this is what a user without network sees.
    with pytest.raises(BackboneError) as caught:
        load_backbone("hf-hub:org/never-seen")
    assert str(caught.value) == (
        "Could not get 'org/never-seen' from the Hugging Face Hub: the Hugging Face cache does not "
        f"hold it, and HF_HUB_OFFLINE is set. {WAY_ON}"
    )
    with pytest.raises(BackboneError, match=r"(?s)Could not get 'timm/vit_base_patch16_clip_224"):
        load_backbone("ViT-B-16/openai")


@pytest.fixture
def registered(monkeypatch):
    """Register a tiny architecture and three tags of it with open_clip."""
    monkeypatch.setitem(
        open_clip.factory._MODEL_CONFIGS, "Tiny-8", {**deepcopy(CLIP_CFG), "quick_gelu": False}
    )
    common = {
        "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3), "interpolation": "bilinear",
        "resize_mode": "shortest", "url": "",
    }  # fmt: skip
    tags = {
        "quick": {**common, "hf_hub": "org/clip/", "quick_gelu": True},
        "plain": {**common, "hf_hub": "org/clip/"},
        "file": {**common, "hf_hub": "org/odd/weights_12.bin"},
        "url": {**common, "hf_hub": "", "url": "https://example.invalid/weights.pt"},
    }
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "Tiny-8", tags)


@pytest.mark.usefixtures("registered")
def test_a_tag_takes_its_weights_from_the_hub_at_the_revision(
    tmp_path, hub, two_revisions, picture
):
    for revision, folder in ((None, "main"), ("v1", "v1")):
        backbone = load_backbone("Tiny-8/quick", revision=revision, device="cpu")
        assert backbone.identity["model"] == "Tiny-8/quick"
        assert backbone.identity["revision"] == commit_of(two_revisions[folder])
        np.testing.assert_array_equal(
            backbone.embed_images([picture]), load(tmp_path / folder).embed_images([picture])
        )
    assert {path.rpartition("/")[2] for path in hub[1]} == {"open_clip_model.safetensors"}


@pytest.mark.usefixtures("registered", "two_revisions")
def test_the_activation_is_the_one_that_the_tag_was_trained_with(picture):
    quick = load_backbone("Tiny-8/quick", device="cpu")
    plain = load_backbone("Tiny-8/plain", device="cpu")
    assert quick._network.module.visual.transformer.resblocks[0].mlp.gelu.__class__ is (
        open_clip.model.QuickGELU
    )
    assert quick.fingerprint != plain.fingerprint
    assert np.abs(quick.embed_images([picture]) - plain.embed_images([picture])).max() > 1e-4


@pytest.mark.usefixtures("registered")
def test_a_tag_may_name_a_file_of_its_repository(tmp_path, hub, picture):
    write_clip(tmp_path / "m", name="weights_12.bin", quick_gelu=False)
    hub[0]["org/odd"] = {"main": files_of(tmp_path / "m")}
    np.testing.assert_array_equal(
        load_backbone("Tiny-8/file", device="cpu").embed_images([picture]),
        load(tmp_path / "m").embed_images([picture]),
    )


@pytest.mark.usefixtures("registered")
def test_a_repository_without_weights_is_an_error(hub):
    hub[0]["org/clip"] = {"main": {"README.md": b"-"}}
    with pytest.raises(BackboneError, match=r"holds none of open_clip_model.safetensors"):
        load_backbone("Tiny-8/plain")


@pytest.mark.usefixtures("registered")
def test_revision_is_refused_where_there_is_no_repository(tmp_path):
    with pytest.raises(InputError, match=r"'revision' .*example.invalid.*Got 'v1'"):
        load_backbone("Tiny-8/url", revision="v1")
    for name in ("demo-general", f"local-dir:{tmp_path}"):
        with pytest.raises(InputError, match=r"'revision' .*not on the Hub"):
            load_backbone(name, revision="v1")


# Names and folders


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("ViT-B-16/opneai", "unknown.*'ViT-B-16/openai'"),
        ("ViT-B-16:openai", "unknown.*'ViT-B-16/openai'"),
        ("demo-generale", "unknown.*'demo-general'"),
        ("ViT-B-16", "architecture without weights.*'ViT-B-16/openai'"),
        ("zzz", "unknown.*hf-hub:org/repo"),
        ("", "unknown"),
        ("local-dir:", "names no folder"),
        ("local-dir:/no/such/place", "does not exist"),
    ],
)
def test_a_name_that_stands_for_nothing_shows_what_is_near(name, match):
    with pytest.raises(BackboneError, match=match):
        load_backbone(name)


def test_old_spelling_with_a_slash_in_the_architecture_is_understood():
    with pytest.raises(BackboneError, match="Could not get 'timm/vit_base_patch16_clip_224"):
        load_backbone("ViT-B/16/openai")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (None, r"holds no open_clip_config\.json"),
        ("{", "is not JSON"),
        ("[]", "must hold a JSON object"),
        ('{"embed_dim": 3}', "has no 'model_cfg'"),
        ('{"model_cfg": {"embed_dim": 3}}', "cannot be built"),
        (
            '{"model_cfg": {"embed_dim": 3, "vision_cfg": {"bad": 1}, "text_cfg": {}}}',
            "cannot be built.*bad",
        ),
    ],
)
def test_a_folder_that_is_not_a_model_says_what_is_missing(tmp_path, content, match):
    write_clip(tmp_path / "m")
    path = tmp_path / "m" / "open_clip_config.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(BackboneError, match=match):
        load(tmp_path / "m")
