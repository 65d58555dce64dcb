"""Where folding D = X T' pays: time of a fit with D in memory and in the span of the concepts.

    python -m benchmarks.folding

One expert of 512 dimensions, seven classes, a fixed penalty; processor time on one thread, the best
of some repeats, both ways in turns. The rule of `skmoecbm` is n m > n d + d m.
"""

import argparse
import os
import time
import warnings

import torch
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from benchmarks._results import Ratio, report
from benchmarks.fit import make_data
from skmoecbm import ConceptBottleneckClassifier, _heads
from skmoecbm._similarities import folding_pays


def main(argv=None):
    """Print a table of seconds by number of concepts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=8000)
    parser.add_argument("--concepts", type=int, nargs="+", default=[350, 512, 700, 1000, 2000])
    parser.add_argument("--alpha", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(argv)
    warnings.simplefilter("ignore", ConvergenceWarning)
    torch.set_num_threads(1)
    rule = _heads.folding_pays
    print(f"{options.rows} rows, 512 dimensions; load {os.getloadavg()[0]:.1f}")
    print("concepts  in memory, s  folded, s  ratio  rule    largest difference of the logits")
    ratios = []
    with threadpool_limits(1):
        for m in options.concepts:
            X, y = make_data(options.rows, m)
            X = X.select("generalist")
            seconds, logits = {False: [], True: []}, {}
            for _ in range(options.repeats):
                for folds in seconds:
                    _heads.folding_pays = lambda *_, folds=folds: folds
                    model = ConceptBottleneckClassifier(alpha=options.alpha)
                    start = time.process_time()
                    model.fit(X, y)
                    seconds[folds].append(time.process_time() - start)
                    logits[folds] = model.decision_function(X[:500])
            _heads.folding_pays = rule
            dense, folded = min(seconds[False]), min(seconds[True])
            says = "folds" if folding_pays(options.rows, m, 512) else "not"
            apart = abs(logits[True] - logits[False]).max()
            ratio = f"{dense / folded:>6.2f}"
            print(f"{m:>8} {dense:>13.2f} {folded:>10.2f} {ratio}  {says:<6} {apart:.1e}")
            both = zip(seconds[False], seconds[True], strict=True)
            what = f"in memory / folded, {m} concepts (the rule: {says})"
            ratios.append(Ratio(what, [one / other for one, other in both]))
    report("folding", ratios)


if __name__ == "__main__":
    main()
