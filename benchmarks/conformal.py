"""How often sets of classes hold the true one: drawn lesions, and photographs of real ones.

    python -m benchmarks.conformal --data $SKMOECBM_TEST_DATA

HAM10000 under the two demo experts and the bank "lesions", fitted on the training part of the
lesion-disjoint split; its validation part is cut into halves by lesion, 20 times: one calibrates
(`calibrate_sets(..., groups=lesion)`), of the other it is counted how often the true class is in
its set. The same on drawn lesions, of each of which there are one to four views (turned and
mirrored by quarters), fitted on few of them so that there is something to be unsure of.

Coverage is that of lesions, each of which counts once, which is what is promised; beside it that
of images. "Range" is over the halves. A promised coverage holds in the mean over them; one half of
n lesions is off by a standard deviation of about sqrt(c (1 - c) (2 / n)). "Or empty" is
`allow_empty=True`. Shown too: what calibrates on images as if each were a lesion of its own, and,
wrongly, on the training images.
"""

import argparse
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from threadpoolctl import threadpool_limits

from benchmarks.calibration import encoded
from skmoecbm import (
    ConceptEncoder,
    ExpertUnion,
    GatedConceptBottleneckClassifier,
    calibrate_sets,
    load_concepts,
)
from skmoecbm.datasets import make_lesions

# Below this many calibration lesions of a class a step of its coverage is more than two points.
MIN_LESIONS = 49


def drawn(n_train, n_lesions):
    """Return features, labels and lesions of drawn images, and how many are for training."""
    data, rng = make_lesions(n_train + n_lesions, random_state=5), np.random.default_rng(5)
    images, lesion = list(data.images[:n_train]), list(range(n_train))
    for number in range(n_train, n_train + n_lesions):
        for view in rng.permutation(8)[: rng.integers(1, 5)]:
            turned = np.rot90(data.images[number], view % 4)
            images.append(np.ascontiguousarray(turned[:, ::-1] if view > 3 else turned))
            lesion.append(number)
    bank = load_concepts("lesions")
    experts = [
        (name, ConceptEncoder(name, bank, cache_dir=None))
        for name in ("demo-general", "demo-structures")
    ]
    lesion = np.array(lesion)
    return ExpertUnion(experts).fit_transform(images), data.target[lesion], lesion, n_train


def halves(lesions, seed):
    """Return the rows of two random halves of the lesions."""
    order = np.random.default_rng(seed).permutation(np.unique(lesions))
    first = np.isin(lesions, order[: len(order) // 2])
    return np.flatnonzero(first), np.flatnonzero(~first)


def count(sets, y, lesions, classes):
    """Return coverage by lesion, by image and by class, and what the sets are like."""
    hit = sets[np.arange(len(y)), np.searchsorted(classes, y)]
    share = (
        1.0
        / np.unique(lesions, return_inverse=True, return_counts=True)[2][
            np.unique(lesions, return_inverse=True)[1]
        ]
    )
    size = sets.sum(axis=1)
    told = {
        "lesions": np.average(hit, weights=share),
        "images": hit.mean(),
        "size": np.average(size, weights=share),
        "single": np.average(size == 1, weights=share),
        "empty": np.average(size == 0, weights=share),
    }
    for label in classes:
        own = y == label
        told[label] = np.average(hit[own], weights=share[own]) if own.any() else np.nan
    return told


def arms(clf, X, y, lesions, train):
    """Yield the name of each arm, what calibrates on given rows, and whether sets may be empty."""

    def by_lesion(rows, **settings):
        return calibrate_sets(clf, X[rows], y[rows], groups=lesions[rows], **settings)

    for method in ("lac", "aps"):
        yield method, partial(by_lesion, method=method), False
        by_class = partial(by_lesion, method=method, class_conditional=True)
        yield f"{method}, by class", by_class, False
    yield "lac, or empty", by_lesion, True
    yield "lac, by class, or empty", partial(by_lesion, class_conditional=True), True
    yield "lac, each image counts", lambda rows: calibrate_sets(clf, X[rows], y[rows]), False
    wrong = by_lesion(train)
    yield "wrong: lac, training images", lambda rows: wrong, False


def run(name, X, y, lesions, train, held_out, coverages, n_resamples):
    """Print the table of one data set."""
    clf = GatedConceptBottleneckClassifier(random_state=0)
    clf.fit(X[train], y[train], groups=lesions[train])
    accuracy = (clf.predict(X[held_out]) == y[held_out]).mean()
    by_class = {
        label: len(np.unique(lesions[held_out][y[held_out] == label]))
        for label in clf.classes_.tolist()
    }
    print(f"\n{name}: {len(train):,} training images; {len(held_out):,} held out of")
    print(f"{len(np.unique(lesions[held_out])):,} lesions {by_class}; accuracy {accuracy:.3f}")
    frequent = [label for label in by_class if by_class[label] >= 2 * MIN_LESIONS]
    lines, classes = [], []
    for coverage in coverages:
        for arm, calibrate, allow_empty in arms(clf, X, y, lesions, train):
            found = []
            for seed in range(n_resamples):
                first, second = halves(lesions[held_out], seed)
                first, second = held_out[first], held_out[second]
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of rare classes that are in every set
                    sets = calibrate(first).predict_set(
                        X[second], coverage, allow_empty=allow_empty
                    )
                found.append(count(sets, y[second], lesions[second], clf.classes_))
            mean, table = pd.DataFrame(found).mean(), pd.DataFrame(found)
            lines.append(
                {
                    "coverage": coverage,
                    "arm": arm,
                    "lesions": f"{mean['lesions']:.3f}",
                    "range": f"{table['lesions'].min():.3f} to {table['lesions'].max():.3f}",
                    "images": f"{mean['images']:.3f}",
                    "mean size": f"{mean['size']:.2f}",
                    "single": f"{mean['single']:.2f}",
                    "empty": f"{mean['empty']:.2f}",
                    "mean of classes": f"{mean[clf.classes_].mean():.3f}",
                    "least class": f"{mean[clf.classes_].min():.3f}",
                    "furthest frequent": f"{np.abs(mean[frequent] - coverage).max():.3f}",
                }
            )
            classes.append({"coverage": coverage, "arm": arm, **mean[clf.classes_].round(3)})
    print(pd.DataFrame(lines).to_string(index=False))
    print(f"\nby class (frequent: {', '.join(frequent)})")
    print(pd.DataFrame(classes).to_string(index=False), flush=True)


def main(argv=None):
    """Print one table for each data set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--resamples", type=int, default=20)
    parser.add_argument("--coverages", type=float, nargs="+", default=[0.8, 0.9, 0.95])
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    with threadpool_limits(1):
        X, y, lesions, n_train = drawn(200, 3200)
        rows = np.arange(len(y))
        settings = (options.coverages, options.resamples)
        run("drawn lesions", X, y, lesions, rows[:n_train], rows[n_train:], *settings)
        if options.data is None:
            return
        X, table = encoded(options.data / "ham10000")
        y, lesions = table["dx"].to_numpy(dtype=str), pd.factorize(table["lesion_id"])[0]
        train = np.flatnonzero(table["split_lesion"] == "train")
        held_out = np.flatnonzero(table["split_lesion"] == "val")
        run("HAM10000", X, y, lesions, train, held_out, *settings)


if __name__ == "__main__":
    main()
