"""Sending rows to the experts that they chose, against asking every expert about every row.

    python -m benchmarks.sparse

Forward and backward through one pool of experts, processor time of one thread, both ways in turns;
then the cost with more experts at a fixed number for each row, and what is kept in memory for the
way back. Answers of both ways are compared. "One network" is a single one of the width that a row
meets, k times an expert's: what sparse routing would cost if sorting rows were free.
"""

import argparse
import os
import time

import numpy as np
import torch

from benchmarks._results import Ratio, report
from skmoecbm.moe._pool import ExpertPool
from skmoecbm.moe._routing import route

BAR, LINEAR = 1.5, 1.0


def problem(n_experts, options, seed=0):
    """Return a pool, rows and routing weights (n, E), k of them not zero in each row."""
    generator = torch.Generator().manual_seed(seed)
    pool = ExpertPool(n_experts, options.width, options.hidden, options.width)
    pool.start(generator)
    pool = pool.to(getattr(torch, options.dtype))
    dtype = pool.w1.dtype
    x = torch.randn(options.batch, options.width, generator=generator, dtype=dtype)
    scores = torch.randn(options.batch, n_experts, generator=generator, dtype=dtype)
    weights, _ = route(scores, min(options.top_k, n_experts))
    return pool, x.requires_grad_(), weights.detach().requires_grad_()


def step(way, x, weights, pool):
    """Run forward and backward; return seconds, bytes kept for the way back, and all gradients."""
    inputs = [x, weights, *pool.parameters()]
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    start = time.process_time()
    answer = way(x, weights)
    gradients = torch.autograd.grad(answer.square().mean(), inputs, allow_unused=True)
    seconds = time.process_time() - start
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        answer = way(x, weights)
    given = {tensor.untyped_storage().data_ptr() for tensor in inputs}
    held = sum(size for address, size in kept.items() if address not in given)
    filled = [
        torch.zeros_like(i) if g is None else g for i, g in zip(inputs, gradients, strict=True)
    ]
    filled[1] = filled[1] * (weights != 0)  # routing lets none through to experts not chosen
    return seconds, held, [answer.detach(), *filled]


def apart(some, others):
    """Return the largest difference between two lists of tensors, over the largest number."""
    pairs = zip(some, others, strict=True)
    return max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-30)) for a, b in pairs)


def main(argv=None):
    """Print grouped against dense, and the cost by number of experts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--top-k", type=int, default=2)
    parser.add_argument("--experts", type=int, nargs="+", default=[2, 4, 8, 16, 32, 64])
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float64")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    print(
        f"batch {options.batch}, width {options.width}, hidden {options.hidden}, top "
        f"{options.top_k}, {options.dtype}; load {os.getloadavg()[0]:.1f}"
    )
    print("experts  grouped, s  dense, s  ratio  kept, MB  dense, MB  largest difference")
    alone = torch.ones(options.batch, 1, dtype=getattr(torch, options.dtype), requires_grad=True)
    wide = argparse.Namespace(**vars(options))
    wide.hidden *= options.top_k
    one, x, _ = problem(1, wide)
    singles = [step(one, x, alone, one)[0] for _ in range(options.repeats + 1)][1:]
    found, ratios = {}, []
    for n_experts in options.experts:
        pool, x, weights = problem(n_experts, options)
        seconds = {"grouped": [], "dense": []}
        for _ in range(options.repeats + 1):
            for name, way in (("grouped", pool), ("dense", pool.dense)):
                taken, held, outcome = step(way, x, weights, pool)
                seconds[name].append(taken)
                found[n_experts, name] = held, outcome
        seconds = {name: values[1:] for name, values in seconds.items()}  # the first one warms up
        (held, some), (held_dense, others) = (found.pop((n_experts, w)) for w in seconds)
        found[n_experts] = np.median(seconds["grouped"])
        each = [d / g for d, g in zip(seconds["dense"], seconds["grouped"], strict=True)]
        print(
            f"{n_experts:>7} {found[n_experts]:>11.3f} {np.median(seconds['dense']):>9.3f} "
            f"{np.median(each):>6.2f} {held / 1e6:>9.1f} {held_dense / 1e6:>10.1f}  "
            f"{apart(some, others):.1e}"
        )
        bar = BAR if n_experts == 8 else None
        ratios.append(Ratio(f"dense / grouped, time, {n_experts} experts", each, bar))
        if n_experts == 8:
            ratios.append(Ratio("dense / grouped, memory, 8 experts", [held_dense / held]))
    counts = sorted(options.experts)
    slope = np.polyfit(np.log(counts), np.log([found[n] for n in counts]), 1)[0]
    ratios.append(Ratio("exponent of grouped time by experts", [slope], LINEAR, most=True))
    if 8 in found:
        ratios.append(Ratio("8 experts / one network", [found[8] / np.median(singles)]))
    report("sparse", ratios)


if __name__ == "__main__":
    main()
