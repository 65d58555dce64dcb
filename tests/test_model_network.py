"""From files to a network: what must never load, and a folder that needs no Hub."""

import json
import socket
import sys

import huggingface_hub
import numpy as np
import pytest
import torch
from PIL import Image

from skmoecbm.backbones import clear_backbones, load_backbone
from skmoecbm.exceptions import BackboneError, SkmoecbmWarning
from tests.backbone_fixtures import (
    BERT_WORDS,
    CLIP_CFG,
    write_biomedclip,
    write_clip,
    write_config,
    write_weights,
)


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


def test_weights_that_lack_a_tensor_or_fit_another_architecture_are_refused(tmp_path):
    network = write_clip(tmp_path / "m")
    del network.visual.proj
    write_weights(tmp_path / "m", network)
    with pytest.raises(BackboneError, match=r"(?s)cannot be loaded into .*visual\.proj"):
        load(tmp_path / "m")

    network = write_clip(tmp_path / "n")
    write_config(tmp_path / "n", {**CLIP_CFG, "embed_dim": 8})
    with pytest.raises(BackboneError, match="size mismatch"):
        load(tmp_path / "n")


def test_truncated_weights_are_refused(tmp_path):
    write_clip(tmp_path / "m")
    path = tmp_path / "m" / "open_clip_model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(BackboneError, match="cannot be loaded"):
        load(tmp_path / "m")


class Bomb:
    def __reduce__(self):
        import os

        return os.mkdir, (self.path,)

    def __init__(self, path):
        self.path = path


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path):
    network = write_clip(tmp_path / "m", name="open_clip_pytorch_model.bin")
    state = dict(network.state_dict(), bomb=Bomb(str(tmp_path / "ran")))
    torch.save(state, tmp_path / "m" / "open_clip_pytorch_model.bin")
    with pytest.raises(BackboneError, match="asks to run code"):
        load(tmp_path / "m")
    assert not (tmp_path / "ran").exists()


# Trap 3: a local folder that asks the Hub


