"""What an audit says of real and of drawn lesions, and how long it takes.

    python -m benchmarks.audit --data $SKMOECBM_TEST_DATA

The two demo experts and the bank "lesions". HAM10000 fitted on the training part of the
lesion-disjoint split and audited on its validation part; the community split, which shares lesions
between its parts (leaks alone, all its rows); drawn lesions, few and many. At most `--rows`
training rows, whole lesions drawn at random; embeddings are encoded before the clock starts. Prints
each audit with its wall-clock and processor seconds, and writes JSON and HTML to `--out`.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.calibration import encoded, part_of
from skmoecbm import (
    ConceptEncoder,
    ExpertUnion,
    GatedConceptBottleneckClassifier,
    audit,
    load_concepts,
)
from skmoecbm.datasets import make_lesions

SUBGROUPS = ["age", "sex", "localization"]


def problems(folder, n_rows, seed):
    """Yield name, features, labels, groups, training rows, test rows, metadata and checks."""
    X, table = encoded(folder / "ham10000")
    y, lesions = table["dx"].to_numpy(dtype=str), table["lesion_id"].to_numpy(dtype=str)
    test = np.flatnonzero(table["split_lesion"] == "val")
    train = part_of(table, n_rows, seed)
    yield "HAM10000, split by lesion", X, y, lesions, train, test, table[SUBGROUPS], None
    test = np.flatnonzero(table["split_community"] == "test")
    train = np.flatnonzero(table["split_community"] == "train")
    yield "HAM10000, community split", X, y, lesions, train, test, None, ["leaks"]
    drawn = make_lesions(4500, random_state=11)
    bank = load_concepts("lesions")
    experts = [(name, ConceptEncoder(name, bank)) for name in ("demo-general", "demo-structures")]
    X, y = ExpertUnion(experts).fit_transform(drawn.images), np.asarray(drawn.target)
    rows = np.arange(len(y))
    for n in (100, n_rows or 3000):
        yield f"drawn lesions, {n:,} rows", X, y, rows, rows[:n], rows[3000:], None, None


def main(argv=None):
    """Print every audit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=2000, help="training rows; 0 is all")
    parser.add_argument("--only", type=int, nargs="*", help="numbers of the problems, from 0")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--draws", type=int, default=5, help="random banks")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    found = problems(options.data, options.rows or None, options.seed)
    for number, (name, X, y, groups, train, test, metadata, checks) in enumerate(found):
        if options.only and number not in options.only:
            continue
        model = GatedConceptBottleneckClassifier(random_state=options.seed)
        model.fit(X[train], y[train], groups=groups[train])
        wall, processor = time.perf_counter(), time.process_time()
        result = audit(
            model,
            X[test],
            y[test],
            train=(X[train], y[train], groups[train]),
            groups=groups[test],
            metadata=None if metadata is None else metadata.iloc[test],
            checks=checks,
            n_random=options.draws,
            random_state=options.seed,
            n_jobs=options.jobs,
        )
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        print(f"=== {name}: {wall:.0f} s, of the processor {processor:.0f} s")
        print(result, flush=True)
        if options.out is not None:
            options.out.mkdir(parents=True, exist_ok=True)
            stem = options.out / f"audit-{number}"
            stem.with_suffix(".json").write_text(json.dumps(result.to_dict(), indent=1) + "\n")
            stem.with_suffix(".html").write_text(result.to_html())


if __name__ == "__main__":
    main()
