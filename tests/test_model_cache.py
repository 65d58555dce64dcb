"""The process-wide cache of networks: bounded, shared by variants and threads."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

import skmoecbm._model_cache as model_cache
from skmoecbm.backbones import clear_backbones, load_backbone, set_backbone_cache_size
from skmoecbm.exceptions import BackboneError, InputError
from tests.backbone_fixtures import write_clip


@pytest.fixture(autouse=True)
def fresh_cache():
    yield
    clear_backbones()
    set_backbone_cache_size(2)


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(1)
    arrays = rng.integers(0, 256, (4, 40, 50, 3), dtype=np.uint8)
    return [Image.fromarray(array) for array in arrays]


@pytest.fixture
def builds(monkeypatch):
    """Names of the models that were really built, in order."""
    built = []
    original = model_cache.build_network

    def build(source):
        built.append(source.folder.name)
        return original(source)

    monkeypatch.setattr(model_cache, "build_network", build)
    return built


@pytest.fixture
def three(tmp_path):
    for name in "abc":
        write_clip(tmp_path / name, seed=ord(name))
    return lambda name, **options: load_backbone(f"local-dir:{tmp_path / name}", **options)


def test_the_same_backbone_is_loaded_once(three, builds):
    assert three("a") is three("a")
    assert builds == ["a"]


def test_resize_and_precision_share_the_network(three, builds):
    variants = {three("a", resize=resize) for resize in ("crop", "pad", "squash")}
    variants.add(three("a", precision="bf16"))
    assert len(variants) == 4
    assert builds == ["a"]


def test_the_cache_holds_two_and_drops_the_one_not_used_for_longest(three, builds):
    three("a"), three("b"), three("a"), three("c")
    assert builds == ["a", "b", "c"]
    three("a"), three("c")
    assert builds == ["a", "b", "c"]
    three("b")
    assert builds == ["a", "b", "c", "b"]


def test_the_cache_can_be_resized_and_cleared(three, builds):
    set_backbone_cache_size(3)
    for name in "abcabc":
        three(name)
    assert builds == ["a", "b", "c"]
    set_backbone_cache_size(1)
    three("c")
    assert builds == ["a", "b", "c"]
    clear_backbones()
    three("c")
    assert builds == ["a", "b", "c", "c"]
    set_backbone_cache_size(0)
    three("c"), three("c")
    assert builds == ["a", "b", "c", "c", "c", "c"]
    with pytest.raises(InputError, match="'n' parameter"):
        set_backbone_cache_size(-1)


def test_a_backbone_in_hand_outlives_the_cache(three, pictures):
    backbone = three("a")
    before = backbone.embed_images(pictures)
    clear_backbones()
    np.testing.assert_array_equal(backbone.embed_images(pictures), before)


def test_threads_that_ask_for_the_same_get_one_load(three, builds, monkeypatch):
    slow = model_cache.build_network
    release = threading.Event()

    def build(source):
        assert release.wait(10)
        return slow(source)

    monkeypatch.setattr(model_cache, "build_network", build)
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(three, "a") for _ in range(4)]
        release.set()
        found = {future.result() for future in asked}
    assert len(found) == 1
    assert builds == ["a"]


def test_a_folder_whose_files_change_is_read_again(tmp_path, pictures):
    write_clip(tmp_path / "m", seed=0)
    first = load_backbone(f"local-dir:{tmp_path / 'm'}").embed_images(pictures)
    write_clip(tmp_path / "m", seed=1)
    second = load_backbone(f"local-dir:{tmp_path / 'm'}").embed_images(pictures)
    assert np.abs(first - second).max() > 0.1


def test_a_failed_load_leaves_nothing_behind(tmp_path):
    write_clip(tmp_path / "m")
    weights = tmp_path / "m" / "open_clip_model.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    with pytest.raises(BackboneError, match="no weights"):
        load_backbone(f"local-dir:{tmp_path / 'm'}")
    weights.write_bytes(content)
    assert load_backbone(f"local-dir:{tmp_path / 'm'}").dim == 16


def test_loading_leaves_the_random_numbers_alone(three):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    three("a")
    assert torch.equal(torch.rand(3), expected)
