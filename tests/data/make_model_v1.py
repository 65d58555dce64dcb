"""Write the stored models of format version 1 and what they predict; run once, never again.

A later format has its own script and folders: these models must go on loading.

`model_v1`: a pipeline of two demo experts and a mixture, edited and calibrated for sets.
`model_v1_labels`: rows of several labels, with tuned thresholds.
"""

import json
from pathlib import Path

import numpy as np
from sklearn.pipeline import Pipeline

from skmoecbm import (
    ConceptBank,
    ConceptBottleneckClassifier,
    ConceptEncoder,
    ExpertUnion,
    GatedConceptBottleneckClassifier,
    LinearGate,
    calibrate_sets,
    edit,
    load_concepts,
    save,
    tune_thresholds,
)
from skmoecbm.concepts import TopKConcepts
from skmoecbm.datasets import make_lesions

HERE = Path(__file__).parent


def main():
    """Fit both models and write folders and predictions."""
    write_pipeline()
    write_labels()


def small_bank():
    """Return a few concepts of three classes."""
    bank, known = load_concepts("lesions"), {"bcc", "mel", "nv"}
    return ConceptBank(
        name="stored",
        classes=[c for c in bank.classes if c.key in known],
        concepts=[
            c.model_copy(update={"classes": tuple(k for k in c.classes if k in known)})
            for c in bank.concepts
            if known & set(c.classes)
        ],
        templates=["{}", "a photo of {}"],
    )


def write_pipeline():
    """Fit on drawings, edit, calibrate, save."""
    data = make_lesions(260, random_state=1)
    images, y = list(data.images), np.asarray(data.target)
    kept = np.flatnonzero(np.isin(y, ["bcc-like", "mel-like", "nv-like"]))
    images, y = [images[i] for i in kept], y[kept]
    bank = small_bank()
    union = ExpertUnion(
        [
            ("general", ConceptEncoder("demo-general", bank, select=TopKConcepts(3))),
            ("structures", ConceptEncoder("demo-structures", bank, resize="squash")),
        ]
    )
    mixture = GatedConceptBottleneckClassifier(
        ConceptBottleneckClassifier(alpha=1.0),
        LinearGate(penalty=0.5),
        guard=False,
        random_state=0,
        target_prevalence={"mel-like": 0.1},
    )
    half = len(y) // 2
    model = Pipeline([("experts", union), ("classifier", mixture)])
    weights = np.linspace(0.5, 1.5, half)
    groups = np.arange(half) // 2
    model.fit(
        images[:half],
        y[:half],
        classifier__sample_weight=weights,
        classifier__groups=groups,
    )
    first = model[-1].concept_names_[0][0]
    model = edit(model, forbid=first, refit=(images[:half], y[:half]))
    model = calibrate_sets(model, images[half:], y[half:], class_conditional=True)
    save(model, HERE / "model_v1", label_map={"M": "mel-like"})
    features = model[:-1].transform(images[:5])
    classifier = model[-1]
    reference = {
        "embeddings": {
            block.name: np.asarray(block.embeddings).tolist() for block in features.blocks
        },
        "probabilities": classifier.predict_proba(features).tolist(),
        "predictions": classifier.predict(features).tolist(),
        "gate_weights": classifier.gate_weights(features).tolist(),
        "sets": classifier.predict_set(features, 0.8).tolist(),
    }
    write(reference, "model_v1_predictions.json")


def write_labels():
    """Fit one expert on rows of several labels, tune thresholds, save."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(150, 4))
    Y = (X[:, :3] + 0.5 * rng.normal(size=(150, 3)) > [0.0, 0.5, 1.0]).astype(int)
    model = ConceptBottleneckClassifier(alpha=1.0).fit(X, Y)
    model = tune_thresholds(model, X, Y)
    save(model, HERE / "model_v1_labels")
    reference = {
        "rows": X[:5].tolist(),
        "probabilities": model.predict_proba(X[:5]).tolist(),
        "predictions": model.predict(X[:5]).tolist(),
    }
    write(reference, "model_v1_labels_predictions.json")


def write(reference, name):
    """Write what a model predicts."""
    (HERE / name).write_text(json.dumps(reference, indent=1) + "\n")


if __name__ == "__main__":
    main()
