"""Tokens of texts, against transformers and open_clip themselves."""

import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from skmoecbm import mask_terms
from skmoecbm._encoder_rows import text_key
from skmoecbm.backbones import clear_backbones, load_backbone
from skmoecbm.exceptions import BackboneError, InputError, SkmoecbmWarning
from skmoecbm.moe import TextTokenEncoder, TokenFeatures
from skmoecbm.moe._text_network import TextNetwork
from skmoecbm.moe._text_rows import PAGE
from skmoecbm.store import EmbeddingStore
from tests.backbone_fixtures import (
    CLIP_CFG,
    randomise,
    write_biomedclip,
    write_clip,
    write_config,
    write_weights,
)
from tests.language_models import WORDS, write_bert, write_biogpt, write_gpt, write_t5

NOTES = [
    "patchy consolidation in the left lower lobe",
    "no pleural effusion",
    "heart size is normal with ground glass opacity and fever",
    "cough",
    "patchy opacity",
]
WRITERS = {"bert": write_bert, "gpt": write_gpt, "t5": write_t5, "biogpt": write_biogpt}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Name -> (folder, base network) of language models on disk."""
    root = tmp_path_factory.mktemp("models")
    made = {}
    for name, write in WRITERS.items():
        if name == "biogpt":
            pytest.importorskip("sacremoses")
        made[name] = (root / name, write(root / name))
    yield made
    clear_backbones()


def encoder(folder, **options):
    return TextTokenEncoder(f"local-dir:{folder}", **{"cache_dir": None, **options})


def expected_tokens(kind, folder, network, text):
    """What transformers gives for one text on its own, put in our order by hand."""
    from transformers import AutoTokenizer

    ids = AutoTokenizer.from_pretrained(folder)([text], return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        states = network(input_ids=ids).last_hidden_state[0].numpy()
    if kind == "bert":  # [CLS] words [SEP]
        return states[:-1]
    if kind == "gpt":  # words
        return np.concatenate([states[-1:], states])
    if kind == "biogpt":  # </s> words
        return np.concatenate([states[-1:], states[1:]])
    return np.concatenate([states.mean(axis=0, keepdims=True), states])


@pytest.mark.parametrize("kind", list(WRITERS))
def test_tokens_are_the_last_hidden_states_of_the_text_alone(models, kind):
    folder, network = models[kind]
    fitted = encoder(folder).fit(NOTES)
    tokens = fitted.transform([*NOTES, None, np.nan, "  "])
    assert tokens.present[:, 0].tolist() == [True] * 5 + [False] * 3
    for row, text in enumerate(NOTES):
        expected = expected_tokens(kind, folder, network, text)
        found = tokens[row]["text"]
        assert found.shape == expected.shape and found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert fitted.width_ == 24
    assert fitted.get_feature_names_out()[[0, -1]].tolist() == ["text__0", "text__23"]


@pytest.mark.parametrize("kind", list(WRITERS))
def test_each_token_has_a_name(models, kind):
    fitted = encoder(models[kind][0]).fit(NOTES)
    texts = ["patchy OPACITY and fever", None, "lower"]
    names = fitted.token_names(texts)
    lengths = [None if row["text"] is None else len(row["text"]) for row in fitted.transform(texts)]
    assert [None if row is None else len(row) for row in names] == lengths
    if kind == "biogpt":
        assert names[2] == ["[summary]", "lower"]
    else:
        assert names == [
            ["[summary]", "patchy", "[UNK]", "and", "fever"],
            None,
            ["[summary]", "lower"],
        ]


def test_words_of_clip_have_names(tmp_path):
    write_clip(tmp_path / "clip")
    fitted = encoder(tmp_path / "clip", max_length=5).fit(["hair"])
    assert fitted.token_names(["Red dots, no hair"]) == [["[summary]", "red", "dots", ","]]


def test_only_the_last_token_of_a_causal_model_knows_the_end_of_a_text(models):
    for kind, is_causal in [("bert", False), ("gpt", True), ("t5", False), ("biogpt", True)]:
        fitted = encoder(models[kind][0]).fit(NOTES)
        one, other = (fitted.transform([f"no fever {end}"])[0]["text"] for end in ("and", "the"))
        assert np.array_equal(one[1], other[1]) is is_causal
        assert not np.allclose(one[0], other[0])


def test_tokens_do_not_depend_on_the_batch(models):
    for kind in WRITERS:
        fitted = encoder(models[kind][0]).fit(NOTES)
        together = fitted.transform(NOTES + NOTES[::-1])
        for row, text in enumerate(NOTES):
            clear_memory(fitted)
            alone = fitted.transform([text])[0]["text"]
            for place in (row, 9 - row):
                np.testing.assert_allclose(together[place]["text"], alone, rtol=1e-4, atol=1e-5)


def clear_memory(fitted):
    EmbeddingStore(fitted.cache_dir).clear()


@pytest.mark.parametrize("options", [{}, {"pool_type": "eos", "eos_id": 49407}])
def test_clip_gives_what_it_projects_then_its_words(tmp_path, options):
    text_cfg = {**CLIP_CFG["text_cfg"], **options}
    network = write_clip(tmp_path / "clip", text_cfg=text_cfg)
    tokens = encoder(tmp_path / "clip").fit_transform(["red dots!", "hair"])
    tokenizer = open_clip.SimpleTokenizer(context_length=12)
    ids = tokenizer(["red dots!", "hair"])
    seen = []
    network.ln_final.register_forward_hook(lambda _, __, out: seen.append(out))
    with torch.inference_mode():
        embeddings = network.encode_text(ids).numpy()
        for row, n_words in enumerate([3, 1]):
            found = tokens[row]["text"]
            projected = found[0] @ network.text_projection.numpy()
            np.testing.assert_allclose(projected, embeddings[row], rtol=1e-4, atol=1e-5)
            words = seen[0][row, 1 : 1 + n_words].numpy()
            np.testing.assert_allclose(found[1:], words, rtol=1e-4, atol=1e-5)


def test_tower_of_transformers_in_an_image_text_model(tmp_path):
    network = write_biomedclip(tmp_path / "biomed")
    fitted = encoder(tmp_path / "biomed").fit(["a"])
    tokens = fitted.transform(["a skin lesion", "strange hair"])
    backbone = load_backbone(f"local-dir:{tmp_path / 'biomed'}")
    for row, n_words in enumerate([3, 2]):  # an unknown word is a word
        assert tokens[row]["text"].shape == (1 + n_words, 128)
    with torch.inference_mode():
        projected = network.text.proj(torch.tensor(tokens[0]["text"][:1])).numpy()
    projected /= np.linalg.norm(projected)
    np.testing.assert_allclose(projected, backbone.embed_texts(["a skin lesion"]), atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"no_causal_mask": True, "pool_type": "last"},  # as SigLIP
        {"embed_cls": True, "pad_id": 0},  # as CoCa
        {"no_causal_mask": True, "pool_type": "first"},
    ],
)
def test_towers_that_stand_apart_give_what_they_project(tmp_path, options):
    text_cfg = {**CLIP_CFG["text_cfg"], **options}
    cfg = {**CLIP_CFG, "text_cfg": text_cfg, "custom_text": True}
    write_config(tmp_path, cfg)
    cfg = {key: value for key, value in cfg.items() if key != "custom_text"}
    network = randomise(open_clip.CustomTextCLIP(**cfg), 2)
    write_weights(tmp_path, network)
    found = encoder(tmp_path).fit_transform(["red dots"])[0]["text"]
    with torch.inference_mode():
        embedding = network.encode_text(open_clip.SimpleTokenizer(context_length=12)(["red dots"]))
        projected = torch.tensor(found[:1]) @ network.text.text_projection
    np.testing.assert_allclose(projected.numpy(), embedding.numpy(), rtol=1e-4, atol=1e-5)
    assert found.shape == (3, 16)


def test_a_text_that_is_too_long_is_cut_and_counted_each_time(models, tmp_path):
    folder, network = models["bert"]
    long = " ".join(WORDS)
    fitted = encoder(folder, max_length=8, cache_dir=tmp_path).fit(NOTES)
    assert fitted.max_length_ == 8
    for _ in range(2):  # the second time nothing is read, and it is true all the same
        with pytest.warns(
            SkmoecbmWarning,
            match=rf"1 of 2 texts .* 8 tokens that max_length asks for.*{len(WORDS) + 2}\)",
        ):
            tokens = fitted.transform([long, None, "cough"])
    expected = expected_tokens("bert", folder, network, " ".join(WORDS[:6]))
    np.testing.assert_allclose(tokens[0]["text"], expected, rtol=1e-4, atol=1e-5)
    whole = encoder(folder).fit(NOTES)
    assert encoder(models["gpt"][0]).fit(NOTES).max_length_ == 16  # as its config says
    assert whole.max_length_ == 20 and whole.fingerprint_ != fitted.fingerprint_


def test_a_text_tower_may_read_less_than_it_could(tmp_path):
    write_clip(tmp_path / "clip")
    fitted = encoder(tmp_path / "clip", max_length=4).fit(["hair"])
    with pytest.warns(
        SkmoecbmWarning, match="1 of 1 texts are longer than the 4 tokens that max_length"
    ):
        cut = fitted.transform(["red dots and hair"])[0]["text"]
    np.testing.assert_allclose(cut, fitted.transform(["red dots"])[0]["text"], atol=1e-6)
    with pytest.raises(InputError, match=r"'max_length'.*at most 12"):
        encoder(tmp_path / "clip", max_length=13).fit(["hair"])


def test_stored_texts_of_any_length_are_not_read_again(models, tmp_path, monkeypatch):
    folder, _ = models["gpt"]
    texts = [" ".join(WORDS[:n]) for n in (1, PAGE - 2, PAGE - 1, PAGE)]
    fitted = encoder(folder, cache_dir=tmp_path).fit(texts)
    first = fitted.transform([*texts, texts[0]])
    assert [len(row["text"]) for row in first] == [2, PAGE - 1, PAGE, PAGE + 1, 2]

    def refuse(*_):
        raise AssertionError("a text is encoded again")

    monkeypatch.setattr(TextNetwork, "states", refuse)
    again = clone(fitted).fit(texts).transform([*texts, texts[0]])
    assert again == first
    with pytest.raises(AssertionError, match="encoded again"):
        fitted.transform(["opacity"])


def test_a_text_of_which_a_page_is_lost_is_read_again(models, tmp_path):
    folder, _ = models["gpt"]
    text = " ".join(WORDS[:PAGE])
    fitted = encoder(folder, cache_dir=tmp_path).fit([text])
    expected = fitted.transform([text])
    store = EmbeddingStore(tmp_path)
    first_page = [text_key(text) + "/0"]
    there, rows = store.get(fitted.fingerprint_, first_page)
    assert there.all()
    store.clear()
    store.put(fitted.fingerprint_, first_page, rows)
    found = fitted.transform([text])
    np.testing.assert_allclose(found[0]["text"], expected[0]["text"], atol=1e-6)


def test_threads_get_the_same_tokens(models):
    fitted = encoder(models["bert"][0]).fit(NOTES)
    expected = fitted.transform(NOTES)
    clear_memory(fitted)
    with ThreadPoolExecutor(4) as pool:
        for tokens in pool.map(fitted.transform, [NOTES] * 8):
            assert tokens.present.all()
            for one, other in zip(tokens, expected, strict=True):
                np.testing.assert_allclose(one["text"], other["text"], atol=1e-5)


def test_weights_that_are_not_there_are_no_random_numbers(models, tmp_path):
    from safetensors.torch import load_file, save_file

    write_bert(tmp_path / "cut")
    path = tmp_path / "cut" / "model.safetensors"
    state = load_file(path)
    lost = next(key for key in state if "layer.1.attention.self.query" in key)
    save_file({key: value for key, value in state.items() if key != lost}, path)
    with pytest.raises(BackboneError, match=r"lack 1 of the weights.*random numbers"):
        encoder(tmp_path / "cut").fit(NOTES)
    path.unlink()
    with pytest.raises(BackboneError, match=r"holds no weights.*random numbers"):
        encoder(tmp_path / "cut").fit(NOTES)
    write_bert(tmp_path / "other", num_labels=2)
    save_file(
        {key: value[:1] for key, value in state.items()}, tmp_path / "other/model.safetensors"
    )
    with pytest.raises(BackboneError, match="cannot be loaded"):
        encoder(tmp_path / "other").fit(NOTES)


def test_parts_of_weights_and_no_variants_beside_them(models, tmp_path):
    from safetensors.torch import load_file, save_file

    write_bert(tmp_path / "parts")
    whole = tmp_path / "parts" / "model.safetensors"
    state = load_file(whole)
    names = sorted(state)
    whole.unlink()
    for part, chosen in enumerate((names[::2], names[1::2]), 1):
        path = tmp_path / "parts" / f"model-0000{part}-of-00002.safetensors"
        save_file({name: state[name] for name in chosen}, path)
    zeros = {name: torch.zeros_like(values) for name, values in state.items()}
    save_file(zeros, tmp_path / "parts" / "model.fp16.safetensors")
    found = encoder(tmp_path / "parts").fit_transform(NOTES)
    expected = expected_tokens("bert", *models["bert"], NOTES[0])
    np.testing.assert_allclose(found[0]["text"], expected, rtol=1e-4, atol=1e-5)


def test_code_that_comes_with_a_model_is_not_run(tmp_path):
    write_bert(tmp_path / "coded")
    (tmp_path / "coded" / "modeling.py").write_text("raise SystemExit('was run')")
    path = tmp_path / "coded" / "config.json"
    config = json.loads(path.read_text())
    config["auto_map"] = {"AutoModel": "modeling.Model", "AutoConfig": "modeling.Config"}
    path.write_text(json.dumps(config))
    assert encoder(tmp_path / "coded").fit_transform(["cough"])[0]["text"].shape == (2, 24)
    path.write_text(json.dumps({**config, "model_type": "invented"}))
    with pytest.raises(BackboneError, match=r"none that transformers .* Code that comes with"):
        encoder(tmp_path / "coded").fit(["cough"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("local-dir:/nowhere/at/all", "does not exist"),
        ("ViT-B-16/nowhere", "unknown|Near it"),
        ("ViT-B-16", "Near it"),
        ("someone/a-text-model", "open_clip has no model of that name either"),
        ("hf-hub:someone/a-text-model", "Could not get 'someone/a-text-model'"),
    ],
)
def test_names_that_stand_for_nothing(name, message):
    with pytest.raises(BackboneError, match=message):
        TextTokenEncoder(name).fit(["cough"])


def test_a_model_that_reads_no_texts_is_refused(tmp_path):
    import transformers

    config = transformers.ViTConfig(
        hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        image_size=32, patch_size=16,
    )  # fmt: skip
    transformers.ViTModel(config).save_pretrained(tmp_path / "vit")
    write_bert(tmp_path / "bert")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "vit" / name).write_bytes((tmp_path / "bert" / name).read_bytes())
    with pytest.raises(BackboneError, match="does not read texts"):
        encoder(tmp_path / "vit").fit(["cough"])


@pytest.mark.parametrize(
    ("X", "message"),
    [
        ([], "Found 0 texts"),
        ("cough", "A single text goes in a list"),
        (["cough", 3], "text 1 must be a str"),
        (["cough", "fe\ud800ver"], "text 1 holds half a character"),
        (np.zeros((2, 2)), "one column of texts"),
    ],
)
def test_what_is_no_list_of_texts_is_told(X, message):
    with pytest.raises(InputError, match=message):
        TextTokenEncoder("demo-general", cache_dir=None).fit(X)


@pytest.mark.parametrize(
    "bad", [{"max_length": 2}, {"max_length": 4.5}, {"batch_size": 0}, {"cache_dir": 3}]
)
def test_bad_parameters(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        TextTokenEncoder("demo-general", **bad).fit(["hair"])


def test_contract_of_a_transformer(models):
    fitted = encoder(models["bert"][0])
    with pytest.raises(NotFittedError):
        fitted.transform(NOTES)
    tokens = fitted.fit_transform(pd.Series(NOTES, index=list("abcde")))
    assert isinstance(tokens, TokenFeatures) and tokens.names == ("text",)
    assert clone(fitted).get_params() == fitted.get_params()
    content = pickle.dumps(fitted)
    assert len(content) < 3000
    assert pickle.loads(content).transform(NOTES) == tokens
    assert fitted.set_output(transform="pandas") is fitted and fitted.transform(NOTES) == tokens
    with config_context(transform_output="pandas"):
        assert fitted.transform(NOTES) == tokens
    assert repr(fitted).startswith("TextTokenEncoder(")
    assert fitted.transform([None, None]).present.sum() == 0


def test_other_weights_under_the_same_name_are_refused(tmp_path):
    write_gpt(tmp_path / "gpt")
    fitted = encoder(tmp_path / "gpt").fit(NOTES)
    (tmp_path / "gpt" / "model.safetensors").unlink()
    write_gpt(tmp_path / "gpt", seed=1)
    with pytest.raises(InputError, match=r"This TextTokenEncoder was fitted with another model"):
        fitted.transform(NOTES)


def test_masked_notes_of_radiographs(data_dir):
    table = pd.read_csv(data_dir / "covid_chestxray_notes" / "metadata.csv")
    notes = mask_terms(table["clinical_notes"].iloc[:40], "covid_radiography")
    assert any("___" in note for note in notes)
    fitted = TextTokenEncoder("demo-general", cache_dir=None).fit(notes)
    with pytest.warns(
        SkmoecbmWarning, match="of 40 texts are longer than the 24 tokens that .demo-general. reads"
    ):
        tokens = fitted.transform(notes)
    assert tokens.present.all() and tokens.shape == (40, 64)
    plain = [len(row["text"]) for row in tokens]
    assert max(plain) == 23 and min(plain) >= 3  # begin and end are not among the words
