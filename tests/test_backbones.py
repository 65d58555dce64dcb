"""Backbones: embeddings, identity, cache, memory, precision (loading: test_model_source.py)."""

import copy
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

import skmoecbm
import skmoecbm._model_cache as model_cache
from skmoecbm import backbones
from skmoecbm.backbones import clear_backbones, load_backbone, set_backbone_cache_size
from skmoecbm.exceptions import BackboneError, InputError, SkmoecbmWarning
from tests.backbone_fixtures import (
    PREPROCESS,
    write_clip,
    write_config,
    write_cut_clip,
    write_weights,
)

NOTICE = "synthetic demonstration encoders, trained on drawings, not for clinical use"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip") / "model"
    write_clip(folder)
    return folder


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip") / "same")


@pytest.fixture
def backbone(folder):
    return load_backbone(f"local-dir:{folder}", device="cpu")


@pytest.fixture(autouse=True)
def fresh_cache():
    yield
    clear_backbones()
    set_backbone_cache_size(2)


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    sizes = [(40, 40), (70, 50), (33, 90), (20, 16), (64, 64)]
    return [
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for width, height in sizes
    ]


def unit(rows):
    rows = np.asarray(rows, dtype=np.float64)
    return rows / np.sqrt((rows**2).sum(axis=1, keepdims=True))


def pixels_by_hand(image, resize, side=32):
    """Resize with PIL alone and normalise with numpy alone."""
    width, height = image.size
    if resize == "squash":
        image = image.resize((side, side), Image.Resampling.BILINEAR)
    elif resize == "crop":
        short = min(width, height)
        width, height = int(side * width / short), int(side * height / short)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        left, top = round((width - side) / 2), round((height - side) / 2)
        image = image.crop((left, top, left + side, top + side))
    else:
        scale = max(width, height) / side
        image = image.resize(
            (round(width / scale), round(height / scale)), Image.Resampling.BILINEAR
        )
        square = Image.new("RGB", (side, side))
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        image = square
    values = np.asarray(image, dtype=np.float64) / 255
    values = (values - PREPROCESS["mean"]) / PREPROCESS["std"]
    return torch.from_numpy(values.transpose(2, 0, 1)).float()


@pytest.mark.parametrize("resize", ["crop", "pad", "squash"])
def test_images_equal_open_clip_after_preprocessing_by_hand(folder, network, pictures, resize):
    backbone = load_backbone(f"local-dir:{folder}", resize=resize, device="cpu")
    pixels = torch.stack([pixels_by_hand(image, resize) for image in pictures])
    with torch.no_grad():
        expected = unit(network.encode_image(pixels))
    rows = backbone.embed_images(pictures)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, expected, atol=2e-6)


@pytest.mark.parametrize("resize", ["crop", "pad", "squash"])
def test_real_jpegs_equal_open_clip_after_preprocessing_by_hand(data_dir, folder, network, resize):
    paths = sorted((data_dir / "ham10000").rglob("*.jpg"))[:6]
    assert paths
    images = [Image.open(path).convert("RGB") for path in paths]
    pixels = torch.stack([pixels_by_hand(image, resize) for image in images])
    with torch.no_grad():
        expected = unit(network.encode_image(pixels))
    backbone = load_backbone(f"local-dir:{folder}", resize=resize, device="cpu")
    np.testing.assert_allclose(backbone.embed_images(images), expected, atol=2e-6)


def test_texts_equal_open_clip_normalised_by_hand(backbone, network):
    texts = ["a mole", "blue-white veil", "", "HAIR"]
    tokens = open_clip.tokenize(texts, context_length=12)
    with torch.no_grad():
        expected = unit(network.encode_text(tokens))
    rows = backbone.embed_texts(texts)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, expected, atol=2e-6)


def test_a_folder_with_its_own_bpe_file_reads_with_it(tmp_path):
    network = write_cut_clip(tmp_path / "cut", n_merges=60)
    tokenizer = open_clip.SimpleTokenizer(str(tmp_path / "cut" / "bpe.txt.gz"), context_length=12)
    assert tokenizer.vocab_size == 574
    with torch.no_grad():
        expected = unit(network.encode_text(tokenizer(["the mole"])))
    rows = load_backbone(f"local-dir:{tmp_path / 'cut'}", device="cpu").embed_texts(["the mole"])
    np.testing.assert_allclose(rows, expected, atol=2e-6)


def test_embeddings_have_length_one_and_no_rows_give_no_rows(backbone, pictures):
    norms = np.linalg.norm(backbone.embed_images(pictures).astype(np.float64), axis=1)
    np.testing.assert_allclose(norms, 1, atol=1e-6)
    assert backbone.embed_images([]).shape == (0, 16) == backbone.embed_texts([]).shape
    assert backbone.embed_images([]).dtype == np.float32 == backbone.embed_texts([]).dtype
    assert (backbone.dim, backbone.image_size, backbone.context_length) == (16, 32, 12)


