"""Twelve settings, five folds, one call
=====================================

How strongly should associations be pulled towards the language prior, and how much of it be
believed? All settings of a fold are fitted as one stack, and the table that comes back is that of
scikit-learn's `GridSearchCV`.
"""

# %%
# The features
# ------------
# Images are embedded once; a search works on their similarities to concepts.

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.metrics import balanced_accuracy_score

from skmoecbm import (
    ConceptBottleneckClassifier,
    ConceptEncoder,
    ExpertUnion,
    GatedConceptBottleneckClassifier,
    GatedConceptBottleneckClassifierCV,
)
from skmoecbm.datasets import make_lesions

lesions = make_lesions(900, random_state=0)
experts = ExpertUnion(
    [(name, ConceptEncoder(name, "lesions")) for name in ("demo-general", "demo-structures")]
)
features, y = experts.fit_transform(lesions.images), lesions.target
train, test = np.arange(450), np.arange(450, 900)

# %%
# The search
# ----------
# What is searched must be an object: `head__alpha` is the `alpha` of the head that is given.

penalties, strengths = [0.1, 1.0, 10.0, 100.0], [0.0, 0.3, 1.0]
search = GatedConceptBottleneckClassifierCV(
    GatedConceptBottleneckClassifier(ConceptBottleneckClassifier(), random_state=0),
    {"head__alpha": penalties, "head__prior_strength": strengths},
    cv=5,
)
search.fit(features[train], y[train])
table = pd.DataFrame(search.cv_results_)
columns = ["param_head__alpha", "param_head__prior_strength", "mean_test_score", "std_test_score"]
print(table.sort_values("rank_test_score")[columns].head(5).to_string(index=False))

# %%
# How good is it
# --------------
# The best score of a search is too good, as the best of many. What counts are images that the
# search has not seen, and beside it a model that was not searched.

default = GatedConceptBottleneckClassifier(random_state=0).fit(features[train], y[train])
for name, model in {"searched": search, "default": default}.items():
    told = balanced_accuracy_score(y[test], model.predict(features[test]))
    print(f"{name:9s} balanced accuracy {told:.3f}")
print("chosen:", search.best_params_)

# %%
# The landscape
# -------------
# Log-loss of the folds by setting, with the standard error over folds. Where the penalty is small,
# the start matters little; where it is large, the associations stay near where they began.

mean = -table.pivot(
    index="param_head__alpha", columns="param_head__prior_strength", values="mean_test_score"
)
error = table.pivot(
    index="param_head__alpha", columns="param_head__prior_strength", values="std_test_score"
) / np.sqrt(search.n_splits_)
figure, axes = plt.subplots(figsize=(6, 4.5), layout="constrained")
image = axes.imshow(mean.to_numpy(dtype=float), cmap="GnBu", aspect="auto")
for (i, j), value in np.ndenumerate(mean.to_numpy(dtype=float)):
    color = "white" if image.norm(value) > 0.6 else "black"
    text = f"{value:.3f}\n± {error.iloc[i, j]:.3f}"
    axes.text(j, i, text, color=color, ha="center", va="center")
axes.set_xticks(range(len(strengths)), strengths)
axes.set_yticks(range(len(penalties)), penalties)
axes.set(xlabel="strength of the language prior", ylabel="penalty (alpha)")
figure.colorbar(image, label="log-loss of the held-out folds (lower is better)")
figure.savefig("search.png", dpi=120)
