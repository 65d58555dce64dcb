"""A tower in 16 bits: the bits of autocast, or autocast itself."""

from copy import deepcopy

import open_clip
import pytest
import torch
from torch import nn

from skmoecbm import _precision
from skmoecbm._half_tower import half_tower
from skmoecbm.backbones import clear_backbones, load_backbone
from tests.backbone_fixtures import CLIP_CFG, randomise, write_clip

TOWERS = {
    "vit": {},
    "layer scale": {"ls_init_value": 0.1},
    "attentional pool": {"attentional_pool": True, "attn_pooler_heads": 4},
    "resnet": {"layers": [1, 1, 1, 1], "width": 8, "head_width": 8, "image_size": 32},
    "timm": {
        "timm_model_name": "test_vit", "timm_model_pretrained": False, "timm_pool": "token",
        "timm_proj": "linear", "image_size": 160,
    },
}  # fmt: skip


def network(kind, seed=0):
    own = TOWERS[kind]
    vision_cfg = own if "image_size" in own else {**CLIP_CFG["vision_cfg"], **own}
    cfg = {**deepcopy(CLIP_CFG), "vision_cfg": vision_cfg}
    return randomise(open_clip.CLIP(**cfg), seed).requires_grad_(False)


def images(kind, n=2, seed=1):
    side = TOWERS[kind].get("image_size", 32)
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def autocast():
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        yield


@pytest.mark.usefixtures("autocast")
@pytest.mark.parametrize("kind", [kind for kind in TOWERS if kind != "layer scale"])
def test_rows_are_those_of_autocast_bit_for_bit(kind):
    module = network(kind)
    before = {name: weight.clone() for name, weight in module.state_dict().items()}
    tower = half_tower(module, torch.bfloat16, images(kind, n=1))
    assert isinstance(tower, nn.Module)
    others = images(kind, n=3, seed=7)
    assert torch.equal(tower(others), module.encode_image(others))
    for name, weight in module.state_dict().items():
        assert weight.dtype == before[name].dtype
        assert torch.equal(weight, before[name])
    kinds = {weight.dtype for weight in tower.parameters()}
    assert kinds == {torch.bfloat16, torch.float32}


class Odd(nn.Linear):
    """A layer that computes with its weight before it multiplies."""

    def forward(self, x):
        return nn.functional.linear(x, self.weight * 1.001, self.bias)


class Strict(nn.Module):
    """A layer that works in the type of another layer's weight, outside of autocast."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        with torch.autocast("cpu", enabled=False):
            return self.inner(x.float())


@pytest.mark.usefixtures("autocast")
def test_layers_of_other_kinds_keep_their_weights():
    module = network("vit")
    mlp = module.visual.transformer.resblocks[0].mlp
    odd = Odd(32, 128)
    odd.load_state_dict(mlp.c_fc.state_dict())
    mlp.c_fc = odd
    tower = half_tower(module, torch.bfloat16, images("vit"))
    assert tower.transformer.resblocks[0].mlp.c_fc.weight.dtype == torch.float32
    assert torch.equal(tower(images("vit")), module.encode_image(images("vit")))


@pytest.mark.usefixtures("autocast")
def test_a_tower_that_would_not_give_the_same_is_not_taken():
    module = network("vit")
    mlp = module.visual.transformer.resblocks[0].mlp
    mlp.c_fc = Strict(mlp.c_fc)
    tower = half_tower(module, torch.bfloat16, images("vit"))
    assert tower == module.encode_image
    # its stream is float32, and torch then computes attention in float32 too
    module = network("layer scale")
    assert half_tower(module, torch.bfloat16, images("vit")) == module.encode_image


def test_backbone_keeps_the_tower_of_its_format_only(tmp_path, monkeypatch):
    monkeypatch.setattr(_precision, "SMALL_NETWORK", 0)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr("skmoecbm._model_cache.MIN_COSINE", 2.0)  # none is near enough
    write_clip(tmp_path / "clip")
    name = f"local-dir:{tmp_path / 'clip'}"
    backbone = load_backbone(name, device="cpu")
    network = backbone._network
    assert backbone.precision == "fp32"
    assert not network._towers
    low = load_backbone(name, precision="bf16", device="cpu")
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    rows = network.encode(pixels, "bf16")
    first = network._towers["bf16"]
    assert network.encode(pixels, "bf16").equal(rows)
    assert network._towers == {"bf16": first}
    assert isinstance(first, nn.Module)
    assert low._network is network
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(rows, network.module.encode_image(pixels).float())
    clear_backbones()
