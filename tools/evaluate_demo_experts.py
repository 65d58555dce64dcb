"""Measure the shipped demonstration experts: on drawings, and on HAM10000 where it is at hand.

    python tools/evaluate_demo_experts.py                                  # drawings
    python tools/evaluate_demo_experts.py --ham10000 $SKMOECBM_TEST_DATA/ham10000 --resize crop

On photographs two controls stand beside the concepts: as many random unit vectors, and a logistic
regression on the raw embeddings. Nothing of the experts was chosen on the validation part.
"""

import argparse
import json
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skmoecbm.backbones import load_backbone
from skmoecbm.classifier import ConceptBottleneckClassifier, GatedConceptBottleneckClassifier
from skmoecbm.concepts import load_concepts
from skmoecbm.datasets import make_lesions
from skmoecbm.datasets._lesion_attributes import ATTRIBUTES
from skmoecbm.datasets._lesion_text import held_out_phrases, negate
from skmoecbm.encoder import ConceptEncoder, ExpertUnion
from skmoecbm.features import ExpertFeatures

EXPERTS = ("demo-general", "demo-structures")


def union(resize, cache_dir):
    """Return the two experts on their bank."""
    bank = load_concepts("lesions")
    return ExpertUnion(
        [(name, ConceptEncoder(name, bank, resize=resize, cache_dir=cache_dir)) for name in EXPERTS]
    )


def presence(seed, n=4000):
    """Return per expert a frame of zero-shot AUROCs on drawings with independent attributes."""
    data = make_lesions(n, mode="independent", random_state=seed)
    features = union("crop", None).fit_transform(data.images)
    rows = []
    for block in features.blocks:
        backbone = load_backbone(block.name)
        for name in block.concepts:
            truth = data.attributes[:, ATTRIBUTES.index(name)]
            own, absent = backbone.embed_texts([name, negate(name)])
            unseen = backbone.embed_texts(held_out_phrases(name))
            x = block.embeddings
            rows.append(
                {
                    "expert": block.name,
                    "concept": name,
                    "cosine": roc_auc_score(truth, x @ own),
                    "contrast": roc_auc_score(truth, x @ (own - absent)),
                    "held_out": np.mean([roc_auc_score(truth, x @ t) for t in unseen]),
                }
            )
    return pd.DataFrame(rows)


def _scores(classifier, train, y_train, test, y_test, **fit_parameters):
    classifier.fit(train, y_train, **fit_parameters)
    proba = classifier.predict_proba(test)
    auroc = [
        roc_auc_score(y_test == name, column)
        for name, column in zip(classifier.classes_, proba.T, strict=True)
    ]
    return {
        "balanced_accuracy": balanced_accuracy_score(
            y_test, classifier.classes_[proba.argmax(axis=1)]
        ),
        "macro_auroc": float(np.mean(auroc)),
    }


def compare(train, y_train, test, y_test, *, groups=None, class_weight="balanced", seed=0):
    """Return a frame of scores of single experts, mixtures and controls.

    `groups` keep the images of one lesion in one fold, where a fit makes folds.
    """
    kwargs = {"class_weight": class_weight, "random_state": seed}
    rows = {}
    for name in train.expert_names:
        rows[name] = _scores(
            ConceptBottleneckClassifier(**kwargs),
            train.select([name]),
            y_train,
            test.select([name]),
            y_test,
            groups=groups,
        )
    mixtures = {"average": "uniform", "gate": "linear"}
    for label, gate in mixtures.items():
        model = GatedConceptBottleneckClassifier(gate=gate, **kwargs)
        rows[label] = _scores(model, train, y_train, test, y_test, groups=groups)
    raw = [np.hstack([block.embeddings for block in part.blocks]) for part in (train, test)]
    rows["raw embeddings"] = _scores(_logistic(class_weight), raw[0], y_train, raw[1], y_test)
    flat = [np.asarray(part) for part in (train, test)]
    rows["logistic on concepts"] = _scores(
        _logistic(class_weight), flat[0], y_train, flat[1], y_test
    )
    controls = []
    for draw in range(3):
        rng = np.random.RandomState(1000 + seed + draw)
        vectors = [rng.normal(size=block.texts.shape) for block in train.blocks]
        parts = [
            ExpertFeatures.from_embeddings(
                {
                    block.name: (block.embeddings, vector, [f"r{i}" for i in range(len(vector))])
                    for block, vector in zip(part.blocks, vectors, strict=True)
                }
            )
            for part in (train, test)
        ]
        model = GatedConceptBottleneckClassifier(**kwargs)
        controls.append(_scores(model, parts[0], y_train, parts[1], y_test, groups=groups))
    rows["random vectors"] = pd.DataFrame(controls).mean().to_dict()
    return pd.DataFrame(rows).T


def _logistic(class_weight):
    return make_pipeline(
        StandardScaler(), LogisticRegression(max_iter=2000, class_weight=class_weight)
    )


def drawings(seed):
    """Compare on 2,000 drawings of the seven classes, tested on 2,000 others."""
    data = make_lesions(4000, random_state=seed)
    features = union("crop", None).fit_transform(data.images)
    cut = slice(None, 2000), slice(2000, None)
    return compare(
        features[cut[0]],
        data.target[cut[0]],
        features[cut[1]],
        data.target[cut[1]],
        class_weight=None,
    )


def photographs(folder, resize, seed, cache_dir):
    """Compare on HAM10000, train -> val of the lesion-disjoint split."""
    table = pd.read_csv(folder / "metadata.csv")
    paths = {path.stem: str(path) for path in sorted(folder.rglob("*.jpg"))}
    files = [paths[name] for name in table["image_id"]]
    features = union(resize, cache_dir).fit_transform(files)
    y = table["dx"].to_numpy(dtype=str)
    train = np.flatnonzero(table["split_lesion"] == "train")
    test = np.flatnonzero(table["split_lesion"] == "val")
    lesions = table["lesion_id"].to_numpy(dtype=str)
    return compare(
        features[train], y[train], features[test], y[test], groups=lesions[train], seed=seed
    )


def main():
    """Print what was asked for as tables, and write JSON with `--out`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ham10000", type=Path)
    parser.add_argument("--resize", default="crop")
    parser.add_argument("--cache-dir", help="keep embeddings of photographs here")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    result = {}
    if args.ham10000 is None:
        runs = [presence(seed) for seed in range(5000, 5000 + args.seeds)]
        means = np.array([run.groupby("expert")[["cosine", "held_out"]].mean() for run in runs])
        table = pd.concat(runs).groupby(["expert", "concept"], sort=False).mean()
        print(table.round(3).to_string())
        print(table.groupby("expert").mean().round(3).to_string())
        print("standard deviation of the means over seeds:", means.std(0).round(4).tolist())
        runs = [drawings(seed) for seed in range(6000, 6000 + args.seeds)]
        both = pd.concat(runs).groupby(level=0, sort=False)
        classes = both.mean().join(both.std(), rsuffix="_sd")
        print(classes.round(3).to_string())
        result = {"presence": table.reset_index().to_dict("records"), "classes": classes.to_dict()}
    else:
        table = photographs(args.ham10000, args.resize, 0, args.cache_dir)
        print(f"resize={args.resize}\n{table.round(4).to_string()}")
        result = {"resize": args.resize, "photographs": table.to_dict()}
    if args.out is not None:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
