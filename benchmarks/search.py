r"""Time of a search of 24 settings on 5 folds, against the same searches one by one, in one run.

Features are those of `benchmarks/fit.py`: drawn, correlated as CLIP's are, seven classes as
unbalanced as HAM10000's, two experts. Two grids of 24 settings:

* ``mixed``: eight penalties of the experts by three of the gate;
* ``experts``: 24 penalties of the experts, so that no two settings share their experts.

Against `GatedConceptBottleneckClassifierCV` stand `GridSearchCV` over the same classifier and over
a logistic regression on the same columns, standardised, with C = 1 / alpha. Those take so long that
by default only a few of their settings, spread over the grid, are fitted, on one fold, and their
time is multiplied up to 24 settings on 5; `--slow-settings 24 --slow-folds 5` fits them all.

    python -m benchmarks.search --rows 2000 --concepts 100     # to see it work
    python -m benchmarks.search --rows 10000 --concepts 350 --repeats 3
"""

import argparse
import json
import os
import platform
import resource
import sys
import time
import warnings

import numpy as np
import sklearn
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from benchmarks._results import Ratio, report
from benchmarks.fit import make_data
from skmoecbm import (
    ConceptBottleneckClassifier,
    GatedConceptBottleneckClassifier,
    GatedConceptBottleneckClassifierCV,
    LinearGate,
)

GRIDS = {
    "mixed": (np.geomspace(0.001, 100.0, 8), [5.0, 20.0, 80.0]),
    "experts": (np.geomspace(0.001, 100.0, 24), [20.0]),
}
SCORING = "neg_log_loss"


def settings_of(name):
    """Return the settings of a grid, as dicts of one value each."""
    alphas, penalties = GRIDS[name]
    return [
        {"head__alpha": float(alpha), "gate__penalty": penalty}
        for alpha in alphas
        for penalty in penalties
    ]


def timed(fit):
    """Return wall seconds, processor seconds and what `fit` returned; tells of it at once."""
    wall, processor = time.perf_counter(), time.process_time()
    found = fit()
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    print(f"{wall:.1f} s, {processor:.1f} s of the processor", file=sys.stderr, flush=True)
    return wall, processor, found


def one_by_one(model, settings, splits, X, y):
    """Return a fitted `GridSearchCV` over settings, without its refit."""
    grid = [{name: [value] for name, value in setting.items()} for setting in settings]
    search = GridSearchCV(model, grid, scoring=SCORING, cv=splits, refit=False, error_score="raise")
    return search.fit(X, y)


