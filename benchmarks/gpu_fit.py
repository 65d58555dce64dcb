"""Time of fits on a GPU against the same machine's CPU, and how far their answers are apart.

Features are those of `benchmarks.fit`, at HAM10000's size. Each fit runs once on either device to
get warm, then both take turns. "Apart" is the largest difference of a probability between the model
fitted on the GPU and the one fitted on the CPU, both asked about the same held-out rows on the CPU;
what both chose, and how far their numbers are apart, is told beside it.

    python -m benchmarks.gpu_fit --rows 8000 --concepts 350 --repeats 3

A GPU pays where there is much to compute: bring more rows, or wide mixtures, to see where that
begins on yours.
"""

import argparse
import sys
import time

import numpy as np
import torch

from benchmarks._machine import describe_machine
from benchmarks._results import Ratio, report
from benchmarks.fit import make_data
from skmoecbm import GatedConceptBottleneckClassifier, JointTraining
from skmoecbm.moe import MiniBatches, SparseMoEClassifier


def arms(epochs):
    """Return {name: function of a device that gives an unfitted model}."""

    def joint(device):
        return GatedConceptBottleneckClassifier(
            training=JointTraining(max_epochs=epochs), random_state=0, device=device
        )

    def sparse(device):
        return SparseMoEClassifier(
            training=MiniBatches(max_epochs=epochs), random_state=0, device=device
        )

    return {
        "default fit": lambda device: GatedConceptBottleneckClassifier(device=device),
        "joint training": joint,
        "sparse mixture": sparse,
    }


def chosen(models, device):
    """Return in words what two fits of the default kind chose, and how far they are apart."""
    if not hasattr(models[device], "heads_"):
        return ""
    parts = []
    for name, model in models.items():
        scales = np.array2string(model.expert_scale_, precision=6)
        alpha = "" if model.alpha_ is None else f"alpha {model.alpha_:.6g}, "
        parts.append(f"{name}: {alpha}{model.selected_}, temperatures {scales}")
    pairs = zip(models["cpu"].heads_, models[device].heads_, strict=True)
    apart = max(float(np.abs(a.association_ - b.association_).max()) for a, b in pairs)
    return f"  {'; '.join(parts)}; associations apart by {apart:.1e}"


def timed_fit(model, X, y):
    """Return (seconds, fitted model)."""
    start = time.perf_counter()
    model.fit(X, y)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, model


def compare(make, X, y, held_out, repeats, device):
    """Return seconds on either device, largest difference, accuracies, and what was chosen."""
    seconds, models = {"cpu": [], device: []}, {}
    for repeat in range(repeats + 1):
        for name in seconds:
            taken, models[name] = timed_fit(make(name), X, y)
            print(f"  {name}: {taken:.2f} s{'' if repeat else ', the first'}", flush=True)
            if repeat:
                seconds[name].append(taken)
    answers = {n: m.set_params(device="cpu").predict_proba(held_out[0]) for n, m in models.items()}
    apart = float(np.abs(answers["cpu"] - answers[device]).max())
    right = {n: float((m.predict(held_out[0]) == held_out[1]).mean()) for n, m in models.items()}
    return seconds["cpu"], seconds[device], apart, right, chosen(models, device)


def main(argv=None, device=None):
    """Print the table; return the exit status, 2 without a GPU."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[8000])
    parser.add_argument("--concepts", type=int, default=350)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, help="of the CPU; torch's own number by default")
    options = parser.parse_args(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    if device is None:
        if not torch.cuda.is_available():
            print("This benchmark needs a CUDA GPU, and torch sees none here.", file=sys.stderr)
            return 2
        device = "cuda"
        print(torch.cuda.get_device_name(), "CUDA", torch.version.cuda)
    print(describe_machine(), f"{torch.get_num_threads()} threads")
    ratios = []
    for rows in options.rows:
        X, y = make_data(rows + 2000, options.concepts)
        held_out = X[rows:], y[rows:]
        for name, make in arms(options.epochs).items():
            print(f"{name}, {rows} rows", flush=True)
            on_cpu, on_gpu, apart, right, words = compare(
                make, X[:rows], y[:rows], held_out, options.repeats, device
            )
            print(
                f"{name}, {rows} rows: {np.median(on_cpu):.2f} s CPU, {np.median(on_gpu):.2f} s "
                f"{device}; apart {apart:.1e}; held-out accuracy {right['cpu']:.4f} and "
                f"{right[device]:.4f}"
            )
            print(words)
            values = [cpu / gpu for cpu, gpu in zip(on_cpu, on_gpu, strict=True)]
            ratios.append(Ratio(f"CPU / {device}, {name}, {rows} rows", values))
    report("gpu_fit", ratios)
    return 0


if __name__ == "__main__":
    sys.exit(main())
