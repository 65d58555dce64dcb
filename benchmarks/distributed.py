"""Images per second into shards, in one process and by Ray, and what a million images cost.

    python -m benchmarks.distributed
    python -m benchmarks.distributed --model ViT-B-16 --images 64 --precisions fp32 bf16

Drawn lesions as JPEG files of 600 x 450 pixels: reading, decoding, resizing and writing are part
of what is timed. Two tables, from the same files in one run:

* core seconds of an image: processor time of one process with one thread, which says little of
  what else the machine is doing, and the core hours of a million images that follow from it;
  "pixels" is the part of reading, decoding and resizing, which a GPU does not take over;
* wall clock, the engine "local" with one thread against Ray with one worker per core; Ray's start
  (processes, imports, models) stands apart from the pace of its shards after the first of each
  worker. Interleaved repeats; the best is shown, and the spread.

ViT-B-16 has random weights, which changes no time.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image

from benchmarks._results import Ratio, report
from benchmarks.backbones import write_random_model
from skmoecbm import ConceptEncoder
from skmoecbm.backbones import load_backbone
from skmoecbm.datasets import make_lesions
from skmoecbm.distributed import encode
from skmoecbm.images import load_image


def write_images(folder, n_images):
    """Write n JPEG files of 600 x 450 pixels, of 60 drawings in turn."""
    drawn = make_lesions(60, random_state=0).images
    for i in range(n_images):
        picture = Image.fromarray(drawn[i % len(drawn)]).resize(
            (600, 450), Image.Resampling.BICUBIC
        )
        picture.save(folder / f"{i:06d}.jpg", quality=90)


def encoder_of(model, precision, folder):
    """Return the encoder of a demo expert, or of an architecture with random weights."""
    if model.startswith("demo-"):
        return ConceptEncoder(model, "lesions", precision=precision, cache_dir=None)
    target = folder / "model"
    if not target.exists():
        target.mkdir()
        write_random_model(target, model)
    return ConceptEncoder(f"local-dir:{target}", "lesions", precision=precision, cache_dir=None)


def core_seconds(images, encoder, n_images):
    """Return the processor seconds of an image, one process, one thread."""
    with tempfile.TemporaryDirectory() as out:
        encode(images[:8], encoder, f"{out}/warm", engine="local")  # loads the model
        start = time.process_time()
        encode(images, encoder, f"{out}/all", engine="local")
        return (time.process_time() - start) / n_images


def pixel_seconds(images, encoder):
    """Return the processor seconds of reading, decoding and resizing alone, an image."""
    backbone = load_backbone(encoder.backbone, precision="fp32")
    start = time.process_time()
    for path in images:
        backbone._pixels([load_image(path)])
    return (time.process_time() - start) / len(images)


def wall_clock(images, encoder, engine, n_workers, shard_size):
    """Return (seconds until every worker has written a shard, images per second after that)."""
    with tempfile.TemporaryDirectory() as out:
        start = time.time()
        encode(images, encoder, out, engine=engine, n_workers=n_workers, shard_size=shard_size)
        done = sorted(path.stat().st_mtime for path in Path(out).glob("shards/*.parquet"))
    first = done[n_workers - 1]
    pace = shard_size * (len(done) - n_workers) / (done[-1] - first)
    return first - start, pace


def main(argv=None):
    """Print the tables, and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo-general")
    parser.add_argument("--images", type=int, default=960)
    parser.add_argument("--precisions", nargs="+", default=["fp32"])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--no-ray", action="store_true", help="the first table alone")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    threads = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", **threads}
    result = {"model": options.model, "images": options.images, "load": os.getloadavg()[0]}
    print(
        f"{options.model}, {options.images} images, {platform.processor() or platform.machine()}, "
        f"{os.cpu_count()} cores, torch {torch.__version__}, load {result['load']:.1f}"
    )
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "images").mkdir()
        write_images(folder / "images", options.images)
        images = sorted((folder / "images").iterdir())
        print("\nformat   core s/image   images/s/core   core hours per million")
        for precision in options.precisions:
            encoder = encoder_of(options.model, precision, folder)
            spent = min(
                core_seconds(images, encoder, options.images) for _ in range(options.repeats)
            )
            result[precision] = spent
            tell_cost(precision, spent)
        result["pixels"] = pixel_seconds(images[:48], encoder)
        tell_cost("pixels", result["pixels"])
        if not options.no_ray:
            encoder = encoder_of(options.model, options.precisions[0], folder)
            result["wall clock"] = compare_engines(images, encoder, options)
    print(json.dumps(result))
    ratios = [
        Ratio(f"core hours per million images, {options.model}, {one}", [1e6 * result[one] / 3600])
        for one in options.precisions
    ]
    if "wall clock" in result:
        paces = result["wall clock"]
        ratios.append(
            Ratio(
                f"images/s of {options.workers} Ray workers / one process",
                [paces["ray"]["pace"] / paces["local"]["pace"]],
            )
        )
    report("distributed", ratios)


def tell_cost(name, spent):
    """Print one row of the first table."""
    print(f"{name:8s} {spent:12.4f} {1 / spent:15.1f} {1e6 * spent / 3600:24.1f}")


def compare_engines(images, encoder, options):
    """Print and return start and pace of each engine."""
    import ray

    ray.init(
        num_cpus=options.workers,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=100 * 2**20,
        _node_ip_address="127.0.0.1",
    )
    shard_size = max(options.images // 24, 1)
    found = {"local": [], "ray": []}
    for _ in range(options.repeats):
        found["local"].append(wall_clock(images, encoder, "local", 1, shard_size))
        found["ray"].append(wall_clock(images, encoder, "ray", options.workers, shard_size))
    ray.shutdown()
    print(f"\nengine   start, s   images/s (spread)        shards of {shard_size}")
    rows = {}
    for engine, runs in found.items():
        paces = [pace for _, pace in runs]
        start = min(first for first, _ in runs)
        rows[engine] = {"start": start, "pace": max(paces), "spread": max(paces) - min(paces)}
        print(f"{engine:8s} {start:8.1f} {max(paces):10.1f} ({max(paces) - min(paces):.1f})")
    ratio = rows["ray"]["pace"] / rows["local"]["pace"]
    print(f"ratio of paces, {options.workers} workers: {ratio:.2f}")
    return rows


if __name__ == "__main__":
    main()
