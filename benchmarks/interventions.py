"""Do corrected concepts help: intervention curves on lesions of known truth and on real images.

    python -m benchmarks.interventions --data $SKMOECBM_TEST_DATA

Synthetic lesions: a mixture of the two demo experts on the words of their bank, put right by the
attributes that were drawn. HAM10000 (where --data is given): melanoma against nevus, concepts
learned from the annotations of the training part (of the lesion-disjoint split) under each demo
expert, a classifier on those; put right by the annotations of the validation part. Beside each
curve the same with the annotations of another image, which must not help: the gain that is left
is due to their truth. Gains are from 0 to all annotated concepts, with 95 % intervals from a
bootstrap over lesions, for three pairs of values that absent and present stand for.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score

from skmoecbm import (
    ConceptEncoder,
    ExpertFeatures,
    ExpertUnion,
    GatedConceptBottleneckClassifier,
    fit_concept_vectors,
    intervention_curve,
    load_concepts,
)
from skmoecbm.datasets import make_lesions

EXPERTS = ("demo-general", "demo-structures")
VALUES = (("absent", "present"), ("p25", "p75"), ("p0", "p100"))


def report(title, model, X, y, annotations, groups):
    """Print one curve in full, and the gain under each pair of values, true and shuffled."""
    other = annotations.sample(frac=1, random_state=0).set_axis(annotations.index)
    print(f"\n{title}: {len(y)} images, {annotations.shape[1]} concepts, model {model.selected_}")
    rows = []
    for values in VALUES:
        for kind, truth in (("true", annotations), ("of another image", other)):
            curve = intervention_curve(model, X, y, truth, values=values, random_state=0)
            if values == VALUES[0]:
                print(f"annotations {kind}")
                table = curve.to_frame()
                table = table.pivot(
                    index="n_corrected", columns="policy", values="balanced_accuracy"
                )
                print(table.round(3).to_string())
            run = curve.predicted["contribution"][0]
            before, first, after = curve.balanced_accuracy["contribution"][0, [0, 1, -1]]
            low, high = interval(y, run[0], run[-1], groups)
            rows.append((*values, kind, before, after, after - before, low, high, first - before))
    columns = ["absent", "present", "annotations", "before", "all", "gain", "low", "high"]
    print(pd.DataFrame(rows, columns=[*columns, "gain of one"]).round(3).to_string(index=False))


def interval(y, before, after, groups, n_bootstrap=500):
    """Return a 95 % interval of the gain in balanced accuracy, over resampled groups."""
    rng, codes = np.random.default_rng(0), np.unique(groups, return_inverse=True)[1]
    n_groups = codes.max() + 1
    gain, classes = (after == y).astype(float) - (before == y), np.unique(y)
    gains = []
    for _ in range(n_bootstrap):
        drawn = rng.integers(0, n_groups, n_groups)
        weights = np.bincount(drawn, minlength=n_groups)[codes].astype(float)
        masses = [weights * (y == label) for label in classes]
        gains.append(np.mean([mass @ gain / mass.sum() for mass in masses if mass.any()]))
    return np.percentile(gains, [2.5, 97.5])


def lesions():
    """Synthetic lesions: the words of the bank that name an attribute, put right by it."""
    data = make_lesions(3000, random_state=0)
    bank = load_concepts("lesions")
    union = ExpertUnion([(name, ConceptEncoder(name, bank, cache_dir=None)) for name in EXPERTS])
    X, y = union.fit_transform(data.images), np.asarray(data.target)
    train, test = np.arange(2000), np.arange(2000, 3000)
    truth = pd.DataFrame(data.attributes, columns=list(data.attribute_names)).astype(float)
    known = [name for name in truth if any(name in block.concepts for block in X.blocks)]
    print(f"{len(known)} of {truth.shape[1]} attributes are concepts: {', '.join(known)}")
    ceiling = LogisticRegression(max_iter=1000).fit(truth.iloc[train], y[train])
    score = balanced_accuracy_score(y[test], ceiling.predict(truth.iloc[test]))
    print(f"a logistic regression on the true attributes: balanced accuracy {score:.3f}")
    model = GatedConceptBottleneckClassifier(class_weight="balanced", random_state=0)
    model.fit(X[train], y[train])
    annotated = truth[known].iloc[test].reset_index(drop=True)
    report("synthetic lesions", model, X[test], y[test], annotated, test)


def ham10000(folder):
    """Annotated images of HAM10000: learned concepts, put right by the annotations."""
    folder = folder / "ham10000"
    table = pd.read_csv(folder / "dermoscopic_concepts.csv")
    parts = pd.read_csv(folder / "metadata.csv").set_index("image_id")
    table = table[table["image_id"].isin(parts.index)].reset_index(drop=True)
    paths = {path.stem: str(path) for path in sorted(folder.rglob("*.jpg"))}
    files = [paths[name] for name in table["image_id"]]
    split = parts.loc[table["image_id"], "split_lesion"].to_numpy()
    lesion, y = table["lesion_id"].to_numpy(dtype=str), table["dx"].to_numpy(dtype=str)
    annotations = table[table.columns[4:-1]].astype(float)
    train, test = np.flatnonzero(split == "train"), np.flatnonzero(split == "val")
    experts, kept = {}, None
    for name in EXPERTS:
        encoder = ConceptEncoder(name, "lesions", cache_dir=None)
        block = encoder.fit_transform(files).blocks[0]
        vectors = fit_concept_vectors(
            None, ExpertFeatures([block])[train], annotations.iloc[train], groups=lesion[train]
        )
        experts[name] = (block.embeddings, vectors.vectors, list(vectors.names))
        kept = set(vectors.names) if kept is None else kept | set(vectors.names)
    X = ExpertFeatures.from_embeddings(experts)
    known = [name for name in annotations if name in kept]
    truth = annotations[known]
    ceiling = LogisticRegression(max_iter=1000, class_weight="balanced")
    ceiling.fit(truth.iloc[train], y[train])
    score = balanced_accuracy_score(y[test], ceiling.predict(truth.iloc[test]))
    print(
        f"\nHAM10000, {len(train)} images to fit; a logistic regression on the annotations alone: "
    )
    print(f"balanced accuracy {score:.3f}")
    model = GatedConceptBottleneckClassifier(class_weight="balanced", random_state=0)
    model.fit(X[train], y[train], groups=lesion[train])
    annotated = truth.iloc[test].reset_index(drop=True)
    report("HAM10000, melanoma against nevus", model, X[test], y[test], annotated, lesion[test])


def main(argv=None):
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    options = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    lesions()
    if options.data is not None:
        ham10000(options.data)


if __name__ == "__main__":
    main()
