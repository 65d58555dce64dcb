"""Tokens of image towers, against what open_clip and timm give by themselves."""

from copy import deepcopy

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from skmoecbm.backbones import clear_backbones, load_backbone
from skmoecbm.exceptions import BackboneError, InputError
from skmoecbm.moe._image_tokens import load_image_tokens
from skmoecbm.moe._tower_tokens import pool_to_grid, tower_tokens
from tests.backbone_fixtures import CLIP_CFG, randomise, write_biomedclip, write_clip, write_weights

VIT = CLIP_CFG["vision_cfg"]
RESNET = {"layers": [1, 1, 1, 1], "width": 8, "head_width": 16, "image_size": 96}
COCA = {**VIT, "attentional_pool": True, "attn_pooler_heads": 4, "attn_pooler_queries": 6}


def tower(vision_cfg):
    cfg = {**deepcopy(CLIP_CFG), "vision_cfg": vision_cfg}
    network = randomise(open_clip.CLIP(**cfg), 0)
    for layer in network.modules():  # no variance is negative
        if isinstance(getattr(layer, "running_var", None), torch.Tensor):
            layer.running_var.copy_(layer.running_var.abs() + 0.5)
    return network.requires_grad_(False)


def timm(name, **options):
    return {"timm_model_name": name, "timm_model_pretrained": False, **options}


def pixels(side, n=3):
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(1))


def close(found, expected):
    scale = expected.abs().max().item()
    assert expected.std() > 1e-4
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * scale)


@pytest.mark.parametrize(
    "options", [{}, {"pool_type": "avg"}, {"pool_type": "avg", "final_ln_after_pool": True}]
)
def test_summary_of_a_transformer_projected_is_its_embedding(options):
    network = tower({**VIT, **options})
    with torch.inference_mode():
        summary, patches, grid = tower_tokens(network.visual, pixels(32))
        close(summary @ network.visual.proj, network.encode_image(pixels(32)))
    assert patches.shape == (3, 16, 32) and grid == (4, 4)


def test_patches_of_a_transformer_are_its_normed_last_layer():
    network = tower(VIT)
    seen = []
    network.visual.ln_post.register_forward_hook(lambda _, __, out: seen.append(out))
    network.encode_image(pixels(32))
    with torch.inference_mode():
        patches = tower_tokens(network.visual, pixels(32))[1]
    close(patches, seen[0][:, 1:])
    given = network.visual.forward_intermediates(
        pixels(32), indices=1, normalize_intermediates=True, output_fmt="NLC"
    )
    close(patches, given["image_intermediates"][0])


def test_quick_and_plain_pass_give_the_same_tokens():
    visual = tower(VIT).visual
    with torch.inference_mode():
        quick = tower_tokens(visual, pixels(32))
    with torch.enable_grad():
        plain = tower_tokens(visual, pixels(32))
    for one, other in zip(quick[:2], plain[:2], strict=True):
        close(one, other)


def test_queries_of_an_attention_pool_have_no_places():
    network = tower({**COCA, "output_tokens": True})
    with torch.inference_mode():
        summary, patches, grid = tower_tokens(network.visual, pixels(32))
        embedding, tokens = network.visual(pixels(32))
        close(summary @ network.visual.proj, embedding)
    close(patches, tokens)
    assert patches.shape == (3, 5, 16) and grid is None


@pytest.mark.parametrize(
    "options", [{"pool_type": "none"}, {"attentional_pool": "parallel", "attn_pooler_heads": 4}]
)
def test_a_tower_without_a_summary_is_refused(options):
    visual = tower({**VIT, **options}).visual
    with torch.inference_mode(), pytest.raises(BackboneError, match="no token that sums"):
        tower_tokens(visual, pixels(32))


def test_an_unknown_tower_is_refused_with_a_way_on():
    with pytest.raises(BackboneError, match=r"is a Flatten.*such as 'ViT-B-16/openai'"):
        tower_tokens(torch.nn.Flatten(), pixels(32))


