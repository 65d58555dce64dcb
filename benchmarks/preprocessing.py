"""Milliseconds to make a network's input of a photograph, against open_clip's own transform.

Both get decoded RGB images and give a float32 batch of eight; the bits are compared. "torch" is
torch's own kernel for 8-bit images, which is not used: it is faster and moves pixels. All take
turns; the time is the processor's, of one thread.

    python -m benchmarks.preprocessing --images 40 --repeats 7

On real photographs where SKMOECBM_TEST_DATA names a folder of data sets, else on noise of
600 x 450 and 200 x 150.
"""

import argparse
import os
import time
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from benchmarks._machine import describe_machine
from benchmarks._results import Ratio, report
from skmoecbm._pixels import Preprocessing, scale_levels
from skmoecbm.images import load_image

SIDE, BATCH = 224, 8


def photographs(n):
    """Return {what they are: list of n RGB images}."""
    root = os.environ.get("SKMOECBM_TEST_DATA")
    if root:
        folders = {"ham10000_fullsize": "HAM10000", "ham10000": "HAM10000, small"}
        sets = {
            word: [load_image(path) for path in islice(sorted(folder.glob("*.jpg")), n)]
            for word, folder in ((w, Path(root) / f / "images") for f, w in folders.items())
        }
        if all(sets.values()):
            return sets
    rng = np.random.default_rng(0)
    made = {}
    for height, width in ((450, 600), (150, 200)):
        noise = rng.integers(0, 256, (n, height, width, 3), dtype=np.uint8)
        made["noise"] = [*made.get("noise", []), *map(Image.fromarray, noise)]
    return {"noise, large": made["noise"][:n], "noise, small": made["noise"][n:]}


def with_torch(image):
    """Return the middle of an image as torch's kernel for 8-bit images resizes it."""
    levels = torch.from_numpy(np.array(image))[None].permute(0, 3, 1, 2)
    short, (height, width) = min(image.size), levels.shape[2:]
    size = (int(SIDE * height / short), int(SIDE * width / short))
    fitted = torch.nn.functional.interpolate(levels, size=size, mode="bicubic", antialias=True)
    top, left = (round((side - SIDE) / 2.0) for side in size)
    return fitted[0, :, top : top + SIDE, left : left + SIDE].permute(1, 2, 0).numpy()


def measure(images, repeats):
    """Return {name: milliseconds an image, one per repeat} and {name: differences of pixels}."""
    settings = {"size": (SIDE, SIDE), "interpolation": "bicubic", "resize_mode": "shortest"}
    transform = image_transform_v2(PreprocessCfg(**settings), is_train=False)
    ours = Preprocessing(settings)

    def scaled(levels):
        return scale_levels(torch.from_numpy(np.stack(levels)), ours.mean, ours.std)

    runs = {
        "open_clip": lambda batch: torch.stack([transform(image) for image in batch]),
        "skmoecbm": lambda batch: scaled([ours.levels(image) for image in batch]),
        "torch": lambda batch: scaled([with_torch(image) for image in batch]),
    }
    batches = [images[i : i + BATCH] for i in range(0, len(images), BATCH)]
    times, results = {name: [] for name in runs}, {}
    for repeat in range(repeats + 1):  # the first round is to get warm
        for name, run in runs.items():
            start = time.process_time()
            parts = [run(batch) for batch in batches]
            if repeat:
                times[name].append((time.process_time() - start) / len(images) * 1e3)
            results[name] = torch.cat(parts)
    scale = torch.tensor(ours.std)[:, None, None] * 255
    off = {name: ((r - results["open_clip"]) * scale).abs().round() for name, r in results.items()}
    return times, off


def main(argv=None):
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    print(describe_machine())
    ratios = []
    for word, images in photographs(options.images).items():
        times, off = measure(images, options.repeats)
        width, height = images[0].size
        print(f"{len(images)} images, {word}, {width} x {height} to {SIDE} x {SIDE}, bicubic")
        for name, values in times.items():
            ratio = np.median(np.array(times["open_clip"]) / np.array(values))
            print(
                f"  {name:10s} {min(values):6.2f} ms best, {np.median(values):6.2f} median, "
                f"{max(values):6.2f} worst; ratio {ratio:4.2f}; pixels that differ "
                f"{float((off[name] > 0).float().mean()):.4%}, by {int(off[name].max())} at most"
            )
        values = np.array(times["open_clip"]) / np.array(times["skmoecbm"])
        ratios.append(Ratio(f"open_clip / skmoecbm, {word}", values, 1.6))
        worst = [float(off["skmoecbm"].max())]
        ratios.append(Ratio(f"levels that a pixel differs by, {word}", worst, 1, most=True))
    report("preprocessing", ratios)


if __name__ == "__main__":
    main()
