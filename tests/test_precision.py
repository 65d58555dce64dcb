"""Number formats: what "auto" takes, and the process-wide switch that is put back."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

import skmoecbm._model_cache as model_cache
from skmoecbm import _precision
from skmoecbm._precision import precision_context
from skmoecbm.backbones import clear_backbones, load_backbone
from skmoecbm.exceptions import BackboneError, InputError
from tests.backbone_fixtures import write_clip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip") / "model"
    write_clip(folder)
    return folder


@pytest.fixture(autouse=True)
def fresh_cache():
    yield
    clear_backbones()


@pytest.fixture
def backbone(folder):
    return load_backbone(f"local-dir:{folder}", precision="fp32", device="cpu")


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(1)
    arrays = rng.integers(0, 256, (4, 40, 50, 3), dtype=np.uint8)
    return [Image.fromarray(array) for array in arrays]


def test_bf16_is_near_float32_and_really_used(folder, backbone, pictures):
    low = load_backbone(f"local-dir:{folder}", precision="bf16", device="cpu")
    rows, exact = low.embed_images(pictures), backbone.embed_images(pictures)
    assert rows.dtype == np.float32
    assert low.precision == low.identity["precision"] == "bf16"
    assert (rows * exact).sum(axis=1).min() > 0.99
    assert np.abs(rows - exact).max() > 1e-5
    np.testing.assert_array_equal(low.embed_texts(["a mole"]), backbone.embed_texts(["a mole"]))


@pytest.fixture
def able_processor(monkeypatch):
    monkeypatch.setattr(_precision, "SMALL_NETWORK", 0)
    # `raising=False`: torch before 2.10 has no such function.
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)


@pytest.fixture
def pretended(monkeypatch):
    """Set seconds (by format) and the angle by which a format turns the rows, in `Network.encode`.

    Float32 takes one second of a clock that only these passes move.
    """
    original = model_cache.Network.encode
    seconds, angles, clock = {"fp32": 1.0}, {}, [0.0]

    def encode(self, pixels, precision):
        clock[0] += seconds[precision]
        rows = original(self, pixels, "fp32")
        across = rows.roll(1, dims=1)
        across -= rows * (rows * across).sum(1, keepdim=True) / (rows**2).sum(1, keepdim=True)
        scale = rows.norm(dim=1, keepdim=True) / across.norm(dim=1, keepdim=True)
        return rows + np.tan(angles.get(precision, 0.0)) * scale * across

    monkeypatch.setattr(model_cache.Network, "encode", encode)
    monkeypatch.setattr(model_cache.time, "perf_counter", lambda: clock[0])
    return seconds, angles


@pytest.mark.usefixtures("able_processor")
@pytest.mark.parametrize(
    ("angle", "expected"),
    [(0.044, "bf16"), (0.045, "fp32"), (np.nan, "fp32")],  # cos(0.0447) = 0.999
)
def test_auto_takes_bf16_only_while_the_cosine_to_float32_holds(
    folder, monkeypatch, pretended, angle, expected
):
    seconds, angles = pretended
    seconds["bf16"], angles["bf16"] = 0.2, angle
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    backbone = load_backbone(f"local-dir:{folder}", device="cpu")
    assert backbone.precision == backbone.identity["precision"] == expected


@pytest.mark.usefixtures("able_processor")
@pytest.mark.parametrize(
    ("bf16", "medium", "expected"),
    [
        (0.2, 0.5, "bf16"),
        (2.8, 0.5, "fp32-medium"),  # a processor that names bfloat16 and emulates it
        (0.5, 0.2, "fp32-medium"),
        (2.8, 0.9, "fp32"),  # not faster by enough for two timings to agree
    ],
)
def test_auto_takes_the_format_that_is_fastest_here(
    folder, monkeypatch, pretended, bf16, medium, expected
):
    pretended[0].update({"bf16": bf16, "fp32-medium": medium})
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert load_backbone(f"local-dir:{folder}", device="cpu").precision == expected


@pytest.mark.usefixtures("able_processor")
def test_auto_passes_over_a_faster_format_that_is_not_near(folder, monkeypatch, pretended):
    seconds, angles = pretended
    seconds.update({"bf16": 0.1, "fp32-medium": 0.5})
    angles["bf16"] = 0.1
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert load_backbone(f"local-dir:{folder}", device="cpu").precision == "fp32-medium"


@pytest.mark.usefixtures("able_processor")
def test_auto_stays_in_float32_on_a_processor_without_bf16(folder, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True}, raising=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert load_backbone(f"local-dir:{folder}", device="cpu").precision == "fp32"


def test_auto_keeps_small_networks_in_float32_everywhere(folder, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    assert load_backbone(f"local-dir:{folder}", device="cpu").precision == "fp32"


def test_fp16_on_a_processor_is_refused(folder):
    with pytest.raises(InputError, match=r"'precision' parameter .* on cpu. Got 'fp16'"):
        load_backbone(f"local-dir:{folder}", precision="fp16", device="cpu")


@pytest.mark.parametrize("outside", ["highest", "high", "medium"])
def test_the_matmul_switch_is_set_for_the_pass_and_put_back(backbone, pictures, outside):
    seen = []
    handle = backbone._network.module.visual.register_forward_hook(
        lambda *_: seen.append(torch.get_float32_matmul_precision())
    )
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(outside)
        backbone.embed_images(pictures)
        assert torch.get_float32_matmul_precision() == outside
        with pytest.raises(BackboneError, match="no finite"):
            backbone._normalise(np.full((1, 16), np.nan), "image")
    finally:
        torch.set_float32_matmul_precision(before)
        handle.remove()
    assert set(seen) == {"highest"}


def test_torchs_newer_matmul_switches_are_put_back_too(backbone, pictures):
    switch = getattr(torch.backends.mkldnn, "matmul", None)
    if switch is None:
        pytest.skip("this torch has no torch.backends.mkldnn.matmul")
    expected = backbone.embed_images(pictures)
    before = switch.fp32_precision
    seen = []
    handle = backbone._network.module.visual.register_forward_hook(
        lambda *_: seen.append(switch.fp32_precision)
    )
    try:
        switch.fp32_precision = "bf16"
        rows = backbone.embed_images(pictures)
        assert switch.fp32_precision == "bf16"
    finally:
        switch.fp32_precision = before
        handle.remove()
    assert set(seen) == {"ieee"}
    np.testing.assert_allclose(rows, expected, atol=1e-6)
    assert torch.get_float32_matmul_precision() == "highest"


def test_the_matmul_switch_is_put_back_after_an_error_and_with_threads():
    cpu = torch.device("cpu")
    before = torch.get_float32_matmul_precision()
    wrong = []

    def work(precision):
        wanted = "medium" if precision == "fp32-medium" else "highest"
        for _ in range(200):
            with precision_context(precision, cpu):
                if torch.get_float32_matmul_precision() != wanted:
                    wrong.append(precision)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, ["fp32", "fp32-medium", "fp32", "fp32-medium"]))
    with pytest.raises(ZeroDivisionError), precision_context("fp32-medium", cpu):
        raise ZeroDivisionError
    assert not wrong
    assert torch.get_float32_matmul_precision() == before


def test_no_gradients_and_no_training_mode(backbone):
    module = backbone._network.module
    assert not module.training
    assert not any(weight.requires_grad for weight in module.parameters())
