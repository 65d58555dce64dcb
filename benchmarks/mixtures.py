r"""Sparse and cross-modal mixtures on real data, beside simpler models.

    python -m benchmarks.mixtures --data $SKMOECBM_TEST_DATA
    python -m benchmarks.mixtures --report

* ham10000: embeddings of dermatoscopic images (lesion split) beside age, sex and site.
* covid: tokens of chest films beside tokens of clinical notes, masked; COVID-19 or another finding.
  Folds by patient, every row judged by a model that saw none of its patient.
* retinamnist: tokens of one demo expert beside those of the other, five grades.

Default settings; nothing is chosen on rows that judge. Each model is run with three seeds, for
covid of the folds too; intervals are Student's t over them, which for three is 2.48 standard
deviations. Whatever stands in the table is not run again.
"""

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from scipy.stats import t
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, log_loss, roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from threadpoolctl import threadpool_limits

from benchmarks import _mixture_data
from benchmarks._experiment_runs import GrowingTable, probe
from benchmarks._machine import describe_machine
from skmoecbm import GatedConceptBottleneckClassifier
from skmoecbm.moe import CrossModalMoEClassifier, SparseMoEClassifier

KEY = ("dataset", "model", "given", "seed")
METRICS = ("balanced_accuracy", "macro_auroc", "log_loss")
SEEDS = (0, 1, 2)
DATA = ("ham10000", "covid", "retinamnist")
ROUTERS = ("joint", "per_modality", "disjoint")


def scores(y, proba, classes):
    """Return the metrics of probabilities (n, K)."""
    auroc = proba[:, 1] if len(classes) == 2 else proba
    return {
        "balanced_accuracy": balanced_accuracy_score(y, classes[proba.argmax(axis=1)]),
        "macro_auroc": roc_auc_score(y, auroc, multi_class="ovr", labels=classes),
        "log_loss": log_loss(y, proba, labels=classes),
    }


def told(X, blocks):
    """Return columns without NaN: means where a block is missing, and that it is."""
    parts = []
    for columns in blocks:
        part = X[:, columns]
        gone = np.isnan(part).all(axis=1)
        part = np.where(gone[:, None], np.nanmean(part, axis=0), part)
        parts += [part, gone[:, None].astype(float)] if gone.any() else [part]
    return np.hstack(parts)


def on_blocks(problem, runs):
    """Fit what takes blocks of columns."""
    y, train, test = problem.y, problem.train, problem.test
    image, person = problem.modalities.values()
    given = {"both": (image, person), "image": (image,), "person": (person,)}
    for name, blocks in given.items():
        X = told(problem.X, blocks)

        def logistic(seed, X=X):
            return probe(y[train], problem.groups[train]).fit(X[train], y[train]), X

        one_run(runs, "ham10000", "logistic regression", name, logistic, y, test, seeds=(0,))

    def simple(seed, names):
        X = problem.concepts.select(names)
        experts = [
            (name, HistGradientBoostingClassifier(random_state=seed), name)
            if name == "person"
            else (name, name)
            for name in names
        ]
        clf = GatedConceptBottleneckClassifier(experts=experts, random_state=seed)
        frame = X.to_frame()
        return clf.fit(frame.iloc[train], y[train], groups=problem.groups[train]), frame

    for name, names in {
        "both": ["generalist", "specialist", "person"],
        "image": ["generalist", "specialist"],
    }.items():
        what = "gated concept bottleneck"
        one_run(runs, "ham10000", what, name, lambda s, n=names: simple(s, n), y, test)

    def sparse(seed, modalities, router):
        clf = SparseMoEClassifier(modalities=modalities, router=router, random_state=seed)
        X = problem.X
        if len(modalities) == 1:
            X = X[:, next(iter(modalities.values()))]
            clf.set_params(modalities="auto")
            rows = train[~np.isnan(X[train]).all(axis=1)]
        else:
            rows = train
        return clf.fit(X[rows], y[rows], groups=problem.groups[rows]), X

    for router in ROUTERS:
        what = f"sparse mixture, {router}"
        one_run(
            runs,
            "ham10000",
            what,
            "both",
            lambda s, r=router: sparse(s, problem.modalities, r),
            y,
            test,
        )
    for name, columns in problem.modalities.items():
        one_run(
            runs,
            "ham10000",
            "sparse mixture, joint",
            name,
            lambda s, n=name, c=columns: sparse(s, {n: c}, "joint"),
            y,
            test,
        )


def one_run(runs, dataset, model, given, fit, y, test, seeds=SEEDS):
    """Fit a model with each seed and write what the test rows say of it."""
    for seed in seeds:
        row = {"dataset": dataset, "model": model, "given": given, "seed": seed}
        if row in runs:
            continue
        clock = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            clf, X = fit(seed)
            seconds = time.process_time() - clock
            part = X.iloc[test] if hasattr(X, "iloc") else X[test]
            found = scores(y[test], clf.predict_proba(part), clf.classes_)
        runs.add([{**row, **found, "seconds": seconds}])
        print(row, {k: round(v, 3) for k, v in found.items()}, f"{seconds:.0f} s", flush=True)


