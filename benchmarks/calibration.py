"""What calibration and class weights do to probabilities, on real photographs of skin lesions.

    python -m benchmarks.calibration --data $SKMOECBM_TEST_DATA

HAM10000 under the two demo experts and the bank "lesions", fitted on the training part of the
lesion-disjoint split and scored on its validation part: expected calibration error (15 bins),
Brier score (0 to 2) and log-loss, without and with temperatures (`calibrate`), with balanced class
weights, and with these put back by ``target_prevalence="train"``. The same from fewer training
rows, whole lesions drawn at random: there a model is surest where it should not be. Intervals are
95 % over lesions. One thread.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from threadpoolctl import threadpool_limits

from skmoecbm import (
    ConceptEncoder,
    ExpertUnion,
    GatedConceptBottleneckClassifier,
    evaluate,
    load_concepts,
)

METRICS = ["ece", "brier", "log_loss", "balanced_accuracy", "macro_auroc"]


def encoded(folder):
    """Return features of both experts and the table of the images."""
    table = pd.read_csv(folder / "metadata.csv")
    files = {path.stem: str(path) for path in sorted(folder.rglob("*.jpg"))}
    paths = [files[name] for name in table["image_id"]]
    bank = load_concepts("lesions")
    experts = [(name, ConceptEncoder(name, bank)) for name in ("demo-general", "demo-structures")]
    return ExpertUnion(experts).fit(paths).transform(paths), table


def part_of(table, n_rows, seed):
    """Return training rows: all of them, or whole lesions until there are so many."""
    rows = np.flatnonzero(table["split_lesion"] == "train")
    if n_rows is None:
        return rows
    lesions = table["lesion_id"].iloc[rows]
    order = np.random.default_rng(seed).permutation(lesions.unique())
    rank = lesions.map({lesion: i for i, lesion in enumerate(order)}).to_numpy()
    return np.sort(rows[np.argsort(rank, kind="stable")[:n_rows]])


def arms(X, y, groups):
    """Yield the name of each arm and its fitted classifier."""
    for weighting in (None, "balanced"):
        for calibrate in (False, True):
            clf = GatedConceptBottleneckClassifier(
                calibrate=calibrate, class_weight=weighting, random_state=0
            ).fit(X, y, groups=groups)
            name = f"{weighting or 'unweighted'}, {'calibrated' if calibrate else 'as it comes'}"
            yield name, clf
            if weighting:
                yield f"{name}, put back", clf.set_params(target_prevalence="train")


def main(argv=None):
    """Print one table for each number of training rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, nargs="*", default=[200, 1000])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    with threadpool_limits(1):
        X, table = encoded(options.data / "ham10000")
        y, lesions = table["dx"].to_numpy(dtype=str), table["lesion_id"].to_numpy()
        test = np.flatnonzero(table["split_lesion"] == "val")
        for n_rows in (*options.rows, None):
            train = part_of(table, n_rows, options.seed)
            rows = []
            for name, clf in arms(X[train], y[train], lesions[train]):
                result = evaluate(clf, X[test], y[test], groups=lesions[test], random_state=0)
                told = [
                    f"{v.value:.3f} [{v.low:.3f}, {v.high:.3f}]"
                    for v in (result[metric] for metric in METRICS)
                ]
                scales = np.round([clf.pool_scale_[-1], *clf.expert_scale_], 2).tolist()
                rows.append([name, *told, clf.selected_, scales])
            print(f"{len(train):,} training rows, {len(test):,} scored")
            columns = ["arm", *METRICS, "selected", "scales (pool, experts)"]
            print(pd.DataFrame(rows, columns=columns).to_string(index=False), flush=True)


if __name__ == "__main__":
    main()
