from pathlib import Path

import open_clip
import pytest

from skmoecbm._backbone_names import is_portable_name, is_portable_revision, portable_name


def test_every_name_of_the_registry_and_the_usual_ones_are_portable():
    for pair in open_clip.list_pretrained():
        assert is_portable_name("/".join(pair)), pair
    for name in (
        "demo-general",
        "demo-structures",
        "ViT-B/16/openai",
        "hf-hub:microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224",
        "hf-hub:apple/MobileCLIP2-S0",
        "local-dir:biomedclip",
        "local-dir:my model (v2)",
        "local-dir:.hidden",
        "local-dir:größe",
    ):
        assert is_portable_name(name), name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "demo-other",
        "https://example.org/model.bin",
        "http://example.org/a/b",
        "file:///etc/passwd",
        "ViT-B-16/https://example.org",
        "ViT-B-16",
        "/etc/passwd",
        "../a/b",
        "a/../b",
        "a/..",
        "a/b/c/d",
        "a b/c",
        "a/b\n",
        "a/b\0",
        "ViT-B-16\\openai",
        "C:/models/x",
        "hf-hub:",
        "hf-hub:repo",
        "hf-hub:https://example.org/x",
        "hf-hub:../..",
        "hf-hub:a/..",
        "hf-hub:a/b/c",
        "hf-hub:a/b@main",
        "hf-hub:a/b?x=1",
        "hf-hub:a/.b",
        "hf-hub:-a/b",
        "hf-hub:a/b.git",
        "hf-hub:a/" + "b" * 97,
        "HF-HUB:a/b",
        "local-dir:",
        "local-dir:.",
        "local-dir:..",
        "local-dir:~",
        "local-dir:~root",
        "local-dir:a/b",
        "local-dir:/a",
        "local-dir:a\\b",
        "local-dir:C:x",
        "local-dir:a\0",
        "local-dir:a\nb",
        "local-dir:" + "x" * 300,
        "x" * 10_000 + "/" + "y" * 10_000,
    ],
)
def test_a_path_an_address_or_anything_else_is_not_portable(name):
    assert not is_portable_name(name)


@pytest.mark.parametrize("revision", [None, "main", "v1.0", "refs/pr/3", "a" * 40, "release_2"])
def test_a_commit_tag_or_branch_is_portable(revision):
    assert is_portable_revision(revision)


@pytest.mark.parametrize(
    "revision",
    ["", "..", "../../x", "a/../../x", "/x", "a\\b", "a/.b", "~x", "a\0", "a b", 3, ["a"]],
)
def test_a_revision_that_would_be_a_path_is_not_portable(revision):
    assert not is_portable_revision(revision)


def test_a_local_folder_is_saved_under_its_bare_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for given, name in (
        ("/models/biomedclip", "biomedclip"),
        ("/models/biomedclip/", "biomedclip"),
        ("C:\\models\\biomedclip", "biomedclip"),
        ("../x", "x"),
        ("~/clip", "clip"),
        (".", tmp_path.name),
        ("/models/a:b", "a_b"),
        ("/", "folder"),
    ):
        assert portable_name(f"local-dir:{given}") == f"local-dir:{name}"
        assert is_portable_name(portable_name(f"local-dir:{given}"))
    assert portable_name("ViT-B-16/openai") == "ViT-B-16/openai"
    assert str(Path.home()) not in portable_name("local-dir:~/clip")