def test_summary_of_a_resnet_projected_is_its_embedding():
    network = tower(RESNET)
    with torch.inference_mode():
        summary, patches, grid = tower_tokens(network.visual, pixels(96))
        close(network.visual.attnpool.c_proj(summary), network.encode_image(pixels(96)))
    assert patches.shape == (3, 9, 256) and grid == (3, 3)


def test_patches_of_a_resnet_are_its_map_with_positions():
    network = tower(RESNET)
    seen = []
    network.visual.layer4.register_forward_hook(lambda _, __, out: seen.append(out))
    with torch.inference_mode():
        network.encode_image(pixels(96))
        patches = tower_tokens(network.visual, pixels(96))[1]
    positions = network.visual.attnpool.positional_embedding
    for row, column in [(0, 0), (0, 2), (2, 1)]:
        place = 3 * row + column
        close(patches[:, place], seen[0][:, :, row, column] + positions[1 + place])


@pytest.mark.parametrize(
    ("name", "grid"),
    [("test_vit", (10, 10)), ("test_convnext", (5, 5)), ("test_resnet", (5, 5))],
)
def test_tokens_of_timm_are_those_of_its_own_head(name, grid):
    network = tower(timm(name, timm_proj="linear", timm_pool="", image_size=160))
    visual = network.visual
    with torch.inference_mode():
        summary, patches, found = tower_tokens(visual, pixels(160))
        close(visual.head(summary), network.encode_image(pixels(160)))
        features = visual.trunk.forward_features(pixels(160))
    if features.ndim == 4:
        close(patches[:, grid[1] + 2], features[:, :, 1, 2])
    else:
        close(patches[:, 0], features[:, 1])
    assert found == grid and patches.shape[1] == grid[0] * grid[1]


@pytest.mark.parametrize(
    ("name", "pool", "side", "grid"),
    [
        ("test_vit", "map", 160, (10, 10)),  # as SigLIP
        ("eva02_tiny_patch14_224", "token", 224, (16, 16)),  # as EVA02-CLIP
        ("fastvit_t8", "avg", 256, (8, 8)),  # as MobileCLIP
    ],
)
def test_tokens_of_timm_that_project_by_themselves(name, pool, side, grid):
    network = tower(timm(name, timm_pool=pool, timm_proj=None, image_size=side))
    with torch.inference_mode():
        summary, patches, found = tower_tokens(network.visual, pixels(side, 2))
        embedding = network.encode_image(pixels(side, 2))
        close(network.visual.trunk.get_classifier()(summary), embedding)
    assert found == grid and patches.shape[1] == grid[0] * grid[1]


def test_tokens_of_timm_with_channels_last():
    swin = tower(timm("swin_tiny_patch4_window7_224", timm_pool="", image_size=224))
    with torch.inference_mode():
        _, patches, grid = tower_tokens(swin.visual, pixels(224, 1))
        features = swin.visual.trunk.forward_features(pixels(224, 1))
    assert features.shape == (1, 7, 7, 768) and grid == (7, 7)
    close(patches[:, 9], features[:, 1, 2])


def test_a_pool_that_projects_leaves_the_mean():
    network = tower(timm("test_efficientnet", timm_pool="rot_attn", image_size=160))
    with torch.inference_mode():
        summary, _, grid = tower_tokens(network.visual, pixels(160))
        features = network.visual.trunk.forward_features(pixels(160))
    assert grid == (5, 5)
    close(summary, features.mean(dim=(2, 3)))


def test_pool_to_grid_takes_means_over_cells():
    patches = torch.randn(2, 16, 5, generator=torch.Generator().manual_seed(0))
    pooled = pool_to_grid(patches, (4, 4), 2)
    square = patches.numpy().reshape(2, 4, 4, 5)
    expected = np.stack(
        [square[:, r : r + 2, c : c + 2].mean(axis=(1, 2)) for r in (0, 2) for c in (0, 2)], axis=1
    )
    np.testing.assert_allclose(pooled.numpy(), expected, rtol=1e-6, atol=1e-7)


def load(name, grid=None, precision="fp32"):
    return load_image_tokens(
        name, grid=grid, revision=None, precision=precision, resize="crop", device="cpu"
    )


