"""An image, a report and an age, and what happens where one of them is missing
============================================================================

Three experts look at each row of a table: an image-text model at the drawing, another at the
caption, a logistic regression at the age. Ages here are drawn at random and tell nothing.
"""

# %%
# A table
# -------
# Captions tell two things of what is drawn.

import numpy as np
import pandas as pd
from matplotlib import pyplot
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline

from skmoecbm import ConceptEncoder, ExpertUnion, GatedConceptBottleneckClassifier
from skmoecbm.datasets import make_lesions

lesions = make_lesions(300, random_state=0)
table = pd.DataFrame({"image": pd.Series(list(lesions.images), dtype=object)})
table["report"] = [", ".join(caption.split(", ")[:2]) for caption in lesions.captions]
table["age"] = np.random.default_rng(0).normal(55, 15, len(table))

# %%
# Three experts
# -------------
# Each expert gets its columns; the age has a head of its own.
union = ExpertUnion(
    [
        ("photo", ConceptEncoder("demo-structures", "lesions", on_error="missing"), "image"),
        ("report", ConceptEncoder("demo-general", "lesions", modality="text"), "report"),
        ("age", "passthrough", ["age"]),
    ]
)
heads = [("photo", "photo"), ("report", "report"), ("age", LogisticRegression(), "age")]
model = make_pipeline(union, GatedConceptBottleneckClassifier(experts=heads, random_state=0))
model.fit(table[:200], lesions.target[:200])
classifier = model[-1]
told = balanced_accuracy_score(lesions.target[200:], model.predict(table[200:]))
print(f"kept: {classifier.selected_}, balanced accuracy {told:.2f}")

# %%
# Without a report
# ----------------
# A report that was never written: the others share its weight, exactly as in the model without it.
silent = table[200:].copy()
silent["report"] = None
without = classifier.without("report")
same = without.predict_proba(model[:-1].transform(table[200:]))
print(f"largest difference: {np.abs(model.predict_proba(silent) - same).max():.1e}")

# %%
# Who speaks, and what it costs to be without
# -------------------------------------------
# Left: how much each expert speaks, with all three and without the report; bars of a row sum to
# one. Right: how good the decisions are where an expert is missing for all rows. A share is no
# merit: the age speaks too, and nothing is lost without it.
figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
names = classifier.expert_names_
colors = dict(zip(names, ("tab:blue", "tab:orange", "tab:gray"), strict=True))
for row, one in {"no report": silent, "all": table[200:]}.items():
    weights = classifier.expert_weights(model[:-1].transform(one)).mean(axis=0)
    starts = np.cumsum(weights) - weights
    for name, weight, start in zip(names, weights, starts, strict=True):
        left.barh(row, weight, left=start, color=colors[name])
        if weight > 0:
            left.text(start + weight / 2, row, f"{name}\n{weight:.0%}", ha="center", va="center")
left.set(xlim=(0, 1), xlabel="mean share in the decision")

features = model[:-1].transform(table[200:])
costs = {"nothing is missing": told}
for name in names:
    guess = classifier.without(name).predict(features)
    costs[f"no {name}"] = balanced_accuracy_score(lesions.target[200:], guess)
bars = right.barh(list(costs)[::-1], list(costs.values())[::-1], color="tab:green")
right.bar_label(bars, fmt="%.2f", padding=3)
right.axvline(1 / 7, color="k", linestyle="--", linewidth=1)
right.set(xlim=(0, 1), xlabel="balanced accuracy (dashed: chance)")
figure.savefig("missing_expert.png", dpi=120)
