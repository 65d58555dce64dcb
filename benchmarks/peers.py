r"""Ours against what a user would pick instead, on the same embeddings and the same split.

    python -m benchmarks.peers --data $SKMOECBM_TEST_DATA
    python -m benchmarks.peers --report

Every penalty and tree size is chosen by log-loss on folds of the training part (by lesion);
what is trained by steps is stopped on a fifth of it. The test part judges once. Seconds
are processor time of choosing and fitting on one thread, images already embedded. A peer
that cannot run here stands in the table with the reason. Each is fitted as it is, and with classes
weighted equally.

pytorch-concepts, TabPFN and TabICL are used where they are installed:
`pip install --pre pytorch-concepts tabpfn tabicl`.
"""

import argparse
import time
import warnings
from pathlib import Path

import pandas as pd
import torch
from threadpoolctl import threadpool_limits

from benchmarks._experiment_data import DEMO
from benchmarks._experiment_report import markdown, signed, summary, with_interval
from benchmarks._experiment_runs import METRICS, GrowingTable, measured, row_of
from benchmarks._machine import describe_machine
from benchmarks._peers import NotHere, peers
from benchmarks._peers_data import NAMES, read_problem

KEY = ("dataset", "weights", "peer", "given")
SHOWN = ("balanced_accuracy", "macro_auroc", "log_loss")
OURS = "ours: mixture, default"


def table(out):
    """Return the table of runs."""
    bounds = [f"{metric}{end}" for metric in METRICS for end in ("", "_low", "_high")]
    less = [f"ours_less_{metric}{end}" for metric in SHOWN for end in ("", "_low", "_high")]
    columns = [*KEY, *bounds, *less, "concepts_in_use", "seconds", "additive", "note"]
    return GrowingTable(out / "runs.csv", columns, KEY)


def run(problem, weights, runs, n_bootstrap=1000):
    """Fit every peer and write what it scores, and what ours scores more."""
    cell = {"dataset": problem.name, "weights": weights or "none"}
    offered = peers(problem)
    if all({**cell, "peer": one.name, "given": one.given} in runs for one in offered):
        return
    y, groups = problem.y[problem.test], problem.groups[problem.test]
    written, found = [], {}
    for one in offered:
        row = {**cell, "peer": one.name, "given": one.given, "additive": one.additive}
        written.append(row)
        clock = time.process_time()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of steps, and of folds
                fitted, X = one.fit(problem, weights)
                row["seconds"] = time.process_time() - clock
                proba = fitted.predict_proba(X[problem.test])
        except NotHere as error:
            row["note"] = f"not run: {error}"
            print(f"{problem.name}, {weights}, {one.name}: {row['note']}", flush=True)
            continue
        found[len(written) - 1] = measured(proba, fitted.classes_, y, groups, n_bootstrap)
        row.update(row_of(found[len(written) - 1]))
        if one.in_use is not None:
            row["concepts_in_use"] = one.in_use(fitted, problem)
        told = {metric: round(row[metric], 3) for metric in SHOWN}
        print(f"{problem.name}, {weights}, {one.name}, {one.given}: {told}", flush=True)
    ours = next(found[i] for i in found if written[i]["peer"] == OURS)
    for i, evaluation in found.items():
        for metric in SHOWN:
            less = ours.difference(evaluation, metric)
            for name, value in zip(("", "_low", "_high"), less, strict=True):
                written[i][f"ours_less_{metric}{name}"] = float(value)
    runs.add(written)


def report(out):
    """Write README.md of the table in `out`."""
    runs = table(out).read()
    parts = [PAGE.format(machine=describe_machine())]
    for (dataset, weights), part in runs.groupby(["dataset", "weights"], sort=False):
        fitted = part[part["note"].isna()].copy()
        means = summary(fitted, ["peer", "given"], METRICS)
        rows = []
        for (_, row), (_, mean) in zip(fitted.iterrows(), means.iterrows(), strict=True):
            used = row["concepts_in_use"]
            rows.append(
                {
                    "": row["peer"],
                    "given": row["given"],
                    **{m.replace("_", " "): with_interval(mean, m) for m in SHOWN},
                    "concepts in use": "-" if pd.isna(used) else f"{used:.0f}",
                    "seconds": f"{row['seconds']:.2f}",
                    "sum of concepts": row["additive"],
                    "AUROC of our default less its": ""
                    if row["peer"] == OURS
                    else signed([row[f"ours_less_macro_auroc{e}"] for e in ("", "_low", "_high")]),
                }
            )
        weighted = "classes weighted equally" if weights == "balanced" else "rows as they are"
        parts.append(f"## {dataset}: {weighted}\n\n{markdown(pd.DataFrame(rows))}")
        for _, row in part[part["note"].notna()].iterrows():
            parts.append(f"- {row['peer']}: {row['note']}.")
        parts.append(_verdict(fitted))
    text = "\n\n".join(parts).replace(".\n\n- ", ".\n- ") + "\n"
    (out / "README.md").write_text(text, encoding="utf-8")
    print(text)


def _verdict(fitted):
    """Say of how many peers our default is clearly better, clearly worse, or neither."""
    others = fitted[~fitted["peer"].str.startswith("ours")]
    lines = []
    for metric, sign in (("balanced_accuracy", 1), ("macro_auroc", 1), ("log_loss", -1)):
        low, high = (sign * others[f"ours_less_{metric}{end}"] for end in ("_low", "_high"))
        low, high = (low, high) if sign > 0 else (high, low)
        names = others["peer"] + " (" + others["given"] + ")"
        worse = ", ".join(names[high < 0]) or "none"
        lines.append(
            f"- {metric.replace('_', ' ')}: our default is better than {int((low > 0).sum())} of "
            f"{len(others)} peers (95 % interval of the paired difference), worse than "
            f"{int((high < 0).sum())}: {worse}."
        )
    return "\n".join(lines)


PAGE = """# Against what users would pick instead

Made by `python -m benchmarks.peers`; all numbers are in [runs.csv](runs.csv). Same embeddings, same
rows; penalties and sizes are chosen by log-loss on folds of the training part; 95 % intervals
resample the test rows by lesion or case. Seconds: processor time of choosing and fitting, one
thread. "Concepts in use": columns whose weight is not zero, or that change a probability when
their values are shuffled. {machine}."""


def main(argv=None):
    """Run what has not been run, and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/peers"))
    parser.add_argument("--store", default="auto", help="folder of the embeddings")
    parser.add_argument("--generalist", default=DEMO[0])
    parser.add_argument("--specialist", default=DEMO[1])
    parser.add_argument("--datasets", nargs="+", default=NAMES, choices=NAMES)
    parser.add_argument("--weights", nargs="+", default=["none", "balanced"])
    parser.add_argument("--report", action="store_true", help="only report")
    options = parser.parse_args(argv)
    if not options.report:
        torch.set_num_threads(1)
        backbones = (options.generalist, options.specialist)
        with threadpool_limits(1):
            for name in options.datasets:
                problem = read_problem(name, options.data, backbones=backbones, store=options.store)
                for weights in options.weights:
                    run(problem, None if weights == "none" else weights, table(options.out))
    report(options.out)


if __name__ == "__main__":
    main()