def images(n=4, seed=0):
    rng = np.random.default_rng(seed)
    return [Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)) for _ in range(n)]


@pytest.fixture
def clip(tmp_path):
    write_clip(tmp_path / "clip")
    yield f"local-dir:{tmp_path / 'clip'}"
    clear_backbones()


def test_image_tokens_share_the_network_and_differ_in_fingerprint(clip):
    backbone, tokens, pooled = load_backbone(clip), load(clip), load(clip, 2)
    assert load(clip) is tokens
    assert len({backbone.fingerprint, tokens.fingerprint, pooled.fingerprint}) == 3
    assert tokens.identity["weights_sha256"] == backbone.identity["weights_sha256"]
    assert (tokens.n_tokens, tokens.width, tokens.dim, tokens.grid) == (17, 32, 17 * 32, (4, 4))
    assert (pooled.n_tokens, pooled.dim, pooled.grid) == (5, 5 * 32, (2, 2))
    full = tokens.embed_images(images()).reshape(4, 17, 32)
    small = pooled.embed_images(images()).reshape(4, 5, 32)
    np.testing.assert_allclose(small[:, 0], full[:, 0], rtol=1e-6)
    corner = full[:, 1:].reshape(4, 4, 4, 32)[:, 2:, 2:].mean(axis=(1, 2))
    np.testing.assert_allclose(small[:, 4], corner, rtol=1e-5, atol=1e-6)
    assert tokens.embed_images([]).shape == (0, 17 * 32)


def test_tokens_do_not_depend_on_the_batch(clip):
    tokens = load(clip)
    rows = tokens.embed_images(images(9))
    one_by_one = np.concatenate([tokens.embed_images([one]) for one in images(9)])
    np.testing.assert_allclose(rows, one_by_one, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(tokens.embed_images(images(9)[::-1], 2)[::-1], rows, atol=1e-5)


def test_half_precision_stays_near(clip):
    exact, half = load(clip), load(clip, precision="bf16")
    assert exact.fingerprint != half.fingerprint
    one, other = exact.embed_images(images()), half.embed_images(images())
    assert other.dtype == np.float32 and not np.array_equal(one, other)
    cosines = (
        (one * other).sum(axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    )
    assert cosines.min() > 0.999


def test_half_precision_of_a_resnet_and_of_timm(tmp_path):
    write_biomedclip(tmp_path / "timm")
    for name in ("demo-general", f"local-dir:{tmp_path / 'timm'}"):
        one, other = (load(name, precision=p).embed_images(images()) for p in ("fp32", "bf16"))
        lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
        assert ((one * other).sum(axis=1) / lengths).min() > 0.99 and (one != other).any()


def test_a_grid_that_the_patches_do_not_have_is_refused(clip, tmp_path):
    with pytest.raises(InputError, match=r"'grid'.*at most 4 for.*4 x 4. Got 5"):
        load(clip, 5)
    write_clip(tmp_path / "coca", vision_cfg=COCA)
    with pytest.raises(InputError, match=r"'grid'.*whose tokens have no places"):
        load(f"local-dir:{tmp_path / 'coca'}", 2)


def test_weights_that_give_no_numbers_are_told(tmp_path):
    network = write_clip(tmp_path / "bad")
    network.visual.ln_post.weight.data[3] = torch.inf
    write_weights(tmp_path / "bad", network)
    with pytest.raises(BackboneError, match=r"no finite tokens for 4 of 4 images"):
        load(f"local-dir:{tmp_path / 'bad'}").embed_images(images())


def test_tokens_of_a_model_like_biomedclip(tmp_path):
    network = write_biomedclip(tmp_path / "biomed")
    tokens = load(f"local-dir:{tmp_path / 'biomed'}")
    assert (tokens.n_tokens, tokens.width, tokens.grid) == (101, 64, (10, 10))
    rows = torch.from_numpy(tokens.embed_images(images())).view(4, 101, 64)
    with torch.inference_mode():
        expected = network.encode_image(tokens._pixels(images()))
        close(network.visual.head(rows[:, 0]), expected)
