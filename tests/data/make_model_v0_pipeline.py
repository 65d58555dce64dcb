"""Write a pipeline of format version 0, encoders and all; run once with the code of then.

A later format has its own script and folders: this model must go on loading.
"""

import json
from pathlib import Path

import numpy as np
from sklearn.pipeline import Pipeline

from skmoecbm import (
    ConceptBottleneckClassifier,
    ConceptEncoder,
    ExpertUnion,
    GatedConceptBottleneckClassifier,
    save,
)
from skmoecbm.datasets import make_lesions

HERE = Path(__file__).parent


def main():
    """Fit on drawings, save, and write what it makes of five embeddings."""
    data = make_lesions(90, random_state=2)
    images, y = list(data.images), np.where(np.isin(data.target, ["nv-like"]), "nv", "other")
    general = {"nv": ["dark brown color", "red color"], "other": ["black color", "large size"]}
    structures = {"nv": ["globules", "pigment network"], "other": ["streaks", "scale"]}
    union = ExpertUnion(
        [
            ("general", ConceptEncoder("demo-general", general, templates=["{}", "some {}"])),
            ("structures", ConceptEncoder("demo-structures", structures, resize="pad")),
        ]
    )
    head = ConceptBottleneckClassifier(alpha=1.0)
    model = Pipeline([("experts", union), ("say", GatedConceptBottleneckClassifier(head))])
    model.fit(images, y)
    save(model, HERE / "model_v0_pipeline")
    features = model[:-1].transform(images[:5])
    reference = {
        "embeddings": {
            block.name: np.asarray(block.embeddings).tolist() for block in features.blocks
        },
        "probabilities": model[-1].predict_proba(features).tolist(),
        "predictions": model[-1].predict(features).tolist(),
        "gate_weights": model[-1].gate_weights(features).tolist(),
    }
    text = json.dumps(reference, indent=1)
    (HERE / "model_v0_pipeline_predictions.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
