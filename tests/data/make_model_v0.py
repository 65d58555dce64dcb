"""Write the stored model of format version 0 and what it predicts; run once, never again.

A later format has its own script and folder: this model must go on loading.
"""

import json
from pathlib import Path

import numpy as np

from skmoecbm import ExpertFeatures, GatedConceptBottleneckClassifier, LinearGate, save

HERE = Path(__file__).parent


def main():
    """Fit a mixture of two experts on random similarities and save it."""
    rng = np.random.default_rng(0)
    y = rng.integers(3, size=90)
    names = {"clip": ["red", "round", "large"], "bio": ["veil", "scale", "streaks", "dots"]}
    similarities = {
        name: (0.2 + 0.05 * (rng.normal(size=(90, len(c))) + rng.normal(size=(3, len(c)))[y]))
        for name, c in names.items()
    }
    features = ExpertFeatures.from_similarities(
        {name: (similarities[name], concepts) for name, concepts in names.items()},
        incidence={"clip": np.eye(3), "bio": np.eye(4, 3)},
        class_keys=["mel", "nv", "bcc"],
    )
    gate = LinearGate(penalty=0.5)
    model = GatedConceptBottleneckClassifier(gate=gate, guard=False, random_state=0)
    model.fit(features, np.array(["mel", "nv", "bcc"])[y])
    save(model, HERE / "model_v0", label_map={"M": "mel", "N": "nv", "B": "bcc"})
    rows = {name: values[:5].astype(np.float32) for name, values in similarities.items()}
    rows["bio"][4] = np.nan
    some = ExpertFeatures.from_similarities({n: (rows[n], c) for n, c in names.items()})
    reference = {
        "similarities": {name: values.tolist() for name, values in rows.items()},
        "probabilities": model.predict_proba(some).tolist(),
        "predictions": model.predict(some).tolist(),
    }
    text = json.dumps(reference, indent=1)
    (HERE / "model_v0_predictions.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
