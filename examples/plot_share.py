"""A model in a folder that somebody else can trust
================================================

A fitted model becomes three small files and comes back bit by bit the same. Its card says what it
is, what it was measured to do and on what, and which words carry its classes.
"""

# %%
# A model and its numbers
# -----------------------
# The numbers of a card are measured, with the data they were measured on.

from pathlib import Path

import numpy as np
from sklearn.pipeline import make_pipeline

import skmoecbm
from skmoecbm import CardDetails, ConceptEncoder, ExpertUnion, GatedConceptBottleneckClassifier
from skmoecbm.datasets import make_lesions

lesions = make_lesions(400, random_state=0)
images, y = lesions.images, lesions.target
experts = [(name, ConceptEncoder(name, "lesions")) for name in ("demo-general", "demo-structures")]
model = make_pipeline(ExpertUnion(experts), GatedConceptBottleneckClassifier(random_state=0))
model.fit(images[:300], y[:300])
found = skmoecbm.evaluate(model, images[300:], y[300:], random_state=0)
value, low, high = found["balanced_accuracy"]
print(f"balanced accuracy {value:.2f} [{low:.2f}, {high:.2f}]")

# %%
# Save
# ----
# JSON, arrays, a card, and a picture for each expert since it is asked for.
metrics = skmoecbm.ReportedMetrics(
    found, dataset="drawn lesions", split="test", group_disjoint=True
)
details = CardDetails(
    title="Drawn lesions in words",
    license="bsd-3-clause",
    intended_use="To show what a saved model holds.",
    pictures=True,
)
folder = Path("lesions-in-words")
skmoecbm.save(model, folder, metrics=metrics, card=details)
for file in sorted(folder.iterdir()):
    print(f"{file.stat().st_size / 1000:7.1f} kB  {file.name}")

# %%
# Load
# ----
# Nothing in these files can run, and every number is the same.
again = skmoecbm.load(folder)
print("same:", np.array_equal(again.predict_proba(images[300:]), model.predict_proba(images[300:])))
print("learned from:", again[-1].training_summary_["rows_per_class"])

# %%
# The card
# --------
# On the Hugging Face Hub it is the page of the model: `skmoecbm.push_to_hub(model, "user/repo")`.
card = (folder / "README.md").read_text(encoding="utf-8")
print(card[card.index("# Drawn") :][:1500])
(folder / "concept-weights-1.png").replace("share.png")
