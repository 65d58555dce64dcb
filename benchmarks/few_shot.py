"""Few shots to all: the default mixture against its parts and against the recipe it came from.

    python -m benchmarks.few_shot --data $SKMOECBM_TEST_DATA --out benchmarks/results
    python -m benchmarks.few_shot --report --out benchmarks/results
    python -m benchmarks.few_shot --data ... --out ... --again singles  # or arms by name

Shots are drawn per class from the training part, 20 times; "all" is 80 % of its groups, 20 times.
The test part stays. All metrics weigh the classes equally, as the shots do, and so do the fits on
"all". Each data set and number of shots is one file, so that a run that was stopped goes on.

Differences are paired by draw. Their standard error is that of the corrected resampled t of Nadeau
and Bengio (2003), s^2 (1 / J + f / (1 - f)): two draws share a part f of the pool, which correlates
them. A second, stricter one adds that of the test rows: of the mean over draws of the per-row
difference, clustered by group. Tests for a gain take the second; one-sided t, Holm (1979) over the
data sets.
"""

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from benchmarks import _few_shot_data
from benchmarks._few_shot_report import report
from benchmarks.joint import PublishedSign
from skmoecbm import (
    ConceptBottleneckClassifier,
    GatedConceptBottleneckClassifier,
    JointTraining,
    LinearGate,
)

SHOTS = ("1", "2", "4", "8", "16", "50", "all")


def arms(problem, seed):
    """Yield the name of each arm, its classifier, and the expert it is given (None: all)."""
    head = ConceptBottleneckClassifier(**problem.head)
    for name in problem.X.expert_names:
        yield name, clone(head), name

    def mixture(gate="linear", head=head, **settings):
        return GatedConceptBottleneckClassifier(head, gate, random_state=seed, **settings)

    yield "average", mixture("uniform"), None
    yield "constant", mixture("constant", guard=False), None
    yield "no guard", mixture(LinearGate(), guard=False), None
    yield "default", mixture(), None
    yield "joint, published sign", mixture("mlp", training=PublishedSign()), None
    yield "joint, right sign", mixture("mlp", training=JointTraining()), None
    yield "joint, no entropy", mixture("mlp", training=JointTraining(gate_entropy=0.0)), None
    if problem.words:
        softmax = ConceptBottleneckClassifier(activation="softmax", **problem.head)
        original = mixture("mlp", softmax, training=PublishedSign())
        yield "joint, softmax, published sign", original, None


def draw(problem, shots, rng):
    """Return the rows of one draw, and the part of the pool that two such draws share."""
    pool, y = problem.pool, problem.y
    if shots == "all":
        groups = np.unique(problem.groups[pool])
        kept = rng.permutation(groups)[: int(0.8 * len(groups))]
        return pool[np.isin(problem.groups[pool], kept)], 0.8
    rows, shared = [], []
    for label in np.unique(y[pool]):
        mine = pool[y[pool] == label]
        count = min(int(shots), len(mine))
        rows.append(rng.permutation(mine)[:count])
        shared.append(count / len(mine))
    # A class that is drawn whole would leave the correction without a bound.
    return np.concatenate(rows), min(float(np.mean(shared)), 0.8)


def judge(problem, proba, classes):
    """Return the metrics, and per test row its part in balanced accuracy and in the loss.

    ECE: 15 bins of equal width on the largest probability, rows weighted as everywhere here.
    """
    y = problem.y[problem.test]
    codes = np.searchsorted(classes, y)
    counts = np.bincount(codes, minlength=len(classes))
    share = 1.0 / (len(classes) * counts[codes])  # sums to 1, each class the same
    predicted = proba.argmax(axis=1)
    right = (predicted == codes).astype(float)
    losses = -np.log(np.clip(proba[np.arange(len(y)), codes], 1e-15, None))
    confidence = proba.max(axis=1)
    bins = np.minimum((confidence * 15).astype(int), 14)
    gaps = [abs(share[bins == b] @ (right - confidence)[bins == b]) for b in range(15)]
    scores = {
        "balanced_accuracy": share @ right,
        "macro_auroc": np.mean([roc_auc_score(codes == k, proba[:, k]) for k in set(codes)]),
        "log_loss": share @ losses,
        "ece": sum(gaps),
    }
    if problem.ordinal:
        scores["quadratic_kappa"] = cohen_kappa_score(codes, predicted, weights="quadratic")
    n = len(y)
    return scores, np.stack([right * share * n, losses * share * n])


