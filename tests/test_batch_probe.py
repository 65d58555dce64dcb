"""The batch size of a GPU: doubled while it pays and fits; the device stands in as a function."""

import threading
from functools import partial

import pytest
import torch

from benchmarks import gpu
from skmoecbm import _model_cache
from skmoecbm._batch_probe import BATCH_SIZES, fastest_batch, is_out_of_memory
from skmoecbm._pixels import move_levels
from skmoecbm.backbones import clear_backbones, load_backbone
from skmoecbm.exceptions import InputError, SkmoecbmWarning
from tests.backbone_fixtures import write_clip


def device_with(start_up, per_image, fits=10**9, error=None):
    """Seconds of a pass on a device that takes a fixed time and one per image."""
    seen = []

    def seconds(n):
        seen.append(n)
        if n > fits:
            raise error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return start_up + per_image * n

    return seconds, seen


def test_doubling_stops_where_it_no_longer_pays():
    seconds, seen = device_with(start_up=32.0, per_image=1.0)
    # rates n / (32 + n): 8 -> .2, 16 -> .33, 32 -> .5, 64 -> .67, 128 -> .8, 256 -> .89, 512 -> .94
    assert fastest_batch(seconds) == 512
    assert seen == list(BATCH_SIZES)
    seconds, seen = device_with(start_up=2.0, per_image=1.0)
    # .8, .889, .941, .970 (3 per cent more), ...
    assert fastest_batch(seconds) == 32
    assert seen == [8, 16, 32, 64]


def test_doubling_stops_where_it_no_longer_fits():
    seconds, seen = device_with(start_up=1000.0, per_image=1.0, fits=100)
    assert fastest_batch(seconds) == 64
    assert seen == [8, 16, 32, 64, 128]
    seconds, seen = device_with(start_up=1.0, per_image=1.0, fits=4)
    assert fastest_batch(seconds) == 1
    assert seen == [8]


def test_other_errors_are_not_taken_for_memory():
    seconds, _ = device_with(1.0, 1.0, fits=10, error=RuntimeError("device-side assert"))
    with pytest.raises(RuntimeError, match="device-side"):
        fastest_batch(seconds)
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    assert not is_out_of_memory(RuntimeError("shapes"))


@pytest.fixture
def backbone(tmp_path):
    write_clip(tmp_path / "clip")
    yield load_backbone(f"local-dir:{tmp_path / 'clip'}", precision="fp32", device="cpu")
    clear_backbones()


def test_auto_is_found_once_per_network_and_format(backbone, monkeypatch):
    network = backbone._network
    probed = []

    def seconds(self, probe, n, precision):
        probed.append((n, precision))
        return 1.0 if n <= 64 else 100.0

    monkeypatch.setattr(network, "device", torch.device("cuda", 0))
    monkeypatch.setattr(_model_cache.Network, "_seconds_of_pass", seconds)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(backbone.choose_batch_size("auto")))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [64] * 4
    assert probed == [(n, "fp32") for n in (8, 16, 32, 64, 128)]
    assert network.batch_size("bf16") == 64
    assert len(probed) == 10


def test_a_pass_is_timed_on_as_many_images_as_asked(backbone, monkeypatch):
    seen = []
    original = _model_cache.Network.encode
    monkeypatch.setattr(
        _model_cache.Network,
        "encode",
        lambda self, pixels, p: seen.append(len(pixels)) or original(self, pixels, p),
    )
    seconds = backbone._network._seconds_of_pass(torch.zeros(8, 3, 32, 32), 20, "fp32")
    assert seen == [20, 20]
    assert seconds > 0


def test_auto_on_a_processor_is_the_default(backbone, monkeypatch):
    monkeypatch.setattr(_model_cache.Network, "_seconds_of_pass", None)
    assert backbone.choose_batch_size("auto") == 32
    assert backbone.choose_batch_size(7) == 7
    for wrong in (0, "most", None, 2.5):
        with pytest.raises(InputError, match="'batch_size' parameter"):
            backbone.choose_batch_size(wrong)


def test_images_go_to_a_gpu_as_bytes_from_pinned_memory_without_waiting():
    class Levels:
        calls = ()

        def pin_memory(self):
            self.calls += ("pinned",)
            return self

        def to(self, device, non_blocking=False):
            self.calls += (str(device), non_blocking)
            return self

    assert move_levels(Levels(), torch.device("cuda", 1)).calls == ("pinned", "cuda:1", True)
    assert move_levels(Levels(), torch.device("cpu")).calls == ("cpu", False)


def test_rows_are_fetched_once_after_all_passes(backbone):
    """On a GPU a fetch waits for the device; between passes it would leave it idle."""
    log = []

    class Rows:
        def __init__(self, n):
            self.rows = torch.ones(n, 16)

        def float(self):
            log.append("fetched")
            return self.rows

    def encode(batch):
        log.append(len(batch))
        return Rows(len(batch))

    assert backbone._in_batches(encode, list(range(10)), 4).shape == (10, 16)
    assert log == [4, 4, 2, "fetched", "fetched", "fetched"]


# The script for a user's GPU


def test_gpu_benchmark_says_that_it_needs_a_gpu(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 2
    told = capsys.readouterr()
    assert told.err == "This benchmark needs a CUDA GPU, and torch sees none here.\n"
    assert not told.out


def test_gpu_benchmark_runs_with_a_processor_in_the_gpus_place(capsys, monkeypatch):
    original = _model_cache.Network.encode

    def encode(self, pixels, precision):
        if len(pixels) > 6:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return original(self, pixels, precision)

    monkeypatch.setattr(_model_cache.Network, "encode", encode)
    monkeypatch.setattr(gpu, "on_device", partial(in_small_passes, gpu.on_device))
    arguments = "--model demo-general --images 12 --repeats 1 --precisions fp32 bf16"
    options = [*arguments.split(), "--batch-sizes", "3", "6", "12"]
    with pytest.warns(SkmoecbmWarning, match="Memory ran out"):
        assert gpu.main(options, device="cpu") == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines if line.startswith(("fp32", "bf16"))]
    assert [(row[0], row[1]) for row in rows] == [
        (precision, batch) for precision in ("fp32", "bf16") for batch in ("3", "6")
    ]
    assert all(float(row[-1]) < (1e-12 if row[0] == "fp32" else 1e-3) for row in rows)
    assert sum("too large for the memory" in line for line in lines) == 2
    assert any(line.startswith("auto takes fp32 in batches of 32") for line in lines)


def in_small_passes(on_device, network, levels, preprocessing, precision, batch, pinned=True):
    # the reference is made in passes of 8, which this "GPU" has no room for
    return on_device(
        network, levels, preprocessing, precision, 4 if batch == 8 else batch, pinned=pinned
    )