def test_a_row_does_not_depend_on_its_batch(backbone, pictures):
    together = backbone.embed_images(pictures)
    for batch_size in (1, 2, 3):
        np.testing.assert_allclose(
            backbone.embed_images(pictures, batch_size=batch_size), together, atol=1e-6
        )
    alone = np.concatenate([backbone.embed_images([image]) for image in pictures])
    np.testing.assert_allclose(alone, together, atol=1e-6)
    texts = ["a", "a much longer text", "b"]
    np.testing.assert_allclose(
        backbone.embed_texts(texts[:1]), backbone.embed_texts(texts)[:1], atol=1e-6
    )


def test_preprocessing_with_several_threads_keeps_the_order(backbone, pictures):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = backbone.embed_images(pictures)
        torch.set_num_threads(2)
        np.testing.assert_allclose(backbone.embed_images(pictures), alone, atol=1e-6)
    finally:
        torch.set_num_threads(before)


def test_wrong_items_are_named(backbone, pictures):
    with pytest.raises(InputError, match=r"image 1 must be a PIL image. Got ndarray"):
        backbone.embed_images([pictures[0], np.zeros((8, 8, 3))])
    with pytest.raises(InputError, match=r"text 1 must be a string. Got int"):
        backbone.embed_texts(["a", 3])
    with pytest.raises(InputError, match="'texts' parameter"):
        backbone.embed_texts("a")
    with pytest.raises(InputError, match="'batch_size' parameter"):
        backbone.embed_images(pictures, batch_size=0)


def test_a_text_longer_than_the_context_warns_and_names_it(backbone):
    # 10 one-token words and the two ends are exactly the context of 12.
    fits = " ".join(["mole"] * 10)
    long = fits + " hair"
    rows = backbone.embed_texts([fits])
    with pytest.warns(SkmoecbmWarning, match="1 of 2 texts are longer than the 12 tokens.*hair'"):
        cut = backbone.embed_texts([long, "b"])
    np.testing.assert_allclose(cut[:1], rows, atol=1e-6)


def test_tokens_are_counted_before_the_cut_and_with_both_ends(backbone):
    texts = [" ".join(["mole"] * n) for n in (1, 10, 30)]
    assert backbone.count_tokens(texts) == [3, 12, 32]
    assert backbone.count_tokens([]) == []


def test_gray_pictures_are_converted(backbone):
    gray = Image.fromarray(np.arange(1024, dtype=np.uint8).reshape(32, 32) % 251)
    np.testing.assert_array_equal(
        backbone.embed_images([gray]), backbone.embed_images([gray.convert("RGB")])
    )


def test_damaged_weights_are_an_error_and_not_nan_rows(tmp_path, pictures):
    network = write_clip(tmp_path / "nan")
    network.visual.proj.data[0, 0] = torch.nan
    write_weights(tmp_path / "nan", network)
    backbone = load_backbone(f"local-dir:{tmp_path / 'nan'}", device="cpu")
    with pytest.raises(BackboneError, match=r"no finite embedding for 5 of 5 images, .* image 0"):
        backbone.embed_images(pictures)


@pytest.mark.parametrize("name", ["demo-general", "demo-structures"])
def test_a_demo_expert_is_its_folder_with_notice_and_lexicon(name, pictures):
    backbone = load_backbone(name, device="cpu")
    folder = Path(skmoecbm.__file__).parent / "_demo" / name.removeprefix("demo-")
    network = open_clip.create_model(f"local-dir:{folder}", require_pretrained=True).eval()
    tokenizer = open_clip.SimpleTokenizer(str(folder / "bpe.txt.gz"), context_length=24)
    texts = ["hair", "no hair"]
    with torch.no_grad():
        expected = unit(network.encode_text(tokenizer(texts)))
    np.testing.assert_allclose(backbone.embed_texts(texts), expected, atol=2e-6)
    other = load_backbone(f"local-dir:{folder}", device="cpu")
    np.testing.assert_array_equal(backbone.embed_images(pictures), other.embed_images(pictures))
    assert backbone.notice == other.notice == NOTICE
    assert len(backbone.lexicon) > 20
    assert all(phrase == " ".join(phrase.lower().split()) for phrase in backbone.lexicon)
    assert (backbone.dim, backbone.image_size, backbone.context_length) == (64, 64, 24)
    assert backbone.precision == "fp32"


# Identity


def test_identity_is_json_and_holds_no_path(folder, backbone):
    assert json.loads(json.dumps(backbone.identity)) == backbone.identity
    assert str(folder) not in json.dumps(backbone.identity)
    assert len(backbone.fingerprint) == 64
    assert backbone.identity["precision"] == "fp32"


