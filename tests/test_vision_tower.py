"""The quick pass of a vision transformer: what the module itself gives, or the module itself."""

from copy import deepcopy

import open_clip
import pytest
import torch
from PIL import Image

from skmoecbm._vision_tower import quick_forward, speed_up
from skmoecbm.backbones import clear_backbones, load_backbone
from tests.backbone_fixtures import CLIP_CFG, randomise, write_clip

RESNET = {"layers": [1, 1, 1, 1], "width": 8, "head_width": 8, "image_size": 32}
TIMM = {"timm_model_name": "test_vit", "timm_model_pretrained": False, "image_size": 160}


def tower(quick_gelu=True, plain=False, **vision_cfg):
    """A vision tower of random weights, and as the second thing whether the quick pass knows it."""
    vision_cfg = vision_cfg if plain else {**CLIP_CFG["vision_cfg"], **vision_cfg}
    cfg = {**deepcopy(CLIP_CFG), "vision_cfg": vision_cfg, "quick_gelu": quick_gelu}
    visual = randomise(open_clip.CLIP(**cfg), 0).visual.requires_grad_(False)
    return visual, speed_up(visual)


def pixels(n=3, side=32):
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"quick_gelu": False},
        {"pool_type": "avg"},
        {"final_ln_after_pool": True},
        {"no_ln_pre": True},
        {"layers": 1},
    ],
)
def test_quick_pass_equals_the_modules_own(options):
    visual, known = tower(**options)
    images = pixels()
    before = images.clone()
    with torch.inference_mode():
        expected = type(visual).forward(visual, images)
        found = visual(images)
        again = visual(images)
    assert known
    assert torch.equal(images, before)
    assert torch.equal(found, again)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())
    assert expected.std() > 0.01


@pytest.mark.parametrize(("pool_type", "n_rows"), [("tok", 3), ("avg", 3 * 17)])
def test_last_layer_computes_only_the_tokens_that_are_read(pool_type, n_rows):
    visual, _ = tower(pool_type=pool_type)
    seen = []
    for block in visual.transformer.resblocks:
        block.ln_2.register_forward_hook(lambda _, __, out: seen.append(out.flatten(0, -2).shape))
    with torch.inference_mode():
        visual(pixels())
    assert [shape[0] for shape in seen] == [3 * 17, n_rows]


@pytest.mark.parametrize(
    ("options", "side"),
    [
        ({"ls_init_value": 0.1}, 32),
        ({"attentional_pool": True, "attn_pooler_heads": 4}, 32),
        ({"qk_norm": True, "block_type": "custom"}, 32),
        ({"output_tokens": True}, 32),
        ({"plain": True, **RESNET}, 32),
        ({"plain": True, **TIMM}, 160),
    ],
    ids=["layer scale", "attentional pool", "query norm", "tokens", "resnet", "timm"],
)
def test_other_towers_keep_their_own_pass(options, side):
    visual, known = tower(**options)
    assert not known
    assert "forward" not in vars(visual)
    with torch.inference_mode():
        visual(pixels(side=side))


@pytest.mark.parametrize("switch", ["gradients", "autocast", "float64", "training"])
def test_the_modules_own_pass_is_taken_where_the_quick_one_is_not_meant(switch):
    visual, _ = tower()
    images = pixels()
    if switch == "float64":
        visual, images = visual.double(), images.double()
    visual.train(switch == "training")
    with (
        torch.set_grad_enabled(switch == "gradients"),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=switch == "autocast"),
    ):
        assert torch.equal(visual(images), type(visual).forward(visual, images))


def test_backbone_takes_the_quick_pass(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(
        "skmoecbm._vision_tower.quick_forward",
        lambda visual, images: calls.append(len(images)) or quick_forward(visual, images),
    )
    write_clip(tmp_path / "clip")
    images = [Image.new("RGB", (40, 40), (i, 90, 7)) for i in range(3)]
    load_backbone(f"local-dir:{tmp_path / 'clip'}", device="cpu").embed_images(images)
    clear_backbones()
    assert calls[-1] == 3
