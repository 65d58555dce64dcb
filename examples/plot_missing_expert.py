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
# Who speaks
# ----------
# How much each expert speaks, with all three and without the report.
figure, axes = pyplot.subplots(1, 2, figsize=(8, 3), sharey=True)
for ax, rows, title in zip(axes, (table[200:], silent), ("all", "no report"), strict=True):
    weights = classifier.expert_weights(model[:-1].transform(rows))
    ax.bar(classifier.expert_names_, weights.mean(axis=0))
    ax.set(title=title, ylabel="mean share in the decision")
figure.tight_layout()
figure.savefig("missing_expert.png")
