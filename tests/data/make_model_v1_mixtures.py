"""Write the stored mixtures of format version 1 and what they predict; run once, never again.

A later format has its own script and folders: these models must go on loading.

`model_v1_sparse`: four blocks of columns, one of them a time series and one left out by `without`,
a router for each with noise, and sets. `model_v1_cross`: tokens of images and texts.
"""

import json
from pathlib import Path

import numpy as np

from skmoecbm import calibrate_sets, save
from skmoecbm.moe import (
    Balancing,
    CrossModalMoEClassifier,
    MiniBatches,
    MultiTimeAttention,
    SparseMoEClassifier,
    TokenFeatures,
    pack_series,
)

HERE = Path(__file__).parent
CLASSES = np.array(["bcc", "mel", "nv"])


def main():
    """Fit both models and write folders and predictions."""
    write_sparse()
    write_cross()


def write_sparse():
    """Fit on columns, leave a block out, calibrate, save."""
    rng = np.random.default_rng(0)
    n, columns = (
        240,
        {"image": slice(0, 4), "site": slice(4, 6), "age": [6], "vitals": slice(7, 22)},
    )
    parts = rng.standard_normal((n, 7))
    y = np.where(parts[:, 6] > 0.4, 2, parts[:, 0] * parts[:, 1] > 0)  # no sum tells bcc from mel
    series = [
        (np.sort(rng.uniform(0, 9, 3)), rng.standard_normal((3, 2)) + 0.5 * label) for label in y
    ]
    parts[:, 4] += y
    X = np.hstack([parts, pack_series(series, n_slots=3)])
    for name, own in columns.items():
        if name != "image":
            gone = np.flatnonzero(rng.random(n) < 0.2)
            X[gone, own if isinstance(own, slice) else own[0]] = np.nan
    model = SparseMoEClassifier(
        n_experts=3,
        top_k=2,
        expert_hidden=6,
        router="per_modality",
        gating="laplace",
        noise=True,
        modalities=columns,
        time_series={"vitals": MultiTimeAttention(3, n_frequencies=2, n_variables=2)},
        balancing=Balancing(z_loss=0.01, modality_entropy=0.01),
        training=MiniBatches(max_epochs=40, batch_size=16, learning_rate=0.02),
        class_weight={"bcc": 2.0, "mel": 1.0, "nv": 1.0},
        target_prevalence={"bcc": 0.2, "mel": 0.2, "nv": 0.6},
        random_state=0,
    )
    groups = np.arange(160) // 2
    model.fit(X[:160], CLASSES[y[:160]], groups=groups)
    model = calibrate_sets(model.without("age"), X[160:230], CLASSES[y[160:230]])
    save(model, HERE / "model_v1_sparse")
    rows = X[230:]
    reference = {
        "rows": [[None if np.isnan(value) else value for value in row] for row in rows.tolist()],
        "probabilities": model.predict_proba(rows).tolist(),
        "predictions": model.predict(rows).tolist(),
        "weights": model.routing_weights(rows).tolist(),
        "sets": model.predict_set(rows, 0.9).tolist(),
    }
    write(reference, "model_v1_sparse_predictions.json")


def write_cross():
    """Fit on tokens of which some rows lack a stream, save."""
    rng = np.random.default_rng(1)
    y = rng.integers(0, 3, 150)
    centres = rng.standard_normal((2, 3, 5))
    streams = {
        "image": [rng.standard_normal((5, 5)) + centres[0, label] for label in y],
        "text": [
            rng.standard_normal((2 + i % 3, 4)) + centres[1, label, :4] for i, label in enumerate(y)
        ],
    }
    for i in range(0, len(y), 5):
        streams["text" if i % 2 else "image"][i] = None
    model = CrossModalMoEClassifier(
        n_experts=3,
        expert_hidden=6,
        width=6,
        gating="gaussian",
        pooling="cls",
        attention_rate=0.5,
        training=MiniBatches(max_epochs=30, batch_size=32),
        random_state=0,
    )
    model.fit(features_of(streams, slice(0, 140)), CLASSES[y[:140]])
    save(model, HERE / "model_v1_cross")
    rows = features_of(streams, slice(140, None))
    reference = {
        "tokens": {
            name: [None if one is None else one.tolist() for one in own[140:]]
            for name, own in streams.items()
        },
        "probabilities": model.predict_proba(rows).tolist(),
        "predictions": model.predict(rows).tolist(),
        "weights": model.routing_weights(rows).tolist(),
        "stream_weights": model.stream_weights(rows).tolist(),
        "image_alone": model.without("text").predict_proba(rows[1:5]).tolist(),
    }
    write(reference, "model_v1_cross_predictions.json")


def features_of(streams, some):
    """Return the tokens of some rows."""
    return TokenFeatures({name: own[some] for name, own in streams.items()})


def write(reference, name):
    """Write what a model predicts."""
    (HERE / name).write_text(json.dumps(reference, indent=1) + "\n")


if __name__ == "__main__":
    main()
