"""Time of the submodular choice of concepts against a naive greedy in Python, and at full size.

    python -m benchmarks.selection

First the picks of 50 from 500 candidates, best of five: this package's greedy, and the same
algorithm tried candidate by candidate with numpy per candidate. Then `SubmodularSelector.fit` on
1,000 classes of 500 candidates each, best of three, with the processor time (on a shared machine
the wall clock says more of the others) and the peak memory of the process.
"""

import argparse
import json
import os
import resource
import time

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from benchmarks._results import Ratio, report
from skmoecbm.concepts import SubmodularSelector
from skmoecbm.concepts._greedy import greedy_cover


def naive(similarity, relevance, coverage, n_picks):
    """Try every candidate at every step."""
    similarity = np.maximum(similarity, 0)
    best, picks = np.zeros(len(relevance)), []
    for _ in range(n_picks):
        top, pick = -1.0, None
        for j in range(len(relevance)):
            if j in picks:
                continue
            gain = relevance[j] + coverage * float(np.maximum(similarity[j] - best, 0).sum())
            if gain > top + 1e-9 * abs(top):
                top, pick = gain, j
        picks.append(pick)
        best = np.maximum(best, similarity[pick])
    return picks


def best_of(n, function, *args):
    """Return the least seconds of n calls, and what the last returned."""
    seconds = []
    for _ in range(n):
        start = time.perf_counter()
        out = function(*args)
        seconds.append(time.perf_counter() - start)
    return min(seconds), out


def unit(rng, shape, common=0.7):
    """Return unit vectors with a common direction, as texts of one model have."""
    rows = rng.standard_normal(shape, dtype=np.float32) / np.float32(np.sqrt(shape[-1]))
    rows[..., 0] += common
    rows /= np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows


def main(argv=None):
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--candidates", type=int, default=500)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3, help="fits of each score")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    rng = np.random.default_rng(0)
    T = unit(rng, (options.candidates, options.width)).astype(np.float64)
    relevance = 10 * rng.random(options.candidates)
    with threadpool_limits(options.threads):
        fast, picks = best_of(5, greedy_cover, T @ T.T, relevance, 1.0, 50)
        slow, expected = best_of(5, naive, T @ T.T, relevance, 1.0, 50)
        result = {
            "one class, ms": round(1000 * fast, 2),
            "naive, ms": round(1000 * slow, 2),
            "ratio": round(slow / fast, 1),
            "same picks": list(picks) == expected,
        }
        n_all = options.classes * options.candidates
        texts = unit(rng, (n_all, options.width))
        y = np.repeat(np.arange(options.classes), 10)
        images = unit(rng, (len(y), options.width))
        incidence = np.zeros((n_all, options.classes), dtype=bool)
        incidence[np.arange(n_all), np.repeat(np.arange(options.classes), options.candidates)] = (
            True
        )
        result["memory before the choice, GB"] = _peak()
        for relevance in ("similarity", "mi"):
            selector = SubmodularSelector(50, relevance=relevance)
            wall, cpu = [], []
            for _ in range(options.repeats):
                start = time.perf_counter(), time.process_time()
                selector.fit(images, y, texts, incidence)
                wall.append(round(time.perf_counter() - start[0], 2))
                cpu.append(round(time.process_time() - start[1], 2))
            result[f"all classes, {relevance}, s"] = min(wall)
            result[f"all classes, {relevance}, every run, s"] = wall
            result[f"all classes, {relevance}, processor time of all threads, s"] = cpu
            result[f"peak memory after {relevance}, GB"] = _peak()
    result["load over one minute, five"] = [round(load, 2) for load in os.getloadavg()[:2]]
    print(json.dumps(result | vars(options), indent=2))
    ratios = [Ratio("naive greedy / ours, one class", [slow / fast], bar=10)]
    for relevance in ("similarity", "mi"):
        seconds = result[f"all classes, {relevance}, every run, s"]
        ratios.append(Ratio(f"all classes, {relevance}, s", seconds))
    report("selection", ratios)


def _peak():
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)


if __name__ == "__main__":
    main()
