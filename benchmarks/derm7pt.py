r"""derm7pt under MONET: melanoma or nevus by ten concepts and 49 phrases, against what costs less.

    python -m benchmarks.derm7pt --data $SKMOECBM_TEST_DATA
    python -m benchmarks.derm7pt --report

Embeddings of 827 dermoscopic images under a real medical image-text model. The parts are those of
the file (the data set's own); fits see the training part alone, the test part judges, the
validation part is not used. Beside the concepts stand as many random directions, other ones in
each draw, a linear probe on the embedding, whose penalty is chosen on training folds, and the
zero-shot classifier: softmax of 100 times the cosines with the two class names.

`--report` makes README.md and figure.png of runs.csv.
"""

import argparse
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks._derm7pt_report import PAIRED, PROBE, SHOTS, ZERO, report
from benchmarks._experiment_runs import (
    METRICS,
    GrowingTable,
    difference,
    draw,
    measured,
    probe,
    row_of,
)
from skmoecbm import (
    ConceptBottleneckClassifier,
    ExpertFeatures,
    GatedConceptBottleneckClassifier,
)

__all__ = ["Derm7pt", "main", "read"]

KEY = ("shots", "draw", "variant")
PAIRS = (
    ("10 concepts", "10 random directions"),
    ("49 phrases", "49 random directions"),
    ("10 concepts", PROBE),
    ("49 phrases", PROBE),
    ("concepts and phrases, gate", PROBE),
    ("49 phrases, prior of class names", ZERO),
)


@dataclass
class Derm7pt:
    """What the file holds, as this benchmark uses it."""

    X: np.ndarray
    y: np.ndarray
    groups: np.ndarray
    train: np.ndarray
    test: np.ndarray
    class_names: list
    class_texts: np.ndarray
    texts: dict  # expert -> (m, d)
    names: dict  # expert -> m names

    def features(self, *experts):
        """Return features of the experts named."""
        return ExpertFeatures.from_embeddings(
            {name: (self.X, self.texts[name], self.names[name]) for name in experts},
            class_keys=self.class_names,
            class_embeddings=self.class_texts,
        )

    def random(self, n, seed):
        """Return features of `n` directions without meaning."""
        directions = np.random.default_rng([n, seed]).normal(size=(n, self.X.shape[1]))
        names = [f"direction {j}" for j in range(n)]
        return ExpertFeatures.from_embeddings({"random": (self.X, directions, names)})


def read(data):
    """Return the `Derm7pt` of the folder of the real data sets."""
    stored = np.load(Path(data) / "embeddings" / "derm7pt_monet.npz")
    classes = [str(name) for name in stored["classes"]]
    concepts = [str(name) for name in stored["concepts"]]
    of_phrase = [concepts[j] for j in stored["txt_detail_concept_idx"]]
    phrases = [f"{name} {of_phrase[: j + 1].count(name)}" for j, name in enumerate(of_phrase)]
    # "Aal002bis" is a second picture of case "Aal002"
    cases = [str(name).removesuffix("bis") for name in stored["ids"]]
    return Derm7pt(
        X=stored["X_monet"].astype(np.float32),
        y=np.array(classes)[stored["y"]],
        groups=np.unique(cases, return_inverse=True)[1],
        train=np.flatnonzero(stored["split"] == "train"),
        test=np.flatnonzero(stored["split"] == "test"),
        class_names=classes,
        class_texts=stored["txt_class_monet"].astype(np.float32),
        texts={
            "concepts": stored["txt_concept_monet"].astype(np.float32),
            "phrases": stored["txt_detail_monet"].astype(np.float32),
        },
        names={"concepts": concepts, "phrases": phrases},
    )


def zero_shot(data, rows):
    """Return the probabilities of the class names, columns in the order of the sorted classes."""
    unit = data.X[rows] / np.linalg.norm(data.X[rows], axis=1, keepdims=True)
    texts = data.class_texts / np.linalg.norm(data.class_texts, axis=1, keepdims=True)
    logits = 100 * unit @ texts[np.argsort(data.class_names)].T
    logits -= logits.max(axis=1, keepdims=True)
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def variants(data, rows, seed):
    """Yield (name, classifier, its input)."""
    head = ConceptBottleneckClassifier
    for name, expert in (("10 concepts", "concepts"), ("49 phrases", "phrases")):
        yield name, head(prior=None), data.features(expert)
        yield f"{name}, prior of class names", head(prior="class_name"), data.features(expert)
    both = data.features("concepts", "phrases")
    for name, gate in (("average", "uniform"), ("gate", "linear")):
        mixture = GatedConceptBottleneckClassifier(head(prior=None), gate, random_state=seed)
        yield f"concepts and phrases, {name}", mixture, both
    for n in (10, 49):
        yield f"{n} random directions", head(prior=None), data.random(n, seed)
    yield PROBE, probe(data.y[rows], data.groups[rows]), data.X


def tables(out):
    """Return the tables of runs and of paired differences."""
    bounds = [f"{metric}{end}" for metric in METRICS for end in ("", "_low", "_high")]
    differences = [f"{metric}{end}" for metric in PAIRED for end in ("", "_se")]
    pair = ("shots", "draw", "first", "second")
    return (
        GrowingTable(out / "runs.csv", [*KEY, *bounds, "seconds"], KEY),
        GrowingTable(out / "pairs.csv", [*pair, *differences], pair),
    )


def run(data, shots, number, runs, pairs):
    """Fit every variant on one draw and write what it scores and how it differs from others.

    Of "all" there is one draw of rows: what later ones vary is the random directions.
    """
    rows = draw(data.y, data.train, shots, number)
    cell = {"shots": shots, "draw": number}
    if {**cell, "variant": "49 random directions"} in runs:
        return
    y, groups = data.y[data.test], data.groups[data.test]
    n_bootstrap = 1000 if shots == "all" else 200
    classes = np.sort(data.class_names)
    evaluations = {ZERO: measured(zero_shot(data, data.test), classes, y, groups, n_bootstrap)}
    written = [{**cell, "variant": ZERO, **row_of(evaluations[ZERO])}]
    for name, clf, X in variants(data, rows, number):
        own = name != PROBE
        clock = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of folds that are too few
            clf.fit(X[rows], data.y[rows], **({"groups": data.groups[rows]} if own else {}))
        seconds = time.perf_counter() - clock
        found = measured(clf.predict_proba(X[data.test]), clf.classes_, y, groups, n_bootstrap)
        evaluations[name] = found
        written.append({**cell, "variant": name, "seconds": seconds, **row_of(found)})
    pairs.add(
        {
            **cell,
            "first": first,
            "second": second,
            **difference(evaluations[first], evaluations[second], PAIRED),
        }
        for first, second in PAIRS
    )
    again = shots == "all" and number
    runs.add(row for row in written if not again or "random" in row["variant"])
    auroc = {name: round(e["macro_auroc"].value, 3) for name, e in evaluations.items()}
    print(f"{shots} {number}: {auroc}", flush=True)


def main(argv=None):
    """Run what has not been run, and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/derm7pt"))
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--shots", nargs="+", default=SHOTS, choices=SHOTS)
    parser.add_argument("--report", action="store_true", help="only report")
    options = parser.parse_args(argv)
    if not options.report:
        data = read(options.data)
        for shots in options.shots:
            for number in range(options.draws):
                run(data, shots, number, *tables(options.out))
    report(options.out, *(table.read() for table in tables(options.out)))


if __name__ == "__main__":
    main()
