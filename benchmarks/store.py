r"""The embedding store at a million rows: opening, look-up, gathering, size, and kills.

Each part runs in a process of its own, so that "opening" is opening. Gathering is compared in the
same run with numpy's fancy indexing of a plain memory map that holds the same rows, which knows
where each row is and checks nothing. A writer is killed with SIGKILL at a random moment, again and
again; after each kill every row that the store hands out is compared with what was put.

    python -m benchmarks.store
    python -m benchmarks.store --rows 100000 --kills 10
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks._machine import describe_machine
from benchmarks._results import Ratio, report
from skmoecbm.store import EmbeddingStore

FINGERPRINT = "benchmark"
BATCH = 4096  # what an encoder puts at once


def rows_of(start, stop, dim):
    """Return rows that their number determines, so that a wrong one is seen."""
    rng = np.random.default_rng(start // BATCH)
    rows = rng.standard_normal((BATCH, dim), dtype=np.float32)[: stop - start]
    rows[:, 0] = np.arange(start, stop, dtype=np.float32)
    return rows


def keys_of(numbers):
    """Return the keys of rows by their numbers."""
    return [f"image-{number}" for number in numbers]


def fill(folder, n_rows, dim, first=0):
    """Put rows in batches; prints the number of each batch once it is stored."""
    store = EmbeddingStore(folder)
    for start in range(first, n_rows, BATCH):
        stop = min(start + BATCH, n_rows)
        store.put(FINGERPRINT, keys_of(range(start, stop)), rows_of(start, stop, dim))
        print(stop, flush=True)


def ask(folder, plain, n_rows, dim, n_asked, repeats):
    """Return what opening, looking up and gathering cost, in seconds."""
    rng = np.random.default_rng(1)
    store = EmbeddingStore(folder)
    start = time.perf_counter()
    found, _ = store.get(FINGERPRINT, keys_of([n_rows // 2]))
    told = {"open": time.perf_counter() - start}
    assert found.all()
    mapped = np.memmap(plain, dtype=np.float32, mode="r", shape=(n_rows, dim))
    told["asked"], told["ours"], told["plain"] = n_asked, [], []
    for _ in range(repeats):
        numbers = rng.integers(0, n_rows, n_asked)
        keys = keys_of(numbers)
        start = time.perf_counter()
        found, rows = store.get(FINGERPRINT, keys)
        told["ours"].append(time.perf_counter() - start)
        start = time.perf_counter()
        expected = mapped[numbers]
        told["plain"].append(time.perf_counter() - start)
        assert found.all() and np.array_equal(rows, expected)
    return told


def in_a_process(*arguments):
    """Run this module again with a part to do, and return the process."""
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.store", *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
    )


def kill_writers(folder, dim, kills, seed=0):
    """Kill writers at random moments; return rows lost beyond the unwritten batch, and wrong."""
    rng = random.Random(seed)
    n_wrong = n_lost = 0
    promised = 0
    for number in range(kills):
        first = promised // BATCH * BATCH
        writer = in_a_process("--part", "fill", folder, first + 40 * BATCH, dim, first)
        for _ in range(rng.randint(1, 3)):  # it is at work by then
            promised = max(promised, int(writer.stdout.readline()))
        time.sleep(rng.uniform(0.0, 0.05))
        os.kill(writer.pid, signal.SIGKILL)
        for line in writer.stdout:
            promised = max(promised, int(line))
        writer.wait()
        store = EmbeddingStore(folder)
        for start in range(0, promised, BATCH):
            stop = min(start + BATCH, promised)
            found, rows = store.get(FINGERPRINT, keys_of(range(start, stop)))
            n_lost += int((~found).sum())
            n_wrong += int((rows[found] != rows_of(start, stop, dim)[found]).any(axis=1).sum())
        if promised > 60 * BATCH:  # keep the check short: begin again
            store.clear()
            promised = 0
        print(f"kill {number + 1}: {promised:,} rows, lost {n_lost}, wrong {n_wrong}", flush=True)
    return n_lost, n_wrong


def main(argv=None):
    """Run the parts and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--asked", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--part", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.part:
        name, folder, *rest = arguments.part
        if name == "fill":
            fill(folder, *map(int, rest))
        else:
            print(json.dumps(ask(folder, rest[0], *map(int, rest[1:]))))
        return
    print(describe_machine())
    raw = arguments.rows * arguments.dim * 4
    with tempfile.TemporaryDirectory() as work:
        folder, plain = Path(work) / "store", Path(work) / "plain"
        start = time.perf_counter()
        writers = [
            in_a_process("--part", "fill", folder, stop, arguments.dim, first)
            for first, stop in (
                (0, arguments.rows // 2 // BATCH * BATCH),
                (arguments.rows // 2 // BATCH * BATCH, arguments.rows),
            )
        ]
        for writer in writers:
            writer.communicate()
            if writer.returncode:
                raise SystemExit("a writer failed; its error stands above")
        written = time.perf_counter() - start
        mapped = np.memmap(plain, np.float32, "w+", shape=(arguments.rows, arguments.dim))
        for first in range(0, arguments.rows, BATCH):
            stop = min(first + BATCH, arguments.rows)
            mapped[first:stop] = rows_of(first, stop, arguments.dim)
        del mapped
        info = EmbeddingStore(folder).info()
        opened = []
        for _ in range(arguments.repeats):
            asked = in_a_process(
                "--part", "ask", folder, plain, arguments.rows, arguments.dim, arguments.asked, 3
            )
            opened.append(json.loads(asked.communicate()[0]))
        start = time.perf_counter()
        intact = EmbeddingStore(folder).verify()
        verified = time.perf_counter() - start
    ours = np.concatenate([one["ours"] for one in opened])
    theirs = np.concatenate([one["plain"] for one in opened])
    opens = [one["open"] for one in opened]
    stored = sum(entry["embeddings"] for entry in info["backbones"])
    print(f"rows stored by two processes at once    {stored:,} in {written:.1f} s")
    print(f"bytes on disk / raw bytes               {info['bytes'] / raw:.3f}")
    print(f"opening and the first row, s            {min(opens):.3f} to {max(opens):.3f}")
    print(
        f"{arguments.asked:,} rows by key, checked, s          {min(ours):.3f} to {max(ours):.3f}"
    )
    print(f"the same from a plain map, unchecked, s {min(theirs):.3f} to {max(theirs):.3f}")
    print(f"verify, s                               {verified:.1f} ({intact['embeddings']:,} rows)")
    with tempfile.TemporaryDirectory() as work:
        lost, wrong = kill_writers(Path(work) / "store", arguments.dim, arguments.kills)
    print(f"{arguments.kills} kills: rows lost that were stored {lost}, wrong rows {wrong}")
    report(
        "store",
        [
            Ratio("opening and the first row, s", opens, bar=1.0, most=True),
            Ratio("bytes on disk / raw bytes", [info["bytes"] / raw], bar=1.1, most=True),
            Ratio("rows lost or wrong after kills", [lost + wrong], bar=0, most=True),
            Ratio(f"{arguments.asked:,} checked rows by key / a plain map", ours / theirs),
        ],
    )


if __name__ == "__main__":
    main()
