"""TokenEncoder: scikit-learn's contract, the store, and every kind of image."""

import io
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils import get_tags

from skmoecbm import ConceptEncoder, DicomFrame
from skmoecbm._image_embeddings import ImageEmbeddings
from skmoecbm._model_cache import Network
from skmoecbm.backbones import load_backbone
from skmoecbm.exceptions import InputError, SkmoecbmWarning
from skmoecbm.moe import TokenEncoder, TokenFeatures
from skmoecbm.store import EmbeddingStore
from tests.backbone_fixtures import write_clip
from tests.dicom_files import dicom


def pictures(n, seed=0):
    return list(np.random.default_rng(seed).integers(0, 255, (n, 70, 80, 3), dtype=np.uint8))


def encoder(**options):
    return TokenEncoder("demo-general", **{"cache_dir": None, "device": "cpu", **options})


@pytest.fixture
def counted(monkeypatch):
    """How many images went through a network, pass by pass."""
    passes = []
    own = Network.encode_tokens

    def count(self, tokens_of, pixels, precision):
        passes.append(len(pixels))
        return own(self, tokens_of, pixels, precision)

    monkeypatch.setattr(Network, "encode_tokens", count)
    return passes


@pytest.fixture
def clip(tmp_path):
    write_clip(tmp_path / "clip")
    return f"local-dir:{tmp_path / 'clip'}"


def test_first_token_projected_is_the_embedding_that_concept_encoder_sees():
    images = pictures(3)
    rows, _ = ConceptEncoder("demo-general", ["red"], cache_dir=None, device="cpu").embed_images(
        images
    )
    tokens = encoder().fit_transform(images)
    pool = load_backbone("demo-general", device="cpu")._network.module.visual.attnpool
    summary = torch.tensor(np.stack([row["image"][0] for row in tokens]))
    projected = pool.c_proj(summary).numpy()
    projected /= np.linalg.norm(projected, axis=1, keepdims=True)
    np.testing.assert_allclose(projected, rows, atol=1e-5)


def test_contract_of_a_transformer():
    images = pictures(3)
    given = encoder()
    with pytest.raises(NotFittedError):
        given.transform(images)
    tokens = given.fit(images, [0, 1, 0]).transform(images)
    assert isinstance(tokens, TokenFeatures) and tokens.names == ("image",)
    assert (given.n_tokens_, given.width_, given.grid_) == (5, 384, (2, 2))
    assert tokens.streams["image"].values.dtype == np.float32 and len(tokens) == 3
    assert given.token_names() == [
        "[summary]",
        *("row 0, column 0", "row 0, column 1", "row 1, column 0", "row 1, column 1"),
    ]
    assert given.get_feature_names_out()[-1] == "image__383" and tokens.shape == (3, 384)
    assert "not for clinical use" in given.notice_
    assert clone(given).get_params() == given.get_params()
    content = pickle.dumps(given)
    assert len(content) < 3000
    assert pickle.loads(content).transform(images) == tokens
    assert given.set_output(transform="pandas") is given and given.transform(images) == tokens
    with config_context(transform_output="pandas"):
        assert given.transform(images) == tokens
    assert repr(clone(given).set_params(device="auto")) == (
        "TokenEncoder(backbone='demo-general', cache_dir=None)"
    )
    tags = get_tags(given)
    assert tags.no_validation and tags.input_tags.one_d_array and not tags.target_tags.required


def test_rows_without_an_image_are_missing_whatever_on_error_says():
    images = pictures(3)
    tokens = encoder().fit_transform([None, images[0], float("nan"), images[1], images[0]])
    assert tokens.present[:, 0].tolist() == [False, True, False, True, True]
    whole = encoder().fit_transform(images)
    for row, image in [(1, 0), (3, 1), (4, 0)]:
        np.testing.assert_allclose(tokens[row]["image"], whole[image]["image"], atol=1e-5)
    assert encoder().fit_transform([None, None]).present.sum() == 0


def test_an_image_that_cannot_be_read_is_told_with_its_row(tmp_path):
    images = [None, *pictures(1), tmp_path / "absent.png"]
    with pytest.raises(InputError, match=r"image 2 .*absent.png.* cannot be read"):
        encoder().fit_transform(images)
    with pytest.warns(SkmoecbmWarning, match=r"1 image\(s\) cannot be read.*image 2"):
        tokens = encoder(on_error="missing").fit_transform(images)
    assert tokens.present[:, 0].tolist() == [False, True, False]


def test_path_bytes_array_pil_tensor_and_dicom_give_the_same(tmp_path):
    pixels = pictures(1)[0]
    picture = Image.fromarray(pixels)
    picture.save(tmp_path / "a.png")
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    (tmp_path / "a.dcm").write_bytes(dicom(pixels))
    forms = [
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        buffer.getvalue(),
        pixels,
        picture,
        torch.from_numpy(pixels).permute(2, 0, 1),
        tmp_path / "a.dcm",
        DicomFrame(tmp_path / "a.dcm"),
    ]
    tokens = encoder().fit_transform(forms)
    for row in tokens:
        np.testing.assert_allclose(row["image"], tokens[0]["image"], atol=1e-5)
    table = pd.DataFrame({"image": [str(tmp_path / "a.png"), None]})
    assert encoder().fit_transform(table).present[:, 0].tolist() == [True, False]


