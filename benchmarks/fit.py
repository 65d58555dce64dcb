"""Time of the default fit against scikit-learn's LogisticRegression, as a ratio in one run.

Features are correlated as CLIP's are: similarities of anisotropic embeddings (eigenvalues falling
as a power law, a strong common direction) to concept vectors of the same cloud; seven classes as
unbalanced as HAM10000's. Both sides see the same rows and are scored on the same held-out rows.

    python -m benchmarks.fit --rows 8000 --concepts 350 --repeats 3 --threads 2
"""

import argparse
import json
import platform
import time

import numpy as np
import sklearn
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from skmoecbm import ExpertFeatures, GatedConceptBottleneckClassifier

CLASS_SHARES = np.array([0.67, 0.11, 0.11, 0.05, 0.033, 0.0142, 0.0115])


def make_data(n_rows, n_concepts, *, width=512, signal=0.35, noise=0.5, seed=0):
    """Return features of two experts and labels.

    Both experts see the same content, each with noise and axes of its own. Variances along the
    axes fall as 1 / i**2, so that, as under CLIP, one eigenvalue of the similarities' correlations
    holds most of their variance; classes differ along the leading directions only.
    """
    rng = np.random.default_rng(seed)
    shares = CLASS_SHARES / CLASS_SHARES.sum()
    y = rng.choice(len(shares), size=n_rows, p=shares)
    spread = np.arange(1, width + 1) ** -1.0
    centres = signal * rng.standard_normal((len(shares), width)) * spread
    centres[:, 0] = centres[:, 64:] = 0.0
    content = rng.standard_normal((n_rows, width)) * spread + centres[y]
    experts = {}
    for name in ("generalist", "specialist"):
        rotation, _ = np.linalg.qr(rng.standard_normal((width, width)))
        common = 3.0 * np.sqrt((spread**2).sum()) * rotation[:, -1]
        images = content + noise * rng.standard_normal((n_rows, width)) * spread
        images = images @ rotation.T + common
        texts = rng.standard_normal((n_concepts, width)) * spread @ rotation.T + 0.3 * common
        names = [f"concept {j}" for j in range(n_concepts)]
        experts[name] = (images.astype(np.float32), texts.astype(np.float32), names)
    return ExpertFeatures.from_embeddings(experts), y


def timed_fit(model, X, y):
    """Return seconds and the fitted model."""
    start = time.perf_counter()
    model.fit(X, y)
    return time.perf_counter() - start, model


def main():
    """Print one JSON object with the times, the ratio and the accuracies."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=8000)
    parser.add_argument("--concepts", type=int, default=350)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--signal", type=float, default=0.35)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    n_test = 4000
    X, y = make_data(options.rows + n_test, options.concepts, signal=options.signal)
    train, test = np.arange(options.rows), np.arange(options.rows, options.rows + n_test)
    arms = {
        "gated": (GatedConceptBottleneckClassifier, X),
        "logistic (default)": (
            lambda: make_pipeline(StandardScaler(), LogisticRegression()),
            np.asarray(X, dtype=np.float64),
        ),
        "logistic (converged)": (
            lambda: make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
            np.asarray(X, dtype=np.float64),
        ),
        "logistic (raw cosines)": (
            lambda: LogisticRegression(max_iter=1000),
            np.asarray(X, dtype=np.float64),
        ),
    }
    times, accuracy = {name: [] for name in arms}, {}
    with threadpool_limits(options.threads):
        for _ in range(options.repeats):
            for name, (make, features) in arms.items():
                seconds, model = timed_fit(make(), features[train], y[train])
                times[name].append(seconds)
                accuracy[name] = float(model.score(features[test], y[test]))
                if name == "gated":
                    chosen = {"alpha": model.alpha_, "selected": model.selected_}
    best = {name: min(seconds) for name, seconds in times.items()}
    result = {
        "rows": options.rows,
        "concepts": f"2 x {options.concepts}",
        "seconds, best": best,
        "seconds, all": times,
        "ratio": {name: best["gated"] / best[name] for name in arms if name != "gated"},
        "held-out accuracy": accuracy,
        "chosen": chosen,
        "threads": options.threads,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "scikit-learn": sklearn.__version__,
        },
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
