r"""Time and memory of a fit at ImageNet's size: a thousand classes, tens of thousands of concepts.

Rows are drawn and written to a file of float32, X, which the fit reads as a memory map. As under
CLIP they have a strong common direction and eigenvalues falling as a power law. Concepts are
written for classes, as many for each, and the fit starts from them. The fit runs in a process of
its own, whose memory is looked at every 20 ms:

* private: memory of the process itself, above what it holds before the fit begins;
* mapped: pages of X that happen to be in memory, which the system takes back when it likes;
* model: the arrays that the fitted classifier consists of, a part of private.

    python -m benchmarks.large --rows 20000 --classes 100 --concepts 5000
    python -m benchmarks.large --rows 100000 --classes 1000 --concepts 50000

The time at other numbers of rows is projected from the fit: what a step costs grows as the rows do,
the rest (products with all concepts) does not.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from benchmarks._results import Ratio, report

IMAGENET_ROWS = 1_281_167
_BLOCK = 8192


def spread(width):
    """Return the standard deviations along the axes of the embeddings."""
    return np.arange(1, width + 1) ** -0.5


def write_rows(path, n_rows, n_classes, width, seed=0):
    """Write unit rows as float32 to a file, and return their classes."""
    rng = np.random.default_rng(seed)
    centres = class_centres(n_classes, width)
    y = rng.permutation(np.arange(n_rows) % n_classes)
    out = np.memmap(path, dtype=np.float32, mode="w+", shape=(n_rows, width))
    for start in range(0, n_rows, _BLOCK):
        own = y[start : start + _BLOCK]
        rows = rng.standard_normal((len(own), width)) * spread(width) + centres[own]
        out[start : start + _BLOCK] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    out.flush()
    return y


def class_centres(n_classes, width):
    """Return where the classes lie, all of them away from the origin in one direction."""
    rng = np.random.default_rng(1)
    centres = rng.standard_normal((n_classes, width)) * spread(width)
    centres[:, 0] += 3.0 * np.sqrt((spread(width) ** 2).sum())
    return centres


def draw_concepts(n_concepts, n_classes, width):
    """Return unit texts, each near the centre of its class, and the class of each."""
    rng = np.random.default_rng(2)
    written_for = np.arange(n_concepts) * n_classes // n_concepts  # a class after the other
    texts = 0.5 * class_centres(n_classes, width)[written_for]
    texts += rng.standard_normal((n_concepts, width)) * spread(width)
    return (texts / np.linalg.norm(texts, axis=1, keepdims=True)).astype(np.float32), written_for


def memory():
    """Return private and mapped memory of this process in bytes."""
    found = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return tuple(int(found[name].split()[0]) * 1024 for name in ("RssAnon", "RssFile"))


class Watch(threading.Thread):
    """Keeps the highest private memory and the highest sum of private and mapped memory."""

    def __init__(self):
        super().__init__(daemon=True)
        self.before, self._stop_asked = memory(), threading.Event()
        self.private = self.total = 0

    def run(self):
        """Look every 20 ms."""
        while not self._stop_asked.wait(0.02):
            private, mapped = (a - b for a, b in zip(memory(), self.before, strict=True))
            self.private, self.total = max(self.private, private), max(self.total, private + mapped)

    def finish(self):
        """Stop looking."""
        self._stop_asked.set()
        self.join()


def fit(options):
    """Fit in this process and return what was measured."""
    import torch
    from threadpoolctl import threadpool_limits

    from skmoecbm import ConceptBottleneckClassifier, ExpertFeatures
    from skmoecbm._association import AssociationProblem

    torch.set_num_threads(options.threads)
    y = np.load(options.folder / "y.npy")
    texts, written_for = draw_concepts(options.concepts, options.classes, options.width)
    incidence = np.eye(options.classes, dtype=bool)[written_for]
    X = np.memmap(options.folder / "X", dtype=np.float32, mode="r").reshape(-1, options.width)
    names = [f"concept {j}" for j in range(len(texts))]
    ConceptBottleneckClassifier(alpha=1.0).fit(np.eye(8), np.arange(8) % 2)  # what is loaded late
    evaluations = []
    original = AssociationProblem.loss_and_gradient

    def counted(self, *args):
        start = time.process_time()
        found = original(self, *args)
        evaluations.append((len(self.targets), self.shape[0], time.process_time() - start))
        return found

    AssociationProblem.loss_and_gradient = counted
    alpha = None if options.alpha == "auto" else float(options.alpha)
    model = ConceptBottleneckClassifier(
        alpha=alpha, max_iter=options.max_iter, prior="class" if options.prior else None
    )
    watch = Watch()
    watch.start()
    start = time.process_time()
    with threadpool_limits(options.threads):
        features = ExpertFeatures.from_embeddings(
            {"clip": (X, texts, names)},
            incidence=incidence if options.prior else None,
            class_keys=[str(c) for c in range(options.classes)],
        )
        model.fit(features[: len(y)] if len(X) > len(y) else features, y)
    seconds = time.process_time() - start
    watch.finish()
    held = [model.association_, model.prior_association_ if options.prior else np.zeros(0)]
    whole = [spent for n, _, spent in evaluations if n == len(y)]
    test, y_test = read_test(options)
    return {
        "seconds": seconds,
        "private": watch.private,
        "total": watch.total,
        "model": sum(array.nbytes for array in held) + model.concept_quantiles_.nbytes,
        "X": X.nbytes,
        "steps": model.n_iter_,
        "alpha": model.alpha_,
        "evaluations on all rows": len(whole),
        "seconds in them": sum(whole),
        "seconds of the search": sum(spent for n, _, spent in evaluations if n < len(y)),
        "accuracy": predict(model, test, y_test, texts, names, incidence, options),
    }


def read_test(options):
    """Return rows for a test of accuracy, drawn anew."""
    path = options.folder / "test"
    y = write_rows(path, 200, options.classes, options.width, seed=99)
    return np.memmap(path, dtype=np.float32, mode="r").reshape(-1, options.width), y


def predict(model, test, y_test, texts, names, incidence, options):
    """Return accuracy on test rows."""
    from skmoecbm import ExpertFeatures

    keys = [str(c) for c in range(options.classes)]
    features = ExpertFeatures.from_embeddings(
        {"clip": (test, texts, names)}, incidence=incidence, class_keys=keys
    )
    return float(model.score(features, y_test))


def tell(found, options):
    """Print what was measured, beside the bound."""
    size = found["X"]
    step = found["seconds in them"] / max(found["evaluations on all rows"], 1)
    fixed = found["seconds"] - found["seconds in them"]
    factor = IMAGENET_ROWS / options.rows
    projected = fixed + found["seconds in them"] * factor
    lines = {
        "rows, classes, concepts, width": [
            options.rows,
            options.classes,
            options.concepts,
            options.width,
        ],
        "X on the disk": f"{size / 1e6:,.0f} MB",
        "similarities, if they were made": f"{4e-6 * options.rows * options.concepts:,.0f} MB",
        "seconds of processor time": round(found["seconds"], 1),
        "of them the search for alpha": round(found["seconds of the search"], 1),
        "evaluations on all rows, seconds each": [
            found["evaluations on all rows"],
            round(step, 2),
        ],
        "peak of private memory": f"{found['private'] / 1e6:,.0f} MB",
        "of it the model": f"{found['model'] / 1e6:,.0f} MB",
        "private / X": round(found["private"] / size, 2),
        "(private - model) / X": round((found["private"] - found["model"]) / size, 2),
        "(private + mapped) / X": round(found["total"] / size, 2),
        f"hours projected to {IMAGENET_ROWS:,} rows": round(projected / 3600, 2),
        "alpha": found["alpha"],
        "accuracy on 200 others": found["accuracy"],
        "threads, load of the machine": [options.threads, os.getloadavg()[0]],
    }
    for name, value in lines.items():
        print(f"{name:<44} {value}")
    share = [found["private"] / size]
    report("large", [Ratio("peak of private memory / X", share, 1.5, most=True)])


def main(argv=None):
    """Write the rows, fit in a process of its own, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--concepts", type=int, default=5000)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--alpha", default="1.0", help="a number, or 'auto'")
    parser.add_argument("--max-iter", type=int, default=300)
    parser.add_argument("--no-prior", dest="prior", action="store_false")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where the rows lie; kept")
    parser.add_argument("--fit", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.fit:
        print(json.dumps(fit(options)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        options.folder = options.folder or Path(temporary)
        options.folder.mkdir(exist_ok=True, parents=True)
        if not (options.folder / "y.npy").exists():
            y = write_rows(options.folder / "X", options.rows, options.classes, options.width)
            np.save(options.folder / "y.npy", y)
        command = [sys.executable, "-m", "benchmarks.large", "--fit"]
        for name in ("rows", "classes", "concepts", "width", "alpha", "max_iter", "threads"):
            command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
        command += ["--folder", str(options.folder), *([] if options.prior else ["--no-prior"])]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        tell(json.loads(done.stdout.splitlines()[-1]), options)


if __name__ == "__main__":
    main()