def test_each_image_goes_through_the_network_once_ever(tmp_path, counted):
    images = pictures(6)
    given = encoder(cache_dir=tmp_path).fit(images)
    first = given.transform([*images, images[0]])
    assert sum(counted) in (6, 7)  # a new backbone is tried on one image
    n_passes = len(counted)
    again = encoder(cache_dir=tmp_path).fit_transform(images)
    assert again == first[:6] and len(counted) == n_passes
    given.transform(images[::-1] + pictures(2, seed=1))
    assert sum(counted[n_passes:]) == 2
    labels = [one["label"] for one in EmbeddingStore(tmp_path).info()["backbones"]]
    assert labels == ["demo-general, tokens"]
    coarse = encoder(cache_dir=tmp_path, grid=1).fit_transform(images)
    assert coarse.streams["image"].lengths.tolist() == [2] * 6
    mean = first[0]["image"][1:].mean(axis=0)
    np.testing.assert_allclose(coarse[0]["image"][1], mean, rtol=1e-4, atol=1e-5)


def test_what_was_encoded_before_an_interrupt_is_kept(tmp_path, monkeypatch):
    images, calls = pictures(9), []
    own = Network.encode_tokens
    given = encoder(cache_dir=tmp_path, batch_size=2).fit(images)

    def interrupted(self, tokens_of, pixels, precision):
        calls.append(len(pixels))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return own(self, tokens_of, pixels, precision)

    monkeypatch.setattr(Network, "encode_tokens", interrupted)
    with pytest.raises(KeyboardInterrupt):
        given.transform(images)
    given.transform(images)
    assert sum(calls[:2]) == 4 and sum(calls[3:]) == 5


def test_rows_do_not_depend_on_the_others(clip):
    images = pictures(7)
    given = TokenEncoder(clip, cache_dir=None).fit(images)
    together = given.transform(images)
    assert together.streams["image"].lengths.tolist() == [17] * 7
    for row, image in enumerate(images):
        EmbeddingStore(None).clear()
        alone = given.transform([image])[0]["image"]
        np.testing.assert_allclose(together[row]["image"], alone, rtol=1e-5, atol=1e-5)


def test_threads_get_the_same_tokens(clip):
    images = pictures(5)
    given = TokenEncoder(clip, cache_dir=None).fit(images)
    expected = given.transform(images)
    EmbeddingStore(None).clear()
    with ThreadPoolExecutor(4) as pool:
        for tokens in pool.map(given.transform, [images] * 6):
            assert tokens == given.transform(images)
            np.testing.assert_allclose(tokens[2]["image"], expected[2]["image"], atol=1e-5)


def test_more_tokens_than_the_store_keeps_are_told(monkeypatch, tmp_path):
    monkeypatch.setattr(EmbeddingStore.__init__, "__kwdefaults__", {"max_bytes": 30_000})
    with pytest.warns(SkmoecbmWarning, match=r"tokens of 9 images take .*a .smaller. grid"):
        encoder(cache_dir=tmp_path).fit_transform(pictures(9))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"grid": 0}, "'grid'"),
        ({"grid": 3}, "'grid'.*at most 2"),
        ({"grid": True}, "'grid'"),
        ({"resize": "stretch"}, "'resize'"),
        ({"precision": "int8"}, "'precision'"),
        ({"on_error": "skip"}, "'on_error'"),
        ({"batch_size": 0}, "'batch_size'"),
        ({"cache_dir": 5}, "'cache_dir'"),
    ],
)
def test_bad_parameters(bad, message):
    with pytest.raises(InputError, match=message):
        encoder(**bad).fit(pictures(1))


@pytest.mark.parametrize(
    ("X", "message"),
    [([], "Found 0 images"), ("a.png", "Wrap it in a list"), ({"a": 1}, "Expected images")],
)
def test_what_is_no_list_of_images_is_told(X, message):
    with pytest.raises(InputError, match=message):
        encoder().fit(X)


def test_embeddings_made_elsewhere_have_no_tokens():
    X = object.__new__(ImageEmbeddings)
    with pytest.raises(InputError, match="hold one vector an image and no tokens"):
        encoder().fit(X)


def test_another_model_than_that_of_the_fit_is_refused(tmp_path, clip):
    given = TokenEncoder(clip, cache_dir=None).fit(pictures(1))
    with pytest.raises(InputError, match=r"This TokenEncoder was fitted with another model"):
        clone(given).fit(pictures(1)).set_params(grid=2).transform(pictures(1))
    write_clip(tmp_path / "clip", seed=1)
    with pytest.raises(InputError, match=r"TokenEncoder was fitted with another model.*weights"):
        given.transform(pictures(1))


def test_dermatoscopic_images_under_the_demo_experts(data_dir):
    table = pd.read_csv(data_dir / "ham10000" / "metadata.csv")
    paths = sorted((data_dir / "ham10000").rglob("*.jpg"))[:24]
    assert len(paths) == 24 and len(table)
    for name in ("demo-general", "demo-structures"):
        tokens = TokenEncoder(name, cache_dir=None).fit_transform(paths)
        assert tokens.present.all() and set(tokens.streams["image"].lengths) == {5}
        padded, _ = tokens.padded("image")
        # images differ, and so do the places of one
        assert padded.std(axis=0).mean() > 0.01 and padded[:, 1:].std(axis=1).mean() > 0.01
        backbone = load_backbone(name)
        maps = []
        visual = backbone._network.module.visual
        hook = visual.layer4.register_forward_hook(lambda _, __, out, maps=maps: maps.append(out))
        backbone.embed_images([Image.open(path) for path in paths[:3]])
        hook.remove()
        place = maps[0][:, :, 1, 0] + visual.attnpool.positional_embedding[3]
        np.testing.assert_allclose(padded[:3, 3], place.numpy(), rtol=1e-4, atol=1e-4)