def on_tokens(dataset, read, seeds, runs):
    """Fit what takes streams of tokens, and logistic regressions of their means."""
    for seed in seeds:
        problem = read(seed)
        names = list(problem.X.names)
        cross = CrossModalMoEClassifier(random_state=seed)
        means = {name: pooled(problem.X, name) for name in names}
        models = {
            ("logistic regression of mean tokens", "both"): (None, np.hstack([*means.values()])),
            ("cross-modal mixture", "both"): (cross, problem.X),
            ("cross-modal, no sparse experts", "both"): (
                clone(cross).set_params(moe=False),
                problem.X,
            ),
            ("cross-modal, concatenated", "both"): (
                clone(cross).set_params(fusion="concat"),
                problem.X,
            ),
            ("cross-modal, concatenated, no sparse experts", "both"): (
                clone(cross).set_params(fusion="concat", moe=False),
                problem.X,
            ),
        }
        for name in names:
            models["logistic regression of mean tokens", name] = (None, means[name])
            models["cross-modal mixture", name] = (cross, problem.X.select(name))
        if problem.texts is not None:
            models["logistic regression of words (TF-IDF)", names[-1]] = (words(), problem.texts)
        for (model, given), (clf, X) in models.items():
            row = {"dataset": dataset, "model": model, "given": given, "seed": seed}
            if row in runs:
                continue
            clock = time.process_time()
            proba = np.zeros((len(problem.y), len(np.unique(problem.y))))
            for train, test in problem.parts:
                y, groups = problem.y[train], problem.groups[train]
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    if clf is None:
                        fitted = probe(y, groups).fit(X[train], y)
                    elif isinstance(clf, CrossModalMoEClassifier):
                        fitted = clone(clf).fit(X[train], y, groups=groups)
                    else:
                        fitted = clone(clf).fit(X[train], y)
                    proba[test] = fitted.predict_proba(X[test])
            seconds = time.process_time() - clock
            judged = np.concatenate([test for _, test in problem.parts])
            found = scores(problem.y[judged], proba[judged], fitted.classes_)
            runs.add([{**row, **found, "seconds": seconds}])
            print(row, {k: round(v, 3) for k, v in found.items()}, f"{seconds:.0f} s", flush=True)


def words():
    """Return a classifier of texts that knows nothing but their words."""
    return make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True),
        LogisticRegression(C=10, max_iter=1000),
    )


def pooled(X, name):
    """Return the mean of a stream's tokens, (n, d); 0 where a row lacks it."""
    rows = X.select(name)
    width = rows.shape[1]
    tokens = [rows[i][name] for i in range(len(rows))]
    means = [np.zeros(width) if one is None else np.mean(one, axis=0) for one in tokens]
    return np.array(means, dtype=np.float64)


def report(out, runs):
    """Write the table of means and intervals."""
    table = runs.read()
    lines = [
        "# Sparse and cross-modal mixtures on real data",
        "",
        "Made by `python -m benchmarks.mixtures --report` of `runs.csv`, one row per run.",
        f"{describe_machine()}",
        "",
        "Mean over seeds, with 95 % intervals by Student's t where there are several. Seconds are",
        "processor time of one thread, of all folds, the slowest seed.",
    ]
    for dataset in [name for name in DATA if name in set(table["dataset"])]:
        part = table[table["dataset"] == dataset]
        lines += ["", f"## {dataset}", ""]
        lines += [f"| model | given | {' | '.join(METRICS)} | s |", "|---|---|---|---|---|--:|"]
        for (model, given), rows in part.groupby(["model", "given"], sort=False):
            cells = []
            for metric in METRICS:
                values = rows[metric].to_numpy()
                n = len(values)
                half = t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n) if n > 1 else None
                cells.append(f"{values.mean():.3f}" + ("" if half is None else f" ± {half:.3f}"))
            lines.append(
                f"| {model} | {given} | {' | '.join(cells)} | {rows['seconds'].max():.0f} |"
            )
    (out / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def main(argv=None):
    """Run what the table lacks, or write the report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "mixtures")
    parser.add_argument("--store", default="auto", help="where embeddings are kept")
    parser.add_argument("--only", nargs="+", choices=DATA, default=DATA)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args(argv)
    runs = GrowingTable(options.out / "runs.csv", [*KEY, *METRICS, "seconds"], KEY)
    if options.report:
        return report(options.out, runs)
    if options.data is None:
        parser.error("say where the data is: --data")
    torch.set_num_threads(1)
    with threadpool_limits(1):
        if "ham10000" in options.only:
            on_blocks(_mixture_data.ham10000(options.data, options.store), runs)
        if "covid" in options.only:

            def films(seed):
                folds = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
                return _mixture_data.covid(options.data, options.store, folds)

            on_tokens("covid", films, options.seeds, runs)
        if "retinamnist" in options.only:
            retinas = _mixture_data.retinamnist(options.data, options.store)
            on_tokens("retinamnist", lambda seed: retinas, options.seeds, runs)


if __name__ == "__main__":
    main()
