"""Many labels on real chest films: each expert, their average, the default, and the published way.

    python -m benchmarks.many_labels --data $SKMOECBM_TEST_DATA

706 films of NIH ChestX-ray14 at 64 x 64 under the two demo experts, which know no word of X-rays:
their lexicon serves as generic directions, so ``prior=None``. Patients never straddle the parts.
Macro-AUROC over the labels that both parts have with and without; the loss is the mean over labels.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupShuffleSplit
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skmoecbm import (
    ConceptBottleneckClassifier,
    ConceptEncoder,
    ExpertUnion,
    GatedConceptBottleneckClassifier,
    load_concepts,
)


def encoded(folder):
    """Return features of both experts, the indicator as a DataFrame, and the patients."""
    table = pd.read_csv(folder / "labels.csv")
    names = table.columns[6:20]
    paths = [folder / "images" / name for name in table["image"]]
    bank = load_concepts("lesions")
    experts = [(n, ConceptEncoder(n, bank)) for n in ("demo-general", "demo-structures")]
    return ExpertUnion(experts).fit(paths).transform(paths), table[names], table["patient"]


def arms(random_state):
    """Yield the name of each arm, its classifier, and the expert it is given (None: all)."""
    head = ConceptBottleneckClassifier(prior=None)
    for name in ("demo-general", "demo-structures"):
        yield name, ConceptBottleneckClassifier(prior=None), name
    settings = {"random_state": random_state}
    yield "average", GatedConceptBottleneckClassifier(head, "uniform", **settings), None
    yield "default", GatedConceptBottleneckClassifier(head, **settings), None
    yield "no guard", GatedConceptBottleneckClassifier(head, guard=False, **settings), None
    balanced = GatedConceptBottleneckClassifier(head, class_weight="balanced", **settings)
    yield "balanced", balanced, None
    back = GatedConceptBottleneckClassifier(
        head, class_weight="balanced", target_prevalence="train", **settings
    )
    yield "balanced, put back", back, None


def scores(truth, p):
    """Return macro-AUROC over the labels that can have one, and the mean log-loss per cell."""
    both = (truth.min(0) == 0) & (truth.max(0) == 1)
    p = np.clip(p, 1e-12, 1 - 1e-12)
    loss = -(truth * np.log(p) + (1 - truth) * np.log(1 - p)).mean()
    return roc_auc_score(truth[:, both], p[:, both], average="macro"), loss


def published(features, Y, train, steps=300, learning_rate=0.02):
    """Return the training losses of 100 x cosine x softmax(A) under BCE, first and last."""
    block = features.select("demo-general")
    D = torch.tensor(np.asarray(block, dtype=np.float64)[train])
    targets = torch.tensor(Y[train], dtype=torch.float64)
    matrix = torch.zeros(Y.shape[1], D.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([matrix], lr=learning_rate)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        logits = 100 * D @ torch.softmax(matrix, dim=1).T
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
    return losses[0], losses[-1]


def main(argv=None):
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--splits", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args(argv)
    features, labels, patients = encoded(options.data / "chestxray14_1000")
    Y = labels.to_numpy()
    splitter = GroupShuffleSplit(options.splits, test_size=0.3, random_state=0)
    rows = []
    for number, (train, test) in enumerate(splitter.split(Y, Y, patients)):
        # Only labels that some training row has can be learned.
        kept = Y[train].max(0) == 1
        truth, mine = Y[test][:, kept], labels.iloc[train].loc[:, kept]
        for seed in range(options.seeds):
            for name, clf, expert in arms(seed):
                if seed and name in ("demo-general", "demo-structures"):
                    continue
                X = features if expert is None else features.select(expert)
                clf.fit(X[train], mine, groups=patients.iloc[train])
                auc, loss = scores(truth, clf.predict_proba(X[test]))
                rows.append((number, seed, name, auc, loss))
        raw = np.hstack([block.embeddings for block in features.blocks])
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
        probe = OneVsRestClassifier(probe).fit(raw[train], mine.to_numpy())
        rows.append((number, 0, "raw probe", *scores(truth, probe.predict_proba(raw[test]))))
        guess = np.tile(mine.to_numpy().mean(0), (len(test), 1))
        rows.append((number, 0, "prevalences", 0.5, scores(truth, guess)[1]))
        first, last = published(features, Y[:, kept], train)
        own = mine.to_numpy().mean(0)
        floor = -(own * np.log(own) + (1 - own) * np.log(1 - own)).mean()
        print(f"split {number}: published way, training loss {first:.2f} -> {last:.2f}", end="")
        print(f"; predicting the prevalences {floor:.3f}")
    table = pd.DataFrame(rows, columns=["split", "seed", "arm", "auroc", "loss"])
    by_split = table.groupby(["arm", "split"])[["auroc", "loss"]].mean()
    found = by_split.groupby("arm").agg(["mean", "std"]).round(4)
    found["spread over seeds"] = table.groupby(["arm", "split"])["auroc"].std().groupby("arm").max()
    print(found.to_string())


if __name__ == "__main__":
    main()