def test_fingerprint_follows_the_content_and_not_the_place(folder, backbone, tmp_path):
    def fingerprint(path, **options):
        return load_backbone(f"local-dir:{path}", device="cpu", **options).fingerprint

    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    assert fingerprint(moved) == backbone.fingerprint

    seen = {backbone.fingerprint}
    for options in ({"resize": "pad"}, {"resize": "squash"}, {"precision": "bf16"}):
        seen.add(fingerprint(moved, **options))
    write_clip(tmp_path / "weights", seed=1)
    seen.add(fingerprint(tmp_path / "weights"))
    write_clip(tmp_path / "activation", quick_gelu=False)
    seen.add(fingerprint(tmp_path / "activation"))
    write_clip(tmp_path / "mean")
    config = json.loads((tmp_path / "mean" / "open_clip_config.json").read_text())
    write_config(tmp_path / "mean", config["model_cfg"], {**PREPROCESS, "mean": [0.1, 0.2, 0.3]})
    seen.add(fingerprint(tmp_path / "mean"))
    assert len(seen) == 7


def test_weights_hash_is_that_of_the_file(folder, backbone):
    import hashlib

    content = (folder / "open_clip_model.safetensors").read_bytes()
    assert backbone.identity["weights_sha256"] == hashlib.sha256(content).hexdigest()


def test_lexicon_and_notice_come_from_the_folder_and_the_notice_is_logged_once(tmp_path, caplog):
    write_clip(tmp_path / "small")
    lexicon = {"concepts": {"Hair": ["x"]}, "phrases": ["no  Hair", "red"], "notice": "a toy 7f3"}
    (tmp_path / "small" / "lexicon.json").write_text(json.dumps(lexicon))
    with caplog.at_level(logging.WARNING, logger="skmoecbm"):
        for resize in ("crop", "pad", "crop"):
            backbone = load_backbone(f"local-dir:{tmp_path / 'small'}", resize=resize)
    assert backbone.notice == "a toy 7f3"
    assert {"hair", "no hair", "red"} <= backbone.lexicon
    assert [record.getMessage() for record in caplog.records].count("a toy 7f3") == 1


def test_a_model_of_free_text_has_no_lexicon(backbone):
    assert backbone.lexicon is None
    assert backbone.notice is None


# Memory


def test_batch_is_halved_when_memory_runs_out(backbone, pictures, monkeypatch):
    expected = backbone.embed_images(pictures)
    original = model_cache.Network.encode
    sizes = []

    def encode(self, pixels, precision):
        sizes.append(len(pixels))
        if len(pixels) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return original(self, pixels, precision)

    monkeypatch.setattr(model_cache.Network, "encode", encode)
    with pytest.warns(SkmoecbmWarning, match="Memory ran out .* batch_size=2"):
        rows = backbone.embed_images(pictures, batch_size=5)
    assert sizes == [5, 2, 2, 1]
    np.testing.assert_allclose(rows, expected, atol=1e-6)


def test_memory_too_small_for_one_image_is_an_error(backbone, pictures, monkeypatch):
    def encode(self, pixels, precision):
        raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate ...")

    monkeypatch.setattr(model_cache.Network, "encode", encode)
    with (
        pytest.warns(SkmoecbmWarning),
        pytest.raises(BackboneError, match="single input"),
    ):
        backbone.embed_images(pictures)


def test_other_errors_of_the_network_are_not_taken_for_memory(backbone, pictures, monkeypatch):
    def encode(self, pixels, precision):
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(model_cache.Network, "encode", encode)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        backbone.embed_images(pictures)


# Parameters


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"name": 3}, "'name' parameter"),
        ({"resize": "stretch"}, "'resize' parameter .*'crop', 'pad', 'squash'"),
        ({"precision": "int8"}, "'precision' parameter"),
        ({"precision": None}, "'precision' parameter"),
        ({"revision": 7}, "'revision' parameter"),
        ({"device": "tpu"}, "'device' parameter"),
    ],
)
def test_bad_parameters_are_named(folder, options, match):
    arguments = {"name": f"local-dir:{folder}", **options}
    with pytest.raises(InputError, match=match):
        load_backbone(**arguments)


def test_images_are_not_changed(backbone, pictures):
    before = [copy.deepcopy(np.asarray(image)) for image in pictures]
    backbone.embed_images(pictures)
    for image, pixels in zip(pictures, before, strict=True):
        np.testing.assert_array_equal(np.asarray(image), pixels)


def test_repr_is_one_line(backbone):
    assert "dim=16" in repr(backbone)
    assert "\n" not in repr(backbone)
    assert backbones.Backbone is type(backbone)