@pytest.fixture
def no_network(monkeypatch):
    """Let no socket be opened at all, and let huggingface_hub believe that it may."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)

    def refuse(*args, **kwargs):
        raise AssertionError("something wants the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def bert_tokens(texts, length=20):
    """Tokenise known words by hand: [CLS] words [SEP] and padding."""
    rows = torch.zeros(len(texts), length, dtype=torch.long)
    for row, text in enumerate(texts):
        ids = [2, *(5 + BERT_WORDS.index(word) for word in text.lower().split()), 3]
        rows[row, : len(ids)] = torch.tensor(ids)
    return rows


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("bin_weights", [True, False])
def test_a_folder_like_biomedclip_loads_without_any_network(tmp_path, picture, bin_weights):
    network = write_biomedclip(tmp_path / "m", bin_weights=bin_weights)
    backbone = load(tmp_path / "m")
    texts = ["skin lesion with hair", "Blue white veil", "no"]
    with torch.no_grad():
        expected = unit(network.encode_text(bert_tokens(texts)))
        square = picture.resize((200, 160), Image.Resampling.BILINEAR).crop((20, 0, 180, 160))
        values = (np.asarray(square) / 255 - [0.4, 0.5, 0.6]) / [0.2, 0.25, 0.3]
        pixels = torch.from_numpy(values.transpose(2, 0, 1)[None]).float()
        expected_image = unit(network.encode_image(pixels))
    np.testing.assert_allclose(backbone.embed_texts(texts), expected, atol=5e-6)
    np.testing.assert_allclose(backbone.embed_images([picture]), expected_image, atol=5e-6)
    assert (backbone.dim, backbone.image_size, backbone.context_length) == (24, 160, 20)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("bin_weights", [True, False])
def test_without_a_text_config_the_shapes_of_the_weights_give_it(tmp_path, bin_weights):
    network = write_biomedclip(tmp_path / "m", text_config=False, bin_weights=bin_weights)
    with pytest.warns(SkmoecbmWarning, match=r"2 attention heads of 64.*text_config\.json"):
        backbone = load(tmp_path / "m")
    with torch.no_grad():
        expected = unit(network.encode_text(bert_tokens(["red dots"])))
    np.testing.assert_allclose(backbone.embed_texts(["red dots"]), expected, atol=5e-6)


@pytest.mark.usefixtures("no_network")
def test_a_text_tower_whose_heads_cannot_be_told_asks_for_its_config(tmp_path):
    write_biomedclip(tmp_path / "m", text_config=False, width=48)
    with pytest.raises(BackboneError, match=r"'someone/a-bert-on-the-hub'.*text_config\.json"):
        load(tmp_path / "m")


def test_a_timm_config_is_not_taken_for_the_text_towers(tmp_path):
    write_biomedclip(tmp_path / "m", text_config=False)
    (tmp_path / "m" / "config.json").write_text('{"architecture": "test_vit"}')
    with pytest.warns(SkmoecbmWarning, match="built from the shapes"):
        load(tmp_path / "m")


def test_a_missing_tokenizer_is_an_error_that_names_its_files(tmp_path):
    write_biomedclip(tmp_path / "m")
    for path in (tmp_path / "m").glob("*token*"):
        path.unlink()
    (tmp_path / "m" / "vocab.txt").unlink()
    with pytest.raises(BackboneError, match=r"tokenizer\.json"):
        load(tmp_path / "m")


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    network = write_biomedclip(tmp_path / "m")
    path = tmp_path / "m" / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary.update({f"new{row}": len(vocabulary) + row for row in range(3)})
    path.write_text(json.dumps(content))
    backbone = load(tmp_path / "m")
    assert backbone.embed_texts(["hair"]).shape == (1, 24)
    with pytest.raises(BackboneError, match=f"text tower of {network.text.config.vocab_size} tok"):
        backbone.embed_texts(["hair new0"])


def test_transformers_is_asked_for_by_its_extra(tmp_path, monkeypatch):
    write_biomedclip(tmp_path / "m")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(BackboneError, match=r"pip install 'skmoecbm\[biomed\]'"):
        load(tmp_path / "m")


def test_long_texts_for_a_hugging_face_tokenizer_warn_too(tmp_path):
    write_biomedclip(tmp_path / "m")
    backbone = load(tmp_path / "m")
    fits = " ".join(["red"] * 18)
    with pytest.warns(SkmoecbmWarning, match="1 of 2 texts .* 20 tokens"):
        rows = backbone.embed_texts([fits, fits + " veil"])
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-6)


@pytest.mark.parametrize("option", ["trust_remote_code", "use_auth_token"])
def test_a_config_cannot_pass_strange_options_to_the_tokenizer(tmp_path, option):
    write_biomedclip(tmp_path / "m")
    path = tmp_path / "m" / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = {option: True}
    path.write_text(json.dumps(config))
    with pytest.raises(BackboneError, match=f"passes {option} to the tokenizer"):
        load(tmp_path / "m")


def test_a_config_cannot_point_timm_to_another_place(tmp_path):
    write_biomedclip(tmp_path / "m")
    path = tmp_path / "m" / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["model_cfg"]["vision_cfg"]["timm_model_name"] = "hf-hub:someone/else"
    path.write_text(json.dumps(config))
    with pytest.raises(BackboneError, match="points outside the folder"):
        load(tmp_path / "m")


def test_a_bpe_file_that_does_not_fit_the_text_tower_is_refused(tmp_path):
    text_cfg = {**CLIP_CFG["text_cfg"], "vocab_size": 600}
    write_clip(tmp_path / "m", text_cfg=text_cfg)
    with pytest.raises(BackboneError, match=r"has 49408 tokens, its text tower 600.*bpe\.txt\.gz"):
        load(tmp_path / "m")


def test_preprocessing_that_open_clip_does_not_know_is_refused(tmp_path):
    write_clip(tmp_path / "m")
    write_config(tmp_path / "m", CLIP_CFG, {"interpolation": "lanczos"})
    with pytest.raises(BackboneError, match=r"'preprocess_cfg'.*lanczos"):
        load(tmp_path / "m")


def test_an_image_size_that_the_tower_cannot_take_is_found_at_load(tmp_path):
    write_biomedclip(tmp_path / "m")
    path = tmp_path / "m" / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["model_cfg"]["vision_cfg"]["image_size"] = 100
    path.write_text(json.dumps(config))
    with pytest.raises(BackboneError, match=r"cannot encode an image of \(100, 100\).*image_size"):
        load(tmp_path / "m")
