"""The demo: the whole way from images to explanations on what the package brings with it."""

import sys
import time

import numpy as np

from skmoecbm._commands import note
from skmoecbm._outputs import draw_explanations, output_path

__all__ = ["compare_arms", "demo", "fit_arms"]

EXPERTS = ("demo-general", "demo-structures")
AVERAGE, GATE = "plain average", "gated mixture"
N_EXPLAINED = 4


def fit_arms(features, y, *, seed=0):
    """Fit each expert alone, their plain average and the gated mixture.

    Parameters
    ----------
    features : ExpertFeatures of shape (n, sum of m_e)
    y : array-like of shape (n,)
        Class labels.
    seed : int, default=0

    Returns
    -------
    dict of str to (fitted classifier, names of its experts)
    """
    from skmoecbm.classifier import (
        ConceptBottleneckClassifier,
        GatedConceptBottleneckClassifier,
    )

    names = list(features.expert_names)
    arms = {
        f"{name} alone": (ConceptBottleneckClassifier(random_state=seed), [name]) for name in names
    }
    arms[AVERAGE] = (GatedConceptBottleneckClassifier(gate="uniform", random_state=seed), names)
    arms[GATE] = (GatedConceptBottleneckClassifier(random_state=seed), names)
    return {
        arm: (classifier.fit(features.select(experts), y), experts)
        for arm, (classifier, experts) in arms.items()
    }


def compare_arms(arms, features, y, *, seed=0):
    """Evaluate fitted arms on the same held-out rows and the same resamples.

    Parameters
    ----------
    arms : dict
        What `fit_arms` returned.
    features : ExpertFeatures of shape (n, sum of m_e)
    y : array-like of shape (n,)
    seed : int, default=0

    Returns
    -------
    dict of str to Evaluation
    """
    from skmoecbm._evaluate import evaluate

    return {
        arm: evaluate(classifier, features.select(experts), y, random_state=seed)
        for arm, (classifier, experts) in arms.items()
    }


def _table(results):
    width = max(map(len, results))
    columns = {"balanced_accuracy": "balanced accuracy", "macro_auroc": "macro-AUROC"}
    lines = [" " * width + "".join(f"  {title:<22}" for title in columns.values()).rstrip()]
    for arm, result in results.items():
        cells = [
            f"  {result[key].value:.3f} [{result[key].low:.3f}, {result[key].high:.3f}]"
            for key in columns
        ]
        lines.append(f"{arm:<{width}}" + "".join(f"{cell:<24}" for cell in cells).rstrip())
    return "\n".join(lines)


def _first_of_each_class(y, limit):
    """Return the first row of each class in `y`, at most `limit` rows: chosen by no result."""
    _, rows = np.unique(y, return_index=True)
    return np.sort(rows)[:limit]


def demo(args):
    """Run the demo of the command line."""
    out = output_path(args.out, folder=True)
    start = time.perf_counter()

    from PIL import Image
    from sklearn.pipeline import Pipeline

    from skmoecbm.concepts import load_concepts
    from skmoecbm.datasets import make_lesions
    from skmoecbm.encoder import ConceptEncoder, ExpertUnion
    from skmoecbm.explanation import explain
    from skmoecbm.hub import save

    note(f"Drawing {args.n_train:,} lesions to learn from and {args.n_test:,} to be tested on")
    data = make_lesions(args.n_train + args.n_test, random_state=args.seed)
    train, test = slice(None, args.n_train), slice(args.n_train, None)

    concepts = load_concepts("lesions")
    # In memory: drawings that are made anew each time have no place in the user's cache.
    experts = ExpertUnion(
        [(name, ConceptEncoder(name, concepts, cache_dir=None, verbose=1)) for name in EXPERTS]
    )
    features = experts.fit_transform(data.images[train])
    held_out = experts.transform(data.images[test])

    note("Fitting each expert alone, their plain average and the gated mixture")
    arms = fit_arms(features, data.target[train], seed=args.seed)
    results = compare_arms(arms, held_out, data.target[test], seed=args.seed)
    print(f"\n{args.n_test:,} held-out drawings, 7 classes, with 95 % intervals:\n")
    print(_table(results))
    gain = results[GATE].difference(results[AVERAGE], "macro_auroc")
    print(
        f"\ngated mixture minus plain average, macro-AUROC: {gain.value:+.4f} "
        f"[{gain.low:+.4f}, {gain.high:+.4f}]; the guard chose: {arms[GATE][0].selected_}"
    )
    if arms[GATE][0].selected_ == "uniform":
        print("No gate was clearly better than the plain average here, so the average was kept.")
    print(f"note: {experts.experts_[0][1].notice_}\n")

    model = Pipeline([("experts", experts), ("classifier", arms[GATE][0])])
    chosen = _first_of_each_class(data.target[test], N_EXPLAINED)
    images, truths = data.images[test][chosen], data.target[test][chosen]
    explanation = explain(model, images)
    pictures = draw_explanations(explanation, out / "explained.png")
    for row, (picture, truth) in enumerate(zip(pictures, truths, strict=True)):
        probability = explanation.probabilities[row].max()
        print(
            f"{picture}: drawn as {truth}, predicted {explanation.predicted[row]} "
            f"({probability:.2f})"
        )

    (out / "images").mkdir(exist_ok=True)
    paths = [out / "images" / f"{number}.png" for number in range(1, len(chosen) + 1)]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    save(model, out / "model")
    seconds = time.perf_counter() - start
    print(f"\nThe fitted model is in {out / 'model'}, the four drawings in {out / 'images'}. Try:")
    print(f"  skmoecbm predict {out / 'model'} {out / 'images'}")
    print(f"  skmoecbm explain {out / 'model'} {paths[0]} --out why.png")
    print(f"\n{seconds:.0f} s in all.")
    sys.stdout.flush()
