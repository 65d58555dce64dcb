"""Where language models come from: the Hub at a revision, folders, and what must not load."""

import json

import huggingface_hub
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from skmoecbm.backbones import clear_backbones
from skmoecbm.exceptions import BackboneError, InputError
from skmoecbm.moe import TextTokenEncoder
from skmoecbm.moe._text_source import is_language_model, locate_text
from tests.backbone_fixtures import write_clip
from tests.hub_server import served, use_hub
from tests.hub_store import commit_of, files_of
from tests.language_models import write_bert, write_biogpt, write_gpt

NOTES = ["patchy consolidation in the left lower lobe", "no fever", None]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The double of the Hub."""
    import skmoecbm.moe._text_source as source

    source._is_language_repository.cache_clear()
    with served() as double:
        use_hub(monkeypatch, double, tmp_path / "hub-cache")
        yield double
    clear_backbones()
    source._is_language_repository.cache_clear()
    huggingface_hub.utils.close_session()


def tokens(name, **options):
    return TextTokenEncoder(name, cache_dir=None, **options).fit_transform(NOTES)


def test_a_model_of_the_hub_is_taken_at_its_revision(tmp_path, hub):
    for seed, name in enumerate(("main", "v1")):
        write_gpt(tmp_path / name, seed=seed)
    files = {name: files_of(tmp_path / name) for name in ("main", "v1")}
    files["main"] |= {"modeling.py": b"raise SystemExit", "flax_model.msgpack": b"-"}
    hub.repositories["org/gpt"] = files
    for revision, folder in ((None, "main"), ("v1", "v1"), (commit_of(files["v1"]), "v1")):
        given = TextTokenEncoder("org/gpt", revision=revision, cache_dir=None).fit(NOTES)
        assert given.backbone_identity_["revision"] == commit_of(files[folder])
        assert given.transform(NOTES) == tokens(f"local-dir:{tmp_path / folder}")
    asked = {path.rpartition("/")[2] for path in hub.downloads}
    assert asked == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}


def test_once_fitted_it_is_that_commit_and_the_hub_is_asked_no_more(tmp_path, hub, monkeypatch):
    write_gpt(tmp_path / "one")
    write_gpt(tmp_path / "two", seed=1)
    hub.repositories["org/gpt"] = {"main": files_of(tmp_path / "one")}
    given = TextTokenEncoder("hf-hub:org/gpt", cache_dir=None).fit(NOTES)
    first = given.transform(NOTES)
    hub.repositories["org/gpt"].commit("main", files_of(tmp_path / "two"))
    clear_backbones()
    assert given.transform(NOTES) == first
    n_asked = len(hub.requests)
    given.transform(NOTES[:1])
    assert len(hub.requests) == n_asked
    clear_backbones()
    hub.repositories.clear()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert given.transform(NOTES) == first


def test_torch_weights_are_asked_for_where_there_are_no_others(tmp_path, hub):
    pytest.importorskip("sacremoses")
    write_biogpt(tmp_path / "biogpt")
    files = files_of(tmp_path / "biogpt")
    del files["tokenizer_config.json"]  # a repository may have none
    hub.repositories["org/biogpt"] = {"main": files}
    found = tokens("org/biogpt")
    assert found == tokens(f"local-dir:{tmp_path / 'biogpt'}")


def test_what_lies_in_a_repository_tells_what_it_is(tmp_path, hub):
    write_clip(tmp_path / "clip")
    write_bert(tmp_path / "bert")
    hub.repositories["org/clip"] = {"main": files_of(tmp_path / "clip")}
    hub.repositories["org/bert"] = {"main": files_of(tmp_path / "bert")}
    assert not is_language_model("hf-hub:org/clip") and is_language_model("hf-hub:org/bert")
    assert not is_language_model("ViT-B-16/openai") and not is_language_model("demo-general")
    assert is_language_model("org/bert") and is_language_model(f"local-dir:{tmp_path / 'bert'}")
    assert tokens("hf-hub:org/clip").streams["text"].width == 16
    with pytest.raises(BackboneError, match=r"no such repository.*open_clip has no model of that"):
        tokens("org/none")
    with pytest.raises(BackboneError, match="no such repository") as error:
        locate_text("hf-hub:org/none")
    assert "open_clip has no model" not in str(error.value)  # that is no name of open_clip's
    hub.repositories["org/empty"] = {"main": {"README.md": b"-"}}
    with pytest.raises(BackboneError, match=r"neither open_clip_config\.json nor config\.json"):
        tokens("org/empty")


def test_a_revision_is_of_the_hub_alone(tmp_path):
    write_bert(tmp_path / "bert")
    for name in (f"local-dir:{tmp_path / 'bert'}", "demo-general"):
        with pytest.raises(InputError, match=r"'revision'.*not on the Hub"):
            tokens(name, revision="main")


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    write_bert(tmp_path / "bert")
    (tmp_path / "bert" / "model.safetensors").unlink()

    class Evil:
        def __reduce__(self):
            return print, ("was run",)

    torch.save({"x": Evil()}, tmp_path / "bert" / "pytorch_model.bin")
    with pytest.raises(BackboneError, match="cannot be loaded"):
        tokens(f"local-dir:{tmp_path / 'bert'}")


def test_old_names_of_weights_and_other_formats(tmp_path):
    write_bert(tmp_path / "bert")
    expected = tokens(f"local-dir:{tmp_path / 'bert'}")
    path = tmp_path / "bert" / "model.safetensors"
    state = load_file(path)
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): value
        for name, value in state.items()
    }
    assert set(old) != set(state)
    save_file(old, path)
    config = json.loads((tmp_path / "bert" / "config.json").read_text())
    (tmp_path / "bert" / "config.json").write_text(json.dumps({**config, "dtype": "float16"}))
    assert tokens(f"local-dir:{tmp_path / 'bert'}") == expected  # float32 as they are
    save_file({name: value.half() for name, value in state.items()}, path)
    found = tokens(f"local-dir:{tmp_path / 'bert'}")
    assert found[0]["text"].dtype == np.float32 and found != expected
    np.testing.assert_allclose(found[0]["text"], expected[0]["text"], atol=0.05)


def test_a_tokenizer_that_is_not_there_is_told(tmp_path):
    write_bert(tmp_path / "bert")
    (tmp_path / "bert" / "tokenizer.json").unlink()
    with pytest.raises(BackboneError, match="vocabulary"):
        tokens(f"local-dir:{tmp_path / 'bert'}")


def test_a_tokenizer_of_a_larger_vocabulary_is_told(tmp_path):
    write_gpt(tmp_path / "gpt")
    path = tmp_path / "gpt" / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"]["fever"] = 999
    path.write_text(json.dumps(content))
    with pytest.raises(BackboneError, match="knows words that its network"):
        tokens(f"local-dir:{tmp_path / 'gpt'}")