def main(argv=None):
    """Print one JSON object with the times, the ratios and the scores."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--concepts", type=int, default=100)
    parser.add_argument("--grid", choices=list(GRIDS), default="mixed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--slow-settings", type=int, default=4)
    parser.add_argument("--slow-folds", type=int, default=1)
    parser.add_argument("--logistic-steps", type=int, default=3000)
    options = parser.parse_args(argv)
    warnings.simplefilter("ignore", ConvergenceWarning)  # reported below as steps taken
    torch.set_num_threads(options.threads)
    X, y = make_data(options.rows + 3000, options.concepts, seed=options.seed)
    train, test = np.arange(options.rows), np.arange(options.rows, options.rows + 3000)
    flat = np.asarray(X, dtype=np.float64)
    settings = settings_of(options.grid)
    count = min(options.slow_settings, len(settings))
    slow = np.linspace(0, len(settings) - 1, count).round().astype(int)
    splits = list(StratifiedKFold(5).split(train, y[train]))
    few = splits[: options.slow_folds]
    gated = GatedConceptBottleneckClassifier(ConceptBottleneckClassifier(), LinearGate())
    logistic = make_pipeline(StandardScaler(), LogisticRegression(max_iter=options.logistic_steps))
    penalties = sorted({setting["head__alpha"] for setting in settings})
    picked = np.linspace(0, len(penalties) - 1, min(count, len(penalties))).round().astype(int)
    inverse = [{"logisticregression__C": 1.0 / penalties[i]} for i in picked]
    load, memory = os.getloadavg(), peak()
    scale = len(settings) * len(splits) / len(few)
    times = {"search": [], "one by one": [], "logistic": []}
    with threadpool_limits(options.threads):
        for repeat in range(options.repeats):
            search = GatedConceptBottleneckClassifierCV(gated, settings=settings, scoring=SCORING)
            *seconds, search = timed(lambda search=search: search.fit(X[train], y[train]))
            # The others do not fit the best setting again.
            *refit, best = timed(lambda search=search: fit_best(gated, search, X[train], y[train]))
            times["search"].append([max(s - r, 0.0) for s, r in zip(seconds, refit, strict=True)])
            if repeat == 0:
                search_memory = peak()
            *seconds, plain = timed(
                lambda: one_by_one(gated, [settings[i] for i in slow], few, X[train], y[train])
            )
            times["one by one"].append([s * scale / len(slow) for s in seconds])
            *seconds, others = timed(
                lambda: one_by_one(logistic, inverse, few, flat[train], y[train])
            )
            times["logistic"].append([s * scale / len(inverse) for s in seconds])
    # What the logistic regression reaches at the C that is best on the folds.
    logistic.set_params(**others.cv_results_["params"][int(np.argmax(mean_of(others)))])
    logistic.fit(flat[train], y[train])
    least = {name: np.min(seconds, axis=0) for name, seconds in times.items()}
    table = search.cv_results_
    searched = np.mean([table[f"split{f}_test_score"] for f in range(len(few))], axis=0)
    result = {
        "features": f"drawn, seed {options.seed}",
        "rows": [len(train), len(test)],
        "columns": flat.shape[1],
        "grid": {"name": options.grid, "settings": len(settings), "folds": search.n_splits_},
        "fitted one by one": {"settings": len(slow), "folds": len(few)},
        "seconds (wall, processor)": {k: np.round(v, 1).tolist() for k, v in times.items()},
        "ratio (wall, processor)": {
            name: np.round(least[name] / least["search"], 1).tolist()
            for name in ("one by one", "logistic")
        },
        "largest difference in a fold's score": max(
            float(
                np.abs(
                    search.cv_results_[f"split{f}_test_score"][slow]
                    - plain.cv_results_[f"split{f}_test_score"]
                ).max()
            )
            for f in range(len(few))
        ),
        "same order of settings": bool(
            (np.argsort(searched[slow]) == np.argsort(mean_of(plain))).all()
        ),
        "best": {"params": search.best_params_, "score": round(search.best_score_, 4)},
        "best log-loss of the logistic regression on the folds": round(
            -float(mean_of(others).max()), 4
        ),
        "held-out accuracy": {
            "search": round(float(best.score(X[test], y[test])), 4),
            "logistic": round(float(logistic.score(flat[test], y[test])), 4),
        },
        "steps of the logistic regression": int(logistic[-1].n_iter_.max()),
        "peak memory, MB (before, after the search)": [memory, search_memory],
        "numbers of X, MB (float64)": round(flat[train].nbytes / 2**20),
        "machine": {
            "threads": options.threads,
            "cores": os.cpu_count(),
            "load before": [round(value, 1) for value in load],
            "load after": [round(value, 1) for value in os.getloadavg()],
            "python": platform.python_version(),
            "torch": torch.__version__,
            "scikit-learn": sklearn.__version__,
        },
    }
    print(json.dumps(result, indent=2))
    ratios = {
        name: [slow[1] / fast[1] for slow, fast in zip(times[name], times["search"], strict=True)]
        for name in ("one by one", "logistic")
    }
    report(
        "search",
        [
            Ratio("one by one / search, processor time", ratios["one by one"], bar=10),
            Ratio("logistic regressions / search, processor time", ratios["logistic"], bar=30),
        ],
    )


def mean_of(search):
    """Return the mean scores of a search's settings."""
    return search.cv_results_["mean_test_score"]


def fit_best(gated, search, X, y):
    """Fit the setting that a search chose."""
    return sklearn.clone(gated).set_params(**search.best_params_).fit(X, y)


def peak():
    """Return the largest memory that this process has taken so far, in MB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


if __name__ == "__main__":
    main()
