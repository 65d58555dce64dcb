"""The demo: the whole way from images to explanations on what the package brings with it."""

import sys
import time

import numpy as np

from skmoecbm._cli_notes import without_notices
from skmoecbm._command_model import tell_concepts
from skmoecbm._commands import note
from skmoecbm._model_folder import refuse_other_files
from skmoecbm._outputs import draw_explanations, output_path, picture_paths
from skmoecbm.exceptions import InputError

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


def _check_folder(out, overwrite):
    """Raise `InputError` where the demo would take the place of something."""
    if not out.exists() or not any(out.iterdir()):
        return
    pictures = {path.name for path in picture_paths("explained.png", N_EXPLAINED)}
    drawings = {f"{number + 1}.png" for number in range(N_EXPLAINED)}
    found = {path.name for path in out.iterdir()} - {*pictures, "images", "model"}
    if (out / "images").is_dir():
        found |= {f"images/{path.name}" for path in (out / "images").iterdir()} - {
            f"images/{name}" for name in drawings
        }
    if found:
        raise InputError(
            f"The folder --out '{out}' holds files that are not of a demo ({min(found)!r}). Give a "
            "new folder with --out, so that nothing else is lost."
        )
    refuse_other_files(out / "model")
    if not overwrite:
        raise InputError(
            f"--out '{out}' holds a demo already. Add --overwrite to replace it, or give another "
            "--out."
        )


def _tell_gate(chosen, features, y, held_out, held_out_y, *, seed):
    """Return what the gate does on held-out images; `chosen` is the guarded mixture.

    Where the guard kept something simpler, the linear gate is fitted once more without it, to show
    what was turned down.
    """
    from skmoecbm._evaluate import evaluate
    from skmoecbm.classifier import GatedConceptBottleneckClassifier

    lines, gate = [], chosen
    if chosen.selected_ != "linear":
        losses = chosen.oof_log_loss_
        why = chosen.fallback_ or (
            f"out of fold the learned gate has a log-loss of {losses['linear']:.4f}, "
            f"{chosen.selected_!r} of {losses[chosen.selected_]:.4f}, and that is no gain of more "
            "than twice its standard error"
        )
        kept = "uniform weights, every expert counting the same for every image,"
        if chosen.selected_ != "uniform":
            kept = f"the simpler {chosen.selected_!r}"
        lines.append(f"The guard kept {kept} because {why}.")
        gate = GatedConceptBottleneckClassifier(guard=False, random_state=seed).fit(features, y)
        score = evaluate(gate, held_out, held_out_y, n_bootstrap=0)["macro_auroc"].value
        lines.append(f"The gate that it turned down (guard=False; macro-AUROC {score:.3f}) gives")
    else:
        lines.append("The guard kept the learned gate. It gives")
    weights = gate.gate_weights(held_out)
    width = max(map(len, gate.expert_names_))
    for name, column in zip(gate.expert_names_, weights.T, strict=True):
        low, middle, high = np.quantile(column, [0.05, 0.5, 0.95])
        lines.append(
            f"  {name:<{width}}  a weight of {middle:.2f} at the median image, from {low:.2f} to "
            f"{high:.2f} for nine images in ten"
        )
    lines.append(
        "See it on your own images with 'skmoecbm fit --no-guard'; 'skmoecbm predict' writes the "
        "weights of each image."
    )
    return "\n".join(lines)


def demo(args):
    """Run the demo of the command line."""
    out = output_path(args.out, folder=True)
    _check_folder(out, args.overwrite)
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
    with without_notices():  # told below, with the result
        features = experts.fit_transform(data.images[train])
        held_out = experts.transform(data.images[test])
    note(tell_concepts(experts, concepts))

    note("Fitting each expert alone, their plain average and the gated mixture")
    arms = fit_arms(features, data.target[train], seed=args.seed)
    results = compare_arms(arms, held_out, data.target[test], seed=args.seed)
    print(f"\n{args.n_test:,} held-out drawings, 7 classes, with 95 % intervals:\n")
    print(_table(results))
    gain = results[GATE].difference(results[AVERAGE], "macro_auroc")
    print(
        f"\ngated mixture minus plain average, macro-AUROC: {gain.value:+.4f} "
        f"[{gain.low:+.4f}, {gain.high:+.4f}]; the guard chose: {arms[GATE][0].selected_}\n"
    )
    labels = data.target[train], data.target[test]
    print(_tell_gate(arms[GATE][0], features, labels[0], held_out, labels[1], seed=args.seed))
    print(f"\nnote: {experts.experts_[0][1].notice_}\n")

    for _, encoder in experts.experts_:
        encoder.set_params(verbose=0)
    model = Pipeline([("experts", experts), ("classifier", arms[GATE][0])])
    chosen = _first_of_each_class(data.target[test], N_EXPLAINED)
    (out / "images").mkdir(parents=True, exist_ok=True)
    drawings = [out / "images" / f"{number + 1}.png" for number in range(len(chosen))]
    for path, image in zip(drawings, data.images[test][chosen], strict=True):
        Image.fromarray(image).save(path)
    explanation = explain(model, drawings)
    pictures = picture_paths(out / "explained.png", len(chosen))
    draw_explanations(explanation, pictures)
    truths = data.target[test][chosen]
    for row, (drawing, picture, truth) in enumerate(zip(drawings, pictures, truths, strict=True)):
        probability = explanation.probabilities[row].max()
        print(
            f"{picture}: {drawing.name}, drawn as {truth}, predicted "
            f"{explanation.predicted[row]} ({probability:.2f})"
        )

    save(model, out / "model")
    seconds = time.perf_counter() - start
    print(f"\nThe fitted model is in {out / 'model'}, the four drawings in {out / 'images'}. Try:")
    print(f"  skmoecbm predict {out / 'model'} {out / 'images'}")
    print(f"  skmoecbm explain {out / 'model'} {drawings[0]} --out why.png")
    print(f"\n{seconds:.0f} s in all.")
    sys.stdout.flush()
