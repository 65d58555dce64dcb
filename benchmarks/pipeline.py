"""Images per second from files to embeddings, decoded in threads ahead of the network or not.

The files are JPEG photographs of noise made smooth, the store is empty, and everything is counted:
hashing, decoding, resizing, the network, writing the store. The two ways take turns. How much there
is to gain is the smaller of the two parts, decoding and network, and a second core must be free.

    python -m benchmarks.pipeline --model demo-general --images 200 --repeats 5 --threads 2
    python -m benchmarks.pipeline --device-ms 5

With `--device-ms` the network is replaced by one that keeps this thread waiting for so long an
image and needs no core of its own, as a GPU does.
"""

import argparse
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from PIL import Image

from benchmarks._machine import describe_machine
from benchmarks._results import Ratio, report
from benchmarks.backbones import write_random_model
from skmoecbm import ConceptEncoder
from skmoecbm._ahead import n_decoders
from skmoecbm.backbones import load_backbone
from skmoecbm.images import load_image
from skmoecbm.store import EmbeddingStore


def write_photographs(folder, n, width, height):
    """Write JPEG files; return their paths."""
    rng = np.random.default_rng(0)
    paths = []
    for i in range(n):
        coarse = rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        paths.append(folder / f"{i:05d}.jpg")
        image.save(paths[-1], quality=92)
    return paths


def main(argv=None):
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo-general")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--size", type=int, nargs=2, default=(600, 450), metavar=("W", "H"))
    parser.add_argument("--device-ms", type=float, default=None)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        name = options.model
        if not name.startswith("demo-"):
            write_random_model(Path(folder), name)
            name = f"local-dir:{folder}"
        paths = write_photographs(Path(folder), options.images, *options.size)
        encoder = ConceptEncoder(name, ["round"], cache_dir=None, device="cpu", precision="fp32")
        encoder.embed_images(paths[:1])
        backbone = load_backbone(name, precision="fp32", device="cpu")
        shaped = [backbone.shape(load_image(path)) for path in paths]

        def encode(n_threads):
            EmbeddingStore(None).clear()
            with mock.patch("skmoecbm._encoder_rows.n_decoders", lambda: n_threads):
                return encoder.embed_images(paths)

        network = type(backbone._network)
        own_encode = network.encode

        def waiting(self, pixels, precision):
            time.sleep(options.device_ms / 1e3 * len(pixels))
            return torch.ones(len(pixels), self.dim)

        network.encode = own_encode if options.device_ms is None else waiting
        runs = {
            "decoding and resizing alone": lambda: [
                backbone.shape(load_image(path)) for path in paths
            ],
            "network alone": lambda: backbone.embed_images(shaped),
            "one after the other": lambda: encode(0),
            f"{n_decoders()} threads ahead": lambda: encode(n_decoders()),
        }
        times = {run: [] for run in runs}
        for repeat in range(options.repeats + 1):  # the first round is to get warm
            for run, function in runs.items():
                wall, own = time.perf_counter(), time.process_time()
                function()
                if repeat:
                    times[run].append((time.perf_counter() - wall, time.process_time() - own))
        network.encode = own_encode
    width, height = options.size
    print(describe_machine())
    print(f"{options.model}, {len(paths)} files of {width} x {height}, {options.threads} threads")
    for run, values in times.items():
        wall, own = np.array(values).T / len(paths) * 1e3
        ratio = np.median(np.array(times["one after the other"])[:, 0] / len(paths) * 1e3 / wall)
        print(
            f"  {run:28s} {wall.min():7.2f} ms best, {np.median(wall):7.2f} median, "
            f"{wall.max():7.2f} worst on the wall; {np.median(own):7.2f} of the processor; "
            f"ratio {ratio:.2f}"
        )
    plain, ahead = (np.array(times[run])[:, 0] for run in list(runs)[2:])
    report("pipeline", [Ratio("one after the other / decoded ahead", plain / ahead)])


if __name__ == "__main__":
    main()
