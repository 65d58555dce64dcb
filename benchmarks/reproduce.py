r"""The tables of the sources, run again: variants, shots, both splits, with intervals.

    python -m benchmarks.reproduce --data $SKMOECBM_TEST_DATA
    python -m benchmarks.reproduce --report
    python -m benchmarks.reproduce --data DATA --out OUT --generalist ViT-B-16/openai \
        --specialist hf-hub:microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224 \
        --large ViT-L-14/openai

Each data set and split is a table of runs (one row per variant and draw), one of paired differences
and one of which expert speaks on which class. Whatever stands there is not run again. `--report`
makes of them `README.md` and `figure.png`.

Shots are rows per class, drawn from the training part, 20 times; every variant gets the same rows.
"all" is the training part as it is, as the published numbers have it; "all, balanced" weighs the
classes equally in the fit. The test part stays and nothing is chosen on it. Intervals resample
the test rows by lesion.
"""

import argparse
import re
import time
import warnings
from pathlib import Path

import numpy as np

from benchmarks import _reproduce_report
from benchmarks._experiment_data import DEMO, SPLITS, Photographs, bank_of, photographs, read
from benchmarks._experiment_runs import (
    METRICS,
    GrowingTable,
    difference,
    draw,
    measured,
    row_of,
)
from benchmarks._variants import COMPARISONS, LARGE, large, lists, variants
from skmoecbm import (
    ConceptBottleneckClassifier,
    GatedConceptBottleneckClassifier,
    LinearGate,
    global_explanation,
)
from skmoecbm.exceptions import BackboneError

SHOTS = ("1", "2", "4", "8", "16", "all", "all, balanced")
# COVID-QU-Ex must be fetched by hand, and asked for by its name, covid_radiography.
DEFAULT = ("ham10000", "retinamnist")
# Lists of concepts are compared at these, on the first split of a data set.
LISTS_AT = ("1", "4", "16", "all", "all, balanced")
# Resamples of the test rows; over many draws the error of few of them averages out.
RESAMPLES, RESAMPLES_OF_ALL = 100, 1000
KEY = ("experts", "dataset", "split", "shots", "draw", "variant")
BOUNDS = [f"{metric}{end}" for metric in METRICS for end in ("", "_low", "_high")]
PAIRED = ("balanced_accuracy", "macro_auroc", "log_loss")
DIFFERENCES = [f"{metric}{end}" for metric in PAIRED for end in ("", "_se")]
OF_CLASS = ("experts", "dataset", "split", "shots", "class")
USAGE = ("weight", "low", "high", "difference", "p_value", "p_adjusted")
SPLIT = ("experts", "dataset", "split", "train_rows", "test_rows")
SPLIT += ("concepts", "written_for_the_classes", "note")
OVERALL = ("p_overall", "spearman", "spearman_p_value")


def tables(out, experiment):
    """Return the tables of runs, paired differences and classes of one data set and split."""
    stem = f"{experiment.name}-{experiment.split}"
    return (
        GrowingTable(out / f"runs-{stem}.csv", [*KEY, *BOUNDS, "selected", "seconds", "note"], KEY),
        GrowingTable(
            out / f"pairs-{stem}.csv",
            [*KEY[:-1], "question", "first", "second", *DIFFERENCES],
            [*KEY[:-1], "first", "second"],
        ),
        GrowingTable(
            out / f"classes-{stem}.csv",
            [*OF_CLASS, "train_rows", "test_rows", *USAGE, *OVERALL],
            OF_CLASS,
        ),
    )


def facts(experiment):
    """Return what a reader should know of a data set and split."""
    return {
        "train_rows": len(experiment.train),
        "test_rows": len(experiment.test),
        "concepts": " and ".join(str(len(block.concepts)) for block in experiment.X.blocks),
        "written_for_the_classes": "yes" if experiment.words else "no",
        "note": experiment.note,
    }


def run_draw(experiment, shots, number, told, found, n_bootstrap):
    """Fit all variants on one draw and write what they score."""
    runs, pairs, _ = found
    rows = draw(experiment.y, experiment.train, shots, number)
    weights = "balanced" if shots == "all, balanced" else None
    cell = {**told, "shots": shots, "draw": number}
    if {**cell, "variant": "linear probe, both"} in runs:
        return
    began, written, evaluations = time.perf_counter(), [], {}
    y, groups, test = experiment.y, experiment.groups, experiment.test
    with_lists = shots in LISTS_AT and experiment.split == SPLITS[experiment.name][0]
    for make in (variants, lists)[: 1 + with_lists]:
        for name, clf, X in make(experiment, rows, number, weights=weights):
            own = isinstance(clf, ConceptBottleneckClassifier | GatedConceptBottleneckClassifier)
            clock = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of folds that are too few, of steps
                clf.fit(X[rows], y[rows], **({"groups": groups[rows]} if own else {}))
            seconds = time.perf_counter() - clock
            evaluations[name] = measured(
                clf.predict_proba(X[test]), clf.classes_, y[test], groups[test], n_bootstrap
            )
            selected = getattr(clf, "selected_", "")
            told_of_run = {"variant": name, "selected": selected, "seconds": seconds}
            written.append({**cell, **told_of_run, **row_of(evaluations[name])})
    pairs.add(
        {
            **cell,
            "question": question,
            "first": first,
            "second": second,
            **difference(evaluations[first], evaluations[second], PAIRED),
        }
        for question, both in COMPARISONS.items()
        for first, second in both
        if first in evaluations
    )
    runs.add(written)
    spent = time.perf_counter() - began
    scores = {n: round(e["balanced_accuracy"].value, 3) for n, e in evaluations.items()}
    print(
        f"{told['dataset']} {told['split']} {shots} {number} ({spent:.0f} s): {scores}", flush=True
    )