def run(problem, name, shots, n_draws, out, only=()):
    """Run one cell, all arms (or `only` some) on the same draws, and write it."""
    rows, per_row, began = [], {}, time.perf_counter()
    shared = 0.0
    for number in range(n_draws):
        rng = np.random.default_rng([number, SHOTS.index(shots)])
        train, shared = draw(problem, shots, rng)
        for arm, clf, expert in arms(problem, number):
            if only and arm not in only:
                continue
            if shots == "all":
                clf.set_params(class_weight="balanced")
            X = problem.X if expert is None else problem.X.select(expert)
            clock = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of folds that are too few, of steps
                clf.fit(X[train], problem.y[train], groups=problem.groups[train])
            seconds = time.perf_counter() - clock
            scores, parts = judge(problem, clf.predict_proba(X[problem.test]), clf.classes_)
            selected = getattr(clf, "selected_", "")
            told = {"dataset": name, "shots": shots, "draw": number, "arm": arm}
            rows.append({**told, **scores, "selected": selected, "seconds": seconds})
            per_row[arm] = per_row.get(arm, 0.0) + parts / n_draws
    table = pd.DataFrame(rows)
    stem = out / f"few_shot-{name}-{shots}"
    if only:
        table, per_row = _in_place(stem, table, per_row)
    np.savez_compressed(
        stem.with_suffix(".npz"),
        arms=np.array(list(per_row)),
        per_row=np.stack(list(per_row.values())).astype(np.float32),
        groups=problem.groups[problem.test],
        shared=shared,
    )
    table.to_csv(stem.with_suffix(".csv"), index=False, float_format="%.5f")
    mean = table.groupby("arm", sort=False)["balanced_accuracy"].mean().round(3).to_dict()
    print(f"{name} {shots} ({time.perf_counter() - began:.0f} s): {mean}", flush=True)


def _in_place(stem, table, per_row):
    """Put the arms that were run again in the place of the old ones of the cell."""
    stored = np.load(stem.with_suffix(".npz"))
    per_row = {**dict(zip(stored["arms"].tolist(), stored["per_row"], strict=True)), **per_row}
    old = pd.read_csv(stem.with_suffix(".csv"), dtype={"shots": str})
    kept = old[~old["arm"].isin(table["arm"])]
    order = {arm: number for number, arm in enumerate(dict.fromkeys(old["arm"]))}
    table = pd.concat([kept, table], ignore_index=True)
    return table.sort_values(
        "arm", key=lambda arms: arms.map(order), kind="stable", ignore_index=True
    ).sort_values("draw", kind="stable", ignore_index=True), per_row


def main(argv=None):
    """Run what has not been run, or report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--datasets", nargs="+", default=_few_shot_data.NAMES)
    parser.add_argument("--shots", nargs="+", default=SHOTS, choices=SHOTS)
    parser.add_argument("--again", nargs="+", default=(), metavar="ARM")
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args(argv)
    if options.report:
        report(options.out)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.datasets:
        problem = None
        for shots in options.shots:
            if options.again or not (options.out / f"few_shot-{name}-{shots}.csv").exists():
                problem = problem or _few_shot_data.read(name, options.data)
                only = options.again
                if only == ["singles"]:
                    only = problem.X.expert_names
                run(problem, name, shots, options.draws, options.out, only)


if __name__ == "__main__":
    main()
