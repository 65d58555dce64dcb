"""What an image means depends on the site: a sparse mixture of small networks
===========================================================================

On drawings, a sign is alarming at one site of the body and not at another. A sum of what the image
and the site say cannot know that; a mixture that sends each row to two of eight small networks can.
The rule is made up, to have something to find.
"""

# %%
# Rows of an image and a site
# ---------------------------
# Similarities to 25 concepts, and a one-hot site, which nobody noted for every tenth row.

import numpy as np
from matplotlib import pyplot
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skmoecbm import ConceptEncoder, ExpertUsageDisplay
from skmoecbm.datasets import make_lesions
from skmoecbm.moe import SparseMoEClassifier

lesions = make_lesions(1200, random_state=0)
encoder = ConceptEncoder("demo-structures", "lesions")
image = np.asarray(encoder.fit_transform(lesions.images), dtype=float)

signs = {"face": "dotted vessels", "trunk": "pigment network", "foot": "globules"}
rng = np.random.default_rng(0)
site = rng.choice(list(signs), size=len(image))
columns = [lesions.attribute_names.index(signs[name]) for name in site]
y = np.where(lesions.attributes[np.arange(len(site)), columns], "alarming", "harmless")

person = (site[:, None] == list(signs)).astype(float)
person[rng.random(len(person)) < 0.1] = np.nan
X = np.hstack([image, person])
train, test = np.arange(800), np.arange(800, 1200)

# %%
# A sum, and a mixture
# --------------------
# A row whose site is missing is decided by the image alone.
mixture = SparseMoEClassifier(
    modalities={"image": slice(0, image.shape[1]), "site": slice(image.shape[1], None)},
    expert_hidden=32,
    class_weight="balanced",
    random_state=0,
)
mixture.fit(X[train], y[train])
told = balanced_accuracy_score(y[test], mixture.predict(X[test]))

filled = np.nan_to_num(X, nan=1 / 3)
line = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))
line.fit(filled[train], y[train])
summed = balanced_accuracy_score(y[test], line.predict(filled[test]))
print(f"balanced accuracy: a sum {summed:.2f}, the mixture {told:.2f}")

# %%
# Who was asked
# -------------
# Routing by class comes with what chance would make of it: without that, no heat map says a thing.
explanation = mixture.explain(X[test])
summary = explanation.summary(y[test], n_bootstrap=200, random_state=0)
print(summary)

figure, axes = pyplot.subplots(1, 2, figsize=(13, 4), gridspec_kw={"width_ratios": [3, 2]})
ExpertUsageDisplay.from_explanation(summary, ax=axes[0])

# %%
# What a missing part costs
# -------------------------
table = summary.modalities
low, high = table["loss_increase"] - table["low"], table["high"] - table["loss_increase"]
axes[1].barh(table["modality"], table["loss_increase"], xerr=[low, high], color="tab:gray")
axes[1].axvline(0, color="black", linewidth=0.8)
axes[1].set_xlabel("more log-loss without it")
axes[1].set_title("What each part is worth")
figure.tight_layout()
figure.savefig("sparse_mixture.png", dpi=110)
