"""All measurements of speed and memory in one command, as one table.

    python -m benchmarks                       # quick: small sizes, about ten minutes on two cores
    python -m benchmarks --full                # the sizes at which the bars are set: about an hour
    python -m benchmarks --only store search   # some of them
    python -m benchmarks --out results.md      # the table into a file too

Each benchmark runs in a process of its own, one after the other; everything that it prints goes on
to the screen. A ratio is of two times from the same run. A bar is what its median should reach; one
that a quick run misses says little: small problems have other ratios. What decides well on real
data is measured by the other modules here (see README.md of this folder), which need data sets or
hours.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks._machine import describe_machine
from benchmarks._results import BARS, FILE, Ratio, table

# name: (arguments of a quick run, arguments of a full one)
BENCHMARKS = {
    "store": ("--rows 100000 --kills 5", ""),
    "backbones": ("--model ViT-B-32 --images 32 --repeats 2", "--images 32 --repeats 5"),
    "preprocessing": ("--images 16 --repeats 3", "--repeats 9"),
    "pipeline": ("--images 50", "--images 200 --repeats 7"),
    "fit": ("--rows 3000 --concepts 150", ""),
    "joint_speed": (
        "--rows 1000 --concepts 60 --epochs 30 --repeats 1",
        "--curve benchmarks/original_loop_curve.json",
    ),
    "folding": ("--rows 2000 --concepts 350 1000 --repeats 2", ""),
    "large": ("", "--rows 100000 --classes 1000 --concepts 50000"),
    "search": ("--rows 1000 --concepts 60", "--rows 10000 --concepts 350"),
    "selection": ("--classes 100 --repeats 1", ""),
    "sparse": ("--batch 256 --width 128 --hidden 128 --experts 2 8 --repeats 2", ""),
    "distributed": ("--images 240 --repeats 1", "--model ViT-B-16 --images 64"),
}


def run(name, arguments, file):
    """Run one benchmark, and return its seconds and whether it came to its end."""
    print(f"\n== {name} {arguments}".rstrip(), flush=True)
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", *arguments.split()],
        env=os.environ | {FILE: str(file)},
    )
    return time.perf_counter() - start, done.returncode == 0


def read(file):
    """Return the (benchmark, ratio) pairs that were handed over."""
    rows = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        found = json.loads(line)
        rows.append((found.pop("benchmark"), Ratio(**found)))
    return rows


def main(argv=None):
    """Run the benchmarks, print one table, and return 1 if one of them failed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--full", action="store_true", help="sizes at which the bars are set")
    parser.add_argument("--only", nargs="+", choices=list(BENCHMARKS), metavar="NAME")
    parser.add_argument("--out", type=Path, help="Markdown file for the table")
    options = parser.parse_args(argv)
    machine = describe_machine()
    times, failed = [], []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "ratios.jsonl"
        for name in options.only or BENCHMARKS:
            seconds, well = run(name, BENCHMARKS[name][options.full], file)
            times.append(f"{name} {seconds:.0f} s")
            if not well:
                failed.append(name)
        rows = read(file)
    command = "python -m benchmarks" + (" --full" if options.full else "")
    lines = [
        f"`{command}` on {machine}.",
        "",
        table(rows),
        "",
        BARS,
        "",
        f"Took: {', '.join(times)}.",
    ]
    if failed:
        lines.append(f"Did not come to their end: {', '.join(failed)}.")
    text = "\n".join(lines) + "\n"
    print(f"\n{text}", flush=True)
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
