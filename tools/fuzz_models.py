"""Damage saved models in thousands of ways: each must be refused, or load and be of use.

    python tools/fuzz_models.py [N] [FIRST_SEED]

N folders (30,000) from the kinds of damage of `tests/model_mutations.py` to the models of
`tests/model_bases.py`, in two processes, each with 500 MB of memory beyond what it starts with.
A case is its seed: the same seed makes the same folder. What was found is printed and written to
`tools/fuzz_models.log`; the exit status is 1 where a case ended in another way than a FormatError
or a model of use, took more than a second of the processor, or more memory.
"""

import logging
import os
import platform
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

N_PROCESSES = 2
MAX_SECONDS, MAX_BYTES, HANG = 1.0, 500 * 2**20, 30


def saved_models(folder):
    """Save every base model under `folder`, once for all processes."""
    from skmoecbm import save
    from tests.model_bases import BASES

    for i, make in enumerate(BASES.values()):
        save(make(), folder / str(i))


def run(folder, first, stop, step):
    """Run the cases of one process; return outcomes, findings, times and peak memory."""
    from tests.model_bases import BASES
    from tests.model_mutations import ARRAYS, CONFIG, KINDS, mutated
    from tests.model_use import outcome_of

    logging.disable(logging.WARNING)  # the notice of the demo experts
    models = {
        name: {file: (folder / str(i) / file).read_bytes() for file in (CONFIG, ARRAYS)}
        for i, name in enumerate(BASES)
    }
    for i in range(len(models)):  # what is imported at a first load is no cost of a case
        outcome_of(folder / str(i))
    Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
    at_start = _peak()
    resource.setrlimit(resource.RLIMIT_AS, (_address_space() + MAX_BYTES, resource.RLIM_INFINITY))
    signal.signal(signal.SIGALRM, _hang)
    outcomes, findings, times = Counter(), [], []
    with tempfile.TemporaryDirectory() as place:
        place = Path(place)
        for seed in range(first, stop, step):
            rng = random.Random(seed)
            kind, name = rng.choice(sorted(KINDS)), rng.choice(sorted(models))
            for file, content in mutated(kind, name, models, rng).items():
                (place / file).write_bytes(content)
            signal.alarm(HANG)
            began = time.process_time()
            try:
                outcome = outcome_of(place)
            except BaseException as error:  # whatever it is, it is a finding
                outcome = "FOUND"
                where = traceback.extract_tb(error.__traceback__)[-1]
                found = f"{type(error).__name__}: {str(error)[:120]!r}"
                findings.append(f"seed {seed} ({kind}, {name}): {found} at {where[0]}:{where[1]}")
            took = time.process_time() - began
            signal.alarm(0)
            times.append((took, seed, kind, name))
            if took > MAX_SECONDS:
                findings.append(f"seed {seed} ({kind}, {name}): {took:.2f} s")
            outcomes[kind, outcome] += 1
    if (peak := _peak() - at_start) > MAX_BYTES:
        findings.append(f"the cases of one process took {peak / 2**20:.0f} MB")
    return outcomes, findings, sorted(times, reverse=True)[:3], sum(t[0] for t in times), peak


def _peak():
    """Return the most memory that this process had, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


def _address_space():
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def _hang(*_):
    raise TimeoutError(f"not over after {HANG} s")


def main(n=30_000, first=0):
    """Run all cases; print and write the report, return whether anything was found."""
    import skmoecbm

    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        saved_models(Path(folder))
        # spawn: a fork of a process with torch's threads may hang
        with ProcessPoolExecutor(N_PROCESSES, mp_context=get_context("spawn")) as pool:
            jobs = [
                pool.submit(run, Path(folder), first + i, first + n, N_PROCESSES)
                for i in range(N_PROCESSES)
            ]
            parts = [job.result() for job in jobs]
    outcomes = sum((part[0] for part in parts), Counter())
    findings = [line for part in parts for line in part[1]]
    slowest = max(part[2][0] for part in parts)
    totals = Counter()
    lines = [
        f"skmoecbm {skmoecbm.__version__}, python {platform.python_version()}, "
        f"{n:,} damaged folders, seeds {first} to {first + n - 1}",
        "",
    ]
    for kind in sorted({kind for kind, _ in outcomes}):
        mine = {outcome: count for (own, outcome), count in outcomes.items() if own == kind}
        totals.update(mine)
        told = ", ".join(f"{outcome} {count:,}" for outcome, count in sorted(mine.items()))
        lines.append(f"{kind}: {told}")
    lines += [
        "all: " + ", ".join(f"{outcome} {count:,}" for outcome, count in sorted(totals.items())),
        "",
        f"slowest case: {slowest[0] * 1000:.0f} ms of the processor (seed {slowest[1]}, "
        f"{slowest[2]}, {slowest[3]}); mean {sum(part[3] for part in parts) / n * 1000:.1f} ms",
        f"most memory beyond the start: {max(part[4] for part in parts) / 2**20:.0f} MB",
        f"wall time: {time.perf_counter() - began:.0f} s in {N_PROCESSES} processes",
        f"findings: {len(findings)}",
        *findings[:50],
    ]
    report = "\n".join(lines) + "\n"
    sys.stdout.write(report)
    Path(__file__).with_suffix(".log").write_text(report)
    return bool(findings)


if __name__ == "__main__":
    sys.exit(main(*(int(argument.replace(",", "")) for argument in sys.argv[1:])))
