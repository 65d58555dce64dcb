"""Images per second of a CLIP tower by number format, against torch's default, in one run.

The weights are random, which changes no time. The baseline hands 32 images at once to open_clip's
`encode_image` in float32; the others are `Backbone.embed_images`, preprocessing included. "auto"
names the format that this machine gets.

    python -m benchmarks.backbones --model ViT-B-16 --images 32 --repeats 3 --threads 1
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image
from safetensors.torch import save_file

from skmoecbm._precision import candidates, precision_context
from skmoecbm.backbones import load_backbone


def write_random_model(folder, architecture):
    """Write an architecture of open_clip with random weights as a local-dir model."""
    config = {"model_cfg": open_clip.get_model_config(architecture), "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    network = open_clip.CLIP(**open_clip.get_model_config(architecture))
    state = {key: value.contiguous() for key, value in network.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")


def seconds(function, repeats):
    """Return the best time of several calls."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def measure(architecture, n_images, repeats, device):
    """Return {format: (images per second, worst cosine to float32)}."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        write_random_model(Path(folder), architecture)
        name = f"local-dir:{folder}"
        exact = load_backbone(name, precision="fp32", device=device)
        side = exact.image_size
        coarse = rng.integers(0, 256, (n_images, 8, 8, 3), dtype=np.uint8)
        images = [Image.fromarray(array).resize((side, side)) for array in coarse]
        reference = exact.embed_images(images)
        network = exact._network
        pixels = exact._pixels(images).to(network.device)

        def default():
            with torch.inference_mode():
                return [
                    network.module.encode_image(pixels[i : i + 32]) for i in range(0, n_images, 32)
                ]

        found = {"encode_image, fp32, 32 at once": (n_images / seconds(default, repeats), 1.0)}

        def medium():
            for start in range(0, n_images, 8):
                with precision_context("fp32-medium", network.device):
                    network.module.encode_image(pixels[start : start + 8])

        if network.device.type == "cpu":
            found["fp32-medium, 8 at once"] = (n_images / seconds(medium, repeats), float("nan"))
        able = candidates(network.device, network.n_parameters)
        # Without the instructions bf16 is emulated, many times slower than float32.
        for precision in ("fp32", *(one for one in able if one != "fp32-medium")):
            backbone = load_backbone(name, precision=precision, device=device)
            rows = backbone.embed_images(images)
            cosine = float((rows.astype(np.float64) * reference).sum(axis=1).min())
            time_taken = seconds(lambda b=backbone: b.embed_images(images), repeats)
            found[f"embed_images, {precision}"] = (n_images / time_taken, cosine)
        start = time.perf_counter()
        choice = load_backbone(name, device=device).precision
    return found, f"{choice}, found in {time.perf_counter() - start:.1f} s"


def main(argv=None):
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="ViT-B-16")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    found, auto = measure(options.model, options.images, options.repeats, options.device)
    baseline = next(iter(found.values()))[0]
    print(
        f"{options.model}, {options.threads} threads, {options.device}, torch {torch.__version__}"
    )
    for name, (speed, cosine) in found.items():
        print(
            f"{name:32s} {speed:8.2f} images/s  ratio {speed / baseline:5.2f}  cosine {cosine:.5f}"
        )
    print(f"auto takes {auto}")


if __name__ == "__main__":
    main()
