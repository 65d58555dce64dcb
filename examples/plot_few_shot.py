"""How many images does it take, and when does a gate pay
======================================================

From one image per class to fifty: each expert alone, their plain average, and the gated mixture.
Once on drawn lesions, of which both experts see the same; once on digits cut in halves, of which
one is covered by noise.
"""

# %%
# Two tasks
# ---------
# For digits the two "experts" are the pixels of the left and of the right half. Which half is
# covered changes from image to image: nobody says it, a good gate has to see it.

import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.metrics import balanced_accuracy_score

from skmoecbm import (
    ConceptBottleneckClassifier,
    ConceptEncoder,
    ExpertFeatures,
    ExpertUnion,
    GatedConceptBottleneckClassifier,
)
from skmoecbm.datasets import make_lesions
from skmoecbm.exceptions import SkmoecbmWarning

lesions = make_lesions(900, random_state=0)
encoders = [(name, ConceptEncoder(name, "lesions")) for name in ("demo-general", "demo-structures")]

digits, rng = load_digits(), np.random.default_rng(0)
images = digits.images / 16.0
left_is_covered = rng.random(len(images)) < 0.5
left, right = images[:, :, :4], images[:, :, 4:]
noise = rng.uniform(size=left.shape)
left = np.where(left_is_covered[:, None, None], noise, left)
right = np.where(left_is_covered[:, None, None], right, noise)
pixels = [f"pixel {j}" for j in range(32)]
halves = {
    "left half": (left.reshape(-1, 32), pixels),
    "right half": (right.reshape(-1, 32), pixels),
}

tasks = {
    "drawn lesions": (ExpertUnion(encoders).fit_transform(lesions.images), lesions.target, "class"),
    "half-covered digits": (ExpertFeatures.from_similarities(halves), digits.target, None),
}

# %%
# Several draws of each size
# --------------------------
# Which images one happens to have matters much when they are few, so each number of shots is drawn
# anew several times, and all models learn from the same draw.

warnings.simplefilter("ignore", SkmoecbmWarning)  # with one image per class there are no folds
SHOTS, DRAWS = (1, 4, 16, 50), 4
scores = {}
for task, (features, y, prior) in tasks.items():
    head = ConceptBottleneckClassifier(prior=prior, random_state=0)
    both = list(features.expert_names)
    arms = {name: (head, [name]) for name in both}
    for name, gate in {"plain average": "uniform", "gated mixture": "linear"}.items():
        arms[name] = (GatedConceptBottleneckClassifier(head, gate, random_state=0), both)
    found = scores[task] = {arm: np.zeros((len(SHOTS), DRAWS)) for arm in arms}
    pool, test = np.arange(500), np.arange(500, len(y))
    for s, shots in enumerate(SHOTS):
        for draw in range(DRAWS):
            order = np.random.default_rng([shots, draw]).permutation(pool)
            rows = np.concatenate([order[y[order] == c][:shots] for c in np.unique(y)])
            for arm, (model, of) in arms.items():
                fitted = clone(model).fit(features[rows].select(of), y[rows])
                told = fitted.predict(features[test].select(of))
                found[arm][s, draw] = balanced_accuracy_score(y[test], told)
    print(f"{task}, {', '.join(map(str, SHOTS))} images per class:")
    for arm, values in found.items():
        print(f"  {arm:16s} balanced accuracy {np.round(values.mean(axis=1), 2)}")

# %%
# The curves
# ----------
# Bands are one standard deviation over draws. The gate is kept only where held-out folds show that
# it pays; with few images, or where it does not pay, the mixture is the plain average.

figure, axes = plt.subplots(1, 2, figsize=(10, 4.5), sharey=True, layout="constrained")
for ax, (task, found) in zip(axes, scores.items(), strict=True):
    for arm, values in found.items():
        mean, deviation = values.mean(axis=1), values.std(axis=1)
        style = "--" if arm == "plain average" else "-"
        order = 3 if arm == "plain average" else 2  # in front, so that both show where they agree
        (line,) = ax.plot(SHOTS, mean, style, marker="o", label=arm, zorder=order)
        ax.fill_between(SHOTS, mean - deviation, mean + deviation, alpha=0.15, fc=line.get_color())
    ax.set_xscale("log", base=2)
    ax.set_xticks(SHOTS, SHOTS)
    ax.set(title=task, xlabel="images per class")
    ax.legend(loc="lower right")
axes[0].set_ylabel("balanced accuracy on other images")
figure.savefig("few_shot.png", dpi=120)
