"""Images per second, memory and exactness of a CLIP tower on a GPU, by format and batch size.

The weights are random, which changes no time. Pixels start as 8-bit images in the machine's memory
and end as rows in it. Formats and batch sizes take turns; the best and the median of the repeats
are shown. Then what copying from pinned memory without waiting gains, what the whole way from
photographs to the store gives, and what `precision="auto"` and `batch_size="auto"` choose. What one
machine gave stands in docs/scaling.md.

    python -m benchmarks.gpu --model ViT-B-16-quickgelu --images 512 --repeats 3
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks._machine import describe_machine
from benchmarks.backbones import write_random_model
from skmoecbm import ConceptEncoder
from skmoecbm._batch_probe import is_out_of_memory
from skmoecbm._pixels import move_levels, scale_levels
from skmoecbm.backbones import load_backbone


def on_device(network, levels, preprocessing, precision, batch, pinned=True):
    """Return the rows of 8-bit images, one pass after the other, fetched at the end."""
    parts = []
    for part in levels.split(batch):
        part = move_levels(part, network.device) if pinned else part.to(network.device)
        pixels = scale_levels(part, preprocessing.mean, preprocessing.std)
        parts.append(network.encode(pixels, precision))
    rows = torch.cat(parts).cpu().double()
    return rows / rows.norm(dim=1, keepdim=True)


def timed(function, device):
    """Return (seconds, GiB at most, result) of a call."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    start = time.perf_counter()
    result = function()
    seconds = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else np.nan
    return seconds, peak, result


def in_turns(runs, repeats, device):
    """Return {name: (best seconds, median seconds, GiB, rows)}; those too large are left out."""
    found = {}
    for repeat in range(repeats + 1):  # the first round is to get warm
        for name, function in list(runs.items()):
            try:
                seconds, peak, rows = timed(function, device)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                print(f"{name}: too large for the memory")
                del runs[name]
                found.pop(name, None)
                continue
            if repeat:
                found.setdefault(name, ([], peak, rows))[0].append(seconds)
    return {k: (min(s), float(np.median(s)), peak, r) for k, (s, peak, r) in found.items()}


def compare(name, options, device):
    """Print the tables for a model."""
    backbone = load_backbone(name, precision="fp32", device=device)
    network, preprocessing = backbone._network, backbone._preprocessing
    device, n = network.device, options.images
    rng = np.random.default_rng(0)
    height, width = network.size
    coarse = rng.integers(0, 256, (n, 12, 16, 3), dtype=np.uint8)
    photographs = [Image.fromarray(one).resize((600, 450)) for one in coarse]
    images = [backbone.shape(one) for one in photographs]
    levels = torch.from_numpy(np.stack([np.asarray(one) for one in images]))
    exact = on_device(network, levels, preprocessing, "fp32", 8)

    runs = {
        (precision, batch): lambda p=precision, b=batch: on_device(
            network, levels, preprocessing, p, b
        )
        for precision in options.precisions
        for batch in options.batch_sizes
    }
    print(f"{height} x {width} pixels, {n} images, {network.n_parameters / 1e6:.0f} M weights")
    print("format    batch   images/s best (median)   peak GiB   1 - cosine to fp32, worst")
    table = in_turns(runs, options.repeats, device)
    for (precision, batch), (best, median, peak, rows) in table.items():
        off = 1 - float((rows * exact).sum(dim=1).min())
        print(
            f"{precision:8s} {batch:6d} {n / best:14.1f} ({n / median:.1f}) {peak:12.2f}   "
            f"{off:.1e}"
        )
    if table:
        precision, batch = min(table, key=lambda key: table[key][0])
        runs = {
            kind: lambda p=pinned: on_device(
                network, levels, preprocessing, precision, batch, pinned=p
            )
            for kind, pinned in (("pinned, not waiting", True), ("plain, waiting", False))
        }
        for kind, (best, median, _, _) in in_turns(runs, options.repeats, device).items():
            print(f"copies {kind:20s} {n / best:8.1f} images/s (median {n / median:.1f})")

    for batch in (32, "auto"):
        encoder = ConceptEncoder(
            name, ["round"], batch_size=batch, device=str(device), cache_dir=None
        )
        encoder.embed_images(photographs[:1])  # loads, and probes what "auto" is
        seconds, _, _ = timed(lambda e=encoder: e.embed_images(photographs[1:]), device)
        print(
            f"ConceptEncoder(batch_size={batch!r}), resizing of 600 x 450 included: "
            f"{(n - 1) / seconds:.1f} images/s"
        )
        clear_memory()
    chosen = load_backbone(name, device=device)
    print(
        f"auto takes {chosen.precision} in batches of {chosen.choose_batch_size('auto')}; "
        f"{torch.get_num_threads()} threads decode"
    )


def clear_memory():
    """Empty the process's own store, so that the next encoder embeds again."""
    from skmoecbm.store import EmbeddingStore

    EmbeddingStore(None).clear()


def main(argv=None, device=None):
    """Print the tables; return the exit status, 2 without a GPU."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="ViT-B-16-quickgelu", help="OpenAI's CLIP by default")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16", "fp16"])
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[8, 32, 128, 512])
    options = parser.parse_args(argv)
    if device is None:
        if not torch.cuda.is_available():
            print("This benchmark needs a CUDA GPU, and torch sees none here.", file=sys.stderr)
            return 2
        device = "cuda"
        print(torch.cuda.get_device_name(), "CUDA", torch.version.cuda)
    print(describe_machine())
    with tempfile.TemporaryDirectory() as folder:
        name = options.model
        if not name.startswith("demo-"):
            write_random_model(Path(folder), name)
            name = f"local-dir:{folder}"
        compare(name, options, device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
