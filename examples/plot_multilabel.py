"""Several findings in one image
=============================

Each of six structures may be in a drawing or not. One model says how likely each is, and from which
probability on it should be reported.
"""

# %%
# Labels in columns
# -----------------
# A DataFrame of 0 and 1 names the labels. These were drawn independently of each other.

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.metrics import balanced_accuracy_score

from skmoecbm import (
    ConceptBottleneckClassifier,
    ConceptEncoder,
    ExpertUnion,
    GatedConceptBottleneckClassifier,
    evaluate,
    tune_thresholds,
)
from skmoecbm.datasets import make_lesions

lesions = make_lesions(1200, mode="sparse", random_state=0)
findings = pd.DataFrame(lesions.attributes, columns=lesions.attribute_names).astype(int)
findings = findings[
    ["hair", "globules", "streaks", "blue-white veil", "pigment network", "ulceration"]
]
train, test = np.arange(800), np.arange(800, 1200)
print(findings.iloc[train].mean().round(2).to_string())

# %%
# The model
# ---------
# The bank's concepts were written for classes, which are not these labels: associations start from
# none.

experts = ExpertUnion(
    [(name, ConceptEncoder(name, "lesions")) for name in ("demo-general", "demo-structures")]
)
features = experts.fit_transform(lesions.images)
model = GatedConceptBottleneckClassifier(ConceptBottleneckClassifier(prior=None), random_state=0)
model.fit(features[train], findings.iloc[train])
print(evaluate(model, features[test], findings.iloc[test], n_bootstrap=200, random_state=0))

# %%
# From which probability on
# -------------------------
# One half is seldom reached by a rare finding. Thresholds are chosen on folds of the training
# images.

tuned = tune_thresholds(model, features[train], findings.iloc[train], criterion="youden")
for name, one in {"from 0.5 on": model, "tuned": tuned}.items():
    told = one.predict(features[test])
    score = np.mean(
        [
            balanced_accuracy_score(findings.iloc[test, k], told[:, k])
            for k in range(findings.shape[1])
        ]
    )
    print(f"{name:12s} mean balanced accuracy {score:.3f}")

# %%
# What is seen
# ------------
# For each finding the probabilities of images that have it and of those that do not, and its
# threshold.

probability = tuned.predict_proba(features[test])
figure, axes = plt.subplots(2, 3, figsize=(9, 5), sharex=True, layout="constrained")
edges = np.linspace(0, 1, 21)
for k, (ax, name) in enumerate(zip(axes.flat, findings.columns, strict=True)):
    there = findings.iloc[test, k].to_numpy() == 1
    for rows, label in ((~there, "absent"), (there, "present")):
        ax.hist(probability[rows, k], edges, density=True, alpha=0.6, label=label)
    ax.axvline(tuned.thresholds_[k], color="k", linestyle="--", linewidth=1)
    ax.set_title(name)
axes[0, 0].legend()
figure.supxlabel("predicted probability (dashed: threshold)")
figure.supylabel("density of test images")
figure.savefig("multilabel.png", dpi=120)
