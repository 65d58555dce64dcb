"""Images per second of a CLIP tower by number format, against torch's default, in one run.

The weights are random, which changes no time. The baseline is another process that hands 32 images
at once to open_clip's `encode_image` in float32, with nothing of this package in it; the others are
the same pixels through this package, pass by pass. All take turns. "processor" is the time of the
process itself, which other work on the machine disturbs less than the clock on the wall.

    python -m benchmarks.backbones --model ViT-B-16-quickgelu --images 32 --repeats 5
"""

import argparse
import json
import multiprocessing
import tempfile
import time
from pathlib import Path

import numpy as np
import open_clip
import torch
from safetensors.torch import save_file

from benchmarks._machine import describe_machine
from benchmarks._results import Ratio, report
from skmoecbm._precision import candidates, probe_images
from skmoecbm.backbones import load_backbone

BATCH = 32  # of the baseline
CPU_BATCH = 8  # of `Backbone.embed_images` on a processor


def write_random_model(folder, architecture):
    """Write an architecture of open_clip with random weights as a local-dir model."""
    config = {"model_cfg": open_clip.get_model_config(architecture), "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = open_clip.CLIP(**open_clip.get_model_config(architecture))
    state = {key: value.contiguous() for key, value in network.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")


def timed(function):
    """Return (seconds on the wall, seconds of this process) of a call, and its result."""
    wall, own = time.perf_counter(), time.process_time()
    result = function()
    return (time.perf_counter() - wall, time.process_time() - own), result


def torch_default(pipe, folder, architecture, n_images, threads, device):
    """Serve timings of open_clip's own pass in torch's default settings; runs in a process."""
    torch.set_num_threads(threads)
    network = open_clip.CLIP(**open_clip.get_model_config(architecture))
    open_clip.load_checkpoint(network, f"{folder}/open_clip_model.safetensors", strict=True)
    network.eval().requires_grad_(False).to(device)
    side = network.visual.image_size
    side = side if isinstance(side, tuple) else (side, side)
    pixels = probe_images(side, n=n_images)

    def encode():
        with torch.inference_mode():
            parts = [network.encode_image(part.to(device)) for part in pixels.split(BATCH)]
            return torch.cat(parts).cpu()

    encode()
    while pipe.recv():
        seconds, rows = timed(encode)
        pipe.send((seconds, rows.numpy()))


def measure(architecture, n_images, repeats, threads, device):
    """Return {format: (wall seconds per repeat, processor seconds, worst cosine)}, and "auto"."""
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        write_random_model(Path(folder), architecture)
        here, there = spawn.Pipe()
        baseline = spawn.Process(
            target=torch_default,
            args=(there, folder, architecture, n_images, threads, device),
            daemon=True,
        )
        baseline.start()
        name = f"local-dir:{folder}"
        network = load_backbone(name, precision="fp32", device=device)._network
        pixels = probe_images(network.size, n=n_images)
        batch = CPU_BATCH if network.device.type == "cpu" else BATCH

        def ask():
            here.send(True)
            return here.recv()

        runs = {f"open_clip, torch's default, {BATCH} at once": ask}
        # Without the instructions bf16 is emulated, many times slower than float32.
        for precision in ("fp32", *candidates(network.device, network.n_parameters)):
            runs[f"skmoecbm, {precision}, {batch} at once"] = lambda p=precision: timed(
                lambda: np.concatenate([network.encode(x, p) for x in pixels.split(batch)])
            )
        found = {name: ([], [], []) for name in runs}
        reference = None
        for repeat in range(repeats + 1):  # the first round is to get warm
            for run, function in runs.items():
                (wall, own), rows = function()
                rows = rows.astype(np.float64)
                rows /= np.linalg.norm(rows, axis=1, keepdims=True)
                reference = rows if reference is None else reference
                cosine = float((rows * reference).sum(axis=1).min())
                if repeat:
                    for values, value in zip(found[run], (wall, own, cosine), strict=True):
                        values.append(value)
        here.send(False)
        baseline.join()
        (wall, _), auto = timed(lambda: load_backbone(name, device=device).precision)
    return found, f"{auto}, found in {wall:.1f} s"


def main(argv=None):
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="ViT-B-16-quickgelu", help="OpenAI's CLIP by default")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    n = options.images
    found, auto = measure(options.model, n, options.repeats, options.threads, options.device)
    print(f"{options.model}, {n} images, {options.threads} threads, {options.device}")
    print(describe_machine())
    base_wall, base_own, _ = next(iter(found.values()))
    for name, (wall, own, cosines) in found.items():
        ratios = [
            f"{function(base) / function(values):.2f}"
            for base, values in ((base_wall, wall), (base_own, own))
            for function in (np.min, np.median)
        ]
        print(
            f"{name:40s} wall {min(wall) / n:.3f} ({np.median(wall) / n:.3f}) "
            f"ratio {ratios[0]} ({ratios[1]})  processor {min(own) / n:.3f} "
            f"({np.median(own) / n:.3f}) ratio {ratios[2]} ({ratios[3]})  "
            f"1 - cosine {1 - min(cosines):.0e}"
        )
    print(f"precision='auto' takes {auto}")
    # Where the processor has no bf16 of its own, float32 is what there is to gain from.
    ratios = []
    for name, (_, own, cosines) in list(found.items())[1:]:
        bar = 1.6 if "fp32," in name else 4.0
        values = [base / mine for base, mine in zip(base_own, own, strict=True)]
        ratios.append(Ratio(f"torch's default / {name}, processor time", values, bar))
        ratios.append(Ratio(f"worst cosine of {name}", cosines, 0.999))
    report("backbones", ratios)


if __name__ == "__main__":
    main()