def run_classes(experiment, told, table, n_permutations=2000):
    """Fit the learned gate on all training rows and write whom it trusts on which class."""
    y, groups, train, test = (
        experiment.y,
        experiment.groups,
        experiment.train,
        experiment.test,
    )
    cell = {**told, "shots": "all"}
    if any({**cell, "class": label} in table for label in np.unique(y)):
        return
    head = ConceptBottleneckClassifier(**({} if experiment.words else {"prior": None}))
    clf = GatedConceptBottleneckClassifier(head, LinearGate(), guard=False, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        clf.fit(experiment.X[train], y[train], groups=groups[train])
        found = global_explanation(
            clf,
            experiment.X[test],
            y[test],
            groups=groups[test],
            n_permutations=n_permutations,
            random_state=0,
        )
    usage = found.usage[found.usage.expert == "specialist"]
    order = found.frequency.set_index("expert").loc["specialist"]
    told_of_all = {
        "p_overall": found.p_overall,
        "spearman": order["spearman"],
        "spearman_p_value": order["p_value"],
    }
    table.add(
        {
            **cell,
            "class": line["class"],
            "train_rows": int((y[train] == line["class"]).sum()),
            "test_rows": int(line["support"]),
            **{name: line[name] for name in USAGE},
            **told_of_all,
        }
        for _, line in usage.iterrows()
    )


def run_large(experiment, name, options, told, runs):
    """Run a larger generalist alone on all rows, or write why it was not run.

    Where it was not, it is tried again: another machine may have a network.
    """
    cell = {**told, "shots": "all", "draw": 0, "variant": LARGE}
    if cell in runs:
        found = runs.read()
        if found[found["variant"] == LARGE]["accuracy"].notna().all():
            return
        runs.drop(cell)
    photos: Photographs = photographs(experiment.name, options.data)
    try:
        bank = bank_of(experiment.name, [name], options.concepts)
        X = large(experiment, photos.images, name, bank, options.store)
    except BackboneError as error:
        reason = re.split(r"\.\s", " ".join(str(error).split()))[0]
        runs.add([{**cell, "note": f"skipped: {reason}"}])
        return
    train, test, y, groups = experiment.train, experiment.test, experiment.y, experiment.groups
    clock = time.perf_counter()
    clf = ConceptBottleneckClassifier().fit(X[train], y[train], groups=groups[train])
    seconds = time.perf_counter() - clock
    found = measured(clf.predict_proba(X[test]), clf.classes_, y[test], groups[test], 1000)
    runs.add([{**cell, "seconds": seconds, "note": name, **row_of(found)}])


def main(argv=None):
    """Run what has not been run, or report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/reproduce"))
    parser.add_argument("--store", default="auto", help="folder of the embeddings")
    parser.add_argument("--generalist", default=DEMO[0])
    parser.add_argument("--specialist", default=DEMO[1])
    parser.add_argument("--large", default="ViT-L-14/openai", help="a larger generalist")
    parser.add_argument("--concepts", help="a bundled bank or a file; else the data set's own")
    parser.add_argument("--datasets", nargs="+", default=DEFAULT, choices=list(SPLITS))
    parser.add_argument("--splits", nargs="+")
    parser.add_argument("--shots", nargs="+", default=SHOTS, choices=SHOTS)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args(argv)
    if options.report:
        _reproduce_report.report(options.out)
        return
    backbones = (options.generalist, options.specialist)
    for name in options.datasets:
        for split in options.splits or SPLITS[name]:
            if split not in SPLITS[name]:
                continue
            experiment = read(
                name,
                split,
                options.data,
                backbones=backbones,
                store=options.store,
                concepts=options.concepts,
            )
            told = {"experts": " + ".join(backbones), "dataset": name, "split": split}
            found = tables(options.out, experiment)
            splits = GrowingTable(options.out / "splits.csv", SPLIT, SPLIT[:3])
            splits.add([{**told, **facts(experiment)}])
            for number in range(options.draws):
                for shots in options.shots:
                    if shots.startswith("all") and number:
                        continue
                    whole = shots.startswith("all")
                    n_bootstrap = RESAMPLES_OF_ALL if whole else RESAMPLES
                    run_draw(experiment, shots, number, told, found, n_bootstrap)
                if number == 0:
                    run_classes(experiment, told, found[2])
                    run_large(experiment, options.large, options, told, found[0])


if __name__ == "__main__":
    main()
